"""Find the official lists of the known data sets, and the files beside them that no reader takes.

Sources of the forms: UCF101TrainTestSplits-RecognitionTask.zip, test_train_splits.rar (HMDB51), the Kinetics csv files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from manifests.console import plural
from manifests.datasets import KINETICS
from manifests.lists import kinetics
from manifests.lists.kinetics import is_kinetics_csv, read_kinetics
from manifests.lists.listed import OfficialLists
from manifests.lists.ucf_hmdb import HMDB_FILE, read_hmdb51, read_ucf101

# Folders below a place that may hold its official lists.
_FOLDERS: dict[str, tuple[str, ...]] = {
    name: (name, "kinetics", *(f"{form}{name[8:]}" for form in ("k", "kinetics-", "kinetics_")), f"{name}/annotations")
    for name in KINETICS
}
_FOLDERS["ucf101"] = ("ucf101", "ucfTrainTestlist", "ucfTrainTestlist/ucfTrainTestlist")
_FOLDERS["hmdb51"] = ("hmdb51", "testTrainMulti_7030_splits", "hmdb51/testTrainMulti_7030_splits")
LIST_FOLDERS = frozenset(part for paths in _FOLDERS.values() for path in paths for part in path.split("/"))
ANNOTATIONS = "annotations"
_MAX_FOLDERS = 200  # that are searched below a folder of annotations
_ARCHIVES = ("zip", "rar", "gz", "tgz", "tar", "7z")
_TABLES = ("csv", "tsv")
_OTHERS = ("txt", "json", "jsonl", "xml", "mat", "pkl", "npy", "yaml", "yml", "parquet", "xls", "xlsx")
LIST_ENDINGS = tuple(f".{extension}" for extension in (*_ARCHIVES, *_TABLES, *_OTHERS))
_LIST_WORDS = re.compile(r"train|test|val|split|classind|annot", re.IGNORECASE)


def find_official(dataset: str, places: list[Path]) -> OfficialLists | None:
    """Read the official lists in the first of the places that has them; None if there are none.

    A place is a folder (its usual subfolders are searched too, all of a folder of annotations) or, for Kinetics, a csv file.
    """
    readers = {"ucf101": read_ucf101, "hmdb51": read_hmdb51}
    for place in places:
        if dataset in KINETICS and place.is_file():
            return read_kinetics(dataset, [place])
        for folder in _folders(dataset, place, is_named=len(places) == 1):
            if lists := [entry for entry in _entries(folder) if _is_list(dataset, entry)]:
                return readers[dataset](folder) if dataset in readers else read_kinetics(dataset, lists)
    return None


def _folders(dataset: str, place: Path, *, is_named: bool) -> Iterator[Path]:
    """The folders of a place that may hold lists. is_named: the user named the place."""
    yield place
    yield from (place / path for path in _FOLDERS.get(dataset, ()))
    # Lists of several Kinetics have one form: their folder must say which they are.
    if dataset in KINETICS or not (is_named or place.name == ANNOTATIONS):
        return
    level = [place]
    for _ in range(_MAX_FOLDERS):
        if not level:
            return
        folder = level.pop(0)
        yield folder
        level += [entry for entry in _entries(folder) if entry.is_dir() and not entry.is_symlink()]


def unread_files(dataset: str, places: list[Path], lists: OfficialLists | None) -> list[str]:
    """Notes on files that look like lists and were not read: in the folder of the lists, else in every place."""
    notes = []
    for folder in dict.fromkeys(file.parent for file in lists.files) if lists else places:
        is_named = lists is not None or len(places) == 1 or folder.name == ANNOTATIONS
        read = lists.files if lists else ()
        found = [
            f"{file.name} ({reason})"
            for file in _entries(folder)
            if file not in read
            and (is_named or _LIST_WORDS.search(file.name))
            and (reason := _why_unread(dataset, file))
        ]
        if found:
            shown = ", ".join(found[:3]) + ", ..." * (len(found) > 3)
            notes.append(
                f"{plural(len(found), 'file')} in {folder.name}/ {'was' if len(found) == 1 else 'were'} not read as a list of {dataset}: {shown}"
            )
    return notes


def _why_unread(dataset: str, file: Path) -> str:
    """Why a file is read as no list; "" if it does not look like one."""
    extension = file.suffix.lower().lstrip(".")
    if file.name.startswith(".") or not file.name.lower().endswith(LIST_ENDINGS) or not file.is_file():
        return ""
    if re.match("readme|license", file.name, re.IGNORECASE):
        return ""
    others = [other for other in ("ucf101", "hmdb51", "kinetics400") if other != dataset and _is_list(other, file)]
    if others:
        return f"a list of {others[0].removesuffix('400')}"
    if (
        dataset == "ucf101"
        and file.name != file.name.lower()
        and re.fullmatch("(train|test)list0[123].txt", file.name.lower())
    ):
        return f"rename it {file.name.lower()}"
    if re.search(r"rawframes|videos|split_\d", file.name):
        return "a list of mmaction; `tgprep split --import` reads it"
    if extension in _ARCHIVES:
        return "an archive; unpack it"
    if extension in _TABLES:
        return "not Kinetics' columns; `--dataset csv --annotations FILE` reads tables with path and label"
    return (
        f"not a name that is known; expected {expected_files(dataset)}"
        if extension == "txt"
        else f".{extension} is not read"
    )


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
    return names.get(dataset, kinetics.FORM if dataset in KINETICS else "a folder for each class, without lists")


def _entries(folder: Path) -> list[Path]:
    """List the entries of a folder, sorted; empty if it is not a readable folder (the caller only tries it)."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
