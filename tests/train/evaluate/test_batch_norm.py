"""Precise BatchNorm of a run against the plain way: each view read for itself, video by video, in this process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from cli.train import main as tgtrain
from manifests.manifest_io import read_manifest
from manifests.splits.label_split import read_split
from tgtrain.config import load_recipe
from tgtrain.data.batch import split_batch
from tgtrain.data.build import measured_views, step_dataset
from tgtrain.data.clip import plan_eval
from tgtrain.data.device import views_of
from tgtrain.data.loader import item_loader
from tgtrain.data.order import StreamOrder
from tgtrain.data.reader import ClipReader
from tgtrain.data.setup import Setup, prepare
from tgtrain.evaluate.batch_norm import BatchNormMeasured, _joint_batches, recompute_batch_norm
from tgtrain.method.augment.apply import network_input
from tgtrain.method.networks.model import Model, build_model
from tgtrain.method.networks.precise_bn import recompute_statistics
from tgtrain.ranks.distributed import Ranks
from tgtrain.run.checkpoint import list_checkpoints, load
from tgtrain.train.trainer import train

ALONE = Ranks(0, 1, torch.device("cpu"))
SETTINGS = (
    "data.clip_frames=4", "data.interval=2", "data.size=32", "batch.labelled=4", "batch.unlabelled=4", "model.width=2",
    "precise_bn.batches=3", "runtime.seed=5", "precise_bn.tg=running",
)  # fmt: skip
ONE_VIEW = (
    "model.streams=rgb", "method.method=supervised", "method.align_stages=[]", "method.contrast=[]",
    "model.projection=none",
)  # fmt: skip


def setup_of(data_set: Path, *settings: str) -> Setup:
    config = load_recipe("demo", (*SETTINGS, *settings), num_classes=3)
    return prepare(str(data_set), read_split(data_set), read_manifest(data_set), config)


def plain_batches(setup: Setup, bad: tuple[str, ...] = ()) -> list[Tensor]:
    """Of RGB and of all ranks, in order."""
    train = setup.videos("train")
    order = StreamOrder(len(train), 4, 5, 2)
    batches = []
    for number in range(min(3, len(train) // 4)):
        clips = []
        for draw in order.draws(number):
            place = setup.reader.index[train[draw.video]]
            if place.key in bad:
                continue
            (plan,) = plan_eval(place.num_frames, place.height, place.width, setup.clip)
            clips.append(torch.from_numpy(setup.reader.read(train[draw.video], plan).rgb))
        batches.append(network_input(torch.stack(clips)))
    return batches  # type: ignore[return-value]


def same(one: Model, other: Model) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def expected(setup: Setup, model: Model, bad: tuple[str, ...] = ()) -> Model:
    model = copy.deepcopy(model)
    assert recompute_statistics(model.backbone("rgb"), plain_batches(setup, bad)) > 1
    return model


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("settings", [(), ("data.gradient=slow",), ONE_VIEW])
def test_rgb_is_measured_over_single_clips_and_tg_keeps_its_averages(
    data_set: Path, settings: tuple[str, ...], workers: int
) -> None:
    setup = setup_of(data_set, *settings)
    model = build_model(setup.config.model, seed=1)
    before = copy.deepcopy(model)
    recompute_batch_norm(model, setup, ALONE, workers=workers)
    assert not same(model, before)
    assert same(model, expected(setup, before))


@pytest.mark.parametrize("settings", [(), ("data.gradient=slow",), ("runtime.accumulate=2",)])
def test_tg_may_be_measured_over_joint_batches(data_set: Path, settings: tuple[str, ...]) -> None:
    setup = setup_of(data_set, "precise_bn.tg=joint", *settings)
    model = build_model(setup.config.model, seed=1)
    wanted = expected(setup, model)
    inputs = []
    for step in range(3):
        for part in split_batch(step_dataset(setup, ALONE)[step], setup.config.runtime.accumulate):
            views = views_of(part, setup.config.data.gradient == "slow")
            assert views.weak is not None
            assert views.strong is not None
            inputs.append(torch.cat([views.labelled.tg, views.weak.tg, views.strong.tg]))  # type: ignore[list-item]
    recompute_statistics(wanted.backbone("tg"), inputs)
    assert recompute_batch_norm(model, setup, ALONE).num_batches == 3
    assert same(model, wanted)


def test_joint_batches_are_those_of_one_process_and_of_an_epoch_at_most(data_set: Path) -> None:
    setup = setup_of(data_set, "precise_bn.tg=joint", "precise_bn.batches=200")
    alone = list(_joint_batches(setup, ALONE, 0, {}))
    assert len(alone) == 3  # twelve unlabelled videos in batches of four
    for rank in (0, 1):
        shared = list(_joint_batches(setup, Ranks(rank, 2, torch.device("cpu")), 0, {}))
        assert len(shared) == len(alone[rank::2])
        assert all(torch.equal(*pair) for pair in zip(shared, alone[rank::2], strict=True))


def test_a_network_of_tg_alone_is_measured_over_joint_batches_or_not_at_all(data_set: Path) -> None:
    for tg, num_batches in (("running", 0), ("joint", 3)):
        setup = setup_of(data_set, *ONE_VIEW, "model.streams=tg", f"precise_bn.tg={tg}")
        assert recompute_batch_norm(build_model(setup.config.model), setup, ALONE).num_batches == num_batches
        assert bool(measured_views(setup.config)) is bool(num_batches)


def test_every_video_is_read_once(data_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_of(data_set)
    seen: list[Any] = []
    read = ClipReader.read_views
    monkeypatch.setattr(
        ClipReader, "read_views", lambda self, video, *args, **kw: seen.append(video) or read(self, video, *args, **kw)
    )
    recompute_batch_norm(build_model(setup.config.model, seed=1), setup, ALONE)
    assert len(seen) == len(set(seen)) == 12


def test_what_a_process_hands_over_is_one_clip(data_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is that of all ranks: of 40 published clips 96 MB, and each process would hold several in shared memory."""
    sizes: list[int] = []

    def watched(*args: Any, **settings: Any) -> Any:
        for item in item_loader(*args, **settings):
            sizes.append(item.numel())
            yield item

    monkeypatch.setattr("tgtrain.evaluate.batch_norm.item_loader", watched)
    setup = setup_of(data_set)
    assert recompute_batch_norm(build_model(setup.config.model, seed=1), setup, ALONE).num_batches == 3
    assert sizes == [4 * 32 * 32 * 3] * 12


