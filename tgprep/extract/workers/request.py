"""The request for an extraction, which reaches every engine, and the events by which its caller follows it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from manifests.files import Location, below
from tgprep.config import ExtractSettings, WorkerSettings
from tgprep.extract.workers.shards import Progress, ShardPlan, ShardResult

WORK_FOLDER = ".tgprep"


@dataclass(frozen=True, slots=True)
class Workload:
    """The size of an extraction, in videos and bytes of their files. num_kept: finished by earlier runs."""

    num_videos: int
    num_source_bytes: int
    num_kept: int = 0
    num_kept_source_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """An extraction of videos below one location into a data set at another.

    versions: of what decodes and encodes, for the header. Setting `stop` ends the run in an orderly way. on_planned is called once,
    before the work begins; on_progress for every event, from several threads.
    """

    videos: Location
    out: Location
    settings: ExtractSettings
    workers: WorkerSettings
    versions: dict[str, str] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    on_planned: Callable[[Workload], None] = lambda workload: None
    on_progress: Callable[[Progress], None] = lambda progress: None

    @property
    def work(self) -> Location:
        """The work folder."""
        return below(self.out, WORK_FOLDER)


# Writes shards and gives each as it is finished, in any order. The path is the folder for unfinished work; None: each machine makes one.
Engine = Callable[[Sequence[ShardPlan], Request, Path | None], Generator[ShardResult, None, None]]
