"""A split from list files that others made: every line matched to a video of the data set, or reported."""

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
    """How lists become a split.

    labels: `ours` (from the class folder) or `theirs` (as the labelled list has them, its mistakes included).
    unlabelled: `all` train videos or the `rest`; a list for that part overrides it.
    pool: the train list is the `official` one or everything outside test (`non-test`); None: `non-test` where the labelled
        list names videos that the official lists leave unused, else `official`.
    """

    labels: str = "ours"
    unlabelled: str = "all"
    pool: str | None = None
    fold: int = 1
    name: str = ""

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
    """Where a list and the data set disagree about a video. what: `label` or `num_frames`."""

    key: str
    what: str
    ours: int
    theirs: int


@dataclass(frozen=True, slots=True)
class ImportedList:
    """A list that was read. part: one of PARTS. published: its short name where it is a known list, byte for byte, else ""."""

    part: str
    name: str
    sha256: str
    published: str
    num_lines: int
    num_matched: int


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What the import found. differences: label differences of the labelled list, frame counts of every list."""

    lists: tuple[ImportedList, ...]
    unmatched: tuple[Unmatched, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    def count(self, what: str) -> int:
        """Number of differences of one kind."""
        return sum(difference.what == what for difference in self.differences)


def import_lists(
    manifest: Manifest, files: dict[str, Path], settings: ImportSettings | None = None
) -> tuple[LabelSplit, ImportReport]:
    """A split from list files. files: part (one of PARTS, `labelled` at least) -> list.

    Parts without a list are the fold's official ones: unlabelled the whole train list, validation and test as official.
    Videos are matched by class and name whatever their case, extension and the folders above, Kinetics also by id alone.
    InputError where nothing matches, or labelled videos lie in the test part.
    """
    settings = settings or ImportSettings()
    if "labelled" not in files or set(files) - set(PARTS):
        raise InputError(f"Import needs a list of labelled videos, and knows the parts {', '.join(PARTS)}.")
    read = {part: read_list(files[part]) for part in PARTS if part in files}
    matches, unmatched = match_lists(manifest, read)
    chosen = settings.pool or "official"
    pool = official_pool(manifest, settings.fold, chosen)
    notes: list[str] = []
    if settings.pool is None:
        wider = official_pool(manifest, settings.fold, "non-test")
        labelled_rows = {match.row for match in matches["labelled"]}
        outside = labelled_rows & set(wider.rows[wider.train & ~pool.train].tolist())
        if outside:
            pool, chosen = wider, "non-test"
            notes.append(
                f"{len(outside)} labelled videos are outside the official train list: train is every video that is not in the test part (--pool sets it)"
            )
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
    published = read["labelled"].published
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
        "pool": chosen,
    }
    for entry in report.lists:
        provenance[f"list_{entry.part}"] = f"{entry.name} sha256 {entry.sha256}" + f" ({entry.published})" * bool(
            entry.published
        )
    name = published.name if published else _name_of(read["labelled"].name)
    name += "-theirs" * (settings.labels == "theirs") + "-rest" * (settings.unlabelled == "rest")
    name = settings.name or name
    return assemble(manifest, pool, name, (labelled, unlabelled, validation, test), provenance, label), report


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
    """Labels to train with, the differences, and notes on how the list numbers its classes."""
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
        reason = f"the list numbers its classes otherwise than the data set ({len(different)} of {len(theirs)} labels differ)"
        if labels == "theirs":
            raise InputError(f"--labels theirs: {reason}. Use --labels ours, which takes the class folder's label.")
        notes.append(f"{reason}: the class folders decide")
    num_classes = len(manifest.header.classes)
    strange = [place for place in different if not 0 <= theirs[place] < num_classes]
    if strange and labels == "theirs":
        raise InputError(
            f"--labels theirs: label {theirs[strange[0]]} of {pool.key[strange[0]]} is none of the {num_classes} classes. Use --labels ours."
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
    told = {match.row: match.reading.num_frames for found in matches.values() for match in found}
    differing = [(place_of[row], row, count) for row, count in told.items() if count >= 0 and counted[row] != count]
    return tuple(
        Difference(pool.key[place], "num_frames", int(counted[row]), count) for place, row, count in sorted(differing)
    )
