"""The quick look at a whole shard: every byte outside of frames counts, every sound data set passes, and so does nothing else."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from manifests.table import Manifest
from tests.prep.check.test_check import make
from tgprep.check import shard as verify_shard
from tgprep.check.shard_bulk import gap_places, structure_holds
from tgprep.check.tables import rows_by_shard
from tgprep.obtain.sample import SampleSettings, render_sample

SETTINGS: list[dict[str, object]] = [
    {},
    {"gradient": "derived"},
    {"store": "video"},
    {"flow": "dis"},
    {"store": "video", "flow": "farneback"},
]
# Columns of which nothing is in the shard.
NOT_REPEATED = (
    "subsets",
    "status",
    "error",
    "note",
    "shard",
    "num_frames_header",
    "rotation_degrees",
    "num_source_bytes",
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bulk") / "videos"
    render_sample(
        root,
        SampleSettings(
            num_classes=2, num_groups=2, clips_per_group=1, width=48, height=32, min_frames=8, max_frames=12
        ),
    )
    return root


def made(videos: Path, out: Path, settings: dict[str, object]) -> tuple[Manifest, str, pa.Table, bytes]:
    manifest = make(videos, out, **settings)
    shard = manifest.shards[0].name
    return manifest, shard, rows_by_shard(manifest).rows(shard).arrow, (out / shard).read_bytes()


def holds(content: bytes, rows: pa.Table, manifest: Manifest) -> bool:
    places = gap_places(rows, manifest.header)
    if places is None:
        return False
    gaps = b"".join(content[first:last] for first, last in places.reshape(-1, 2))
    return structure_holds(gaps, places, rows, manifest.header)


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_byte_outside_of_frames_counts(videos: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    manifest, shard, rows, content = made(videos, tmp_path / "out", settings)
    assert rows.num_rows == 3
    assert holds(content, rows, manifest)
    with tarfile.open(tmp_path / "out" / shard) as tar:  # where frames lie, as tarfile tells it
        members = tar.getmembers()
    frames = [(m.offset_data, m.offset_data + m.size) for m in members if m.name.endswith(("mjpeg", ".mp4"))]
    end = max(member.offset_data + -(-member.size // 512) * 512 for member in members)
    # Of an index's numbers only first and last are known without looking at frames, and that all rise.
    inner = [(m.offset_data + 136, m.offset_data + m.size - 8) for m in members if m.name.endswith(".npy")]
    outside = [place for place in range(end) if not any(first <= place < last for first, last in frames + inner)]
    generator = random.Random(1)
    for place in generator.sample(outside, 400):
        flipped = bytearray(content)
        flipped[place] ^= 1 << generator.randrange(8)
        assert not holds(bytes(flipped), rows, manifest), place
    for first, _ in inner:
        swapped = bytearray(content)
        swapped[first : first + 16] = content[first + 8 : first + 16] + content[first : first + 8]
        assert not holds(bytes(swapped), rows, manifest)
    for first, last in frames:  # what --deep looks at
        flipped = bytearray(content)
        flipped[(first + last) // 2] ^= 1
        assert holds(bytes(flipped), rows, manifest)
    for length in (0, 511, frames[0][0], end - 1):
        assert not holds(content[:length], rows, manifest), length


def test_rows_that_say_something_else_do_not_hold(videos: Path, tmp_path: Path) -> None:
    manifest, _, rows, content = made(videos, tmp_path / "out", {})
    for name in rows.column_names:
        if name in NOT_REPEATED:
            continue
        column = rows.column(name)
        changed = pc.binary_join_element_wise(column, "x", "") if pa.types.is_string(column.type) else pc.add(column, 1)
        place = rows.column_names.index(name)
        for other in (changed, pa.nulls(3, column.type)):
            wrong = rows.set_column(place, name, other.cast(column.type))
            assert not holds(content, wrong, manifest), name
    assert not holds(content, rows.take(pa.array([1, 0, 2])), manifest)
    assert not holds(content, rows.slice(1), manifest)
    assert gap_places(rows.slice(0, 0), manifest.header) is None


def test_names_of_other_letters_are_left_to_the_walk(videos: Path, tmp_path: Path) -> None:
    """Keys that this cannot compare as arrays are no error: they are looked at one by one."""
    manifest, _, rows, content = made(videos, tmp_path / "out", {})
    for key in ("Ä/video", "C/" + "v" * 99):
        keys = pa.array([key, *rows.column("key").to_pylist()[1:]])
        assert not holds(content, rows.set_column(0, "key", keys), manifest)


def test_what_is_kept_while_the_digest_is_taken_is_what_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    content = random.Random(2).randbytes(10_000)
    places = np.array([[[0, 512], [512, 512]], [[700, 3000], [3000, 3001]], [[9000, 10_000], [10_000, 10_000]]])
    for piece_bytes in (1, 7, 512, 4096, 100_000):
        monkeypatch.setattr(verify_shard, "_PIECE_BYTES", piece_bytes)
        sha256, count, kept = verify_shard.digest_of(io.BytesIO(content), places)
        assert (sha256, count) == (hashlib.sha256(content).hexdigest(), 10_000)
        assert kept == content[:512] + content[700:3001] + content[9000:]
    assert verify_shard.digest_of(io.BytesIO(content[:800]), places)[2] == content[:512] + content[700:800]
