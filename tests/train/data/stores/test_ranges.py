"""Stored videos in an object store, and a cache that is too small for them: clips come as ranges of their shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.train.bench import _verdict
from manifests.manifest_io import read_manifest
from manifests.splits.label_split import make_split, write_split
from manifests.splits.settings import SplitSettings
from tests.extraction import wait_until
from tests.object_store import ObjectStore
from tests.prep.support import write_video
from tests.train.data.stores.support import open_remote, shards_of
from tests.train.data.support import batches_of, equal, extract_all
from tests.train.support import ALONE, setup_of
from tgtrain import open_dataset
from tgtrain.data.clip import ClipPlan, ClipSettings, plan_train
from tgtrain.data.reader import BadSampleError, ClipReader, open_reader
from tgtrain.data.stores.remote import joined
from tgtrain.randomness import sample_seed
from tgtrain.train.bench import Balance, LoaderFigure, StepFigure


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of 72 frames of a texture that moves, one a shard, with a split."""
    root = tmp_path_factory.mktemp("ranges")
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (120, 160, 3), dtype=np.uint8)
        texture = np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.5), np.uint8)
        frames = [np.roll(texture, (k, 2 * k), (0, 1)) for k in range(72)]
        write_video(root / "videos" / f"class{number % 2}" / f"v{number}.avi", frames, "ffv1")
    manifest = extract_all(root / "videos", root / "set", store="video", videos_per_shard=1)
    write_split(root / "set", make_split(manifest, SplitSettings(percent=50)))
    return root / "set"


@pytest.fixture(scope="module")
def uploaded(store_server: ObjectStore, local: Path) -> str:
    location = store_server.bucket("ranges") + "/set"
    store_server.upload(local, location)
    return location


@pytest.fixture
def too_small(local: Path) -> int:
    """Bytes of a cache that all shards but one byte would fit into."""
    return sum(shard.num_bytes for shard in read_manifest(local).shards) - 1


def planned(reader: ClipReader) -> list[list[ClipPlan]]:
    """A training clip of every video."""
    return [
        list(plan_train(video.num_frames, video.height, video.width, ClipSettings(size=64), sample_seed(0, 0, 0, video.key, 0)))
        for video in reader.index
    ]  # fmt: skip


def pixels(reader: ClipReader, plans: list[list[ClipPlan]]) -> list[bytes]:
    clips = [reader.read(video, plan) for video, (plan,) in enumerate(plans)]
    return [clip.rgb.tobytes() + clip.tg.tobytes() for clip in clips if clip.tg is not None]


@pytest.fixture
def here(local: Path) -> Iterator[ClipReader]:
    manifest = read_manifest(local)
    reader = open_reader(manifest, manifest.videos.column("key"))
    yield reader
    reader.close()


def test_a_clip_fetches_what_it_uses(
    url: str, store: ObjectStore, here: ClipReader, too_small: int, tmp_path: Path
) -> None:
    plans, reader = planned(here), open_remote(url, tmp_path / "cache", too_small)
    used = sum(size for video, each in enumerate(plans) for _, size in here.ranges(video, each))
    before = store.gate.num_bytes
    assert pixels(reader, plans) == pixels(here, plans)
    fetched = store.gate.num_bytes - before
    assert used <= fetched <= 1.5 * used
    assert fetched < 0.6 * sum(video.members.rgb_bytes for video in here.index)
    assert shards_of(reader).cache.pieces() == set()
    # With room for all of them complete videos are fetched, and kept.
    assert pixels(open_remote(url, tmp_path / "cache", too_small + 1), plans) == pixels(here, plans)
    assert len(shards_of(reader).cache.pieces() - {"room"}) == 4


def test_videos_that_come_again_are_kept(
    url: str, store: ObjectStore, here: ClipReader, too_small: int, tmp_path: Path
) -> None:
    """Labelled videos are expected as samples, the others as shards, of which nothing is fetched ahead."""
    plans, reader = planned(here), open_remote(url, tmp_path / "cache", too_small)
    shards = shards_of(reader)
    reader.shards.expect(lambda: [*reader.index.shards, 2])
    wait_until(lambda: shards.piece(2).name in shards.cache.pieces())
    reader.shards.expect(lambda: [0, 1], one_clip=True)
    assert pixels(reader, plans) == pixels(here, plans)
    assert {name for name in shards.cache.pieces() if name.endswith((".sample", ".tar"))} == {shards.piece(2).name}
    store.gate.shut()
    (plan,) = plans[2]
    np.testing.assert_array_equal(reader.read(2, plan).rgb, here.read(2, plan).rgb)
    reader.close()


