"""Check one shard against the tables: its sha256, and on request or after damage its tar structure, facts and frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from manifests.files import digest_of, open_location
from manifests.manifest_io import join
from manifests.records import ManifestHeader, ShardRow, VideoRow
from manifests.sample import (
    BLOCK_BYTES,
    RECORD_BYTES,
    decode_offsets,
    flow_method,
    frame_members,
    json_member,
    member_header,
    sample_facts,
    video_gop,
)
from manifests.table import Manifest, VideoTable
from tgprep.check.frames import FrameError, check_frames, decode
from tgprep.check.tables import ShardRows

_MAX_FACTS_BYTES = 1024 * 1024
_SIZE_FIELD = slice(124, 135)  # of a ustar header: octal digits

Offsets = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong. `tgprep check --json` prints these fields."""

    place: str
    """File, and the video in it."""
    kind: str
    """A short stable word."""
    message: str
    mend: str
    """What to do."""


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What the check of one shard found."""

    name: str
    findings: tuple[Finding, ...]
    damaged: bool
    """Its bytes are not those that were written."""
    num_bytes: int = 0
    num_frames: int = 0
    """Frames that were decoded."""


class _SampleError(Exception):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def check_shard(manifest: Manifest, shard_rows: ShardRows, shard: ShardRow, *, deep: bool, mend: str) -> ShardReport:
    """Check the bytes of a shard against its recorded sha256. deep: also every sample, and decode every frame."""
    findings: list[Finding] = []

    def add(key: str, kind: str, message: str) -> None:
        findings.append(Finding(f"{shard.name}, {key}" if key else shard.name, kind, message, mend))

    num_bytes = num_frames = 0
    damaged = True
    try:
        with open_location(join(manifest.root, shard.name)) as file:
            sha256, num_bytes = digest_of(file)
            damaged = (sha256, num_bytes) != (shard.sha256, shard.num_bytes)
            if num_bytes != shard.num_bytes:
                add("", "shard-size", f"{num_bytes} bytes, expected {shard.num_bytes} (shards.parquet)")
            elif damaged:
                add("", "shard-digest", f"sha256 {sha256[:16]}…, expected {shard.sha256[:16]}… (shards.parquet)")
            # The recorded sha256 vouches for every byte of an intact shard. In a damaged one, the walk over
            # the samples finds those that the damage hit.
            if damaged or deep:
                rows = shard_rows.rows(shard.name)
                num_frames = _check_samples(file, rows, manifest.header, deep, add)
                end = rows[-1].sample_offset + rows[-1].sample_bytes if len(rows) else 0
                if problem := _end_problem(file, end, num_bytes):
                    add("", "tar-end", problem)
    except FileNotFoundError:
        add("", "shard-missing", f"the file is missing ({shard.num_videos} videos)")
    except OSError as error:
        damaged = True
        add("", "shard-unreadable", f"the file cannot be read: {error.strerror or error}")
    return ShardReport(shard.name, tuple(findings), damaged, num_bytes, num_frames)


def _check_samples(
    file: BinaryIO, rows: VideoTable, header: ManifestHeader, deep: bool, add: Callable[[str, str, str], None]
) -> int:
    """Check every sample of a shard, report problems as add(key, kind, message), return the number of decoded frames."""
    num_frames = end = 0
    for row in rows:
        try:
            if row.sample_offset != end:
                raise _SampleError("sample-place", f"it begins at {row.sample_offset}, expected {end}")
            indices = _check_structure(file, row, header)
            if deep:
                count, problems = _decode_frames(file, row, header, indices)
                num_frames += count
                if problems:
                    more = f"; and {len(problems) - 3} more frames" if len(problems) > 3 else ""
                    add(row.key, "frames", "; ".join(problems[:3]) + more)
        except _SampleError as error:
            add(row.key, error.kind, str(error))
        end = row.sample_offset + row.sample_bytes
    return num_frames


def _read(file: BinaryIO, offset: int, num_bytes: int, name: str) -> bytes:
    file.seek(offset)
    content = file.read(num_bytes)
    if len(content) != num_bytes:
        raise _SampleError("cut-off", f"{name}: the shard ends before it")
    return content


def _check_structure(file: BinaryIO, row: VideoRow, header: ManifestHeader) -> dict[str, Offsets]:
    """Check headers, order, offsets and padding of the members, the facts and the indices; return the indices by kind."""
    offset = row.sample_offset
    block = _read(file, offset, BLOCK_BYTES, "the sample")
    try:
        num_facts_bytes = int(block[_SIZE_FIELD], 8)
    except ValueError:
        raise _SampleError("tar-header", f"no tar header at byte {offset}") from None
    if num_facts_bytes > _MAX_FACTS_BYTES:
        raise _SampleError("tar-header", f"{row.key}.json has {num_facts_bytes} bytes: too many")
    content, offset = _member(file, offset, f"{row.key}.json", num_facts_bytes)
    _check_facts(content, row, header)

    # The indices and frames of RGB, TG and flow follow in this order, each as far as the data set stores it.
    indices: dict[str, Offsets] = {}
    kinds = ["rgb"] + ["tg"] * header.gradient.stored + ["flow"] * bool(flow_method(header.settings))
    for kind in kinds:
        num_frames = row.num_frames - (kind != "rgb")
        index_offset, index_bytes, frames_offset, frames_bytes = row.members.place(kind)
        mp4 = kind == "rgb" and bool(video_gop(header))
        index_name, name = frame_members(kind, mp4)
        _same_offset(index_name, offset + BLOCK_BYTES, index_offset)
        content, offset = _member(file, offset, f"{row.key}.{index_name}", index_bytes)
        try:
            index = indices[kind] = decode_offsets(content, mp4=mp4)
        except ValueError as error:
            raise _SampleError("offsets", f"{index_name}: {error}") from None
        if len(index) != num_frames + 1 or not (index[-1] < frames_bytes if mp4 else index[-1] == frames_bytes):
            found, expected = f"{len(index) - 1} frames of {index[-1]} bytes", f"{num_frames} of {frames_bytes}"
            raise _SampleError("offsets", f"{index_name}: {found}, expected {expected}")
        _same_offset(name, offset + BLOCK_BYTES, frames_offset)
        _, offset = _member(file, offset, f"{row.key}.{name}", frames_bytes, read=False)
    if offset != row.sample_offset + row.sample_bytes:
        raise _SampleError("sample-place", f"it ends at {offset}, expected {row.sample_offset + row.sample_bytes}")
    return indices


def _same_offset(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise _SampleError("member-place", f"{name} begins at {found}, videos.parquet says {expected}")


def _member(file: BinaryIO, offset: int, name: str, num_bytes: int, *, read: bool = True) -> tuple[bytes, int]:
    """Check header and padding of the member at `offset`; return its content (empty unless `read`) and the next offset."""
    if _read(file, offset, BLOCK_BYTES, name) != member_header(name, num_bytes):
        raise _SampleError(
            "tar-header", f"the tar header at byte {offset} is not that of {name} with {num_bytes} bytes"
        )
    start, padding = offset + BLOCK_BYTES, -num_bytes % BLOCK_BYTES
    content = _read(file, start, num_bytes, name) if read else b""
    if any(_read(file, start + num_bytes, padding, name)):
        raise _SampleError("padding", f"the padding after {name} is not zero")
    return content, start + num_bytes + padding


def _check_facts(content: bytes, row: VideoRow, header: ManifestHeader) -> None:
    expected = sample_facts(row, header.settings, header.gradient)
    if json_member(expected) == content:
        return
    # Not the bytes that this version would write: find out why, or whether only unknown facts were added.
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


def _decode_frames(
    file: BinaryIO, row: VideoRow, header: ManifestHeader, indices: dict[str, Offsets]
) -> tuple[int, list[str]]:
    """Decode every frame of a sample; return the number of frames and what is wrong."""

    def frames(kind: str, start: int) -> Iterator[bytes]:
        bounds = indices[kind].astype(np.int64).tolist()
        for first, last in zip(bounds, bounds[1:], strict=False):
            yield _read(file, start + first, last - first, f"{kind}.mjpeg")

    if gop := video_gop(header):
        count, problems = _decode_mp4(file, row, gop, indices["rgb"])
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


def _decode_mp4(file: BinaryIO, row: VideoRow, gop: int, index: Offsets) -> tuple[int, list[str]]:
    """Compare the index of a stored video with its pictures, and decode every frame; like `_decode_frames`."""
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


def _end_problem(file: BinaryIO, end: int, num_bytes: int) -> str:
    """What is wrong with the end of the archive, behind the last sample; "" if nothing."""
    expected_bytes = end + 2 * BLOCK_BYTES
    expected_bytes += -expected_bytes % RECORD_BYTES
    if num_bytes != expected_bytes:
        return f"the archive has {num_bytes} bytes, its samples and its end take {expected_bytes}"
    file.seek(end)
    return f"the end of the archive (from byte {end}) is not zero" if any(file.read()) else ""
