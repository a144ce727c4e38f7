"""Leases on an OUT in an object store (or on a file system without locks): an object that only one process can create.

The owner rewrites it every few seconds. Another process takes it over if the owner's process has ended (same machine) or the
object stays unchanged for some time (another machine).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manifests.files import atomic_write, create, parse_json, read_bytes, remove
from manifests.machine import process_started
from manifests.object_store import UnreachableError, warn_once
from manifests.records import InputError
from tgprep.extract.workers.shards import ShardError, StoppedError

BEAT_SECONDS = 10.0
_MAX_BYTES = 65_536
_BEATS_MISSED = 3.5  # missed beats after which the owner counts as gone


class Lease:
    """A lease that this process holds."""

    def __init__(self, url: str, facts: dict[str, Any]) -> None:
        self.url = url
        self.facts = facts
        self.lost = False
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()

    def check(self) -> None:
        """Raise ShardError if another machine took the lease over because this process seemed dead."""
        if self.lost:
            raise ShardError(
                f"{self.url} was taken over by another run while this one did not answer. Only one of them may continue"
            )

    def release(self) -> None:
        """End the lease, so that others can take it."""
        self.ended.set()
        self.thread.join(timeout=BEAT_SECONDS)
        if not self.lost:
            with contextlib.suppress(UnreachableError, InputError):
                remove(self.url)

    def _beat(self) -> None:
        while not self.ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError, InputError):  # the next beat may get through
                if read_lease(self.url).get("token") != self.facts["token"]:
                    self.lost = True
                    return
                self.facts["beats"] += 1
                _write(self.url, self.facts)


@contextlib.contextmanager
def hold_lease(url: str, what: str, *, wait: threading.Event | None = None) -> Iterator[Lease]:
    """Hold the lease for the block; see `take_lease`."""
    lease = take_lease(url, what, wait=wait)
    try:
        yield lease
    finally:
        lease.release()


def take_lease(url: str, what: str, *, wait: threading.Event | None = None) -> Lease:
    """Create the lease, or take it over from an owner that is gone. what: what it protects, for the message.

    InputError naming the owner if another process has it; with `wait`, StoppedError once that event is set.
    """
    facts = {
        "owner": f"process {os.getpid()} on {socket.gethostname()}",
        "token": uuid.uuid4().hex,
        "machine": _machine(),
        "process": os.getpid(),
        "started": process_started(os.getpid()),
        "beats": 0,
    }
    while True:
        try:
            create(url, json.dumps(facts).encode())
        except NotImplementedError:
            warn_once(
                url, f"{url} cannot be protected: this store has no conditional write. Start one run at a time on it"
            )
            _write(url, facts)
        current = read_lease(url)
        if current.get("token") == facts["token"]:
            return Lease(url, facts)
        if current and is_alive(url, current):
            if wait is None:
                owner = str(current.get("owner", "an unknown process"))
                raise InputError(
                    f"{what} is in use by {owner[:200]}. Wait for it, or end it and run this command again."
                )
            if wait.wait(0.5):
                raise StoppedError
        # Its owner is gone. Read again: another process may have taken it over meanwhile.
        elif current and read_lease(url).get("token") == current.get("token"):
            remove(url)


def is_alive(url: str, facts: dict[str, Any]) -> bool:
    """Whether the owner of a lease still works: on this machine by its process, on another by its beats."""
    if facts.get("machine") == _machine():
        process = facts.get("process")
        if not isinstance(process, int) or not 0 < process < 2**31:
            return False
        return facts.get("started") == process_started(process)
    end = time.monotonic() + _BEATS_MISSED * BEAT_SECONDS
    while time.monotonic() < end:
        time.sleep(min(1.0, BEAT_SECONDS / 4))
        if read_lease(url) != facts:
            return True
    return False


def read_lease(url: str) -> dict[str, Any]:
    """The facts in a lease about its owner; empty if there is none."""
    try:
        content = read_bytes(url, _MAX_BYTES)
    except FileNotFoundError:
        return {}
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        content = b""
    try:
        facts = parse_json(content)
    except ValueError:
        facts = None
    return facts if isinstance(facts, dict) and facts else {"owner": f"an unknown process that left {content[:40]!r}"}


def _write(url: str, facts: dict[str, Any]) -> None:
    with atomic_write(url) as file:
        file.write(json.dumps(facts).encode())


def _machine() -> str:
    """A name of the machine or container within which process numbers are comparable."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return " ".join(parts)
