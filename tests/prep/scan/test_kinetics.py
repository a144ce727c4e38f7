"""Which Kinetics a folder holds, by class folders, ids and official csv files."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests import datasets
from manifests.records import InputError
from tests.prep.scan.support import fill
from tgprep.scan.scan import scan


def test_kinetics_folders_with_spaces_and_subsets(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "train/playing ukulele/OELUl7M9SMw_000022_000032.mp4",
        "val_256/massaging_person's_head/dE6urGn-Hlo.mkv",
    )
    result = scan(tmp_path)
    assert (result.dataset, result.num_folds) == ("kinetics400", 1)
    assert [(video.key, video.class_name, video.subsets) for video in result.videos] == [
        ("massaging_person_s_head/dE6urGn-Hlo", "massaging_person's_head", ("val",)),
        ("playing_ukulele/OELUl7M9SMw_000022_000032", "playing_ukulele", ("train",)),
    ]


def test_folders_of_another_subset_than_the_lists_are_noted(tmp_path: Path) -> None:
    kinetics_lists(tmp_path / "annotations", ["abseiling", "zumba"])
    fill(
        tmp_path / "videos", "train/abseiling/VIDEO000000_000001_000011.mp4", "val/zumba/VIDEO000001_000001_000011.mp4"
    )
    result = scan(tmp_path / "videos", dataset="kinetics400")
    assert [video.subsets for video in result.videos] == [("train",), ("train",)]
    (note,) = [line for line in result.notes if "another subset" in line]
    assert note.startswith("1 video is in a folder of another subset than the lists say; the lists count: val/zumba/")


def test_kinetics600_classes_come_from_the_csv(tmp_path: Path) -> None:
    fill(tmp_path, "videos/train/juggling chainsaws/AAAAAAAAAAA_000001_000011.mp4")
    with pytest.raises(InputError, match="takes its class list from the official csv"):
        scan(tmp_path / "videos", dataset="kinetics600")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\njuggling chainsaws,AAAAAAAAAAA,1,11,train\nzorbing,BBBBBBBBBBB,1,11,train\n"
    )
    result = scan(tmp_path / "videos", dataset="kinetics600")
    assert (result.classes, result.videos[0].label) == (("juggling_chainsaws", "zorbing"), 0)
    assert [(entry.class_name, entry.num_missing) for entry in result.missing] == [("zorbing", 1)]


def kinetics_lists(folder: Path, classes: list[str]) -> None:
    """An official csv with one video a class, `VIDEO000123` of the class number 123."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f'"{name.replace("_", " ")}",VIDEO{number:06d},1,11,train' for number, name in enumerate(classes)]
    (folder / "train.csv").write_text("label,youtube_id,time_start,time_end,split\n" + "\n".join(rows) + "\n")


MADE_UP = [f"made_up_{number}" for number in range(400)]


@pytest.mark.parametrize(
    ("num_known", "num_made_up", "detected"),
    [(400, 0, "kinetics400"), (368, 229, "kinetics600"), (300, 400, "kinetics700"), (10, 3, None)],
)
def test_lists_decide_which_kinetics(tmp_path: Path, num_known: int, num_made_up: int, detected: str | None) -> None:
    """Class names overlap and file names have one form; lists with a few unknown classes are an error."""
    classes = [*datasets.class_list("kinetics400")[:num_known], *MADE_UP[:num_made_up]]
    kinetics_lists(tmp_path / "annotations", classes)
    fill(
        tmp_path / "videos", *(f"train/{classes[n].replace('_', ' ')}/VIDEO{n:06d}_000001_000011.mp4" for n in range(9))
    )
    if detected is None:
        with pytest.raises(InputError, match=r"3 labels are not among the 400 classes of kinetics400"):
            scan(tmp_path / "videos")
        return
    for place in ("videos", "flat"):
        fill(tmp_path / "flat", *(f"VIDEO{number:06d}.mp4" for number in range(9)))
        result = scan(tmp_path / place)
        assert (result.dataset, len(result.classes), result.num_folds) == (detected, len(classes), 1)
        assert {video.class_name for video in result.videos} == set(classes[:9])
        assert {video.subsets for video in result.videos} == {("train",)}


def test_lists_of_two_kinetics_side_by_side(tmp_path: Path) -> None:
    """The one that labels most files is detected; the smaller if both label all."""
    known = list(datasets.class_list("kinetics400"))
    kinetics_lists(tmp_path / "annotations/kinetics400", known)
    kinetics_lists(tmp_path / "annotations/kinetics600", [*known[:368], *MADE_UP[:229]])
    fill(tmp_path / "a", *(f"{name}/VIDEO000001.mp4" for name in known[:9]))
    assert scan(tmp_path / "a", annotations=tmp_path / "annotations").dataset == "kinetics400"
    fill(tmp_path / "b", *(f"{name}/VIDEO000001.mp4" for name in (*known[:9], *MADE_UP[:3])))
    assert scan(tmp_path / "b", annotations=tmp_path / "annotations").dataset == "kinetics600"


