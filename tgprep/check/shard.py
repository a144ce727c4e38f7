"""Check one shard against the tables: its sha256, and on request or after damage its tar structure, facts and frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from manifests.console import plural
from manifests.files import digest_of, open_location, parse_json, read_range
from manifests.manifest_io import join
from manifests.records import ManifestHeader, ShardRow, VideoRow
from manifests.sample import (
    BLOCK_BYTES,
    RECORD_BYTES,
    decode_offsets,
    encode_offsets,
    flow_method,
    frame_members,
    json_member,
    member_header,
    sample_facts,
    video_gop,
)
from manifests.table import Manifest, VideoTable
from tgprep.check.frames import FrameError, check_frames, decode
from tgprep.check.tables import Finding, ShardRows

_MAX_FACTS_BYTES = 1024 * 1024
_SIZE_FIELD = slice(124, 135)  # of a ustar header: octal digits

Offsets = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What the check of one shard found."""

    name: str
    findings: tuple[Finding, ...]
    damaged: bool  # its bytes are not those that were written
    num_bytes: int = 0
    num_frames: int = 0  # frames that were decoded


class _SampleError(Exception):
    """A sample is damaged; `args` are the kind and the message of the finding."""


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
                num_frames = _check_samples(file, num_bytes, shard_rows.rows(shard.name), manifest.header, deep, add)
    except FileNotFoundError:
        add("", "shard-missing", f"the file is missing ({plural(shard.num_videos, 'video')})")
    except OSError as error:
        damaged = True
        add("", "shard-unreadable", f"the file cannot be read: {error.strerror or error}")
    return ShardReport(shard.name, tuple(findings), damaged, num_bytes, num_frames)


def _check_samples(
    file: BinaryIO,
    num_bytes: int,
    rows: VideoTable,
    header: ManifestHeader,
    deep: bool,
    add: Callable[[str, str, str], None],
) -> int:
    """Check every sample and the end of a shard, report problems as add(key, kind, message); return the decoded frames."""
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
            add(row.key, *error.args)
        # From where the tables say that the next sample begins: one damaged sample must not hide the others.
        end = row.sample_offset + row.sample_bytes
    file.seek(end)
    expected_bytes = -(-(end + 2 * BLOCK_BYTES) // RECORD_BYTES) * RECORD_BYTES
    if num_bytes != expected_bytes:
        add("", "tar-end", f"the archive has {num_bytes} bytes, its samples and its end take {expected_bytes}")
    elif any(file.read()):
        add("", "tar-end", f"the end of the archive (from byte {end}) is not zero")
    return num_frames


def _read(file: BinaryIO, offset: int, num_bytes: int, name: str) -> bytes:
    try:
        return read_range(file, offset, num_bytes)
    except ValueError:
        raise _SampleError("cut-off", f"{name}: the shard ends before it") from None


def _check_structure(file: BinaryIO, row: VideoRow, header: ManifestHeader) -> dict[str, Offsets]:
    """Check headers, order, offsets and padding of the members, the facts and the indices; return the indices by kind."""
    offset = row.sample_offset
    block = _read(file, offset, BLOCK_BYTES, "the sample")
    # int() would take signs and spaces, too.
    if not (digits := block[_SIZE_FIELD]).isdigit() or digits.strip(b"01234567"):
        raise _SampleError("tar-header", f"no tar header at byte {offset}")
    num_facts_bytes = int(digits, 8)
    if num_facts_bytes > _MAX_FACTS_BYTES:
        raise _SampleError("tar-header", f"{row.key}.json has {num_facts_bytes} bytes: too many")
    content, offset = _member(file, offset, f"{row.key}.json", num_facts_bytes)
    _check_facts(content, row, header)

    # The indices and frames of RGB, TG and flow follow in this order, each as far as the data set stores it.
    indices: dict[str, Offsets] = {}
    for kind in ["rgb"] + ["tg"] * header.gradient.stored + ["flow"] * bool(flow_method(header.settings)):
        num_frames = row.num_frames - (kind != "rgb")
        index_offset, index_bytes, frames_offset, frames_bytes = row.members.place(kind)
        mp4 = kind == "rgb" and bool(video_gop(header))
        index_name, name = frame_members(kind, mp4)
        content, offset = _member(file, offset, f"{row.key}.{index_name}", index_bytes, index_offset)
        try:
            index = indices[kind] = decode_offsets(content, mp4=mp4)
        except ValueError as error:
            raise _SampleError("offsets", f"{index_name}: {error}") from None
        if encode_offsets(index) != content:  # other headers of .npy files may mean the same
            raise _SampleError("offsets", f"{index_name} is not written as the format says")
        if len(index) != num_frames + 1 or not (index[-1] < frames_bytes if mp4 else index[-1] == frames_bytes):
            found, expected = f"{len(index) - 1} frames of {index[-1]} bytes", f"{num_frames} of {frames_bytes}"
            raise _SampleError("offsets", f"{index_name}: {found}, expected {expected}")
        _, offset = _member(file, offset, f"{row.key}.{name}", frames_bytes, frames_offset, read=False)
    if offset != row.sample_offset + row.sample_bytes:
        raise _SampleError("sample-place", f"it ends at {offset}, expected {row.sample_offset + row.sample_bytes}")
    return indices


def _member(
    file: BinaryIO, offset: int, name: str, num_bytes: int, place: int | None = None, *, read: bool = True
) -> tuple[bytes, int]:
    """Check place (of the content), header and padding of the member at `offset`; return its content and the next offset.

    The content is not read, and empty, unless `read`.
    """
    start, padding = offset + BLOCK_BYTES, -num_bytes % BLOCK_BYTES
    if place not in (None, start):
        raise _SampleError("member-place", f"{name} begins at {start}, videos.parquet says {place}")
    if _read(file, offset, BLOCK_BYTES, name) != member_header(name, num_bytes):
        message = f"the tar header at byte {offset} is not that of {name} with {num_bytes} bytes"
        raise _SampleError("tar-header", message)
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
        facts = parse_json(content)
    except ValueError as error:
        raise _SampleError("facts", f"the .json member is not valid ({error})") from None
    if not isinstance(facts, dict) or any(type(value) not in (str, int, float) for value in facts.values()):
        raise _SampleError("facts", "the .json member is not a flat object of texts and numbers")
    # Types count too: readers expect the same ones in every sample, and 1 == 1.0 in Python.
    names = [n for n, value in expected.items() if type(facts.get(n)) is not type(value) or facts[n] != value]
    if wrong := "; ".join(f"{name} {facts.get(name)!r}, expected {expected[name]!r}" for name in names[:4]):
        raise _SampleError("facts", f"the .json member differs from videos.parquet: {wrong}")
    if json_member(facts) != content:
        raise _SampleError("facts", "the .json member is not written as the format says")


def _decode_frames(
    file: BinaryIO, row: VideoRow, header: ManifestHeader, indices: dict[str, Offsets]
) -> tuple[int, list[str]]:
    """Decode every frame of a sample; return the number of frames and what is wrong."""

    def frames(kind: str) -> Iterator[bytes]:
        start = row.members.place(kind)[2]
        for first, last in pairwise(indices[kind].tolist() if kind in indices else ()):
            yield _read(file, start + first, last - first, f"{kind}.mjpeg")

    if gop := video_gop(header):
        count, problems = _decode_mp4(file, row, gop, indices["rgb"])
    else:
        count, problems = check_frames(frames("rgb"), frames("tg"), header.gradient, row.height, row.width)
    for number, jpeg in enumerate(frames("flow")):
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
