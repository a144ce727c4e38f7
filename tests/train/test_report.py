"""The report page: what it says of real run folders, what it tolerates, and that it is one sound, self-contained file."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.records import InputError
from manifests.split_settings import SplitSettings
from manifests.splits import make_split, read_split, write_split
from manifests.store import read_manifest
from tgprep.config import ExtractSettings, RunSettings
from tgprep.pipeline import extract
from tgprep.scan import scan
from tgtrain.config import load_recipe
from tgtrain.report import write_report
from tgtrain.report_classes import interval95
from tgtrain.report_data import Curve
from tgtrain.report_plot import Line, draw, reduce_points

CLASSES = ("Moving", "Still")
VOID = {"meta", "img", "br", "link", "input", "hr"}


# ---------------------------------------------------------------------------------------------- run folders, as trained


def write_run(
    folder: Path,
    *,
    recipe: str = "demo",
    overrides: tuple[str, ...] = (),
    classes: tuple[str, ...] = CLASSES,
    steps: int = 8,
    root: str = "/nowhere/data",
    digest: str = "d" * 64,
    split: str = "p50-s0-f1",
    split_digest: str = "5" * 64,
) -> Path:
    """A run's config.json, without metrics: 8 of 24 steps an epoch of 1 are what `log` fills by default."""
    folder.mkdir(parents=True)
    config = load_recipe(recipe, overrides, num_classes=len(classes))
    facts = {
        "config": config.to_dict(),
        "data": {
            "root": root,
            "dataset": "folder",
            "digest": digest,
            "num_videos": 1200,
            "num_frames": 45678,
            "classes": list(classes),
            "pictures": {"320x240": 1100, "176x144": 100},
        },
        "split": {
            "name": split,
            "digest": split_digest,
            "labelled": 200,
            "unlabelled": 1000,
            "validation": 0,
            "test": 200,
            "provenance": {"strategy": "random", "percent": "20"},
        },
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "machine": {"host": "node1", "cpu": "some CPU", "cores": 8, "device": "cpu"},
        "world_size": 1,
        "num_steps": 24,
        "steps_per_epoch": 1,
        "started": "2026-01-02T03:04:05+00:00",
    }
    (folder / "config.json").write_text(json.dumps(facts))
    if steps:
        log(folder, [record for step in range(1, steps + 1) for record in records(config.method.method, step)])
    return folder


def records(method: str, step: int) -> list[dict[str, Any]]:
    """The lines that the trainer writes at a step: values that differ by step and by term."""
    values: dict[str, Any] = {"kind": "train", "step": step, "epoch": step - 1, "learning_rate": 0.01 * step}
    terms = ["loss/total", "loss/supervised_rgb"]
    if method != "supervised":
        terms += ["loss/pseudo_rgb"]
        values |= {"train/num_selected": 4.0, "train/mask_fraction": 0.5, "train/num_correct": 3.0}
        values |= {"train/pseudo_precision": 0.75}
    if method == "ltg":
        terms += ["loss/supervised_tg", "loss/pseudo_tg", *(f"loss/align_stage{stage}" for stage in range(1, 5))]
        terms += ["loss/contrast_crossview_sameclip"]
        values["train/labelled_top1_tg"] = 0.5
    values |= {name: place + 1 + step / 8 for place, name in enumerate(terms)}
    values |= {"train/labelled_top1_rgb": 0.25, "grad_norm": 2.0, "clips_per_second": 100.0, "seconds_per_step": 0.25}
    values |= {"waiting_share": 0.125, "memory_mb": 2048.0, "num_bad": 0}
    lines = [values]
    if step % 4 == 0:
        accuracy = {"top1@1x1": 0.4 + step / 80, "top5@1x1": 1.0, "mean_class@1x1": 0.375}
        lines.append({"kind": "evaluate", "step": step, "epoch": step - 1, "part": "test", **accuracy})
    return lines


def log(folder: Path, lines: list[dict[str, Any]], tail: str = "") -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + tail)