def test_names_of_eleven_letters_are_no_kinetics(tmp_path: Path) -> None:
    own = [f"{name}/video_0000{number}.avi" for name in ("yoga", "bowling") for number in (1, 2)]
    result = scan(fill(tmp_path / "videos", *own))
    assert (result.dataset, result.classes) == ("folder", ("bowling", "yoga"))
    kinetics_lists(tmp_path / "annotations", ["yoga", "bowling"])  # lists that name none of them say nothing
    assert scan(tmp_path / "videos").dataset == "folder"
    with pytest.raises(InputError, match="lists name none of the 4 videos: they name videos such as yoga/VIDEO000000"):
        scan(tmp_path / "videos", annotations=tmp_path / "annotations")
    fill(tmp_path / "videos", "yoga/VIDEO000000.mp4")  # one that they name says that the others are ids, too
    assert scan(tmp_path / "videos").dataset == "kinetics400"
    timed = scan(fill(tmp_path / "timed", "yoga/video_00001_000002_000012.mp4", "yoga/video_00002.mp4"))
    assert timed.dataset == "kinetics400"


@pytest.mark.parametrize(
    ("name", "subset"), [("k.csv", None), ("holdouts.csv", "unused"), ("KineticsTest.csv", "test")]
)
def test_lists_without_a_column_of_the_split(tmp_path: Path, name: str, subset: str | None) -> None:
    """A list that says no subset makes no train videos; a folder may say it."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / name).write_text("label,youtube_id,time_start,time_end\nyoga,AAAAAAAAAAA,1,11\n")
    fill(tmp_path / "v", "yoga/AAAAAAAAAAA.mp4")
    if subset is None:
        with pytest.raises(InputError, match="neither a column `split` nor the name of a file"):
            scan(tmp_path / "v", annotations=tmp_path / "lists")
        fill(tmp_path / "w", "val/yoga/AAAAAAAAAAA.mp4")
        assert scan(tmp_path / "w", annotations=tmp_path / "lists").videos[0].subsets == ("val",)
    else:
        assert scan(tmp_path / "v", annotations=tmp_path / "lists").videos[0].subsets == (subset,)


def test_another_clip_of_a_listed_id_is_not_the_listed_one(tmp_path: Path) -> None:
    kinetics_lists(tmp_path / "lists", ["yoga", "zumba"])
    names = ["yoga/VIDEO000000_000002_000012.mp4", "zumba/VIDEO000001_000101_000111.mp4"]
    result = scan(fill(tmp_path / "v", *names), annotations=tmp_path / "lists")
    assert {video.path: video.subsets for video in result.videos} == {names[0]: ("train",), names[1]: ("",)}


def test_ids_that_stand_in_two_classes(tmp_path: Path) -> None:
    """The lists say which class a video has; what they leave open is noted, with an example."""
    (tmp_path / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nyoga,AAAAAAAAAAA,1,11,train\nbowling,AAAAAAAAAAA,20,30,val\n"
        "yoga,BBBBBBBBBBB,1,11,train\nzumba,CCCCCCCCCCC,1,11,val\nzumba,CCCCCCCCCCC,20,30,train\n"
    )
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\nDDDDDDDDDDD,1,11,test\n")
    names = ["yoga/AAAAAAAAAAA.mp4", "bowling/AAAAAAAAAAA.mp4", "yoga/BBBBBBBBBBB.mp4", "bowling/BBBBBBBBBBB.mp4"]
    names += ["zumba/CCCCCCCCCCC_000020_000030.mp4", "yoga/CCCCCCCCCCC_000001_000011.mp4", "AAAAAAAAAAA.mp4"]
    fill(tmp_path / "v", *names, "yoga/DDDDDDDDDDD.mp4", "zumba/DDDDDDDDDDD.mp4")
    result = scan(tmp_path / "v", annotations=tmp_path)
    assert {video.path: (video.class_name, video.subsets[0]) for video in result.videos} == {
        "yoga/AAAAAAAAAAA.mp4": ("yoga", "train"),
        "bowling/AAAAAAAAAAA.mp4": ("bowling", "val"),
        "yoga/BBBBBBBBBBB.mp4": ("yoga", "train"),
        "zumba/CCCCCCCCCCC_000020_000030.mp4": ("zumba", "train"),
        "yoga/CCCCCCCCCCC_000001_000011.mp4": ("yoga", "val"),
        "yoga/DDDDDDDDDDD.mp4": ("yoga", "test"),
        "zumba/DDDDDDDDDDD.mp4": ("zumba", "test"),
    }
    assert {entry.path: entry.reason for entry in result.skipped} == {
        "AAAAAAAAAAA.mp4": "class unknown: no folder of the path is a class of kinetics400, and the lists hold 2 clips of this id",
        "bowling/BBBBBBBBBBB.mp4": "listed in class yoga, and in the folder of that class too",
    }
    notes = "\n".join(result.notes)
    assert (
        "1 video is in another class folder than the lists say; the folder counts: yoga/CCCCCCCCCCC_000001_000011.mp4 (listed: zumba)"
        in notes
    )
    assert "1 video is in several classes, once in each: DDDDDDDDDDD (yoga and zumba)" in notes