def test_a_store_in_trouble(
    url: str, store: ObjectStore, here: ClipReader, too_small: int, tmp_path: Path, warnings: list[str]
) -> None:
    plans, reader = planned(here), open_remote(url, tmp_path / "cache", too_small)
    store.gate.fail_next, store.gate.cut_next, store.gate.cut_bytes = 2, 2, 3000
    failed, cut = store.gate.num_failed, store.gate.num_cut
    assert pixels(reader, plans) == pixels(here, plans)
    assert (store.gate.num_failed - failed, store.gate.num_cut - cut) == (2, 2)
    assert len(warnings) == 1


def test_damage_names_video_and_shard(own_url: str, store: ObjectStore, too_small: int, tmp_path: Path) -> None:
    reader = open_remote(own_url, tmp_path / "cache", too_small)
    plans, files, root = planned(reader), store.files(), own_url.removeprefix("s3://")
    changed, cut = reader.index[0], reader.index[1]
    content = bytearray(files.cat_file(f"{root}/{changed.shard}"))
    content[changed.members.rgb_offset : changed.members.rgb_offset + changed.members.rgb_bytes : 100] = bytes(
        len(range(0, changed.members.rgb_bytes, 100))
    )
    files.pipe_file(f"{root}/{changed.shard}", bytes(content))
    files.pipe_file(f"{root}/{cut.shard}", files.cat_file(f"{root}/{cut.shard}")[: cut.members.rgb_offset + 3000])
    with pytest.raises(BadSampleError, match=f"{changed.key} in {changed.shard}: frame .* does not decode"):
        reader.read(0, plans[0][0])
    with pytest.raises(BadSampleError, match=f"{cut.key} in {cut.shard}: the store holds .* bytes of it, expected"):
        reader.read(1, plans[1][0])
    files.rm_file(f"{root}/{reader.index[2].shard}")
    with pytest.raises(BadSampleError, match=f"{reader.index[2].key} in {reader.index[2].shard}"):
        reader.read(2, plans[2][0])
    reader.read(3, plans[3][0])


def test_training_and_loaders_read_the_same_clips(
    url: str, store: ObjectStore, local: Path, too_small: int, tmp_path: Path
) -> None:
    """A cache that two blocks of shards do not fit into is no mistake: no block is kept."""
    options = ("data.block_shards=2", "batch.labelled=1", "batch.unlabelled=2")
    room = (f'runtime.cache="{tmp_path}"', f"runtime.cache_gb={too_small / 1e9!r}")
    setup = setup_of(url, *options, *room)
    for one, other in zip(batches_of(setup_of(str(local), *options), 3), batches_of(setup, 3), strict=True):
        assert one.labelled.keys == other.labelled.keys
        assert one.unlabelled is not None
        assert other.unlabelled is not None
        assert one.unlabelled.keys == other.unlabelled.keys
        np.testing.assert_array_equal(one.unlabelled.tg, other.unlabelled.tg)
    balance = Balance((LoaderFigure(1, 80, 1.0, 0.1),), StepFigure(80, 80, 5, 4.0), 1)
    assert "as ranges of its shards" in " ".join(_verdict(setup, ALONE, balance))
    clips = [open_dataset(root, size=32, cache=str(tmp_path), cache_gb=too_small / 1e9) for root in (local, url)]
    assert all(map(equal, *clips))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=12))
def test_requests_hold_all_ranges_and_little_else(steps: list[tuple[int, int]]) -> None:
    ranges, at = [], 0
    for gap, size in steps:
        ranges.append((at + gap, size))
        at += gap + size
    requests = joined(ranges)
    covered = {byte for offset, size in requests for byte in range(offset, offset + size)}
    assert covered >= {byte for offset, size in ranges for byte in range(offset, offset + size)}
    assert sum(size for _, size in requests) == len(covered) <= 1.25 * sum(size for _, size in ranges)


def test_neighbours_are_one_request() -> None:
    assert joined([(10, 40), (52, 40), (200, 8)]) == [(10, 82), (200, 8)]
