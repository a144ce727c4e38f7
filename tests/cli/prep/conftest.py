"""Videos, decoders and undisturbed runs for the tests of `tgprep extract`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.prep.support import SLOW
from tests.extraction import BACKENDS, call, tree
from tests.prep.support import moving_square, write_video


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module of misbehaving decoders."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "fake_backends.py").write_text(BACKENDS)
    return folder


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 real videos, two of them damaged."""
    root = tmp_path_factory.mktemp("corpus") / "videos"
    for number in range(30):
        frames = moving_square(6 + number % 5, start=3 * number)
        write_video(root / f"class{number % 3}" / f"v{number:03d}.avi", frames, **{"q:v": "3"})
    (root / "class0" / "empty.avi").write_bytes(b"")
    (root / "class1" / "text.mp4").write_text("no video\n" * 50)
    return root


@pytest.fixture(scope="session")
def undisturbed(videos: Path, modules: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a run that nothing disturbed, with the slow decoder."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = call("extract", videos, out, *SLOW, path=modules)
    assert done.returncode == 1, done.stderr  # the empty file fails
    return tree(out)


@pytest.fixture(scope="session")
def whole_out(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of a run that nothing disturbed, with the default decoder."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert call("extract", videos, out, "--threads", "1").returncode == 1
    return out


@pytest.fixture(scope="session")
def whole(whole_out: Path) -> dict[str, str]:
    """The files of `whole_out`."""
    return tree(whole_out)
