"""Shards of an object store or web server, read through the cache of this node (tgtrain.data.stores.cache).

`expect` announces what will be needed; a few threads of each process fetch it ahead, as complete shards or single samples. A piece
that is missing when it is read is fetched at once, or waited for while another process fetches it. A reader gets the same bytes as
from a local copy, or an error. A complete shard is checked by its sha256, a single sample by its structure.

A clip of a stored video is a tenth of it. So if the cache cannot hold a data set of them, only ranges of their shards are read,
and not kept (`by_ranges`), but for samples that are expected: those come again soon, or most of their bytes are needed.
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

from manifests import object_store
from manifests.files import below
from manifests.object_store import call
from manifests.records import InputError, ShardRow
from manifests.sample import BLOCK_BYTES, decode_offsets, frame_members, member_header
from tgtrain.data.stores import Shards
from tgtrain.data.stores.cache import Cache, Claim, Piece
from tgtrain.data.stores.local import read_ranges
from tgtrain.data.stores.video_index import Need, SampleTable, StoredVideo, VideoIndex

_JPEG_START = b"\xff\xd8"
_LOCAL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_REQUEST_BYTES = 16 * 1024**2
_NUM_THREADS = 4  # that fetch ahead, in each process
_NUM_SLOTS = 16  # of them at a time on the node: they hold _REQUEST_BYTES each
_PAUSE_SECONDS = 0.05
_PLAN_SECONDS = 1.0


class RemoteShards(Shards):
    """Shards below a URL."""

    cache: Cache

    def __init__(self, root: str, rows: Sequence[ShardRow], index: VideoIndex, cache: Cache, mp4: bool = False):
        """rows: of the manifest. index: the videos that are read. mp4: samples hold stored videos."""
        self.root, self.rows, self.index, self.cache, self.mp4 = root, tuple(rows), index, cache, mp4
        self.whole = {row.name: Piece(row.name, row.sha256, 0, row.num_bytes, True) for row in rows}
        self.samples = SampleTable(index)
        self.by_ranges = mp4 and sum(row.num_bytes for row in rows) > cache.num_bytes
        self.ahead = _FetchAhead(self)
        object_store.deduplicate_warnings(cache.already_warned)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteShards, (self.root, self.rows, self.index, self.cache, self.mp4)

    def read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Shards`. InputError if the store refuses, UnreachableError if it does not answer for long."""
        video = self.samples.video_at(name, ranges[0][0])
        sample, whole = self.piece(video), self.whole[name]
        while True:
            for piece in (whole, sample):
                file = self.cache.open(piece)
                if file is not None:
                    try:
                        return read_ranges(file, [(offset - piece.offset, size) for offset, size in ranges])
                    finally:
                        os.close(file)
            if self.by_ranges and sample.name not in self.ahead.needed:
                return self._ranges(name, ranges)
            # It is in neither form: fetch the one that the plan wants, without evicting what the plan needs next.
            self.ahead.catch_up()
            needed = self.ahead.needed
            piece = sample if sample.name in needed or whole.name not in needed else whole
            if not self.fetch(piece, needed, evict_protected=True):
                time.sleep(_PAUSE_SECONDS)  # another process is fetching it

    def expect(self, upcoming: Callable[[], Iterable[Need]], *, one_clip: bool = False) -> None:
        """See `Shards`."""
        if not (self.by_ranges and one_clip):
            self.ahead.expect(upcoming)

    def close(self) -> None:
        """See `Shards`."""
        self.ahead.stop()

    def piece(self, need: Need) -> Piece:
        """The shard of a name, or the sample of a video."""
        if isinstance(need, str):
            return self.whole[need]
        shard = self.index.shards[self.index.shard[need]]
        start, size = self.samples.starts[need], self.samples.sizes[need]
        return Piece(shard, self.whole[shard].digest, int(start), int(size), False)

    def fetch(self, piece: Piece, protected: Collection[str], *, evict_protected: bool) -> bool:
        """Fetch a piece into the cache; False if another process is fetching it or there is no room.

        protected: names of pieces that are evicted for it only if `evict_protected`.
        """
        if piece.size > self.cache.num_bytes:
            raise InputError(
                f"The cache {self.cache.folder} may hold {self.cache.num_bytes} bytes, but {piece.shard} alone needs {piece.size}: "
                "raise runtime.cache_gb (--cache-gb)."
            )
        try:
            with self.cache.claim(piece) as claim:
                if claim is None or not self.cache.reserve(claim, protected, evict_protected=evict_protected):
                    return False
                self._download(claim)
        except OSError as error:
            if error.errno in _LOCAL_ERRORS:
                raise InputError(
                    f"The cache {self.cache.folder} cannot be written ({error.strerror}). Make room on its disk, lower "
                    "runtime.cache_gb (--cache-gb), or name another folder with --cache."
                ) from None
            raise
        return True

    def _ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Ranges (rising) of a shard straight from the store, requested at once."""
        requests = joined(ranges)
        contents = call(below(self.root, name), lambda files, path: _exact_ranges(files, path, requests))
        parts, at = [], 0
        for offset, size in ranges:
            while offset >= sum(requests[at]):
                at += 1
            start = offset - requests[at][0]
            parts.append(contents[at][start : start + size])
        return parts

    def _download(self, claim: Claim) -> None:
        piece, location = claim.piece, below(self.root, claim.piece.shard)
        for _ in range(2):  # damage on the way does not come twice
            digest = hashlib.sha256()
            for start in range(0, piece.size, _REQUEST_BYTES):
                first, size = piece.offset + start, min(_REQUEST_BYTES, piece.size - start)
                (content,) = call(location, lambda files, path, part=(first, size): _exact_ranges(files, path, [part]))  # type: ignore[misc]
                _write(claim.file, content, start)
                digest.update(content)
            if piece.is_whole:
                fault = "its sha256 is not that of shards.parquet" if digest.hexdigest() != piece.digest else ""
            else:
                video = self.index[self.samples.video_at(piece.shard, piece.offset)]
                fault = sample_fault(
                    video, lambda offset, size: os.pread(claim.file, size, offset - piece.offset), mp4=self.mp4
                )
                fault = fault and f"in sample {video.key}, {fault}"
            if not fault:
                claim.publish()
                return
        if not piece.is_whole and not _is_sample(os.pread(claim.file, BLOCK_BYTES, 0), video.key):
            raise ValueError(f"the store holds something else at byte {piece.offset}")
        # Most of it may be good: bad frames are found when they are decoded, as in a local shard.
        claim.publish(damaged=True)
        if not self.cache.already_warned(f"damaged {piece.digest}"):
            object_store.warn(
                self.root,
                f"{piece.shard} of {self.root} is damaged: {fault}. `tgprep check` finds the "
                "damaged samples, `tgprep check --repair` on a local copy repairs them",
            )


class _FetchAhead:
    """The threads of a process that fetch what is expected, soonest first."""

    def __init__(self, shards: RemoteShards) -> None:
        self.shards = shards
        self.needed: frozenset[str] = frozenset()  # names of the pieces of the plan, which must stay in the cache
        self.queue: list[Piece] = []  # those to be fetched, the soonest last
        self.upcoming: Callable[[], Iterable[Need]] | None = None  # announced since the last plan
        self.planned_at = 0.0
        self.num_threads = 0
        self.stopped = False
        self.changed = threading.Condition()

    def expect(self, upcoming: Callable[[], Iterable[Need]]) -> None:
        with self.changed:
            self.upcoming, self.stopped = upcoming, False
            if not self.needed:
                self._plan()  # the first read must know which shards are needed as a whole
            while self.num_threads < _NUM_THREADS:
                self.num_threads += 1
                threading.Thread(target=self._work, daemon=True).start()
            self.changed.notify_all()

    def catch_up(self) -> None:
        """Plan from the last announcement. A reader that must fetch by an older plan would evict what comes next."""
        with self.changed:
            self._plan()

    def stop(self) -> None:
        with self.changed:
            self.stopped, self.queue, self.upcoming, self.needed = True, [], None, frozenset()
            self.changed.notify_all()

    def _plan(self) -> None:
        if self.upcoming is None:
            return
        pieces: dict[str, Piece] = {}
        cached = self.shards.cache.pieces()
        room = self.shards.cache.num_bytes
        all_fits = sum(row.num_bytes for row in self.shards.rows) <= room
        needs = (need for need in self.upcoming() if not (self.shards.by_ranges and isinstance(need, str)))
        for piece in map(self.shards.piece, needs):
            whole = self.shards.whole[piece.shard].name
            if whole in pieces or (all_fits and whole in cached):
                continue  # the sample will be read from its shard
            room -= piece.size
            if room < 0:
                break
            pieces[piece.name] = piece
        self.needed = frozenset(pieces)
        self.queue = [piece for name, piece in pieces.items() if name not in cached][::-1]
        self.upcoming, self.planned_at = None, time.monotonic()

    def _next(self) -> Piece | None:
        with self.changed:
            while not self.stopped:
                wait_seconds = self.planned_at + _PLAN_SECONDS - time.monotonic()
                if wait_seconds <= 0:
                    self._plan()
                if self.queue:
                    return self.queue.pop()
                self.changed.wait(max(wait_seconds, 0.01) if self.upcoming is not None else None)
            self.num_threads -= 1
            return None

    def _work(self) -> None:
        while (piece := self._next()) is not None:
            try:
                with self.shards.cache.slot(_NUM_SLOTS) as is_free:
                    is_done = is_free and self.shards.fetch(piece, self.needed, evict_protected=False)
            except Exception:
                is_done = False  # the reader of the piece meets the same error and raises it
            if is_done:
                continue
            # Another process is fetching it, there is no room for it yet, or the store fails: fetch it after all others.
            with self.changed:
                is_alone = not self.queue
                if piece.name in self.needed and piece not in self.queue and not self.shards.cache.has(piece):
                    self.queue.insert(0, piece)
            time.sleep(_PLAN_SECONDS if is_alone else _PAUSE_SECONDS)


def joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The requests for (offset, size) ranges, rising: near ones are one request if all gaps add at most a quarter of the bytes."""
    largest_gap = sum(size for _, size in ranges) // (4 * len(ranges))
    requests: list[tuple[int, int]] = []
    for offset, size in ranges:
        if requests and offset - sum(requests[-1]) <= largest_gap:
            first, _ = requests.pop()
            requests.append((first, offset + size - first))
        else:
            requests.append((offset, size))
    return requests


