"""Official lists of the known data sets: the published files as they are, and their mistakes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from manifests import datasets
from manifests.lists import kinetics, official, ucf_hmdb
from manifests.lists.listed import ListedVideo, OfficialLists
from manifests.records import InputError


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())
    return file


def test_ucf101_lists_are_the_published_ones(shared: Path) -> None:
    lists = official.find_official("ucf101", [shared / "nowhere", shared / "annotations"])
    assert lists is not None
    assert (lists.num_folds, len(lists.videos)) == (3, 13320)
    assert lists.classes == datasets.class_list("ucf101")
    counts = [Counter(video.subsets[fold] for video in lists.videos) for fold in range(3)]
    assert counts == [
        {"train": 9537, "test": 3783},
        {"train": 9586, "test": 3734},
        {"train": 9624, "test": 3696},
    ]
    place = lists.find("HandstandPushups", "v_HandStandPushups_g01_c01")
    assert place == lists.find("HandstandPushups", "v_HandstandPushups_g01_c01")
    assert place is not None
    assert lists.videos[place].subsets == ("test", "train", "train")
    assert lists.find("Punch", "v_HandStandPushups_g01_c01") is None


def test_hmdb51_lists_are_the_published_ones(shared: Path) -> None:
    lists = official.find_official("hmdb51", [shared / "annotations/hmdb51"])
    assert lists is not None
    assert (lists.num_folds, len(lists.videos)) == (3, 6766)
    for fold in range(3):
        assert Counter(video.subsets[fold] for video in lists.videos) == {"train": 3570, "test": 1530, "unused": 1666}
    for video in lists.videos:
        assert datasets.class_of_name("hmdb51", video.stem, lists.classes) == video.class_name
        assert datasets.group_of("hmdb51", video.class_name, video.stem) in video.stem


def test_official_hmdb51_keeps_the_clips_of_a_source_and_class_together(shared: Path) -> None:
    """What the data set's authors promise; holds only if sources are read from the names rightly."""
    lists = official.find_official("hmdb51", [shared / "annotations"])
    assert lists is not None
    for fold in range(3):
        parts: dict[str, set[tuple[str, str]]] = {"train": set(), "test": set(), "unused": set()}
        for video in lists.videos:
            parts[video.subsets[fold]].add(
                (video.class_name, datasets.group_of("hmdb51", video.class_name, video.stem))
            )
        assert not parts["train"] & parts["test"]
        assert len(parts["unused"] & parts["test"]) > 100  # the published train lists add the unused clips


def test_kinetics400_lists_are_the_published_ones(shared: Path) -> None:
    lists = official.find_official("kinetics400", [shared / "annotations"])
    assert lists is not None
    assert Counter(video.subsets for video in lists.videos) == {("val",): 19906, ("test",): 38685}
    for stem in ("0wR5jVB-WPk", "0wR5jVB-WPk_000417_000427", "0wR5jVB-WPk_000418_000428"):
        place = lists.find("abseiling", stem)
        assert place is not None
        assert lists.videos[place] == ListedVideo("abseiling", "0wR5jVB-WPk_000417_000427", ("val",))
    assert lists.find("abseiling", "0wr5jvb-wpk") is None  # ids tell upper from lower case
    assert {video.class_name for video in lists.videos if video.subsets == ("test",)} == {""}


def test_ucf101_forms(tmp_path: Path) -> None:
    write(tmp_path / "classInd.txt", "1 Diving\r\n2 HandstandPushups\r\n\r\n")
    write(
        tmp_path / "trainlist01.txt",
        "Diving/v_Diving_g08_c01.avi 1\r\nHandstandPushups/v_HandStandPushups_g08_c01.avi 2\r\n\r\n",
    )
    write(tmp_path / "testlist01.txt", "Diving/v_Diving_g01_c01.avi\n\n\n")
    lists = ucf_hmdb.read_ucf101(tmp_path)
    assert lists.classes == ("Diving", "HandstandPushups")
    assert [(video.class_name, video.stem, video.subsets) for video in lists.videos] == [
        ("Diving", "v_Diving_g08_c01", ("train",)),
        ("HandstandPushups", "v_HandStandPushups_g08_c01", ("train",)),
        ("Diving", "v_Diving_g01_c01", ("test",)),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"trainlist01.txt": "Diving/v_a.avi 1"}, "testlist01.txt is missing"),
        (
            {
                "trainlist01.txt": "Diving/v_a.avi 1",
                "testlist01.txt": "Diving/v_b.avi",
                "trainlist03.txt": "",
                "testlist03.txt": "",
            },
            "trainlist02.txt is missing",
        ),
        ({"trainlist01.txt": "Dancing/v_a.avi 1", "testlist01.txt": ""}, "line 1: 'Dancing/v_a.avi 1'"),
        ({"trainlist01.txt": "v_a.avi 1", "testlist01.txt": ""}, "expected `Class/"),
        ({"trainlist01.txt": "", "testlist01.txt": "", "classInd.txt": "0 Diving\n1 Punch\n"}, "counted from 1"),
        ({"trainlist01.txt": "", "testlist01.txt": "", "classInd.txt": "1\n"}, "counted from 1"),
        ({"trainlist01.txt": "", "classInd.txt": "1 A\n2 B\n3 A\n"}, "classes 1 and 3 have one name, 'A'"),
        ({"trainlist01.txt": "", "classInd.txt": "1 A\n2 a\n"}, "classes 1 and 2 have one name"),
        ({"trainlist01.txt": "", "classInd.txt": "1 caf\udce9\n"}, r"classInd.txt, line 1: byte 6 \(0xe9\)"),
        ({"trainlist01.txt": "\x00\udcff"}, r"line 1: byte 2 \(0xff\) is not UTF-8"),
    ],
)
def test_ucf101_mistakes(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message):
        ucf_hmdb.read_ucf101(tmp_path)


