"""The tar structure of a whole shard at once: a quick answer for shards that are in order, which is nearly all of them.

What lies between the frames (headers, facts, indices, padding) is kept while the shard is read for its digest, so that it is read once, and compared
as arrays. `structure_holds` only says whether everything is as the tables say; where it is not, the walk of `verify_shard` tells what is wrong.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from manifests.records import ManifestHeader
from manifests.sample import (
    BLOCK_BYTES,
    ROW_FACTS,
    Meta,
    encode_offsets,
    flow_method,
    frame_members,
    json_member,
    member_headers,
    quality_facts,
    video_gop,
)

Ints = npt.NDArray[np.int64]
_SIZE_FIELD = slice(124, 135)
_MAX_GAP_BYTES = 256 * 1024 * 1024  # of a shard: between the frames of one sample and the next lie kilobytes


def gap_places(rows: pa.Table, header: ManifestHeader) -> Ints | None:
    """int64[N, P, 2]: the half-open byte ranges of a shard outside of its frames, P of each of N samples, in whole blocks and in order.

    rows: its written videos in the order of their offsets, as in videos.parquet. None where they cannot be those of a sound shard.
    """
    if not rows.num_rows or any(rows.column(name).null_count for name in rows.column_names):
        return None
    kinds = _kinds(header)
    if any(f"{kind}_offset" not in rows.column_names for kind in kinds):
        return None
    starts = _number(rows, "sample_offset")
    frames_at = [_number(rows, f"{kind}_offset") for kind in kinds]
    frames_end = [at + _number(rows, f"{kind}_bytes") for at, kind in zip(frames_at, kinds, strict=True)]
    # Up to a sample's first frame, then from the last block of one kind of frames to the first frame of the next.
    first = [starts, *(end - end % BLOCK_BYTES for end in frames_end)]
    last = [*frames_at, _up(frames_end[-1])]
    places = np.stack([np.stack(first, axis=1), np.stack(last, axis=1)], axis=2)
    flat = places.ravel()
    sound = flat[0] >= 0 and np.all(flat[1:] >= flat[:-1]) and not np.any(flat % BLOCK_BYTES)
    return places if sound and int((places[..., 1] - places[..., 0]).sum()) <= _MAX_GAP_BYTES else None


def structure_holds(gaps: bytes, places: Ints, rows: pa.Table, header: ManifestHeader) -> bool:
    """Whether every byte of the samples outside of their frames is what the tables and docs/format.md say, from byte 0 on;
    of the numbers of an index that the first and last are right and all rise.

    gaps: the bytes of the shard at `gap_places`, one after the other.
    """
    try:
        return _holds(Gaps(gaps, places), rows, header)
    except (ValueError, IndexError):
        return False


def _holds(gaps: Gaps, rows: pa.Table, header: ManifestHeader) -> bool:
    starts = _number(rows, "sample_offset")
    ends = starts + _number(rows, "sample_bytes")
    if starts[0] != 0 or not np.array_equal(starts[1:], ends[:-1]):
        return False
    mp4, kinds = bool(video_gop(header)), _kinds(header)
    index_at = [_number(rows, f"{kind}_index_offset") for kind in kinds]
    index_bytes = [_number(rows, f"{kind}_index_bytes") for kind in kinds]
    frames_at = [_number(rows, f"{kind}_offset") for kind in kinds]
    frames_bytes = [_number(rows, f"{kind}_bytes") for kind in kinds]
    num_frames = [_number(rows, "num_frames") - (kind != "rgb") for kind in kinds]
    for have, count in zip(index_bytes, num_frames, strict=True):
        if np.any((have != 8 * (count + 1) + _NPY_HEAD) | (count < 1)):
            return False
    json_bytes = gaps.sizes(starts)
    places, sizes = [starts], [json_bytes]
    for kind in range(len(kinds)):
        places += [index_at[kind] - BLOCK_BYTES, frames_at[kind] - BLOCK_BYTES]
        sizes += [index_bytes[kind], frames_bytes[kind]]
    piece_of = [
        place for place in range(len(kinds)) for _ in range(2)
    ]  # where the headers of index and frames were read
    member_ends = [place + BLOCK_BYTES + size for place, size in zip(places, sizes, strict=True)]
    following = [*places[1:], ends]
    if any(not np.array_equal(_up(end), place) for end, place in zip(member_ends, following, strict=True)):
        return False
    keys = rows.column("key").to_pylist()
    suffixes = ["json", *(name for kind in kinds for name in frame_members(kind, mp4 and kind == "rgb"))]
    for suffix, place, size, piece in zip(suffixes, places, sizes, [0, *piece_of], strict=True):
        wanted = member_headers([f"{key}.{suffix}" for key in keys], size)
        if not np.array_equal(gaps.blocks(place, piece), wanted):
            return False
    # The block in which a member ends lies in the piece of its header, that of frames in the next one.
    end_pieces = [0, *(place for kind in range(len(kinds)) for place in (kind, kind + 1))]
    if not all(gaps.zeros_behind(end, piece) for end, piece in zip(member_ends, end_pieces, strict=True)):
        return False
    for kind in range(len(kinds)):
        stored_video = mp4 and kind == 0
        if not gaps.index_rises(index_at[kind], kind, num_frames[kind], frames_bytes[kind], mp4=stored_video):
            return False
    return gaps.contents(starts + BLOCK_BYTES, json_bytes) == _facts(rows, header)


class Gaps:
    """The bytes of a shard between its frames, at the places of `gap_places`. ValueError where they are too few."""

    def __init__(self, content: bytes, places: Ints) -> None:
        sizes = places[..., 1] - places[..., 0]
        if len(content) != int(sizes.sum()):
            raise ValueError("the shard ends before its samples")
        self.content = content
        self.bytes = np.frombuffer(self.content, np.uint8)
        begins = np.concatenate([[0], np.cumsum(sizes.ravel())[:-1]]).reshape(sizes.shape)
        self.shift = begins - places[..., 0]  # from a place in the shard to one in what was read

    def blocks(self, places: Ints, piece: int) -> npt.NDArray[np.uint8]:
        """uint8[N, 512]: the block at a place of each sample."""
        blocks: npt.NDArray[np.uint8] = self.bytes.reshape(-1, BLOCK_BYTES)[
            (places + self.shift[:, piece]) // BLOCK_BYTES
        ]
        return blocks

    def sizes(self, places: Ints) -> Ints:
        """int64[N]: the sizes that the tar headers at these places name."""
        digits = self.blocks(places, 0)[:, _SIZE_FIELD].astype(np.int64) - ord("0")
        if np.any((digits < 0) | (digits > 7)):
            raise ValueError("no tar header")
        return digits @ (8 ** np.arange(10, -1, -1))

    def zeros_behind(self, ends: Ints, piece: int) -> bool:
        """Whether the bytes from each end to the end of its block are zero."""
        filled = ends % BLOCK_BYTES
        torn = np.flatnonzero(filled)
        blocks = self.bytes.reshape(-1, BLOCK_BYTES)[(ends + self.shift[:, piece])[torn] // BLOCK_BYTES]
        return not np.any(
            (blocks != 0) & (np.arange(BLOCK_BYTES, dtype=np.int16) >= filled[torn, None].astype(np.int16))
        )

    def index_rises(self, places: Ints, piece: int, num_frames: Ints, num_bytes: Ints, *, mp4: bool) -> bool:
        """Whether the .offsets.npy members at these places have T+1 numbers that start at 0 (mp4: behind it), rise, and end
        with the bytes of the frames (mp4: before them)."""
        at = places + self.shift[:, piece]
        for place, count in zip(at.tolist(), num_frames.tolist(), strict=True):
            if self.content[place : place + _NPY_HEAD] != _npy_head(count + 1):
                return False
        numbers = self.bytes.view("<u8")
        first = (at + _NPY_HEAD) // 8
        last = first + num_frames
        bounds = np.stack([first, last], axis=1).ravel()
        rises = np.logical_and.reduceat(numbers[1:] > numbers[:-1], bounds)[
            ::2
        ]  # of first:last, not of what lies between
        ends = numbers[last].astype(np.int64)
        inside = ends < num_bytes if mp4 else ends == num_bytes
        return bool(np.all(rises) and np.all((numbers[first] > 0) == mp4) and np.all(inside))

    def contents(self, places: Ints, sizes: Ints) -> list[bytes]:
        """The bytes at these places of the first piece of each sample."""
        at = (places + self.shift[:, 0]).tolist()
        return [self.content[place : place + size] for place, size in zip(at, sizes.tolist(), strict=True)]


_NPY_HEAD = len(encode_offsets([0])) - 8


@lru_cache(maxsize=4096)
def _npy_head(count: int) -> bytes:
    return encode_offsets(np.zeros(count, np.uint64).tolist())[:_NPY_HEAD]


def _kinds(header: ManifestHeader) -> list[str]:
    return ["rgb"] + ["tg"] * header.gradient.stored + ["flow"] * bool(flow_method(header.settings))


def _number(rows: pa.Table, name: str) -> Ints:
    return np.asarray(rows.column(name).to_numpy(), np.int64)


def _up(places: Ints) -> Ints:
    """The end of the block in which each place lies."""
    return places + -places % BLOCK_BYTES


def _facts(rows: pa.Table, header: ManifestHeader) -> list[bytes]:
    """The .json members that the tables ask for."""
    common = common_facts(header)
    columns = [rows.column(name).to_pylist() for name in ROW_FACTS.values()]
    return [json_member(dict(zip(ROW_FACTS, values, strict=True)) | common) for values in zip(*columns, strict=True)]


def common_facts(header: ManifestHeader) -> Meta:
    """The fields of a .json member that are the same in every sample of a data set, as far as its header knows them."""
    gradient = header.gradient
    return {
        **quality_facts(header.settings),
        "gradient_source": gradient.source,
        "gradient_space": gradient.space,
    }
