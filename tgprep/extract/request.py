"""What an extraction is asked for, and how a caller follows it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from manifests.files import Location, below
from tgprep.config import ExtractSettings, WorkerSettings
from tgprep.extract.work_folder import WORK_FOLDER
from tgprep.extract.workers.shards import Progress
from tgprep.scan.scan import Scan


class TooManyFailuresError(Exception):
    """More videos failed than --max-failures allows; finished shards stay."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The work: all videos of the plan and the bytes of their files; `kept`: of these, what earlier runs have done."""

    num_videos: int
    num_source_bytes: int
    num_kept: int = 0
    num_kept_source_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Hooks:
    """How a caller follows the run: `planned` once, before the work begins, then `progress` for every event."""

    planned: Callable[[Workload], None] = lambda workload: None
    progress: Callable[[Progress], None] = lambda progress: None


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for: the videos, where to, how, and who follows and stops it."""

    videos: Location
    out: Location
    scan: Scan
    settings: ExtractSettings
    run: WorkerSettings
    stop: threading.Event
    hooks: Hooks

    check: Callable[[], None] = lambda: None  # raises where OUT is no longer ours

    @property
    def work(self) -> Location:
        """The work folder."""
        return below(self.out, WORK_FOLDER)
