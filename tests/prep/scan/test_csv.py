"""Labels from a csv file: every listed and unlisted file is accounted for, mistakes are named by line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from manifests.records import InputError
from tests.prep.scan.support import by_path, fill
from tgprep.scan.scan import scan


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


def test_every_listed_file_is_accounted_for(tmp_path: Path) -> None:
    """A listed file that exists but is no video is skipped with the reason, not missing."""
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
    ("text", "message"),
    [
        ("1.mp4,run\n", "first line lacks a column for path and label (got 1.mp4, run)"),
        ("path,label\n", "no rows"),
        ("", "an empty file"),
        ("path,label\n1.mp4,a\n1.mp4,b\n", "line 3: 1.mp4 is listed twice"),
        ("path,label\n../1.mp4,a\n", "leaves VIDEOS"),
        ("path,label\n/v/1.mp4,a\n", "leaves VIDEOS"),
        ("path,label,subset\n1.mp4,a,maybe\n", "subset 'maybe'"),
        (
            "path,label\nnone.mp4,a\n",
            "names none of its videos: it names none.mp4, VIDEOS holds 1.mp4. Write paths relative",
        ),
        ("path,kind\n1.mp4,a\n", "lacks a column for label (got path, kind)"),
        ("Path,Kind\n", "Known names: label: label, class_name, class, category"),
        ("path,label,label\n1.mp4,a,b\n", "column 'label' comes twice"),
        ("path,label\na,1.mp4,run\n", "line 2: 3 cells, the header has 2"),
        ('path,label\n"1.mp4,run\n', "line 2: is no csv"),
        ("path,label\n1.mp4,nan\n", "line 2: no label (label is 'nan')"),
        ("path,label\n1.mp4,-1\n", "line 2: label '-1'; expected a class name, or a whole number"),
        ("path,label\n1.mp4,1.5\n", "line 2: label '1.5'"),
        (
            "path,label\n1.mp4,1\n2.mp4,2\n3.mp4,x\n",
            "2 of 3 labels are numbers, such as '1', the others names, such as 'x'",
        ),
        (
            "path,label,split\n1.mp4,a,train\n2.mp4,a,holdout_test\n",
            "line 3: split 'holdout_test' (1 row has such a word",
        ),
        ("path,label,fold\n1.mp4,a,train\n2.mp4,a,2\n", "line 3: fold '2'"),
        ("path,label,subset,split\n1.mp4,a,train,test\n", "line 2: 'train' and 'test' in the columns subset or split"),
        ("path,label,subset,split\n1.mp4,a,,maybe\n", "line 2: subset or split 'maybe'"),
        ("path,label,usage\n1.mp4,a,Train\n2.mp4,a,Test\n", "column 'usage' holds test, train"),
        ("path,label,Train/Test\n1.mp4,a,train\n2.mp4,a,val\n", "column 'train/test' holds train, val"),
        ("path,label\n1.mp4,a\n./1.mp4,b\n", "line 3: 1.mp4 is listed twice"),
        ("path,label\n1.mp4,a\n1,b\n", "line 3: 1.mp4 is listed twice"),
        ("path,label\n1.mp4,caf\udce9\n", "line 2: byte 10 (0xe9) is not UTF-8"),
        ("path,label\n1.mp4,\0\n", "line 2: holds a NUL byte"),
    ],
)
def test_csv_mistakes(tmp_path: Path, text: str, message: str) -> None:
    fill(tmp_path / "v", "1.mp4")
    (tmp_path / "list.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=re.escape(message)):
        scan(tmp_path / "v", dataset="csv", annotations=tmp_path / "list.csv")


@pytest.mark.parametrize(
    "text",
    [
        '"path","label"\n"A/x.avi","run"\n"A/y.mp4","jump"\n',
        "Path,Label\nA/x.avi,run\nA/y.mp4,jump\n",
        "path, label\nA/x.avi, run\nA/y.mp4, jump\n",
        '"path", "label"\n"A/x.avi", "run"\n"A/y.mp4", "jump"\n',
        "label;path\nrun;A/x.avi\njump;A/y.mp4\n",
        "sep=;\n;;\nlabel;path\nrun;A/x.avi\njump;A/y.mp4\n",
        "Video Path\tClass-Name\nA/x.avi\trun\nA/y.mp4\tjump\n",
        ",path,label,,\n0,A/x.avi,run,,\n\n1,A/y.mp4,jump,,\n,,,,\n",
        "id,file_name,tag\n1,A/x.avi,run\n2,A/y.mp4,jump\n",
        "video_id,filepath,category\nx,A/x.avi,run\ny,A/y.mp4,jump\n",
        "key,path,label\nrun/x,A/x.avi,run\njump/y,A/y.mp4,jump\n",
        "path,label\n.\\A/x.avi,run\nA\\y.mp4,jump\n",
        "path,label\n./A/x.avi,run\nA/y,jump\n",
        "path,label\n/A/x.avi,run\n\\A\\y.mp4,jump\n",
        "path,label\nVIDEOS/A/x.avi,run\nv/A/y.mp4,jump\n",
        "path,label\r\nA/x.avi,run\r\nA/y.mp4,jump\r\n",
        "path,label\rA/x.avi,run\rA/y.mp4,jump\r",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_forms_of_csv(tmp_path: Path, text: str, encoding: str) -> None:
    """As Excel, pandas, R and people write it, in every encoding that says what it is."""
    videos = fill(tmp_path / "v", "A/x.avi", "A/y.mp4")
    (tmp_path / "list.csv").write_bytes(text.replace("VIDEOS", str(videos)).encode(encoding))
    result = scan(videos, dataset="csv", annotations=tmp_path / "list.csv")
    assert {path: video.class_name for path, video in by_path(result).items()} == {"A/x.avi": "run", "A/y.mp4": "jump"}
    assert result.num_folds == 0


@pytest.mark.parametrize(
    "labels",
    [("0", "2", "10"), ("0.0", "2.0", "10.0"), ("00", " 02", "10"), ("0", "2.", "1e1"), ("+0", "2", "1.0E+01")],
)
def test_whole_numbers_stay_numbers(tmp_path: Path, labels: tuple[str, ...]) -> None:
    fill(tmp_path / "v", "1.mp4", "2.mp4", "3.mp4")
    (tmp_path / "list.csv").write_text(
        "path,label\n" + "".join(f"{n}.mp4,{label}\n" for n, label in enumerate(labels, 1))
    )
    result = scan(tmp_path / "v", dataset="csv", annotations=tmp_path / "list.csv")
    assert {path: video.label for path, video in by_path(result).items()} == {"1.mp4": 0, "2.mp4": 2, "3.mp4": 10}
    assert len(result.classes) == 11


@pytest.mark.parametrize(
    ("text", "num_folds", "note"),
    [
        ("path,label,split\n1.mp4,a,Train\n2.mp4,a, TEST \n", 1, ""),
        ("path,label,subset,split\n1.mp4,a,,train\n2.mp4,a,,test\n", 1, ""),
        ("path,label,subset,split\n1.mp4,a,train,\n2.mp4,a,,test\n", 1, ""),
        ("path,label,split,fold\n1.mp4,a,train,1\n2.mp4,a,test,2\n", 1, "the column fold of list.csv holds numbers"),
        ("path,label,partition\n1.mp4,a,training\n2.mp4,a,testing\n", 1, ""),
        ("path,label,set\n1.mp4,a,train\n2.mp4,a,\n", 1, "1 of 2 rows have no set and are in no part"),
        ("path,label,set\n1.mp4,a,\n2.mp4,a,\n", 0, "the column set is empty: every video counts as train"),
        ("path,label,fold\n1.mp4,a,1\n2.mp4,a,2\n", 0, "holds numbers, not train, val or test: it is not read"),
        ("path,label\n1.mp4,Run\n2.mp4,run\n", 0, "2 classes have names that differ in case or spaces alone"),
        ("path,label\n1.mp4,x\n2.mp4,360\n", 0, "1 of 2 labels are numbers"),
        ("file,class\n1.mp4,x\n2.mp4,y\n", 0, "columns of list.csv: the path is file, the label class"),
        ("path,label,is_train\n1.mp4,x,1\n2.mp4,y,0\n", 0, "columns of list.csv that are not read: is_train"),
    ],
)
def test_what_a_csv_says_of_subsets_and_classes(tmp_path: Path, text: str, num_folds: int, note: str) -> None:
    fill(tmp_path / "v", "1.mp4", "2.mp4")
    (tmp_path / "list.csv").write_text(text)
    result = scan(tmp_path / "v", dataset="csv", annotations=tmp_path / "list.csv")
    assert (result.num_folds, len(result.videos)) == (num_folds, 2)
    assert any(note in line for line in result.notes), result.notes
    if num_folds:
        assert by_path(result)["1.mp4"].subsets == ("train",)
        assert by_path(result)["2.mp4"].subsets != ("train",)


def test_names_of_both_forms_of_unicode_match(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    fill(tmp_path / "v", f"{decomposed}.mp4", "x.mp4")
    (tmp_path / "list.csv").write_text(f"path,label\n{composed}.mp4,{composed}\nx.mp4,{decomposed}\n")
    result = scan(tmp_path / "v", dataset="csv", annotations=tmp_path / "list.csv")
    assert (len(result.videos), result.classes) == (2, (composed,))


def test_twins_in_both_forms_of_unicode_keep_their_labels(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    fill(tmp_path / "v", f"{decomposed}.mp4", f"{composed}.mp4")
    (tmp_path / "list.csv").write_text(f"path,label\n{decomposed}.mp4,b\n{composed}.mp4,a\n")
    result = scan(tmp_path / "v", dataset="csv", annotations=tmp_path / "list.csv")
    assert {v.path: v.class_name for v in result.videos} == {f"{decomposed}.mp4": "b", f"{composed}.mp4": "a"}


def test_names_that_no_table_holds_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "v", "1.mp4")
    (tmp_path / "list.csv").write_text(f"path,label\n1.mp4,{1025 * 'a'}\n")
    with pytest.raises(InputError, match=r"1\.mp4: its class or group has 1025 bytes; expected at most 1024"):
        scan(tmp_path / "v", dataset="csv", annotations=tmp_path / "list.csv")
