"""Fixtures of the tests of extraction."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.extraction import BACKENDS, REPOSITORY


@pytest.fixture
def backends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of misbehaving decoders that the worker processes can import; gives the name for --decoder."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "fake_backends.py").write_text(BACKENDS)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{REPOSITORY}")
    return "fake_backends:open_video"