def write_test(
    folder: Path,
    confusion: list[list[int]],
    *,
    protocol: str = "10x3",
    classes: tuple[str, ...] = CLASSES,
    step: int = 8,
    keys: list[str] | None = None,
    modality: str = "rgb",
    num_bad: int = 0,
) -> None:
    """test-PROTOCOL.json of a confusion matrix and, with keys (one a video, in the matrix's order), the predictions."""
    counts = np.array(confusion)
    right, sums = np.diag(counts), counts.sum(axis=1)
    suffix = "" if modality == "rgb" else f"-{modality}"
    result = {
        "protocol": protocol,
        "modality": modality,
        "part": "test",
        "checkpoint": f"step-{step:08d}.pt",
        "average": "logits",
        "num_bad": num_bad,
        "step": step,
        "num_videos": int(counts.sum()),
        f"top1@{protocol}": right.sum() / counts.sum(),
        f"top5@{protocol}": 1.0,
        f"mean_class@{protocol}": float(np.mean(right[sums > 0] / sums[sums > 0])),
        "per_class": [
            {
                "label": k,
                "class_name": classes[k],
                "videos": int(sums[k]),
                "accuracy": float(right[k] / sums[k]),
            }
            for k in np.flatnonzero(sums).tolist()
        ],
        "confusion": counts.tolist(),
    }
    (folder / f"test-{protocol}{suffix}.json").write_text(json.dumps(result))
    if keys is not None:
        pairs = [(t, p) for t, row in enumerate(confusion) for p, n in enumerate(row) for _ in range(n)]
        table = {"key": keys, "label": [t for t, _ in pairs], "prediction": [p for _, p in pairs]}
        pq.write_table(pa.table(table), folder / f"test-{protocol}{suffix}.parquet")


# ---------------------------------------------------------------------------------------------------- reading the page


