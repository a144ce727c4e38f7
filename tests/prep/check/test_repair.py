"""Repairing shards: the recorded bytes come back, or nothing is replaced."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from manifests.records import InputError
from tests.prep.check.support import SAMPLE
from tgprep.check.check import check
from tgprep.check.repair import repair
from tgprep.obtain.sample import render_sample


def test_repair_restores_the_recorded_bytes(copy: Path, sound: Path, videos: Path) -> None:
    untouched = (copy / "shard-000000.tar").stat().st_mtime_ns
    (copy / "shard-000001.tar").write_bytes(b"gone")
    (copy / "shard-000002.tar").unlink()
    report = check(str(copy))
    assert report.damaged_shards == ("shard-000001.tar", "shard-000002.tar")
    outcome = repair(copy, videos, report.damaged_shards)
    assert outcome.repaired == report.damaged_shards
    assert outcome.failed == ()
    assert check(str(copy), deep=True, against=videos).sound
    for path in sound.iterdir():
        if path.is_file():
            assert (copy / path.name).read_bytes() == path.read_bytes()
    assert (copy / "shard-000000.tar").stat().st_mtime_ns == untouched
    assert not (copy / ".tgprep").exists()


def test_repair_from_other_videos_replaces_nothing(copy: Path, videos: Path, tmp_path: Path) -> None:
    other = tmp_path / "videos"
    render_sample(other, dataclasses.replace(SAMPLE, seed=1))
    (copy / "shard-000001.tar").write_bytes(b"gone")
    outcome = repair(copy, other, ["shard-000001.tar"])
    assert outcome.repaired == ()
    assert "videos are not those that were extracted" in outcome.failed[0][1]
    assert (copy / "shard-000001.tar").read_bytes() == b"gone"
    for path in other.rglob("v_*"):
        path.write_bytes(b"no video")
    assert "cannot be extracted" in repair(copy, other, ["shard-000001.tar"]).failed[0][1]
    shutil.rmtree(other)
    with pytest.raises(InputError, match="no such folder"):
        repair(copy, other, ["shard-000001.tar"])
