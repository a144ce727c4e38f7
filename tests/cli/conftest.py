"""Inputs of the tests that run every command that writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.writers import make_inputs, make_runs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, data sets and lists, see `tests.writers`."""
    base = tmp_path_factory.mktemp("inputs")
    make_inputs(base)
    return base


@pytest.fixture(scope="session")
def inputs_with_runs(inputs: Path) -> Path:
    """The same with a finished run, and one that was stopped half-way."""
    make_runs(inputs)
    return inputs
