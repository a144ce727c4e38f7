"""File locks (flock): the kernel releases them when their process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from manifests.records import InputError

_ADVICE = "end it and run this command again"


def try_lock(file: TextIO | int, *, shared: bool = False, required: bool = False) -> bool | None:
    """Lock an open file, or turn its lock into the other kind, without waiting.

    Returns True if it is locked, False if another process holds it, None if the file system has no locks (some network
    shares). Raises OSError in that last case if `required`.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        if required:
            raise
        return None
    return True


def wait_for_lock(
    file: TextIO | int, *, timeout_seconds: float = math.inf, give_up: Callable[[], bool] | None = None
) -> bool:
    """Block until this process holds the lock, `give_up()` is true or the time is over.

    Returns False if it is not locked. Raises OSError if the file system has no locks.
    """
    if math.isinf(timeout_seconds) and give_up is None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return True
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if try_lock(file, required=True):
            return True
        time.sleep(0.05)
        if give_up is not None and give_up():
            return False
    return False


@contextlib.contextmanager
def lock_file(
    path: Path, what: str, *, shared: bool = False, advice: str = _ADVICE, wait_seconds: float = 0.0
) -> Iterator[TextIO | None]:
    """Hold a lock file, which is made (with its folder) if it is not there. None if the file system has no locks.

    Other processes may remove it while they hold it. InputError, which names the owner, if another process has it, after
    `wait_seconds`. A link in its place is refused, because it would lead to a file of somebody else.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+", encoding="utf-8", opener=_open_no_link)  # noqa: SIM115 - closed below
        except FileNotFoundError:
            if time.monotonic() >= deadline + 1:
                raise
            continue  # its last owner has just removed the folder
        try:
            held = hold_lock(file, what, shared=shared, advice=advice)
            # Between opening and locking, its last owner may have removed it.
            if not held or _is_at(file, path):
                break
        except InputError:
            if time.monotonic() >= deadline:
                file.close()
                raise
            time.sleep(0.05)
        file.close()
    with file:
        yield file if held else None


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def hold_lock(file: TextIO, what: str, *, shared: bool = False, advice: str = _ADVICE) -> bool:
    """Lock an open lock file and write this process's name into it. InputError, which names the owner, if it is taken.

    Returns False if the file system has no locks.
    """
    if not (locked := try_lock(file, shared=shared)):
        if locked is None:
            return False
        raise InputError(f"{what} is in use by {_owner(file)}. Wait for it, or {advice}.")
    with contextlib.suppress(OSError):  # a full disk: the owner's name is a courtesy
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
    return True


def _owner(file: TextIO) -> str:
    for pause_seconds in (0.0, 0.2):  # it may be about to write its name
        time.sleep(pause_seconds)
        if owner := os.pread(file.fileno(), 200, 0).decode(errors="replace").strip():
            return owner
    return "an unknown process"
