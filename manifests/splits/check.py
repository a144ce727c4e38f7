"""Check a label split: counts of its parts and classes, problems, and the overlap of two splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.console import counted, plural
from manifests.datasets import OFFICIAL, groups_span_classes
from manifests.records import NO_LABEL, WRITTEN
from manifests.splits.label_split import LabelSplit
from manifests.splits.pool import Flags, of_their_sources
from manifests.splits.settings import PARTS
from manifests.table import Manifest

LEVELS = ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a split."""

    level: str  # `error`: do not train with the split; `warning`; `note`
    kind: str  # a short name that does not change between versions
    count: int  # number of videos, groups or classes concerned
    message: str
    examples: tuple[str, ...] = ()  # the first few of them


@dataclass(frozen=True, slots=True)
class PartCount:
    """Size of one part: videos, classes with at least one video, groups, and videos per class over all K classes."""

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
    """Count the videos of each class in one of PARTS, or in `train`: int64[K]."""
    labels = split.label[split.part(part)]
    return np.bincount(labels[(labels >= 0) & (labels < num_classes)], minlength=num_classes)


def count_parts(split: LabelSplit, manifest: Manifest) -> tuple[PartCount, ...]:
    """Compute the sizes of the four parts."""
    videos = _look_up(split, manifest)
    counts = []
    for part in PARTS:
        flags = split.part(part)
        per_class = class_counts(split, part, len(manifest.header.classes))
        sizes = int(flags.sum()), int((per_class > 0).sum()), len(videos.unit.counts(flags))
        spread = (
            (int(per_class.min()), float(per_class.mean()), int(per_class.max())) if len(per_class) else (0, 0.0, 0)
        )
        counts.append(PartCount(part, *sizes, *spread))
    return tuple(counts)


def check_split(split: LabelSplit, manifest: Manifest) -> tuple[Problem, ...]:
    """Check a split against its data set; problems are sorted by level, errors first."""
    videos = _look_up(split, manifest)
    checks = [*_check_videos(split, manifest, videos), *_check_parts(split)]
    checks += [*_check_classes(split, manifest), *_check_groups(split, manifest, videos)]
    checks += _check_left_out(split, manifest)
    return tuple(sorted((found for found in checks if found.count), key=lambda found: LEVELS.index(found.level)))


def _problem(level: str, kind: str, names: Sequence[str], message: str) -> Problem:
    """A Problem of these videos, groups or classes; the message holds their number as `counted` writes it."""
    return Problem(level, kind, len(names), counted(message, len(names)), tuple(names[:5]))


def _keys(split: LabelSplit, flags: Flags) -> list[str]:
    return [split.key[row] for row in np.flatnonzero(flags)]


def _check_videos(split: LabelSplit, manifest: Manifest, videos: _Videos) -> Iterator[Problem]:
    """Are the videos of the split written videos of this data set, with its labels?"""
    digest = split.provenance.get("dataset_digest", "")
    if digest != manifest.digest:
        message = "the split was made for another data set or another extraction of it; make it again"
        yield _problem(ERROR, "other-data-set", [digest[:16] or "none"], message)
    known, written = videos.known, videos.written
    num_classes = len(manifest.header.classes)
    in_range = (split.label >= 0) & (split.label < num_classes)
    # A video that has no label in the data set may get one in the split, from a list; it is never tested.
    unknown, no_label = known & (videos.label == NO_LABEL), split.label == NO_LABEL
    held_out = split.validation | split.test
    out_of_place = known & ((no_label & (held_out | split.labelled)) | (unknown & held_out))
    for level, kind, flags, message in (
        (ERROR, "unknown-videos", ~known, "{video is|videos are} not in the data set"),
        (ERROR, "not-written", known & ~written, "{video was|videos were} not extracted (failed or skipped)"),
        (
            ERROR,
            "label-range",
            ~in_range & ~(unknown & no_label),
            f"{{video has a label|videos have labels}} outside the {num_classes} classes",
        ),
        (
            ERROR,
            "no-label",
            out_of_place,
            "{video without a label is a labelled, validation or test video|videos without a label are labelled, validation or test videos}",
        ),
        (
            WARNING,
            "other-labels",
            known & ~unknown & (split.label != videos.label),
            "{video trains|videos train} with another label than the class folder's",
        ),
    ):
        yield _problem(level, kind, _keys(split, flags), message)


def _check_parts(split: LabelSplit) -> Iterator[Problem]:
    """Are the parts disjoint and present?"""
    for first, second in (("test", "train"), ("validation", "train"), ("test", "validation")):
        message = f"{{video is|videos are}} in both parts ({first} and {second})"
        yield _problem(ERROR, f"{first}-in-{second}", _keys(split, split.part(first) & split.part(second)), message)
    if not split.labelled.any():
        yield _problem(ERROR, "no-labels", [split.name], "no video is labelled")
    if not split.test.any():
        message = "there is no test part (`--test-percent P` sets one aside by group)"
        yield _problem(WARNING, "no-test", [split.name], message)
    elif not split.validation.any():
        message = (
            "there is no validation part: choosing a checkpoint by its accuracy on the test part is test selection "
            "(`--hold-out P` keeps a part of train for that)"
        )
        yield _problem(NOTE, "no-validation", [split.name], message)


