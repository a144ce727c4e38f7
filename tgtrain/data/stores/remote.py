"""Shards of an object store or web server, read through the cache of this node (tgtrain.data.stores.cache).

What will be needed is told by `expect`; a few threads of every process fetch it ahead, whole shards or single samples. What is not
there when it is read is fetched at once, or waited for where another process is fetching it. Nothing is guessed: the same bytes
are read as from a local copy, or an error is raised. A whole shard is checked by its sha256, a sample alone by its form.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tarfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from manifests import object_store as stores
from manifests.files import below
from manifests.object_store import call
from manifests.records import InputError, ShardRow
from manifests.sample import BLOCK_BYTES, decode_offsets, frame_members, member_header
from tgtrain.data.stores.cache import Cache, Claim, Piece, whole_shard
from tgtrain.data.stores.local import Need, read_ranges
from tgtrain.data.stores.video_index import StoredVideo, VideoIndex

_JPEG_BEGIN = b"\xff\xd8"


_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_REQUEST_BYTES = 16 * 1024**2
_THREADS = 4  # that fetch ahead, in each process
_SLOTS = 16  # of them at a time on the node
_PAUSE_SECONDS = 0.05
_PLAN_SECONDS = 1.0


class RemoteShards:
    """Shards below a URL. rows: of the manifest. places: the videos that are read; needs name them by their number.

    mp4: samples hold stored videos.
    """

    def __init__(self, root: str, rows: Sequence[ShardRow], index: VideoIndex, cache: Cache, mp4: bool = False):
        self.root, self.rows, self.index, self.cache, self.mp4 = root, tuple(rows), index, cache, mp4
        self.whole = {row.name: whole_shard(row) for row in rows}
        self.samples = _Samples(index)
        self.ahead = _Ahead(self)
        stores.deduplicate_warnings(cache.heard)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "rows": self.rows, "index": self.index, "cache": self.cache, "mp4": self.mp4}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # threads are started anew in the process that reads

    def read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Shards`. InputError where the store refuses, UnreachableError where it does not answer for long."""
        video = self.samples.at(name, ranges[0][0])
        sample, whole = self.piece(video), self.whole[name]
        while True:
            for piece in (whole, sample):
                file = self.cache.open(piece)
                if file is not None:
                    try:
                        return read_ranges(file, [(offset - piece.offset, size) for offset, size in ranges])
                    finally:
                        os.close(file)
            self.ahead.catch_up()
            wanted = sample if sample.name in self.ahead.keep or whole.name not in self.ahead.keep else whole
            if not self.bring(wanted, self.ahead.keep, at_once=True):
                time.sleep(_PAUSE_SECONDS)

    def expect(self, upcoming: Callable[[], Iterable[Need]]) -> None:
        """See `Shards`."""
        self.ahead.expect(upcoming)

    def close(self) -> None:
        """Fetch nothing ahead any more."""
        self.ahead.stop()

    def piece(self, need: Need) -> Piece:
        """The shard of a name, or the sample of a video."""
        if isinstance(need, str):
            return self.whole[need]
        shard = self.index.shards[self.index.shard[need]]
        start, size = self.samples.starts[need], self.samples.sizes[need]
        return Piece(shard, self.whole[shard].digest, int(start), int(size), False)

    def bring(self, piece: Piece, keep: Collection[str], *, at_once: bool) -> bool:
        """Fetch a piece into the cache; False where another process is at it, or there is no room."""
        if piece.size > self.cache.num_bytes:
            raise InputError(
                f"The cache {self.cache.folder} may hold {self.cache.num_bytes} bytes, but {piece.shard} alone needs {piece.size}: "
                "raise runtime.cache_gb (--cache-gb)."
            )
        try:
            with self.cache.claimed(piece) as claim:
                if claim is None or not claim.make_room(keep, at_any_price=at_once):
                    return False
                self._fetch(claim)
        except OSError as error:
            if error.errno in _LOCAL:
                raise InputError(
                    f"The cache {self.cache.folder} cannot be written ({error.strerror}). Make room on its disk, lower "
                    "runtime.cache_gb (--cache-gb), or name another folder with --cache."
                ) from None
            raise
        return True

    def _fetch(self, claim: Claim) -> None:
        piece = claim.piece
        for _ in range(2):  # what was damaged on its way is not so a second time
            digest = hashlib.sha256()
            for start in range(0, piece.size, _REQUEST_BYTES):
                content = self._request(piece, start, min(_REQUEST_BYTES, piece.size - start))
                _write(claim.file, content, start)
                digest.update(content)
            fault = self._fault(claim, digest.hexdigest())
            if not fault:
                claim.publish()
                return
        if not piece.is_whole and not _is_sample(os.pread(claim.file, BLOCK_BYTES, 0), self._place(piece).key):
            raise ValueError(f"the store holds something else at byte {piece.offset}")
        # Most of it may be good: what is not shows when it is decoded, as with a local shard.
        claim.publish(damaged=True)
        if not self.cache.heard(f"damaged {piece.digest}"):
            stores.warn(
                self.root,
                f"{piece.shard} of {self.root} is damaged: {fault}. `tgprep check` finds the "
                "damaged samples, `tgprep check --repair` on a local copy mends them",
            )

    def _fault(self, claim: Claim, digest: str) -> str:
        """Why what was fetched is not what the manifest says; "" where it is, as far as it can be known."""
        piece = claim.piece
        if piece.is_whole:
            return "" if digest == piece.digest else "its sha256 is not that of shards.parquet"
        place = self._place(piece)
        fault = sample_fault(
            place, lambda offset, size: os.pread(claim.file, size, offset - piece.offset), mp4=self.mp4
        )
        return fault and f"in sample {place.key}, {fault}"

    def _place(self, sample: Piece) -> StoredVideo:
        return self.index[self.samples.at(sample.shard, sample.offset)]

    def _request(self, piece: Piece, start: int, size: int) -> bytes:
        return call(
            below(self.root, piece.shard), lambda files, path: _exact_range(files, path, piece.offset + start, size)
        )


