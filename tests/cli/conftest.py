"""Inputs of the tests that run every command that writes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.writers import make_inputs, make_runs


def _once(base: Path, make: Callable[[Path], None]) -> None:
    """Call `make(base)` in the first of the processes that share the folder; the others wait."""
    done = base / f".{make.__name__}"
    with (base / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(base)
            done.touch()


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, data sets and lists, see `tests.writers`. All test processes share them, so a test writes elsewhere."""
    root = tmp_path_factory.getbasetemp()
    base = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "inputs"
    base.mkdir(exist_ok=True)
    _once(base, make_inputs)
    return base


@pytest.fixture(scope="session")
def inputs_with_runs(inputs: Path) -> Path:
    """The same with a finished run, and one that was stopped half-way."""
    _once(inputs, make_runs)
    return inputs
