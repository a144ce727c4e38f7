"""Official lists that contradict themselves: counted, with an example; no held-out video is trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.lists.kinetics import read_kinetics
from manifests.lists.listed import OfficialLists
from manifests.lists.ucf_hmdb import read_hmdb51, read_ucf101
from manifests.records import InputError
from manifests.splits.lists import read_list

HEADER = "label,youtube_id,time_start,time_end,split\n"


def write(folder: Path, **files: str) -> list[Path]:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, "utf-8")
    return sorted(folder.iterdir())


def subsets(lists: OfficialLists) -> dict[str, str]:
    return {video.stem: "/".join(video.subsets) for video in lists.videos}


def noted(lists: OfficialLists, text: str) -> bool:
    return any(text in note for note in lists.notes)


def kinetics(folder: Path, **files: str) -> OfficialLists:
    return read_kinetics("kinetics700", write(folder, **{name: HEADER + rows for name, rows in files.items()}))


@pytest.mark.parametrize("word", ["holdout_test", "heldout", "dev2", "trian", "train/val", "1", "eval", "unseen"])
def test_unknown_words_for_a_split_are_never_train(tmp_path: Path, word: str) -> None:
    lists = kinetics(
        tmp_path, train__csv=f"a,AAAAAAAAAAA,0,10,train\na,BBBBBBBBBBB,0,10,{word}\na,CCCCCCCCCCC,0,10,{word}\n"
    )
    assert subsets(lists) == {
        "AAAAAAAAAAA_000000_000010": "train",
        "BBBBBBBBBBB_000000_000010": "unused",
        "CCCCCCCCCCC_000000_000010": "unused",
    }
    assert noted(
        lists, f"2 rows are in no part: the word for the split is not train, val or test: train.csv line 3: {word!r}"
    )


@pytest.mark.parametrize(
    ("word", "subset"),
    [
        ("Test", "test"),
        (" validate ", "val"),
        ("TRAINING", "train"),
        ("dev", "val"),
        ("unused", "unused"),
        ("", "unused"),
    ],
)
def test_known_words(tmp_path: Path, word: str, subset: str) -> None:
    lists = kinetics(tmp_path, all__csv=f"a,AAAAAAAAAAA,0,10,train\na,BBBBBBBBBBB,0,10,{word}\n")
    assert subsets(lists)["BBBBBBBBBBB_000000_000010"] == subset


@pytest.mark.parametrize(
    ("name", "subset"),
    [
        ("train", "train"),
        ("kinetics-700_train_v2", "train"),
        ("kinetics_val", "val"),
        ("holdout_test", "test"),
        ("test-2020", "test"),
        ("train_holdout", ""),
        ("train_val", ""),
        ("annotations", ""),
    ],
)
def test_names_of_files_count_if_there_is_no_column(tmp_path: Path, name: str, subset: str) -> None:
    for text in ("label,youtube_id,time_start,time_end\na,AAAAAAAAAAA,0,10\n", f"{HEADER}a,AAAAAAAAAAA,0,10,\n"):
        lists = read_kinetics("kinetics700", write(tmp_path, **{f"{name}__csv": text}))
        assert list(subsets(lists).values()) == [subset]
        assert noted(lists, "1 row of the lists is in no subset") == (not subset)


def test_several_columns_of_subsets(tmp_path: Path) -> None:
    header = "label,youtube_id,time_start,time_end,subset,split\n"
    rows = "a,AAAAAAAAAAA,0,10,,test\na,BBBBBBBBBBB,0,10,train,test\na,CCCCCCCCCCC,0,10,train,\n"
    lists = read_kinetics("kinetics700", write(tmp_path, all__csv=header + rows))
    assert list(subsets(lists).values()) == ["test", "unused", "train"]
    assert noted(lists, "1 row with two words for the split is in no part: all.csv line 3: train and test")
    file = tmp_path / "list.csv"
    file.write_text("path,label,subset,split\na/1,0,,test\na/2,0,train,\n")
    assert [entry.subset for entry in read_list(file).entries] == ["test", "train"]
    file.write_text("path,label,subset,split\na/1,0,train,test\n")
    with pytest.raises(InputError, match="line 2: 'train' and 'test' for the subset"):
        read_list(file)
    for text in ("path,label,usage\na/1,0,train\na/2,0,test\n", '[{"filename": "a/1", "label": 0, "usage": "Val"}]'):
        file.write_text(text)
        with pytest.raises(InputError, match="column 'usage' holds"):
            read_list(file)


def test_clips_of_kinetics_in_two_subsets_or_classes(tmp_path: Path) -> None:
    lists = kinetics(
        tmp_path,
        test__csv="a,BBBBBBBBBBB,0,10,train\n",
        train__csv="a,AAAAAAAAAAA,0,10,train\na,CCCCCCCCCCC,0,10,train\nA,DDDDDDDDDDD,0,10,train\na,EEEEEEEEEEE,0,10,train\n",
        val__csv="a,AAAAAAAAAAA,0,10,val\nb,CCCCCCCCCCC,0,10,val\na,EEEEEEEEEEE,5,15,val\nb,#NAME?,0,10,val\n",
    )
    assert subsets(lists) == {
        "BBBBBBBBBBB_000000_000010": "test",
        "AAAAAAAAAAA_000000_000010": "val",
        "CCCCCCCCCCC_000000_000010": "unused",
        "DDDDDDDDDDD_000000_000010": "train",
        "EEEEEEEEEEE_000000_000010": "train",
        "EEEEEEEEEEE_000005_000015": "val",
        "#NAME?_000000_000010": "val",
    }
    assert lists.classes == ("a", "b")
    for text in (
        "1 row is train by the column and held out by the name of the file, which counts: test.csv line 2",
        "2 videos are in two subsets of a list",
        "val.csv line 2 (train and val)",
        "1 video with two classes is in no part: val.csv line 3 (a and b)",
        "1 label differs from a class in case alone, and is taken for it: A",
        "1 id is no YouTube id",
    ):
        assert noted(lists, text), lists.notes


@pytest.mark.parametrize(("label", "subset"), [("", "test"), ("nan", "test"), ("NaN", "test")])
def test_withheld_labels(tmp_path: Path, label: str, subset: str) -> None:
    lists = kinetics(tmp_path, x__csv=f"a,AAAAAAAAAAA,0,10,train\n{label},BBBBBBBBBBB,0,10,{subset}\n")
    assert (lists.classes, lists.videos[1].class_name) == (("a",), "")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("-1,AAAAAAAAAAA,0,10,train", "line 2: label '-1'; expected the name of a class"),
        ("0.0,AAAAAAAAAAA,0,10,train", "line 2: label '0.0'"),
        ("a,AAAAAAAAAAA,nan,10,train", "line 2: time_start 'nan'"),
        ("a,AAAAAAAAAAA,0,1e400,train", "line 2: time_start '0', time_end '1e400'"),
        ("a,AAAAAAAAAAA,0,-10,train", "line 2: time_start '0', time_end '-10'"),
        ('"a,AAAAAAAAAAA,0,10,train', "line 2: is no csv"),
        ("a,b,AAAAAAAAAAA,0,10,train", "line 2: 6 cells, the header has 5"),
    ],
)
def test_mistakes_of_kinetics_csv(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        kinetics(tmp_path, x__csv=f"{row}\n")
    assert message in str(caught.value)


def test_header_of_kinetics_csv_in_other_forms(tmp_path: Path) -> None:
    text = '"Label";"YouTube_ID";"Time_Start";"Time_End";"Split";\n"a b";"AAAAAAAAAAA";"0.0";"10.0";"val";\n'
    lists = read_kinetics("kinetics700", write(tmp_path, x__csv=text))
    assert (subsets(lists), lists.classes) == ({"AAAAAAAAAAA_000000_000010": "val"}, ("a_b",))


def test_ucf101(tmp_path: Path) -> None:
    write(
        tmp_path,
        classInd__txt="1 A\n2 B\n",
        trainlist01__txt="A/v_a.avi 1\nA/v_b.avi 1\nA/v_b.avi 1\nB/v_c.avi 1\nA\\v_d.avi 1.0\nB/v_u\u0308.avi 2\n",
        testlist01__txt="A/V_A.avi\nB/v_\u00fc.avi\n",
    )
    lists = read_ucf101(tmp_path)
    assert subsets(lists) == {"v_a": "test", "v_b": "train", "v_c": "train", "v_d": "train", "v_u\u0308": "test"}
    assert lists.notes == (
        "1 entry of the lists repeats a video: trainlist01.txt line 3",
        "1 label of the train lists not as in the class list (from 1); the class names count: trainlist01.txt line 4: B 1",
        "2 videos are in two subsets of a list; of val, test, unused and train the first counts: "
        "testlist01.txt line 1 (train and test), testlist01.txt line 2 (train and test)",
    )
    assert lists.find("B", "v_\u00fc") == lists.find("B", "v_u\u0308") == 4


def test_hmdb51(tmp_path: Path) -> None:
    write(
        tmp_path,
        wave_test_split1__txt="a.avi 1\na.avi 2\nb.avi 0\nb.AVI 1\nc.mp4\t1.0\n",
        kick_test_split1__txt="a.avi 1\n",
    )
    lists = read_hmdb51(tmp_path)
    assert {(video.class_name, video.stem): video.subsets[0] for video in lists.videos} == {
        ("kick", "a"): "train",
        ("wave", "a"): "test",
        ("wave", "b"): "unused",
        ("wave", "c"): "train",
    }
    assert noted(lists, "2 videos are in two subsets of a list")
    write(tmp_path, wave_test_split1__txt="a.avi -1\n")
    with pytest.raises(InputError, match=r"line 1: 'a\.avi -1'; expected"):
        read_hmdb51(tmp_path)
