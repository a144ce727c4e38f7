"""From a folder to named videos: real data sets and made-up layouts, official subsets if there are lists."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from manifests.records import InputError
from tests.prep.scan.support import by_path, fill
from tgprep.scan.scan import scan


def test_real_ucf101_with_lists_beside_it(shared: Path) -> None:
    result = scan(shared / "ucf101_3class")
    assert (result.dataset, len(result.classes), result.num_folds) == ("ucf101", 101, 3)
    assert Counter(video.class_name for video in result.videos) == {"BabyCrawling": 50, "Punch": 50, "PushUps": 50}
    assert result.skipped == ()
    assert result.notes[0] == "detected data set ucf101 from folder and file names (--dataset sets it)"
    video = by_path(result)["UCF-101/PushUps/v_PushUps_g06_c04.avi"]
    assert (video.key, video.label, video.group) == ("PushUps/v_PushUps_g06_c04", 71, "g06")
    assert video.subsets == ("test", "train", "train")
    assert video.num_source_bytes == (shared / "ucf101_3class" / video.path).stat().st_size
    # official rule: groups 1 to 7, 8 to 14, 15 to 21 are the test parts of folds 1, 2 and 3
    for entry in result.videos:
        number = int(entry.group[1:])
        expected = tuple("test" if 7 * fold < number <= 7 * (fold + 1) else "train" for fold in range(3))
        assert entry.subsets == expected
    missing = {entry.class_name: entry for entry in result.missing}
    assert missing["YoYo"].num_missing == missing["YoYo"].num_listed == 128
    assert missing["Punch"].num_missing == missing["Punch"].num_listed - 50
    assert sum(entry.num_missing for entry in result.missing) == 13320 - 150
    assert any(note.startswith("13,170 listed videos of 101 classes are not in the folder: ") for note in result.notes)


def test_real_ucf101_without_lists(shared: Path) -> None:
    result = scan(shared / "videos/ucf101")
    assert (result.dataset, result.num_folds, len(result.videos)) == ("ucf101", 0, 24)
    assert {video.subsets for video in result.videos} == {()}
    assert any("every video counts as train" in note for note in result.notes)


def test_real_hmdb51(shared: Path) -> None:
    result = scan(shared / "videos/hmdb51", annotations=shared / "annotations")
    assert (result.dataset, len(result.classes), result.num_folds) == ("hmdb51", 51, 3)
    video = by_path(result)["wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi"]
    listed = shared / "annotations/hmdb51/testTrainMulti_7030_splits"
    flags = {"1": "train", "2": "test", "0": "unused"}
    expected = []
    for fold in (1, 2, 3):
        lines = (listed / f"wave_test_split{fold}.txt").read_text().splitlines()
        expected.append(
            flags[next(line.split()[1] for line in lines if line.startswith("TrumanShow_wave_f_nm_np1_fr_med_26.avi"))]
        )
    assert video.subsets == tuple(expected)
    assert (video.label, video.group) == (50, "TrumanShow")


def test_real_kinetics_clips_without_class_folders(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "kinetics_train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n"
        "tossing salad,SOX5yA1l24A,10,20,train\nzumba,R6llTwEh07w,1,11,train\nzumba,WUzgd7C1pWA,1,11,val\n"
    )
    result = scan(shared / "videos/kinetics400", annotations=tmp_path)
    assert (result.dataset, result.num_folds) == ("kinetics400", 1)
    assert {video.key: (video.class_name, video.label, video.subsets) for video in result.videos} == {
        "tossing_salad/SOX5yA1l24A": ("tossing_salad", 362, ("train",)),
        "zumba/R6llTwEh07w": ("zumba", 399, ("train",)),
        "zumba/WUzgd7C1pWA": ("zumba", 399, ("val",)),
    }
    assert [entry.path for entry in result.skipped] == ["flipping_a_pancake.mkv"]
    assert "class unknown" in result.skipped[0].reason


def test_flat_folder_is_refused(shared: Path) -> None:
    with pytest.raises(InputError, match=r"Expected VIDEOS/Class/file.*--dataset csv"):
        scan(shared / "videos/odd")
    result = scan(shared / "videos")  # the folder above: its folders are the classes
    folders = tuple(sorted(path.name for path in (shared / "videos").iterdir() if path.is_dir()))
    assert (result.dataset, result.classes) == ("folder", folders)
    odd = [video for video in result.videos if video.class_name == "odd"]
    assert len(odd) == len(list((shared / "videos/odd").iterdir())) - 1  # not the .mp3
    assert "odd/nasa_13013" in {video.key for video in odd}


def test_folder_with_subset_folders(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "train/run/a_g01_x.mp4",
        "train/run/deep/er/b.MP4",
        "val/run/a_g01_x.mp4",
        "test/Jump up/c.avi",
        "train/lost.avi",
    )
    result = scan(tmp_path, dataset="folder")
    assert (result.classes, result.num_folds) == (("Jump up", "run"), 1)
    found = by_path(result)
    assert found["test/Jump up/c.avi"].key == "Jump_up/c"
    assert {path: video.subsets for path, video in found.items()} == {
        "train/run/a_g01_x.mp4": ("train",),
        "train/run/deep/er/b.MP4": ("train",),
        "val/run/a_g01_x.mp4": ("val",),
        "test/Jump up/c.avi": ("test",),
    }
    assert found["val/run/a_g01_x.mp4"].group == "g01"
    assert found["val/run/a_g01_x.mp4"].key != found["train/run/a_g01_x.mp4"].key
    assert [(entry.path, entry.reason[:15]) for entry in result.skipped] == [("train/lost.avi", "no class folder")]


def test_class_named_train(tmp_path: Path) -> None:
    result = scan(fill(tmp_path, "train/a.mp4", "bus/b.mp4", "tram/c.mp4"))
    assert (result.dataset, result.classes, result.num_folds) == ("folder", ("bus", "train", "tram"), 0)
    assert {video.subsets for video in result.videos} == {()}


def test_single_outer_folder_is_no_class(tmp_path: Path) -> None:
    result = scan(fill(tmp_path, "archive/v2/run/a.mp4", "archive/v2/jump/b.mp4"), dataset="folder")
    assert result.classes == ("jump", "run")
    assert any("archive/v2/" in note for note in result.notes)


def test_single_class(tmp_path: Path) -> None:
    assert scan(fill(tmp_path, "run/a.mp4", "run/b.mp4"), dataset="folder").classes == ("run",)


def test_common_class_names_are_not_hmdb51(tmp_path: Path) -> None:
    assert scan(fill(tmp_path, "walk/a.mp4", "run/b.mp4", "jump/c.mp4")).dataset == "folder"


def test_ucf101_without_class_folders(tmp_path: Path) -> None:
    result = scan(fill(tmp_path, "v_HandStandPushups_g01_c01.avi", "v_Punch_g25_c02.avi"))
    assert result.dataset == "ucf101"
    assert [video.key for video in result.videos] == [
        "HandstandPushups/v_HandStandPushups_g01_c01",
        "Punch/v_Punch_g25_c02",
    ]


def test_missing_extra_and_other_class_folders(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "videos/Punch/v_Punch_g01_c01.avi",
        "videos/Punch/v_Punch_g99_c01.avi",
        "videos/Diving/v_Punch_g01_c01.avi",
    )
    lists = tmp_path / "annotations/ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "trainlist01.txt").write_text("Punch/v_Punch_g08_c01.avi 71\r\n")
    (lists / "testlist01.txt").write_text("Punch/v_Punch_g01_c01.avi\r\n\r\n")
    result = scan(tmp_path / "videos")
    assert {video.path: video.subsets for video in result.videos} == {
        "Punch/v_Punch_g01_c01.avi": ("test",),
        "Punch/v_Punch_g99_c01.avi": ("",),
        "Diving/v_Punch_g01_c01.avi": ("",),
    }
    assert any("2 videos are in no official list" in note for note in result.notes)
    assert [(entry.class_name, entry.num_extra, entry.examples) for entry in result.extra] == [
        ("Diving", 1, ("Diving/v_Punch_g01_c01.avi",)),
        ("Punch", 1, ("Punch/v_Punch_g99_c01.avi",)),
    ]
    assert [(entry.class_name, entry.num_listed, entry.num_missing, entry.examples) for entry in result.missing] == [
        ("Punch", 2, 1, ("v_Punch_g08_c01",))
    ]


def test_class_folders_of_another_data_set(tmp_path: Path) -> None:
    result = scan(fill(tmp_path, "Punch/v_Punch_g01_c01.avi", "Dancing/x.avi"), dataset="ucf101")
    assert [(entry.path, entry.reason[:13]) for entry in result.skipped] == [("Dancing/x.avi", "class unknown")]
    with pytest.raises(InputError, match="none of the video files fits --dataset kinetics400"):
        scan(tmp_path, dataset="kinetics400")


def test_present_classes_are_renumbered(tmp_path: Path) -> None:
    fill(tmp_path, "YoYo/v_YoYo_g01_c01.avi", "Punch/v_Punch_g01_c01.avi")
    result = scan(tmp_path, classes="present")
    assert result.classes == ("Punch", "YoYo")
    assert {video.class_name: video.label for video in result.videos} == {"Punch": 0, "YoYo": 1}
