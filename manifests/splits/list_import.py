"""Import a split from list files: every line is matched to a video of the data set, or reported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from manifests.datasets import folded_class
from manifests.records import InputError
from manifests.splits.label_split import LabelSplit, assemble
from manifests.splits.list_match import Match, Unmatched, match_lists
from manifests.splits.lists import read_list
from manifests.splits.pool import Flags, Pool, official_pool
from manifests.splits.settings import LABELS, NAME_RULE, PARTS, POOLS, UNLABELLED, is_split_name
from manifests.table import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSettings:
    """How lists are made into a split."""

    labels: str = "ours"  # from the class folder, or `theirs`: as in the labelled list, its mistakes included
    unlabelled: str = "all"  # all train videos or the `rest`; a list for that part overrides it
    pool: str | None = None
    """Train list: the `official` one, or all videos outside test (`non-test`). None: `non-test` if the labelled list names
    videos that the official lists leave unused, else `official`."""
    fold: int = 1  # official fold, from 1
    name: str = ""  # "": the name of the published list, or of the file

    def __post_init__(self) -> None:
        problems = [
            f"{option} {value}: expected one of {', '.join(choices)}"
            for option, value, choices in (
                ("--labels", self.labels, LABELS),
                ("--unlabelled", self.unlabelled, UNLABELLED),
                ("--pool", self.pool or POOLS[0], POOLS),
            )
            if value not in choices
        ]
        if self.fold < 1:
            problems.append(f"--fold {self.fold}: folds count from 1")
        if self.name and not is_split_name(self.name):
            problems.append(f"--name {self.name!r}: {NAME_RULE}")
        if problems:
            raise InputError("Import settings: " + "; ".join(problems) + ".")


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between a list and the data set."""

    key: str
    what: str  # `label` or `num_frames`
    ours: int
    theirs: int


