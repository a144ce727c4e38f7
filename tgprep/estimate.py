"""What an extraction would take, before it is started: frames told from headers, bytes and time from a few videos done for real."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.places import Place
from manifests.records import FAILED, SourceVideo
from tgprep.config import ExtractSettings, RunSettings
from tgprep.decode import DecodeError, open_video
from tgprep.plan import plan_shards
from tgprep.scan import Scan
from tgprep.supervise import Progress, ShardPlan, ShardResult, Supervisor

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


def estimate(videos: Place, out: Place, scan: Scan, settings: ExtractSettings, run: RunSettings) -> Estimate:
    """Estimate the extraction of all that the scan found; writes nothing but a temporary folder.

    Raises ShardError where not even a temporary shard can be written.
    """
    shards = plan_shards(scan.videos, settings.videos_per_shard)
    mixed = [video for shard in shards for video in shard.videos]  # the first ones are a fair sample of all
    headers = mixed[:_NUM_HEADERS]
    # Headers of a store's videos are not worth bringing them whole: the few that are decoded tell.
    header_frames = [_header_frames(videos / v.path, settings) if isinstance(videos, Path) else 0 for v in headers]
    readable = [count for count in header_frames if count > 0]
    num_frames = round(sum(readable) / max(1, len(headers)) * len(mixed))
    measured, seconds = _measure(videos, mixed[:_NUM_MEASURED], settings, run)
    frames_measured = max(1, sum(row.num_frames for row in measured.videos))
    num_failed = sum(row.status == FAILED for row in measured.videos)
    if not readable:  # containers without counts: the few that were decoded tell
        num_frames = round(frames_measured / len(measured.videos) * len(mixed))
    num_workers = max(1, min(run.threads or os.cpu_count() or 1, len(shards)))
    return Estimate(
        num_videos=len(mixed),
        num_source_bytes=sum(video.num_source_bytes for video in mixed),
        num_frames=num_frames,
        num_bytes=round(measured.shard.num_bytes / frames_measured * num_frames),
        num_shards=len(shards),
        num_loose_files=max(0, num_frames + _num_pair_streams(settings) * (num_frames - len(mixed))),
        seconds=seconds / frames_measured * num_frames / num_workers,
        num_workers=num_workers,
        num_headers=len(headers),
        num_measured=len(measured.videos),
        num_unreadable=max(num_failed, sum(count < 0 for count in header_frames)),
        num_free_bytes=_free_bytes(out),
    )


def _num_pair_streams(settings: ExtractSettings) -> int:
    """Streams of a frame for each pair of neighbours: gradients, flow."""
    return (settings.gradient == "stored") + (settings.flow != "none")


def _header_frames(path: Path, settings: ExtractSettings) -> int:
    """Frames as the container claims; 0 where it does not say, -1 where it cannot be opened."""
    if ":" in settings.decoder:
        return 0  # code of others runs in worker processes only
    try:
        with contextlib.closing(
            open_video(path, decoder=settings.decoder, space=settings.space, short_side=0)
        ) as video:
            return max(0, video.num_frames_header)
    except (DecodeError, OSError):
        return -1


def _measure(
    videos: Place, sample: Sequence[SourceVideo], settings: ExtractSettings, run: RunSettings
) -> tuple[ShardResult, float]:
    """Extract a few videos into a temporary folder: the result, and the seconds from the first video to the end."""
    began: list[float] = []

    def tell(progress: Progress) -> None:
        if not began:
            began.append(time.monotonic())

    supervisor = Supervisor(0, run, threading.Event(), tell)
    with tempfile.TemporaryDirectory(prefix="tgprep-") as folder:
        try:
            plan = ShardPlan("measured.tar", tuple(sample))
            result = supervisor.write(plan, videos=videos, out=Path(folder), scratch=Path(folder), settings=settings)
        finally:
            supervisor.close()
    return result, time.monotonic() - (began or [time.monotonic()])[0]


def _free_bytes(out: Place) -> int:
    if not isinstance(out, Path):
        return -1
    place = out.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
