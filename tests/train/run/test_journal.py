"""The log of a run: means over an interval, precision of pseudo-labels, one line, and a journal that survives a resume."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from tgtrain.run.journal import Interval, Journal, memory_mb, with_precision
from tgtrain.run.lines import figures_line, step_line

VALUES = {
    "loss/total": 5.0, "loss/supervised_rgb": 1.0, "loss/supervised_tg": 0.5, "loss/pseudo_rgb": 0.25,
    "loss/align_stage1": 0.5, "loss/align_stage4": 0.25, "loss/contrast_crossview_sameclip": 2.5, "grad_norm": 3.0,
    "train/mask_fraction": 0.5, "learning_rate": 0.2, "clips_per_second": 80.0, "seconds_per_step": 1.0,
    "seconds_left": 720.0, "waiting_share": 0.05,
}  # fmt: skip


def test_means_are_over_the_steps_of_the_interval() -> None:
    interval = Interval()
    for value in (1.0, 3.0):
        interval.add([("loss/total", torch.tensor(value)), ("grad_norm", torch.tensor(2 * value))], 8, 0.0)
    means = interval.means()
    assert (means["loss/total"], means["grad_norm"]) == (2.0, 4.0)
    assert means["clips_per_second"] == pytest.approx(16 / (2 * means["seconds_per_step"]))
    assert 0 <= means["waiting_share"] <= 1
    interval.reset()
    interval.add([("loss/total", torch.tensor(7.0))], 8, 0.0)
    again = interval.means()
    assert again["loss/total"] == 7.0
    # The time left is estimated from all steps so far and everything between them.
    assert again["overall_seconds_per_step"] * 3 >= means["overall_seconds_per_step"] * 2


def test_skipped_float16_steps_are_left_out_of_means() -> None:
    values = [2.0, float("inf"), 4.0]
    for finite_only, mean in ((True, 3.0), (False, float("inf"))):
        interval = Interval(finite_only)
        for value in values:
            interval.add([("grad_norm", torch.tensor(value)), ("loss/total", torch.tensor(1.0))], 8, 0.0)
        assert (interval.means()["grad_norm"], interval.means()["loss/total"]) == (mean, 1.0)
    nothing = Interval(finite_only=True)
    nothing.add([("grad_norm", torch.tensor(float("nan")))], 8, 0.0)
    assert math.isnan(nothing.means()["grad_norm"])


def test_not_finite_value_is_null_in_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0)
    journal.write("train", 1, {"grad_norm": float("inf"), "loss/total": float("nan"), "epoch": 0})
    journal.close()
    assert (
        tmp_path / "metrics.jsonl"
    ).read_text() == '{"kind": "train", "step": 1, "grad_norm": null, "loss/total": null, "epoch": 0}\n'


def test_precision_is_absent_if_nothing_was_trusted() -> None:
    # Means of a step over ranks that trusted 3 and 1, of which 3 and 0 were right: 3 of 4, not the mean of 1 and 0.
    assert with_precision({"train/num_selected": 4.0, "train/num_correct": 3.0})["train/pseudo_precision"] == 0.75
    assert "train/pseudo_precision" not in with_precision({"train/num_selected": 0.0, "train/num_correct": 0.0})
    assert with_precision({"loss/total": 1.0}) == {"loss/total": 1.0}


def test_step_line() -> None:
    line = step_line(100, 460, 4, {**VALUES, "train/pseudo_precision": 0.9})
    assert line == (
        "step 100/460 epoch 5  loss 5.000 (sup 1.500 pseudo 0.250 align 0.750 contrast 2.500)\n"
        "  trusted 50 % right 90 %  lr 0.2  80.0 clips/s  waiting 5 %  12 min left"
    )
    assert "right" not in step_line(1, 2, 0, VALUES)
    assert "skipped" not in step_line(1, 2, 0, {**VALUES, "num_skipped": 0})
    assert "  trusted 50 %  skipped 3  lr 0.2" in step_line(1, 2, 0, {**VALUES, "num_skipped": 3})
    assert step_line(1, 10_000, 0, {**VALUES, "seconds_left": 19_998.0}).endswith("5.6 h left")
    large = {**VALUES, "loss/total": 12345.0, "loss/soft_rgb": 1.0, "seconds_left": 10.0**9, "num_skipped": 12345}
    assert max(map(len, step_line(1_234_567, 1_234_567, 123_456, large).split("\n"))) < 100
    supervised = {
        name: value for name, value in VALUES.items() if not name.startswith(("train/", "loss/p", "loss/a", "loss/c"))
    }
    assert step_line(1, 2, 0, supervised).startswith("step 1/2 epoch 1  loss 5.000 (sup 1.500)  lr 0.2  80.0 clips/s")
    assert "\n" not in step_line(1, 2, 0, supervised)


def test_top5_of_five_classes_is_not_shown() -> None:
    named = {"top1@1x1": 0.5, "top5@1x1": 1.0}
    assert figures_line(named, 5) == "top1@1x1 50.00 %"
    assert figures_line(named, 6) == "top1@1x1 50.00 %  top5@1x1 100.00 %"


def test_journal_drops_repeated_steps_and_partial_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0)
    for step in (2, 4, 6):
        journal.write("train", step, VALUES)
    journal.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "train", "st')
    journal = Journal(tmp_path, 4)
    journal.write("train", 6, {"loss/total": 1.0})
    journal.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4, 6]
    assert records[0] == {"kind": "train", "step": 2, **VALUES}
    assert records[2]["loss/total"] == 1.0
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_tensorboard_has_every_value(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    journal = Journal(tmp_path, 0)
    journal.write("train", 3, VALUES)
    journal.write("evaluate", 3, {"top1@1x1": 0.5, "part": "test"})
    journal.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    wanted = {name if "/" in name else f"train/{name}" for name in VALUES} | {"evaluate/top1@1x1"}
    assert set(events.Tags()["scalars"]) == wanted
    assert events.Scalars("loss/total")[0].value == 5.0


def test_memory_is_that_of_this_process() -> None:
    assert 50 < memory_mb() < 100_000
