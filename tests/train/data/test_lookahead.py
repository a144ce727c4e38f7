"""What is told to be needed next, and how much room a cache must have for it: by hand, by a slow plain count, and in a real cache."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from manifests import object_store as stores
from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import read_split
from manifests.table import Manifest
from tests.extraction import wait_until
from tests.object_store import ObjectStore
from tests.train.support import write_data_set
from tgtrain.config import load_recipe
from tgtrain.data.batch import StepDataset
from tgtrain.data.build import gigabytes_up, step_dataset
from tgtrain.data.lookahead import largest_need, upcoming
from tgtrain.data.order import BlockOrder, StreamOrder, StreamSource
from tgtrain.data.setup import Setup, prepare
from tgtrain.data.stores.remote import RemoteShards
from tgtrain.data.stores.video_index import Need, VideoIndex, index_of
from tgtrain.ranks.distributed import Ranks

SETTINGS = (
    "data.clip_frames=2", "data.interval=2", "data.size=16", "batch.labelled=2", "batch.unlabelled=4", "model.width=4",
    "data.block_shards=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 videos in 10 shards, three in each; those of the last two shards are tested on."""
    root = tmp_path_factory.mktemp("ahead") / "set"
    write_data_set(root, groups=10, num_shards=10)
    return root


@pytest.fixture(scope="module")
def manifest(local: Path) -> Manifest:
    return read_manifest(local)


@pytest.fixture(scope="module")
def index(manifest: Manifest) -> VideoIndex:
    return index_of(manifest, manifest.videos.column("key"))


@pytest.fixture(scope="module")
def url(store_server: ObjectStore, local: Path) -> str:
    location = store_server.bucket("ahead") + "/set"
    store_server.upload(local, location)
    return location


@dataclass(frozen=True)
class Streams:
    """A stream in blocks of all videos, and one of samples of every third."""

    blocks: StreamSource
    samples: StreamSource


def streams(index: VideoIndex, block_shards: int = 2, batches: tuple[int, int] = (4, 3)) -> Streams:
    every, third = np.arange(len(index)), np.arange(0, len(index), 3)
    return Streams(
        StreamSource(every, every, BlockOrder(index.shard[every], block_shards, batches[0], 5, 1)),
        StreamSource(third, third, StreamOrder(len(third), batches[1], 5, 0)),
    )


def drawn(source: StreamSource, step: int) -> npt.NDArray[np.int64]:
    """Numbers in the reader of the videos of a step."""
    return source.videos[[draw.video for draw in source.order.draws(step)]]