class _Samples:
    """Where each video's sample lies: starts and sizes int64[N]."""

    def __init__(self, index: VideoIndex) -> None:
        self.starts, self.sizes = index.extents()
        self.order = np.lexsort((self.starts, index.shard))
        self.sorted_starts = self.starts[self.order]
        first = np.searchsorted(index.shard[self.order], np.arange(len(index.shards) + 1)).tolist()
        self.bounds = {name: (first[i], first[i + 1]) for i, name in enumerate(index.shards)}

    def at(self, shard: str, offset: int) -> int:
        """The video whose sample holds a byte of a shard."""
        start, end = self.bounds[shard]
        return int(self.order[start + np.searchsorted(self.sorted_starts[start:end], offset, side="right") - 1])


class _Ahead:
    """The threads of a process that fetch what is expected, soonest first. keep: names of what must stay for that."""

    def __init__(self, shards: RemoteShards) -> None:
        self.shards = shards
        self.keep: frozenset[str] = frozenset()
        self.todo: list[Piece] = []
        self.upcoming: Callable[[], Iterable[Need]] | None = None
        self.planned_at = 0.0
        self.num_threads = 0
        self.stopped = False
        self.changed = threading.Condition()

    def expect(self, upcoming: Callable[[], Iterable[Need]]) -> None:
        with self.changed:
            self.upcoming, self.stopped = upcoming, False
            if not self.keep:
                self._plan()  # what is read next must know what is needed whole
            while self.num_threads < _THREADS:
                self.num_threads += 1
                threading.Thread(target=self._work, daemon=True).start()
            self.changed.notify_all()

    def catch_up(self) -> None:
        """Plan by what was expected last. A reader that must fetch and knows only an older plan would remove what comes next."""
        with self.changed:
            if self.upcoming is not None:
                self._plan()

    def stop(self) -> None:
        with self.changed:
            self.stopped, self.todo, self.upcoming, self.keep = True, [], None, frozenset()
            self.changed.notify_all()

    def _plan(self) -> None:
        assert self.upcoming is not None
        pieces: dict[str, Piece] = {}
        there = self.shards.cache.pieces()
        room = self.shards.cache.num_bytes
        all_fits = sum(row.num_bytes for row in self.shards.rows) <= room
        for piece in map(self.shards.piece, self.upcoming()):
            whole = self.shards.whole[piece.shard].name
            if whole in pieces or (all_fits and whole in there):
                continue  # the sample will be read from its shard
            room -= piece.size
            if room < 0:
                break
            pieces[piece.name] = piece
        self.keep = frozenset(pieces)
        self.todo = [piece for name, piece in pieces.items() if name not in there][::-1]
        self.upcoming, self.planned_at = None, time.monotonic()

    def _next(self) -> Piece | None:
        with self.changed:
            while not self.stopped:
                wait = self.planned_at + _PLAN_SECONDS - time.monotonic()
                if self.upcoming is not None and wait <= 0:
                    self._plan()
                if self.todo:
                    return self.todo.pop()
                self.changed.wait(max(wait, 0.01) if self.upcoming is not None else None)
            self.num_threads -= 1
            return None

    def _work(self) -> None:
        while (piece := self._next()) is not None:
            try:
                with self.shards.cache.slot(_SLOTS) as is_free:
                    if not is_free or not self.shards.bring(piece, self.keep, at_once=False):
                        self._try_again(piece)
            except Exception:
                # Whoever reads the piece meets the same trouble, and tells of it.
                self._try_again(piece)

    def _try_again(self, piece: Piece) -> None:
        """Later, when others have had their turn: another process is at it, there is no room for it yet, or the store fails."""
        with self.changed:
            is_alone = not self.todo
            if piece.name in self.keep and piece not in self.todo and not self.shards.cache.has(piece):
                self.todo.insert(0, piece)
        time.sleep(_PLAN_SECONDS if is_alone else _PAUSE_SECONDS)


