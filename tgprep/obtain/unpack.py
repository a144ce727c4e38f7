"""Archives unpacked without trust: no member leaves the folder, no links, nothing under its final name before all is there."""

from __future__ import annotations

import errno
import re
import shutil
import stat
import subprocess
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from manifests.manifest_io import TEMPORARY_PREFIX
from manifests.records import InputError

_RAR_PROGRAMS = ("unar", "bsdtar")


def unpack(archive: Path, target: Path, *, nested: bool = False) -> int:
    """Unpack a .zip, .tar.gz or .rar into the folder `target` and give the number of files.

    nested: archives inside (HMDB51: one .rar a class) are unpacked too, in their place. Files that are there already are replaced.
    InputError where a member would leave the folder, is a link, the archive is damaged, or no program reads .rar.
    """
    target.mkdir(parents=True, exist_ok=True)
    with _scratch(target) as scratch:
        _unpack_one(archive, scratch)
        if nested:
            for inner in sorted(scratch.rglob("*.rar")):
                _unpack_one(inner, inner.parent)
                inner.unlink()
        files = [path for path in sorted(scratch.rglob("*")) if path.is_file()]
        for path in files:
            place = target / path.relative_to(scratch)
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
            except OSError as error:
                raise InputError(f"{place}: cannot be written ({error.strerror}). Move away what is there.") from None
    return len(files)


def safe_name(name: str) -> tuple[str, ...]:
    """The parts of a member's name; InputError where it is absolute, climbs (`..`), or could not be a path here."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    absolute = name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name)
    if absolute or ".." in parts or any("\0" in part for part in parts):
        raise InputError(
            f"the archive holds {name!r}, which leaves the folder it is unpacked in: it is not to be trusted"
        )
    return tuple(parts)


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    scratch = target / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unpack_one(archive: Path, folder: Path) -> None:
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as pack:
                for entry in pack.infolist():
                    if stat.S_ISLNK(entry.external_attr >> 16):
                        raise InputError(f"the archive holds a link, {entry.filename!r}: it is not to be trusted")
                    if not entry.is_dir():
                        with pack.open(entry) as content:
                            _write(folder, entry.filename, content)
        elif archive.name.endswith((".tar.gz", ".tgz", ".tar")):
            with tarfile.open(archive) as pack:
                for member in pack:
                    if not (member.isreg() or member.isdir()):
                        raise InputError(
                            f"the archive holds {member.name!r}, which is no plain file: it is not to be trusted"
                        )
                    if (packed := pack.extractfile(member)) is not None:
                        _write(folder, member.name, packed)
        else:
            _unpack_rar(archive, folder)
    except InputError as error:
        raise InputError(f"{archive}: {error}.") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise InputError(
                f"{archive}: cannot be unpacked to {folder} ({error.strerror}). Make room, and go on."
            ) from None
        raise InputError(f"{archive} cannot be unpacked ({error}). Remove it, and download it again.") from None


def _write(folder: Path, name: str, content: IO[bytes]) -> None:
    parts = safe_name(name)
    if parts:
        place = folder.joinpath(*parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as file:
            shutil.copyfileobj(content, file, 1024 * 1024)


def _unpack_rar(archive: Path, folder: Path) -> None:
    """By `unar` or `bsdtar`, into a folder of its own; what they made is looked at before it is moved."""
    program = next((name for name in _RAR_PROGRAMS if shutil.which(name)), None)
    if program is None:
        raise InputError(
            "no program here reads .rar. Install one of unar or bsdtar (Debian: apt-get install unar, or libarchive-tools; macOS: "
            "brew install unar) and run the same command again, nothing is downloaded twice"
        )
    with _scratch(folder) as scratch:
        if program == "unar":
            command = [
                "unar",
                "-quiet",
                "-no-directory",
                "-force-overwrite",
                "-output-directory",
                str(scratch),
                str(archive),
            ]
        else:
            command = ["bsdtar", "-x", "-f", str(archive), "-C", str(scratch)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
        if done.returncode:
            told = (done.stderr or done.stdout).strip().splitlines()
            raise InputError(
                f"{program} cannot unpack it ({told[-1][:300] if told else f'exit code {done.returncode}'})"
            )
        if not any(scratch.iterdir()):  # unar takes a file that is damaged from its beginning for an empty archive
            raise InputError(f"{program} finds nothing in it: remove it, and download it again")
        for path in scratch.rglob("*"):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise InputError(f"the archive holds {path.name!r}, which is no plain file: it is not to be trusted")
        for path in sorted(scratch.rglob("*")):
            if path.is_file():
                place = folder / path.relative_to(scratch)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
