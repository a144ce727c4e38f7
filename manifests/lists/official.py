"""Read the official lists of the known data sets: which videos there are, their classes, and their subset in every fold.

Sources of the forms: UCF101TrainTestSplits-RecognitionTask.zip, test_train_splits.rar (HMDB51), the Kinetics csv files.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from manifests.datasets import KINETICS, KINETICS_NAME, SUBSET_NAMES, class_list, clean_class, subset_of_folder
from manifests.records import InputError

HMDB_FILE = re.compile(r"^(?P<class>.+)_test_split(?P<fold>[123])\.txt$")
_HMDB_FLAGS = {"1": "train", "2": "test", "0": "unused"}
# Folders below a place that may hold its official lists.
_FOLDERS: dict[str, tuple[str, ...]] = {name: (name, "kinetics") for name in KINETICS}
_FOLDERS["ucf101"] = ("ucf101", "ucfTrainTestlist", "ucfTrainTestlist/ucfTrainTestlist")
_FOLDERS["hmdb51"] = ("hmdb51", "testTrainMulti_7030_splits", "hmdb51/testTrainMulti_7030_splits")
LIST_FOLDERS = frozenset(part for paths in _FOLDERS.values() for path in paths for part in path.split("/"))


class OtherKineticsError(InputError):
    """The lists are of another Kinetics than the requested one: it has `num_classes` classes."""

    def __init__(self, message: str, num_classes: int) -> None:
        super().__init__(message)
        self.num_classes = num_classes


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """A video in official lists."""

    class_name: str
    stem: str  # file name without extension
    subsets: tuple[str, ...]  # one per fold


@dataclass(frozen=True, slots=True)
class OfficialLists:
    """The content of a data set's official lists."""

    source: str
    classes: tuple[str, ...]  # line number = label
    videos: tuple[ListedVideo, ...]
    index: dict[str, int]
    """Every possible name of a video file -> its index in `videos`: `class/stem` in lower case; for Kinetics the stems
    `<id>_<start>_<end>` and `<id>`, with case."""
    num_folds: int

    def find(self, class_name: str, stem: str) -> int | None:
        """Find the index of a video file in `videos`; None if no list names it."""
        for name in (f"{class_name}/{stem}".lower(), stem):
            if (place := self.index.get(name)) is not None:
                return place
        match = KINETICS_NAME.match(stem)
        return self.index.get(match["id"]) if match else None


def find_official(dataset: str, places: list[Path]) -> OfficialLists | None:
    """Read the official lists in the first of the places that has them; None if there are none.

    A place is a folder (its usual subfolders are searched too) or, for Kinetics, a csv file.
    """
    readers = {"ucf101": read_ucf101, "hmdb51": read_hmdb51}
    for place in places:
        if dataset in KINETICS and place.is_file():
            return read_kinetics(dataset, [place])
        for folder in (place, *(place / path for path in _FOLDERS.get(dataset, ()))):
            if lists := [entry for entry in _entries(folder) if _is_list(dataset, entry)]:
                return readers[dataset](folder) if dataset in readers else read_kinetics(dataset, lists)
    return None


def _is_list(dataset: str, file: Path) -> bool:
    if dataset == "ucf101":
        return file.name == "trainlist01.txt" and file.is_file()
    if dataset == "hmdb51":
        return HMDB_FILE.match(file.name) is not None
    return dataset in KINETICS and is_kinetics_csv(file)


def expected_files(dataset: str) -> str:
    """The names of a data set's official annotation files, for messages."""
    names = {
        "ucf101": "trainlist01.txt and testlist01.txt (UCF101TrainTestSplits-RecognitionTask.zip)",
        "hmdb51": "files like wave_test_split1.txt (test_train_splits.rar)",
    }
    return names.get(dataset, "csv files with the columns label,youtube_id,time_start,time_end,split")


def read_ucf101(folder: Path) -> OfficialLists:
    """Read trainlist0N.txt (`Class/v_Class_g08_c01.avi 1`), testlist0N.txt (no number) and, if present, classInd.txt (`1 Class`)."""
    classes = class_list("ucf101")
    if (folder / "classInd.txt").is_file():
        numbered = [line.split(None, 1) for line in _lines(folder / "classInd.txt")]
        if [entry[0] for entry in numbered] != [str(number) for number in range(1, len(numbered) + 1)]:
            raise InputError(
                f"{folder / 'classInd.txt'}: expected lines `1 FirstClass`, `2 SecondClass`, ... counted from 1."
            )
        classes = tuple(entry[1].strip() for entry in numbered)
    # The lists spell some classes otherwise than classInd.txt (HandStandPushups): case does not count.
    official = {name.lower(): name for name in classes}
    num_folds = max(fold for fold in (1, 2, 3) if (folder / f"trainlist0{fold}.txt").is_file())
    subsets: dict[tuple[str, str], list[str]] = {}
    for fold, subset in itertools.product(range(num_folds), ("train", "test")):
        file = folder / f"{subset}list0{fold + 1}.txt"
        if not file.is_file():
            raise InputError(
                f"{file} is missing; every fold needs its train and test list. Unpack the official zip again."
            )
        # A train list has the label behind the name; the class list gives it too.
        for number, line in enumerate(_lines(file), 1):
            class_name, _, file_name = re.sub(r"\s+\d+$", "", line).rpartition("/")
            name = re.sub(r"\.\w+$", "", file_name)
            if class_name.lower() not in official or not name:
                raise InputError(
                    f"{file}, entry {number}: {line!r}; expected `Class/v_Class_g01_c01.avi` with a class of classInd.txt."
                )
            subsets.setdefault((official[class_name.lower()], name), [""] * num_folds)[fold] = subset
    return _official(str(folder), classes, subsets, num_folds)