def _exact_range(files: Any, path: str, start: int, size: int) -> bytes:
    content: bytes = files.cat_file(path, start=start, end=start + size)
    if len(content) == size:
        return content
    if len(content) > size:
        raise InputError(
            f"{path}: the server sends whole files where a part is asked for, so that nothing can be cached. "
            "Read it with --set data.reader=stream, or from a local copy."
        )
    there = files.info(path)["size"]
    if there is not None and there < start + size:
        raise ValueError(f"the store holds {there} bytes of it, expected at least {start + size}")
    raise OSError(errno.EIO, f"{len(content)} of {size} bytes came")


def _write(file: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        done = os.pwrite(file, view, offset)
        view, offset = view[done:], offset + done


def _is_sample(head: bytes, key: str) -> bool:
    """Whether a tar header is one of a member of this sample."""
    try:
        return tarfile.TarInfo.frombuf(head, "utf-8", "strict").name.startswith(f"{key}.")
    except (tarfile.HeaderError, UnicodeDecodeError):
        return False


def sample_fault(place: StoredVideo, read: Callable[[int, int], bytes], *, mp4: bool) -> str:
    """What is wrong with the members of a sample; "" where nothing is.

    read: gives the bytes of (offset in the shard, size). mp4: the data set holds stored videos.
    """
    for kind in ("rgb", "tg", "flow"):
        index_offset, index_bytes, offset, num_bytes = place.members.place(kind)
        if offset < 0:
            continue
        is_video = mp4 and kind == "rgb"
        index_name, name = frame_members(kind, is_video)
        for member, start, size in ((index_name, index_offset, index_bytes), (name, offset, num_bytes)):
            if read(start - BLOCK_BYTES, BLOCK_BYTES) != member_header(f"{place.key}.{member}", size):
                return f"the tar header of its {member} is not the one of the manifest"
        try:
            offsets = decode_offsets(read(index_offset, index_bytes), mp4=is_video)
        except ValueError as error:
            return f"{index_name}: {error}"
        num_frames = place.num_frames - (kind != "rgb")
        if len(offsets) != num_frames + 1 or offsets[-1] > num_bytes or (offsets[-1] < num_bytes and not is_video):
            return f"{index_name} names {len(offsets) - 1} frames, expected {num_frames} that end at byte {num_bytes}"
        for frame, start in enumerate(() if is_video else offsets[:-1].tolist()):
            if read(offset + start, 2) != _JPEG_BEGIN:
                return f"{kind.upper()} frame {frame} does not begin as a JPEG file"
    return ""
