"""A cache of remote shards on local disk, shared by all processes of a node and by all runs that name the same folder.

    {sha256}.tar                        a whole shard, its sha256 checked before it had this name
    {sha256}-{offset}-{size}.sample     the frames of one sample of that shard, its form checked (tgtrain.data.stores.remote)
    {sha256}[-{offset}-{size}].damaged  either of them, where the store holds other bytes than the manifest says
    *.part                              on its way; of full length from the start, so that it counts; locked by who fetches it
    room, slot-N, told-*                locked for a moment: bytes in all; downloads at a time; warnings given

Files appear under their names whole (rename). Locks are those of the kernel (flock) on open files: a killed process leaves none.
What is used gets a new time of change; where room is needed, what was used longest ago goes first. A file that is removed
while somebody reads it stays readable for them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from manifests.files import publish
from manifests.records import InputError, ShardRow

_TOUCH_SECONDS = 1.0  # a use is noted at most this often
_QUIET_SECONDS = 60.0
_PARTS = (".tar", ".sample", ".damaged", ".part")


@dataclass(frozen=True, slots=True)
class Piece:
    """What is fetched at once: `size` bytes from `offset` of a shard. digest: sha256 of the whole shard."""

    shard: str
    digest: str
    offset: int
    size: int
    is_whole: bool

    @property
    def name(self) -> str:
        """Its file in the cache."""
        return f"{self.digest}.tar" if self.is_whole else f"{self.digest}-{self.offset}-{self.size}.sample"


def piece_name(file_name: str) -> str:
    """The piece that a file of the cache serves, by name: what is damaged in the store stands for the piece itself."""
    stem, _, kind = file_name.rpartition(".")
    return f"{stem}.{'sample' if '-' in stem else 'tar'}" if kind == "damaged" else file_name


def whole_shard(row: ShardRow) -> Piece:
    """The shard as one piece."""
    return Piece(row.name, row.sha256, 0, row.num_bytes, True)


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """folder: "" for tgtrain's own below the user's cache folder. num_bytes: what it may hold; 0: 80 % of what the disk has free."""

    folder: str = ""
    num_bytes: int = 0

    def open(self) -> Cache:
        """The cache, its folder made where it is missing. InputError where it cannot be."""
        folder = Path(self.folder).expanduser() if self.folder else default_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            cache = Cache(folder.resolve(), self.num_bytes)
            cache.remove_left_over()
            if not self.num_bytes:
                free = shutil.disk_usage(folder).free
                cache = Cache(cache.folder, (cache.num_held() + free) * 4 // 5)
        except OSError as error:
            raise InputError(
                f"{folder} cannot be the cache of shards: {error.strerror}. Name another folder with --cache."
            ) from None
        return cache


def default_folder() -> Path:
    """`tgtrain` below XDG_CACHE_HOME, or below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "tgtrain"


