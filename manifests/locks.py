"""File locks (flock): the kernel releases them when their process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import socket
import time
from collections.abc import Callable
from typing import TextIO

from manifests.records import InputError


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


def hold_lock(
    file: TextIO, what: str, *, shared: bool = False, advice: str = "end it and run this command again"
) -> bool:
    """Lock an open lock file and write this process's name into it. InputError, which names the owner, if it is taken.

    Returns False if the file system has no locks.
    """
    if not (locked := try_lock(file, shared=shared)):
        if locked is None:
            return False
        file.seek(0)
        owner = file.read().strip() or "an unknown process"
        raise InputError(f"{what} is in use by {owner}. Wait for it, or {advice}.")
    with contextlib.suppress(OSError):  # a full disk: the owner's name is a courtesy
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    return True
