"""Functions for files in local folders and in object stores (fsspec URLs).

An object is written by one PUT, so it is never partial. `manifests.object_store` retries calls and explains errors.
`manifests.disk` writes local files.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from manifests.datasets import nfc
from manifests.disk import LOCK_NAME, TEMPORARY_PREFIX, whole_file
from manifests.object_store import call, no_bucket
from manifests.records import InputError

Location = str | Path  # a local path, or an fsspec URL as text
MAX_JSON_BYTES = 32 * 1024 * 1024  # far above what we write; a hostile file of this size takes under 1 GB of objects
_MAX_JSON_DEPTH = 64
_PIECE_BYTES = 4 * 1024 * 1024
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


def is_url(root: Location) -> bool:
    """Whether a location is an fsspec URL (`s3://...`) and not a local path."""
    return "://" in str(root)


def parse_location(text: str) -> Location:
    """Parse the user's name of a folder: a path (also as `file://`), or a URL, whose last slash is removed."""
    if text.startswith("file://") or text.startswith("local://"):
        return Path(text.partition("://")[2] or "/")
    return text.rstrip("/") if is_url(text) else Path(text)


def below(root: Location, *parts: str) -> Location:
    """Join a location and names below it."""
    return "/".join([str(root).rstrip("/"), *parts]) if is_url(root) else Path(root, *parts)


def find_below(folder: Path, path: str) -> Path:
    """A file below a folder; if none has exactly this name, the one whose name differs in its form of Unicode alone.

    Such names come of copies to and from a Mac. Without either it is the path as given.
    """
    place = folder / path
    if path.isascii() or place.exists():
        return place
    found = folder
    for part in path.split("/"):
        try:
            names = [entry.name for entry in found.iterdir()]
        except OSError:
            return place
        same = [name for name in names if nfc(name) == nfc(part)]
        if len(same) != 1 and part not in same:
            return place
        found /= part if part in same else same[0]
    return found


def open_regular(path: str | Path) -> int:
    """Open a local file for reading, and return its descriptor; OSError for anything that is no regular file.

    To open a FIFO or to read a device may wait for ever, and a folder of a stranger may hold both.
    """
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind == stat.S_IFREG:
        return descriptor
    os.close(descriptor)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'something else')}, expected a file", str(path))


def read_bytes(location: Location, max_bytes: int | None = None) -> bytes:
    """Read a file; FileNotFoundError if there is none, OSError if it is larger than max_bytes."""
    if not is_url(location):
        with os.fdopen(open_regular(location), "rb") as file:
            content = file.read(None if max_bytes is None else min(max_bytes, os.fstat(file.fileno()).st_size) + 1)
    else:
        content = call(location, lambda files, path: _content(files, path, max_bytes))
    if max_bytes is not None and len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes} bytes", str(location))
    return content


def _content(files: Any, path: str, max_bytes: int | None) -> bytes:
    """The bytes of an object; at most one more than max_bytes of a larger one."""
    is_large = False
    if max_bytes is not None:
        # A web server that refuses or does not answer counts as a missing file here; the request below distinguishes them.
        with contextlib.suppress(FileNotFoundError):
            is_large = int(files.info(path).get("size") or 0) > max_bytes
    content: bytes = files.cat_file(path, 0, max_bytes + 1) if is_large and max_bytes else files.cat_file(path)
    return content


