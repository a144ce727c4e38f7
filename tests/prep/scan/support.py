"""Helpers of the tests of scanning: folders of files with made-up content, and results by path."""

from __future__ import annotations

from pathlib import Path

from manifests.records import SourceVideo
from tgprep.scan.scan import Scan


def fill(root: Path, *names: str) -> Path:
    """Create files with these names below a folder; returns the folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def by_path(result: Scan) -> dict[str, SourceVideo]:
    return {video.path: video for video in result.videos}
