"""Class, group and official subset of each file by the rules of a data set, and what the lists name besides."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from manifests import datasets
from manifests.datasets import KINETICS
from manifests.files import Location
from manifests.lists import official
from manifests.lists.kinetics import OtherKineticsError, is_kinetics_csv
from manifests.lists.listed import OfficialLists
from manifests.records import InputError
from tgprep.scan.files import VideoFile, some

_NUM_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Missing:
    """A class of which listed videos are not in the folder."""

    class_name: str
    num_listed: int
    num_missing: int
    examples: tuple[str, ...]  # names of the first few


@dataclass(frozen=True, slots=True)
class Extra:
    """A class with videos that no list names."""

    class_name: str  # "": unknown
    num_extra: int
    examples: tuple[str, ...]  # paths of the first few


@dataclass(frozen=True, slots=True)
class VideoLabel:
    """What the rules of a data set say about a file."""

    class_name: str
    group: str
    subsets: tuple[str, ...]  # one a fold


@dataclass(frozen=True, slots=True)
class Labelling:
    """The labels of all files, and what the user should know about them."""

    classes: tuple[str, ...]
    labels: Mapping[str, VideoLabel | str]  # by path; text is the reason to skip the file
    num_folds: int
    missing: tuple[Missing, ...]
    extra: tuple[Extra, ...]
    notes: tuple[str, ...]


def guess_dataset(files: list[VideoFile], paths: list[Path], annotations: Path | None) -> str:
    """Guess the data set: one that at least two thirds of the files fit by class and by name, else `csv` or `folder`."""
    if annotations is not None and annotations.is_file() and not is_kinetics_csv(annotations):
        return "csv"
    num_fitting: dict[str, int] = {}
    for dataset in datasets.OFFICIAL:
        if count := _num_fitting(dataset, files, paths):
            num_fitting[dataset] = count
            if dataset not in KINETICS:
                return dataset
    # The Kinetics share most classes: take the one that labels most files, the smallest of equals.
    return max(num_fitting, key=lambda dataset: num_fitting[dataset], default="folder")


def _num_fitting(dataset: str, files: list[VideoFile], paths: list[Path]) -> int:
    """Number of files that fit a data set by class and by name; 0 if less than two thirds of all."""
    named = [file for file in files if datasets.name_fits(dataset, file.stem)]
    if len(named) * 3 < len(files) * 2:
        return 0
    # Lists beside the videos take precedence over ours: a data set in UCF101's form has its own classes.
    try:
        lists = official.find_official(dataset, paths)
    except OtherKineticsError as error:
        if any(datasets.size_fits(other, error.num_classes) for other in KINETICS if other != dataset):
            return 0
        raise
    classes = lists.classes if lists else datasets.class_list(dataset)
    if not datasets.size_fits(dataset, len(classes)):
        return 0
    folded = {datasets.folded_class(name) for name in classes}
    num_fitting = sum(
        any(datasets.folded_class(folder) in folded for folder in file.folders)
        or datasets.class_of_name(dataset, file.stem, classes) != ""
        for file in named
    )
    # Kinetics videos without class folders fit by the ids in the lists.
    if lists and dataset in KINETICS and any(not file.folders for file in named):
        num_fitting = max(num_fitting, sum(lists.find("", file.stem) is not None for file in named))
    return num_fitting if num_fitting * 3 >= len(files) * 2 else 0


def by_lists(
    dataset: str, files: list[VideoFile], videos: Location, paths: list[Path], annotations: Location | None
) -> Labelling:
    """Label the files of a known data set by class folder and name, and by its official lists if `paths` hold them."""
    lists = official.find_official(dataset, paths)
    if lists is None and annotations is not None:
        raise InputError(
            f"--annotations {annotations}: no official lists of {dataset} there; expected {official.expected_files(dataset)}."
        )
    classes = lists.classes if lists else datasets.class_list(dataset)
    if not classes:
        raise InputError(
            f"--dataset {dataset} takes its class list from the official csv files, and none was found next to {videos}. Give them with --annotations PATH."
        )
    listed, num_folds = (lists.videos, lists.num_folds) if lists else ((), 1)
    by_folded = {datasets.folded_class(name): name for name in classes}
    labels: dict[str, VideoLabel | str] = {}
    present: set[int | None] = set()  # indices in `listed`
    extra: defaultdict[str, list[str]] = defaultdict(list)
    other_class: list[str] = []
    for file in files:
        # The class: the innermost folder that is one, else the file name, else the lists.
        names = (by_folded.get(datasets.folded_class(folder)) for folder in reversed(file.folders))
        class_name = next(filter(None, names), "") or datasets.class_of_name(dataset, file.stem, classes)
        index = lists.find(class_name, file.stem) if lists else None
        entry = None if index is None else listed[index]
        if entry is not None and class_name and entry.class_name not in ("", class_name):
            other_class.append(file.path)
        class_name = class_name or (entry.class_name if entry else "")
        if not class_name:
            hint = ", and the lists do not label it" if lists else ""
            labels[file.path] = f"class unknown: no folder of the path is a class of {dataset}{hint}"
            continue
        # The subsets: from the lists; without lists, and for Kinetics videos that none names, from folders of a subset.
        if entry is not None:
            present.add(index)
            subsets = entry.subsets
        else:
            in_folders = map(datasets.subset_of_folder, file.folders if dataset in KINETICS or lists is None else ())
            subsets = (next(filter(None, in_folders), ""),) * num_folds
            if lists:
                extra[class_name].append(file.path)
        labels[file.path] = VideoLabel(class_name, datasets.group_of(dataset, class_name, file.stem), subsets)
    # Without any subset there are no folds.
    if not any(any(label.subsets) for label in labels.values() if isinstance(label, VideoLabel)):
        num_folds = 0
        labels = {p: replace(each, subsets=()) if isinstance(each, VideoLabel) else each for p, each in labels.items()}
    absent = ((video.class_name, video.stem) for index, video in enumerate(listed) if index not in present)
    missing = count_missing((video.class_name for video in listed), absent)
    unlisted = sorted(path for group in extra.values() for path in group)
    notes = tuple(_notes_on_lists(dataset, lists, unlisted, other_class, num_folds))
    return Labelling(classes, labels, num_folds, missing, count_extra(extra), notes)


def _notes_on_lists(
    dataset: str, lists: OfficialLists | None, unlisted: list[str], other_class: list[str], num_folds: int
) -> Iterator[str]:
    if lists is not None:
        folds = f"{lists.num_folds} fold{'s' if lists.num_folds > 1 else ''}"
        yield f"official lists: {lists.source} ({folds}, {len(lists.videos)} videos)"
        yield from lists.notes
    if unlisted:
        yield f"{len(unlisted)} videos are in no official list: {some(unlisted)}"
    if other_class:
        yield f"{len(other_class)} videos are in another class folder than the lists say; the folder counts: {some(other_class)}"
    if not num_folds and lists is not None:
        yield "the official lists name none of the videos: every video counts as train"
    elif not num_folds:
        expected = official.expected_files(dataset)
        yield (
            "no official split lists found: every video counts as train "
            f"(--annotations PATH names their folder; expected {expected})"
        )


def count_extra(paths: Mapping[str, list[str]]) -> tuple[Extra, ...]:
    return tuple(Extra(name, len(group), tuple(sorted(group)[:_NUM_EXAMPLES])) for name, group in sorted(paths.items()))


def count_missing(listed: Iterable[str], absent: Iterable[tuple[str, str]]) -> tuple[Missing, ...]:
    """listed: the class of every listed video. absent: class and name of those that are not in the folder."""
    num_listed = Counter(listed)
    names: defaultdict[str, list[str]] = defaultdict(list)
    for class_name, name in absent:
        names[class_name].append(name)
    return tuple(
        Missing(name, num_listed[name], len(group), tuple(sorted(group)[:_NUM_EXAMPLES]))
        for name, group in sorted(names.items())
    )
