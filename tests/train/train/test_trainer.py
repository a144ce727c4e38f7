"""The loop: k steps, a stop and the rest equal the undisturbed run, bit for bit; folders and errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import make_split
from manifests.splits.settings import SplitSettings
from tests.train.support import ALONE, SMALL, equal, records, run, setup_of, weights
from tgtrain.config import load_recipe
from tgtrain.data.batch import ClipBatch, SslBatch
from tgtrain.data.build import step_dataset
from tgtrain.data.setup import prepare
from tgtrain.method.augment import apply as augment
from tgtrain.method.schedule import LearningRateSettings, learning_rate
from tgtrain.ranks.distributed import Ranks
from tgtrain.run.checkpoint import list_checkpoints, load
from tgtrain.run.folder import owned
from tgtrain.run.journal import Interval
from tgtrain.train.learner import Learner
from tgtrain.train.trainer import RunError, num_steps_of, train


@pytest.mark.parametrize("recipe", ["demo", "demo-fixmatch", "demo-supervised"])
@pytest.mark.parametrize("stop", [1, 5, 7])
def test_stop_and_resume_equal_the_undisturbed_run(data_set: Path, tmp_path: Path, recipe: str, stop: int) -> None:
    whole = run(data_set, tmp_path / "whole", recipe=recipe)
    assert (whole.step, whole.num_steps) == (12, 12)
    first = run(data_set, tmp_path / "parts", recipe=recipe, max_steps=stop)
    assert (first.step, first.num_steps) == (stop, 12)
    assert not equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    second = run(data_set, tmp_path / "parts", recipe=recipe)
    assert second.step == 12
    assert equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    for key in ("top1@1x1", "step", "epoch"):
        assert [r[key] for r in records(tmp_path / "parts", "evaluate")] == [
            r[key] for r in records(tmp_path / "whole", "evaluate")
        ]


@pytest.mark.parametrize(
    "changes",
    [
        ("runtime.accumulate=2", 'method.contrast=["crossview"]', "method.clips_per_video=2"),
        ("method.method=uda", "runtime.accumulate=2", "augment.labelled=strong"),
        ("data.gradient=slow", "augment.operations=mvpl"),
    ],
)
def test_a_step_never_waits_for_the_device(
    data_set: Path, tmp_path: Path, changes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From uint8 clips to weights and sums for the log, on tensors without values: looking at one raises."""
    # Histograms are made in two ways; that of GPUs (see strong_ops) is the one that must not look.
    monkeypatch.setattr(torch, "bincount", lambda places, minlength: torch.zeros(minlength, dtype=torch.int64))
    setup = setup_of(data_set, "method.warmup_epochs=0", *changes)
    learner = Learner(setup.config, ALONE, steps_per_epoch=3)
    learner.may_wait = False  # as on a GPU
    batch, interval = step_dataset(setup, ALONE)[0], Interval()
    augment._normalising_rows.cache_clear()  # cached rows must not hold tensors without values
    mode = FakeTensorMode()
    for module in learner.model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, torch.nn.Parameter(mode.from_tensor(parameter.detach())))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, mode.from_tensor(buffer))
    there = with_tensors(batch, mode.from_tensor)
    if learner.class_counts is not None:
        learner.class_counts.counts = mode.from_tensor(learner.class_counts.counts)
    try:
        with mode:
            learner.optimiser = torch.optim.SGD(learner.model.parameters(), lr=0.1, momentum=0.9)
            for _ in range(2):
                interval.add(learner.update(there), 8, 0.0)
            assert all(parameter.grad is not None for parameter in learner.model.parameters())
            with pytest.raises(DataDependentOutputException):
                interval.means()
            learner.may_wait = True
            with pytest.raises(DataDependentOutputException):
                learner.update(there)
    finally:
        augment._normalising_rows.cache_clear()


def with_tensors(batch: SslBatch, change: Callable[[torch.Tensor], torch.Tensor]) -> SslBatch:
    def changed(clips: ClipBatch | None) -> ClipBatch | None:
        if clips is None:
            return None
        rgb, tg, videos = (None if part is None else change(part) for part in (clips.rgb, clips.tg, clips.videos))
        return replace(clips, rgb=rgb, tg=tg, labels=change(clips.labels), videos=videos)

    labelled = changed(batch.labelled)
    assert labelled is not None
    return replace(batch, labelled=labelled, unlabelled=changed(batch.unlabelled))


