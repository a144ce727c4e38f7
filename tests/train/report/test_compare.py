"""The report page of several runs, compared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.train.report.pages import parse, write_run, write_test
from tgtrain.report.page import write_report


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
    assert [line["colour"] for line in charts["Accuracy: top1@1x1 (test)"]["lines"]] == [0, 1, 2]
    total = html[html.index("<h3>Total loss</h3>") :]
    legend = re.findall(r"<span>(\w+) <b>", total[: total.index("</figure>")])
    assert legend == ["ltg", "fixmatch", "supervised"]


def test_compared_runs_have_a_table_of_their_accuracies(three: list[Path], tmp_path: Path) -> None:
    path = write_report(three, tmp_path / "page.html")
    row = re.search(r'<code>top1@10x3</code></th>((?:<td class="[^"]*">[^<]*</td>)+)', path.read_text())
    assert row
    assert re.findall(r'<td class="([^"]*)">([^<]*)</td>', row[1]) == [
        ("num", "90.0 %"),  # without predictions no paired test says that it is the best
        ("num", "70.0 %"),
        ("num", "50.0 %"),
    ]
    words = parse(path).words
    assert "3 runs compared" in words
    assert "Not finished: ltg, fixmatch, supervised." in words
    assert "Class Videos ltg, top1@10x3 fixmatch, top1@10x3 supervised, top1@10x3" in words


@pytest.mark.parametrize(
    ("rights", "marked"),
    [((38, 25, 20), [True, False, False]), ((20, 27, 20), [False, True, False]), ((16, 14, 15), [])],
)
def test_a_best_run_is_marked_where_a_paired_test_says_so(
    rights: tuple[int, ...], marked: list[bool], tmp_path: Path
) -> None:
    """16 against 14 and 15 of 24 may be chance; 7 videos more of 40 than each of two others are not."""
    num_videos = 24 if max(rights) < 20 else 40
    keys = [f"Class/v{number:03d}" for number in range(num_videos)]
    runs = [write_run(tmp_path / f"run{place}") for place in range(3)]
    for folder, right in zip(runs, rights, strict=True):
        write_test(folder, [[right, num_videos - right], [0, 0]], keys=keys)
    html = write_report(runs, tmp_path / "page.html").read_text()
    row = re.search(r"<code>top1@10x3</code></th>((?:<td class=.[^>]*>[^<]*</td>)+)", html)
    assert row
    assert ["best" in cell for cell in re.findall(r'<td class="([^"]*)"', row[1])] == (marked or [False] * 3)
    assert "significantly more videos right than in every other run" in html
    for name in re.findall(r'<code>([^<]*)</code></th>(?:<td class="[^"]*">[^<]*</td>)*<td class="num best"', html):
        assert name.startswith("top1@10x3")


def test_compared_settings_show_what_differs(three: list[Path], tmp_path: Path) -> None:
    words = parse(write_report(three, tmp_path / "page.html")).words
    different, same = words[words.index("What differs between the runs:") :].split("settings that all runs share")
    assert "method.threshold 0.6 0.875 0.6" in different
    assert "method.method ltg fixmatch supervised" in different
    assert "optimiser.momentum" not in different
    assert "optimiser.momentum 0.9 0.9 0.9" in same


def test_other_data_split_and_protocol_are_reported(three: list[Path], tmp_path: Path) -> None:
    other_split = write_run(tmp_path / "other-split", split_digest="6" * 64)
    words = parse(write_report([three[0], other_split], tmp_path / "page.html")).words
    assert "different splits" in words
    assert "Not all runs were tested by the same protocols" in words
    other_data = write_run(tmp_path / "other-data", digest="e" * 64)
    assert "different data sets" in parse(write_report([three[0], other_data], tmp_path / "page.html")).words


def test_runs_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
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
