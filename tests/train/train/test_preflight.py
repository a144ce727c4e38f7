"""The rows of the tables in docs/training.md, each in a real run."""

from __future__ import annotations

import errno
import math
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import read_split
from tests.train.support import ALONE, SMALL, equal, records, run, setup_of, weights
from tgtrain.config import load_recipe
from tgtrain.data.setup import Setup, prepare
from tgtrain.ranks.distributed import Ranks
from tgtrain.run.checkpoint import every_checkpoint, list_checkpoints
from tgtrain.train.bench import measure_step
from tgtrain.train.health import LossWatch
from tgtrain.train.preflight import notes, require_room, require_settings
from tgtrain.train.trainer import RunError, train

NO_CLIPPING = ("optimiser.clip_norm=0", "optimiser.warmup_epochs=0", "runtime.log_every=1")


def with_split(root: Path, *overrides: str, **flags: list[int]) -> Setup:
    """A setup whose split has these places labelled, unlabelled, validation or test, and no others."""
    split = read_split(root)

    def flagged(places: list[int]) -> np.ndarray:
        return np.isin(np.arange(len(split)), places)

    split = replace(split, **{name: flagged(places) for name, places in flags.items()})
    return prepare(str(root), split, read_manifest(root), load_recipe("demo", [*SMALL, *overrides], num_classes=3))


def of_class(root: Path, label: int, part: str) -> list[int]:
    split = read_split(root)
    return [int(place) for place in np.flatnonzero(split.part(part) & (split.label == label))]


