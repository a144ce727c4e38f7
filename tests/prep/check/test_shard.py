"""Checking one shard: which samples damage hits, and every byte of the tar structure under --deep."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest

from manifests.manifest_io import read_manifest
from manifests.sample import decode_offsets
from tests.prep.check.support import kinds, make, patch
from tests.prep.support import check_after
from tgprep.check.check import check
from tgprep.check.shard import ShardReport, check_shard
from tgprep.check.tables import rows_by_shard


def deep_report(root: Path, content: bytes) -> ShardReport:
    """The deep check of the first shard with other bytes whose sha256 the tables name."""
    manifest = read_manifest(root)
    shard = manifest.shards[0]
    (root / shard.name).write_bytes(content)
    shard = dataclasses.replace(shard, sha256=hashlib.sha256(content).hexdigest(), num_bytes=len(content))
    return check_shard(manifest, rows_by_shard(manifest), shard, deep=True, mend="")


@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient": "derived"}, {"store": "video"}, {"flow": "dis"}, {"store": "video", "flow": "farneback"}],
)
def test_every_byte_outside_frames_counts(videos: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    root = tmp_path / "out"
    name = make(videos, root, **settings).shards[0].name
    content = (root / name).read_bytes()
    assert deep_report(root, content).findings == ()
    with tarfile.open(root / name) as tar:
        members = tar.getmembers()
    frames = [(m.offset_data, m.offset_data + m.size) for m in members if m.name.endswith(("mjpeg", ".mp4"))]
    outside = [place for place in range(len(content)) if not any(first <= place < last for first, last in frames)]
    generator = random.Random(1)
    for place in generator.sample(outside, 60):
        flipped = bytearray(content)
        flipped[place] ^= 1 << generator.randrange(8)
        report = deep_report(root, bytes(flipped))
        assert report.findings, place
        assert not report.damaged
    for num_bytes in (0, 511, frames[0][0], len(content) - 10240):
        assert deep_report(root, content[:num_bytes]).findings, num_bytes


@pytest.mark.parametrize(("old", "new"), [(b"'<u8'", b"'=u8'"), (b"'<u8'", b"'|u8'"), (b", }  ", b",  } ")])
def test_an_index_with_another_header_of_the_same_meaning_is_a_finding(copy: Path, old: bytes, new: bytes) -> None:
    content = (copy / read_manifest(copy).shards[0].name).read_bytes()
    assert old in content
    assert [finding.kind for finding in deep_report(copy, content.replace(old, new, 1)).findings] == ["offsets"]


@pytest.mark.parametrize(
    "size", [b"-0000000017", b"+0000000017", b" 00000001_7", b"00000000008", b"77777777777", bytes(11), b"\xff" * 11]
)
def test_odd_sizes_in_a_header_are_findings(copy: Path, size: bytes) -> None:
    content = bytearray((copy / read_manifest(copy).shards[0].name).read_bytes())
    content[124:135] = size
    assert "tar-header" in {finding.kind for finding in deep_report(copy, bytes(content)).findings}


def test_damaged_samples_are_named(copy: Path) -> None:
    """Without --deep too, once the sha256 of their shard differs."""
    manifest = read_manifest(copy)
    shard = manifest.shards[0]
    _, second, third = rows_by_shard(manifest).rows(shard.name)
    content = bytearray((copy / shard.name).read_bytes())
    content[second.sample_offset] ^= 1  # the name in its first tar header
    content[third.members.tg_index_offset] ^= 1
    (copy / shard.name).write_bytes(content)
    report = check(str(copy))
    assert report.damaged_shards == (shard.name,)
    assert [(finding.place, finding.kind) for finding in report.findings] == [
        (shard.name, "shard-digest"),
        (f"{shard.name}, {second.key}", "tar-header"),
        (f"{shard.name}, {third.key}", "offsets"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (b'"fps": 25.0', b'"fps": null', "facts"),
        (b'"fps": 25.0', b'"fps":  25.', "facts"),
        (b"0000644\0", b"0000755\0", "tar-header"),
        (b".rgb.mjpeg", b".rgb.mjpag", "tar-header"),
        (b"\x93NUMPY", b"\x93NUMPX", "offsets"),
        (b"\xff\xd9\xff\xd8", b"\xff\xd9\xff\xd9", "frames"),
    ],
)
def test_broken_members_are_found(copy: Path, old: bytes, new: bytes, kind: str) -> None:
    patch(copy / "shard-000001.tar", old, new)
    report = check_after(copy, lambda manifest: manifest)
    assert kinds(report) == {kind}
    assert "shard-000001.tar, " in report.findings[0].place


def test_wrong_gradient_is_found(copy: Path) -> None:
    """TG frames in another order are perfectly good JPEG files: only the recomputed gradient shows it."""
    manifest = read_manifest(copy)
    row = next(row for row in manifest.videos if row.status == "written")
    path = copy / row.shard
    data = bytearray(path.read_bytes())
    place, size = row.members.tg_index_offset, row.members.tg_index_bytes
    offsets = decode_offsets(bytes(data[place : place + size])).astype(int).tolist()
    tg = bytes(data[row.members.tg_offset : row.members.tg_offset + row.members.tg_bytes])
    parts = [tg[a:b] for a, b in zip(offsets, offsets[1:], strict=False)]
    parts.insert(0, parts.pop())
    moved = [0]
    for part in parts:
        moved.append(moved[-1] + len(part))
    data[row.members.tg_offset : row.members.tg_offset + row.members.tg_bytes] = b"".join(parts)
    data[place + size - 8 * len(moved) : place + size] = np.asarray(moved, "<u8").tobytes()
    path.write_bytes(data)
    report = check_after(copy, lambda same: same)
    assert kinds(report) == {"frames"}
    assert row.key in report.findings[0].place
    assert "not the temporal gradient" in report.findings[0].message
