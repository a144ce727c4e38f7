"""One shard against the tables: its digest, every byte of its tar structure, the facts of each sample, and its frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from manifests.files import digest_of, open_location
from manifests.manifest_io import join
from manifests.records import ManifestHeader, ShardRow, VideoRow
from manifests.sample import (
    BLOCK_BYTES,
    RECORD_BYTES,
    Meta,
    decode_offsets,
    flow_method,
    frame_members,
    json_member,
    member_header,
    row_facts,
    video_gop,
)
from manifests.table import VideoTable
from tgprep.check.frames import FrameError, check_frames, decode
from tgprep.check.shard_bulk import common_facts, gap_places, structure_holds

_MAX_FACTS_BYTES = 1024 * 1024
_SIZE_FIELD = slice(124, 135)  # of a ustar header: octal digits


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong. place: file, and the video in it; kind: a short stable word; mend: what to do."""

    place: str
    kind: str
    message: str
    mend: str


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What was found in a shard. damaged: its bytes are not those that were written. num_frames: JPEG files decoded."""

    name: str
    findings: tuple[Finding, ...]
    damaged: bool
    num_bytes: int = 0
    num_frames: int = 0


class _SampleError(Exception):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def check_shard(
    root: str, header: ManifestHeader, shard: ShardRow, rows: VideoTable, *, deep: bool, mend: str
) -> ShardReport:
    """Check one shard. rows: its written videos in the order of their offsets. deep: decode every frame, recompute TG."""
    found: list[Finding] = []
    num_frames = 0

    def add(key: str, kind: str, message: str) -> None:
        found.append(Finding(f"{shard.name}, {key}" if key else shard.name, kind, message, mend))

    try:
        file = open_location(join(root, shard.name))
    except FileNotFoundError:
        add("", "shard-missing", f"the file is missing ({len(rows)} videos)")
        return ShardReport(shard.name, tuple(found), True)
    except OSError as error:
        add("", "shard-unreadable", f"the file cannot be opened: {error.strerror or error}")
        return ShardReport(shard.name, tuple(found), True)
    with file:
        try:
            places = None if deep else gap_places(rows.arrow, header)
            sha256, num_bytes, gaps = digest_of(file, places)
            damaged = (sha256, num_bytes) != (shard.sha256, shard.num_bytes)
            if num_bytes != shard.num_bytes:
                add("", "shard-size", f"{num_bytes} bytes, expected {shard.num_bytes} (shards.parquet)")
            elif damaged:
                add("", "shard-digest", f"sha256 {sha256[:16]}…, expected {shard.sha256[:16]}… (shards.parquet)")
            end = 0
            if places is not None and not damaged and structure_holds(gaps, places, rows.arrow, header):
                end = pc.max(pc.add(rows.arrow["sample_offset"], rows.arrow["sample_bytes"])).as_py() or 0
                rows = rows.take(())  # nothing is left to be looked at one by one
            for row in rows:
                try:
                    if row.sample_offset != end:
                        raise _SampleError("sample-place", f"it begins at {row.sample_offset}, expected {end}")
                    indices = _check_structure(file, row, header)
                    if deep:
                        count, problems = _check_deep(file, row, header, indices)
                        num_frames += count
                        if problems:
                            more = f"; and {len(problems) - 3} more frames" if len(problems) > 3 else ""
                            add(row.key, "frames", "; ".join(problems[:3]) + more)
                except _SampleError as error:
                    add(row.key, error.kind, str(error))
                end = row.sample_offset + row.sample_bytes
            _check_end(file, end, num_bytes, add)
        except OSError as error:
            add("", "shard-unreadable", f"reading failed: {error.strerror or error}")
            return ShardReport(shard.name, tuple(found), True)
    return ShardReport(shard.name, tuple(found), damaged, num_bytes, num_frames)


def expected_facts(row: VideoRow, header: ManifestHeader) -> Meta:
    """What the .json member of a video must say, as far as the tables know it."""
    return {**row_facts(row), **common_facts(header)}


def _read(file: BinaryIO, offset: int, num_bytes: int, what: str) -> bytes:
    file.seek(offset)
    content = file.read(num_bytes)
    if len(content) != num_bytes:
        raise _SampleError("cut-off", f"{what}: the shard ends before it")
    return content


def _padding(num_bytes: int) -> int:
    return -num_bytes % BLOCK_BYTES


def _check_structure(file: BinaryIO, row: VideoRow, header: ManifestHeader) -> dict[str, npt.NDArray[np.uint64]]:
    """Headers, order, places and padding of the members, facts and frame offsets; gives the offsets by kind."""
    place = row.sample_offset
    block = _read(file, place, BLOCK_BYTES, "the sample")
    try:
        size = int(block[_SIZE_FIELD], 8)
    except ValueError:
        raise _SampleError("tar-header", f"no tar header at byte {place}") from None
    content, place = _member(file, place, f"{row.key}.json", size, limit=_MAX_FACTS_BYTES)
    _check_facts(content, row, header)
    indices: dict[str, npt.NDArray[np.uint64]] = {}
    kinds = [("rgb", row.num_frames)]
    if header.gradient.stored:
        kinds.append(("tg", row.num_frames - 1))
    if flow_method(header.settings):
        kinds.append(("flow", row.num_frames - 1))
    for kind, num_frames in kinds:
        index_offset, index_bytes, offset, num_bytes = row.members.place(kind)
        mp4 = kind == "rgb" and bool(video_gop(header))
        index_name, name = frame_members(kind, mp4)
        _same_place(index_name, place + BLOCK_BYTES, index_offset)
        content, place = _member(file, place, f"{row.key}.{index_name}", index_bytes, limit=index_bytes)
        try:
            found = indices[kind] = decode_offsets(content, mp4=mp4)
        except ValueError as error:
            raise _SampleError("offsets", f"{index_name}: {error}") from None
        if len(found) != num_frames + 1 or not (found[-1] < num_bytes if mp4 else found[-1] == num_bytes):
            raise _SampleError(
                "offsets",
                f"{index_name}: {len(found) - 1} frames of {found[-1]} bytes, expected {num_frames} of {num_bytes}",
            )
        _same_place(name, place + BLOCK_BYTES, offset)
        _, place = _member(file, place, f"{row.key}.{name}", num_bytes, limit=0)
    if place != row.sample_offset + row.sample_bytes:
        raise _SampleError("sample-place", f"it ends at {place}, expected {row.sample_offset + row.sample_bytes}")
    return indices


def _same_place(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise _SampleError("member-place", f"{name} begins at {found}, videos.parquet says {expected}")


def _member(file: BinaryIO, place: int, name: str, num_bytes: int, limit: int) -> tuple[bytes, int]:
    """Check header and padding of the member at `place`; gives its content (none where limit is 0) and where the next begins."""
    if _read(file, place, BLOCK_BYTES, name) != member_header(name, num_bytes):
        raise _SampleError("tar-header", f"the tar header at byte {place} is not that of {name} with {num_bytes} bytes")
    start = place + BLOCK_BYTES
    if limit and num_bytes > limit:
        raise _SampleError("tar-header", f"{name} has {num_bytes} bytes: too many")
    content = _read(file, start, num_bytes, name) if limit else b""
    if _read(file, start + num_bytes, _padding(num_bytes), name).strip(b"\0"):
        raise _SampleError("padding", f"the padding after {name} is not zero")
    return content, start + num_bytes + _padding(num_bytes)


def _check_facts(content: bytes, row: VideoRow, header: ManifestHeader) -> None:
    expected = expected_facts(row, header)
    if json_member(expected) == content:
        return
    try:
        facts = json.loads(content)
    except ValueError as error:
        raise _SampleError("facts", f"the .json member is not valid ({error})") from None
    if not isinstance(facts, dict) or any(type(value) not in (str, int, float) for value in facts.values()):
        raise _SampleError("facts", "the .json member is not a flat object of texts and numbers")
    wrong = [
        f"{name} {facts.get(name)!r}, expected {value!r}"
        for name, value in expected.items()
        if type(facts.get(name)) is not type(value) or facts[name] != value
    ]
    if wrong:
        raise _SampleError("facts", f"the .json member differs from videos.parquet: {'; '.join(wrong[:4])}")
    if json_member(facts) != content:
        raise _SampleError("facts", "the .json member is not written as the format says")


def _check_deep(
    file: BinaryIO, row: VideoRow, header: ManifestHeader, indices: dict[str, npt.NDArray[np.uint64]]
) -> tuple[int, list[str]]:
    def frames(kind: str, start: int) -> Iterator[bytes]:
        bounds = indices[kind].astype(np.int64).tolist()
        for first, last in zip(bounds, bounds[1:], strict=False):
            yield _read(file, start + first, last - first, f"{kind}.mjpeg")

    if gop := video_gop(header):
        count, problems = _check_mp4(file, row, gop, indices["rgb"])
    else:
        tg = frames("tg", row.members.tg_offset) if "tg" in indices else None
        rgb = frames("rgb", row.members.rgb_offset)
        count, problems = check_frames(rgb, tg, header.gradient, row.height, row.width)
    for number, jpeg in enumerate(frames("flow", row.members.flow_offset) if "flow" in indices else ()):
        count += 1
        try:
            decode(jpeg, row.height, row.width, "RGB")
        except FrameError as error:
            problems.append(f"flow frame {number}: {error}")
    return count, problems


def _check_mp4(file: BinaryIO, row: VideoRow, gop: int, index: npt.NDArray[np.uint64]) -> tuple[int, list[str]]:
    """Every picture where the index says, and every frame decoded; gives the frames that decode, and what is wrong."""
    from tgprep.decode.stored import MemberFile, stored_planes
    from tgprep.encode.h264 import picture_offsets

    problems, count = [], 0
    member = MemberFile(file, row.members.rgb_offset, row.members.rgb_bytes)
    try:
        if picture_offsets(cast(BinaryIO, member), row.num_frames, gop) != index.tolist():
            problems.append("mp4.offsets.npy does not say where the pictures of the mp4 lie")
    except ValueError as error:
        problems.append(f"mp4: {error}")
    try:
        for _ in stored_planes(file, row):
            count += 1
        if count != row.num_frames:
            problems.append(f"{count} frames decode, expected {row.num_frames}")
    except ValueError as error:
        problems.append(f"after {count} of {row.num_frames} frames: {error}")
    return count, problems


def _check_end(file: BinaryIO, end: int, num_bytes: int, add: Callable[[str, str, str], None]) -> None:
    wanted = end + 2 * BLOCK_BYTES
    wanted += -wanted % RECORD_BYTES
    if num_bytes != wanted:
        add("", "tar-end", f"the archive has {num_bytes} bytes, its samples and its end take {wanted}")
        return
    file.seek(end)
    if any(file.read(wanted - end)):
        add("", "tar-end", f"the end of the archive (from byte {end}) is not zero")
