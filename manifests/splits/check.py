"""What is to be known about a split: counts of its parts and classes, what is wrong or doubtful in it, how two compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.datasets import OFFICIAL, groups_span_classes
from manifests.records import WRITTEN
from manifests.splits.label_split import LabelSplit
from manifests.splits.pool import Flags
from manifests.splits.settings import PARTS
from manifests.table import Manifest

ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about a split. level: `error` (it must not be trained with), `warning`, or `note` (to be known).

    kind: a short stable word. count: how many videos, groups or classes. examples: the first few of them.
    """

    level: str
    kind: str
    count: int
    message: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PartCount:
    """Size of one part: videos, classes with at least one, groups, and videos a class over all K classes."""

    part: str
    num_videos: int
    num_classes: int
    num_groups: int
    per_class_min: int
    per_class_mean: float
    per_class_max: int


@dataclass(frozen=True, slots=True)
class Overlap:
    """Videos that two splits share, by part."""

    part: str
    num_first: int
    num_second: int
    num_shared: int


def class_counts(split: LabelSplit, part: str, num_classes: int) -> npt.NDArray[np.int64]:
    """int64[K]: videos of each class in one of PARTS."""
    return _class_counts(split, split.part(part), num_classes)


def count_parts(split: LabelSplit, manifest: Manifest) -> tuple[PartCount, ...]:
    """Sizes of the four parts."""
    _, units, _, grouped = _units(split, manifest)
    counts = []
    for part in PARTS:
        flags = split.part(part)
        per_class = class_counts(split, part, len(manifest.header.classes))
        counts.append(
            PartCount(
                part,
                int(flags.sum()),
                int((per_class > 0).sum()),
                len({units[place] for place in np.flatnonzero(flags & grouped)}),
                int(per_class.min()),
                float(per_class.mean()),
                int(per_class.max()),
            )
        )
    return tuple(counts)


def check_split(split: LabelSplit, manifest: Manifest) -> tuple[Problem, ...]:
    """Everything wrong or doubtful in a split against its data set, errors first."""
    found: list[Problem] = []

    def add(level: str, kind: str, names: Sequence[str], message: str) -> None:
        if names:
            found.append(Problem(level, kind, len(names), message.format(n=len(names)), tuple(names[:5])))

    def keys(flags: Flags) -> list[str]:
        return [split.key[place] for place in np.flatnonzero(flags)]

    digest = split.provenance.get("dataset_digest", "")
    if digest != manifest.digest:
        add(
            ERROR,
            "other-data-set",
            [digest[:16] or "none"],
            "the split was made for another data set or another extraction of it; make it again",
        )
    rows, units, within, grouped = _units(split, manifest)
    status = np.asarray(manifest.videos.arrow.column("status").to_numpy(zero_copy_only=False), dtype=object)
    known = rows >= 0
    written = known & (status[np.where(known, rows, 0)] == WRITTEN) if len(status) else known
    add(ERROR, "unknown-videos", keys(~known), "{n} videos are not in the data set")
    add(ERROR, "not-written", keys(known & ~written), "{n} videos were not extracted (failed or skipped)")
    num_classes = len(manifest.header.classes)
    valid = (split.label >= 0) & (split.label < num_classes)
    add(ERROR, "label-range", keys(~valid), f"{{n}} videos have labels outside the {num_classes} classes")
    for name, first, second in (
        ("test-in-train", split.train, split.test),
        ("validation-in-train", split.train, split.validation),
        ("test-in-validation", split.validation, split.test),
    ):
        add(ERROR, name, keys(first & second), f"{{n}} videos are in both parts ({name.replace('-in-', ' and ')})")
    if not split.labelled.any():
        add(ERROR, "no-labels", [split.name], "no video is labelled")

    ours = manifest.videos.arrow.column("label").to_numpy()
    differing = known & (split.label != ours[np.where(known, rows, 0)]) if len(ours) else ~known
    add(
        WARNING,
        "other-labels",
        keys(differing & known),
        "{n} videos train with another label than their class folder's",
    )
    names = manifest.header.classes
    have = {part: class_counts(split, part, num_classes) for part in PARTS}
    train = _class_counts(split, split.train, num_classes)
    add(
        WARNING,
        "unlabelled-classes",
        _named(names, (train > 0) & (have["labelled"] == 0)),
        "classes with train videos but no labelled one: {n}",
    )
    add(
        WARNING,
        "untested-classes",
        _named(names, (train > 0) & (have["test"] == 0)) if split.test.any() else [],
        "classes with train videos but no test one: {n}",
    )
    add(NOTE, "empty-classes", _named(names, (train == 0) & (have["test"] == 0)), "classes without any video: {n}")
    if not split.test.any():
        add(WARNING, "no-test", [split.name], "there is no test part (`--test-percent P` sets one aside by group)")
    elif not split.validation.any():
        add(
            NOTE,
            "no-validation",
            [split.name],
            "there is no validation part: choosing a checkpoint by its accuracy on the test part is test selection "
            "(`--hold-out P` keeps a part of train for that)",
        )

    def groups(flags: Flags) -> set[str]:
        return {units[place] for place in np.flatnonzero(flags & grouped)}

    held = split.test | split.validation
    in_train = {within[place] for place in np.flatnonzero(split.train & grouped)}
    in_held = Counter(within[place] for place in np.flatnonzero(held & grouped))
    shared = sorted(in_train & set(in_held))
    remedy = " (--pool official keeps them apart)" * (split.provenance.get("pool") == "non-test")
    add(
        WARNING,
        "groups-in-train-and-test",
        shared,
        f"{{n}} groups are in train and in test or validation: {sum(in_held[name] for name in shared)} of {int(held.sum())} "
        f"videos there have a clip of the same class and source in train{remedy}",
    )
    if groups_span_classes(manifest.header.dataset):
        known_leaks = {name.split("/", 1)[1] for name in shared}
        add(
            NOTE if manifest.header.dataset in OFFICIAL else WARNING,
            "groups-across-classes",
            sorted((groups(split.train) & groups(held)) - known_leaks),
            "{n} groups are in train and, with another class only, in test or validation",
        )
    both = sorted(groups(split.labelled) & groups(split.unlabelled & ~split.labelled))
    labelled_groups = len(groups(split.labelled))
    add(
        NOTE,
        "groups-partly-labelled",
        both,
        f"{{n}} of {labelled_groups} labelled groups have unlabelled videos too (no leak into test; --by-group avoids it)",
    )
    rank = {ERROR: 0, WARNING: 1, NOTE: 2}
    return tuple(sorted(found, key=lambda problem: rank[problem.level]))


