"""The report page of one run: what it says, what it tolerates, and that it is one valid, self-contained file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from manifests.records import InputError
from tests.train.report.pages import chart_values, log, parse, records, write_run, write_test
from tgtrain.report.classes import interval95
from tgtrain.report.page import write_report
from tgtrain.run.folder import OTHER_SIZES


def test_page_is_one_valid_file_that_loads_nothing(run: Path) -> None:
    path = write_report([run])
    assert path == run / "report.html"
    html = path.read_text()
    page = parse(path)
    assert html.startswith("<!doctype html>")
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", html)
    assert not re.search(r"https?://", html)
    assert page.charts
    for svg in page.charts:
        assert not re.search(r"(?:href|src)=\"(?!#)|@import|<script", svg)


def test_page_is_written_atomically_with_the_same_bytes_again(run: Path, tmp_path: Path) -> None:
    first, second = write_report([run], tmp_path / "a.html"), write_report([run], tmp_path / "b.html")
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html", "runs"]


def test_headline_names_protocol_data_split_steps_and_time(run: Path) -> None:
    words = parse(write_report([run])).words
    assert "top1@10x3 70.0 % 95 %: 39.7–89.2 %" in words  # 7 of 10; interval of R's binom.wilson(7, 10)
    assert "7 of 10 test videos right; RGB network, checkpoint step-00000008.pt" in words
    assert "mean_class@10x3 70.8 %" in words
    assert "Always naming the most frequent class would score 60.0 %." in words
    assert "Recipe demo, folder, split p50-s0-f1 8 of 24 steps (33 %)" in words
    assert "250 ms 100 clips/s" in words
    assert "320x240 (91.7 %), 176x144 (8.3 %) as stored" in words
    assert "200 labelled videos, 1,000 unlabelled" in words
    # 3 clips x 1 crop is what the recipe says; 10x3 is what was measured, at the recipe's test_size.
    assert "10x3: 10 clips spread evenly of every video, 8 frames 2 apart, short side 48 pixels" in words
    assert "the logits of the 30 views are averaged" in words


def test_accuracies_while_training_are_listed_beside_tests(run: Path) -> None:
    lines = [record for step in range(1, 9) for record in records("ltg", step)]
    lines[-1]["top1@1x1"] = 0.3  # worse than the one before
    log(run, lines)
    write_test(run, [[4, 0], [2, 4]], protocol="2x1", step=4, num_bad=3)
    words = parse(write_report([run])).words
    assert "top1@2x1" in words
    assert "4 steps before the last one; 3 more videos could not be read" in words
    assert "last while training test 8 200 30.0 % top1@1x1" in words
    assert "best while training chosen among 2 by the same videos: optimistic test 4 200 45.0 % top1@1x1" in words


def test_more_views_come_first_and_rgb_before_tg(run: Path) -> None:
    write_test(run, [[4, 0], [0, 6]], protocol="1x1")
    write_test(run, [[4, 0], [0, 6]], modality="tg")
    words = parse(write_report([run])).words
    rows = words[words.index("Every accuracy measured") :]
    assert rows.index("top1@10x3") < rows.index("tgtrain test, TG network") < rows.index("top1@1x1")


def test_every_logged_quantity_is_charted_with_its_values(run: Path) -> None:
    facts = json.loads((run / "config.json").read_text())
    facts["config"]["method"]["warmup_epochs"] = 6
    (run / "config.json").write_text(json.dumps(facts))
    page = parse(write_report([run]))
    charted = chart_values(page)
    for place in range(10):  # the loss terms of the method: total, 2 supervised, 2 pseudo, 4 alignment, 1 contrast
        values = tuple(place + 1 + step / 8 for step in range(1, 9))
        assert charted[values] == list(range(1, 9)), place
    assert (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08) in charted  # learning rate
    for constant in (50.0, 75.0, 2.0, 100.0, 12.5, 0.25):  # trusted %, right %, norm, clips/s, waiting %, s
        assert (constant,) * 8 in charted, constant
    assert (45.0, 50.0) in charted  # top1@1x1 of steps 4 and 8, in percent
    for name in ("loss/total", "loss/contrast_crossview_sameclip", "grad_norm", "memory_mb", "train/mask_fraction"):
        assert name in page.words
    assert "Dashed line: the pseudo-label loss starts." in page.words  # epoch 6, one step an epoch


def test_unknown_quantities_get_a_chart_too(run: Path) -> None:
    log(run, [{"kind": "train", "step": step, "loss/total": 1.0, "loss/new_term": 7.5 + step} for step in (1, 2, 3)])
    page = parse(write_report([run]))
    assert (8.5, 9.5, 10.5) in chart_values(page)
    assert "loss/new_term" in page.words


@pytest.mark.parametrize(
    ("method", "absent"),
    [
        ("supervised", ("Pseudo-label", "Alignment", "Contrast loss", "TG top-1")),
        ("fixmatch", ("Alignment", "Contrast")),
    ],
)
def test_methods_without_terms_have_no_charts_of_them(tmp_path: Path, method: str, absent: tuple[str, ...]) -> None:
    folder = write_run(tmp_path / "run", recipe=f"demo-{method}")
    words = parse(write_report([folder])).words
    curves = words[words.index("Point at a chart") : words.rindex("Data and split")]
    assert "Supervised loss" in curves
    for title in absent:
        assert title not in curves


def test_line_cut_short_by_a_kill_is_left_out_and_reported(run: Path) -> None:
    lines = [record for step in (1, 2, 3) for record in records("ltg", step)]
    log(run, lines, tail='{"kind": "train", "step": 4, "loss/to')
    words = parse(write_report([run])).words
    assert "The last line of metrics.jsonl was cut short while it was written, and is left out." in words
    assert "last, step 3" in words


def test_damaged_line_in_the_middle_is_counted(run: Path) -> None:
    text = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*text[:2], "\x00\x00\x00", '["kind"]', *text[2:]]) + "\n")
    page = parse(write_report([run]))
    assert "2 lines of metrics.jsonl could not be read and left out of this page." in page.words
    assert chart_values(page)[tuple(1 + step / 8 for step in range(1, 9))] == list(range(1, 9))


def test_step_logged_twice_counts_once_by_its_last_line(run: Path) -> None:
    lines = [record for step in (1, 2, 3, 2, 3, 4) for record in records("ltg", step)]
    lines[3]["loss/total"] = 99.0  # step 2 again, after a resume
    log(run, lines)
    assert chart_values(parse(write_report([run])))[1.125, 99.0, 1.375, 1.5] == [1, 2, 3, 4]


def test_values_that_are_no_numbers_are_gaps(run: Path) -> None:
    lines = [
        {"kind": "train", "step": step, "loss/total": value} for step, value in ((1, 1.0), (2, float("nan")), (3, 2.0))
    ]
    lines.append({"kind": "train", "step": 4, "loss/total": float("inf")})
    log(run, lines)
    assert (1.0, None, 2.0, None) in chart_values(parse(write_report([run])))


def test_precision_is_a_gap_if_nothing_was_trusted(run: Path) -> None:
    lines = [record for step in (1, 2, 3) for record in records("ltg", step)]
    lines[0] |= {"train/num_selected": 0.0, "train/mask_fraction": 0.0, "train/pseudo_precision": 0.0}
    log(run, lines)
    assert (None, 75.0, 75.0) in chart_values(parse(write_report([run])))


def test_run_without_metrics_gives_a_page_that_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=0)
    page = parse(write_report([folder]))
    assert "This run has logged no training step yet, so there are no curves." in page.words
    assert "No accuracy has been measured yet." in page.words
    assert "No step logged yet of 24" in page.words
    assert "curves" not in page.ids
    (folder / "metrics.jsonl").write_text("")
    assert "no training step yet" in parse(write_report([folder])).words


def test_finished_run_and_checkpoints_count_as_steps(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=20)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-00000023.pt").write_bytes(b"")
    assert "23 of 24 steps (96 %)" in parse(write_report([folder])).words
    (folder / "checkpoints" / "step-00000024.pt").write_bytes(b"")
    assert "Finished: 24 steps" in parse(write_report([folder])).words


def test_slow_reading_is_reported(run: Path) -> None:
    assert "12 % of the time spent waiting for data: reading clips keeps up" in parse(write_report([run])).words
    lines = [record | {"waiting_share": 0.6} for record in records("ltg", 1)]
    log(run, lines)
    assert (
        "60 % of the time spent waiting for data: reading clips slows this run down" in parse(write_report([run])).words
    )


def test_damaged_test_file_is_named_and_left_out(run: Path) -> None:
    (run / "test-2x1.json").write_text('{"protocol": "2x1", "top1@2x1"')
    (run / "test-3x1.json").write_text('{"protocol": "3x1", "num_videos": 5, "top1@3x1": NaN}')
    words = parse(write_report([run])).words
    assert "test-2x1.json could not be read and is left out" in words
    assert "test-3x1.json could not be read and is left out" in words
    assert "top1@10x3 70.0 %" in words


def test_settings_that_differ_from_the_recipe_are_marked(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", overrides=("optimiser.learning_rate=0.125", "model.width=16"))
    path = write_report([folder])
    rows = re.findall(r'<tr class="changed"><th scope="row">(\w+)</th><td>(.*?)</td>', path.read_text())
    assert rows == [
        ("width", '16<span class="small">recipe: 8</span>'),
        ("learning_rate", '0.125<span class="small">recipe: 0.1</span>'),
    ]
    assert "2 settings differ from the recipe demo" in parse(path).words
    special = re.findall(r'<tr class="special"><th scope="row">(\w+)</th>', path.read_text())
    assert {"size", "depth", "epochs"} <= set(special)  # the demo's own differences from the main recipe
    assert "momentum" not in special


def test_text_of_the_user_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\"&"
    folder = write_run(tmp_path / "<img src=x>&", classes=(evil, "b"), root=evil)
    write_test(folder, [[3, 1], [2, 4]], classes=(evil, "b"))
    path = write_report([folder])
    page = parse(path)
    assert path.read_text().count("<script>") == 1
    assert page.tags.count("img") == len(page.charts)
    assert evil in page.words
    assert "<img src=x>&" in page.words


def test_escaping_inside_a_map_of_many_classes(tmp_path: Path) -> None:
    classes = tuple(f"'\"><b>{number}" for number in range(30))
    folder = write_run(tmp_path / "run", classes=classes)
    write_test(folder, np.eye(30, dtype=int).tolist(), classes=classes)
    page = parse(write_report([folder]))
    assert [readout["names"] for readout in page.readouts if "cells" in readout] == [list(classes)]


def test_few_classes_are_a_table_of_counts(run: Path) -> None:
    html = write_report([run]).read_text()
    matrix = html[html.index('class="matrix"') : html.index("Accuracy by class, weakest")]
    cells = re.findall(r'<td class="(\w*)" style="--level: (\d+)" title="([^"]*)">(\d+)</td>', matrix)
    assert [cell[3] for cell in cells] == ["3", "1", "2", "4"]
    assert [cell[2] for cell in cells] == ["75.0 %", "25.0 %", "33.3 %", "66.7 %"]
    words = parse(run / "report.html").words
    assert "Still 6 66.7 % Moving (2) Moving 4 75.0 % Still (1)" in words  # weakest first
    assert "Still Moving 2 of 6 33.3 % Moving Still 1 of 4 25.0 %" in words  # confusions


def test_many_classes_are_a_map_with_every_cell(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    classes = tuple(f"class {number:03d}" for number in range(101))
    confusion = np.where(generator.random((101, 101)) < 0.05, generator.integers(1, 9, (101, 101)), 0)
    confusion[7] = 0
    confusion[:, 7] = 0  # a class that occurs nowhere
    np.fill_diagonal(confusion, 5)
    confusion[7, 7] = 0
    folder = write_run(tmp_path / "run", classes=classes)
    write_test(folder, confusion.tolist(), classes=classes)
    path = write_report([folder])
    page = parse(path)
    kept = [number for number in range(101) if number != 7]
    expected = confusion[np.ix_(kept, kept)]
    (readout,) = (readout for readout in page.readouts if "cells" in readout)
    assert readout["names"] == [classes[number] for number in kept]
    assert readout["sums"] == expected.sum(axis=1).tolist()
    counted = np.zeros_like(expected)
    for truth, prediction, count in readout["cells"]:
        counted[truth, prediction] = count
    np.testing.assert_array_equal(counted, expected)
    svg = re.search(r'<svg class="map".*?</svg>', path.read_text())
    assert svg
    shade = np.zeros(expected.shape)
    for opacity, squares in re.findall(r'fill-opacity="([\d.]+)" d="([^"]*)"', svg[0]):
        for column, row, wide in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", squares):
            shade[int(row), int(column) : int(column) + int(wide)] = float(opacity)
    share = expected / expected.sum(axis=1, keepdims=True)
    assert ((shade > 0) == (expected > 0)).all()
    # A darker cell never stands for a smaller share.
    order = np.argsort(share[expected > 0], kind="stable")
    assert (np.diff(shade[expected > 0][order]) >= 0).all()
    assert "1 classes without test videos" in page.words


@pytest.mark.parametrize(
    ("right", "count", "expected"),
    [(8, 10, (0.4902, 0.9433)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (81, 263, (0.2553, 0.3662))],
)
def test_interval_is_wilsons(right: int, count: int, expected: tuple[float, float]) -> None:
    """Figures: Newcombe, Statistics in Medicine 17 (1998) for 81 of 263; standard tables for the others."""
    assert interval95(right / count, count) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(("num_classes", "shown"), [(3, False), (5, False), (6, True)])
def test_top5_of_five_classes_or_fewer_is_not_shown(tmp_path: Path, num_classes: int, shown: bool) -> None:
    from tgtrain.evaluate.results import read_results

    content = {"protocol": "1x1", "num_videos": 4, "top1@1x1": 0.5, "top5@1x1": 1.0, "mean_class@1x1": 0.5}
    content["confusion"] = [[0] * num_classes] * num_classes
    (tmp_path / "test-1x1.json").write_text(json.dumps(content))
    problems: list[str] = []
    (result,) = read_results(tmp_path, problems)
    assert problems == []
    assert ("top5@1x1" in result.metrics) is shown


def test_folder_that_is_no_run_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No folder .*gone.*tgtrain run"):
        write_report([tmp_path / "gone"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"not a run folder \(no config.json\).*newest one"):
        write_report([tmp_path / "empty"])
    write_run(tmp_path / "runs" / "one")
    write_run(tmp_path / "runs" / "two")
    with pytest.raises(InputError, match=r"holds 2 runs\. Name one.*tgtrain report .*one .*two"):
        write_report([tmp_path / "runs"])


def test_config_of_another_form_is_refused(run: Path) -> None:
    (run / "config.json").write_text('{"config": {}, "data": {"root": "x"}, "split": {}}')
    with pytest.raises(InputError, match=r"config.json is not what this version writes.*dataset"):
        write_report([run])
    (run / "config.json").write_text('{"config": ')
    with pytest.raises(InputError, match="is damaged"):
        write_report([run])


def test_output_that_cannot_be_written_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder\. Name a file in it"):
        write_report([run], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):  # the command line formats it
        write_report([run], tmp_path / "file" / "page.html")


def test_sizes_of_pictures_are_shares_of_all_videos(tmp_path: Path) -> None:
    """Eight sizes are named; the others count, too, also in a run of a version that left them out."""
    for name, extra in (("old", {}), ("new", {OTHER_SIZES: 104})):
        folder = write_run(tmp_path / name)
        facts = json.loads((folder / "config.json").read_text())
        facts["data"] |= {"num_videos": 120, "pictures": {**{f"{320 + n}x240": 2 for n in range(8)}, **extra}}
        facts["machine"]["device"] = ""
        (folder / "config.json").write_text(json.dumps(facts))
        words = parse(write_report([folder])).words
        assert "320x240 2 1.7 %" in words
        assert "16.7 %" not in words
        assert f"{OTHER_SIZES} 104 86.7 %" in words
        assert " Device " not in words[words.index("Where it ran") :]


def test_what_a_run_decides_by_itself_is_no_changed_setting(tmp_path: Path) -> None:
    plain = write_report([write_run(tmp_path / "open")]).read_text()
    decided = write_report([write_run(tmp_path / "decided", overrides=("data.block_shards=0",))]).read_text()
    changed = write_report([write_run(tmp_path / "changed", overrides=("data.interval=7",))]).read_text()
    assert plain.count("recipe: ") == decided.count("recipe: ") == changed.count("recipe: ") - 1


def test_time_left_is_no_chart(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    log(folder, [{**record, "seconds_left": 5.0} for step in range(1, 9) for record in records("ltg", step)])
    assert "<h3>seconds_left" not in write_report([folder]).read_text()
