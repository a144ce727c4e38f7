"""Pseudo-labels by class, calibration and cost: figures by hand, and what is not known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.train.report.pages import class_records, log, parse, records, write_test
from tgtrain.evaluate.results import read_results
from tgtrain.report.calibration import calibrate
from tgtrain.report.cost import cost_of
from tgtrain.report.maps import shaded_map
from tgtrain.report.page import write_report
from tgtrain.report.pseudo import PseudoLabels, pseudo_labels
from tgtrain.report.run_data import read_run
from tgtrain.run.energy import gpu_joules


def add(run: Path, lines: list[dict[str, Any]]) -> PseudoLabels:
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    found = pseudo_labels(read_run(run))
    assert found is not None
    return found


def test_shares_of_each_class_are_those_of_the_last_epoch(run: Path) -> None:
    found = add(run, class_records())
    assert (found.epoch, found.kept, found.right) == (2, 5 / 8, 2 / 5)
    moving, still = found.rows
    assert (moving.name, moving.kept, moving.kept_per_true, moving.right, moving.found) == (
        "Moving",
        1.0,
        0.5,
        0.0,
        0.0,
    )
    assert (still.name, still.kept, still.kept_per_true, still.right, still.found) == ("Still", 4.0, 0.5, 0.5, 0.25)
    assert found.warnings == ("1 class has no right label that is kept: Moving.",)
    assert found.readout["num_correct"] == [[6.0, 0.0], [1.0, 2.0]]  # rows are classes, the weakest first
    page = parse(write_report([run]))
    assert "Pseudo-labels, epoch 2 40.0 % right of the 62.5 % that are kept" in page.words
    assert "Moving 2 1 0.50 0.0 % 0.0 %" in page.words


def test_a_class_that_takes_over_is_named(run: Path) -> None:
    lines = class_records()
    lines[3] |= {"num_predicted": 20, "num_selected": 20, "num_checked": 20}
    found = add(run, lines)
    assert found.warnings[1] == "1 class has over 1.5 times as many labels kept as there are clips: Still (2.5 times)."
    assert "class=over" in found.maps[0].svg


def test_views_that_label_by_themselves_are_added_up(run: Path) -> None:
    both = [{**line, "view": view} for line in class_records() for view in ("rgb", "tg")]
    found = add(run, both)
    assert found.kept == 5 / 8
    assert found.rows[1].kept == 8.0


@pytest.mark.parametrize(
    "missing", [("num_true", "num_checked", "num_correct"), ("num_selected", "num_true", "num_checked", "num_correct")]
)
def test_without_the_truth_only_what_is_kept_is_shown(run: Path, missing: tuple[str, ...]) -> None:
    """Videos of no known class, and a run of a version that logged `trusted` and `num_predicted` alone."""
    found = add(run, [{k: v for k, v in line.items() if k not in missing} for line in class_records()])
    assert [each.title for each in found.maps] == ["Kept"]
    assert (found.kept, found.right, found.warnings) == (5 / 8, None, ())
    assert "The true classes of these videos are not known." in parse(write_report([run])).words


def test_strange_records_are_left_out(run: Path) -> None:
    strange = [{"kind": "class", "step": 9}, {"kind": "class", "step": 9, "epoch": -3, "class": "Still"}]
    strange += [
        {**class_records()[0], "class": "<b>", "epoch": 7},
        {**class_records()[0], "num_selected": None, "epoch": 1},
    ]
    found = add(run, [*class_records(), *strange])
    assert found.epoch == 2


def test_many_epochs_are_merged_into_columns(run: Path) -> None:
    lines = [{**line, "epoch": epoch, "step": epoch + 1} for epoch in range(100) for line in class_records()[2:]]
    found = add(run, lines)
    assert len(found.columns) == 34
    assert found.columns[:1] + found.columns[-1:] == ("epochs 1 to 3", "epoch 100")
    assert np.sum(found.readout["num_selected"]) == 500


def test_a_map_tells_nothing_from_zero_and_too_much() -> None:
    svg = shaded_map(np.array([[0.0, np.nan, 1.0], [3.0, 0.05, 0.05]]), "text", marks_zero=True)
    found = re.findall(r'<path( class=\S+)?(?: fill-opacity="([\d.]+)")? d="([^"]*)"', svg)
    assert sorted(found) == [
        ("", "0.17", "M1 1h2v1h-2z"),
        ("", "1.00", "M2 0h1v1h-1z"),
        (' class="zero"', "", "M0 0h1v1h-1z"),
        (" class=over", "1.00", "M0 1h1v1h-1z"),
    ]
    assert 'd="M1 0' not in svg


def with_scores(run: Path, scores: list[list[float]], predictions: list[int], labels: list[int], average: str) -> None:
    keys = [f"v{place}" for place in range(len(labels))]
    table = {"key": keys, "label": labels, "prediction": predictions, "scores": scores}
    pq.write_table(pa.table(table), run / "test-10x3.parquet")
    facts = json.loads((run / "test-10x3.json").read_text()) | {"average": average}
    (run / "test-10x3.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_calibration_error_by_hand(run: Path, average: str) -> None:
    """Two answers of 0.9, one right; two of 0.65, both right: |0.5 - 0.9| / 2 + |1 - 0.65| / 2 = 0.375."""
    probability = np.array([[0.9, 0.1], [0.1, 0.9], [0.65, 0.35], [0.35, 0.65]])
    scores = probability if average == "probabilities" else np.log(probability) + 3
    with_scores(run, scores.tolist(), [0, 1, 0, 1], [0, 0, 0, 1], average)
    found = calibrate(read_results(run, [])[0])
    assert found is not None
    assert found.error == pytest.approx(0.375, abs=1e-6)
    assert (found.accuracy, found.num_videos, len(found.bins)) == (0.75, 4, 2)
    page = parse(write_report([run]))
    assert "Calibration expected calibration error 37.5 %" in page.words
    assert "77.5 % sure, 75.0 % right" in page.words
    assert "Moving taken for Still 90.0 % sure v1" in page.words


@pytest.mark.parametrize("scores", [[[float("nan"), 0.0]] * 2, [[1.0], [1.0, 2.0]], [[], []]])
def test_damaged_scores_give_no_calibration(run: Path, scores: list[list[float]]) -> None:
    with_scores(run, scores, [0, 1], [0, 0], "logits")
    assert calibrate(read_results(run, [])[0]) is None
    assert "calibration" not in parse(write_report([run])).ids


def test_cost_adds_up_the_log(run: Path) -> None:
    lines = [{**records("ltg", step)[0], "gpu_watts": 300.0} for step in (2, 4, 8)]
    log(run, lines)
    facts = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(facts | {"world_size": 4}))
    cost = cost_of(read_run(run))
    assert cost.step_hours == pytest.approx(4 * 8 * 0.25 / 3600)  # 4 devices, 8 steps
    assert cost.energy_kwh == pytest.approx(4 * 8 * 0.25 * 300 / 3.6e6)
    assert cost.peak_gb == 2.0
    words = parse(write_report([run])).words
    assert "Cost 0.0022 device hours (0.13 min)" in words
    assert "2 GiB" in words


def test_cost_that_is_not_logged_is_said(run: Path) -> None:
    assert "not reported" in parse(write_report([run])).words
    log(run, [{"kind": "train", "step": 1, "loss/total": 1.0}])
    assert cost_of(read_run(run)).step_hours is None
    assert "Cost not logged" in parse(write_report([run])).words


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_tells_no_energy() -> None:
    assert gpu_joules() is None


def test_networks_are_shown_beside_each_other(run: Path) -> None:
    write_test(run, [[2, 2], [2, 4]], modality="tg")
    write_test(run, [[4, 0], [2, 4]], modality="both", step=4)  # of another step: not beside them
    words = parse(write_report([run])).words
    assert "RGB network 70.0 %" in words
    assert "TG network 60.0 %" in words
    assert "Both, fused – not tested like the first: tgtrain test --modality both" in words
