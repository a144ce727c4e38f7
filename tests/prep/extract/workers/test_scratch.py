"""Folders for unfinished work, which several workers of a machine may make at the same time."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

import pytest

from manifests.locks import wait_for_lock
from tgprep.config import ExtractSettings, WorkerSettings
from tgprep.extract.workers import scratch
from tgprep.extract.workers.shards import Request


def test_a_new_folder_is_not_taken_for_a_dead_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker looks for folders of killed ones before this one holds the lock of its own."""
    removed = []

    def slow_lock(file: TextIO) -> bool:
        if not removed:
            (folder,) = tmp_path.iterdir()
            scratch._remove_if_dead(folder)
            removed.append(folder)
        return wait_for_lock(file)

    monkeypatch.setattr(scratch, "wait_for_lock", slow_lock)
    request = Request(tmp_path, "s3://b/out", ExtractSettings(), workers=WorkerSettings(scratch=str(tmp_path)))
    with scratch.scratch_folder(request) as folder:
        assert not removed[0].exists()
        assert folder.is_dir()
        scratch._remove_if_dead(folder)
        assert folder.is_dir()
    assert not list(tmp_path.iterdir())
