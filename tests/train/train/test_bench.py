"""Comparison of loader and step: advice for given figures, and figures of a real data set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import read_split
from tgtrain.config import load_recipe
from tgtrain.data.setup import Setup, prepare
from tgtrain.ranks.distributed import Ranks
from tgtrain.train import bench
from tgtrain.train.bench import Balance, LoaderFigure, StepFigure, measure_loader, measure_step, workers_to_try
from tgtrain.train.trainer import training_step

ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = (
    "data.clip_frames=4",
    "data.interval=2",
    "data.size=32",
    "batch.labelled=2",
    "batch.unlabelled=4",
    "model.width=4",
)


def setup_of(root: Path, *overrides: str) -> Setup:
    config = load_recipe("demo", [*SMALL, *overrides], num_classes=3)
    return prepare(str(root), read_split(root), read_manifest(root), config)


def figure(workers: int, clips_per_second: float) -> LoaderFigure:
    return LoaderFigure(workers, round(10 * clips_per_second), 10.0, 0.5)


STEP = StepFigure(num_clips=80, batch_clips=80, num_steps=5, seconds=4.0)  # 100 clips a second: the loader needs 120


@pytest.mark.parametrize(
    ("rates", "workers", "bottleneck", "needed", "waits"),
    [
        ({0: 40, 1: 40, 2: 80, 4: 160}, 4, "step", 3, 0.0),  # 120 at 40 a process
        ({0: 40, 1: 40, 2: 80, 4: 160}, 2, "loader", 3, 0.2),  # 80 of 100
        ({1: 40, 2: 50}, 2, "loader", 3, 0.5),  # 120 at the 40 of the best process
        ({0: 57, 1: 57, 2: 107, 4: 220}, 4, "step", 3, 0.0),  # 2 give 100, with too little to spare
        ({1: 60, 2: 130}, 2, "step", 2, 0.0),
        ({1: 250}, 1, "step", 1, 0.0),
        ({8: 400}, 8, "step", 3, 0.0),
        ({0: 50}, 0, "loader", 3, 2 / 3),  # in turn: 2 parts of reading to 1 of training
        ({0: 300}, 0, "step", 1, 0.25),
        ({1: 65, 2: 110}, 2, "step", 3, 0.0),  # two of 65 would do, but were seen not to
        ({1: 130, 2: 100}, 2, "step", 1, 0.0),
    ],
)
def test_bottleneck_and_workers_needed(
    rates: dict[int, float], workers: int, bottleneck: str, needed: int, waits: float
) -> None:
    balance = Balance(tuple(figure(*pair) for pair in rates.items()), STEP, workers)
    assert balance.bottleneck == bottleneck
    assert balance.workers_needed == needed
    assert balance.waiting_share(balance.loader) == pytest.approx(waits)


def test_unmeasured_number_of_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="workers 3 were not measured, only"):
        Balance((figure(1, 10),), STEP, 3)


@pytest.mark.parametrize(
    ("cores", "doubled", "own"), [(1, {0, 1}, 1), (2, {0, 1, 2}, 1), (6, {0, 1, 2, 4}, 5), (8, {0, 1, 2, 4, 8}, 7)]
)
def test_workers_to_try_double_up_to_the_cores(
    cores: int, doubled: set[int], own: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    assert workers_to_try(load_recipe("demo")) == tuple(sorted({*doubled, own}))
    assert workers_to_try(load_recipe("demo", ["runtime.workers=12"])) == tuple(sorted({*doubled, 12}))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by a second each time it is read."""
    ticks = iter(range(10_000))
    monkeypatch.setattr("tgtrain.train.bench.perf_counter", lambda: float(next(ticks)))


@pytest.mark.parametrize("workers", [0, 2])
def test_complete_rounds_of_batches_count(data_set: Path, workers: int, clock: None) -> None:
    """Each batch takes a second: three seconds are as many rounds as it takes to pass them."""
    found = measure_loader(setup_of(data_set), ALONE, workers, 3.0)
    rounds, clips = max(1, workers), 6
    assert found.num_clips == clips * rounds * -(-3 // rounds)
    assert found.seconds == rounds * -(-3 // rounds)
    assert found.first_batch_seconds == 1


def test_measured_step_is_the_training_step(data_set: Path) -> None:
    """It changes the weights as much as a step of a run: through the optimiser, with the rate of the last epoch."""
    setup = setup_of(data_set)
    step = training_step(setup, ALONE)
    model = step.__self__.model  # type: ignore[attr-defined]
    before = {name: value.clone() for name, value in model.named_parameters()}
    step(bench._batch_of(setup, ALONE, 1, 1))
    moved = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) == len(before)


@pytest.mark.parametrize(
    ("seconds", "num_clips", "num_steps"),
    [(1, 3, 1), (8, 12, 8), (20, 24, 20)],  # a step takes a second: one of 8 parts; 4 of 8 fit twice; all of them do
)
def test_smaller_batch_is_measured_if_a_full_one_is_slow(
    data_set: Path, seconds: float, num_clips: int, num_steps: int, clock: None
) -> None:
    found = measure_step(setup_of(data_set, "batch.labelled=8", "batch.unlabelled=16"), ALONE, seconds)
    assert found == StepFigure(num_clips, 24, num_steps, seconds)


def test_clips_count_not_videos(data_set: Path, clock: None) -> None:
    setup = setup_of(data_set, "method.clips_per_video=3")
    assert measure_loader(setup, ALONE, 0, 1.0).num_clips == 3 * 6
    found = measure_step(setup, ALONE, 8.0)
    assert (found.num_clips, found.batch_clips) == (3 * 6, 3 * 6)


def test_supervised_steps_have_no_unlabelled_clips(data_set: Path, clock: None) -> None:
    config = load_recipe("demo-supervised", [*SMALL, "batch.labelled=4"], num_classes=3)
    setup = prepare(str(data_set), read_split(data_set), read_manifest(data_set), config)
    assert measure_step(setup, ALONE, 1.0) == StepFigure(2, 4, 1, 1.0)


@pytest.mark.parametrize(
    ("seconds", "num_clips"),
    [(1, 6), (4, 12), (8, 24)],  # a quarter is the least that makes two equal parts; 2 of 4 fit twice; all of them do
)
def test_measured_batches_divide_into_micro_batches(
    data_set: Path, seconds: float, num_clips: int, clock: None
) -> None:
    in_parts = ("batch.labelled=8", "batch.unlabelled=16", "runtime.accumulate=2")
    assert measure_step(setup_of(data_set, *in_parts), ALONE, seconds).num_clips == num_clips


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("batch.labelled=3", "runtime.accumulate=2"), "batch.labelled is 3, which 1 processes, each in runtime.accumulate=2"),
        (("batch.unlabelled=1", "method.weak_forward=apart", "method.align_stages=[]", "method.contrast=[]"),
         "batch.unlabelled=1 leaves one clip"),
    ],
)  # fmt: skip
def test_settings_that_a_run_refuses_are_refused(data_set: Path, overrides: tuple[str, ...], said: str) -> None:
    config = load_recipe("demo-fixmatch", [*SMALL, *overrides], num_classes=3)
    setup = prepare(str(data_set), read_split(data_set), read_manifest(data_set), config)
    with pytest.raises(InputError, match=said):
        measure_step(setup, ALONE, 1.0)
