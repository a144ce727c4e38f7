"""Data sets of tiny videos for the tests of edits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.prep.support import extract_videos, moving_square, write_video


def _make(folder: Path, classes: dict[str, range], **settings: object) -> Path:
    for name, numbers in classes.items():
        for number in numbers:
            frames = moving_square(4, 48, 32, start=3 * number)
            write_video(folder / "videos" / name / f"v_g{number:02d}.avi", frames)
    extract_videos(folder / "videos", folder / "data", videos_per_shard=2, **settings)
    return folder / "data"


@pytest.fixture(scope="session")
def first_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes clap and wave, with one video that fails and a file that is skipped."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "videos" / "wave").mkdir(parents=True)
    (folder / "videos" / "wave" / "broken.avi").write_bytes(b"no video")
    (folder / "videos" / "notes.xyz").write_bytes(b"x")
    return _make(folder, {"clap": range(3), "wave": range(2)})


@pytest.fixture(scope="session")
def second_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes bow and wave: wave has another label than in the first data set."""
    folder = tmp_path_factory.mktemp("second")
    (folder / "videos").mkdir()
    (folder / "videos" / "notes.xyz").write_bytes(b"x")
    return _make(folder, {"bow": range(2), "wave": range(5, 7)})


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path, str], Path]:
    """Makes a copy of a data set that a test may change."""

    def make(data: Path, name: str) -> Path:
        return Path(shutil.copytree(data, tmp_path / name))

    return make
