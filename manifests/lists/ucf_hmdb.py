"""Read the official lists of UCF101 and HMDB51: text files, one line a video, three folds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from manifests.datasets import VIDEO_EXTENSIONS, class_list, nfc
from manifests.lists.labels import number_of
from manifests.lists.listed import ListedVideo, OfficialLists, SubsetsOfVideos, Tally
from manifests.lists.text import read_lines, shown
from manifests.records import InputError

HMDB_FILE = re.compile(r"^(?P<class>.+)_test_split(?P<fold>[123])\.txt$")
_HMDB_FLAGS = {1: "train", 2: "test", 0: "unused"}
_VIDEO_ENDING = re.compile(rf"\.(?:{'|'.join(sorted(VIDEO_EXTENSIONS))})$", re.IGNORECASE)


def read_ucf101(folder: Path) -> OfficialLists:
    """Read trainlist0N.txt (`Class/v_Class_g08_c01.avi 1`), testlist0N.txt (no number) and, if present, classInd.txt (`1 Class`)."""
    index = folder / "classInd.txt"
    classes = read_class_index(index) if index.is_file() else class_list("ucf101")
    # The lists spell some classes otherwise than classInd.txt (HandStandPushups): case does not count.
    by_name = {nfc(name).lower(): name for name in classes}
    if len(by_name) < len(classes):
        _refuse_twins([nfc(name).lower() for name in classes], index)
    num_folds = max(fold for fold in (1, 2, 3) if (folder / f"trainlist0{fold}.txt").is_file())
    lists = _Lists(num_folds)
    for fold, subset in itertools.product(range(num_folds), ("train", "test")):
        file = folder / f"{subset}list0{fold + 1}.txt"
        if not file.is_file():
            raise InputError(
                f"{file} is missing; every fold needs its train and test list. Unpack the official zip again."
            )
        lists.files.append(file)
        for number, line in read_lines(file):
            name, label = _split_number(line)
            folder_name, _, file_name = name.replace("\\", "/").rpartition("/")
            class_name = by_name.get(nfc(folder_name.rpartition("/")[2]).lower(), "")
            stem = _VIDEO_ENDING.sub("", file_name)
            if not class_name or not stem:
                raise InputError(
                    f"{file}, line {number}: {shown(line)}; expected `Class/v_Class_g01_c01.avi` with a class of classInd.txt."
                )
            # A train list has the label behind the name; the class list gives it too.
            if label is not None and label != classes.index(class_name) + 1:
                message = "{label|labels} of the train lists not as in the class list (from 1); the class names count"
                lists.tally.add(message, f"{file.name} line {number}: {class_name} {label:g}")
            lists.add(class_name, stem, fold, subset, f"{file.name} line {number}")
    lists.files += [index] * index.is_file()
    return lists.official(folder, classes)


def read_hmdb51(folder: Path) -> OfficialLists:
    """Read `<class>_test_split<fold>.txt` with lines `file.avi flag`: 1 train, 2 test, 0 in neither ("unused")."""
    files = {match.groups(): entry for entry in sorted(folder.iterdir()) if (match := HMDB_FILE.match(entry.name))}
    num_folds = max(int(fold) for _, fold in files)
    every_file = itertools.product({name for name, _ in files}, map(str, range(1, num_folds + 1)))
    for class_name, fold in sorted(set(every_file) - set(files)):
        raise InputError(
            f"{folder}: {class_name}_test_split{fold}.txt is missing though other lists of fold {fold} exist. Unpack the official archive again."
        )
    by_name = {name.lower(): name for name in class_list("hmdb51")}
    lists = _Lists(num_folds)
    for (class_name, fold), file in sorted(files.items()):
        if class_name.lower() not in by_name:
            raise InputError(f"{file}: {class_name!r} is not a class of HMDB51.")
        lists.files.append(file)
        for number, line in read_lines(file):
            name, flag = _split_number(line)
            if flag not in _HMDB_FLAGS:
                raise InputError(f"{file}, line {number}: {shown(line)}; expected `file.avi 0`, `1` or `2`.")
            stem = _VIDEO_ENDING.sub("", name)
            where = f"{file.name} line {number}"
            lists.add(by_name[class_name.lower()], stem, int(fold) - 1, _HMDB_FLAGS[int(flag)], where)
    return lists.official(folder, class_list("hmdb51"))


def read_class_index(file: Path) -> tuple[str, ...]:
    """Read a class list `1 FirstClass`, `2 SecondClass`, ... InputError for other numbers, and names that come twice."""
    matches = [re.fullmatch(rf"{place}\s+(.+)", line) for place, (_, line) in enumerate(read_lines(file), 1)]
    names = tuple(match[1] for match in matches if match)
    if len(names) != len(matches) or not names:
        raise InputError(f"{file}: expected lines `1 FirstClass`, `2 SecondClass`, ... counted from 1.")
    _refuse_twins([nfc(name) for name in names], file)
    return names


def _refuse_twins(names: Sequence[str], file: Path) -> None:
    first_place: dict[str, int] = {}
    for place, name in enumerate(names):
        if (first := first_place.setdefault(name, place)) != place:
            raise InputError(f"{file}: classes {first + 1} and {place + 1} have one name, {shown(name)}. Rename one.")


class _Lists:
    """The videos of the lists as they are read."""

    def __init__(self, num_folds: int) -> None:
        self.files: list[Path] = []
        self.tally = Tally()
        self.subsets = SubsetsOfVideos(num_folds, self.tally)
        self.stems: dict[tuple[str, str], str] = {}

    def add(self, class_name: str, stem: str, fold: int, subset: str, where: str) -> None:
        """Add an entry; names that differ in case or in their form of Unicode are one video."""
        name = class_name, nfc(stem).lower()
        self.stems.setdefault(name, stem)
        self.subsets.add(name, fold, subset, where)

    def official(self, folder: Path, classes: tuple[str, ...]) -> OfficialLists:
        """All that was read."""
        videos = tuple(ListedVideo(name[0], stem, self.subsets.of(name)) for name, stem in self.stems.items())
        index = {nfc(f"{video.class_name}/{video.stem}").lower(): place for place, video in enumerate(videos)}
        num_folds = self.subsets.num_folds
        return OfficialLists(str(folder), classes, videos, index, num_folds, tuple(self.files), self.tally.notes())


def _split_number(line: str) -> tuple[str, float | None]:
    """Divide a line into a name and the number behind it; None if there is no number."""
    match = re.fullmatch(r"(.*\S)\s+(\S+)", line)
    number = number_of(match[2]) if match else None
    return (match[1], number) if match and number is not None else (line, None)