def read_hmdb51(folder: Path) -> OfficialLists:
    """Read `<class>_test_split<fold>.txt` with lines `file.avi flag`: 1 train, 2 test, 0 in neither ("unused")."""
    files = {match.groups(): entry for entry in _entries(folder) if (match := HMDB_FILE.match(entry.name))}
    num_folds = max(int(fold) for _, fold in files)
    every_file = itertools.product({name for name, _ in files}, map(str, range(1, num_folds + 1)))
    for class_name, fold in sorted(set(every_file) - set(files)):
        raise InputError(
            f"{folder}: {class_name}_test_split{fold}.txt is missing though other lists of fold {fold} exist. Unpack the official archive again."
        )
    official = {name.lower(): name for name in class_list("hmdb51")}
    subsets: dict[tuple[str, str], list[str]] = {}
    for (class_name, fold), file in sorted(files.items()):
        if class_name.lower() not in official:
            raise InputError(f"{file}: {class_name!r} is not a class of HMDB51.")
        for number, line in enumerate(_lines(file), 1):
            name, _, flag = line.rpartition(" ")
            if flag not in _HMDB_FLAGS or not name.strip():
                raise InputError(f"{file}, entry {number}: {line!r}; expected `file.avi 0`, `1` or `2`.")
            stem = name.strip().removesuffix(".avi")
            names = official[class_name.lower()], stem
            subsets.setdefault(names, [""] * num_folds)[int(fold) - 1] = _HMDB_FLAGS[flag]
    return _official(str(folder), class_list("hmdb51"), subsets, num_folds)


def is_kinetics_csv(file: Path) -> bool:
    """Whether a file is a Kinetics annotation csv: its header names `youtube_id`."""
    if file.suffix.lower() != ".csv" or not file.is_file():
        return False
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        return "youtube_id" in lines.readline()


def read_kinetics(dataset: str, files: list[Path]) -> OfficialLists:
    """Read Kinetics csv files: label (absent if withheld), youtube_id, time_start, time_end, split.

    Kinetics-400 has its fixed class list; the others take theirs from the csv (sorted cleaned labels).
    """
    videos: dict[tuple[str, str], ListedVideo] = {}
    for file in files:
        # One file per subset, or one for all: the column `split` counts before the name of the file.
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            absent = {"youtube_id", "time_start", "time_end"} - set(rows.fieldnames or ())
            if absent:
                raise InputError(f"{file}: no column {', '.join(sorted(absent))}; expected {expected_files(dataset)}.")
            for row in rows:
                subset = SUBSET_NAMES.get((row.get("split") or "").lower()) or subset_of_folder(file.stem) or "train"
                try:
                    span = f"{round(float(row['time_start'])):06d}_{round(float(row['time_end'])):06d}"
                except (TypeError, ValueError):
                    raise InputError(
                        f"{file}, line {rows.line_num}: time_start {row['time_start']!r}, time_end {row['time_end']!r}; expected seconds."
                    ) from None
                name = (row["youtube_id"], span)
                if name not in videos or not videos[name].class_name:  # lists may come twice, once without labels
                    label = clean_class(row.get("label") or "")
                    videos[name] = ListedVideo(label, f"{row['youtube_id']}_{span}", (subset,))
    found = tuple(sorted({video.class_name for video in videos.values()} - {""}))
    classes = class_list(dataset) or found
    if strange := sorted(set(found) - set(classes)):
        raise OtherKineticsError(
            f"{files[0].parent}: {len(strange)} labels are not among the {len(classes)} classes of {dataset}: {', '.join(strange[:5])}. "
            f"For another Kinetics use --dataset kinetics600 or kinetics700.",
            len(found),
        )
    if not classes:
        raise InputError(f"{', '.join(map(str, files))}: no labels. {dataset} takes its class list from the train csv.")
    index = {f"{youtube_id}_{span}": place for place, (youtube_id, span) in enumerate(videos)}
    # Of a YouTube video that was cut twice, only a name with times says which clip it is.
    num_clips = Counter(youtube_id for youtube_id, _ in videos)
    index |= {youtube_id: place for place, (youtube_id, _) in enumerate(videos) if num_clips[youtube_id] == 1}
    return OfficialLists(", ".join(file.name for file in files), classes, tuple(videos.values()), index, 1)


def _official(
    source: str, classes: tuple[str, ...], subsets: dict[tuple[str, str], list[str]], num_folds: int
) -> OfficialLists:
    videos = tuple(ListedVideo(name, stem, tuple(entry)) for (name, stem), entry in subsets.items())
    index = {f"{video.class_name}/{video.stem}".lower(): place for place, video in enumerate(videos)}
    return OfficialLists(source, classes, videos, index, num_folds)


def _entries(folder: Path) -> list[Path]:
    """List the entries of a folder, sorted; empty if it is not a readable folder (the caller only tries it)."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _lines(file: Path) -> list[str]:
    """Read the lines that are not blank: official files end in blank lines, some with CRLF."""
    try:
        return [line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not a text file in UTF-8 ({error}). Unpack the official archive again.") from None
