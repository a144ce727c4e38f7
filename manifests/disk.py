"""Writing to local disks: files that are whole or not there, folders that one process holds, and what to say if a disk refuses."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from manifests.locks import lock_file, try_lock
from manifests.object_store import UnreachableError
from manifests.records import InputError

TEMPORARY_PREFIX = ".tmp-"
LOCK_NAME = ".tgprep-lock"
_MAX_NAME_BYTES = 255 - len(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-")
_AGAIN = "run the same command again"
# What a user can do about errors that come from the disk and not from a wrong path.
_ADVICE = {
    errno.ENOSPC: f"Make room, and {_AGAIN}.",
    errno.EDQUOT: f"Make room within the quota, and {_AGAIN}.",
    errno.EIO: f"Look at the disk and at the messages of the system (dmesg), then {_AGAIN}.",
    errno.EFBIG: f"Raise the limit of file sizes (ulimit -f) or use another disk, and {_AGAIN}.",
    errno.EMFILE: f"Raise the limit of open files (ulimit -n), and {_AGAIN}.",
    errno.ENFILE: f"The system has too many open files: end other programs, and {_AGAIN}.",
    errno.EROFS: "Name another place.",
    errno.ENAMETOOLONG: "Give a shorter name.",
}


def explained(error: OSError, place: object = None) -> str:
    """Format a message for the user about a store that does not answer, or a path that cannot be used.

    place: the path, if the error names none.
    """
    if error.filename is None and isinstance(first := error.__context__, OSError) and first.errno == error.errno:
        error = first  # of the write; the other one is of the close that followed
    path = error.filename or place or ""
    if isinstance(error, UnreachableError):
        return f"{path}: {error.strerror}. Run the same command again once it answers."
    advice = _ADVICE.get(error.errno or 0, "Check the path, its permissions and its disk.")
    room = f" ({_room(Path(str(path)))})" if path and error.errno == errno.ENOSPC else ""
    return f"{path or 'A file'}: {error.strerror or error}{room}. {advice}"


def is_storage_error(error: OSError) -> bool:
    """Whether a disk or a path of the user is to blame, and not this program."""
    return error.filename is not None or error.errno in _ADVICE


def _room(path: Path) -> str:
    """What the disk of `path` has left."""
    try:
        found = os.statvfs(next(place for place in (path, *path.absolute().parents) if place.exists()))
    except OSError:
        return "the free space is unknown"
    if found.f_files and not found.f_favail:
        return "no file can be added, the inodes of this disk are used up"
    return f"{found.f_bavail * found.f_frsize / 1e6:.1f} MB are free"


@contextlib.contextmanager
def naming(path: object) -> Iterator[None]:
    """Let each OSError of the block name this path: a temporary name, or none, is of no use to the user."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        if error.filename2 is not None:
            error.filename2 = None
        raise


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name once it is complete: temporary name, fsync, rename, fsync of the folder.

    On an exception nothing is written and the temporary file is removed. What a kill leaves is removed by the next process that
    writes this file. OSError names `path`.
    """
    remove_unfinished(path)
    file = _create(path)
    try:
        with file:
            yield file
            with naming(path):
                file.flush()
                os.fsync(file.fileno())
                publish(Path(file.name), path)
    finally:
        Path(file.name).unlink(missing_ok=True)


class _NamedFile(io.FileIO):
    """A new file under a temporary name, whose errors name the file that it becomes."""

    def __init__(self, temporary: Path, path: Path) -> None:
        self.path = path
        with naming(path):
            super().__init__(temporary, "xb")

    def write(self, data: Any, /) -> int | None:  # type: ignore[override]
        with naming(self.path):
            return super().write(data)


def _create(path: Path) -> BinaryIO:
    """A new temporary file for `path`. It is locked: `remove_unfinished` of other processes leaves it alone."""
    while True:
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{_short(path.name)}")
        file = io.BufferedWriter(_NamedFile(temporary, path))
        if try_lock(file.fileno()) is not False and os.fstat(file.fileno()).st_nlink:
            return cast(BinaryIO, file)
        file.close()  # another process has taken it for a leftover before it was locked


def _short(name: str) -> str:
    """The name of a file, or its digest if a prefix would make it too long."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= _MAX_NAME_BYTES else hashlib.sha256(encoded).hexdigest()


def remove_unfinished(path: Path) -> None:
    """Remove what processes that were killed while they wrote this file have left: the lock of a living writer protects its file."""
    form = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}[0-9a-f]{{32}}-{re.escape(_short(path.name))}")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in [entry.path for entry in entries if form.fullmatch(entry.name)]:
            with contextlib.suppress(OSError), open(entry, "rb") as file:  # noqa: PTH123
                if try_lock(file.fileno()):
                    Path(entry).unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Give a complete, synced file its final name, so that it survives a power cut."""
    with naming(path):
        temporary.replace(path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_disk(folder: Path) -> None:
    """Make all that was written to the disk of a folder survive a power cut: faster than fsync of thousands of small files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "syncfs"):  # not Linux
            os.sync()
        elif libc.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder with its parents; if the block fails, those that were made are removed again unless they hold something."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for place in missing:
                place.rmdir()
        raise


@contextlib.contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Make a folder to write to, and hold it for this process. InputError, which names the owner, if another process has it."""
    with made_folder(folder), lock_file(folder / LOCK_NAME, str(folder)):
        try:
            yield
        finally:
            (folder / LOCK_NAME).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files and folders that killed processes left in a folder. It must be held by this process."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def require_room(folder: Path, num_bytes: int) -> None:
    """InputError if the disk of a folder has less room than is to be written."""
    free_bytes = shutil.disk_usage(folder).free
    if num_bytes > free_bytes:
        raise InputError(
            f"{folder}: {num_bytes / 1e6:.1f} MB are to be written, {free_bytes / 1e6:.1f} MB are free. "
            "Make room, or name another folder."
        )


def path_inside(folder: Path, name: str, origin: str) -> Path:
    """The path of `name` (with / between folders) in a folder to write to. origin: where the name comes from, for the message.

    InputError if it is no plain path below the folder, or a link leads out of it.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part or len(os.fsencode(part)) > 255 for part in parts):
        shown = name if len(name) <= 100 else f"{name[:100]}…"
        raise InputError(f"{origin}: {shown!r} cannot be the name of a file below {folder}.")
    path = folder.joinpath(*parts)
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{path.parent} is a link that leads out of {folder}. Remove the link, or name another folder."
        )
    return path
