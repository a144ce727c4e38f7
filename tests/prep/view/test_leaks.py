"""Pairs of videos that show the same: which are found, which are leaks, and what the preview page says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manifests.gradient import temporal_gradient
from manifests.records import FAILED, WRITTEN, GradientCoding, ManifestHeader, VideoRow
from manifests.table import Manifest, VideoTable
from tgprep.view import leaks
from tgprep.view.leaks import Twins, find_leaks
from tgprep.view.thumbnails import _motion


def row(key: str, digest: str = "", group: str = "", status: str = WRITTEN, **times: float) -> VideoRow:
    class_name = key.partition("/")[0]
    return VideoRow(key, key, class_name, 0, group, ("train",), status, source_sha256=digest or key, **times)  # type: ignore[arg-type]


def manifest_of(root: Path, *rows: VideoRow) -> Manifest:
    header = ManifestHeader("folder", ("A", "B"), GradientCoding(), {}, {}, num_folds=1, num_written=len(rows))
    return Manifest(str(root), header, VideoTable.from_rows(rows), ())


def test_equal_files_are_paired_with_the_first_and_leaks_come_first(tmp_path: Path) -> None:
    rows = [row("A/1", "a"), row("A/2", "a"), row("B/1", "b"), row("B/2", "b"), row("B/3", "b", status=FAILED)]
    found = find_leaks(manifest_of(tmp_path, *rows), ["labelled", "unlabelled", "unlabelled", "test", "test"])
    assert found.pairs == (Twins(2, 3, "same file", True), Twins(0, 1, "same file", False))
    assert (found.num_pairs["same file"], found.num_leaks["same file"]) == (2, 1)


def test_segments_of_one_file_are_equal_if_their_times_are(tmp_path: Path) -> None:
    rows = [row(f"A/{n}", "a", start_seconds=start, end_seconds=9.0) for n, start in enumerate((0.0, 4.0, 4.0))]
    assert [each[:2] for each in _places(find_leaks(manifest_of(tmp_path, *rows), ["test"] * 3))] == [(1, 2)]


def test_a_group_in_train_and_test_is_a_leak(tmp_path: Path) -> None:
    """Groups are those of a class; validation is a test; a video in no part is on no side."""
    rows = [row(f"{name}/{n}", group=group) for name in "AB" for n, group in enumerate(("g1", "g1", "g2", "g2"))]
    roles = ["labelled", "unlabelled", "unlabelled", "validation", "test", "", "test", "test"]
    found = find_leaks(manifest_of(tmp_path, *rows), roles)
    assert found.pairs == (Twins(2, 3, "same group", True),)


def test_pairs_are_bounded_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "MAX_PAIRS", 2)
    rows = [row(f"A/{number}", "a") for number in range(6)]
    found = find_leaks(manifest_of(tmp_path, *rows), ["train"] * 5 + ["test"])
    assert _places(found) == [(0, 5, True), (0, 1, False)]
    assert found.num_pairs["same file"] == 5


def _places(found: leaks.Leaks) -> list[tuple[int, int, bool]]:
    return [(pair.first, pair.second, pair.leak) for pair in found.pairs]


def test_motion_is_the_mean_distance_from_no_motion() -> None:
    dark, bright = (np.full((4, 6, 3), value, np.uint8) for value in (100, 140))
    assert _motion(temporal_gradient(dark, dark)) == 0.0
    half = np.concatenate([temporal_gradient(dark, dark), temporal_gradient(dark, bright)])
    assert _motion(half) == pytest.approx(
        10.0, abs=0.5
    )  # (255 + difference) / 2: half of 40 levels, in half of the picture
