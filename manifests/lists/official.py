"""Find the official lists of the known data sets, and the files beside them that no reader takes.

Sources of the forms: UCF101TrainTestSplits-RecognitionTask.zip, test_train_splits.rar (HMDB51), the Kinetics csv files.
"""

from __future__ import annotations

from pathlib import Path

from manifests.datasets import KINETICS
from manifests.lists import kinetics
from manifests.lists.kinetics import is_kinetics_csv, read_kinetics
from manifests.lists.listed import OfficialLists
from manifests.lists.ucf_hmdb import HMDB_FILE, read_hmdb51, read_ucf101

# Folders below a place that may hold its official lists.
_FOLDERS: dict[str, tuple[str, ...]] = {name: (name, "kinetics") for name in KINETICS}
_FOLDERS["ucf101"] = ("ucf101", "ucfTrainTestlist", "ucfTrainTestlist/ucfTrainTestlist")
_FOLDERS["hmdb51"] = ("hmdb51", "testTrainMulti_7030_splits", "hmdb51/testTrainMulti_7030_splits")
LIST_FOLDERS = frozenset(part for paths in _FOLDERS.values() for path in paths for part in path.split("/"))


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
    return names.get(dataset, kinetics.FORM)


def _entries(folder: Path) -> list[Path]:
    """List the entries of a folder, sorted; empty if it is not a readable folder (the caller only tries it)."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
