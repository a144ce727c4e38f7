"""Data sets made from the official annotation lists: every video `written`, frame counts from the published lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from manifests import datasets
from manifests.lists.official import find_official
from manifests.records import GradientCoding, ManifestHeader, VideoRow
from manifests.table import Manifest, VideoTable


@pytest.fixture(scope="session")
def lists(shared: Path) -> Path:
    return shared / "annotations/video_semisup/data"


@pytest.fixture(scope="session")
def official(shared: Path) -> Callable[[str], Manifest]:
    """A manifest of a whole data set, as extraction of all its videos would give it."""
    made: dict[str, Manifest] = {}

    def make(dataset: str) -> Manifest:
        if dataset not in made:
            made[dataset] = _manifest(shared, dataset)
        return made[dataset]

    return make


def _manifest(shared: Path, dataset: str) -> Manifest:
    lists = find_official(dataset, [shared / "annotations" / dataset])
    assert lists is not None
    frames = {}
    for file in sorted((shared / "annotations" / "video_semisup" / "data" / dataset).rglob("*_rawframes.txt")):
        for line in file.read_text().splitlines():
            path, count, _ = line.rsplit(" ", 2)
            frames[path] = int(count)
    label = {name: number for number, name in enumerate(lists.classes)}
    rows = [
        VideoRow(
            key=f"{video.class_name}/video-{number:05d}",  # unlike the lists' names: matching must go by the original path
            path=f"{video.class_name}/{video.stem}.avi",
            class_name=video.class_name,
            label=label[video.class_name],
            group=datasets.group_of(dataset, video.class_name, video.stem),
            subsets=video.subsets,
            status="written",
            num_frames=frames[f"{video.class_name}/{video.stem}"],
        )
        for number, video in enumerate(lists.videos)
    ]
    rows.sort(key=lambda row: row.key)
    header = ManifestHeader(dataset, lists.classes, GradientCoding(), {}, {}, lists.num_folds, len(rows))
    return Manifest(f"a folder of {dataset}", header, VideoTable.from_rows(rows), ())
