"""What an extraction would take, before it is started: frames from container headers, bytes and time from a few extracted videos."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from manifests.records import SourceVideo
from tgprep.extract.pipeline import num_failures
from tgprep.extract.plan import plan_shards
from tgprep.extract.workers.local import num_workers
from tgprep.extract.workers.messages import HeaderJob, HeaderRead, JobFailed
from tgprep.extract.workers.shards import Request, ShardError, ShardPlan, ShardResult, publish_shard
from tgprep.extract.workers.supervisor import Supervisor, Worker, WorkerLostError
from tgprep.scan.scan import Scan

_NUM_HEADERS = 200
_NUM_MEASURED = 6


@dataclass(frozen=True, slots=True)
class Estimate:
    """What to expect of an extraction."""

    num_videos: int
    num_source_bytes: int
    num_frames: int
    num_bytes: int
    num_shards: int
    num_loose_files: int  # JPEG files if every frame were one
    seconds: float  # with `num_workers` processes on this machine
    num_workers: int
    num_headers: int  # videos whose header was read
    num_measured: int  # videos that were extracted
    num_unreadable: int  # of these, videos that would fail
    num_free_bytes: int  # on the disk of OUT, -1 for an object store


def estimate(request: Request, scan: Scan) -> Estimate:
    """Estimate the extraction of all videos of a scan; writes nothing but a temporary folder.

    Raises ShardError if not even a temporary shard can be written, StoppedError once `stop` is set.
    """
    settings = request.settings
    shards = plan_shards(scan.videos, settings.videos_per_shard)
    mixed = [video for shard in shards for video in shard.videos]  # the first ones are a fair sample of all
    headers = mixed[:_NUM_HEADERS]
    # To read the header of an object, all of it would be downloaded: for a store the few extracted videos must do.
    header_frames = [0] * len(headers)
    if not request.reads_store:
        header_frames = _header_frames(request, headers)
    readable = [count for count in header_frames if count > 0]
    num_frames = round(sum(readable) / max(1, len(headers)) * len(mixed))
    measured, seconds = _measure(request, mixed[:_NUM_MEASURED])
    frames_measured = max(1, sum(row.num_frames for row in measured.videos))
    if not readable:  # no header gives a count
        num_frames = round(frames_measured / len(measured.videos) * len(mixed))
    num_per_pair = (settings.gradient == "stored") + (settings.flow != "none")  # pictures of two neighbouring frames
    workers = num_workers(request.workers, shards)
    num_free_bytes = -1
    if isinstance(out := request.out, Path):
        folder = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
        num_free_bytes = shutil.disk_usage(folder).free
    return Estimate(
        num_videos=len(mixed),
        num_source_bytes=sum({video.path: video.num_source_bytes for video in mixed}.values()),
        num_frames=num_frames,
        num_bytes=round(measured.shard.num_bytes / frames_measured * num_frames),
        num_shards=len(shards),
        num_loose_files=max(0, num_frames + num_per_pair * (num_frames - len(mixed))),
        seconds=seconds / frames_measured * num_frames / workers,
        num_workers=workers,
        num_headers=len(headers),
        num_measured=len(measured.videos),
        num_unreadable=max(num_failures([measured]), sum(count < 0 for count in header_frames)),
        num_free_bytes=num_free_bytes,
    )


def _header_frames(request: Request, videos: Sequence[SourceVideo]) -> list[int]:
    """Frames as the containers claim; 0 if one does not say, -1 if it cannot be opened, or crashes or hangs its decoder."""
    assert isinstance(request.videos, Path)
    paths = [request.videos / video.path for video in videos]
    counts: list[int] = []
    worker: Worker | None = None
    try:
        while len(counts) < len(paths):
            worker = Worker(request.workers, request.stop.is_set)
            try:
                worker.send(HeaderJob(tuple(map(str, paths[len(counts) :])), request.settings))
                for answer in worker.answers():
                    if isinstance(answer, JobFailed):
                        raise ShardError(answer.reason)
                    assert isinstance(answer, HeaderRead), answer
                    video, count = videos[len(counts)], answer.num_frames
                    counts.append(_frames_of_segment(video, count, answer.fps) if video.is_segment else count)
                    if len(counts) == len(paths):
                        break
            except WorkerLostError as lost:
                # The file at which the worker was lost counts as unreadable; a new worker goes on behind it.
                worker = None
                if not lost.started:
                    raise ShardError(f"the worker process cannot start: {lost}") from None
                counts.append(-1)
    finally:
        if worker is not None:
            worker.close()
    return counts


def _frames_of_segment(video: SourceVideo, num_file_frames: int, fps: float) -> int:
    """Frames of a segment, -1 if it lies outside of its file. num_file_frames: 0 if the container does not say, -1 if it cannot be opened."""
    first, end = round(video.start_seconds * fps), round(video.end_seconds * fps)
    if num_file_frames:
        end = min(end, num_file_frames)
    outside = -1 if num_file_frames else 0
    return end - first if end > first else outside


def _measure(request: Request, sample: Sequence[SourceVideo]) -> tuple[ShardResult, float]:
    """Extract a few videos into a temporary folder: the result, and the seconds it took without starting the worker."""
    with tempfile.TemporaryDirectory(prefix="tgprep-") as name:
        folder = Path(name)
        supervisor = Supervisor(0, replace(request, out=folder, on_progress=lambda progress: None))
        try:
            # The first video alone comes before: to start a worker and compile its kernels takes longer than a video.
            for shard, videos in (("first.tar", sample[:1]), ("measured.tar", sample)):
                began = time.monotonic()
                result = publish_shard(*supervisor.write(ShardPlan(shard, tuple(videos)), folder), folder)
                seconds = time.monotonic() - began
        finally:
            supervisor.close()
    return result, seconds
