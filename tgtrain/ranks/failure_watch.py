"""What the processes of a run tell each other beside their collectives: that one has failed, that one was asked to stop.

A process that waits for the others in a collective hears nothing of one that has left it: it would wait for the timeout of
the process group. So every process has a thread that looks into the store of the group, which works at any time.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch.distributed.distributed_c10d import PrefixStore, Store

from manifests.object_store import UnreachableError, explained
from manifests.records import InputError

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 2.0  # for this process to fail by itself, with its own message
_HEARD_SECONDS = 10.0  # that a failing process waits for the others to have heard of it
_STOP, _FAILED, _HEARD = "stop", "failed", "heard"


@dataclass(frozen=True, slots=True)
class Failure:
    """Which process failed, what it said, and its exit code."""

    rank: int
    text: str
    code: int


class Watch:
    """The thread of one process; see the module. should_stop: whether this process was asked to stop.

    store: of the process group; its server is in rank 0, or in torchrun.
    """

    def __init__(self, store: Store, rank: int, world_size: int, should_stop: Callable[[], bool]) -> None:
        self.store = PrefixStore("tgtrain", store)
        self.rank, self.world_size, self.should_stop = rank, world_size, should_stop
        self.stop_seen = False
        self.failing = False
        self.other: Failure | None = None
        self.ending = self.confirmed = False
        self.lock = threading.Lock()
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self.thread.start()

    def asked_to_stop(self) -> bool:
        """Whether some process was asked to stop, as far as it is known here (within a second)."""
        return self.stop_seen or self.should_stop()

    def fail(self, error: BaseException) -> Failure | None:
        """Tell the others that this process ends with an error; the one that runs the store waits until they have heard.

        Returns the failure of another process that came before this one, where there was one.
        """
        self.failing = True
        text, code = _told(error)
        try:
            mine = json.dumps({"rank": self.rank, "text": text, "code": code})
            first = Failure(**json.loads(self.store.compare_set(_FAILED, "", mine)))
            heard = self._heard()
            until = time.monotonic() + _HEARD_SECONDS
            while self.rank == 0 and heard < self.world_size and time.monotonic() < until:
                time.sleep(0.05)
                heard = self._heard()
        except RuntimeError:
            return self.other  # the store is gone, and with it the process that runs it: the others see that
        return first if first.rank != self.rank else None

    def close(self) -> None:
        """End the thread."""
        self.closed.set()
        self.thread.join()

    def _look(self) -> None:
        told = False
        while not self.closed.wait(_POLL_SECONDS):
            try:
                if not told and self.should_stop():
                    self.store.set(_STOP, "1")
                    told = True
                self.stop_seen = self.stop_seen or self.store.check([_STOP])
                if self.store.check([_FAILED]):
                    # Known here before it is confirmed: then the process that failed may end, and with it the store.
                    self.other = Failure(**json.loads(self.store.get(_FAILED)))
                    self._heard()
            except RuntimeError:
                if self.ending:
                    return
                self.other = self.other or Failure(0, "it has ended, and nothing is heard of it any more.", 1)
            if self.other is not None:
                self._leave(self.other)
                return

    def _heard(self) -> int:
        """Confirm, once, that this process knows of a failure (its own, too); how many do."""
        with self.lock:
            first, self.confirmed = not self.confirmed, True
        return self.store.add(_HEARD, int(first))

    def _leave(self, failure: Failure) -> None:
        """End this process, which may be waiting in a collective that will never be whole."""
        until = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < until:
            if self.failing or self.closed.wait(0.05):
                return
        if self.rank == 0 or failure.rank == 0:
            print(f"Error: process {failure.rank} of {self.world_size}: {failure.text}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(failure.code)


def _told(error: BaseException) -> tuple[str, int]:
    """What a process that ends with this error says, and its exit code: those of the command line."""
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, OSError) and error.filename is not None:
        return explained(error), 1 if isinstance(error, UnreachableError) else 2
    if type(error).__name__ == "RunError":
        return str(error), 1
    return repr(error), 130 if isinstance(error, KeyboardInterrupt) else 1
