"""Class and subset by folders: subsets stay subsets, what is beside them is accounted for, and doubtful trees are refused."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from manifests.console import plural
from manifests.records import InputError
from tests.prep.scan.support import fill
from tgprep.scan.scan import Scan, scan

TRAIN_AND_TEST = ("train/walk/a.avi", "train/run/b.avi", "test/walk/c.avi", "test/run/d.avi")


def facts(result: Scan) -> dict[str, tuple[str, str]]:
    """Class and subset of every video that is used."""
    return {video.path: (video.class_name, *video.subsets) for video in result.videos}  # type: ignore[misc]


EXPECTED = {path: (path.split("/")[1], path.split("/")[0]) for path in TRAIN_AND_TEST}


@pytest.mark.parametrize(
    "beside",
    [
        ["demo/walk/u.avi"],
        ["u.avi"],
        ["train/u.avi", "extra/more/deep/v.mp4"],
        ["backup/train/walk/a.avi", "backup/test/walk/c.avi"],
        ["holdout/walk/e.avi", "test_pilot/run/f.avi", "train1/run/f.avi"],
    ],
)
def test_folders_beside_subsets_are_skipped(tmp_path: Path, beside: list[str]) -> None:
    result = scan(fill(tmp_path, *TRAIN_AND_TEST, *beside))
    assert (result.dataset, result.classes, result.num_folds) == ("folder", ("run", "walk"), 1)
    assert facts(result) == EXPECTED
    assert [entry.path for entry in result.skipped] == sorted(beside)
    top = beside[0].split("/")[0] + "/" if "/" in beside[0] else "VIDEOS itself"
    assert all("no class" in entry.reason for entry in result.skipped)
    assert any(
        f"{plural(len(beside), 'video that is', 'videos that are')} in no class" in note for note in result.notes
    )
    assert any(top.rstrip("/") in note for note in result.notes)


def test_files_that_are_no_videos_change_nothing(tmp_path: Path) -> None:
    fill(tmp_path, *TRAIN_AND_TEST, "annotations/list.csv", ".cache/x/y.avi", "readme.txt", "pictures/a/b.jpg")
    result = scan(tmp_path)
    assert facts(result) == EXPECTED
    assert result.skipped == ()


@pytest.mark.parametrize("train", ["Train", "TRAINING", "train_set", "trainset", "videos_train", "train-256"])
@pytest.mark.parametrize("test", ["test", "Val", "validation", "valid", "dev", "testing", "test_videos"])
def test_spellings_of_subsets(tmp_path: Path, train: str, test: str) -> None:
    fill(tmp_path, f"{train}/walk/a.avi", f"{train}/run/b.avi", f"{test}/walk/c.avi", "unlabeled/u.avi")
    result = scan(tmp_path)
    assert result.classes == ("run", "walk")
    assert {video.path.split("/")[0]: video.subsets for video in result.videos} == {
        train: ("train",),
        test: ("test" if test.startswith("test") else "val",),
        "unlabeled": ("train",),
    }
    assert not result.skipped


@pytest.mark.parametrize(
    ("names", "used"),
    [
        (["train/walk/a.avi", "train/run/b.avi"], 2),  # train alone
        (["train/walk/a.avi", "train/run/b.avi", "demo/u.avi"], 2),
        (["train/walk/a.avi", "train/run/b.avi", "test/u.avi"], 2),  # a test part without labels
        (["train/train/a.avi", "train/bus/b.avi", "test/test/c.avi"], 3),  # classes with such names
        (["ucf/train/walk/a.avi", "ucf/test/walk/b.avi"], 2),
        (["data/videos/train/walk/a.avi", "data/videos/test/walk/b.avi", "data/demo/u.avi"], 2),
    ],
)
def test_subset_folders(tmp_path: Path, names: list[str], used: int) -> None:
    result = scan(fill(tmp_path, *names))
    assert len(result.videos) == used
    assert len(result.videos) + len(result.skipped) == len(names)
    for video in result.videos:
        *_, subset, class_name, _ = video.path.split("/")
        assert (video.class_name, video.subsets) == (class_name, (subset,))


def test_subset_folders_in_each_class(tmp_path: Path) -> None:
    fill(tmp_path, "walk/train/a.avi", "walk/test/b.avi", "run/train/c.avi", "run/Testing/d.avi", "run/e.avi")
    result = scan(tmp_path)
    assert facts(result) == {
        "walk/train/a.avi": ("walk", "train"),
        "walk/test/b.avi": ("walk", "test"),
        "run/train/c.avi": ("run", "train"),
        "run/Testing/d.avi": ("run", "test"),
    }
    assert [entry.path for entry in result.skipped] == ["run/e.avi"]
    assert any("subsets from the folders in each class: Testing/ is test" in note for note in result.notes)


@pytest.mark.parametrize(
    "names",
    [
        ["train/a.avi", "test/b.avi", "demo/c.avi"],  # no class folders
        ["train/walk/a.avi", "demo/walk/b.avi", "extra/run/c.avi"],  # may be three classes
        ["test/g1/a.avi", "walk/g1/b.avi", "run/g2/c.avi"],
        ["walk/test/a.avi", "run/b.avi", "jump/test/c.avi"],
        ["one/train/walk/a.avi", "two/train/walk/b.avi"],  # two data sets
        ["split1/train/walk/a.avi", "split2/train/walk/a.avi"],
        ["train1/walk/a.avi", "test1/walk/b.avi"],
        ["train_01/walk/a.avi", "val-01/walk/b.avi", "extra/c.avi"],
        ["walk/test/a.avi", "run/b.avi"],
        ["my_train/walk/a.avi", "my_test/walk/b.avi"],
        ["my-train-v2/walk/a.avi", "my-val-v2/walk/b.avi", "other/c.avi"],
        ["walk/cam_train/a.avi", "walk/cam_test/b.avi", "run/cam_train/c.avi"],
    ],
)
def test_ambiguous_trees_are_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(InputError, match=r"subsets or classes\? Expected VIDEOS/Class/file.*--dataset csv"):
        scan(fill(tmp_path, *names))


def test_a_class_of_that_name_is_noted(tmp_path: Path) -> None:
    result = scan(fill(tmp_path, "train/a.mp4", "bus/b.mp4", "tram/c.mp4"))
    assert result.classes == ("bus", "train", "tram")
    assert any(note.startswith("train/ counts as a class, not as a subset") for note in result.notes)


def test_classes_with_words_of_subsets_in_their_names(tmp_path: Path) -> None:
    names = ["driving_test/a.mp4", "train_ride/b.mp4", "walk/c.mp4", "Walk/d.mp4", "strength training/e.mp4"]
    result = scan(fill(tmp_path, *names))
    assert result.classes == ("Walk", "driving_test", "strength training", "train_ride", "walk")
    assert any(
        "2 classes have names that differ in case or spaces alone, and stay apart: Walk, walk" in note
        for note in result.notes
    )


@pytest.mark.parametrize(
    "names",
    [
        ["train/videos/walk/a.avi", "train/videos/run/b.avi", "test/videos/walk/c.avi"],
        ["UCF/train/jpgs/walk/a.avi", "UCF/train/jpgs/run/b.avi", "UCF/test/jpgs/run/c.avi"],
        ["train/labeled/walk/a.avi", "train/labeled/run/g1/b.avi", "train/unlabeled/u.avi", "test/walk/c.avi"],
        ["train/labeled/videos/walk/a.avi", "train/labeled/videos/run/b.avi", "test/videos/run/c.avi"],
        ["TrainVideos/walk/a.avi", "TrainVideos/run/b.avi", "TestVideos/run/c.avi"],
        ["traindata/walk/a.avi", "traindata/run/b.avi", "testdata/run/c.avi"],
        ["trn/walk/a.avi", "trn/run/b.avi", "tst/run/c.avi"],
        ["walk/TrainVideos/a.avi", "walk/TestVideos/c.avi", "run/TrainVideos/b.avi"],
    ],
)
def test_folders_around_classes_and_words_written_together(tmp_path: Path, names: list[str]) -> None:
    result = scan(fill(tmp_path, *names))
    assert result.classes == ("run", "walk")
    assert {video.path[-5:]: video.subsets for video in result.videos if video.class_name} == {
        "a.avi": ("train",),
        "b.avi": ("train",),
        "c.avi": ("test",),
    }


def test_videos_in_folders_of_two_subsets_are_skipped(tmp_path: Path) -> None:
    result = scan(fill(tmp_path, "train/walk/test/a.avi", "train/run/train/b.avi", "test/walk/c.avi"))
    assert facts(result) == {"train/run/train/b.avi": ("run", "train"), "test/walk/c.avi": ("walk", "test")}
    assert [entry.reason[:42] for entry in result.skipped] == ["in folders of two subsets, train/ and test"]


def test_classes_that_hold_folders_alone_are_noted(tmp_path: Path) -> None:
    result = scan(fill(tmp_path, "train/eu/walk/a.avi", "train/us/run/b.avi", "test/eu/walk/c.avi"))
    assert result.classes == ("eu", "us")
    assert any(note.startswith("2 classes hold folders and no videos, such as eu/walk/") for note in result.notes)
    numbered = scan(fill(tmp_path / "n", *(f"{s}/00{n}/g/{n}.avi" for s in ("train", "test") for n in range(3))))
    assert numbered.classes == ("000", "001", "002")


def test_linked_subsets(tmp_path: Path) -> None:
    fill(tmp_path / "disk", "walk/a.avi", "run/b.avi")
    fill(tmp_path / "v", "test/walk/c.avi", "unlabeled/u.avi")
    (tmp_path / "v/train").symlink_to(tmp_path / "disk")
    result = scan(tmp_path / "v")
    assert facts(result)["train/run/b.avi"] == ("run", "train")
    assert len(result.videos) == 4


def test_ucf101_without_lists_keeps_the_subsets_of_folders(tmp_path: Path) -> None:
    result = scan(fill(tmp_path, "train/Punch/v_Punch_g08_c01.avi", "test/Punch/v_Punch_g01_c01.avi"))
    assert result.dataset == "ucf101"
    assert {video.path[:5]: video.subsets for video in result.videos} == {"train": ("train",), "test/": ("test",)}
    assert not any("every video counts as train" in note for note in result.notes)


def test_one_class_in_two_forms_of_unicode(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Übung") for form in ("NFC", "NFD"))
    result = scan(fill(tmp_path, f"{composed}/a.avi", f"{decomposed}/b.avi", "walk/c.avi"))
    assert result.classes == ("walk", composed)
    assert {video.key: video.path for video in result.videos} == {
        "_bung/a": f"{composed}/a.avi",
        "_bung/b": f"{decomposed}/b.avi",
        "walk/c": "walk/c.avi",
    }
    assert any("1 class has folders in composed and in decomposed Unicode" in note for note in result.notes)
