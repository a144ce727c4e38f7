"""Class, group and official subset of each file by the rules of a data set, and what the lists name besides."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from manifests import datasets
from manifests.console import plural
from manifests.datasets import KINETICS
from manifests.files import Location
from manifests.lists import official
from manifests.lists.kinetics import OtherKineticsError, is_kinetics_csv
from manifests.lists.listed import OfficialLists
from manifests.lists.official import unread_files
from manifests.records import InputError
from tgprep.scan.files import VideoFile, some
from tgprep.scan.keys import class_folder

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
    start_seconds: float = -1.0  # as SourceVideo has them
    end_seconds: float = -1.0


@dataclass(frozen=True, slots=True)
class Labelling:
    """The labels of all files, and what the user should know about them."""

    classes: tuple[str, ...]
    labels: Mapping[str, VideoLabel | str]  # by path; text is the reason to skip the file
    num_folds: int
    missing: tuple[Missing, ...]
    extra: tuple[Extra, ...]
    notes: tuple[str, ...]
    segments: Mapping[str, tuple[VideoLabel, ...]] = field(
        default_factory=dict
    )  # by path; such a file is not in `labels`


def guess_dataset(files: list[VideoFile], paths: list[Path], annotations: Path | None) -> str:
    """Guess the data set: one that at least two thirds of the files fit by class and by name, else `csv` or `folder`."""
    if annotations is not None and annotations.is_file() and not is_kinetics_csv(annotations):
        return "csv"
    num_fitting: dict[str, int] = {}
    for dataset in datasets.OFFICIAL:
        if count := _num_fitting(dataset, files, paths, annotations is not None):
            num_fitting[dataset] = count
            if dataset not in KINETICS:
                return dataset
    # The Kinetics share most classes: take the one that labels most files, the smallest of equals.
    return max(num_fitting, key=lambda dataset: num_fitting[dataset], default="folder")


def _num_fitting(dataset: str, files: list[VideoFile], paths: list[Path], lists_are_given: bool) -> int:
    """Number of files that fit a data set by class and by name; 0 if less than two thirds of all.

    lists_are_given: whether the user named the place of the lists.
    """
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
    # Any name of eleven letters has the form of an id: the lists or the times behind it must say that it is one.
    if dataset in KINETICS and not (lists and lists_are_given):
        timed = [file for file in named if datasets.has_times(file.stem)]
        if len(timed) * 2 < len(named) and not (lists and any(lists.find("", it.stem) is not None for it in named)):
            return 0
    folders = _class_folders(classes)
    num_fitting = sum(
        any(datasets.folded_class(folder) in folders for folder in file.folders)
        or datasets.class_of_name(dataset, file.stem, classes) != ""
        for file in named
    )
    # Kinetics videos without class folders fit by the ids in the lists.
    if lists and dataset in KINETICS and any(not file.folders for file in named):
        num_fitting = max(num_fitting, sum(lists.find("", file.stem) is not None for file in named))
    return num_fitting if num_fitting * 3 >= len(files) * 2 else 0


def _class_folders(classes: Iterable[str]) -> dict[str, str]:
    """The class of a folded folder name: the class's name, or its form in keys, which the folders of an export have."""
    return {class_folder(name).lower(): name for name in classes} | {
        datasets.folded_class(name): name for name in classes
    }


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
    pairs = _classes_and_places(dataset, files, classes, lists)
    in_its_class = {place for name, place in pairs if place is not None and name == listed[place].class_name}
    num_clips_of = Counter(video.stem[:11] for video in listed if dataset in KINETICS)
    unlabelled = ", and the lists do not label it" if lists else ""
    labels: dict[str, VideoLabel | str] = {}
    extra: defaultdict[str, list[str]] = defaultdict(list)
    other_class: list[str] = []
    unsettled: defaultdict[str, set[str]] = defaultdict(set)  # classes of each video that is in no list under its class
    for file, (name, place) in zip(files, pairs, strict=True):
        entry = None if place is None else listed[place]
        if entry is not None and name and entry.class_name not in ("", name):
            if place in in_its_class:
                labels[file.path] = f"listed in class {entry.class_name}, and in the folder of that class too"
                continue
            other_class.append(f"{file.path} (listed: {entry.class_name})")
        name = name or (entry.class_name if entry else "")
        if not name:
            num_clips = num_clips_of[file.stem[:11]]
            hint = f", and the lists hold {num_clips} clips of this id" if num_clips > 1 else unlabelled
            labels[file.path] = f"class unknown: no folder of the path is a class of {dataset}{hint}"
            continue
        # The subsets: from the lists; without lists, and for Kinetics videos of which none says it, from folders of a subset.
        in_folders = map(datasets.subset_of_folder, file.folders if dataset in KINETICS or lists is None else ())
        subsets = entry.subsets if entry and any(entry.subsets) else (next(filter(None, in_folders), ""),) * num_folds
        if entry is None and lists:
            extra[name].append(file.path)
        if dataset in KINETICS and (entry is None or entry.class_name != name):
            unsettled[file.stem].add(name)
        labels[file.path] = VideoLabel(name, datasets.group_of(dataset, name, file.stem), subsets)
    if not any(any(label.subsets) for label in labels.values() if isinstance(label, VideoLabel)):
        num_folds = 0  # without any subset there are no folds
        _refuse_silent_lists(lists, pairs, files, annotations)
        labels = {p: replace(each, subsets=()) if isinstance(each, VideoLabel) else each for p, each in labels.items()}
    present = {place for _, place in pairs}
    absent = ((video.class_name, video.stem) for index, video in enumerate(listed) if index not in present)
    missing = count_missing((video.class_name for video in listed), absent)
    unlisted = sorted(path for group in extra.values() for path in group)
    notes = [*_notes_on_lists(dataset, lists, unlisted, other_class, num_folds), *unread_files(dataset, paths, lists)]
    notes += _note_on_folders(files, labels, num_folds)
    double = sorted(f"{stem} ({' and '.join(sorted(names))})" for stem, names in unsettled.items() if len(names) > 1)
    if double:
        notes.append(
            f"{plural(len(double), 'video is', 'videos are')} in several classes, once in each: {some(double)}"
        )
    return Labelling(classes, labels, num_folds, missing, count_extra(extra), tuple(notes))


