"""Shared fixtures: the folder of real material beside the checkout, and the guard for tests that need a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real videos, official lists and golden figures; tests that need it are skipped elsewhere."""
    folder = Path(os.environ.get("TG_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared material at {folder} (set TG_SHARED to its folder)")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `gpu` tests without a CUDA device, unless REQUIRE_GPU=1 asks that they fail then."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items or os.environ.get("REQUIRE_GPU") == "1":
        return
    try:
        import torch

        available = torch.cuda.is_available()
    except ImportError:
        available = False
    if not available:
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="no CUDA device (REQUIRE_GPU=1 makes this a failure)"))
