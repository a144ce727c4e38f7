"""What a header and rows must hold: values that would end a later command with a traceback are refused when they are read."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from manifests.bounds import check_header, check_sources, check_videos
from manifests.records import SourceVideo
from manifests.table import VideoTable
from tests.manifests.splits.support import manifest

HEADER = {
    **dataclasses.asdict(manifest({"run": 2}).header),
    "settings": {"quality": 95, "store": "frames"},
    "videos_sha256": "a" * 64,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"settings": {"quality": 95, "videos_per_shard": "many"}},
            "settings.videos_per_shard is 'many', expected 0 to",
        ),
        ({"settings": {"quality": 95, "videos_per_shard": -5}}, "settings.videos_per_shard is -5"),
        ({"gradient": {**HEADER["gradient"], "zero_level": 128}}, "zero_level is 128, expected 127"),
        ({"num_folds": 10**4000}, "num_folds is 10{99}, expected"),
    ],
)
def test_a_header_out_of_bounds_is_refused(changes: dict[str, Any], message: str) -> None:
    raw = {**HEADER, "classes": list(HEADER["classes"])}
    check_header(raw)
    with pytest.raises(ValueError, match=message):
        check_header({**raw, **changes})


def test_rows_of_fewer_subsets_than_folds_are_refused() -> None:
    data = manifest({"run": 3}, subset=lambda number: "train")
    check_videos(data.videos, data.header, ())
    rows = [dataclasses.replace(row, subsets=()) if row.key == "run/clip0001" else row for row in data.videos]
    with pytest.raises(ValueError, match=r"`subsets` has fewer than 1 entries: 1 \(such as 'run/clip0001'\)"):
        check_videos(VideoTable.from_rows(rows), data.header, ())


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "../x"},
        {"path": "/x"},
        {"key": "a/../../evil"},
        {"label": 9},
        {"class_name": "x" * 9999},
        {"group": "x" * 9999},
    ],
)
def test_sources_with_unsafe_names_are_refused(changes: dict[str, Any]) -> None:
    good = SourceVideo("run/a", "run/a.avi", "run", 0)
    check_sources(_table([good]), ["run"], 0)
    with pytest.raises(ValueError, match=next(iter(changes))):
        check_sources(_table([dataclasses.replace(good, **changes)]), ["run"], 0)


def _table(videos: list[SourceVideo]) -> Any:
    return VideoTable.from_rows([video.row("failed", error="x") for video in videos]).arrow
