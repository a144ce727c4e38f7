"""The data sets' own forms: class lists, names of files and folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests import datasets


@pytest.mark.parametrize(
    ("dataset", "size", "known"),
    [
        ("ucf101", 101, {0: "ApplyEyeMakeup", 21: "CliffDiving", 36: "HandstandPushups", 100: "YoYo"}),
        ("hmdb51", 51, {0: "brush_hair", 5: "climb", 6: "climb_stairs", 20: "kick", 21: "kick_ball", 50: "wave"}),
        ("kinetics400", 400, {0: "abseiling", 196: "massaging_person's_head", 369: "tying_knot_(not_on_a_tie)"}),
        ("folder", 0, {}),
    ],
)
def test_class_lists(dataset: str, size: int, known: dict[int, str]) -> None:
    classes = datasets.class_list(dataset)
    assert len(classes) == len(set(classes)) == size
    assert {label: classes[label] for label in known} == known


@pytest.mark.parametrize(
    ("dataset", "file"),
    [
        ("ucf101", "ucf101_val_split_1_rawframes.txt"),
        ("hmdb51", "hmdb51_val_split_1_rawframes.txt"),
        ("kinetics400", "videossl_splits/kinetics400_train_10_percent_labeled_rawframes.txt"),
    ],
)
def test_labels_are_those_of_the_published_lists(shared: Path, dataset: str, file: str) -> None:
    classes = datasets.class_list(dataset)
    lines = (shared / "annotations/video_semisup/data" / dataset / file).read_text().splitlines()
    assert {line.split("/")[0] for line in lines} == set(classes)
    assert [line.split("/")[0] for line in lines] == [classes[int(line.rsplit(" ", 1)[1])] for line in lines]


@pytest.mark.parametrize(
    ("dataset", "class_name", "stem", "group"),
    [
        ("ucf101", "Punch", "v_Punch_g07_c03", "g07"),
        ("folder", "x", "take_g12_left", "g12"),
        ("folder", "x", "g01_c02", "g01"),
        ("folder", "x", "song_12", ""),
        ("folder", "x", "mug12_left", ""),
        ("hmdb51", "wave", "TrumanShow_wave_f_nm_np1_fr_med_26", "TrumanShow"),
        ("hmdb51", "climb_stairs", "A_b_climb_stairs_u_cm_np2_ba_bad_1", "A_b"),
        ("hmdb51", "climb", "holiday", ""),
        ("kinetics400", "zumba", "abc_g01_defgh", ""),
    ],
)
def test_groups(dataset: str, class_name: str, stem: str, group: str) -> None:
    assert datasets.group_of(dataset, class_name, stem) == group


@pytest.mark.parametrize(
    ("folder", "subset"),
    [
        ("train", "train"),
        ("Validation", "val"),
        ("testing", "test"),
        ("videos_train", "train"),
        ("val_256", "val"),
        ("kinetics_400_train", "train"),
        ("kinetics400_test", "test"),
        ("test_pilot", ""),
        ("train_val", ""),
        ("trains", ""),
        ("videos", ""),
        ("", ""),
    ],
)
def test_subset_of_folder(folder: str, subset: str) -> None:
    assert datasets.subset_of_folder(folder) == subset


@pytest.mark.parametrize(
    ("dataset", "subsets", "tested"),
    [
        ("ucf101", {"train", "test"}, "test"),
        ("folder", {"train", "val"}, "val"),
        ("folder", {"train", "val", "test"}, "test"),
        ("kinetics400", {"train", "val", "test"}, "val"),
        ("kinetics400", {"train", "test"}, "test"),
    ],
)
def test_tested_subset(dataset: str, subsets: set[str], tested: str) -> None:
    assert datasets.tested_subset(dataset, subsets) == tested
