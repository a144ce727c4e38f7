"""Labels from a csv file: every listed and unlisted file is accounted for, mistakes are named by line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from manifests.records import InputError
from tests.prep.scan.support import fill
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
def test_csv_mistakes(tmp_path: Path, text: str, message: str) -> None:
    fill(tmp_path / "v", "1.mp4")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        scan(tmp_path / "v", dataset="csv", annotations=tmp_path / "list.csv")
