"""The tar structure of a whole shard at once: a quick answer for shards that are in order, which is nearly all of them.

`structure_holds` reads what lies between the frames (headers, facts, indices, padding) with few reads and compares it as arrays, about ten times as
fast as `verify_shard` walks it. It only says whether everything is as the tables say; where it is not, the walk tells what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
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

Read = Callable[[int, int], bytes]
Ints = npt.NDArray[np.int64]
_SIZE_FIELD = slice(124, 135)
_MAX_GAP_BYTES = 64 * 1024 * 1024  # between the frames of one sample and the next lie kilobytes


def structure_holds(read: Read, rows: pa.Table, header: ManifestHeader) -> bool:
    """Whether every byte of the samples outside of their frames is what the tables and docs/format.md say, from byte 0 on;
    of the numbers of an index that the first and last are right and all rise.

    read: gives (offset, number of bytes) of the shard. rows: its written videos in the order of their offsets, as in videos.parquet.
    """
    try:
        whole = not any(rows.column(name).null_count for name in rows.column_names)
        return not rows.num_rows or (whole and _holds(read, rows, header))
    except (ValueError, IndexError, KeyError):
        return False


def _holds(read: Read, rows: pa.Table, header: ManifestHeader) -> bool:
    def number(name: str) -> Ints:
        return np.asarray(rows.column(name).to_numpy(), np.int64)

    starts, ends = number("sample_offset"), number("sample_offset") + number("sample_bytes")
    if starts[0] != 0 or not np.array_equal(starts[1:], ends[:-1]):
        return False
    mp4 = bool(video_gop(header))
    kinds = ["rgb"] + ["tg"] * header.gradient.stored + ["flow"] * bool(flow_method(header.settings))
    index_at = [number(f"{kind}_index_offset") for kind in kinds]
    index_bytes = [number(f"{kind}_index_bytes") for kind in kinds]
    frames_at = [number(f"{kind}_offset") for kind in kinds]
    frames_bytes = [number(f"{kind}_bytes") for kind in kinds]
    frames_end = [at + size for at, size in zip(frames_at, frames_bytes, strict=True)]
    num_frames = [number("num_frames") - (kind != "rgb") for kind in kinds]
    if any(
        np.any((have != 8 * (count + 1) + _NPY_HEAD) | (count < 1))
        for have, count in zip(index_bytes, num_frames, strict=True)
    ):
        return False
    # What is read of a sample: up to its first frame, then from the last block of one kind of frames to the first frame of the next.
    first = [starts, *(end - end % BLOCK_BYTES for end in frames_end)]
    last = [*frames_at, _up(frames_end[-1])]
    gaps = Gaps(read, np.stack(first, axis=1), np.stack(last, axis=1))
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
    """The bytes of a shard between its frames. first, last: int64[N, P], the half-open byte ranges read for each of N samples,
    whole blocks. ValueError where they cannot be those of a sound shard.
    """

    def __init__(self, read: Read, first: Ints, last: Ints) -> None:
        sizes = last - first
        if (
            np.any(sizes < 0)
            or np.any(first < 0)
            or np.any(sizes > _MAX_GAP_BYTES)
            or np.any((first | last) % BLOCK_BYTES)
        ):
            raise ValueError("no places of members")
        self.content = b"".join(map(read, first.ravel().tolist(), sizes.ravel().tolist()))
        if len(self.content) != int(sizes.sum()):
            raise ValueError("the shard ends before its samples")
        self.bytes = np.frombuffer(self.content, np.uint8)
        begins = np.concatenate([[0], np.cumsum(sizes.ravel())[:-1]]).reshape(sizes.shape)
        self.shift = begins - first  # from a place in the shard to one in what was read

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
