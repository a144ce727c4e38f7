"""`tgprep info` shows what the tables hold, within 80 columns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from cli.prep import main
from cli.prep.info import bars, page
from manifests.manifest_io import write_manifest
from manifests.records import FAILED, WRITTEN, GradientCoding, ManifestHeader, ShardRow, VideoRow
from manifests.splits.label_split import make_split, write_split
from manifests.splits.settings import SplitSettings
from tgprep.view.contents import describe, length_bins


@given(st.lists(st.integers(2, 2**31 - 1), min_size=1, max_size=60))
@example([2])
@example([2, 2**31 - 1])
@example([29] * 99 + [1776])
def test_every_length_is_in_one_bin(lengths: list[int]) -> None:
    bins = length_bins(np.array(lengths, np.int32))
    assert 1 <= len(bins) <= 10
    for low, high, count in bins:
        assert count == sum(low <= length < high for length in lengths)
    assert [high for _, high, _ in bins[:-1]] == [low for low, _, _ in bins[1:]]
    assert sum(count for _, _, count in bins) == len(lengths)
    widths = {high - low for low, high, _ in bins[:-1]}
    assert len(widths) <= 1
    assert all(str(width).rstrip("0") in ("1", "2", "5") for width in widths)


def test_few_long_videos_do_not_flatten_the_chart() -> None:
    lengths = np.array([*range(30, 300), 9000], np.int32)
    bins = length_bins(lengths)
    assert len(bins) >= 5
    assert bins[-1][0] < 300 < 9000 < bins[-1][1]
    assert length_bins(np.array([], np.int32)) == []


@pytest.mark.parametrize("width", [60, 80, 100])
def test_bars_fit_and_every_count_has_one(width: int) -> None:
    lines = list(bars([("a", 1), ("some longer name", 0), ("b", 1_234_567)], width))
    assert {len(line) for line in lines} == {width}
    assert [line.count("#") for line in lines][:2] == [1, 0]
    assert lines[2].count("#") == max(line.count("#") for line in lines) > width // 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables (no shards) of nine written and six failed videos of all kinds of sizes, rates and names."""
    root = tmp_path_factory.mktemp("contents") / "dataset"
    root.mkdir()
    rows = [
        VideoRow(
            key=f"{'Walk' if number < 6 else 'Run'}/v{number}",
            path=f"v{number}.mp4",
            class_name="Walk" if number < 6 else "Run",
            label=0 if number < 6 else 1,
            group=f"g{number % 3}" if number else "",
            subsets=("train" if number % 3 else "test", "" if number == 4 else "train"),
            status=WRITTEN,
            note="counted" if number == 2 else "",
            num_frames=40 * (number + 1),
            fps=[25.0, 30000 / 1001, 29.97, 0.0][number % 4],
            height=240 + number,
            width=320,
            codec="h264",
            num_source_bytes=1000,
        )
        for number in range(9)
    ]
    rows += [
        VideoRow(
            key=f"Walk/w{number}",
            path=f"w{number}.mp4",
            class_name="Walk",
            label=0,
            group="",
            subsets=("train", "train"),
            status=FAILED,
            error="it has no frames" if number < 4 else f"a reason of many words that never seems to end {number} " * 3,
        )
        for number in range(6)
    ]
    shards = [ShardRow("shard-000000.tar", 9, 12_345_678, "0" * 64)]
    versions = dict.fromkeys(("av", "libavcodec", "libswscale", "pyarrow", "simplejpeg", "tgprep"), "1.2.3")
    header = ManifestHeader(
        "csv", ("Walk", "Run", "Sit"), GradientCoding(), {"quality": 90}, versions, 2, num_written=9, num_failed=6
    )
    manifest = write_manifest(root, header, sorted(rows, key=lambda row: row.key), shards)
    write_split(root, make_split(manifest, SplitSettings(percent=50, name="x" * 100)))
    write_split(root, make_split(manifest, SplitSettings(percent=50)))
    return root


def test_figures_are_those_of_the_tables(dataset: Path) -> None:
    facts = describe(str(dataset)).to_json()
    assert (facts["num_videos"], facts["num_written"], facts["num_failed"], facts["num_skipped"]) == (15, 9, 6, 0)
    assert (facts["num_frames"], facts["num_bytes"], facts["num_source_bytes"]) == (40 * 45, 12_345_678, 9000)
    assert (facts["num_classes"], facts["num_empty_classes"], facts["num_shorter_than_64"]) == (3, 1, 1)
    assert facts["videos_per_class"] == {"min": 3, "median": 6, "mean": 4.5, "max": 6}
    assert facts["frames_per_video"] == {"min": 40, "median": 200, "mean": 200.0, "max": 360}
    assert facts["num_groups"] == 6  # three a class; the video without a group has none
    assert sum(size["videos"] for size in facts["picture_sizes"]) == 9
    assert {"width": 320, "height": 248, "videos": 1} in facts["picture_sizes"]
    assert facts["fps"][0] == {"fps": 25.0, "videos": 3}
    assert {"fps": 0.0, "videos": 2} in facts["fps"]
    assert facts["codecs"] == {"h264": 9}
    assert facts["num_with_note"] == 1
    assert facts["subsets_per_fold"] == [{"test": 3, "train": 6}, {"train": 8, "in no list": 1}]
    assert facts["not_written"][0] == {"status": "failed", "reason": "it has no frames", "videos": 4}
    assert len(facts["not_written"]) == 3
    split = next(split for split in facts["splits"] if split["name"] == "p50-s0-f1")
    assert (split["labelled"], split["unlabelled"], split["test"], split["current"]) == (3, 6, 3, True)
    assert len(split["digest"]) == 64
    assert sum(entry["videos"] for entry in facts["lengths"]) == 9


def test_info_prints_one_page_of_80_columns(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    shown = CliRunner().invoke(main, ["info", str(dataset)])
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    long = [line for line in lines if len(line) > 80]
    assert [line[:100] for line in long] == ["x" * 100]  # a name of a hundred letters is not cut
    for words in (
        "videos      15 = 9 written + 6 failed + 0 skipped",
        "length in frames; 1 video under 64",
        "failed      4 x it has no frames",
        "pictures",
        "frames a second",
        "codec       h264",
        "  unknown  ",
        "p50-s0-f1",
        "made with   av 1.2.3",
        "fold 2      8 train, 1 in no list",
    ):
        assert words in shown.stdout, words
    printed = json.loads(CliRunner().invoke(main, ["info", str(dataset), "--json"]).stdout)
    assert printed == describe(str(dataset)).to_json()


def test_equal_names_are_one_bar(dataset: Path) -> None:
    contents = describe(str(dataset))
    assert len(contents.fps) == 4
    text = "\n".join(page(contents, 80))
    assert text.count("29.97  #") == 1
    sizes = text.split("\npictures\n")[1].split("\n\n")[0].splitlines()
    assert len(sizes) == 7
    assert sizes[-1].split()[:2] == ["3", "others"]


def test_data_set_without_written_videos_is_shown(tmp_path: Path) -> None:
    row = VideoRow("A/a", "a.mp4", "A", 0, "", (), FAILED, error="broken")
    write_manifest(tmp_path, ManifestHeader("folder", ("A",), GradientCoding(), {}, {}, num_failed=1), [row], [])
    shown = CliRunner().invoke(main, ["info", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "failed      1 x broken" in shown.stdout
    assert "no split yet" in shown.stdout
    assert describe(str(tmp_path)).lengths == []
