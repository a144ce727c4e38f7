"""Lists as other programs write them: tables with any header, labels of pandas, words for subsets, encodings."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from manifests.records import InputError
from manifests.splits.list_import import import_lists
from manifests.splits.lists import read_list
from manifests.splits.settings import PARTS
from tests.manifests.splits.support import imported, row, small

DATA = small(
    row("deep/run/a.avi", 1),
    row("deep/jump/b c.avi", 0),
    row("deep/run/other.avi", 1),
    row("deep/jump/caf\u00e9.avi", 0),
)


@pytest.mark.parametrize(
    "text",
    [
        '"path","label"\n"run/a.avi","run"\n"jump/b c.avi","jump"\n',
        "video_id,filepath,label\na,train_videos/a.avi,1\nb,train_videos/b c.avi,0\n",
        "id,file_name,label\n1,a.avi,1\n2,b c.avi,0\n",
        "clip_name,clip_path,label\na,/train/run/a.avi,1\nb c,/train/jump/b c.avi,0\n",
        "Path, Label\nrun/a.avi, 1\njump/b c.avi, 0\n",
        "path;label;;\nrun/a.avi;1;;\njump/b c.avi;0;;\n",
        "name\tclass\nrun/a.avi\trun\njump/b c.avi\tjump\n",
        "path,label,frames\nrun/a.avi,1.0,100.0\njump/b c.avi,0.0,100.0\n",
        '"run/a.avi",1\n"jump/b c.avi",0\n',
        "run/a.avi;1.0\njump/b c.avi;0.0\n",
        "run/a.avi,run\njump/b c.avi,jump\n",
        "run/a.avi 1.0\njump/b c.avi 0.0\n",
        "run/a.avi 100.0 1.0\njump/b c.avi 100.0 0.0\n",
        '\n [{"frame_dir": "run/a", "total_frames": 100, "label": [1]}, {"filename": "jump/b c.avi", "label": 0}]',
        "RUN\\A.AVI 1\nJUMP\\b c.avi 0\n",
        "path,label,split\nrun/a.avi,1,Train\njump/b c.avi,0,training\n",
        "path,label,fold\nrun/a.avi,1,1\njump/b c.avi,0,2\n",
        json.dumps([{"File Name": "run/a.avi", "Label": 1.0}, {"File Name": "jump/b c.avi", "Label": "jump"}]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_forms(tmp_path: Path, text: str, encoding: str) -> None:
    for ends in ("\n", "\r\n", "\r"):
        (tmp_path / "list.csv").write_bytes(text.replace("\n", ends).encode(encoding))
        split, report = imported(DATA, tmp_path / "list.csv")
        assert split.keys_of("labelled") == ["jump/b_c", "run/a"]
        assert (report.unmatched, report.differences) == ((), ())


def test_the_first_line_of_a_list_without_header_counts(tmp_path: Path) -> None:
    data = small(row("run/video.avi", 1), row("run/path.avi", 1))
    (tmp_path / "list.csv").write_text("video,1\npath,1\n")
    assert imported(data, tmp_path / "list.csv")[0].keys_of("labelled") == ["run/path", "run/video"]


def test_names_match_in_both_forms_of_unicode(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("jump/cafe\u0301.avi 0\n", "utf-8")
    split, _ = imported(DATA, tmp_path / "list.txt")
    assert split.keys_of("labelled") == ["jump/caf\u00e9"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\nrun/a.avi,-1\n", "line 2: label '-1'; expected"),
        ("path,label\nrun/a.avi,nan\n", "line 2: no label"),
        ("path,label\nrun/a.avi,1\njump/b c.avi,\n", "line 3: no label"),
        ("run/a.avi 1\n\njump/b c.avi -1\n", "line 3: label '-1'; expected"),
        ("path,label\nrun/a.avi,0.5\n", "line 2: label '0.5'"),
        ('[{"filename": "run/a.avi", "label": null}]', "line 1: no label"),
        (
            "clippe;kind;by\nrun/a.avi;1;me\n",
            "clippe, kind, by are no columns with a known name; known are path: key, path, video_path",
        ),
        ("path,label\nrun,a.avi,1\n", "line 2: 3 cells, the header has 2"),
        (
            "path,label,split\nrun/a.avi,1,test\n",
            "none of its lines is for labelled videos. Line 2: its subset is 'test'",
        ),
        ("[" * 100_000, "line 1: has 100,000 characters"),
        ("[" * 9_000, "none of its 1 line names a video"),
        ("youtube_id,time_start,time_end,label\nx,inf,2,run\n", "line 2: time_start 'inf'"),
    ],
)
def test_mistakes_of_tables(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        imported(DATA, tmp_path / "list.csv")
    assert message in str(caught.value)


@pytest.mark.parametrize("word", ["test", "Validate", "holdout_test", "dev", "heldout", "unused", "unlabeled"])
def test_rows_of_another_subset_are_not_labelled(tmp_path: Path, word: str) -> None:
    (tmp_path / "list.csv").write_text(f"path,label,subset\nrun/a.avi,1,train\njump/b c.avi,0,{word}\n")
    split, report = imported(DATA, tmp_path / "list.csv")
    assert split.keys_of("labelled") == ["run/a"]
    part = {"test": "test", "Validate": "validation", "dev": "validation", "unlabeled": "unlabelled"}.get(word, "")
    assert [name for name in PARTS if "jump/b_c" in split.keys_of(name)] == [part] * bool(part)
    reasons = [] if part in ("test", "validation") else [(3, f"its subset is {word!r}, not train")]
    assert [(entry.line, entry.reason) for entry in report.unmatched] == reasons
    by_word = f"1 line is {f'for {part}' if part else 'in no part'} by the list's own word for the subset"
    assert (by_word in report.notes) == (part != "unlabelled")


def test_a_video_that_a_list_calls_train_and_test_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label,subset\nrun/a.avi,1,train\nrun/a.avi,1,test\n")
    with pytest.raises(InputError, match="1 of 1 labelled video is in the test part too"):
        imported(DATA, tmp_path / "list.csv")


def test_contradictions_are_reported(tmp_path: Path) -> None:
    """One video with two labels, and one that is in the official train list and in an imported test list."""
    data = small(row("run/a.avi", 1, subsets=("train",)), row("run/b.avi", 1, subsets=("train",)))
    (tmp_path / "list.txt").write_text("run/a.avi 1\nrun/A.avi 0\nrun/a.avi 1\n")
    (tmp_path / "test.txt").write_text("run/b.avi 1\n")
    split, report = import_lists(data, {"labelled": tmp_path / "list.txt", "test": tmp_path / "test.txt"})
    assert [(entry.line, entry.reason) for entry in report.unmatched] == [
        (2, "listed before, in line 1 with label 1, which counts"),
        (3, "listed before, in line 1"),
    ]
    assert (split.keys_of("unlabelled"), split.keys_of("test")) == (["run/a"], ["run/b"])
    assert any("1 video of the official train list is in an imported list" in note for note in report.notes)


@pytest.mark.parametrize(
    "line",
    ["A" + " " * 16_000 + "x 1 2", "A" + "\t" * 16_000 + "b 1", "9" * 16_000, "A" + " 1" * 8_000, "A" + " ," * 8_000],
)
def test_long_lines_take_no_time(tmp_path: Path, line: str) -> None:
    """No expression tries every way to divide a line."""
    (tmp_path / "a.txt").write_text(f"{line}\n" * 20)
    began = time.process_time()
    read_list(tmp_path / "a.txt")
    assert time.process_time() - began < 5