@dataclass(frozen=True, slots=True)
class Cache:
    """folder: of the files. num_bytes: the most that they may hold together, those on their way included."""

    folder: Path
    num_bytes: int

    def open(self, piece: Piece) -> int | None:
        """A descriptor of the piece, whose use is noted; None where it is not there whole."""
        for name in _files_of(piece):
            try:
                file = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            status = os.fstat(file)
            if status.st_size == piece.size:
                if time.time() - status.st_mtime > _TOUCH_SECONDS:
                    with contextlib.suppress(OSError):
                        os.utime(file)
                return file
            os.close(file)  # cut short by somebody: it is fetched anew
            (self.folder / name).unlink(missing_ok=True)
        return None

    def names(self) -> set[str]:
        """What is there, by file name."""
        return set(os.listdir(self.folder))  # noqa: PTH208 - names alone are needed, of many files

    def pieces(self) -> set[str]:
        """What need not be fetched, by names of pieces: damaged ones too, which are as good as the store has them."""
        return set(map(piece_name, self.names()))

    def num_held(self) -> int:
        """Bytes of all pieces, those on their way included."""
        return sum(status.st_size for _, status in self._files())

    def has(self, piece: Piece) -> bool:
        """Whether it need not be fetched."""
        return any((self.folder / name).exists() for name in _files_of(piece))

    @contextlib.contextmanager
    def claimed(self, piece: Piece) -> Iterator[Claim | None]:
        """The right to fetch a piece, until the block ends; None where somebody else has it, or the piece is there by now."""
        path = self.folder / f"{piece.name}.part"
        self.folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it all
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not _locked(file) or not _is_at(file, path):
                yield None
                return
            try:
                yield None if self.has(piece) else Claim(self, piece, path, file)
            finally:
                if _is_at(file, path):
                    path.unlink()
        finally:
            os.close(file)

    def make_room(self, size: int, keep: Collection[str], *, at_any_price: bool, reserve: Callable[[], None]) -> bool:
        """Have `reserve` take `size` bytes; what was used longest ago is removed for them, but none of `keep` (pieces).

        at_any_price: even those, the ones used longest ago first. False where there is no room.
        """
        with self._alone("room") as file:
            known = os.pread(file, 32, 0)
            held = int(known) if known.isdigit() else self.num_bytes
            if held + size > self.num_bytes:
                held = self._evict(self.num_bytes - size, keep)
                if held + size > self.num_bytes and at_any_price:
                    held = self._evict(self.num_bytes - size, ())
                # Written before it is true: a process that is killed in between leaves too much room taken, never too little.
            fits = held + size <= self.num_bytes
            text = b"%d" % (held + size if fits else held)
            os.pwrite(file, text, 0)
            os.ftruncate(file, len(text))
            if fits:
                reserve()
            return fits

    @contextlib.contextmanager
    def slot(self, num_slots: int) -> Iterator[bool]:
        """Whether one of the node's places for background downloads was free; it is held until the block ends."""
        for number in range(num_slots):
            file = os.open(self.folder / f"slot-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if _locked(file):
                    yield True
                    return
            finally:
                os.close(file)
        yield False

    def heard(self, subject: str) -> bool:
        """Whether a process of this node has warned of the subject within a minute; from now on one has."""
        name = f"told-{hashlib.sha256(subject.encode()).hexdigest()[:16]}"
        try:
            with self._alone(name) as file:
                status = os.fstat(file)
                before = status.st_size > 0 and time.time() - status.st_mtime < _QUIET_SECONDS
                os.pwrite(file, b"1", 0)
                os.utime(file)
                return before
        except OSError:
            return False

    def remove_left_over(self) -> None:
        """Remove what killed processes left half fetched, and what was damaged: it may be mended by now."""
        for path, _ in self._files():
            if path.suffix == ".damaged":
                path.unlink(missing_ok=True)
            elif path.suffix == ".part":
                _remove_dead(path)

    def _evict(self, allowed: int, keep: Collection[str]) -> int:
        """Remove what was used longest ago until no more than `allowed` bytes are held; gives the bytes held then."""
        files = sorted(self._files(), key=lambda entry: entry[1].st_mtime_ns)
        held = sum(status.st_size for _, status in files)
        for path, status in files:
            if held <= allowed:
                break
            if path.suffix == ".part":
                removed = _remove_dead(path)
            else:
                removed = piece_name(path.name) not in keep
                if removed:
                    path.unlink(missing_ok=True)
            held -= status.st_size if removed else 0
        return held

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(_PARTS):
                    with contextlib.suppress(FileNotFoundError):
                        found.append((Path(entry.path), entry.stat()))
        return found

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[int]:
        file = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
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

    def make_room(self, keep: Collection[str], *, at_any_price: bool = False) -> bool:
        """Reserve the bytes of the piece; False where the cache has no room for them now."""
        os.ftruncate(self.file, 0)
        return self.cache.make_room(
            self.piece.size, keep, at_any_price=at_any_price, reserve=lambda: os.ftruncate(self.file, self.piece.size)
        )

    def publish(self, *, damaged: bool = False) -> None:
        """The piece is whole: give it its name."""
        os.fsync(self.file)
        publish(self.path, self.cache.folder / _files_of(self.piece)[damaged])


def _files_of(piece: Piece) -> tuple[str, str]:
    """Its file when it is what the manifest says, and when it is not."""
    return piece.name, f"{piece.name.rpartition('.')[0]}.damaged"


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: int, path: Path) -> bool:
    """Whether the open file is the one of that name: another process may have renamed or removed it before we had the lock."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _remove_dead(path: Path) -> bool:
    """Remove a partial file unless somebody is fetching it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if not _locked(file):
            return False
        if _is_at(file, path):
            path.unlink()
        return True
    finally:
        os.close(file)