def test_hmdb51_forms_and_mistakes(tmp_path: Path) -> None:
    for fold in (1, 2):
        write(
            tmp_path / f"wave_test_split{fold}.txt", f"a clip_wave_f_nm_np1_fr_med_26.avi {fold} \r\nb.avi 0 \r\n\r\n"
        )
    lists = ucf_hmdb.read_hmdb51(tmp_path)
    assert [(video.class_name, video.stem, video.subsets) for video in lists.videos] == [
        ("wave", "a clip_wave_f_nm_np1_fr_med_26", ("train", "test")),
        ("wave", "b", ("unused", "unused")),
    ]
    write(tmp_path / "kick_test_split1.txt", "b.avi 1\n")
    with pytest.raises(InputError, match=r"kick_test_split2.txt is missing"):
        ucf_hmdb.read_hmdb51(tmp_path)
    write(tmp_path / "kick_test_split2.txt", "b.avi 3\n")
    with pytest.raises(InputError, match=r"line 1: 'b\.avi 3'"):
        ucf_hmdb.read_hmdb51(tmp_path)
    write(tmp_path / "kick_test_split2.txt", "b.avi 1\n")
    write(tmp_path / "juggle_test_split1.txt", "b.avi 1\n")
    write(tmp_path / "juggle_test_split2.txt", "b.avi 1\n")
    with pytest.raises(InputError, match="not a class of HMDB51"):
        ucf_hmdb.read_hmdb51(tmp_path)


def test_kinetics_forms(tmp_path: Path) -> None:
    train = write(
        tmp_path / "kinetics700_train.csv",
        'label,youtube_id,time_start,time_end,split\n"tying knot (not on a tie)",AAAAAAAAAAA,1,11,train\nzumba,BBBBBBBBBBB,2,12,train\n'
        "air drumming,BBBBBBBBBBB,30,40,train\n",
    )
    write(
        tmp_path / "kinetics700_val.csv",
        "label,youtube_id,time_start,time_end,split\r\nzumba,CCCCCCCCCCC,2.0,12.0,validate\r\n",
    )
    write(
        tmp_path / "kinetics700_test.csv",
        "youtube_id,time_start,time_end,split\nDDDDDDDDDDD,1,2,test\nCCCCCCCCCCC,2,12,test\n",
    )
    lists = official.find_official("kinetics700", [tmp_path])
    assert lists is not None
    assert lists.classes == ("air_drumming", "tying_knot_(not_on_a_tie)", "zumba")

    def find(stem: str) -> tuple[str, str] | None:
        place = lists.find("", stem)
        return None if place is None else (lists.videos[place].class_name, lists.videos[place].subsets[0])

    assert find("AAAAAAAAAAA") == find("AAAAAAAAAAA_000001_000011") == ("tying_knot_(not_on_a_tie)", "train")
    assert find("BBBBBBBBBBB") is None  # two clips of one video: the id alone does not tell which
    assert find("BBBBBBBBBBB_000030_000040") == ("air_drumming", "train")
    assert find("CCCCCCCCCCC") == ("zumba", "val")  # listed twice: the labelled line counts
    assert find("DDDDDDDDDDD") == ("", "test")
    with pytest.raises(InputError, match=r"--dataset kinetics600"):
        kinetics.read_kinetics(
            "kinetics400",
            [write(tmp_path / "x.csv", "label,youtube_id,time_start,time_end\njuggling chainsaws,E,1,2\n")],
        )
    with pytest.raises(InputError, match=r"y.csv, line 2: time_start 'soon'"):
        kinetics.read_kinetics(
            "kinetics700", [write(tmp_path / "y.csv", "label,youtube_id,time_start,time_end\nzumba,E,soon,2\n")]
        )
    with pytest.raises(InputError, match="no column time_end"):
        kinetics.read_kinetics("kinetics700", [write(tmp_path / "z.csv", "label,youtube_id,time_start\nzumba,E,1\n")])
    assert kinetics.is_kinetics_csv(train)
    assert not kinetics.is_kinetics_csv(tmp_path)


def test_a_key_finds_the_kinetics_entry_whose_id_begins_with_underscores() -> None:
    index = {"__abcdefghi_000001_000011": 0, "_xbcdefghij_000001_000011": 1}
    lists = OfficialLists("lists", ("run",), (), index, 1)
    assert lists.find("run", "_abcdefghi_000001_000011") == 0
    assert lists.find("run", "_xbcdefghij_000001_000011") == 1
    assert lists.find("run", "_bcdefghi_000001_000011") is None
