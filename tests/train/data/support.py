"""Data sets extracted from real videos, for tests of the data room."""

from __future__ import annotations

from pathlib import Path

from manifests.table import Manifest
from tests.prep.support import extract_videos


def extract_all(videos: Path, out: Path, **options: object) -> Manifest:
    return extract_videos(videos, out, **{"videos_per_shard": 4, **options}).manifest