@dataclass(frozen=True, slots=True)
class ImportedList:
    """Facts of an imported list."""

    part: str  # one of PARTS
    name: str
    sha256: str
    published: str  # short name of the published list with these bytes, or ""
    num_lines: int
    num_matched: int


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The result of an import. differences: labels in the labelled list, frame counts in every list."""

    lists: tuple[ImportedList, ...]
    unmatched: tuple[Unmatched, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    def count(self, what: str) -> int:
        """Count the differences of one kind."""
        return sum(difference.what == what for difference in self.differences)


def import_lists(
    manifest: Manifest, files: dict[str, Path], settings: ImportSettings | None = None
) -> tuple[LabelSplit, ImportReport]:
    """Make a split from list files. files: part (one of PARTS, at least `labelled`) -> list.

    Parts without a list are the official ones of the fold; unlabelled is then the complete train list. Videos are matched by
    class and name, regardless of case, extension and parent folders, in Kinetics also by id. InputError if nothing matches,
    or if labelled videos are in the test part.
    """
    settings = settings or ImportSettings()
    if "labelled" not in files or set(files) - set(PARTS):
        raise InputError(f"Import needs a list of labelled videos, and knows the parts {', '.join(PARTS)}.")
    read = {part: read_list(files[part]) for part in PARTS if part in files}
    matches, unmatched = match_lists(manifest, read)
    pool, pool_name, notes = _choose_pool(manifest, settings, matches["labelled"])
    # A list replaces the official part; what the official parts then share with it goes to the list's part.
    place_of = {row: place for place, row in enumerate(pool.rows.tolist())}
    flags = {part: _flags(pool, [place_of[match.row] for match in found]) for part, found in matches.items()}
    labelled = flags["labelled"]
    test, validation = flags.get("test", pool.test), flags.get("validation", pool.validation)
    validation = validation & ~test if "validation" not in flags else validation
    train = flags.get("unlabelled", np.logical_and(pool.train, ~test & ~validation))
    parts = {"labelled": labelled, "unlabelled": train, "validation": validation, "test": test}
    _refuse_overlaps(parts, read["labelled"].name, settings.fold)
    unlabelled = train | labelled if settings.unlabelled == "all" else train & ~labelled
    label, label_differences, label_notes = _labels(manifest, pool, place_of, matches, settings.labels)
    report = ImportReport(
        tuple(
            ImportedList(
                part,
                file.name,
                file.sha256,
                file.published.name if file.published else "",
                len(file.entries),
                len(matches[part]),
            )
            for part, file in read.items()
        ),
        unmatched,
        (*label_differences, *_frame_differences(manifest, pool, place_of, matches)),
        (*notes, *label_notes),
    )
    provenance = {
        "made": "imported",
        "labels": settings.labels,
        "unlabelled": settings.unlabelled,
        "fold": str(settings.fold),
        "pool": pool_name,
    }
    for entry in report.lists:
        provenance[f"list_{entry.part}"] = f"{entry.name} sha256 {entry.sha256}" + f" ({entry.published})" * bool(
            entry.published
        )
    published = read["labelled"].published
    name = published.name if published else _name_of(read["labelled"].name)
    name += "-theirs" * (settings.labels == "theirs") + "-rest" * (settings.unlabelled == "rest")
    name = settings.name or name
    return assemble(manifest, pool, name, (labelled, unlabelled, validation, test), provenance, label), report


def _choose_pool(manifest: Manifest, settings: ImportSettings, labelled: list[Match]) -> tuple[Pool, str, list[str]]:
    """Choose the train list that the settings name, or the one that the labelled list needs; also return its name and a note."""
    name = settings.pool or "official"
    pool = official_pool(manifest, settings.fold, name)
    if settings.pool is not None:
        return pool, name, []
    wider = official_pool(manifest, settings.fold, "non-test")
    outside = {match.row for match in labelled} & set(wider.rows[wider.train & ~pool.train].tolist())
    if not outside:
        return pool, name, []
    note = f"{len(outside)} labelled videos are outside the official train list: train is every video that is not in the test part (--pool sets it)"
    return wider, "non-test", [note]


def _refuse_overlaps(parts: dict[str, Flags], name: str, fold: int) -> None:
    for first, second in (
        ("labelled", "test"),
        ("labelled", "validation"),
        ("unlabelled", "test"),
        ("unlabelled", "validation"),
        ("validation", "test"),
    ):
        if shared := int(np.logical_and(parts[first], parts[second]).sum()):
            hint = (
                "If the list belongs to another official fold, give it with --fold."
                if first == "labelled"
                else "Take them out of one of the lists."
            )
            raise InputError(
                f"List {name}: {shared} of {int(parts[first].sum())} {first} videos are in the {second} part too (fold {fold}). {hint}"
            )


def _flags(pool: Pool, places: list[int]) -> Flags:
    flags = np.zeros(len(pool.key), bool)
    flags[places] = True
    return flags


def _name_of(file: str) -> str:
    name = "".join(
        letter if (letter.isalnum() and letter.isascii()) or letter in "._-" else "-"
        for letter in PurePosixPath(file).stem
    )
    return name.lstrip("._-")[:80] or "imported"


def _labels(
    manifest: Manifest, pool: Pool, place_of: dict[int, int], matches: dict[str, list[Match]], labels: str
) -> tuple[npt.NDArray[np.int32], tuple[Difference, ...], list[str]]:
    """Choose the labels to train with; also return the differences and notes on the list's class numbers."""
    by_name = {folded_class(name): number for number, name in enumerate(manifest.header.classes)}
    ours: list[int] = pool.label.tolist()
    theirs: dict[int, int] = {}
    for match in matches["labelled"]:
        if written := match.reading.label:
            number = int(written) if written.isdigit() else by_name.get(folded_class(written), -1)
            theirs[place_of[match.row]] = number
    notes = []
    if len(theirs) > 1 and all(number == ours[place] + 1 for place, number in theirs.items()):
        theirs = {place: number - 1 for place, number in theirs.items()}
        notes.append("the list numbers its classes from 1, the data set from 0")
    different = sorted(place for place, number in theirs.items() if number != ours[place])
    if len(different) * 2 > len(theirs):
        reason = f"the list numbers its classes differently from the data set ({len(different)} of {len(theirs)} labels differ)"
        if labels == "theirs":
            raise InputError(f"--labels theirs: {reason}. Use --labels ours, which takes the class folder's label.")
        notes.append(f"{reason}: the class folders decide")
    num_classes = len(manifest.header.classes)
    strange = [place for place in different if not 0 <= theirs[place] < num_classes]
    if strange and labels == "theirs":
        raise InputError(
            f"--labels theirs: label {theirs[strange[0]]} of {pool.key[strange[0]]} is not one of the {num_classes} classes. Use --labels ours."
        )
    trained = pool.label.copy()
    if labels == "theirs":
        trained[list(theirs)] = list(theirs.values())
    return (
        trained,
        tuple(Difference(pool.key[place], "label", ours[place], theirs[place]) for place in different),
        notes,
    )


def _frame_differences(
    manifest: Manifest, pool: Pool, place_of: dict[int, int], matches: dict[str, list[Match]]
) -> tuple[Difference, ...]:
    counted = manifest.videos.arrow.column("num_frames").to_numpy()
    listed = {match.row: match.reading.num_frames for found in matches.values() for match in found}
    differing = [(place_of[row], row, count) for row, count in listed.items() if count >= 0 and counted[row] != count]
    return tuple(
        Difference(pool.key[place], "num_frames", int(counted[row]), count) for place, row, count in sorted(differing)
    )
