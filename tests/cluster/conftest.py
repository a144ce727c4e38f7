"""A real Slurm for the tests here, and a small data set of rendered videos."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm import Slurm, slurm, why_not


@pytest.fixture(scope="session")
def running_slurm() -> Iterator[Slurm]:
    if reason := why_not():
        pytest.skip(f"no Slurm can be started here: {reason}")
    with slurm() as running:
        yield running


@pytest.fixture
def cluster(running_slurm: Slurm) -> Iterator[Slurm]:
    """Slurm with two nodes and no job; see `tests.cluster.slurm`."""
    yield running_slurm
    running_slurm.clear()


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with videos/ and annotations/ of `tgprep sample`, and what `tgprep extract` and `split` made of them alone: dataset/."""
    folder = tmp_path_factory.mktemp("sample")
    for words in (
        ("sample", "--num-classes", "2", "--num-groups", "10", "--width", "64", "--height", "48"),
        ("extract", "--threads", "1"),
        *(("split", "--percent", "20", "--fold", fold) for fold in "123"),
    ):
        subprocess.run([sys.executable, "-m", "tgprep", *words], cwd=folder, check=True)
    return folder
