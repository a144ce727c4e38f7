"""Listing files: everything is accounted for, links are followed once, mistakes are explained."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from manifests.datasets import VIDEO_EXTENSIONS
from manifests.records import InputError
from tests.prep.scan.support import fill
from tgprep.scan.files import OTHER_EXTENSIONS, list_videos
from tgprep.scan.scan import scan


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
    assert "ignored files that are no videos: 3 hidden, 1 mp3, 1 txt" in result.notes


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "disk", "run/a.mp4")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/run").symlink_to(tmp_path / "disk/run")
    assert [video.path for video in scan(tmp_path / "videos").videos] == ["run/a.mp4"]


def test_names_that_are_not_utf8_are_skipped(tmp_path: Path) -> None:
    fill(tmp_path, "run/a.mp4")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/run/\xff.mp4"))).touch()
    result = scan(tmp_path)
    assert len(result.videos) == 1
    assert [entry.reason for entry in result.skipped] == ["name is not valid UTF-8; rename it"]
    assert result.skipped[0].path.encode() == b"run/\\udcff.mp4"


def test_unreadable_folders_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_mistakes(tmp_path: Path) -> None:
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


def test_extensions_are_lower_case_and_of_one_kind() -> None:
    assert {"avi", "mp4", "mkv", "webm", "mov", "m2ts", "gif", "y4m", "divx"} <= VIDEO_EXTENSIONS
    assert {"h264", "264", "h265", "265", "hevc", "ivf", "obu", "ps", "m2v", "mjpeg", "dav", "m2t"} <= VIDEO_EXTENSIONS
    assert all(extension == extension.lower() for extension in VIDEO_EXTENSIONS)
    assert not VIDEO_EXTENSIONS & OTHER_EXTENSIONS


def test_every_odd_file_is_a_video(shared: Path, tmp_path: Path) -> None:
    odd = shared / "videos/odd2"
    names = {line.split("\t")[0] for line in (odd / "MANIFEST.tsv").read_text().splitlines()[1:]}
    assert {file.path for file in list_videos(odd).videos} == names
    # The same content under another spelling, and raw streams that PyAV decodes.
    for extension in ("H264", "Hevc", "IVF", "Obu", "264", "265", "ps", "M2V"):
        (tmp_path / f"a.{extension}").touch()
    assert len(list_videos(tmp_path).videos) == 8
