"""Pairs of videos that may be copies: hashes that agree in groups of bits, found by sorting instead of comparing all pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tgprep.duplicates.hashes import MIRROR, Hashes, VideoHashes

_NUM_TABLES = 10
# Bits of the keys of a table, from the lowest frequencies: about as many keys as there are pictures.
_MIN_KEY_BITS, _MAX_KEY_BITS = 12, 27
_FROM_BITS = 40
_MAX_DIFFERENT = 14  # of 64 bits
_MAX_BUCKET = 400  # pictures of one key; more is a common picture (a title, a dark room) that says nothing
# More pairs than this are cut to the most similar ones of each video, as first and as second: among millions some are alike by chance.
_MANY, _MAX_PER_VIDEO = 1 << 20, 8
_PIECE = 1 << 21  # pairs that are compared at once
_ONES = np.array([bin(number).count("1") for number in range(1 << 16)], np.uint8)


class Candidate(NamedTuple):
    """Two videos that may be copies: the whole picture of `second` looks like a part of that of `first`."""

    first: int
    second: int
    first_frame: int  # places in the VideoHashes of the video
    second_frame: int
    window: int
    mirrored: bool
    num_different: int  # bits


@dataclass(frozen=True, slots=True)
class _Pictures:
    """All hashes of all videos in one array [N, W], and where each comes from."""

    hashes: Hashes
    video: npt.NDArray[np.int32]
    frame: npt.NDArray[np.int16]


def find_candidates(videos: Sequence[VideoHashes]) -> list[Candidate]:
    """The pairs that share a key and differ in few bits, each by its best pictures; sorted."""
    counts = [len(video.frames) for video in videos]
    if not sum(counts):
        return []
    pictures = _Pictures(
        np.concatenate([video.hashes for video in videos]),
        np.repeat(np.arange(len(videos), dtype=np.int32), counts),
        np.concatenate([np.arange(count, dtype=np.int16) for count in counts]),
    )
    num_bits = int(np.clip(np.log2(pictures.hashes.size), _MIN_KEY_BITS, _MAX_KEY_BITS))
    best = np.empty((0, 7), np.int32)
    generator = np.random.default_rng(0)
    for _ in range(_NUM_TABLES):
        bits = generator.choice(_FROM_BITS, num_bits, replace=False)
        mask = np.uint64(sum(1 << int(bit) for bit in bits))
        found, count = [best], 0
        for rows in _table_pairs(pictures, mask):
            found.append(rows)
            count += len(rows)
            if count > max(_PIECE, len(best)):
                best = _most_similar(_best_of(found))
                found, count = [best], 0
        best = _most_similar(_best_of(found))
    return [Candidate(row[0], row[1], row[2], row[3], row[4], bool(row[5]), row[6]) for row in best.tolist()]


def _table_pairs(pictures: _Pictures, mask: np.uint64) -> Iterator[npt.NDArray[np.int32]]:
    """The pairs of one table, some at a time."""
    num_windows = pictures.hashes.shape[1]
    keys = pictures.hashes.ravel() & mask
    order = np.argsort(keys)
    keys = keys[order]
    for mirrored in (False, True):
        whole = pictures.hashes[:, 0] ^ (MIRROR if mirrored else np.uint64(0))
        own = whole & mask
        asked = np.argsort(own)  # neighbours are looked up one after the other: the table is larger than the caches
        low, high = np.searchsorted(keys, own[asked], "left"), np.searchsorted(keys, own[asked], "right")
        counts = np.where(high - low > _MAX_BUCKET, 0, high - low)
        ends = np.cumsum(counts)
        start = 0
        while start < len(own):
            base = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, base + _PIECE, "right")))
            places = np.repeat(np.arange(start, stop), counts[start:stop])
            within = np.arange(len(places)) - np.repeat(
                ends[start:stop] - counts[start:stop] - base, counts[start:stop]
            )
            queries, others = asked[places], order[low[places] + within]
            rows, windows = others // num_windows, others % num_windows
            different = count_different(whole[queries], pictures.hashes[rows, windows])
            kept = (different <= _MAX_DIFFERENT) & (pictures.video[queries] != pictures.video[rows])
            rows, queries = rows[kept], queries[kept]
            columns = pictures.video[rows], pictures.video[queries], pictures.frame[rows], pictures.frame[queries]
            flags = np.full(len(rows), mirrored)
            yield np.column_stack([*columns, windows[kept], flags, different[kept]]).astype(np.int32)
            start = stop


def _best_of(found: list[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
    """Of each pair of videos, in either order, the row with the fewest different bits."""
    rows = np.concatenate(found)
    low, high = np.minimum(rows[:, 0], rows[:, 1]), np.maximum(rows[:, 0], rows[:, 1])
    rows = rows[np.lexsort((*rows.T[:6], rows[:, 6], high, low))]
    low, high = np.minimum(rows[:, 0], rows[:, 1]), np.maximum(rows[:, 0], rows[:, 1])
    first = np.ones(len(rows), bool)
    first[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    return rows[first]


def _most_similar(rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The rows that are among the best of their first or of their second video; all if they are not many."""
    if len(rows) <= _MANY:
        return rows
    kept = np.zeros(len(rows), bool)
    for column in (0, 1):
        order = np.lexsort((rows[:, 6], rows[:, column]))
        videos = rows[order, column]
        rank = np.arange(len(rows)) - np.searchsorted(videos, videos)
        kept[order] |= rank < _MAX_PER_VIDEO
    return rows[kept]


def count_different(first: Hashes, second: Hashes) -> npt.NDArray[np.uint8]:
    """Number of bits in which hashes differ."""
    parts = np.ascontiguousarray(first ^ second).view(np.uint16)
    counts: npt.NDArray[np.uint8] = _ONES[parts].reshape(*first.shape, 4).sum(axis=-1, dtype=np.uint8)
    return counts
