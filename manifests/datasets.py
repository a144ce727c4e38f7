"""The known data sets: class lists, official annotation files, and rules for names, labels, groups and subsets.

Sources of the formats: UCF101TrainTestSplits-RecognitionTask.zip, test_train_splits.rar (HMDB51), the Kinetics csv files.
"""

from __future__ import annotations

import csv
import functools
import itertools
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from manifests.records import InputError

KINETICS = ("kinetics400", "kinetics600", "kinetics700")
OFFICIAL = ("ucf101", "hmdb51", *KINETICS)  # data sets with published split lists
DATASETS = (*OFFICIAL, "folder", "csv")

UCF_NAME = re.compile(r"^v_(?P<class>[A-Za-z]+)_g\d{2,}_c\d{2,}$")
# The end of a name of HMDB51: body part, camera, persons, view, quality, number.
HMDB_ENDING = re.compile(r"_[a-z]_[cn]m_np\d+_[a-z]{2}_[a-z]{3}_\d+$")
KINETICS_NAME = re.compile(r"^(?P<id>[A-Za-z0-9_-]{11})(?:_(?P<start>\d{6})_(?P<end>\d{6}))?$")
HMDB_FILE = re.compile(r"^(?P<class>.+)_test_split(?P<fold>[123])\.txt$")
_HMDB_FLAGS = {"1": "train", "2": "test", "0": "unused"}
_GROUP = re.compile(r"(?:^|_)(g\d{2,})(?=_|$)")
# Folders below a place that may hold its official lists.
_FOLDERS: dict[str, tuple[str, ...]] = {name: (name, "kinetics") for name in KINETICS}
_FOLDERS["ucf101"] = ("ucf101", "ucfTrainTestlist", "ucfTrainTestlist/ucfTrainTestlist")
_FOLDERS["hmdb51"] = ("hmdb51", "testTrainMulti_7030_splits", "hmdb51/testTrainMulti_7030_splits")
LIST_FOLDERS = frozenset(part for paths in _FOLDERS.values() for path in paths for part in path.split("/"))
_SUBSET_NAMES = dict.fromkeys(("train", "training"), "train")
_SUBSET_NAMES |= dict.fromkeys(("val", "validate", "valid", "validation"), "val")
_SUBSET_NAMES |= dict.fromkeys(("test", "testing"), "test")


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


@functools.cache
def class_list(dataset: str) -> tuple[str, ...]:
    """The official class names; line number = label. Empty if the data set has its own (Kinetics-600, folder, csv)."""
    file = resources.files("manifests") / "classes" / f"{dataset}.txt"
    return tuple(file.read_text("utf-8").split("\n")[:-1]) if file.is_file() else ()


def nfc(name: str) -> str:
    """Convert a name to composed Unicode (NFC), for comparisons: a Mac writes `ü` as two characters, `u` and its dots."""
    return unicodedata.normalize("NFC", name)


def clean_class(name: str) -> str:
    """Convert a Kinetics label to a folder and class name: no double quotes, `_` for spaces."""
    return name.strip().replace('"', "").replace(" ", "_")


@functools.lru_cache(maxsize=65536)
def folded_class(name: str) -> str:
    """Normalise a class name for comparison (`HandStandPushups` equals `HandstandPushups`)."""
    return nfc(clean_class(name)).lower()


@functools.lru_cache(maxsize=65536)
def subset_of_folder(name: str) -> str:
    """Detect the subset in a folder's name (`train`, `videos_val`, `val_256`); "" if there is none."""
    parts = re.split(r"[_\-. ]+", name.lower())
    found = {_SUBSET_NAMES[part] for part in parts if part in _SUBSET_NAMES}
    others = [part for part in parts if part not in _SUBSET_NAMES]
    known = re.compile(r"videos?|frames?|clips?|data|compress|k[467]00|kinetics\d*|[467]00|\d{3}(?:p|x\d+)?")
    return found.pop() if len(found) == 1 and all(known.fullmatch(part) for part in others) else ""


def class_of_name(dataset: str, stem: str, classes: tuple[str, ...]) -> str:
    """Detect the class in a file name (UCF101, HMDB51), for copies without class folders; "" if there is none."""
    if dataset == "ucf101" and (match := UCF_NAME.match(stem)):
        lower = match["class"].lower()
        return next((name for name in classes if name.lower() == lower), "")
    if dataset == "hmdb51" and (match := HMDB_ENDING.search(stem)):
        head = stem[: match.start()].lower()
        fitting = [name for name in classes if head == name or head.endswith(f"_{name}")]
        return max(fitting, key=len, default="")
    return ""


def name_fits(dataset: str, stem: str) -> bool:
    """Whether a file name has the data set's form."""
    form = {"ucf101": UCF_NAME, "hmdb51": HMDB_ENDING}.get(dataset, KINETICS_NAME)
    return form.search(stem) is not None


def size_fits(dataset: str, num_classes: int) -> bool:
    """Whether a Kinetics may have that number of classes, which alone distinguishes Kinetics-600 from Kinetics-700."""
    if dataset not in KINETICS or class_list(dataset):
        return True
    smaller = KINETICS[KINETICS.index(dataset) - 1]
    return int(smaller.removeprefix("kinetics")) < num_classes <= int(dataset.removeprefix("kinetics"))


def group_of(dataset: str, class_name: str, stem: str) -> str:
    """Detect the source of a clip: `g07` of `_g07_` in a name; for HMDB51 the name before the class. "" if there is none."""
    if dataset == "hmdb51":
        match = HMDB_ENDING.search(stem)
        head = stem[: match.start()] if match else ""
        ending = f"_{class_name}".lower()
        return head[: -len(ending)] if head.lower().endswith(ending) else ""
    if dataset in ("ucf101", "folder") and (match := _GROUP.search(stem)):
        return match[1]
    return ""


def groups_span_classes(dataset: str) -> bool:
    """Whether a group name means one source in all classes (an actor, a film), or another source in each class.

    UCF101 numbers g01 to g25 within each class; HMDB51 names the film or clip; a csv's group is the user's own name.
    """
    return dataset in ("hmdb51", "csv")


def tested_subset(dataset: str, subsets: set[str]) -> str:
    """The official subset for reported figures: `test`, else `val`; always `val` for Kinetics (its test labels are secret)."""
    if dataset in KINETICS and "val" in subsets:
        return "val"
    return "test" if "test" in subsets else "val"


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
                subset = _SUBSET_NAMES.get((row.get("split") or "").lower()) or subset_of_folder(file.stem) or "train"
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
