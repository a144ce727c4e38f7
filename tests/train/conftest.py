"""A small data set of real shards, made once: noise-free synthetic frames with known values, packed by the contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.train.report.pages import write_run, write_test
from tests.train.support import write_data_set


@pytest.fixture(scope="session")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small data set; do not change it."""
    root = tmp_path_factory.mktemp("data") / "set"
    write_data_set(root)
    return root


@pytest.fixture
def make_data_set(tmp_path: Path) -> Callable[..., Path]:
    """Makes data sets of its own for a test that changes them."""

    def make(name: str = "set", **options: int) -> Path:
        write_data_set(tmp_path / name, **options)  # type: ignore[arg-type]
        return tmp_path / name

    return make


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a tested run, made up."""
    folder = write_run(tmp_path / "runs" / "first")
    write_test(folder, [[3, 1], [2, 4]])
    return folder