class Apart(Ranks):
    """A rank that hears of no other."""

    def gather(self, value: Any) -> list[Any]:
        return [value]


def test_ranks_take_whole_batches_in_turn(data_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As each of two ranks is asked for them; what they come to together is tested in test_ranks."""
    setup = setup_of(data_set)
    model = build_model(setup.config.model, seed=1)
    wanted = plain_batches(setup)
    for rank, numbers in ((0, (0, 2)), (1, (1,))):
        taken: list[Tensor] = []
        monkeypatch.setattr(
            "tgtrain.evaluate.batch_norm.recompute_statistics",
            lambda network, batches, taken=taken: taken.extend(batches) or len(taken),
        )
        measured = recompute_batch_norm(model, setup, Apart(rank, 2, torch.device("cpu")))
        assert measured == BatchNormMeasured(len(numbers), ())
        assert len(taken) == len(numbers)
        for clips, number in zip(taken, numbers, strict=True):
            assert torch.equal(clips, wanted[number])


def test_a_damaged_video_is_left_out(make_data_set: Callable[..., Path]) -> None:
    root = make_data_set()
    setup = setup_of(root)
    model = build_model(setup.config.model, seed=1)
    train = [setup.reader.index.key(place) for place in setup.videos("train")]
    row = next(row for row in setup.manifest.videos if row.key in train)
    wanted = expected(setup, model, bad=(row.key,))
    with (root / row.shard).open("r+b") as file:
        file.seek(row.members.rgb_offset)
        file.write(bytes(row.members.rgb_bytes))
    measured = recompute_batch_norm(model, setup, ALONE)
    assert same(model, wanted)
    assert measured.num_batches == 3
    (reason,) = measured.bad
    assert row.key in reason


class WithAnother(Ranks):
    """A rank beside another one, which has measured two batches and met a damaged video."""

    def gather(self, value: Any) -> list[Any]:
        return [value, ([2], ["of the other"])]


def test_what_another_rank_has_measured_counts(data_set: Path) -> None:
    setup = setup_of(data_set, "batch.labelled=1", "batch.unlabelled=1")  # batches of one video: none can be measured
    model = build_model(setup.config.model, seed=1)
    before = copy.deepcopy(model)
    assert recompute_batch_norm(model, setup, ALONE) == BatchNormMeasured(0, ())
    assert same(model, before)
    with_another = recompute_batch_norm(model, setup, WithAnother(0, 2, torch.device("cpu")))
    assert with_another == BatchNormMeasured(2, ("of the other",))


def test_statistics_that_were_not_measured_are_not_saved_as_such(data_set: Path, tmp_path: Path) -> None:
    setup = setup_of(data_set, "batch.labelled=1", "batch.unlabelled=1", "optimiser.epochs=1", "runtime.workers=0")
    train(setup, tmp_path / "run", ALONE, log=lambda text: None)
    assert load(list_checkpoints(tmp_path / "run")[-1]).extra["precise_bn"] is False
    done = CliRunner().invoke(tgtrain, ["test", str(tmp_path / "run"), "--views", "1x1", "--precise-bn"])
    assert done.exit_code == 2
    assert "there is nothing to measure" in done.output
    assert not list((tmp_path / "run").glob("test-*"))
