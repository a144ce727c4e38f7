"""Local folders for unfinished work: spools, downloaded videos, shards before their upload."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TextIO

from manifests.files import is_url
from manifests.locks import try_lock, wait_for_lock
from manifests.records import InputError
from tgprep.extract.workers.shards import Request, ShardPlan

_YOUNG_SECONDS = 3600.0  # a folder without a lock may be new


@contextlib.contextmanager
def scratch_folder(request: Request) -> Iterator[Path]:
    """A new folder in --scratch (if empty, the system's temporary folder), removed at the end.

    Folders of this OUT whose process was killed are removed first. InputError if none can be made.
    """
    root = Path(request.workers.scratch or tempfile.gettempdir())
    prefix = f"tgprep-{blake2b(str(request.out).encode(), digest_size=6).hexdigest()}-"
    try:
        for old in root.glob(f"{prefix}*"):
            _remove_if_dead(old)
        folder, lock = _new_folder(root, prefix)
    except OSError as error:
        raise InputError(
            f"--scratch {root}: cannot make a folder for unfinished work in it ({error.strerror}). Name a local "
            f"folder that exists and is writable."
        ) from None
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _new_folder(root: Path, prefix: str) -> tuple[Path, TextIO]:
    """A new folder and the file that locks it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        lock = (folder / "lock").open("w")
        with contextlib.suppress(OSError):  # without locks, the folder stays after a kill
            wait_for_lock(lock)
        # Before the lock was held, another process that starts may have taken the folder for a dead one, and removed it.
        if os.fstat(lock.fileno()).st_nlink:
            return folder, lock
        lock.close()


def refuse_small(folder: Path, request: Request, plans: Sequence[ShardPlan], num_workers: int) -> None:
    """InputError if the disk of `folder` is certainly too small: a shard is larger than its videos."""
    videos = [video for plan in plans for video in plan.videos]
    needed = 0
    if request.reads_store:
        needed += 2 * num_workers * max((video.num_source_bytes for video in videos), default=0)
    if is_url(request.out):  # a segment may be smaller than its file
        sizes = [sum(v.num_source_bytes for v in plan.videos if not v.is_segment) for plan in plans]
        needed += num_workers * max(sizes, default=0)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"--scratch {folder.parent}: {free / 1e9:.2f} GB are free, and {num_workers} workers need at least {needed / 1e9:.2f} "
            f"GB of it for videos and unfinished shards. Name another folder, or use fewer --threads or --videos-per-shard."
        )


def _remove_if_dead(folder: Path) -> None:
    with contextlib.suppress(OSError):
        try:
            lock = (folder / "lock").open("r+")
        except FileNotFoundError:
            if time.time() - folder.stat().st_mtime > _YOUNG_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
            return
        with lock:
            if try_lock(lock):
                shutil.rmtree(folder, ignore_errors=True)
