"""Watches one worker process: a video that makes it hang, crash or eat memory costs that video, never the run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from manifests.files import TEMPORARY_PREFIX, Location, below
from manifests.object_store import warn_once
from manifests.records import Members, ShardRow, VideoRow
from tgprep.config import ExtractSettings, WorkerSettings
from tgprep.extract.workers.jobs import HeaderJob, ShardJob
from tgprep.extract.workers.shards import (
    MadeShard,
    Progress,
    ShardError,
    ShardPlan,
    ShardResult,
    StoppedError,
    failed_row,
    put_in_place,
)

_POLL_SECONDS = 0.1
_START_SECONDS = 300.0  # imports from a busy file system, and compiling
_END_SECONDS = 10.0
_JOBS_PER_WORKER = 256  # decoders leak: a worker is replaced after so many shards
_ATTEMPTS = 2  # at a video that crashes its decoder, makes it hang or eat memory
_ATTEMPTS_KILLED = 10  # at one during which somebody else killed the process: the video is hardly to blame
_ATTEMPTS_TO_START = 3  # a process that ends by itself before it serves: the installation is broken
_ATTEMPTS_KILLED_UNSTARTED = 20  # one that is killed before: memory is short, or somebody cleans up


class WorkerLostError(Exception):
    """The worker process ended or was killed; the message is the reason for the video it worked on.

    started: it had begun to serve. killed: by a signal that no decoder sends itself. final: no second attempt is worth its time.
    """

    def __init__(self, reason: str, *, started: bool = True, killed: bool = False, final: bool = False) -> None:
        super().__init__(reason)
        self.started = started
        self.killed = killed
        self.final = final


class Worker:
    """A worker process and the lines it says."""

    def __init__(self, run: WorkerSettings, stop: threading.Event, encoder: str = "") -> None:
        self.run = run
        self.stop = stop
        self.num_jobs = 0
        self.started = False
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            # glibc gives frame-sized buffers back after every frame otherwise: measured, up to a third of the time.
            "MALLOC_TRIM_THRESHOLD_": str(256 * 1024**2),
            "MALLOC_MMAP_THRESHOLD_": str(64 * 1024**2),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tgprep.extract.workers.worker", str(os.getpid()), encoder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        self.unread = b""

    def send(self, job: ShardJob | HeaderJob) -> None:
        """Give it work."""
        assert self.process.stdin is not None
        self.num_jobs += 1
        try:
            self.process.stdin.write(job.to_json().encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._lost() from None

    def events(self) -> Iterator[dict[str, Any]]:
        """What it says, line by line; StoppedError on a stop.

        WorkerLostError where it dies, stalls, grows too large or does not come to the end of a video.
        """
        last_moment = math.inf  # of the video under way
        deadline = time.monotonic() + (self.run.timeout_seconds if self.started else _START_SECONDS)
        assert self.process.stdout is not None
        while True:
            if self.stop.is_set():
                self.kill()
                raise StoppedError
            heard = self.selector.select(_POLL_SECONDS)
            if heard:
                piece = os.read(self.process.stdout.fileno(), 1 << 16)
                if not piece:
                    raise self._lost()
                *lines, self.unread = (self.unread + piece).split(b"\n")
                for event in map(json.loads, lines):
                    if "ready" in event:
                        self.started = True
                        continue
                    if "video" in event and self.run.max_video_seconds:
                        last_moment = time.monotonic() + self.run.max_video_seconds
                    elif "encoded" in event or "row" in event:
                        last_moment = math.inf
                    yield event
                deadline = time.monotonic() + self.run.timeout_seconds
            elif time.monotonic() > deadline:
                self.kill()
                if not self.started:
                    raise WorkerLostError(f"it did not start within {_START_SECONDS:g} s", started=False)
                raise WorkerLostError(f"the decoder showed no frame for {self.run.timeout_seconds:g} s and was stopped")
            if time.monotonic() > last_moment:
                self.kill()
                reason = f"the decoder did not end within {self.run.max_video_seconds:g} s and was stopped (--max-video-seconds)"
                raise WorkerLostError(reason, final=True)
            if _resident_mb(self.process.pid) > self.run.max_memory_mb:
                self.kill()
                raise WorkerLostError(f"the decoder took over {self.run.max_memory_mb} MB of memory and was stopped")

    def kill(self) -> None:
        """End the process now, and what its decoder may have started."""
        self._kill_group()
        self.close()

    def close(self) -> None:
        """Let it go: it ends by itself once its input is closed."""
        self.selector.close()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None and not stream.closed:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=_END_SECONDS)
            return
        self._kill_group()
        # A process that waits for a dead network share cannot even be killed: it is left behind.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=_END_SECONDS)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # it leads a session of its own

    def _lost(self) -> WorkerLostError:
        self.close()
        code = self.process.returncode
        if code is not None and code < 0:
            killed = -code in (signal.SIGKILL, signal.SIGTERM)
            what = "the decoder's process was killed" if killed else "the decoder crashed"
            return WorkerLostError(f"{what} ({signal.Signals(-code).name})", started=self.started, killed=killed)
        return WorkerLostError(f"the decoder ended its process (exit code {code})", started=self.started)


class Supervisor:
    """Writes shards through one worker process; keeps the process from shard to shard. Not for use by two threads."""

    def __init__(
        self, number: int, run: WorkerSettings, stop: threading.Event, on_progress: Callable[[Progress], None]
    ) -> None:
        self.number = number
        self.run = run
        self.stop = stop
        self.on_progress = on_progress
        self.worker: Worker | None = None

    def make(
        self, plan: ShardPlan, *, videos: Location, out: Location, scratch: Path, settings: ExtractSettings
    ) -> MadeShard:
        """Make one shard under a temporary name, to be put in place. StoppedError, ShardError: nothing is left behind."""
        folder = out if isinstance(out, Path) else scratch
        temporary = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{plan.name}"
        job = ShardJob(
            shard=plan.name,
            temporary=str(temporary),
            scratch=str(scratch),
            videos_root=str(videos),
            settings=settings,
            videos=plan.videos,
            worker=self.number,
        )
        rows: list[VideoRow] = []
        try:
            finished = self._finish(job, rows)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise ShardError(f"cannot write {below(out, plan.name)}: {error.strerror or error}") from None
            raise
        written = sum(row.status == "written" for row in rows)
        shard = ShardRow(plan.name, written, finished["num_bytes"], finished["finished"])
        return MadeShard(temporary, ShardResult(shard, tuple(rows)))

    def write(
        self, plan: ShardPlan, *, videos: Location, out: Location, scratch: Path, settings: ExtractSettings
    ) -> ShardResult:
        """Make one shard and put it in place."""
        return put_in_place(self.make(plan, videos=videos, out=out, scratch=scratch, settings=settings), out)

    def _finish(self, job: ShardJob, rows: list[VideoRow]) -> dict[str, Any]:
        """Run the job, again from the video where a worker was lost, until the shard is whole."""
        all_videos = job.videos
        losses = _Losses()
        while True:
            job = dataclasses.replace(job, videos=all_videos[len(rows) :])
            try:
                for event in self._run(job):
                    if "row" in event:
                        row = _row(event["row"])
                        rows.append(row)
                        job = dataclasses.replace(job, start=event["end"])
                        self.on_progress(Progress(self.number, row.key, row.num_frames, row))
                    elif "finished" in event:
                        return event
                    elif "trouble" in event:
                        warn_once(*event["trouble"])
                    elif "fatal" in event:
                        raise ShardError(event["fatal"])
                    else:
                        key = all_videos[len(rows)].key if len(rows) < len(all_videos) else ""
                        self.on_progress(Progress(self.number, key, event.get("frames", 0)))
            except WorkerLostError as lost:
                self.worker = None
                at = len(rows)
                if not lost.final and losses.try_again(at, lost):
                    continue  # a fresh process begins with the same video
                if not lost.started:
                    raise ShardError(f"the worker process cannot start: {lost}") from None
                if at == len(all_videos):
                    raise ShardError(f"the worker was lost again and again while closing {job.shard}: {lost}") from None
                row = failed_row(all_videos[at], str(lost))
                rows.append(row)
                self.on_progress(Progress(self.number, row.key, 0, row))

    def _run(self, job: ShardJob) -> Iterator[dict[str, Any]]:
        if self.worker is not None and self.worker.num_jobs >= _JOBS_PER_WORKER:
            self.worker.close()
            self.worker = None
        if self.worker is None:
            self.worker = Worker(self.run, self.stop, job.settings.encoder)
        self.worker.send(job)
        yield from self.worker.events()

    def close(self) -> None:
        """End the worker process."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None


class _Losses:
    """How often workers were lost, and where: decides whether a video is tried again."""

    def __init__(self) -> None:
        self.at = -1
        self.counts: Counter[tuple[bool, bool]] = Counter()

    def try_again(self, at: int, lost: WorkerLostError) -> bool:
        """Count a loss at video number `at`; False: enough."""
        if at != self.at:
            self.at = at
            self.counts.clear()
        kind = (lost.started, lost.killed)
        self.counts[kind] += 1
        if not lost.started:
            time.sleep(min(1.0, 0.1 * self.counts[kind]))
        allowed = {
            (True, False): _ATTEMPTS,
            (True, True): _ATTEMPTS_KILLED,
            (False, False): _ATTEMPTS_TO_START,
            (False, True): _ATTEMPTS_KILLED_UNSTARTED,
        }
        return self.counts[kind] < allowed[kind]


def _row(values: dict[str, Any]) -> VideoRow:
    members = Members(**values.pop("members"))
    return VideoRow(members=members, **{**values, "subsets": tuple(values["subsets"])})


def _resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0  # no such system file here: the guard by deadline remains
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2
