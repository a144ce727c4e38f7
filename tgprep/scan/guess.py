"""Which known data set a folder holds, told from class folders, file names and the lists that lie beside it."""

from __future__ import annotations

from pathlib import Path

from manifests import datasets
from manifests.datasets import KINETICS
from tgprep.scan.files import VideoFile


def guess_dataset(files: list[VideoFile], places: list[Path], annotations: Path | None) -> str:
    """The known data set that at least two thirds of the files fit by class folder and by name, else `csv` or `folder`."""
    if annotations is not None and annotations.is_file() and not datasets.is_kinetics_csv(annotations):
        return "csv"
    found: dict[str, int] = {}
    for dataset in datasets.OFFICIAL:
        if num_fitting := _num_fitting(dataset, files, places):
            found[dataset] = num_fitting
            if dataset not in KINETICS:
                return dataset
    # Kinetics have most classes in common: the one that tells most files is meant, the smallest of equals.
    return max(found, key=lambda dataset: found[dataset], default="folder")


def _num_fitting(dataset: str, files: list[VideoFile], places: list[Path]) -> int:
    """Files that fit a data set by class and by name; 0 where they are less than two thirds of all."""
    named = [file for file in files if datasets.name_fits(dataset, file.stem)]
    if len(named) * 3 < len(files) * 2:
        return 0
    # Lists beside the videos count before ours: a data set in UCF101's form has classes of its own.
    try:
        lists = datasets.find_official(dataset, places)
    except datasets.OtherKineticsError as error:
        if any(datasets.size_fits(other, error.num_classes) for other in KINETICS if other != dataset):
            return 0
        raise
    classes = lists.classes if lists else datasets.class_list(dataset)
    if not datasets.size_fits(dataset, len(classes)):
        return 0
    folded = {datasets.folded_class(name) for name in classes}
    fitting = sum(
        any(datasets.folded_class(folder) in folded for folder in file.folders)
        or datasets.class_of_name(dataset, file.stem, classes) != ""
        for file in named
    )
    if lists and dataset in KINETICS and any(not file.folders for file in named):
        fitting = max(fitting, sum(lists.find("", file.stem) is not None for file in named))
    return fitting if fitting * 3 >= len(files) * 2 else 0
