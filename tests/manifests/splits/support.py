"""Data sets, splits and lists for the tests of this room."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

from manifests.records import GradientCoding, ManifestHeader, VideoRow
from manifests.splits.check import check_split
from manifests.splits.label_split import (
    LabelSplit,
)
from manifests.splits.list_import import ImportReport, import_lists
from manifests.splits.settings import ImportSettings
from manifests.table import Manifest, VideoTable

Official = Callable[[str], Manifest]


def manifest(
    sizes: dict[str, int],
    *,
    dataset: str = "folder",
    subset: Callable[[int], str] | None = None,
    group: Callable[[str, int], str] = lambda name, number: f"g{number // 3:02d}",
    failed: tuple[str, ...] = (),
) -> Manifest:
    """Classes of the given sizes; clip number n of each class has the group and subset that the functions tell."""
    rows = [
        VideoRow(
            key=f"{name}/clip{number:04d}",
            path=f"{name}/clip{number:04d}.avi",
            class_name=name,
            label=label,
            group=group(name, number),
            subsets=(subset(number),) if subset else (),
            status="failed" if f"{name}/clip{number:04d}" in failed else "written",
        )
        for label, (name, size) in enumerate(sorted(sizes.items()))
        for number in range(size)
    ]
    rows.append(VideoRow("", "lost.bin", "", -1, "", (), "skipped", error="not a known video extension (.bin)"))
    rows.sort(key=lambda row: row.key)
    header = ManifestHeader(
        dataset, tuple(sorted(sizes)), GradientCoding(), {}, {}, num_folds=int(subset is not None), videos_sha256="aa"
    )
    return Manifest("a data set", header, VideoTable.from_rows(rows), ())


def digest(split: LabelSplit, part: str = "labelled") -> str:
    return hashlib.sha256("\n".join(split.keys_of(part)).encode()).hexdigest()[:16]


def groups_of(data: Manifest, split: LabelSplit, part: str) -> set[tuple[str, str]]:
    group = {row.key: (row.class_name, row.group) for row in data.videos}
    return {group[key] for key in split.keys_of(part)}


def check_problems(split: LabelSplit, data: Manifest) -> set[str]:
    return {problem.kind for problem in check_split(split, data)}


def changed(split: LabelSplit, **parts: list[int]) -> LabelSplit:
    """The split with the videos at the given places added to parts."""
    columns = {}
    for part, places in parts.items():
        flags = split.part(part).copy()
        flags[places] = True
        columns[part] = flags
    return dataclasses.replace(split, **columns)


def published(lists: Path, dataset: str, percent: int, form: str = "rawframes") -> Path:
    split = "" if dataset == "kinetics400" else "_split_1"
    labelled = f"{percent}_percent_labeled{split}_{form}.txt"
    return lists / dataset / "videossl_splits" / f"{dataset}_train_{labelled}"


def row(path: str, label: int, **values: object) -> VideoRow:
    class_name, stem = path.split("/")[-2], path.split("/")[-1].rsplit(".", 1)[0]
    facts = {"group": "", "subsets": (), "status": "written", "num_frames": 100, **values}
    return VideoRow(
        key=f"{class_name}/{stem}".replace(" ", "_"), path=path, class_name=class_name, label=label, **facts
    )  # type: ignore[arg-type]


def small(*rows: VideoRow, dataset: str = "folder", classes: tuple[str, ...] = ("jump", "run")) -> Manifest:
    folds = max(len(entry.subsets) for entry in rows)
    header = ManifestHeader(dataset, classes, GradientCoding(), {}, {}, num_folds=folds)
    return Manifest("a data set", header, VideoTable.from_rows(sorted(rows, key=lambda entry: entry.key)), ())


def imported(data: Manifest, file: Path, **values: object) -> tuple[LabelSplit, ImportReport]:
    return import_lists(data, {"labelled": file}, ImportSettings(**values))  # type: ignore[arg-type]