def test_not_finite_loss_stops_before_saving(data_set: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no finite number any more .*Lower optimiser.learning_rate"):
        run(data_set, tmp_path / "run", "optimiser.learning_rate=1e30", *NO_CLIPPING)
    assert every_checkpoint(tmp_path / "run") == []


def test_exploding_loss_stops_on_the_third_line(data_set: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"the loss explodes: at step \d+ .*over 100 times the usual .*optimiser.learning_rate"
    ):
        run(data_set, tmp_path / "run", "optimiser.learning_rate=300", *NO_CLIPPING)
    losses = [record["loss/total"] for record in records(tmp_path / "run", "train")]
    assert all(map(math.isfinite, losses))
    assert losses[0] < 100  # before the first update
    assert min(losses[-2:]) > 100  # the third is reported and not written


def test_max_loss_factor_0_allows_an_exploding_loss(data_set: Path, tmp_path: Path) -> None:
    run(
        data_set,
        tmp_path / "run",
        "optimiser.learning_rate=300",
        "runtime.max_loss_factor=0",
        *NO_CLIPPING,
        max_steps=5,
    )
    assert records(tmp_path / "run", "train")[-1]["loss/total"] > 100


@pytest.mark.parametrize(
    ("losses", "at"),
    [
        ([5.0] * 50, None),
        ([5, 5, 5, 501, 501, 501], 5),
        ([5, 5, 5, 499, 499, 499], None),  # 99.8 times as much
        ([5, 501, 501, 5, 501, 501, 5], None),  # never three in a row
        ([0.001] * 30 + [90] * 5, None),  # the usual loss is at least 1
        ([0.001] * 30 + [101] * 3, 32),
        ([5, 501, 1001, 2001], 3),  # what explodes does not become usual
        ([200, 200, 200], None),  # the first line is what the next are compared with
        ([200, 20001, 20001, 20001], 3),
        ([9.0] * 3 + [1.5] * 25 + [151] * 3, 30),  # the usual loss is that of the last 25 lines
    ],
)
def test_loss_watch(losses: list[float], at: int | None) -> None:
    watch = LossWatch(100)
    told = [place for place, loss in enumerate(losses) if watch.explodes(float(loss))]
    assert told[:1] == ([] if at is None else [at])


def test_high_first_loss_is_the_usual_one() -> None:
    """Several terms over many classes: far over 1 in a healthy run, and too high with any factor."""
    watch = LossWatch(5)
    assert [watch.explodes(9.2) for _ in range(50)] == [False] * 50
    assert [watch.explodes(loss) for loss in (45.0, 47.0, 47.0, 47.0)] == [False, False, False, True]


def test_not_finite_float16_loss_is_ignored() -> None:
    watch = LossWatch(100)
    losses = [math.nan, 5.0, math.inf, 501.0, 501.0, math.nan, 501.0, math.nan, 501.0]
    told = [place for place, loss in enumerate(losses) if watch.explodes(loss)]
    assert told == [6, 8]
    assert watch.usual == 5


def test_no_pseudo_label_is_trusted(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "run", "method.threshold=1.0", "method.warmup_epochs=0")
    for record in records(tmp_path / "run", "train"):
        assert record["train/num_selected"] == record["train/mask_fraction"] == 0
        assert record["loss/pseudo_rgb"] == record["loss/pseudo_tg"] == 0
        assert "train/pseudo_precision" not in record  # of none no share is right
        assert math.isfinite(record["loss/total"])
    assert records(tmp_path / "run", "evaluate")[-1]["step"] == 12


def test_class_without_labelled_video_is_noted(data_set: Path, tmp_path: Path) -> None:
    some = of_class(data_set, 0, "labelled") + of_class(data_set, 1, "labelled")
    setup = with_split(data_set, labelled=some)
    assert any("no labelled video of 1 class: class2, which cannot be learnt" in note for note in notes(setup))
    outcome = train(setup, tmp_path / "run", ALONE, log=lambda text: None)
    assert outcome.last is not None
    assert sorted({setup.classes[label] for label in outcome.last.labels}) == ["class0", "class1", "class2"]


def test_fewer_videos_than_a_batch(data_set: Path, tmp_path: Path) -> None:
    labelled, unlabelled = of_class(data_set, 0, "labelled")[:1], of_class(data_set, 1, "unlabelled")[:2]
    setup = with_split(data_set, "evaluate.every_epochs=4", labelled=labelled, unlabelled=unlabelled)
    told = notes(setup)
    assert any(
        "1 labelled video is fewer than batch.labelled 4: videos come more than once in a step" in t for t in told
    )
    assert any(
        "2 unlabelled videos are fewer than batch.unlabelled 4" in t and "an epoch is one step" in t for t in told
    )
    outcome = train(setup, tmp_path / "run", ALONE, log=lambda text: None)
    assert (outcome.step, outcome.num_steps) == (4, 4)


def test_empty_stream_is_refused(data_set: Path) -> None:
    with pytest.raises(InputError, match="no video is labelled"):
        with_split(data_set, labelled=[])
    with pytest.raises(InputError, match="has no unlabelled video, which method ltg needs"):
        with_split(data_set, unlabelled=[])


def test_no_validation_or_test_part(data_set: Path, tmp_path: Path) -> None:
    setup = with_split(data_set, validation=[], test=[])
    assert "the split has no validation or test part: no accuracy is measured" in notes(setup)
    outcome = train(setup, tmp_path / "run", ALONE, log=lambda text: None)
    assert outcome.last is None
    assert list_checkpoints(tmp_path / "run")[-1].name == "step-00000012.pt"


def test_all_samples_damaged(make_data_set: Callable[..., Path], tmp_path: Path) -> None:
    root = make_data_set()
    for row in read_manifest(root).videos:
        with (root / row.shard).open("r+b") as shard:
            shard.seek(row.members.rgb_offset)
            shard.write(b"\0" * row.members.rgb_bytes)
    with pytest.raises((InputError, RunError), match="cannot be read|damaged"):
        run(root, tmp_path / "run")
    assert every_checkpoint(tmp_path / "run") == []


def test_a_recipe_for_other_data_is_noted(data_set: Path) -> None:
    setup = setup_of(data_set)
    config = replace(setup.config, name="mine", data=replace(setup.config.data, dataset="hmdb51", percent=40.0))
    split = replace(setup.split, provenance={**setup.split.provenance, "percent": "50"})
    noted = notes(replace(setup, config=config, split=split))
    assert any("recipe mine is that of hmdb51, and this data set is" in note for note in noted)
    assert any("recipe mine is for 40 % of labels" in note and "has 50 %" in note for note in noted)


def test_another_data_set_names_the_fields_of_the_model_that_differ(data_set: Path) -> None:
    setup = setup_of(data_set)
    model = str(replace(setup.config.model, num_classes=7))
    (text,) = setup.identity.differences(replace(setup.identity, model=model))
    assert text == "model.num_classes 3 there, 7 now"


def test_fitting_run_has_no_notes(data_set: Path) -> None:
    assert notes(setup_of(data_set)) == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "optimiser.warmup_epochs=4",
            "optimiser.warmup_epochs 4 are not fewer than the 4 epochs: the rate never reaches",
        ),
        (
            "method.warmup_epochs=9",
            "method.warmup_epochs 9 are not fewer than the 4 epochs: nothing is learnt from pseudo-labels",
        ),
    ],
)
def test_endless_warm_up_is_noted(data_set: Path, override: str, said: str) -> None:
    (note,) = notes(setup_of(data_set, override))
    assert said in note


