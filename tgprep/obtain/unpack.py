"""Unpack archives without trusting them.

No member leaves the folder, no links, no file under its name before all are there, and no more bytes and files than an archive of
this size may hold.
"""

from __future__ import annotations

import contextlib
import errno
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

from manifests.disk import TEMPORARY_PREFIX, explained, made_folder, remove_leftovers, sync_disk
from manifests.records import InputError

_MOST_TIMES = 200  # that the content is larger than its archive; published lists reach 30, videos 1
_SMALL_BYTES = 64 * 1024**2  # which any archive may hold
_MOST_FILES = 2_000_000
_MOST_PARTS = 64  # of the name of a member
_PIECE_BYTES = 1024 * 1024
_POLL_SECONDS = 0.2
_DAMAGE = (
    OSError, EOFError, ValueError, LookupError, RuntimeError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
    tarfile.TarError,
)  # fmt: skip  # that the libraries raise about content; RuntimeError: encrypted


class _Room:
    """What an archive, with those inside it, may still take: a small file must not fill the disk."""

    def __init__(self, archive: Path, target: Path) -> None:
        self.num_bytes = min(max(_SMALL_BYTES, _MOST_TIMES * archive.stat().st_size), shutil.disk_usage(target).free)
        self.num_files = _MOST_FILES

    def take(self, num_bytes: int, num_files: int = 1) -> None:
        self.num_bytes -= num_bytes
        self.num_files -= num_files
        if self.num_bytes < 0 or self.num_files < 0:
            raise InputError(
                f"it holds more than {_MOST_TIMES} times its size, than {_MOST_FILES} files, or than the disk has room for: make "
                "room if the disk is full, else do not trust it"
            )


def unpack(archive: Path, target: Path, *, nested: bool = False) -> int:
    """Unpack a .zip, .tar.gz or .rar into the folder `target` and return the number of files. Existing files are replaced.

    nested: unpack the archives inside too, each in its folder (HMDB51: one .rar per class).
    Raises InputError if a member would leave the folder or is a link, the archive is damaged or holds too much, or no program
    reads .rar.
    """
    with made_folder(target):
        remove_leftovers(target)
        return _unpack_beside(archive, target, nested)


def _unpack_beside(archive: Path, target: Path, nested: bool) -> int:
    """Unpack into a temporary folder in `target`, and move the files when all are there and on the disk."""
    with TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=target, ignore_cleanup_errors=True) as temporary:
        scratch, room = Path(temporary), _Room(archive, target)
        _unpack_one(archive, scratch, room)
        if nested:
            for inner in sorted(scratch.rglob("*.rar")):
                _unpack_one(inner, inner.parent, room)
                inner.unlink()
        sync_disk(scratch)
        return _move_files(scratch, target)


def safe_name(name: str) -> tuple[str, ...]:
    """The parts of a member's name; InputError if it is absolute, climbs (`..`), or cannot be a path here."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    absolute = name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name)
    if absolute or ".." in parts or any("\0" in part for part in parts):
        raise InputError(f"the archive holds {name!r}, which leaves the folder it is unpacked in: do not trust it")
    if len(parts) > _MOST_PARTS:
        raise InputError(f"the archive holds a file below {len(parts)} folders ({name[:40]!r}...): do not trust it")
    return tuple(parts)


def _move_files(source: Path, target: Path) -> int:
    """Move all files below `source` to the same places below `target`; return their number."""
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    for path in files:
        place = target / path.relative_to(source)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
        except OSError as error:
            raise InputError(f"{place}: cannot be written ({error.strerror}). Move away what is there.") from None
    return len(files)


def _unpack_one(archive: Path, folder: Path, room: _Room) -> None:
    try:
        if archive.suffix == ".rar":
            _unpack_rar(archive, folder, room)
            return
        for name, content in _members(archive):
            if content is None:
                raise InputError(f"the archive holds {name!r}, which is a link or no plain file: do not trust it")
            with content:
                if parts := safe_name(name):
                    place = folder.joinpath(*parts)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    room.take(0)
                    with place.open("wb") as file:
                        while piece := content.read(_PIECE_BYTES):
                            room.take(len(piece), 0)
                            file.write(piece)
    except InputError as error:
        raise InputError(f"{archive}: {error}.") from None
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise InputError(f"{archive} cannot be unpacked: {explained(error, folder)}") from None
        raise InputError(f"{archive} cannot be unpacked ({error}). Remove it, and download it again.") from None


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Name and content of every member of a zip or tar file but folders; None for links and other special files."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zip_file:
            for entry in zip_file.infolist():
                if not entry.is_dir():
                    is_link = stat.S_ISLNK(entry.external_attr >> 16)
                    yield entry.filename, None if is_link else zip_file.open(entry)
    else:
        with tarfile.open(archive, "r|*") as tar_file:  # forward only: a negative size leads nowhere
            for member in tar_file:
                if not member.isdir():
                    plain = member.isreg() and not member.issparse() and member.size >= 0
                    yield member.name, tar_file.extractfile(member) if plain else None
                tar_file.members = []  # type: ignore[attr-defined]  # else it keeps all that it has seen


def _unpack_rar(archive: Path, folder: Path, room: _Room) -> None:
    """Unpack with `unar` or `bsdtar` into a temporary folder, and check the result before it is moved to `folder`."""
    with TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder, ignore_cleanup_errors=True) as scratch:
        options = {
            "unar": ["-quiet", "-no-directory", "-force-overwrite", "-output-directory", scratch, str(archive)],
            "bsdtar": ["-x", "-f", str(archive), "-C", scratch],
        }
        program = next(filter(shutil.which, options), None)
        if program is None:
            raise InputError(
                "no program here reads .rar. Install one of unar or bsdtar (Debian: apt-get install unar, or libarchive-tools; macOS: "
                "brew install unar) and run the same command again, nothing is downloaded twice"
            )
        _run([program, *options[program]], Path(scratch), room)
        # unar takes a file that is damaged from its beginning for an empty archive.
        members = list(Path(scratch).rglob("*"))
        if not members:
            raise InputError(f"{program} finds nothing in it: remove it, and download it again")
        for path in members:
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise InputError(f"the archive holds {path.name!r}, which is a link or no plain file: do not trust it")
        room.take(*_held(Path(scratch)))
        _move_files(Path(scratch), folder)


def _run(command: list[str], scratch: Path, room: _Room) -> None:
    """Run a program that unpacks into `scratch`, and end it if that holds too much."""
    with TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                num_bytes, num_files = _held(scratch)
                if num_bytes > room.num_bytes or num_files > room.num_files:
                    room.take(num_bytes, num_files)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
        finally:
            process.kill()
            process.wait()
        output.seek(0, os.SEEK_END)
        output.seek(max(0, output.tell() - 1000))
        lines = output.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        reason = lines[-1][:300] if lines else f"exit code {process.returncode}"
        raise InputError(f"{command[0]} cannot unpack it ({reason})")


def _held(folder: Path) -> tuple[int, int]:
    """Bytes and entries below a folder."""
    num_bytes = num_files = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            num_bytes += path.lstat().st_size
            num_files += 1
    return num_bytes, num_files
