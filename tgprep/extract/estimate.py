"""What an extraction would take, before it is started: frames told from headers, bytes and time from a few videos done for real."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.files import Location
from manifests.records import FAILED, SourceVideo
from tgprep.config import ExtractSettings, WorkerSettings
from tgprep.extract.plan import plan_shards
from tgprep.extract.workers.jobs import HeaderJob
from tgprep.extract.workers.local import num_workers
from tgprep.extract.workers.shards import ShardError, ShardPlan, ShardResult
from tgprep.extract.workers.supervisor import Supervisor, Worker, WorkerLostError
from tgprep.scan.scan import Scan

_NUM_HEADERS = 200
_NUM_MEASURED = 6


@dataclass(frozen=True, slots=True)
class Estimate:
    """What to expect. num_headers, num_measured: videos that it rests on; num_unreadable: of those, what would fail.

    seconds: with `num_workers` processes on this machine. num_loose_files: JPEG files that one file a frame would make.
    num_free_bytes: on the disk of OUT, -1 for an object store.
    """

    num_videos: int
    num_source_bytes: int
    num_frames: int
    num_bytes: int
    num_shards: int
    num_loose_files: int
    seconds: float
    num_workers: int
    num_headers: int
    num_measured: int
    num_unreadable: int
    num_free_bytes: int


def estimate(
    videos: Location, out: Location, scan: Scan, settings: ExtractSettings, run: WorkerSettings, stop: threading.Event
) -> Estimate:
    """Estimate the extraction of all that the scan found; writes nothing but a temporary folder.

    Raises ShardError where not even a temporary shard can be written, StoppedError once `stop` is set.
    """
    shards = plan_shards(scan.videos, settings.videos_per_shard)
    mixed = [video for shard in shards for video in shard.videos]  # the first ones are a fair sample of all
    headers = mixed[:_NUM_HEADERS]
    # Headers of a store's videos are not worth bringing them whole: the few that are decoded tell.
    header_frames = [0] * len(headers)
    if isinstance(videos, Path):
        header_frames = _header_frames([videos / video.path for video in headers], settings, run, stop)
    readable = [count for count in header_frames if count > 0]
    num_frames = round(sum(readable) / max(1, len(headers)) * len(mixed))
    measured, seconds = _measure(videos, mixed[:_NUM_MEASURED], settings, run, stop)
    frames_measured = max(1, sum(row.num_frames for row in measured.videos))
    num_failed = sum(row.status == FAILED for row in measured.videos)
    if not readable:  # containers without counts: the few that were decoded tell
        num_frames = round(frames_measured / len(measured.videos) * len(mixed))
    workers = num_workers(run, shards)
    return Estimate(
        num_videos=len(mixed),
        num_source_bytes=sum(video.num_source_bytes for video in mixed),
        num_frames=num_frames,
        num_bytes=round(measured.shard.num_bytes / frames_measured * num_frames),
        num_shards=len(shards),
        num_loose_files=max(0, num_frames + _num_pair_streams(settings) * (num_frames - len(mixed))),
        seconds=seconds / frames_measured * num_frames / workers,
        num_workers=workers,
        num_headers=len(headers),
        num_measured=len(measured.videos),
        num_unreadable=max(num_failed, sum(count < 0 for count in header_frames)),
        num_free_bytes=_free_bytes(out),
    )


def _num_pair_streams(settings: ExtractSettings) -> int:
    """Streams of a frame for each pair of neighbours: gradients, flow."""
    return (settings.gradient == "stored") + (settings.flow != "none")


def _header_frames(
    paths: Sequence[Path], settings: ExtractSettings, run: WorkerSettings, stop: threading.Event
) -> list[int]:
    """Frames as the containers claim; 0 where one does not say, -1 where it cannot be opened, or crashes or hangs its decoder."""
    counts: list[int] = []
    worker: Worker | None = None
    try:
        while len(counts) < len(paths):
            worker = Worker(run, stop)
            try:
                worker.send(HeaderJob(tuple(map(str, paths[len(counts) :])), settings))
                for event in worker.events():
                    if "fatal" in event:
                        raise ShardError(event["fatal"])
                    counts.append(event["header"])
                    if len(counts) == len(paths):
                        break
            except WorkerLostError as lost:
                worker = None
                if not lost.started:
                    raise ShardError(f"the worker process cannot start: {lost}") from None
                counts.append(-1)
    finally:
        if worker is not None:
            worker.close()
    return counts


def _measure(
    videos: Location,
    sample: Sequence[SourceVideo],
    settings: ExtractSettings,
    run: WorkerSettings,
    stop: threading.Event,
) -> tuple[ShardResult, float]:
    """Extract a few videos into a temporary folder: the result, and the seconds it took once the worker was at work."""
    supervisor = Supervisor(0, run, stop, lambda progress: None)
    with tempfile.TemporaryDirectory(prefix="tgprep-") as folder:
        place = Path(folder)
        try:
            # The first one alone, before: to start a worker and compile what it compiles takes longer than a video.
            for name, taken in (("first.tar", sample[:1]), ("measured.tar", sample)):
                began = time.monotonic()
                plan = ShardPlan(name, tuple(taken))
                result = supervisor.write(plan, videos=videos, out=place, scratch=place, settings=settings)
                seconds = time.monotonic() - began
        finally:
            supervisor.close()
    return result, seconds


def _free_bytes(out: Location) -> int:
    if not isinstance(out, Path):
        return -1
    place = out.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
