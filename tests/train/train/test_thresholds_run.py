"""Whole runs under each threshold rule: exact resume, what the log shows of each class, and what a checkpoint holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from manifests.records import InputError
from tests.train.support import TINY, dataset_of, equal, records, replace_rank, run, weights
from tgtrain.run import checkpoint as checkpoints
from tgtrain.run.checkpoint import list_checkpoints, load

RULES = {
    "freematch": ("demo", "method.threshold_momentum=0.9", "method.fairness_weight=0.1", "runtime.accumulate=2"),
    "flexmatch": ("demo-fixmatch", "method.threshold=0.35"),
    "softmatch": ("demo", "method.threshold_momentum=0.9", "method.pseudo_label_metric=individual"),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_stopped_run_resumes_to_the_same_end(data_set: Path, tmp_path: Path, rule: str) -> None:
    recipe, *changes = RULES[rule]
    changes = [*TINY, *changes, f"method.threshold_rule={rule}", "optimiser.epochs=2", "runtime.workers=0"]
    run(data_set, tmp_path / "whole", *changes, recipe=recipe)
    for stop in (4, None):  # within the second epoch, of three steps
        run(data_set, tmp_path / "parts", *changes, recipe=recipe, max_steps=stop)
    assert equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    # Records of the thresholds, too: an epoch that was interrupted is counted as a whole.
    one, other = (records(tmp_path / name, "class") for name in ("whole", "parts"))
    assert one == other
    states = [load(list_checkpoints(tmp_path / name)[-1]).thresholds for name in ("whole", "parts")]
    assert states[0]
    assert equal(*states)

    views = ["rgb", "tg"] if rule == "softmatch" else [""]
    expected = [(epoch, view, f"class{c}") for epoch in range(2) for view in views for c in range(3)]
    assert [(record["epoch"], record["view"], record["class"]) for record in one] == expected
    for start in range(0, len(one), 3):
        of_epoch = one[start : start + 3]
        assert sum(record["num_predicted"] for record in of_epoch) == 12  # 3 steps of 4 clips
        assert sum(record["num_true"] for record in of_epoch) == 12  # the class of all is known
    for record in one:
        assert 0 <= record["num_correct"] <= record["num_checked"] == record["num_selected"] <= record["num_predicted"]
        assert record["num_correct"] <= record["num_true"]
        if record["trusted"] is not None:
            assert record["trusted"] * record["num_predicted"] == pytest.approx(record["num_selected"], abs=1e-4)
    assert all(0 <= record["threshold"] <= 1 for record in one)
    assert {record["trusted"] is None for record in one if not record["num_predicted"]} <= {True}
    if rule == "freematch":
        fairness = [record["loss/fairness_rgb"] for record in records(tmp_path / "whole", "train")]
        assert fairness[0] == 0.0  # warm-up
        assert fairness[-1] < 0


def test_a_run_with_the_fixed_threshold_keeps_no_state_and_reads_old_checkpoints(
    data_set: Path, tmp_path: Path
) -> None:
    run(data_set, tmp_path / "run", max_steps=2)
    (path,) = list_checkpoints(tmp_path / "run")
    raw = torch.load(path, weights_only=True)
    assert raw.keys() == {"version", "step", "identity", "model", "optimiser", "extra", "measured"}
    assert load(path).thresholds == {}
    assert not records(tmp_path / "run", "class")  # the first epoch has three steps


def test_pseudo_labels_are_counted_by_class(data_set: Path, tmp_path: Path) -> None:
    """Under the fixed threshold, stopped within an epoch: the records of classes add up to those of the steps."""
    changes = (*TINY, "method.threshold=0.34", "optimiser.epochs=2", "runtime.workers=0", "runtime.log_every=1")
    for stop in (4, None):
        run(data_set, tmp_path / "run", *changes, max_steps=stop)
    counts, steps = records(tmp_path / "run", "class"), records(tmp_path / "run", "train")
    assert [(record["epoch"], record["class"]) for record in counts] == [
        (e, f"class{c}") for e in range(2) for c in range(3)
    ]
    for epoch in range(2):
        of_epoch = [record for record in counts if record["epoch"] == epoch]
        of_steps = [record for record in steps if record["epoch"] == epoch]
        for name in ("num_selected", "num_checked", "num_correct"):
            assert sum(r[name] for r in of_epoch) == sum(r[f"train/{name}"] for r in of_steps), name
        assert (
            sum(record["num_true"] for record in of_epoch) == sum(record["num_predicted"] for record in of_epoch) == 12
        )
        assert {record["threshold"] for record in of_epoch} == {0.34}
    assert sum(record["num_selected"] for record in counts) > 0


def test_a_checkpoint_without_its_thresholds_is_refused(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "run", "method.threshold_rule=freematch", max_steps=2)
    (path,) = list_checkpoints(tmp_path / "run")
    found = load(path)
    found.thresholds.clear()
    checkpoints.save(tmp_path / "run", found, 2)
    with pytest.raises(InputError, match="does not fit this model: it holds no thresholds of rule freematch"):
        run(data_set, tmp_path / "run", "method.threshold_rule=freematch")


def test_another_rule_is_another_run(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "run", max_steps=1)
    with pytest.raises(InputError, match="method.threshold_rule: fixed there, softmatch asked"):
        run(data_set, tmp_path / "run", "method.threshold_rule=softmatch")


def test_a_row_names_its_video_in_the_unlabelled_list_on_any_rank(data_set: Path) -> None:
    dataset = dataset_of(data_set, unlabelled=8)
    assert dataset.unlabelled is not None
    listed = [dataset.reader.index.key(number) for number in dataset.unlabelled.videos]
    for world_size in (1, 2, 4):
        for rank in range(world_size):
            clips = replace_rank(dataset, rank, world_size)[1].unlabelled
            assert clips is not None
            assert clips.videos is not None
            assert tuple(listed[video] for video in clips.videos.tolist()) == clips.keys
