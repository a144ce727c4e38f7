"""The files that `tgtrain predict` takes from a folder: those that extraction takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.train.predict import _files


def test_folders_are_listed_as_for_an_extraction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("disk/linked.H264", "v/b/a.avi", "v/.hidden/c.avi", "v/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder = tmp_path / "v"
    (folder / "more").symlink_to(tmp_path / "disk")
    os.mkfifo(folder / "pipe.mp4")
    assert _files((folder, folder / "b/a.avi")) == [folder / "b/a.avi", folder / "more/linked.H264"]
    assert "pipe.mp4: not a regular file" in capsys.readouterr().err
