"""Who works on an OUT in an object store: an object that is made only if there is none (a conditional PUT), and kept warm.
A file does the same on a file system without locks.

Its owner writes it anew every few seconds. Whoever finds it takes it over where the owner's process is gone (same machine) or
it stays unchanged for some time (another machine). Stores without such a write give a warning: then it is up to the user.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manifests.files import atomic_write, create, read_bytes, remove
from manifests.object_store import UnreachableError, warn_once
from manifests.records import InputError
from tgprep.extract.workers.shards import ShardError

BEAT_SECONDS = 10.0
_BEATS_MISSED = 3.5  # so many without a sign, and the owner counts as gone


class Lease:
    """A claim that this process holds; `check` says when somebody else took it."""

    def __init__(self, url: str, facts: dict[str, Any]) -> None:
        self.url = url
        self.facts = facts
        self.lost = False
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()

    def check(self) -> None:
        """ShardError where the claim is no longer ours: another machine took this process for dead."""
        if self.lost:
            raise ShardError(
                f"{self.url} was taken over by another run while this one did not answer. Only one of them may go on"
            )

    def release(self) -> None:
        """Let others have it."""
        self.ended.set()
        self.thread.join(timeout=BEAT_SECONDS)
        if not self.lost:
            with contextlib.suppress(UnreachableError, InputError):
                remove(self.url)

    def _beat(self) -> None:
        while not self.ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError, InputError):  # the next beat may get through
                if _read(self.url).get("token") != self.facts["token"]:
                    self.lost = True
                    return
                self.facts["beats"] += 1
                _write(self.url, self.facts)


@contextlib.contextmanager
def claimed(url: str, what: str, *, wait: bool = False) -> Iterator[Lease]:
    """Hold the claim for the block. InputError naming the owner where somebody else has it, unless `wait`."""
    claim = take(url, what, wait=wait)
    try:
        yield claim
    finally:
        claim.release()


def take(url: str, what: str, *, wait: bool = False) -> Lease:
    """Make the claim, or take it over from an owner that is gone. what: what is claimed, for the message."""
    facts = {
        "owner": f"process {os.getpid()} on {socket.gethostname()}",
        "token": uuid.uuid4().hex,
        "machine": _machine(),
        "process": os.getpid(),
        "started": _started(os.getpid()),
        "beats": 0,
    }
    while True:
        try:
            create(url, json.dumps(facts).encode())
        except NotImplementedError:
            warn_once(
                url, f"{url} cannot be claimed: this store has no conditional write. Start one run at a time on it"
            )
            _write(url, facts)
        there = _read(url)
        if there.get("token") == facts["token"]:
            return Lease(url, facts)
        if there and is_alive(url, there):
            if not wait:
                owner = there.get("owner", "an unknown process")
                raise InputError(f"{what} is in use by {owner}. Wait for it, or end it and run this command again.")
            time.sleep(0.5)
        elif there and _read(url).get("token") == there.get("token"):
            remove(url)


def is_alive(url: str, there: dict[str, Any]) -> bool:
    """Whether the owner of a claim still works: by its process on this machine, by its sign of life on another."""
    if there.get("machine") == _machine():
        return there.get("started") == _started(int(there.get("process", -1)))
    end = time.monotonic() + _BEATS_MISSED * BEAT_SECONDS
    while time.monotonic() < end:
        time.sleep(min(1.0, BEAT_SECONDS / 4))
        if _read(url) != there:
            return True
    return False


def read_claim(url: str) -> dict[str, Any]:
    """What a claim says of its owner; empty where there is none."""
    return _read(url)


def _read(url: str) -> dict[str, Any]:
    try:
        content = read_bytes(url)
    except FileNotFoundError:
        return {}
    try:
        facts = json.loads(content)
    except ValueError:
        facts = None
    return facts if isinstance(facts, dict) and facts else {"owner": f"somebody who left {content[:40]!r}"}


def _write(url: str, facts: dict[str, Any]) -> None:
    with atomic_write(url) as file:
        file.write(json.dumps(facts).encode())


def _machine() -> str:
    """Names this machine, or the container on it, whose process numbers mean something to us."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return " ".join(parts)


def _started(process: int) -> str:
    """When a process started, in the kernel's ticks; "" where there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