def compare_splits(first: LabelSplit, second: LabelSplit) -> tuple[Overlap, ...]:
    """How many videos two splits share, part by part, by key."""
    overlaps = []
    for part in PARTS:
        one, other = set(first.keys_of(part)), set(second.keys_of(part))
        overlaps.append(Overlap(part, len(one), len(other), len(one & other)))
    return tuple(overlaps)


def _class_counts(split: LabelSplit, flags: Flags, num_classes: int) -> npt.NDArray[np.int64]:
    labels = split.label[flags]
    return np.bincount(labels[(labels >= 0) & (labels < num_classes)], minlength=num_classes)


def _named(classes: Sequence[str], flags: npt.NDArray[np.bool_]) -> list[str]:
    return [name for name, flag in zip(classes, flags.tolist(), strict=True) if flag]


def _units(split: LabelSplit, manifest: Manifest) -> tuple[npt.NDArray[np.int64], list[str], list[str], Flags]:
    """Per video of the split: its row in the manifest (-1: none), its group's name in the data set and within its class
    (`Class/group`), and whether it has a group."""
    columns = manifest.videos.arrow.select(["key", "class_name", "group"])
    places = pc.index_in(pa.array(split.key, pa.string()), value_set=columns.column("key").combine_chunks())
    rows = pc.fill_null(places, -1).to_numpy().astype(np.int64)
    known = np.flatnonzero(rows >= 0)
    taken = columns.take(pa.array(rows[known])).to_pydict()
    within, grouped = [""] * len(rows), np.zeros(len(rows), bool)
    units = list(within)
    spans = groups_span_classes(manifest.header.dataset)
    for at, class_name, group in zip(known, taken["class_name"], taken["group"], strict=True):
        if group:
            within[at] = f"{class_name}/{group}"
            units[at] = group if spans else within[at]
            grouped[at] = True
    return rows, units, within, grouped