def read_json(location: Location, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file; ValueError if it is damaged or larger than max_bytes, FileNotFoundError if there is none."""
    try:
        return parse_json(read_bytes(location, max_bytes))
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ValueError(error.strerror) from None
        raise


def parse_json(content: bytes | str) -> Any:
    """Parse JSON; ValueError if it is damaged, not UTF-8, nested deeply, or holds half of a surrogate pair."""
    text = content if isinstance(content, str) else content.decode("utf-8-sig")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(_MAX_JSON_DEPTH):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [value for values in inner for value in values if isinstance(value, (dict, list))]
        if not level:
            break
    else:
        raise ValueError("it is nested too deeply")
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half of a surrogate pair, which is no text") from None
    return value


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_many(places: Iterable[str]) -> list[bytes]:
    """Read files in one folder of a store at the same time; the contents are in the given order."""
    urls = list(places)
    if not urls:
        return []

    def all_of(files: Any, path: str) -> list[bytes]:
        paths = [files._strip_protocol(url) for url in urls]
        contents = files.cat(paths)  # bytes and not a dict if there is one path
        return [contents] if isinstance(contents, bytes) else [contents[path] for path in paths]

    return call(urls[0], all_of)


@contextlib.contextmanager
def atomic_write(location: Location) -> Iterator[BinaryIO]:
    """Open a file that gets its name once it is complete: temporary name, fsync, rename, fsync of the folder.

    On an exception nothing is written and the temporary file is removed. To a URL, one PUT is made when the block ends.
    """
    if is_url(location):
        buffer = io.BytesIO()
        yield buffer
        content = buffer.getvalue()
        call(location, lambda files, path: files.pipe_file(path, content))
        return
    with whole_file(Path(location)) as file:
        yield file


def create(url: str, content: bytes) -> bool:
    """Write an object unless one of that name exists (a conditional PUT); False if it does.

    NotImplementedError if the store has no conditional writes.
    """

    def put(files: Any, path: str) -> bool:
        try:
            files.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except TypeError as error:  # an older file system class
            raise NotImplementedError(str(error)) from None
        except OSError as error:
            code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", "")
            if code in ("PreconditionFailed", "412"):  # of stores other than Amazon's
                return False
            if error.errno == errno.ENOSYS:
                raise NotImplementedError(str(error)) from None
            raise
        return True

    return call(url, put)


def upload(file: Path, url: str) -> None:
    """Copy a local file to the store, never partially, and check its size there."""
    call(url, lambda files, path: files.put_file(str(file), path))
    expected = file.stat().st_size
    num_bytes = file_size(url)
    if num_bytes != expected:
        raise OSError(errno.EIO, f"the store holds {num_bytes} bytes of it, {expected} were sent", url)


def download(url: str, file: Path) -> None:
    """Copy an object into a local file, in pieces; FileNotFoundError if there is none."""

    def get(files: Any, path: str) -> None:
        file.unlink(missing_ok=True)
        files.get_file(path, str(file))

    call(url, get)


def file_size(location: Location) -> int:
    """The size of a file in bytes; FileNotFoundError if there is none."""
    if not is_url(location):
        return Path(location).stat().st_size
    return call(location, lambda files, path: int(files.info(path)["size"]))


def exists(location: Location) -> bool:
    """Whether a file (not a folder) exists."""
    if not is_url(location):
        return Path(location).is_file()
    return call(location, lambda files, path: bool(files.isfile(path)))


def list_files(folder: Location) -> dict[str, int]:
    """List the files directly in a folder with their sizes in bytes, sorted by name; empty if there is no such folder."""
    return {name: size for name, size in list_folder(folder).items() if size >= 0}


def list_folder(folder: Location) -> dict[str, int]:
    """List the entries directly in a folder with their sizes, sorted by name; what is no file (a folder, a FIFO) has size -1."""
    if not is_url(folder):
        sizes = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    facts = entry.stat()
                    sizes[entry.name] = facts.st_size if stat.S_ISREG(facts.st_mode) else -1
        return dict(sorted(sizes.items()))

    def ls(files: Any, path: str) -> dict[str, int]:
        try:
            entries = files.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError) as error:
            # A folder exists in a store only through its objects; a bucket must exist.
            if no_bucket(error):
                raise
            return {}
        # A store may list the folder itself as an object.
        sizes = {str(e["name"]): -1 if e["type"] == "directory" else int(e["size"] or 0) for e in entries}
        named = {
            name.rstrip("/").rpartition("/")[2]: size
            for name, size in sizes.items()
            if name.strip("/") != path.strip("/")
        }
        return dict(sorted(named.items()))

    return call(folder, ls)


def list_tree(folder: str) -> dict[str, int]:
    """List all files below a URL: paths relative to it, and sizes in bytes; empty if there is no such folder."""

    def find(files: Any, path: str) -> dict[str, int]:
        entries = files.find(path, detail=True)
        start = len(path.rstrip("/")) + 1
        return {name[start:]: int(entry["size"] or 0) for name, entry in entries.items() if name[start:]}

    return call(folder, find)


def require_own_folder(
    folder: Location, markers: Collection[str], kind: str, advice: str, *, ignored: Collection[str] = ()
) -> bool:
    """Check that a command may write into a folder: it is absent, empty, or holds one of the command's own files.

    Returns whether one of `markers` is there. Temporary files, the lock of `held_folder` and `ignored` names do not count. Raises InputError if the
    folder holds anything else ("FOLDER is not empty (...) and holds no KIND. ADVICE"), OSError if it cannot be read.
    """
    ignored = {*ignored, LOCK_NAME}
    names = [name for name in list_folder(folder) if not name.startswith(TEMPORARY_PREFIX) and name not in ignored]
    if not set(names).isdisjoint(markers):
        return True
    if names:
        shown = ", ".join(names[:3]) + ", …" * (len(names) > 3)
        raise InputError(f"{folder} is not empty ({shown}) and holds no {kind}. {advice}")
    return False


def remove(location: Location) -> None:
    """Remove a file; no error if there is none."""
    if not is_url(location):
        Path(location).unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):
        call(location, lambda files, path: files.rm_file(path))


def remove_tree(folder: Location) -> None:
    """Remove a folder and its content; what cannot be removed stays."""
    if not is_url(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        call(folder, lambda files, path: files.rm(path, recursive=True))


def open_location(place: str) -> BinaryIO:
    """Open a local file or fsspec URL for reading with seeks."""
    if not is_url(place):
        return os.fdopen(open_regular(place), "rb")
    file: BinaryIO = call(place, lambda files, path: files.open(path, "rb"))
    return file


def read_range(file: BinaryIO, offset: int, num_bytes: int) -> bytes:
    """Read num_bytes from an offset; ValueError if the file ends before. Memory is taken for bytes that exist only."""
    end = file.seek(0, os.SEEK_END)
    if min(offset, num_bytes) < 0:
        raise ValueError(f"byte {offset} and a size of {num_bytes} are no place in a file")
    if offset + num_bytes > end:
        raise ValueError(f"the file ends at byte {end}, expected bytes {offset} to {offset + num_bytes} in it")
    file.seek(offset)
    return file.read(num_bytes)


def digest_of(file: BinaryIO) -> tuple[str, int]:
    """Return the sha256 and the number of the bytes from the current position to the end."""
    digest, num_bytes = hashlib.sha256(), 0
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
        num_bytes += len(piece)
    return digest.hexdigest(), num_bytes
