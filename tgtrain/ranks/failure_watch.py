"""Messages between the ranks of a run besides their collectives: that one has failed, that one was asked to stop.

A rank that waits in a collective does not notice that another one has ended: it would wait for the timeout of the process
group. So every rank has a thread that polls the store of the group, which works at any time.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from torch.distributed.distributed_c10d import PrefixStore, Store

from manifests.console import say
from manifests.disk import explained, is_storage_error
from manifests.object_store import UnreachableError
from manifests.records import InputError
from tgtrain.errors import RunError

_POLL_SECONDS = 0.5
_SILENT_SECONDS = 6.0  # after which a rank that was asked to stop does not wait for a silent one
_GRACE_SECONDS = 2.0  # for a rank to fail by itself, with its own message, after another one has failed
_CONFIRM_SECONDS = 10.0  # that a failing rank 0, which runs the store, waits for the others to have read of the failure
_STOP, _FAILED, _CONFIRMED = "stop", "failed", "confirmed"


@dataclass(frozen=True, slots=True)
class Failure:
    """The rank that failed, its message, and its exit code."""

    rank: int
    text: str
    code: int


class FailureWatch:
    """The polling thread of one rank; see the module.

    store: of the process group; its server is in rank 0, or in torchrun. should_stop: whether this process was asked to stop.
    """

    def __init__(self, store: Store, rank: int, world_size: int, should_stop: Callable[[], bool]) -> None:
        self.store = PrefixStore("tgtrain", store)
        self.rank, self.world_size, self.should_stop = rank, world_size, should_stop
        self.stop_seen = False
        self.failing = False  # this rank is ending with its own error
        self.ending = False  # the run is complete: the store may go away at any time
        self.confirmed = False
        self.beats: list[int] = []  # of every rank, when this one last looked
        self.beats_at = 0.0
        self.other: Failure | None = None
        self.lock = threading.Lock()
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._poll, name="failure watch", daemon=True)
        self.thread.start()

    def stop_requested(self) -> bool:
        """Whether some rank was asked to stop, as far as it is known here (within a second)."""
        return self.stop_seen or self.should_stop()

    def fail(self, error: BaseException) -> Failure | None:
        """Report to the others that this rank ends with an error; the one that runs the store waits until they have read it.

        Returns the failure of another rank if that came first.
        """
        self.failing = True
        text, code = message_and_code(error)
        try:
            own = json.dumps(asdict(Failure(self.rank, text, code)))
            first = Failure(**json.loads(self.store.compare_set(_FAILED, "", own)))
            until = time.monotonic() + _CONFIRM_SECONDS
            while self._confirm() < self.world_size and self.rank == 0 and time.monotonic() < until:
                time.sleep(0.05)
        except RuntimeError:
            return self.other  # the store is gone with the process that runs it; the others notice that themselves
        return first if first.rank != self.rank else None

    def close(self) -> None:
        """End the thread."""
        self.closed.set()
        self.thread.join()

    def _poll(self) -> None:
        reported = False
        while not self.closed.wait(_POLL_SECONDS):
            try:
                if not reported and self.should_stop():
                    self.store.set(_STOP, "1")
                    reported = True
                self.stop_seen = self.stop_seen or self.store.check([_STOP])
                self.store.add(f"beat{self.rank}", 1)
                if self.stop_seen and not self.ending and (silent := self._silent()) is not None:
                    self.other = Failure(silent, "it does not answer, and this run was asked to stop.", 1)
                if self.store.check([_FAILED]):
                    # Read before it is confirmed: afterwards the failed rank may end, and the store with it.
                    self.other = Failure(**json.loads(self.store.get(_FAILED)))
                    self._confirm()
            except RuntimeError:
                if self.ending:
                    return
                self.other = self.other or Failure(0, "it has ended, and cannot be reached any more.", 1)
            if self.other is not None:
                self._exit(self.other)
                return

    def _silent(self) -> int | None:
        """A rank whose thread has not polled for _SILENT_SECONDS: its process hangs, or its machine is gone."""
        now = time.monotonic()
        if self.beats and now - self.beats_at < _SILENT_SECONDS:
            return None
        before, self.beats_at = self.beats, now
        self.beats = [self.store.add(f"beat{rank}", 0) for rank in range(self.world_size)]
        return next((rank for rank, beat in enumerate(before) if beat == self.beats[rank] and rank != self.rank), None)

    def _confirm(self) -> int:
        """Count this rank, once, among those that know of a failure (their own, too); returns how many do."""
        with self.lock:
            first, self.confirmed = not self.confirmed, True
        return self.store.add(_CONFIRMED, int(first))

    def _exit(self, failure: Failure) -> None:
        """End this process, which may be waiting in a collective that will never complete."""
        until = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < until:
            if self.failing or self.closed.wait(0.05):
                return
        if self.rank == 0 or failure.rank == 0:
            say(f"Error: process {failure.rank} of {self.world_size}: {failure.text}")
        leave(failure.code)


def leave(code: int) -> None:
    """End this process with what it has printed, and without the end of the interpreter."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def message_and_code(error: BaseException) -> tuple[str, int]:
    """The message and the exit code of the command line for an error that ends a process."""
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, OSError) and is_storage_error(error):
        return explained(error), 1 if isinstance(error, UnreachableError) else 2
    if isinstance(error, RunError):
        return str(error), 1
    return repr(error), 130 if isinstance(error, KeyboardInterrupt) else 1
