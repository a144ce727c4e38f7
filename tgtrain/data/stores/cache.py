"""A cache of remote shards on local disk, shared by all processes of a node and by all runs that name the same folder.

It lives in a subfolder of its own, `tgtrain-shards`, and removes only files of these names in it:

    {sha256}.tar                        a complete shard, its sha256 checked before it gets this name
    {sha256}-{offset}-{size}.sample     the frames of one sample of that shard, its structure checked (tgtrain.data.stores.remote)
    {sha256}[-{offset}-{size}].damaged  either of them, if the store holds other bytes than the manifest says
    *.part                              being fetched: of full length from the start, so that it counts; locked by its process
    room, slot-N, warned-*                lock files: total bytes; downloads at a time; warnings given
    CACHEDIR.TAG                          marks the folder as a cache of this program, which backup programs leave out

Files are renamed when they are complete. Locks are kernel locks (flock), so a killed process leaves none. Reading a piece updates its
modification time; the least recently used pieces are evicted first. An evicted file stays readable for those who read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from manifests.disk import publish
from manifests.files import atomic_write, require_own_folder
from manifests.locks import try_lock, wait_for_lock
from manifests.records import InputError

_TOUCH_SECONDS = 1.0  # a read updates the modification time at most this often
_QUIET_SECONDS = 60.0  # between two warnings about one subject
_FOLDER = "tgtrain-shards"
_MARKER = "CACHEDIR.TAG"  # https://bford.info/cachedir
_MARK = b"Signature: 8a477f597d28d172789f06886806bc55\n# Shards that tgtrain has fetched. This folder may be removed.\n"
_FILE = re.compile(r"[0-9a-f]{64}(-\d+-\d+)?\.(tar|sample|damaged|tar\.part|sample\.part)")  # files that count


@dataclass(frozen=True, slots=True)
class Piece:
    """What is fetched at once: `size` bytes from `offset` of a shard."""

    shard: str
    digest: str  # sha256 of the complete shard
    offset: int
    size: int
    is_whole: bool

    def __post_init__(self) -> None:
        # It comes from a table of someone else, and becomes a file name here.
        if not _FILE.fullmatch(self.name):
            raise InputError(
                f"{self.shard}: its sha256 in shards.parquet is {self.digest!r}, at byte {self.offset} with {self.size} bytes; "
                "expected 64 hexadecimal digits and no negative number. The table is damaged: `tgprep check` examines it."
            )

    @property
    def name(self) -> str:
        """Its file in the cache."""
        return f"{self.digest}.tar" if self.is_whole else f"{self.digest}-{self.offset}-{self.size}.sample"


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Where the cache is and how much it may hold."""

    folder: str = ""  # that holds its subfolder; "" for `tgtrain` below XDG_CACHE_HOME, or below ~/.cache
    num_bytes: int = 0  # 0: 80 % of what the disk has free, what the cache holds already included

    def open(self) -> Cache:
        """The cache; its subfolder is created if it is missing. InputError if that fails, or it holds something else."""
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        folder = (Path(self.folder).expanduser() if self.folder else base / "tgtrain") / _FOLDER
        try:
            _make(folder)
            cache = Cache(folder.resolve(), self.num_bytes)
            cache.remove_leftovers()
            if not self.num_bytes:
                free = shutil.disk_usage(folder).free
                cache = Cache(cache.folder, (cache.num_held() + free) * 4 // 5)
        except OSError as error:
            raise InputError(
                f"{folder} cannot be the cache of shards: {error.strerror}. Name another folder with --cache."
            ) from None
        return cache


def is_cache(folder: str) -> bool:
    """Whether a cache of this program was made in a folder before: someone typed its name then."""
    try:
        return bool(folder) and (Path(folder).expanduser() / _FOLDER / _MARKER).read_bytes() == _MARK
    except (OSError, RuntimeError, ValueError):  # RuntimeError: ~ of an unknown user
        return False


def _make(folder: Path) -> None:
    """Create the subfolder of a cache with its marker; InputError if it is there and holds something else."""
    folder.mkdir(parents=True, exist_ok=True)
    if not require_own_folder(folder, {_MARKER}, "cache of shards", "Name another folder with --cache."):
        with atomic_write(folder / _MARKER) as file:
            file.write(_MARK)


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of pieces."""

    folder: Path
    num_bytes: int  # the limit for all pieces together, those being fetched included

    def open(self, piece: Piece) -> int | None:
        """A descriptor of the piece, marked as used; None if it is not in the cache."""
        for path in self._paths(piece):
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            status = os.fstat(file)
            if status.st_size == piece.size:
                if time.time() - status.st_mtime > _TOUCH_SECONDS:
                    with contextlib.suppress(OSError):
                        os.utime(file)
                return file
            os.close(file)  # truncated by another program: fetch it again
            path.unlink(missing_ok=True)
        return None

    def names(self) -> set[str]:
        """All file names but the marker's; none if the folder was removed."""
        with contextlib.suppress(FileNotFoundError):
            return set(os.listdir(self.folder)) - {_MARKER}  # noqa: PTH208 - names alone are needed, of many files
        return set()

    def pieces(self) -> set[str]:
        """Names of the pieces that need not be fetched, damaged ones included: the store has no better ones."""
        return set(map(_piece_name, self.names()))

    def num_held(self) -> int:
        """Bytes of all pieces, those being fetched included."""
        return sum(status.st_size for _, status in self._files())

    def has(self, piece: Piece) -> bool:
        """Whether the piece need not be fetched."""
        return any(path.exists() for path in self._paths(piece))

    @contextlib.contextmanager
    def claim(self, piece: Piece) -> Iterator[Claim | None]:
        """The right to fetch a piece, until the block ends; None if another process has it, or the piece has come meanwhile."""
        path = self.folder / f"{piece.name}.part"
        if not self.folder.exists():  # it may be removed at any time
            _make(self.folder)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not try_lock(file, required=True) or not _is_at(file, path):
                yield None
                return
            try:
                yield None if self.has(piece) else Claim(self, piece, path, file)
            finally:
                if _is_at(file, path):  # it was not published
                    path.unlink()
        finally:
            os.close(file)

    def reserve(self, claim: Claim, protected: Collection[str], *, evict_protected: bool = False) -> bool:
        """Evict least recently used pieces until the piece fits, and take its bytes; False if there is no room now.

        protected: names of pieces that are evicted only if `evict_protected`, and then after all others.
        """
        os.ftruncate(claim.file, 0)
        size = claim.piece.size
        with self._locked("room") as file:
            known = os.pread(file, 32, 0)
            num_held = int(known) if known.isdigit() else self.num_bytes
            # The figure in the file may be too high; `_evict` counts what is really held.
            if num_held + size > self.num_bytes:
                num_held = self._evict(self.num_bytes - size, protected)
                if num_held + size > self.num_bytes and evict_protected:
                    num_held = self._evict(self.num_bytes - size, ())
            fits = num_held + size <= self.num_bytes
            # Written before the bytes are taken: if this process is killed in between, the figure is too high, never too low.
            text = b"%d" % (num_held + size if fits else num_held)
            os.pwrite(file, text, 0)
            os.ftruncate(file, len(text))
            if fits:
                os.ftruncate(claim.file, size)
            return fits

    @contextlib.contextmanager
    def slot(self, num_slots: int) -> Iterator[bool]:
        """Whether one of the node's slots for background downloads was free; it is held until the block ends."""
        for number in range(num_slots):
            file = os.open(self.folder / f"slot-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if try_lock(file, required=True):
                    yield True
                    return
            finally:
                os.close(file)
        yield False

    def already_warned(self, subject: str) -> bool:
        """Whether a process of this node has warned of the subject within a minute. If not, the caller is to warn now."""
        name = f"warned-{hashlib.sha256(subject.encode()).hexdigest()[:16]}"
        try:
            with self._locked(name) as file:
                status = os.fstat(file)
                is_recent = status.st_size > 0 and time.time() - status.st_mtime < _QUIET_SECONDS
                os.pwrite(file, b"1", 0)
                os.utime(file)
                return is_recent
        except OSError:
            return False

    def remove_leftovers(self) -> None:
        """Remove partial files of killed processes, and damaged pieces: the store may have been repaired."""
        for path, _ in self._files():
            if path.suffix == ".damaged":
                path.unlink(missing_ok=True)
            elif path.suffix == ".part":
                _remove_abandoned(path)

    def _evict(self, limit: int, protected: Collection[str]) -> int:
        """Remove least recently used pieces until at most `limit` bytes are held; returns the bytes held then."""
        files = sorted(self._files(), key=lambda entry: entry[1].st_mtime_ns)
        num_held = sum(status.st_size for _, status in files)
        for path, status in files:
            if num_held <= limit:
                break
            if path.suffix == ".part":
                is_removed = _remove_abandoned(path)
            else:
                is_removed = _piece_name(path.name) not in protected
                if is_removed:
                    path.unlink(missing_ok=True)
            num_held -= status.st_size if is_removed else 0
        return num_held

    def _paths(self, piece: Piece) -> tuple[Path, Path]:
        """Of its valid and of its damaged form."""
        return self.folder / piece.name, self.folder / f"{piece.name.rpartition('.')[0]}.damaged"

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        files = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if _FILE.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        files.append((Path(entry.path), entry.stat()))
        return files

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[int]:
        """The lock file of a name, locked until the block ends."""
        file = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            wait_for_lock(file)
            yield file
        finally:
            os.close(file)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right of this process to fetch a piece, into `file`."""

    cache: Cache
    piece: Piece
    path: Path
    file: int

    def publish(self, *, damaged: bool = False) -> None:
        """Give the complete piece its name."""
        os.fsync(self.file)
        publish(self.path, self.cache._paths(self.piece)[damaged])


def _piece_name(file_name: str) -> str:
    """The piece that a file of the cache serves; a damaged file serves its piece too."""
    stem, _, suffix = file_name.rpartition(".")
    return f"{stem}.{'sample' if '-' in stem else 'tar'}" if suffix == "damaged" else file_name


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file still has this name: another process may have renamed or removed it before this one locked it."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _remove_abandoned(path: Path) -> bool:
    """Remove a partial file unless a process is fetching it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if not try_lock(file, required=True):
            return False
        if _is_at(file, path):
            path.unlink()
        return True
    finally:
        os.close(file)