def _exact_ranges(files: Any, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of (offset, size) ranges of a file, requested at once; an error if one is not of its size."""
    starts, ends = [start for start, _ in ranges], [start + size for start, size in ranges]
    contents: list[Any] = files.cat_ranges([path] * len(ranges), starts, ends, on_error="return")
    for content, (start, size) in zip(contents, ranges, strict=True):
        failed = isinstance(content, Exception)
        if not failed and len(content) == size:
            continue
        if not failed and len(content) > size:
            raise InputError(
                f"{path}: the server sends complete files when a part is requested, so nothing can be cached. "
                "Read it with --set data.reader=stream, or from a local copy."
            )
        # A range that begins behind the end is refused in place of cut short.
        if not failed or getattr(content, "errno", 0) == errno.EINVAL or getattr(content, "status", 0) == 416:
            stored_bytes = files.info(path)["size"]
            if stored_bytes is not None and stored_bytes < start + size:
                raise ValueError(f"the store holds {stored_bytes} bytes of it, expected at least {start + size}")
        raise content if failed else OSError(errno.EIO, f"{len(content)} of {size} bytes came")
    return contents


def _write(file: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        num_written = os.pwrite(file, view, offset)
        view, offset = view[num_written:], offset + num_written


def _is_sample(head: bytes, key: str) -> bool:
    """Whether a tar header belongs to a member of this sample."""
    try:
        return tarfile.TarInfo.frombuf(head, "utf-8", "strict").name.startswith(f"{key}.")
    except (tarfile.HeaderError, UnicodeDecodeError):
        return False


def sample_fault(video: StoredVideo, read: Callable[[int, int], bytes], *, mp4: bool) -> str:
    """What is wrong with the members of a sample; "" if nothing is.

    read: gives the bytes of (offset in the shard, size). mp4: the data set holds stored videos.
    """
    for kind in ("rgb", "tg", "flow"):
        index_offset, index_bytes, offset, num_bytes = video.members.place(kind)
        if offset < 0:
            continue
        is_video = mp4 and kind == "rgb"
        index_name, name = frame_members(kind, is_video)
        for member, start, size in ((index_name, index_offset, index_bytes), (name, offset, num_bytes)):
            if read(start - BLOCK_BYTES, BLOCK_BYTES) != member_header(f"{video.key}.{member}", size):
                return f"the tar header of its {member} is not the one of the manifest"
        try:
            offsets = decode_offsets(read(index_offset, index_bytes), mp4=is_video)
        except ValueError as error:
            return f"{index_name}: {error}"
        num_frames = video.num_frames - (kind != "rgb")
        if len(offsets) != num_frames + 1 or offsets[-1] > num_bytes or (offsets[-1] < num_bytes and not is_video):
            return f"{index_name} names {len(offsets) - 1} frames, expected {num_frames} that end at byte {num_bytes}"
        for frame, start in enumerate(() if is_video else offsets[:-1].tolist()):
            if read(offset + start, 2) != _JPEG_START:
                return f"{kind.upper()} frame {frame} does not begin as a JPEG file"
    return ""
