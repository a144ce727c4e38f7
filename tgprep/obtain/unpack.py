"""Unpack archives without trusting them: no member leaves the folder, no links, no file under its name before all are there."""

from __future__ import annotations

import errno
import re
import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from manifests.files import TEMPORARY_PREFIX
from manifests.records import InputError


def unpack(archive: Path, target: Path, *, nested: bool = False) -> int:
    """Unpack a .zip, .tar.gz or .rar into the folder `target` and return the number of files. Existing files are replaced.

    nested: unpack the archives inside too, each in its folder (HMDB51: one .rar per class).
    Raises InputError if a member would leave the folder or is a link, the archive is damaged, or no program reads .rar.
    """
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=target, ignore_cleanup_errors=True) as temporary:
        scratch = Path(temporary)
        _unpack_one(archive, scratch)
        if nested:
            for inner in sorted(scratch.rglob("*.rar")):
                _unpack_one(inner, inner.parent)
                inner.unlink()
        return _move_files(scratch, target)


def safe_name(name: str) -> tuple[str, ...]:
    """The parts of a member's name; InputError if it is absolute, climbs (`..`), or cannot be a path here."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    absolute = name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name)
    if absolute or ".." in parts or any("\0" in part for part in parts):
        raise InputError(f"the archive holds {name!r}, which leaves the folder it is unpacked in: do not trust it")
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


def _unpack_one(archive: Path, folder: Path) -> None:
    try:
        if archive.suffix == ".rar":
            _unpack_rar(archive, folder)
            return
        for name, content in _members(archive):
            if content is None:
                raise InputError(f"the archive holds {name!r}, which is a link or no plain file: do not trust it")
            with content:
                if parts := safe_name(name):
                    place = folder.joinpath(*parts)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with place.open("wb") as file:
                        shutil.copyfileobj(content, file, 1024 * 1024)
    except InputError as error:
        raise InputError(f"{archive}: {error}.") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            reason = f"cannot be unpacked to {folder} ({error.strerror}). Make room, and run the same command again."
            raise InputError(f"{archive}: {reason}") from None
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
        with tarfile.open(archive) as tar_file:
            for member in tar_file:
                if not member.isdir():
                    yield member.name, tar_file.extractfile(member) if member.isreg() else None


def _unpack_rar(archive: Path, folder: Path) -> None:
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
        command = [program, *options[program]]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            reason = lines[-1][:300] if lines else f"exit code {done.returncode}"
            raise InputError(f"{program} cannot unpack it ({reason})")
        # unar takes a file that is damaged from its beginning for an empty archive.
        members = list(Path(scratch).rglob("*"))
        if not members:
            raise InputError(f"{program} finds nothing in it: remove it, and download it again")
        for path in members:
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise InputError(f"the archive holds {path.name!r}, which is a link or no plain file: do not trust it")
        _move_files(Path(scratch), folder)
