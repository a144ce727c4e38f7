"""Import a split from list files: every line is matched to a video of the data set, or reported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from manifests.console import plural
from manifests.datasets import folded_class
from manifests.lists.labels import whole_number
from manifests.records import InputError
from manifests.splits.label_split import LabelSplit, assemble
from manifests.splits.list_match import Match, Matches, Unmatched, match_lists
from manifests.splits.lists import NO_LABEL, ListFile, read_list
from manifests.splits.pool import Flags, Pool, official_pool
from manifests.splits.settings import PARTS, ImportSettings
from manifests.table import Manifest


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
    matched = match_lists(manifest, read)
    matches = matched.of_part
    pool, pool_name, notes = _choose_pool(manifest, settings, matches["labelled"])
    # A list replaces the official part; what the official parts then share with it goes to the list's part.
    place_of = {row: place for place, row in enumerate(pool.rows.tolist())}
    labelled, train, validation, test = _parts(pool, place_of, matched)
    notes += [
        f"{plural(len(found), 'line is', 'lines are')} {f'for {part}' if part else 'in no part'} by the list's own word for the subset"
        for part, found in matched.held_out.items()
        if found
    ]
    _refuse_overlaps(
        dict(zip(PARTS, (labelled, train, validation, test), strict=True)), read["labelled"], settings.fold
    )
    if manifest.header.num_folds and (moved := int((pool.train & (test | validation)).sum())):
        notes.append(
            f"{plural(moved, 'video of the official train list is', 'videos of the official train list are')} in an imported list for test or validation, and not in train any more"
        )
    unlabelled = pool.without_label | (train | labelled if settings.unlabelled == "all" else train & ~labelled)
    label, label_differences, label_notes = _labels(
        manifest, pool, place_of, matches, read["labelled"], settings.labels
    )
    lists = tuple(
        ImportedList(part, file.name, file.sha256, file.published, len(file.entries), len(matches[part]))
        for part, file in read.items()
    )
    differences = (*label_differences, *_frame_differences(manifest, pool, place_of, matches))
    # The provenance names the lists by their digests, so that a split can be traced to published ones.
    provenance = {
        "made": "imported",
        "labels": settings.labels,
        "unlabelled": settings.unlabelled,
        "fold": str(settings.fold),
        "pool": pool_name,
    }
    for entry in lists:
        published = f" ({entry.published})" if entry.published else ""
        provenance[f"list_{entry.part}"] = f"{entry.name} sha256 {entry.sha256}{published}"
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", PurePosixPath(lists[0].name).stem).lstrip("._-")[:80]
    name = lists[0].published or stem or "imported"
    name += "-theirs" * (settings.labels == "theirs") + "-rest" * (settings.unlabelled == "rest")
    parts = labelled, unlabelled, validation, test
    split = assemble(manifest, pool, settings.name or name, parts, provenance, label)
    return split, ImportReport(lists, matched.unmatched, differences, (*notes, *label_notes))


def _choose_pool(manifest: Manifest, settings: ImportSettings, labelled: list[Match]) -> tuple[Pool, str, list[str]]:
    """Choose the train list that the settings name, or the one that the labelled list needs; also return its name and a note."""
    name = settings.pool or "official"
    pool = official_pool(manifest, settings.fold, name)
    if settings.pool is None:
        wider = official_pool(manifest, settings.fold, "non-test")
        outside = {match.row for match in labelled} & set(wider.rows[wider.train & ~pool.train].tolist())
        if outside:
            note = f"{plural(len(outside), 'labelled video is', 'labelled videos are')} outside the official train list: train is every video that is not in the test part (--pool sets it)"
            return wider, "non-test", [note]
    return pool, name, []


def _parts(pool: Pool, place_of: dict[int, int], matched: Matches) -> tuple[Flags, Flags, Flags, Flags]:
    """Labelled, train, validation and test videos. What no list names comes from the official parts."""

    def flags(found: list[Match]) -> Flags:
        of_pool = np.zeros(len(pool.key), bool)
        of_pool[[place_of[match.row] for match in found if match.row in place_of]] = True
        return of_pool

    given = {part: flags(found) for part, found in matched.of_part.items()}
    held_out = {part: flags(found) for part, found in matched.held_out.items()}
    test = given.get("test", pool.test | held_out["test"])
    validation = given.get("validation", (pool.validation | held_out["validation"]) & ~test)
    train = pool.train & ~test & ~validation & ~np.logical_or.reduce(list(held_out.values()))
    return given["labelled"], given.get("unlabelled", train), validation, test


def _refuse_overlaps(parts: dict[str, Flags], file: ListFile, fold: int) -> None:
    hints = {
        "labelled": "If the list belongs to another official fold, give it with --fold.",
        "unlabelled": "Take them out of one of the lists.",
    }
    pairs = [(first, second) for first in hints for second in ("test", "validation")]
    for first, second in (*pairs, ("validation", "test")):
        if shared := int((parts[first] & parts[second]).sum()):
            raise InputError(
                f"List {file.name}: {shared} of {plural(int(parts[first].sum()), f'{first} video')} {'is' if shared == 1 else 'are'} in the {second} part too "
                f"(fold {fold}). {hints.get(first, hints['unlabelled'])}"
            )


def _labels(
    manifest: Manifest,
    pool: Pool,
    place_of: dict[int, int],
    matches: dict[str, list[Match]],
    file: ListFile,
    labels: str,
) -> tuple[npt.NDArray[np.int32], tuple[Difference, ...], list[str]]:
    """Choose the labels to train with; also return the differences and notes on the list's class numbers."""
    by_name = {folded_class(name): number for number, name in enumerate(manifest.header.classes)}
    ours: list[int] = pool.label.tolist()
    theirs: dict[int, int] = {}
    for match in matches["labelled"]:
        if written := match.reading.label:
            where = f"List {file.name}, line {match.line}"
            if written == NO_LABEL:
                raise InputError(f"{where}: no label. A labelled video needs one: take the line out.")
            try:
                number = whole_number(written)
            except InputError as error:
                raise InputError(f"{where}: {error}.") from None
            theirs[place_of[match.row]] = by_name.get(folded_class(written), -1) if number is None else number
    notes = []
    if len(theirs) > 1 and all(number == ours[place] + 1 for place, number in theirs.items()):
        theirs = {place: number - 1 for place, number in theirs.items()}
        notes.append("the list numbers its classes from 1, the data set from 0")
    different = sorted(place for place, number in theirs.items() if number != ours[place])
    # When most labels differ, the numbers mean other classes: such a list cannot overrule the class folders.
    problem = ""
    if len(different) * 2 > len(theirs):
        problem = f"the list numbers its classes differently from the data set ({len(different)} of {len(theirs)} labels differ)"
        notes.append(f"{problem}: the class folders decide")
    trained = pool.label.copy()
    if labels == "theirs":
        num_classes = len(manifest.header.classes)
        strange = [place for place in different if not 0 <= theirs[place] < num_classes]
        if strange and not problem:
            problem = f"label {theirs[strange[0]]} of {pool.key[strange[0]]} is not one of the {num_classes} classes"
        if problem:
            raise InputError(f"--labels theirs: {problem}. Use --labels ours, which takes the class folder's label.")
        trained[list(theirs)] = list(theirs.values())
    differences = tuple(Difference(pool.key[place], "label", ours[place], theirs[place]) for place in different)
    return trained, differences, notes


def _frame_differences(
    manifest: Manifest, pool: Pool, place_of: dict[int, int], matches: dict[str, list[Match]]
) -> tuple[Difference, ...]:
    counted = manifest.videos.arrow.column("num_frames").to_numpy()
    listed = {match.row: match.reading.num_frames for found in matches.values() for match in found}
    differing = [(place_of[row], row, count) for row, count in listed.items() if count >= 0 and counted[row] != count]
    return tuple(
        Difference(pool.key[place], "num_frames", int(counted[row]), count) for place, row, count in sorted(differing)
    )