@dataclass
class Parsed(HTMLParser):
    """A page taken apart; fails on a tag that is closed wrongly and on an id that comes twice."""

    text: list[str] = field(default_factory=list)
    images: list[dict[str, str]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    tags: list[str] = field(default_factory=list)
    readouts: list[dict[str, Any]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        assert len(values) == len(attrs), f"an attribute comes twice: {attrs}"
        self.tags.append(tag)
        if "id" in values:
            assert values["id"] not in self.ids, f"id {values['id']} comes twice"
            self.ids.add(values["id"])
        self.links += [values[name] for name in ("src", "href", "xlink:href", "srcset", "action") if name in values]
        if tag == "img":
            self.images.append(values)
        if tag == "svg" and values.get("class") in ("plot", "map"):
            assert values["role"] == "img", values
            assert values["aria-label"], values
        if tag == "figure" and "data-readout" in values:
            self.readouts.append(json.loads(values["data-readout"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self) -> str:
        """The visible text, white space folded."""
        return " ".join(" ".join(self.text).split())


def parse(path: Path) -> Parsed:
    page = Parsed()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert not page.open, f"never closed: {page.open}"
    return page


def chart_values(page: Parsed) -> dict[tuple[float, ...], list[int]]:
    """Every line of every chart: values -> steps."""
    return {tuple(line["value"]): line["step"] for chart in page.readouts if "x" in chart for line in chart["lines"]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "runs" / "first")
    write_test(folder, [[3, 1], [2, 4]])
    return folder


# --------------------------------------------------------------------------------------------------------- one run


def test_page_is_one_sound_file_that_loads_nothing(run: Path) -> None:
    path = write_report([run])
    assert path == run / "report.html"
    html = path.read_text()
    page = parse(path)
    assert html.startswith("<!doctype html>")
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", html)
    addresses = set(re.findall(r"https?://[^\s\"']+", html))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # the name of a language, never loaded


def test_page_is_written_whole_or_not_at_all_and_the_same_bytes_again(run: Path, tmp_path: Path) -> None:
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
    # 2 clips x 1 crop is what the recipe says; 10x3 is what was measured, at the recipe's test_size.
    assert "10x3: 10 clips spread evenly of every video, 8 frames 8 apart, short side 64 pixels" in words
    assert "the logits of the 30 views are averaged" in words


def test_accuracies_while_training_are_told_apart_from_tests(run: Path) -> None:
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
    assert words.index("top1@10x3 70.0 %") < words.index("tgtrain test, TG network") < words.index("top1@1x1")


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
    curves = words[words.index("Point at a chart") : words.index("Example clips")]
    assert "Supervised loss" in curves
    for title in absent:
        assert title not in curves


def test_line_cut_short_by_a_kill_is_left_out_and_said(run: Path) -> None:
    lines = [record for step in (1, 2, 3) for record in records("ltg", step)]
    log(run, lines, tail='{"kind": "train", "step": 4, "loss/to')
    words = parse(write_report([run])).words
    assert "The last line of metrics.jsonl was cut short while it was written, and is left out." in words
    assert "last, step 3" in words


def test_damaged_line_in_the_middle_is_counted(run: Path) -> None:
    text = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*text[:2], "\x00\x00\x00", '["kind"]', *text[2:]]) + "\n")
    page = parse(write_report([run]))
    assert "2 lines of metrics.jsonl could not be read and are left out." in page.words
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


def test_precision_is_a_gap_where_nothing_was_trusted(run: Path) -> None:
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


def test_slow_reading_is_called_out(run: Path) -> None:
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
    assert page.tags.count("img") == 0
    assert evil in page.words
    assert "<img src=x>&" in page.words


def test_escaping_inside_a_map_of_many_classes(tmp_path: Path) -> None:
    classes = tuple(f"'\"><b>{number}" for number in range(30))
    folder = write_run(tmp_path / "run", classes=classes)
    write_test(folder, np.eye(30, dtype=int).tolist(), classes=classes)
    page = parse(write_report([folder]))
    assert page.readouts[-1]["names"] == list(classes)


# ------------------------------------------------------------------------------------------------------- classes


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
    readout = page.readouts[-1]
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
        for column, row in re.findall(r"M(\d+) (\d+)h1v1h-1z", squares):
            shade[int(row), int(column)] = float(opacity)
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


# ------------------------------------------------------------------------------------------------------- drawing


def plotted(svg: str) -> tuple[list[tuple[float, float]], dict[float, float], dict[float, float]]:
    """Points of the first curve, and the positions of labelled values along x and y, read from the SVG alone."""
    curve = re.search(r'<path d="([^"]*)" style="fill: none; stroke: var\(--s0\)', svg)
    assert curve
    points = [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", curve[1])]
    lines = [float(y) for y in re.findall(r'<path d="M 48 ([\d.]+) L 376 [\d.]+" style="[^"]*var\(--grid\)', svg)]
    labels = re.findall(r'text-anchor: (middle|end)[^>]* x="([\d.]+)" y="[\d.]+">([\d.,]+)', svg)
    across = {float(text.replace(",", "")): float(x) for anchor, x, text in labels if anchor == "middle"}
    up = [float(text.replace(",", "")) for anchor, _, text in labels if anchor == "end"]
    return points, across, dict(zip(up, lines, strict=True))


@pytest.mark.parametrize(("values", "may_log"), [([1.0, 3.0, 2.0], False), ([100.0, 1.0, 10.0], True)])
def test_points_lie_where_the_tick_labels_say(values: list[float], may_log: bool) -> None:
    plot = draw([Line("a", Curve(np.array([100, 200, 400]), np.array(values)), 0)], "a chart", may_log=may_log)
    points, across, up = plotted(plot.svg)
    assert plot.y.log == may_log
    scale = np.log10 if may_log else np.asarray
    (x0, px0), (x1, px1) = sorted(across.items())[0], sorted(across.items())[-1]
    (y0, py0), (y1, py1) = sorted(up.items())[0], sorted(up.items())[-1]
    for (x, y), step, value in zip(points, (100, 200, 400), values, strict=True):
        assert x == pytest.approx(px0 + (step - x0) / (x1 - x0) * (px1 - px0), abs=0.2)
        share = (scale(value) - scale(y0)) / (scale(y1) - scale(y0))
        assert y == pytest.approx(py0 + share * (py1 - py0), abs=0.2)
        # The pointer's axes, which the page carries beside the picture, agree with the picture.
        share = (scale(value) - scale(plot.y.low)) / (scale(plot.y.high) - scale(plot.y.low))
        assert y == pytest.approx(plot.y.start + share * (plot.y.end - plot.y.start), abs=0.2)


def test_a_user_s_matplotlib_settings_do_not_reach_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    line = Line("a", Curve(np.array([1, 2]), np.array([1.0, 2.0])), 0)
    before = draw([line], "a chart").svg
    for name, value in {
        "axes.facecolor": "red",
        "lines.linewidth": 9.0,
        "font.size": 30.0,
        "svg.fonttype": "path",
    }.items():
        monkeypatch.setitem(matplotlib.rcParams, name, value)
    assert draw([line], "a chart").svg == before


def test_colours_follow_the_page_and_text_stays_text() -> None:
    lines = [Line(f"{k}", Curve(np.array([1, 2]), np.array([k, 2.0 * k])), k, k) for k in range(1, 8)]
    svg = draw(lines, 'alt "quoted" <b>', marks=[1.5]).svg
    assert not re.search(r"#[0-9a-fA-F]{6}", svg)
    assert {f"var(--s{k})" for k in range(1, 8)} <= set(re.findall(r"var\(--s\d\)", svg))
    assert "<text" in svg
    assert 'aria-label="alt &quot;quoted&quot; &lt;b>"' in svg


@given(
    st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=1, max_size=1500),
    st.integers(1, 50),
)
def test_merged_points_keep_range_and_place(values: list[float], interval: int) -> None:
    step = np.arange(1, len(values) + 1, dtype=np.int64) * interval
    curve = Curve(step, np.array(values))
    points = reduce_points(curve)
    assert len(points.value) <= 240
    assert (np.diff(points.step) > 0).all()
    finite = curve.value[np.isfinite(curve.value)]
    assert np.isfinite(points.value).any() == bool(len(finite))
    if len(finite):
        assert np.nanmin(points.low) == finite.min()
        assert np.nanmax(points.high) == finite.max()
        known = np.isfinite(points.value)
        slack = 1e-6
        assert (points.low[known] - slack <= points.value[known]).all()
        assert (points.value[known] <= points.high[known] + slack).all()
        for place in range(len(points.value)):  # each is the mean of its own neighbours
            own = curve.value[place * points.num_merged : (place + 1) * points.num_merged]
            own = own[np.isfinite(own)]
            if len(own):
                assert points.value[place] == pytest.approx(own.mean(), abs=1e-6)


def test_long_run_stays_small(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=0)
    log(folder, [{**records("ltg", step)[0], "loss/total": float(step)} for step in range(1, 5001)])
    path = write_report([folder])
    assert path.stat().st_size < 600_000
    assert "Up to 21 log lines share a point" in parse(path).words


# --------------------------------------------------------------------------------------------------- several runs


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    runs = [
        write_run(tmp_path / "ltg"),
        write_run(tmp_path / "fixmatch", recipe="demo-fixmatch", overrides=("method.threshold=0.875",)),
        write_run(tmp_path / "supervised", recipe="demo-supervised", steps=4),
    ]
    for folder, right in zip(runs, (9, 7, 5), strict=True):
        write_test(folder, [[5, 0], [10 - right, right - 5]])
    return runs


def test_compared_runs_overlay_every_quantity(three: list[Path], tmp_path: Path) -> None:
    path = write_report(three, tmp_path / "page.html")
    html = path.read_text()
    page = parse(path)
    charts = dict(zip(re.findall(r'<h3>([^<]*)</h3><span class="at"', html), page.readouts, strict=True))
    assert len(charts["Total loss"]["lines"]) == 3
    assert len(charts["Pseudo-label loss: RGB"]["lines"]) == 2
    for stage in range(1, 5):  # logged by one run only, and not the last
        assert len(charts[f"Alignment loss: stage {stage}"]["lines"]) == 1
    assert [line["colour"] for line in charts["top1@1x1 (test)"]["lines"]] == [0, 1, 2]
    total = html[html.index("<h3>Total loss</h3>") :]
    legend = re.findall(r"<span>(\w+) <b>", total[: total.index("</figure>")])
    assert legend == ["ltg", "fixmatch", "supervised"]


def test_compared_runs_have_a_table_with_the_best_marked(three: list[Path], tmp_path: Path) -> None:
    path = write_report(three, tmp_path / "page.html")
    row = re.search(r'<code>top1@10x3</code></th>((?:<td class="[^"]*">[^<]*</td>)+)', path.read_text())
    assert row
    assert re.findall(r'<td class="([^"]*)">([^<]*)</td>', row[1]) == [
        ("num best", "90.0 %"),
        ("num", "70.0 %"),
        ("num", "50.0 %"),
    ]
    words = parse(path).words
    assert "3 runs compared" in words
    assert "Not finished: ltg, fixmatch, supervised." in words
    assert "Class Videos ltg, top1@10x3 fixmatch, top1@10x3 supervised, top1@10x3" in words


def test_compared_settings_show_what_differs(three: list[Path], tmp_path: Path) -> None:
    words = parse(write_report(three, tmp_path / "page.html")).words
    different, same = words[words.index("What differs between the runs:") :].split("settings that all runs share")
    assert "method.threshold 0.6 0.875 0.6" in different
    assert "method.method ltg fixmatch supervised" in different
    assert "optimiser.momentum" not in different
    assert "optimiser.momentum 0.9 0.9 0.9" in same


def test_other_data_split_and_protocol_are_called_out(three: list[Path], tmp_path: Path) -> None:
    other_split = write_run(tmp_path / "other-split", split_digest="6" * 64)
    words = parse(write_report([three[0], other_split], tmp_path / "page.html")).words
    assert "different splits" in words
    assert "Not all runs were tested by the same protocols" in words
    other_data = write_run(tmp_path / "other-data", digest="e" * 64)
    assert "different data sets" in parse(write_report([three[0], other_data], tmp_path / "page.html")).words


def test_runs_of_one_name_are_told_apart_and_one_named_twice_counts_once(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run")
    words = parse(write_report([first, second, first], tmp_path / "page.html")).words
    assert "2 runs compared" in words
    assert str(first) in words
    assert str(second) in words
    assert write_report([first, first / "."]) == first / "report.html"


def test_ten_runs_have_ten_looks(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"run{number}") for number in range(10)]
    html = write_report(runs, tmp_path / "page.html").read_text()
    total = html[html.index("<h3>Total loss</h3>") :]
    looks = re.findall(r'<path d="M0 4H20" style="([^"]*)"', total[: total.index("</figure>")])
    assert len(looks) == 10
    assert len(set(looks)) == 10


def test_several_runs_without_output_go_to_the_current_folder(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_report(three) == Path("report.html")
    assert (tmp_path / "report.html").is_file()


# ------------------------------------------------------------------------------------------------------- pictures


def moving_frames() -> Iterator[np.ndarray]:
    for index in range(40):
        frame = np.full((48, 64, 3), 60, np.uint8)
        frame[16:32, index : index + 16] = (240, 240, 240)
        yield frame


def still_frames() -> Iterator[np.ndarray]:
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:, :32] = (220, 30, 30)
    frame[:, 32:] = (30, 30, 220)
    for _ in range(40):
        yield frame


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real data set, extracted from real video files: 2 classes with 3 train and 2 test videos each."""
    base = tmp_path_factory.mktemp("data")
    for class_name, frames in (("Moving", moving_frames), ("Still", still_frames)):
        for subset, count in (("train", 3), ("test", 2)):
            for number in range(count):
                path = base / "videos" / subset / class_name / f"{subset}{number}.avi"
                path.parent.mkdir(parents=True, exist_ok=True)
                with av.open(str(path), "w") as container:
                    stream = container.add_stream("mpeg4", rate=Fraction(25), options={"q:v": "2"})
                    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
                    stream.codec_context.thread_count = 1
                    for frame in frames():
                        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                    container.mux(stream.encode())
    videos, out = base / "videos", base / "dataset"
    extract(videos, out, scan(videos), ExtractSettings(), RunSettings(threads=1))
    write_split(out, make_split(read_manifest(out), SplitSettings(percent=50, name="half")))
    return out


@pytest.fixture
def real_run(tmp_path: Path, data: Path) -> Path:
    """A run on the real data set, tested: one of the two Still videos is taken for Moving."""
    keys = read_split(data, "half").keys_of("test")
    assert [key.split("/")[0] for key in keys] == ["Moving", "Moving", "Still", "Still"]
    digest = read_manifest(data).digest
    folder = write_run(tmp_path / "run", root=str(data), digest=digest, split="half")
    write_test(folder, [[2, 0], [1, 1]], keys=keys)
    return folder


def pixels(image: dict[str, str]) -> np.ndarray:
    kind, _, content = image["src"].partition(",")
    assert kind == "data:image/jpeg;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(decoded[..., ::-1], np.float64)


def strips(page: Parsed) -> list[list[dict[str, str]]]:
    """The pictures of each film strip: 8 RGB, then 8 TG."""
    frames = [image for image in page.images if "frame " in image["alt"] or "gradient at" in image["alt"]]
    frames = [image for image in frames if " of " not in image["alt"]]
    return [frames[start : start + 16] for start in range(0, len(frames), 16)]


def test_example_clips_show_the_videos(real_run: Path) -> None:
    page = parse(write_report([real_run]))
    assert all(image["alt"] for image in page.images)
    clips = strips(page)
    assert len(clips) == 4  # all test videos: fewer than the page has room for
    moving, still = clips[0], clips[2]
    # The demo's centre clip: 8 frames 8 apart span 64, more than the 40 there are, so they wrap around.
    assert [image["alt"] for image in moving[:8]] == [f"RGB frame {8 * k % 40}" for k in range(8)]
    assert [image["alt"] for image in moving[8:]] == [f"Temporal gradient at frame {8 * k % 40}" for k in range(8)]
    for image in still[:8]:
        frame = pixels(image)
        assert frame.shape == (112, 112, 3)
        np.testing.assert_allclose(frame[56, 20], (220, 30, 30), atol=14)
        np.testing.assert_allclose(frame[56, 92], (30, 30, 220), atol=14)
    for image in still[8:]:
        np.testing.assert_allclose(pixels(image), 127, atol=4)  # nothing moves
    first = pixels(moving[8])
    # Frame 0 to 1: the square moves right. Its old left edge was brighter (TG above 127), its new right edge is darker.
    # The 64-pixel wide picture is cut to the middle 48 columns and shown 112 / (48 * 112 / 128) times as large.
    assert first.max() > 180 or pixels(moving[11]).max() > 180
    brighter = np.argwhere(pixels(moving[11])[56, :, 0] > 160).mean()
    darker = np.argwhere(pixels(moving[11])[56, :, 0] < 95).mean()
    assert brighter < darker


def test_predictions_and_confusions_come_with_pictures(real_run: Path, data: Path) -> None:
    page = parse(write_report([real_run]))
    keys = read_split(data, "half").keys_of("test")
    for key in keys:
        assert key in page.words
    assert page.words.count("✓ right") == 3
    assert page.words.count("✗ taken for Moving") == 1
    # The order of the confusion matrix: the wrongly taken one is the first of the two Still videos.
    confusion = [image for image in page.images if " a video of " in image["alt"]]
    assert [image["alt"] for image in confusion] == [f"RGB frame of {keys[2]}, a video of Still"]
    assert "Still taken for Moving 1 of 2 videos" in page.words
    np.testing.assert_allclose(pixels(confusion[0])[56, 20], (220, 30, 30), atol=14)


def test_compared_runs_show_each_ones_prediction(real_run: Path, data: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", root=str(data), digest=read_manifest(data).digest, split="half")
    write_test(other, [[0, 2], [0, 2]], keys=read_split(data, "half").keys_of("test"))
    words = parse(write_report([real_run, other], tmp_path / "page.html")).words
    assert words.count("other: ✗ taken for Still") == 2
    assert words.count("run: ✓ right") == 3


def test_data_set_that_is_gone_is_told_not_fatal(run: Path) -> None:
    page = parse(write_report([run]))
    assert "There are no pictures, because the run’s data set cannot be read where it was." in page.words
    assert "/nowhere/data" in page.words
    assert not page.images


def test_data_set_that_has_changed_is_not_shown(data: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", root=str(data), digest="0" * 64, split="half")
    page = parse(write_report([folder]))
    assert "is not the one of the run any more" in page.words
    assert not page.images


def test_damaged_video_is_left_out_and_said(real_run: Path, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    row = next(row for row in read_manifest(copy).videos if row.key.startswith("Moving/test0"))
    with (copy / row.shard).open("r+b") as shard:
        shard.seek(row.members.rgb_offset)
        shard.write(b"\0" * row.members.rgb_bytes)
    facts = json.loads((real_run / "config.json").read_text())
    facts["data"]["root"] = str(copy)
    (real_run / "config.json").write_text(json.dumps(facts))
    page = parse(write_report([real_run]))
    assert len(strips(page)) == 3
    assert f"1 clips could not be read: {row.key}" in page.words


def test_without_its_split_the_tested_videos_are_shown(real_run: Path, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    (copy / "splits" / "half.parquet").unlink()
    facts = json.loads((real_run / "config.json").read_text())
    facts["data"]["root"] = str(copy)
    (real_run / "config.json").write_text(json.dumps(facts))
    assert len(strips(parse(write_report([real_run])))) == 4
    (real_run / "test-10x3.parquet").unlink()
    page = parse(write_report([real_run]))
    assert "No split half" in page.words
    assert not page.images


# ---------------------------------------------------------------------------------------------------------- errors


def test_folder_that_is_no_run_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No folder .*gone.*tgtrain run"):
        write_report([tmp_path / "gone"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no run folder \(no config.json\).*newest one"):
        write_report([tmp_path / "empty"])
    write_run(tmp_path / "runs" / "one")
    write_run(tmp_path / "runs" / "two")
    with pytest.raises(InputError, match=r"holds 2\. Name one.*tgtrain report .*one .*two"):
        write_report([tmp_path / "runs"])


def test_config_of_another_form_is_refused(run: Path) -> None:
    (run / "config.json").write_text('{"config": {}, "data": {"root": "x"}, "split": {}}')
    with pytest.raises(InputError, match=r"config.json is not what this version writes.*dataset"):
        write_report([run])
    (run / "config.json").write_text('{"config": ')
    with pytest.raises(InputError, match="is damaged"):
        write_report([run])


def test_place_that_cannot_be_written_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder\. Name a file in it"):
        write_report([run], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"Cannot write .*--output"):
        write_report([run], tmp_path / "file" / "page.html")


# --------------------------------------------------------------------------------------------------------- browser


@pytest.fixture
def browser(chromium: str, tmp_path: Path) -> list[str]:
    """The command of a headless Chromium."""
    switches = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars --window-size=1000,900"
    )
    quiet = "--disable-background-networking --disable-component-update --disable-sync"
    return [chromium, *switches.split(), *quiet.split(), f"--user-data-dir={tmp_path / 'profile'}"]


def browse(browser: list[str], *arguments: str) -> str:
    done = subprocess.run([*browser, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_browser_light_and_dark(run: Path, tmp_path: Path, browser: list[str]) -> None:
    page = write_report([run])
    brightness = {}
    for name, scheme in (("dark", 0), ("light", 1)):
        shot = tmp_path / f"{name}.png"
        browse(browser, f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={shot}", page.as_uri())
        picture = cv2.imread(str(shot))
        assert picture is not None
        assert picture.std() > 8  # something is drawn
        brightness[name] = float(picture.mean())
    assert brightness["dark"] < 60
    assert brightness["light"] > 200


def test_browser_reads_values_sorts_and_raises_no_error(run: Path, tmp_path: Path, browser: list[str]) -> None:
    html = write_report([run]).read_text()
    probe = """<script>
    const said = [];
    const chart = [...document.querySelectorAll("figure.chart")].find((f) => f.querySelector("h3").textContent === "Total loss");
    const plot = chart.querySelector(".plot");
    const box = plot.getBoundingClientRect();
    const at = (x) => new PointerEvent("pointermove", { clientX: box.left + x / 384 * box.width, clientY: box.top + 5 });
    plot.dispatchEvent(at(48 + 328 * 3 / 8));
    said.push(chart.querySelector(".at").textContent, chart.querySelector(".legend b").textContent);
    plot.dispatchEvent(new PointerEvent("pointerleave"));
    said.push(chart.querySelector(".at").textContent, chart.querySelector(".legend b").textContent);
    const table = document.querySelector("table.sortable");
    const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent).join(" ");
    said.push(names());
    table.tHead.rows[0].cells[2].querySelector("button").click();
    said.push(names(), String(document.documentElement.scrollWidth <= window.innerWidth));
    document.body.dataset.said = JSON.stringify(said);
    </script>"""
    copy = tmp_path / "probe.html"
    copy.write_text(html.replace("</body>", f"{probe}</body>"))
    dom = browse(browser, "--dump-dom", copy.as_uri())
    found = re.search(r'data-said="([^"]*)"', dom)
    assert found, "the page's script did not run to its end"
    said = json.loads(found[1].replace("&quot;", '"'))
    # Step 3 of 8 (the axis begins at 0), logged as 1 + 3/8; then the last step again.
    assert said == ["step 3, epoch 3", "1.375", "last, step 8", "2", "Still Moving", "Moving Still", "true"]


@pytest.mark.parametrize(("num_classes", "shown"), [(3, False), (5, False), (6, True)])
def test_top5_of_five_classes_or_fewer_is_no_figure(tmp_path: Path, num_classes: int, shown: bool) -> None:
    from tgtrain.report_results import read_results

    told = {"protocol": "1x1", "num_videos": 4, "top1@1x1": 0.5, "top5@1x1": 1.0, "mean_class@1x1": 0.5}
    told["confusion"] = [[0] * num_classes] * num_classes
    (tmp_path / "test-1x1.json").write_text(json.dumps(told))
    problems: list[str] = []
    (result,) = read_results(tmp_path, problems)
    assert problems == []
    assert ("top5@1x1" in result.metrics) is shown