def test_another_seed_gives_other_weights(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "a", max_steps=2)
    run(data_set, tmp_path / "b", "runtime.seed=1", max_steps=2)
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_the_number_of_workers_changes_nothing(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "a", max_steps=4)
    run(data_set, tmp_path / "b", "runtime.workers=2", max_steps=4)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_files_of_a_run(data_set: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    outcome = run(data_set, folder)
    assert outcome.last is not None
    steps = records(folder, "train")
    assert [record["step"] for record in steps] == [2, 4, 6, 8, 10, 12]
    schedule = LearningRateSettings(0.05, 4, 1, 3)
    base = load_recipe("demo").optimiser.learning_rate
    for record in steps:
        rate = learning_rate(schedule, *divmod(int(record["step"]) - 1, 3)) / 0.05 * base
        assert record["learning_rate"] == pytest.approx(rate)
        terms = [value for name, value in record.items() if name.startswith("loss/") and name != "loss/total"]
        assert record["loss/total"] == pytest.approx(sum(terms), rel=1e-4)
        assert 0 <= record["waiting_share"] <= 1
        assert record["grad_norm"] > 0
        assert record["seconds_left"] == pytest.approx(record["overall_seconds_per_step"] * (12 - record["step"]))
    assert steps[0]["loss/pseudo_rgb"] == 0  # warm-up
    assert [record["step"] for record in records(folder, "evaluate")] == [6, 12]
    facts = json.loads((folder / "config.json").read_text())
    assert (facts["num_steps"], facts["steps_per_epoch"]) == (12, 3)
    assert facts["split"]["labelled"] == 6
    assert facts["data"]["classes"] == ["class0", "class1", "class2"]


def test_every_epoch_logs_the_coverage_of_its_streams(data_set: Path, tmp_path: Path) -> None:
    """12 unlabelled and 6 labelled videos, 4 of each a step, 3 steps an epoch: one pass, and two."""
    said: list[str] = []
    train(setup_of(data_set, "runtime.workers=1"), tmp_path / "run", ALONE, log=said.append)
    told = records(tmp_path / "run", "epoch")
    assert [record["step"] for record in told] == [3, 6, 9, 12]
    for number, record in enumerate(told, start=1):
        assert (record["unlabelled_num_passes"], record["unlabelled_num_in_pass"]) == (number, 0)
        assert (record["labelled_num_passes"], record["labelled_num_in_pass"]) == (2 * number, 0)
        assert (record["unlabelled_num_seen"], record["unlabelled_num_videos"]) == (12, 12)
        assert (record["labelled_num_seen"], record["labelled_num_videos"]) == (6, 6)
    assert "epoch 2: labelled 6 of 6 videos seen, pass 4; unlabelled 12 of 12 videos seen, pass 2" in said
    assert all(20 < record["loader_memory_mb"] < 100_000 for record in records(tmp_path / "run", "train"))


def test_a_finished_run_does_nothing(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "run")
    before = weights(tmp_path / "run")
    again = run(data_set, tmp_path / "run")
    assert again.already_finished
    assert equal(weights(tmp_path / "run"), before)


def test_another_setting_in_the_same_folder_is_refused(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "run", max_steps=1)
    with pytest.raises(InputError, match="optimiser.epochs: 4 there, 5 asked"):
        run(data_set, tmp_path / "run", "optimiser.epochs=5")
    run(data_set, tmp_path / "run", "runtime.log_every=1", max_steps=2)  # how it is carried out may change


def test_another_data_set_or_split_is_refused(make_data_set: Callable[..., Path], tmp_path: Path) -> None:
    root, other = make_data_set("one"), make_data_set("other", num_frames=21)
    run(root, tmp_path / "run", max_steps=1)
    with pytest.raises(InputError, match="data set .* there"):
        run(other, tmp_path / "run")
    manifest = read_manifest(root)
    split = make_split(manifest, SplitSettings(percent=80, strategy="stratified"))
    setup = prepare(str(root), split, manifest, load_recipe("demo", SMALL, num_classes=3))
    with pytest.raises(InputError, match="split .* there"):
        train(setup, tmp_path / "run", ALONE, log=lambda text: None)


def test_folder_with_other_files_is_refused(data_set: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        run(data_set, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_resume_never_refuses_existing_checkpoints(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "run", max_steps=1)
    with pytest.raises(InputError, match="has checkpoints already"):
        run(data_set, tmp_path / "run", resume="never")


def test_damaged_newest_checkpoint_falls_back(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "whole")
    run(data_set, tmp_path / "run", max_steps=4)
    run(data_set, tmp_path / "run", max_steps=8)
    newest = list_checkpoints(tmp_path / "run")[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    run(data_set, tmp_path / "run")
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_not_finite_loss_stops_the_run(data_set: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no finite number any more"):
        run(
            data_set,
            tmp_path / "run",
            "optimiser.learning_rate=1e30",
            "optimiser.clip_norm=0",
            "optimiser.warmup_epochs=0",
        )


def test_too_much_damage_stops_the_run(make_data_set: Callable[..., Path], tmp_path: Path) -> None:
    root = make_data_set()
    for row in read_manifest(root).videos:
        if row.group in ("g00", "g01"):
            with (root / row.shard).open("r+b") as shard:
                shard.seek(row.members.rgb_offset)
                shard.write(b"\0" * row.members.rgb_bytes)
    with pytest.raises(RunError, match="runtime.max_bad_fraction allows 0.01"):
        run(root, tmp_path / "run")
    # What it stops at may be raised afterwards, as that of the loss.
    assert run(root, tmp_path / "run", "runtime.max_bad_fraction=1.0").step == 12


def test_batch_that_ranks_cannot_share_is_refused(data_set: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch.labelled is 4, which 3 processes cannot share evenly"):
        train(setup_of(data_set), tmp_path / "run", Ranks(0, 3, torch.device("cpu")), log=lambda text: None)


def test_epochs_count_unlabelled_videos(data_set: Path) -> None:
    assert num_steps_of(setup_of(data_set)) == num_steps_of(setup_of(data_set, recipe="demo-supervised")) == (12, 3)
    assert num_steps_of(setup_of(data_set, "batch.unlabelled=40"))[1] == 1  # fewer videos than a batch: one step


def test_two_ranks_train_and_one_resumes(data_set: Path, tmp_path: Path) -> None:
    words = [
        "run", str(data_set), "--recipe", "demo", "--out", str(tmp_path / "run"),
        *(word for text in (*SMALL, "evaluate.every_epochs=1") for word in ("--set", text)),
    ]  # fmt: skip
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "tgtrain",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, *words, "--max-steps", "4"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert load(list_checkpoints(tmp_path / "run")[-1]).step == 4
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    assert facts["world_size"] == 2
    # Elastic: one process takes up what two have begun, on the same videos.
    alone = subprocess.run(
        [sys.executable, "-m", "tgtrain", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert alone.returncode == 0, alone.stderr
    assert "resumed at step 4 of 12" in alone.stderr
    assert [record["step"] for record in records(tmp_path / "run", "evaluate")] == [3, 6, 9, 12]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.area=[2.0, 1.0]", "setting area"),
        ("augment.num_ops=99", "num_ops"),
        ('method.contrast=["crossview"]', "clips_per_video: got 1, contrast crossview expects 2"),
        ("data.clip_frames=1", "at least 2"),
    ],
)
def test_a_refused_run_leaves_no_folder_behind(data_set: Path, tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(data_set, tmp_path / "run", override)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "overrides", "said"),
    [
        ("demo-supervised", ("batch.labelled=1",), r"batch.labelled=1 leaves one clip .* 1x1x1 .* 4 frames of 32x32.*batch.labelled to 2 or more, or data.size"),
        ("demo-supervised", ("batch.labelled=2", "runtime.accumulate=2"), "batch.labelled=2 in 2 parts leaves .* to 4 or more"),
        ("demo-fixmatch", ("batch.unlabelled=1", "method.weak_forward=apart"), "batch.unlabelled=1 leaves one clip"),
    ],
)  # fmt: skip
def test_single_clip_without_variance_is_refused(
    data_set: Path, tmp_path: Path, recipe: str, overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        run(data_set, tmp_path / "run", *overrides, recipe=recipe)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("demo-supervised", ("batch.labelled=1", "data.size=48")),  # features of 1x2x2
        ("demo-supervised", ("batch.labelled=1", "method.clips_per_video=2")),
        ("demo", ("batch.labelled=1", "batch.unlabelled=1")),
    ],
)
def test_single_labelled_video_with_variance_trains(
    data_set: Path, tmp_path: Path, recipe: str, overrides: tuple[str, ...]
) -> None:
    assert run(data_set, tmp_path / "run", *overrides, recipe=recipe, max_steps=1).step == 1


def test_missing_checkpoint_is_refused_before_anything_is_written(data_set: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No checkpoint .*nope.pt"):
        run(data_set, tmp_path / "run", resume=str(tmp_path / "nope.pt"))
    assert list(tmp_path.iterdir()) == []


def test_impossible_run_folder_is_refused(data_set: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="--out"):
            run(data_set, folder)


def test_not_finite_weights_are_never_evaluated_or_saved(data_set: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no finite number"):
        run(
            data_set, tmp_path / "run", "optimiser.learning_rate=1e30", "optimiser.clip_norm=0",
            "optimiser.warmup_epochs=0", "evaluate.every_epochs=1", "runtime.log_every=100",
        )  # fmt: skip
    for path in list_checkpoints(tmp_path / "run"):
        assert all(torch.isfinite(value).all() for value in load(path).model.values())


def test_folder_in_use_is_refused_with_its_owner(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "run", max_steps=1)
    with owned(tmp_path / "run"), pytest.raises(InputError, match=f"in use by process {os.getpid()} on"):
        run(data_set, tmp_path / "run")
    run(data_set, tmp_path / "run", max_steps=2)


def test_missing_shard_is_named_at_the_start(make_data_set: Callable[..., Path], tmp_path: Path) -> None:
    root = make_data_set()
    (root / "shard-000001.tar").unlink()
    with pytest.raises(InputError, match=r"shard-000001.tar \(missing, expected \d+ bytes\)"):
        run(root, tmp_path / "run")
