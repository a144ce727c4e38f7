"""Data sets extracted from real videos, for tests of the data room."""

from __future__ import annotations

from pathlib import Path

from manifests.table import Manifest
from tgprep.config import ExtractSettings, WorkerSettings
from tgprep.extract.pipeline import extract
from tgprep.scan.scan import scan


def extract_all(videos: Path, out: Path, **options: object) -> Manifest:
    chosen = ExtractSettings(**{"videos_per_shard": 4, **options})  # type: ignore[arg-type]
    return extract(videos, out, scan(videos, dataset="folder"), chosen, WorkerSettings(threads=1)).manifest
