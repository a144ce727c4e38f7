"""File locks: one process at a time holds a lock file, and the lock ends with the process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from manifests.records import InputError


def hold(lock: TextIO, out: Path, what: str = "", *, shared: bool = False) -> bool:
    """Lock an opened lock file or turn a shared lock into one's own; InputError, naming the owner, where it is taken.

    False: this file system has no locks (some network shares).
    """
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip() or "an unknown process"
        raise InputError(
            f"{what or out} is in use by {owner}. Wait for it, or end it and run this command again."
        ) from None
    except OSError:
        return False
    with contextlib.suppress(OSError):  # a full disk: the name of the owner is a courtesy
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
    return True