def _refuse_silent_lists(
    lists: OfficialLists | None,
    pairs: list[tuple[str, int | None]],
    files: list[VideoFile],
    annotations: Location | None,
) -> None:
    """InputError if lists say of no video whether it is train: they name videos without a word, or the given ones name none."""
    if lists is None:
        return
    if any(place is not None for _, place in pairs):
        raise InputError(
            f"{lists.source}: these lists name videos, but neither a column `split` nor the name of a file (train.csv, val.csv) says which are train. "
            "Add the column, or name the files so."
        )
    if annotations is not None and lists.videos:
        example = "/".join(filter(None, (lists.videos[0].class_name, lists.videos[0].stem)))
        raise InputError(
            f"--annotations {annotations}: the official lists name none of the {plural(len(files), 'video')}: they name videos such as {example}, "
            f"VIDEOS holds {files[0].path}. Give the lists of these videos, or leave --annotations out."
        )


def _note_on_folders(files: list[VideoFile], labels: Mapping[str, VideoLabel | str], num_folds: int) -> list[str]:
    """A note on videos in the folder of another subset than the lists say."""
    other = []
    for file in files if num_folds == 1 else ():
        label, subset = labels[file.path], next(filter(None, map(datasets.subset_of_folder, file.folders)), "")
        if isinstance(label, VideoLabel) and subset and subset not in label.subsets:
            other.append(f"{file.path} (listed: {label.subsets[0] or 'nowhere'})")
    what = (
        plural(len(other), "video is", "videos are")
        + " in a folder of another subset than the lists say; the lists count"
    )
    return [f"{what}: {some(sorted(other))}"] if other else []


def _classes_and_places(
    dataset: str, files: list[VideoFile], classes: tuple[str, ...], lists: OfficialLists | None
) -> list[tuple[str, int | None]]:
    """The class of each file, from the innermost folder that is one, else from its name; and its place in the lists."""
    class_folders = _class_folders(classes)
    pairs = []
    for file in files:
        names = (class_folders.get(datasets.folded_class(folder)) for folder in reversed(file.folders))
        name = next(filter(None, names), "") or datasets.class_of_name(dataset, file.stem, classes)
        pairs.append((name, lists.find(name, file.stem) if lists else None))
    return pairs


def _notes_on_lists(
    dataset: str, lists: OfficialLists | None, unlisted: list[str], other_class: list[str], num_folds: int
) -> Iterator[str]:
    if lists is not None:
        folds = f"{lists.num_folds} fold{'s' if lists.num_folds > 1 else ''}"
        yield f"official lists: {lists.source} ({folds}, {plural(len(lists.videos), 'video')})"
        yield from lists.notes
    if unlisted:
        yield f"{plural(len(unlisted), 'video is', 'videos are')} in no official list: {some(unlisted)}"
    if other_class:
        yield f"{plural(len(other_class), 'video is', 'videos are')} in another class folder than the lists say; the folder counts: {some(other_class)}"
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
