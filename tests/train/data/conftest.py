"""Videos that several tests of stored videos read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prep.support import numbered, write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of three sizes, one of them odd, whose frames carry their number."""
    root = tmp_path_factory.mktemp("gop") / "videos"
    for number, (width, height) in enumerate([(72, 40), (96, 64), (73, 41), (72, 40)]):
        frames = [numbered(k, height, width) for k in range(30 + number)]
        write_video(root / f"class{number % 2}" / f"v{number}.avi", frames, "png", "rgb24")
    return root
