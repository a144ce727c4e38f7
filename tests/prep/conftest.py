"""Fixtures of the tests of tgprep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.prep.support import moving_square, write_video


@pytest.fixture
def video_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes VIDEOS with class folders of small videos: `video_folder(num_classes=2, videos_per_class=3)`."""

    def make(num_classes: int = 2, videos_per_class: int = 3, num_frames: int = 6, name: str = "videos") -> Path:
        root = tmp_path / name
        for label in range(num_classes):
            for number in range(videos_per_class):
                frames = moving_square(num_frames + number % 3, start=7 * label + number)
                write_video(root / f"class{label}" / f"v{number:03d}.avi", frames, **{"q:v": "3"})
        return root

    return make
