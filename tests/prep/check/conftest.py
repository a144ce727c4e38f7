"""A small data set, its videos, and a copy to be damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.prep.check.support import SAMPLE, make
from tgprep.obtain.sample import render_sample


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small videos and one that does not decode."""
    root = tmp_path_factory.mktemp("check") / "videos"
    render_sample(root, SAMPLE)
    (min(path for path in root.iterdir() if path.is_dir()) / "broken.avi").write_bytes(b"no video at all")
    return root


@pytest.fixture(scope="module")
def sound(videos: Path) -> Path:
    out = videos.parent / "dataset"
    make(videos, out)
    return out


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "dataset"))
