"""Compared runs: seeds and folds as one group, and where groups differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.train.report.pages import chart_values, log, parse, records, write_run, write_test
from tgtrain.report.difference import differences
from tgtrain.report.groups import group_runs
from tgtrain.report.page import write_report
from tgtrain.report.run_data import read_runs

KEYS = [f"Class/v{number}" for number in range(10)]


@pytest.fixture
def four(tmp_path: Path) -> list[Path]:
    """Two seeds of fixmatch, with 8 and 6 of 10 right, and two of ltg, with 9 and 9."""
    runs = []
    for recipe, rights in (("demo-fixmatch", (8, 6)), ("demo", (9, 9))):
        for seed, right in enumerate(rights):
            folder = write_run(tmp_path / f"{recipe}-{seed}", recipe=recipe, overrides=(f"runtime.seed={seed}",))
            write_test(folder, [[4, 0], [10 - right, right - 4]], keys=KEYS)
            runs.append(folder)
    return runs


def test_seeds_are_one_line_with_a_band(four: list[Path], tmp_path: Path) -> None:
    for folder, factor in ((four[0], 1.0), (four[1], 3.0)):
        lines = [records("fixmatch", step)[0] for step in (1, 2, 3)]
        log(folder, [{**line, "grad_norm": factor * line["step"]} for line in lines])
    page = parse(write_report(four, tmp_path / "page.html"))
    assert chart_values(page)[2.0, 4.0, 6.0] == [1, 2, 3]  # the means
    assert (1.0, 2.0, 3.0) not in chart_values(page)
    assert "demo-fixmatch (2 runs) 70.0 % ± 14.1" in page.words  # of 80 and 60 %
    assert "demo (2 runs) 90.0 % ± 0.0" in page.words


def test_a_repeated_seed_is_no_group(four: list[Path], tmp_path: Path) -> None:
    facts = json.loads((four[1] / "config.json").read_text())
    facts["config"]["runtime"]["seed"] = 0
    (four[1] / "config.json").write_text(json.dumps(facts))
    groups = group_runs(read_runs(four))
    assert [group.members for group in groups] == [(0,), (1,), (2, 3)]
    assert [group.name for group in groups] == ["demo-fixmatch-0", "demo-fixmatch-1", "demo (2 runs)"]


def test_settings_of_one_recipe_have_different_names(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / f"{width}-{seed}", overrides=(f"model.width={width}", f"runtime.seed={seed}"))
        for width in (4, 8)
        for seed in (0, 1)
    ]
    assert [group.name for group in group_runs(read_runs(folders))] == [
        "demo model.width=4 (2 runs)",
        "demo model.width=8 (2 runs)",
    ]


def test_differences_by_hand(four: list[Path], tmp_path: Path) -> None:
    runs = read_runs(four)
    (found,) = differences(runs, [run.results[0] for run in runs], group_runs(runs))
    assert (found.first, found.second) == ("demo-fixmatch (2 runs)", "demo (2 runs)")
    # Still: 4 of 6 and 2 of 6 right, then 5 of 6 twice. Moving: all right in all.
    gains = {row.name: (row.first, row.second) for row in found.gains}
    assert gains["Moving"] == (1.0, 1.0)
    assert gains["Still"] == pytest.approx((0.5, 5 / 6))
    assert found.gains[0].name == "Still"
    (change,) = found.changes
    assert (change.truth_name, change.prediction_name) == ("Still", "Moving")
    assert (change.first, change.second) == pytest.approx((0.5, 1 / 6))
    assert found.cells[1] == pytest.approx((-1 / 3, 1 / 3))
    # Wrong videos come first: v4 and v5 in the first run, v4 to v7 in the second; v4 alone in both of the others. Of two runs
    # both must be right.
    assert [video.key for video in found.only_second] == ["Class/v5", "Class/v6", "Class/v7"]
    assert {video.taken_for for video in found.only_second} == {"Moving"}
    assert (found.only_first, found.num_both, found.num_neither) == ((), 6, 1)
    words = parse(write_report(four, tmp_path / "page.html")).words
    assert "3 videos only demo (2 runs) gets right, 0 only demo-fixmatch (2 runs); both 6, neither 1." in words
    assert "3 videos that demo (2 runs) gets and demo-fixmatch (2 runs) misses" in words
    assert "Still 6 50.0 % 83.3 % +33.3" in words


def test_other_data_or_no_predictions_give_no_differences(four: list[Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", digest="e" * 64)
    write_test(other, [[4, 0], [0, 6]], keys=KEYS)
    assert "differences" not in parse(write_report([four[0], other], tmp_path / "page.html")).ids
    for folder in four:
        (folder / "test-10x3.parquet").unlink()
    assert "The predictions of the tests are not stored." in parse(write_report(four, tmp_path / "page.html")).words