GPU = Ranks(0, 1, torch.device("cuda", 0))
COMPILED = ("runtime.compile=true", "data.size=32", "data.clip_frames=4")


def test_clips_too_small_to_compile_on_gpu_are_refused(data_set: Path, tmp_path: Path) -> None:
    setup = setup_of(data_set, *COMPILED)
    said = r"4 frames of 32x32 are 1x1x1 \(T x H x W\).* Set data.size above 32, or runtime.compile=false"
    with pytest.raises(InputError, match=said):
        measure_step(setup, GPU, 1.0)
    with pytest.raises(InputError, match=said):
        train(setup, tmp_path / "run", GPU, log=lambda text: None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "device"),
    [
        ("data.size=33", GPU.device),
        ("data.clip_frames=32", GPU.device),
        ("runtime.compile_backend=aot_eager", GPU.device),
        ("runtime.compile=false", GPU.device),
        ("data.size=32", ALONE.device),
    ],
)
@pytest.mark.parametrize("network", [("r3d", 10), ("slowonly", 50)])
def test_compilable_settings_are_accepted(override: str, device: torch.device, network: tuple[str, int]) -> None:
    backbone, depth = network
    settings = (*COMPILED, f"model.backbone={backbone}", f"model.depth={depth}", override)
    require_settings(load_recipe("demo", settings, num_classes=3), Ranks(0, 1, device))


def test_a_disk_without_room_for_all_checkpoints_is_refused(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = setup_of(data_set, "evaluate.every_epochs=4")
    run(data_set, tmp_path / "roomy", "evaluate.every_epochs=4", max_steps=1)
    size = list_checkpoints(tmp_path / "roomy")[-1].stat().st_size
    usage = namedtuple("usage", "total used free")
    marks = -(-setup.config.optimiser.epochs // 4)
    most = min(6, marks + 1)  # three kept ones, the best, one to be measured, one being written
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10 * size, 0, most * size))
    require_room(tmp_path / "run", setup.config)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10 * size, 0, int((most - 0.5) * size)))
    with pytest.raises(InputError, match=rf"MB are free, and the run needs \d+ MB: at most {most} checkpoints of"):
        train(setup, tmp_path / "run", ALONE, log=lambda text: None)
    assert not (tmp_path / "run").exists()
    require_room(tmp_path / "roomy", setup.config)  # one lies there already, and needs no room again


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files"), RunError, r"Too many open files \(at step 0\)\. .*`ulimit -n`"),
        (
            OSError(errno.EIO, "Input/output error", "shard-000000.tar"),
            OSError,
            "Input/output error: 'shard-000000.tar'",
        ),
    ],
)
def test_read_error_is_not_reported_as_a_full_disk(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, kind: type[Exception], said: str
) -> None:
    def broken(*args: object, **kwargs: object) -> Iterator[object]:
        raise error
        yield

    monkeypatch.setattr("tgtrain.train.trainer.step_loader", broken)
    with pytest.raises(kind, match=said) as raised:
        run(data_set, tmp_path / "run")
    assert "make room" not in str(raised.value)


def test_unwritable_journal_stops_the_run(data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tgtrain.run.journal.Journal.write", full)
    with pytest.raises(
        RunError, match=r"run: No space left on device \(at step 2\)\. No checkpoint was written yet; make room"
    ):
        run(data_set, tmp_path / "run")


def test_full_disk_keeps_older_checkpoints(data_set: Path, tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk: writing fails in the middle of the second checkpoint."""
    import resource

    run(data_set, tmp_path / "whole")
    run(data_set, tmp_path / "run", max_steps=6)
    size = list_checkpoints(tmp_path / "run")[-1].stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        with pytest.raises(RunError, match="File too large .*Step-00000006.pt is the last valid checkpoint; make room"):
            run(data_set, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in every_checkpoint(tmp_path / "run")] == ["step-00000006.pt"]
    assert list((tmp_path / "run").rglob(".tmp-*")) == []
    run(data_set, tmp_path / "run")
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