@pytest.mark.parametrize("block_shards", [1, 2, 3, 10])
@pytest.mark.parametrize("step", [0, 1, 6, 7, 8, 40])
def test_plan_covers_two_blocks_by_first_use(index: VideoIndex, block_shards: int, step: int) -> None:
    """Against the batches themselves, step by step."""
    made = streams(index, block_shards)
    assert isinstance(made.blocks.order, BlockOrder)
    needs = upcoming([made.blocks, made.samples], index, step)
    assert len(set(needs)) == len(needs)
    begins = {need: number for number, need in enumerate(needs)}
    (_, now), (_, following), (end, _) = made.blocks.order.blocks_from(step * 4, 3)
    told = {need for need in needs if isinstance(need, str)}
    assert told == {index.shards[shard] for shard in (*now, *following)}
    first_use: dict[Need, int] = {}
    for later in range(step, -(-end // 4)):
        for video in drawn(made.samples, later):
            first_use.setdefault(int(video), later)
        in_reach = [draw.video for draw in made.blocks.order.draws(later) if draw.position < end]
        assert {index.shards[index.shard[video]] for video in in_reach} <= told
    assert {need for need in needs if isinstance(need, int)} == first_use.keys()
    samples = [need for need in needs if isinstance(need, int)]
    assert [first_use[need] for need in samples] == sorted(first_use.values())
    # What this step reads comes before what only later ones read; the next block after this one.
    this_step = {index.shards[shard] for shard in now} | {need for need in samples if first_use[need] == step}
    later_ones = [begins[need] for need in samples if first_use[need] > step]
    assert max(begins[need] for need in this_step) < min(later_ones, default=len(needs))
    others = [begins[index.shards[shard]] for shard in following if shard not in now]
    assert max(begins[index.shards[shard]] for shard in now) < min(others, default=len(needs))


def test_plan_without_blocks_covers_some_steps(index: VideoIndex) -> None:
    made = streams(index).samples
    needs = upcoming([made], index, 3)
    expected = [int(video) for step in range(3, 67) for video in drawn(made, step)]
    assert needs == list(dict.fromkeys(expected))


def test_room_for_two_blocks_and_a_batch(index: VideoIndex) -> None:
    """By hand, with sizes that no data set has."""
    sizes = {name: 1000 * (number + 1) for number, name in enumerate(index.shards)}
    made = streams(index, block_shards=2)
    _, extents = index.extents()
    batch = sum(sorted(extents[::3].tolist())[-3:])
    assert largest_need([made.blocks, made.samples], index, sizes) == 10_000 + 9_000 + 8_000 + 7_000 + batch
    few = StreamSource(np.arange(3), np.arange(3), BlockOrder(index.shard[:3], 5, 4, 0, 1))
    held = {index.shards[shard] for shard in index.shard[:3]}
    assert largest_need([few], index, sizes) == sum(sizes[name] for name in held)


@pytest.mark.parametrize(
    ("num_bytes", "said"),
    [(1, "0.00000000100"), (61_400_001, "0.0615"), (61_500_000, "0.0615"), (999_500_000, "1.000"), (12_340_000_001, "12.4"), (1_339_000_000_001, "1340")],
)  # fmt: skip
def test_advised_size_is_rounded_up(num_bytes: int, said: str) -> None:
    assert gigabytes_up(num_bytes) == said
    assert num_bytes <= round(float(said) * 1e9) <= 1.01 * num_bytes + 1


@pytest.fixture
def setup(url: str, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    monkeypatch.setattr(stores, "_last_failure", {})
    monkeypatch.setattr(stores, "_already_warned", None)
    made = setup_of(url, tmp_path / "cache", 1e-6)
    yield made
    made.reader.close()


def setup_of(url: str, cache: Path, gigabytes: float) -> Setup:
    room = (f'runtime.cache="{cache}"', f"runtime.cache_gb={gigabytes!r}")
    return prepare(url, read_split(url), read_manifest(url), load_recipe("demo", (*SETTINGS, *room), num_classes=3))


def dataset_of(setup: Setup) -> StepDataset:
    return step_dataset(setup, Ranks(0, 1, torch.device("cpu")))


def advised(setup: Setup) -> float:
    with pytest.raises(InputError) as caught:
        dataset_of(setup)
    text = str(caught.value)
    assert re.search(
        r"The cache .* may hold 1e-06 GB; two blocks of data.block_shards=2 shards and a labelled batch need", text
    )
    assert "make room on its disk, name another folder with --cache, or lower data.block_shards." in text
    found = re.search(r"Set runtime.cache_gb=([0-9.]+) \(--cache-gb\)", text)
    assert found
    return float(found[1])


def test_cache_below_two_blocks_is_rejected_with_the_size(setup: Setup, url: str, tmp_path: Path) -> None:
    gigabytes = advised(setup)
    shards = sorted(shard.num_bytes for shard in setup.manifest.shards[:8])
    assert sum(shards[-4:]) < gigabytes * 1e9 < 1.01 * (sum(shards[-4:]) + 2 * shards[-1] / 3)
    with pytest.raises(InputError, match="two blocks of data.block_shards=2 shards"):
        dataset_of(setup_of(url, tmp_path / "other", 0.97 * gigabytes))


def test_advised_size_fetches_no_shard_twice(
    setup: Setup, url: str, store: ObjectStore, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass over all training shards, each block used up before the one after the next is fetched; the same batches as from disk."""
    monkeypatch.setattr("tgtrain.data.stores.remote._PLAN_SECONDS", 0.01)
    fetched: list[str] = []
    fetch = RemoteShards._download
    monkeypatch.setattr(
        RemoteShards, "_download", lambda self, claim: fetched.append(claim.piece.name) or fetch(self, claim)
    )
    dataset = dataset_of(setup_of(url, tmp_path / "roomy", advised(setup)))
    shards = dataset.reader.shards
    assert isinstance(shards, RemoteShards)
    here = prepare(str(local), read_split(local), read_manifest(local), load_recipe("demo", SETTINGS, num_classes=3))
    expected = dataset_of(here)
    for step in range(
        5
    ):  # 24 videos in batches of 4; from the sixth step on the shards of the next pass are fetched too
        got, wanted = dataset[step], expected[step]
        for one, other in ((got.labelled, wanted.labelled), (got.unlabelled, wanted.unlabelled)):
            assert one is not None
            assert other is not None
            assert one.keys == other.keys
            assert torch.equal(one.rgb, other.rgb)  # type: ignore[arg-type]
        # What comes next is there before it is read: the cache works ahead.
        soon: list[Need] = [n for n in upcoming(dataset.sources, dataset.reader.index, step + 1) if isinstance(n, str)]
        wait_until(lambda soon=soon: {shards.piece(n).name for n in soon[:1]} <= shards.cache.pieces())  # type: ignore[misc]
        assert shards.cache.num_held() <= shards.cache.num_bytes
    shards.close()
    whole = [name for name in fetched if name.endswith(".tar")]
    assert len(whole) == len(set(whole)) == 8
