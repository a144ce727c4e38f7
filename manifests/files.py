"""Files in local folders and in object stores (fsspec URLs) behind the same few functions, and what can go wrong there.

An object appears under its name whole or not at all (one PUT). Calls to stores are made as `manifests.object_store` says.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from manifests.object_store import call, no_bucket
from manifests.records import InputError

_PIECE_BYTES = 4 * 1024 * 1024


Location = str | Path  # a local path, or an fsspec URL as text
TEMPORARY_PREFIX = ".tmp-"


def is_url(root: Location) -> bool:
    """Whether the place is an fsspec URL (`s3://...`) rather than a local path."""
    return "://" in str(root)


def parse_location(text: str) -> Location:
    """What a user gives for a folder: a path, `file://` included, or the URL without a slash at its end."""
    if text.startswith("file://") or text.startswith("local://"):
        return Path(text.partition("://")[2] or "/")
    return text.rstrip("/") if is_url(text) else Path(text)


def below(root: Location, *parts: str) -> Location:
    """A place below another one, of its kind."""
    return "/".join([str(root).rstrip("/"), *parts]) if is_url(root) else Path(root, *parts)


def name_of(place: Location) -> str:
    """The last part of a place."""
    return str(place).rstrip("/").rpartition("/")[2] if is_url(place) else Path(place).name


def read_bytes(place: Location) -> bytes:
    """The whole file; FileNotFoundError where there is none."""
    if not is_url(place):
        return Path(place).read_bytes()
    content: bytes = call(place, lambda files, path: files.cat_file(path))
    return content


def read_many(places: Iterable[str]) -> list[bytes]:
    """The contents of files in one folder of a store, asked for at once; in the given order."""
    asked = list(places)
    if not asked:
        return []

    def all_of(files: Any, path: str) -> list[bytes]:
        paths = [files._strip_protocol(place) for place in asked]
        found = files.cat(paths)  # one path alone may come back as bytes
        return [found] if isinstance(found, bytes) else [found[path] for path in paths]

    return call(asked[0], all_of)


@contextlib.contextmanager
def atomic_write(place: Location) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only when it is whole: temporary name, fsync, rename, fsync of the folder.

    On any exception nothing appears and the temporary file is removed. A URL gets one PUT when the block ends.
    """
    if is_url(place):
        buffer = io.BytesIO()
        yield buffer
        content = buffer.getvalue()
        call(place, lambda files, path: files.pipe_file(path, content))
        return
    path = Path(place)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{path.name}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Give a finished, synced file its final name, so that it survives a power cut."""
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def create(url: str, content: bytes) -> bool:
    """Write an object only if there is none of that name (a conditional PUT); False where there is one.

    NotImplementedError where the store offers no such write.
    """

    def put(files: Any, path: str) -> bool:
        try:
            files.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except TypeError as error:  # a file system of an older kind
            raise NotImplementedError(str(error)) from None
        except OSError as error:
            code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", "")
            if code in ("PreconditionFailed", "412"):  # as stores that are not Amazon's say it
                return False
            if error.errno == errno.ENOSYS:
                raise NotImplementedError(str(error)) from None
            raise
        return True

    return call(url, put)


def upload(file: Path, url: str) -> None:
    """Copy a local file to the store: it appears there whole, or not at all; its size there is checked."""
    call(url, lambda files, path: files.put_file(str(file), path))
    expected = file.stat().st_size
    found = file_size(url)
    if found != expected:
        raise OSError(errno.EIO, f"the store holds {found} bytes of it, {expected} were sent", url)


def download(url: str, file: Path) -> None:
    """Copy an object into a local file, in pieces; FileNotFoundError where there is none."""

    def get(files: Any, path: str) -> None:
        file.unlink(missing_ok=True)
        files.get_file(path, str(file))

    call(url, get)


def file_size(place: Location) -> int:
    """Bytes of a file; FileNotFoundError where there is none."""
    if not is_url(place):
        return Path(place).stat().st_size
    return call(place, lambda files, path: int(files.info(path)["size"]))


def exists(place: Location) -> bool:
    """Whether a file (not a folder) is there."""
    if not is_url(place):
        return Path(place).is_file()
    return call(place, lambda files, path: bool(files.isfile(path)))


def list_files(folder: Location) -> dict[str, int]:
    """Names and sizes in bytes of the files straight in a folder, sorted by name; none where there is no such folder."""
    return {name: size for name, size in list_folder(folder).items() if size >= 0}


def list_folder(folder: Location) -> dict[str, int]:
    """Names and sizes of what lies straight in a folder, sorted by name; folders have size -1."""
    if not is_url(folder):
        found = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found[entry.name] = -1 if entry.is_dir() else entry.stat().st_size
        return dict(sorted(found.items()))

    def ls(files: Any, path: str) -> dict[str, int]:
        try:
            entries = files.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError) as error:
            if no_bucket(error):
                raise
            return {}
        named = {
            str(e["name"]).rstrip("/").rpartition("/")[2]: e
            for e in entries
            if str(e["name"]).strip("/") != path.strip("/")
        }
        return {n: -1 if e["type"] == "directory" else int(e["size"] or 0) for n, e in sorted(named.items())}

    return call(folder, ls)


def list_tree(folder: str) -> dict[str, int]:
    """Paths below a URL, relative to it, and sizes in bytes of all files there; none where there is no such folder."""

    def find(files: Any, path: str) -> dict[str, int]:
        found = files.find(path, detail=True)
        start = len(path.rstrip("/")) + 1
        return {name[start:]: int(entry["size"] or 0) for name, entry in found.items() if name[start:]}

    return call(folder, find)


def require_own_folder(
    folder: Location, markers: Collection[str], kind: str, advice: str, *, ignored: Collection[str] = ()
) -> bool:
    """Check that a command may write into a folder: it is absent, empty, or holds one of the command's own files.

    Returns whether one of `markers` is there. Temporary files and `ignored` names do not count. Raises InputError if the
    folder holds anything else ("FOLDER is not empty (...) and holds no KIND. ADVICE"), OSError if it cannot be read.
    """
    names = [name for name in list_folder(folder) if not name.startswith(TEMPORARY_PREFIX) and name not in ignored]
    if not set(names).isdisjoint(markers):
        return True
    if names:
        shown = ", ".join(names[:3]) + ", …" * (len(names) > 3)
        raise InputError(f"{folder} is not empty ({shown}) and holds no {kind}. {advice}")
    return False


def remove(place: Location) -> None:
    """Remove a file; no error where there is none."""
    if not is_url(place):
        Path(place).unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):
        call(place, lambda files, path: files.rm_file(path))


def remove_tree(folder: Location) -> None:
    """Remove a folder and all in it; what cannot be removed stays."""
    if not is_url(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        call(folder, lambda files, path: files.rm(path, recursive=True))


def open_location(place: str) -> BinaryIO:
    """A local file or fsspec URL, opened for reading with seeks."""
    if not is_url(place):
        return open(place, "rb")  # noqa: PTH123 - the caller closes it
    file: BinaryIO = call(place, lambda files, path: files.open(path, "rb"))
    return file


def digest_of(file: BinaryIO) -> tuple[str, int]:
    """Return the sha256 and the number of the bytes from the current position to the end."""
    digest, num_bytes = hashlib.sha256(), 0
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
        num_bytes += len(piece)
    return digest.hexdigest(), num_bytes
