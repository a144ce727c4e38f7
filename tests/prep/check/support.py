"""Data sets to be checked: how they are made, and how their bytes are changed."""

from __future__ import annotations

from pathlib import Path

from manifests.splits.label_split import make_split, write_split
from manifests.splits.settings import SplitSettings
from manifests.table import Manifest
from tests.prep.support import extract_videos
from tgprep.check.check import CheckReport
from tgprep.obtain.sample import SampleSettings

SAMPLE = SampleSettings(
    num_classes=2, num_groups=4, clips_per_group=1, width=64, height=48, min_frames=8, max_frames=12
)


def make(videos: Path, out: Path, **settings: object) -> Manifest:
    """Extract a data set of three videos a shard, with a split."""
    manifest = extract_videos(videos, out, **{"videos_per_shard": 3, **settings}).manifest
    write_split(out, make_split(manifest, SplitSettings(percent=50)))
    return manifest


def kinds(report: CheckReport) -> set[str]:
    """The kinds of all findings."""
    return {finding.kind for finding in report.findings}


def patch(path: Path, old: bytes, new: bytes) -> None:
    """Replace the first `old` in a file by as many other bytes."""
    data = path.read_bytes()
    assert len(old) == len(new)
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
