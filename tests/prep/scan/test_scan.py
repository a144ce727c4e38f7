"""From a folder to named videos: nothing lost, the same keys whatever the order, official subsets where lists are found."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import datasets
from manifests.records import InputError, SourceVideo
from tgprep.scan.files import VIDEO_EXTENSIONS
from tgprep.scan.keys import unique_keys, video_key
from tgprep.scan.scan import Scan, scan

KEY = re.compile(r"[A-Za-z0-9_-]{1,100}/[A-Za-z0-9_-]{1,80}")


def fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def by_path(result: Scan) -> dict[str, SourceVideo]:
    return {video.path: video for video in result.videos}


# ---- real folders


def test_real_ucf101_is_told_and_split_by_the_lists_beside_it(shared: Path) -> None:
    result = scan(shared / "ucf101_3class")
    assert (result.dataset, len(result.classes), result.num_folds) == ("ucf101", 101, 3)
    assert Counter(video.class_name for video in result.videos) == {"BabyCrawling": 50, "Punch": 50, "PushUps": 50}
    assert result.skipped == ()
    assert any("told from" in note for note in result.notes)
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
    assert any(note.startswith("13170 listed videos of 101 classes are not in the folder: ") for note in result.notes)


def test_real_ucf101_without_lists_is_all_train(shared: Path) -> None:
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


def test_real_kinetics_clips_without_class_folders_go_by_the_csv(shared: Path, tmp_path: Path) -> None:
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


def test_a_flat_folder_is_explained(shared: Path) -> None:
    with pytest.raises(InputError, match=r"Expected VIDEOS/Class/file.*--dataset csv"):
        scan(shared / "videos/odd")
    result = scan(shared / "videos")  # the folder above: its folders are the classes
    folders = tuple(sorted(path.name for path in (shared / "videos").iterdir() if path.is_dir()))
    assert (result.dataset, result.classes) == ("folder", folders)
    odd = [video for video in result.videos if video.class_name == "odd"]
    assert len(odd) == len(list((shared / "videos/odd").iterdir())) - 1  # not the .mp3
    assert "odd/nasa_13013" in {video.key for video in odd}


# ---- layouts


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


def test_folder_whose_class_is_called_train(tmp_path: Path) -> None:
    result = scan(fill(tmp_path, "train/a.mp4", "bus/b.mp4", "tram/c.mp4"))
    assert (result.dataset, result.classes, result.num_folds) == ("folder", ("bus", "train", "tram"), 0)
    assert {video.subsets for video in result.videos} == {()}


def test_one_folder_that_only_holds_the_others_is_no_class(tmp_path: Path) -> None:
    result = scan(fill(tmp_path, "archive/v2/run/a.mp4", "archive/v2/jump/b.mp4"), dataset="folder")
    assert result.classes == ("jump", "run")
    assert any("archive/v2/" in note for note in result.notes)


def test_a_single_class_is_a_class(tmp_path: Path) -> None:
    assert scan(fill(tmp_path, "run/a.mp4", "run/b.mp4"), dataset="folder").classes == ("run",)


def test_common_class_names_alone_do_not_make_hmdb51(tmp_path: Path) -> None:
    assert scan(fill(tmp_path, "walk/a.mp4", "run/b.mp4", "jump/c.mp4")).dataset == "folder"


def test_ucf101_without_class_folders_goes_by_name(tmp_path: Path) -> None:
    result = scan(fill(tmp_path, "v_HandStandPushups_g01_c01.avi", "v_Punch_g25_c02.avi"))
    assert result.dataset == "ucf101"
    assert [video.key for video in result.videos] == [
        "HandstandPushups/v_HandStandPushups_g01_c01",
        "Punch/v_Punch_g25_c02",
    ]


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


def test_kinetics600_takes_its_classes_from_the_csv(tmp_path: Path) -> None:
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
    ("num_known", "num_made_up", "told"),
    [(400, 0, "kinetics400"), (368, 229, "kinetics600"), (300, 400, "kinetics700"), (10, 3, None)],
)
def test_which_kinetics_it_is_follows_from_the_lists(
    tmp_path: Path, num_known: int, num_made_up: int, told: str | None
) -> None:
    """Their class names overlap, their file names have one form; lists of a few strange classes are an error as before."""
    classes = [*datasets.class_list("kinetics400")[:num_known], *MADE_UP[:num_made_up]]
    kinetics_lists(tmp_path / "annotations", classes)
    fill(
        tmp_path / "videos", *(f"train/{classes[n].replace('_', ' ')}/VIDEO{n:06d}_000001_000011.mp4" for n in range(9))
    )
    if told is None:
        with pytest.raises(InputError, match=r"3 labels are not among the 400 classes of kinetics400"):
            scan(tmp_path / "videos")
        return
    for place in ("videos", "flat"):
        fill(tmp_path / "flat", *(f"VIDEO{number:06d}.mp4" for number in range(9)))
        result = scan(tmp_path / place)
        assert (result.dataset, len(result.classes), result.num_folds) == (told, len(classes), 1)
        assert {video.class_name for video in result.videos} == set(classes[:9])
        assert {video.subsets for video in result.videos} == {("train",)}


def test_lists_of_two_kinetics_side_by_side(tmp_path: Path) -> None:
    """The one that tells most of the files is meant; where both tell all, the smaller."""
    known = list(datasets.class_list("kinetics400"))
    kinetics_lists(tmp_path / "annotations/kinetics400", known)
    kinetics_lists(tmp_path / "annotations/kinetics600", [*known[:368], *MADE_UP[:229]])
    fill(tmp_path / "a", *(f"{name}/VIDEO000001.mp4" for name in known[:9]))
    assert scan(tmp_path / "a", annotations=tmp_path / "annotations").dataset == "kinetics400"
    fill(tmp_path / "b", *(f"{name}/VIDEO000001.mp4" for name in (*known[:9], *MADE_UP[:3])))
    assert scan(tmp_path / "b", annotations=tmp_path / "annotations").dataset == "kinetics600"


def test_lists_that_name_none_extra_videos_and_other_class_folders(tmp_path: Path) -> None:
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


def test_class_folders_of_another_data_set_are_accounted_for(tmp_path: Path) -> None:
    result = scan(fill(tmp_path, "Punch/v_Punch_g01_c01.avi", "Dancing/x.avi"), dataset="ucf101")
    assert [(entry.path, entry.reason[:13]) for entry in result.skipped] == [("Dancing/x.avi", "class unknown")]
    with pytest.raises(InputError, match="none of the video files fits --dataset kinetics400"):
        scan(tmp_path, dataset="kinetics400")


def test_present_classes_are_numbered_anew(tmp_path: Path) -> None:
    fill(tmp_path, "YoYo/v_YoYo_g01_c01.avi", "Punch/v_Punch_g01_c01.avi")
    result = scan(tmp_path, classes="present")
    assert result.classes == ("Punch", "YoYo")
    assert {video.class_name: video.label for video in result.videos} == {"Punch": 0, "YoYo": 1}


# ---- csv


def test_csv(tmp_path: Path) -> None:
    fill(tmp_path / "v", "a/1.mp4", "b 2.mp4", "not listed.mp4", "c/ü.webm", "deep/run/3.mp4")
    (tmp_path / "list.csv").write_text(
        "path,label,group,subset\na/1.mp4,run,anna,train\nb 2.mp4,jump,,validation\nc/ü.webm,run,bert,test\ngone.mp4,run,,\n"
    )
    for dataset in ("csv", "auto"):
        result = scan(tmp_path / "v", dataset=dataset, annotations=tmp_path / "list.csv")
        assert (result.dataset, result.classes, result.num_folds) == ("csv", ("jump", "run"), 1)
        assert [(video.path, video.key, video.group, video.subsets) for video in result.videos] == [
            ("b 2.mp4", "jump/b_2", "", ("val",)),
            ("a/1.mp4", "run/1", "anna", ("train",)),
            ("c/ü.webm", "run/_", "bert", ("test",)),
        ]
        assert [(entry.class_name, entry.num_missing, entry.examples) for entry in result.missing] == [
            ("run", 1, ("gone.mp4",))
        ]
        assert any("2 video files are not in list.csv" in note for note in result.notes)
        assert [(entry.class_name, entry.num_extra, entry.examples) for entry in result.extra] == [
            ("", 1, ("not listed.mp4",)),
            ("run", 1, ("deep/run/3.mp4",)),
        ]


def test_what_a_csv_lists_is_accounted_for(tmp_path: Path) -> None:
    """A listed file that is there but no video is skipped with the reason, not called missing; a file is in one place only."""
    fill(tmp_path / "v", "a.mp4", "notes.txt", ".hidden/b.mp4", "odd.xyz", "other.tar")
    (tmp_path / "v" / "link.mp4").symlink_to("nowhere")
    listed = ["a.mp4", "notes.txt", ".hidden/b.mp4", "odd.xyz", "link.mp4", "gone.mp4", "gone.txt"]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{path},run\n" for path in listed))
    result = scan(tmp_path / "v", dataset="csv", annotations=tmp_path / "list.csv")
    assert [video.path for video in result.videos] == ["a.mp4"]
    assert {entry.path: entry.reason for entry in result.skipped} == {
        ".hidden/b.mp4": "listed, but hidden (its path has a name that begins with a dot)",
        "link.mp4": "symbolic link to nothing",
        "notes.txt": "listed, but .txt is no video",
        "odd.xyz": "not a known video extension (.xyz)",
    }
    (missing,) = result.missing
    assert (missing.num_listed, missing.num_missing, missing.examples) == (7, 2, ("gone.mp4", "gone.txt"))
    assert missing.num_listed == len(result.videos) + len(result.skipped) + missing.num_missing


def test_csv_with_integer_labels(tmp_path: Path) -> None:
    fill(tmp_path / "v", "1.mp4", "2.mp4")
    (tmp_path / "list.csv").write_text("label,path\r\n3,1.mp4\r\n0,2.mp4\r\n")
    result = scan(tmp_path / "v", dataset="csv", annotations=tmp_path / "list.csv")
    assert result.classes == ("0", "1", "2", "3")
    assert {video.key: video.label for video in result.videos} == {"3/1": 3, "0/2": 0}
    assert result.num_folds == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1.mp4,run\n", "first line lacks label and path"),
        ("path,label\n", "no rows"),
        ("", "an empty file"),
        ("path,label\n1.mp4,\n", "line 2: path '1.mp4', label ''"),
        ("path,label\n1.mp4,a\n1.mp4,b\n", "line 3: 1.mp4 is listed twice"),
        ("path,label\n../1.mp4,a\n", "leaves VIDEOS"),
        ("path,label\n/v/1.mp4,a\n", "leaves VIDEOS"),
        ("path,label,subset\n1.mp4,a,maybe\n", "subset 'maybe'"),
        ("path,label\nnone.mp4,a\n", "none of the video files fits"),
    ],
)
def test_csv_mistakes(tmp_path: Path, text: str, told: str) -> None:
    fill(tmp_path / "v", "1.mp4")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=re.escape(told)):
        scan(tmp_path / "v", dataset="csv", annotations=tmp_path / "list.csv")


# ---- the walk


def test_every_file_is_accounted_for(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "run/good.avi",
        "run/UPPER.AVI",
        "run/no_extension",
        "run/half.mp4.part",
        "run/.DS_Store",
        "run/._good.avi",
        ".git/x.avi",
        "run/notes.txt",
        "run/nasa_13013.mp4.audio.mp3",
        "run/dir.avi/inside.mkv",
        "run/a.b.c.webm",
    )
    (tmp_path / "run/empty.mp4").touch()
    (tmp_path / "run/dead.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "run/loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "run/pipe.mp4")
    result = scan(tmp_path)
    assert {video.path: video.key for video in result.videos} == {
        "run/good.avi": "run/good",
        "run/UPPER.AVI": "run/UPPER",
        "run/dir.avi/inside.mkv": "run/inside",
        "run/a.b.c.webm": "run/a_b_c",
        "run/empty.mp4": "run/empty",
    }
    assert {entry.path: entry.reason for entry in result.skipped} == {
        "run/no_extension": "no file name extension",
        "run/half.mp4.part": "not a known video extension (.part)",
        "run/dead.mp4": "symbolic link to nothing",
        "run/loop": "symbolic link to a folder above itself",
        "run/pipe.mp4": "not a regular file",
    }
    assert "files that are no videos were left aside: 3 hidden, 1 mp3, 1 txt" in result.notes


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "disk", "run/a.mp4")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/run").symlink_to(tmp_path / "disk/run")
    assert [video.path for video in scan(tmp_path / "videos").videos] == ["run/a.mp4"]


def test_names_that_are_not_utf8_are_named_and_skipped(tmp_path: Path) -> None:
    fill(tmp_path, "run/a.mp4")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/run/\xff.mp4"))).touch()
    result = scan(tmp_path)
    assert len(result.videos) == 1
    assert [entry.reason for entry in result.skipped] == ["name is not valid UTF-8; rename it"]
    assert result.skipped[0].path.encode() == b"run/\\udcff.mp4"


def test_folders_that_cannot_be_read_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "run/a.mp4", "jump/b.mp4")
    scandir = os.scandir

    def denied(folder: str) -> object:  # mode bits would not stop root
        if folder.endswith("jump"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", denied)
    result = scan(tmp_path)
    assert [video.path for video in result.videos] == ["run/a.mp4"]
    assert [(entry.path, entry.reason) for entry in result.skipped] == [
        ("jump", "folder cannot be read: Permission denied")
    ]


def test_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        scan(tmp_path / "none")
    with pytest.raises(InputError, match="holds no video files"):
        scan(tmp_path)
    with pytest.raises(InputError, match=r"packed archives \(1 \.rar\): unpack"):
        scan(fill(tmp_path, "hmdb51_org.rar"))
    with pytest.raises(InputError, match="is a file"):
        scan(tmp_path / "hmdb51_org.rar")
    fill(tmp_path, "run/a.mp4")
    with pytest.raises(InputError, match="one of auto, ucf101"):
        scan(tmp_path, dataset="ucf-101")
    with pytest.raises(InputError, match=r"--annotations .*no such"):
        scan(tmp_path, annotations=tmp_path / "x")
    with pytest.raises(InputError, match="no official lists of hmdb51"):
        scan(tmp_path, dataset="hmdb51", annotations=tmp_path / "run")
    with pytest.raises(InputError, match="needs --annotations FILE"):
        scan(tmp_path, dataset="csv")


# ---- keys

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=130)


@settings(deadline=None)
@given(NAMES, NAMES)
def test_keys_are_safe_and_fit_a_plain_tar(class_name: str, stem: str) -> None:
    key = video_key(class_name, stem)
    assert KEY.fullmatch(key)
    with tarfile.open(fileobj=io.BytesIO(), mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo(f"{key}.flow_x.offsets.npy"))  # raises where the name is too long


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES, NAMES, st.sampled_from(["avi", "mp4"])), max_size=12), st.randoms())
def test_keys_are_unique_and_independent_of_order(names: list[tuple[str, str, str]], chance: random.Random) -> None:
    videos = [(c, s, f"{c}/{s}.{e}") for c, s, e in sorted(set(names))]
    keys, _ = unique_keys(videos)
    assert len({key.lower() for key in keys}) == len(videos)
    assert all(KEY.fullmatch(key) for key in keys)
    mixed = list(videos)
    chance.shuffle(mixed)
    again, _ = unique_keys(mixed)
    assert dict(zip(mixed, again, strict=True)) == dict(zip(videos, keys, strict=True))


@pytest.mark.parametrize(
    ("class_name", "stem", "key"),
    [
        ("PushUps", "v_PushUps_g01_c01", "PushUps/v_PushUps_g01_c01"),
        ("zumba", "-7tDxxH2g6I", "zumba/-7tDxxH2g6I"),
        ("brush_hair", "Hair__[_NEW_]_UPDATED!!!!_x", "brush_hair/Hair____NEW___UPDATED__x"),
        ("a b", "日本 (1).final", "a_b/_1_final"),
    ],
)
def test_key_examples(class_name: str, stem: str, key: str) -> None:
    assert video_key(class_name, stem) == key


def test_long_names_end_in_a_hash_of_the_whole() -> None:
    ending = hashlib.sha256(f"run/{'x' * 81}".encode()).hexdigest()[:8]
    assert video_key("run", "x" * 81) == f"run/{'x' * 71}_{ending}"
    assert video_key("run", "x" * 80) == f"run/{'x' * 80}"
    assert video_key("run", "x" * 81) != video_key("run", "x" * 82)


def test_clashing_names_get_a_hash_of_their_path_each(tmp_path: Path) -> None:
    fill(tmp_path, "run/a b.mp4", "run/a_b.mp4", "run/A_B.mkv", "run/other.mp4")
    result = scan(tmp_path)
    keys = {video.path: video.key for video in result.videos}
    assert keys["run/other.mp4"] == "run/other"
    for path in ("run/a b.mp4", "run/a_b.mp4", "run/A_B.mkv"):
        assert re.fullmatch(r"run/[aA]_[bB]_[0-9a-f]{8}", keys[path])
    (tmp_path / "run/other.mp4").unlink()
    assert {video.path: video.key for video in scan(tmp_path).videos}.items() <= keys.items()
    assert any("3 videos share class and name" in note for note in result.notes)


def test_a_name_that_looks_like_a_hashed_key_is_told_apart() -> None:
    videos = [("run", "a b", "run/a b.mp4"), ("run", "a_b", "run/a_b.mp4")]
    first, _ = unique_keys(videos)
    sly = ("run", first[0].removeprefix("run/"), "run/sly.mp4")
    keys, clashes = unique_keys([*videos, sly])
    assert len(set(keys)) == 3
    assert sly[2] in clashes


def test_extensions_are_lower_case() -> None:
    assert {"avi", "mp4", "mkv", "webm", "mov", "m2ts", "gif", "y4m", "divx"} <= VIDEO_EXTENSIONS
    assert all(extension == extension.lower() for extension in VIDEO_EXTENSIONS)
