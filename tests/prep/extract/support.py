"""Extractions with fake videos, for the tests of this room."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from tests.prep.support import extract_videos
from tgprep.config import WorkerSettings
from tgprep.extract.pipeline import Outcome
from tgprep.extract.workers.shards import Progress

MakeFolder = Callable[..., Path]


def run(
    videos: Path,
    out: Path,
    *,
    threads: int = 1,
    stop: threading.Event | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    timeout_seconds: float = 60,
    max_video_seconds: float = 0,
    max_memory_mb: int = 1024,
    max_failures: int = -1,
    **settings: object,
) -> Outcome:
    how = WorkerSettings(
        threads=threads,
        timeout_seconds=timeout_seconds,
        max_video_seconds=max_video_seconds,
        max_memory_mb=max_memory_mb,
        max_failures=max_failures,
    )
    return extract_videos(videos, out, workers=how, stop=stop, on_progress=on_progress, **settings)


def fake_videos(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / "class" / f"{name}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number + 1]) * 10)
    return root


def reasons(outcome: Outcome) -> dict[str, str]:
    return {row.key.split("/")[1]: row.error for row in outcome.manifest.videos if row.status != "written"}