def _check_classes(split: LabelSplit, manifest: Manifest) -> Iterator[Problem]:
    """Does every class with train videos have labelled and test videos?"""
    names = manifest.header.classes
    labelled, test, train = (class_counts(split, part, len(names)) for part in ("labelled", "test", "train"))
    unlabelled, empty = (train > 0) & (labelled == 0), (train == 0) & (test == 0)
    untested = (train > 0) & (test == 0) & split.test.any()
    for level, kind, flags, message in (
        (WARNING, "unlabelled-classes", unlabelled, "classes with train videos but no labelled one: {n}"),
        (WARNING, "untested-classes", untested, "classes with train videos but no test one: {n}"),
        (NOTE, "empty-classes", empty, "classes without any video: {n}"),
    ):
        yield _problem(level, kind, [names[label] for label in np.flatnonzero(flags)], message)


def _check_groups(split: LabelSplit, manifest: Manifest, videos: _Videos) -> Iterator[Problem]:
    """Do clips of one source lie on both sides of a border between parts?"""
    # Leaks within a class: train and test hold clips of the same class and source.
    held = split.test | split.validation
    in_held = videos.within_class.counts(held)
    shared = sorted(in_held.keys() & videos.within_class.counts(split.train).keys())
    remedy = " (--pool official keeps them apart)" * (split.provenance.get("pool") == "non-test")
    yield _problem(
        WARNING,
        "groups-in-train-and-test",
        shared,
        f"{{group is|groups are}} in train and in test or validation: {sum(in_held[name] for name in shared)} of {int(held.sum())} "
        f"videos there have a clip of the same class and source in train{remedy}",
    )
    # Milder: the same person or scene, in another class. Official lists have such groups, so they are only noted there.
    if groups_span_classes(manifest.header.dataset):
        leaked = {name.split("/", 1)[1] for name in shared}
        yield _problem(
            NOTE if manifest.header.dataset in OFFICIAL else WARNING,
            "groups-across-classes",
            sorted((videos.unit.counts(split.train).keys() & videos.unit.counts(held).keys()) - leaked),
            "{group is|groups are} in train and in test or validation, under different classes or without a label in train",
        )
    labelled = videos.unit.counts(split.labelled).keys()
    yield _problem(
        NOTE,
        "groups-partly-labelled",
        sorted(labelled & videos.unit.counts(split.unlabelled & ~split.labelled).keys()),
        f"{{n}} of {plural(len(labelled), 'labelled group')} also with unlabelled videos, all in train (--by-group avoids it)",
    )


def _check_left_out(split: LabelSplit, manifest: Manifest) -> Iterator[Problem]:
    """Which videos without a label does the split leave out because of their source?"""
    table = manifest.videos.arrow
    none = pc.and_(pc.equal(table["label"], NO_LABEL), pc.equal(table["status"], WRITTEN))
    left_out = []
    if pc.any(none).as_py():
        key = manifest.videos.column("key")
        members, held_out = set(split.key), set(_keys(split, split.validation | split.test))
        out = [row for row in np.flatnonzero(np.asarray(none)).tolist() if key[row] not in members]
        rows = [row for row, name in enumerate(key) if name in held_out] if out else []
        left_out = [key[row] for row, same in zip(out, of_their_sources(manifest, rows, out), strict=True) if same]
    message = "{video without a label is|videos without a label are} in no part: a video of the same file or source is in validation or test"
    yield _problem(NOTE, "left-out", left_out, message)


def compare_splits(first: LabelSplit, second: LabelSplit) -> tuple[Overlap, ...]:
    """Count the videos that two splits share, part by part."""
    keys = ((part, set(first.keys_of(part)), set(second.keys_of(part))) for part in PARTS)
    return tuple(Overlap(part, len(ours), len(theirs), len(ours & theirs)) for part, ours, theirs in keys)


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """A group of each video of a split, by number, so that 650,000 videos are counted in milliseconds."""

    names: list[str]  # all different; "" for videos without a group
    number: npt.NDArray[np.int32]  # [N], into `names`

    @staticmethod
    def of(column: pa.ChunkedArray) -> _Groups:
        """The groups that a column of text names."""
        encoded = column.combine_chunks().dictionary_encode()
        return _Groups(encoded.dictionary.to_pylist(), encoded.indices.to_numpy())

    def counts(self, flags: Flags) -> dict[str, int]:
        """How many of the flagged videos each group has, without groups that have none and without ""."""
        counts = np.bincount(self.number[flags], minlength=len(self.names)).tolist()
        return {name: count for name, count in zip(self.names, counts, strict=True) if name and count}


@dataclass(frozen=True, slots=True, eq=False)
class _Videos:
    """What the data set says of each video of a split."""

    known: Flags  # in the data set at all; the other fields are empty if not
    written: Flags
    label: npt.NDArray[np.int32]
    unit: _Groups  # its group in the data set
    within_class: _Groups  # its class and group


def _look_up(split: LabelSplit, manifest: Manifest) -> _Videos:
    rows = manifest.videos.rows_of(split.key)
    table = manifest.videos.arrow.select(["class_name", "group", "status", "label"]).take(
        rows
    )  # nulls for unknown keys
    group = pc.fill_null(table["group"], "")
    class_and_group = pc.binary_join_element_wise(pc.fill_null(table["class_name"], ""), group, "/")
    within_class = _Groups.of(pc.if_else(pc.equal(group, ""), "", class_and_group))
    spans = groups_span_classes(manifest.header.dataset)
    return _Videos(
        known=np.asarray(rows.is_valid()),
        written=np.asarray(pc.fill_null(pc.equal(table["status"], WRITTEN), False)),
        label=np.asarray(pc.fill_null(table["label"], -1), np.int32),
        unit=_Groups.of(group) if spans else within_class,
        within_class=within_class,
    )
