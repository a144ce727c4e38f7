"""Files that look like lists and are none that is read: named with the reason, never passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prep.scan.support import by_path, fill
from tgprep.scan.scan import scan


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("kinetics_train.json", ".json is not read"),
        ("test_train_splits.rar", "an archive; unpack it"),
        ("ucf101_train_split_1_videos.txt", "a list of mmaction; `tgprep split --import` reads it"),
        ("UCF101v2-GT.mat", ".mat is not read"),
        ("train.csv", "not Kinetics' columns; `--dataset csv --annotations FILE` reads tables"),
        ("wave_test_split4.txt", "not a name that is known"),
        ("TrainList01.txt", "rename it trainlist01.txt"),
        ("brush_hair_test_split1.txt", "a list of hmdb51"),
        ("trainlist02.txt", "not a name that is known; expected trainlist01.txt"),
    ],
)
@pytest.mark.parametrize("given", [True, False])
def test_unread_lists_are_named(tmp_path: Path, name: str, reason: str, given: bool) -> None:
    fill(tmp_path / "videos", *(f"Archery/v_Archery_g0{number}_c01.avi" for number in range(1, 4)))
    fill(tmp_path / "annotations", name, "README.md", "LICENSE.txt", "picture.png")
    if given:
        fill(tmp_path / "annotations", "trainlist01.txt", "testlist01.txt")
        (tmp_path / "annotations/trainlist01.txt").write_text("Archery/v_Archery_g01_c01.avi 3\n")
        (tmp_path / "annotations/testlist01.txt").write_text("Archery/v_Archery_g02_c01.avi\n")
    if (name, given) == ("trainlist02.txt", True):
        return  # a second fold without its test list is an error
    result = scan(tmp_path / "videos")
    assert result.dataset == "ucf101"
    (note,) = [line for line in result.notes if "not read as a list" in line]
    assert note.startswith(f"1 file in annotations/ was not read as a list of ucf101: {name} ({reason}"), note


def test_a_folder_without_official_lists(tmp_path: Path) -> None:
    fill(tmp_path / "data/videos", "a/1.mp4", "b/2.mp4")
    fill(tmp_path / "data", "train.csv", "notes.txt", "holdout_test.json")
    notes = scan(tmp_path / "data/videos").notes
    assert any("2 files in data/ were not read as a list of folder: holdout_test.json" in note for note in notes), notes


def test_hmdb51_lists_in_any_folder_of_the_annotations(tmp_path: Path) -> None:
    fill(tmp_path / "videos", "wave/a_wave_f_nm_np1_fr_med_0.avi", "wave/b_wave_f_nm_np1_fr_med_0.avi")
    lists = tmp_path / "annotations/lists of HMDB/splits"
    lists.mkdir(parents=True)
    (lists / "wave_test_split1.txt").write_text("a_wave_f_nm_np1_fr_med_0.avi 1\nb_wave_f_nm_np1_fr_med_0.avi 2\n")
    for place in (None, tmp_path / "annotations", lists):
        result = scan(tmp_path / "videos", annotations=place)
        assert [video.subsets for video in by_path(result).values()] == [("train",), ("test",)]


def test_names_with_a_dot_in_lists_of_the_form_of_ucf101(tmp_path: Path) -> None:
    fill(tmp_path / "v", "A/v_A.01.avi", "A/v_A.02.avi")
    (tmp_path / "trainlist01.txt").write_text("A/v_A.01 1\n")
    (tmp_path / "testlist01.txt").write_text("A/v_A.02\n")
    (tmp_path / "classInd.txt").write_text("1 A\n")
    result = scan(tmp_path / "v", dataset="ucf101", annotations=tmp_path)
    assert [video.subsets for video in result.videos] == [("train",), ("test",)]
