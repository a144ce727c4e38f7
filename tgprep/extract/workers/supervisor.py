"""Runs and watches one worker process: a video that makes it hang, crash or use too much memory costs that video, never the run."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import selectors
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from manifests.disk import TEMPORARY_PREFIX, explained
from manifests.files import below
from manifests.machine import resident_mb
from manifests.object_store import warn_once
from manifests.records import WRITTEN, ShardRow, VideoRow
from tgprep.config import WorkerSettings
from tgprep.extract.workers import messages
from tgprep.extract.workers.shards import (
    Progress,
    Request,
    ShardError,
    ShardPlan,
    ShardResult,
    StoppedError,
    failed_row,
)

_POLL_SECONDS = 0.1
_START_SECONDS = 300.0  # imports from a busy file system, and compiling
_END_SECONDS = 10.0
_JOBS_PER_WORKER = 256  # decoders leak memory: a worker is replaced after this many shards
# Losses of a worker at one video before the video fails, by (worker had started, it was killed from outside).
_MAX_LOSSES = {
    (True, False): 2,  # the video crashes its decoder, makes it hang or use too much memory
    (True, True): 10,  # killed by another process: the video is hardly to blame
    (False, False): 3,  # it ends by itself before it takes a job: the installation is broken
    (False, True): 20,  # killed before it takes a job: memory is short, or an administrator ends processes
}


@dataclasses.dataclass(eq=False)
class WorkerLostError(Exception):
    """The worker process ended or was killed; the message is the reason for the video it worked on."""

    reason: str
    started: bool = True  # it had taken jobs
    killed: bool = False  # by a signal that no decoder sends itself
    final: bool = False  # a second attempt is not worth its time

    def __str__(self) -> str:
        return self.reason


class Worker:
    """A worker process: jobs go in, answers come out."""

    def __init__(self, settings: WorkerSettings, should_stop: Callable[[], bool], encoder: str = "") -> None:
        self.settings = settings
        self.should_stop = should_stop
        self.num_jobs = 0
        self.started = False
        # Otherwise glibc returns frame-sized buffers to the kernel after every frame: up to a third of the time, measured.
        malloc = {"MALLOC_TRIM_THRESHOLD_": str(256 * 1024**2), "MALLOC_MMAP_THRESHOLD_": str(64 * 1024**2)}
        self.process = subprocess.Popen(
            [sys.executable, "-X", "utf8", "-P", "-m", "tgprep.extract.workers.worker", str(os.getpid()), encoder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", **malloc},
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        os.set_blocking(self.stdout.fileno(), False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.stdout, selectors.EVENT_READ)
        self.unread = b""

    def send(self, job: messages.Job) -> None:
        """Start a job."""
        self.num_jobs += 1
        try:
            self.stdin.write(messages.encode(job))
            self.stdin.flush()
        except BrokenPipeError:
            raise self._lost() from None

    def answers(self) -> Iterator[messages.Answer]:
        """The worker's answers as they come; StoppedError on a stop.

        WorkerLostError if it dies, is silent for too long, grows too large, or does not come to the end of a video.
        """
        video_deadline = math.inf
        deadline = time.monotonic() + (self.settings.timeout_seconds if self.started else _START_SECONDS)
        while True:
            if self.should_stop():
                self.kill()
                raise StoppedError
            if self.selector.select(_POLL_SECONDS):
                piece = os.read(self.stdout.fileno(), 1 << 16)
                if not piece:
                    raise self._lost()
                *lines, self.unread = (self.unread + piece).split(b"\n")
                for answer in map(messages.decode, lines):
                    if isinstance(answer, messages.Ready):
                        self.started = True
                        continue
                    # The time limit of a video counts decoding, not the writing after it.
                    if isinstance(answer, messages.VideoBegun) and self.settings.max_video_seconds:
                        video_deadline = time.monotonic() + self.settings.max_video_seconds
                    elif isinstance(answer, messages.VideoEncoded | messages.VideoDone):
                        video_deadline = math.inf
                    yield answer
                deadline = time.monotonic() + self.settings.timeout_seconds
            # A decoder may show frames for ever, or use up the machine's memory, without ever being silent.
            now, limits = time.monotonic(), self.settings
            final = now > video_deadline
            if now > deadline and not self.started:
                reason = f"it did not start within {_START_SECONDS:g} s"
            elif now > deadline:
                reason = f"the decoder showed no frame for {limits.timeout_seconds:g} s and was stopped"
            elif final:
                seconds = limits.max_video_seconds
                reason = f"the decoder did not end within {seconds:g} s and was stopped (--max-video-seconds)"
            elif resident_mb(self.process.pid) > limits.max_memory_mb:
                reason = f"the decoder took over {limits.max_memory_mb} MB of memory and was stopped"
            else:
                continue
            self.kill()
            raise WorkerLostError(reason, started=self.started or now <= deadline, final=final)

    def kill(self) -> None:
        """End the process now, and all that its decoder may have started."""
        self._kill_group()
        self.close()

    def close(self) -> None:
        """Close its input, at which it ends by itself; kill it if it does not."""
        self.selector.close()
        for stream in (self.stdin, self.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        try:
            self.process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill_group()
            # A process that waits for a dead network share cannot even be killed: it is left behind.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=_END_SECONDS)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # it leads its own session

    def _lost(self) -> WorkerLostError:
        self.close()
        code = self.process.returncode
        if code is not None and code < 0:
            killed = -code in (signal.SIGKILL, signal.SIGTERM)
            what = "the decoder's process was killed" if killed else "the decoder crashed"
            return WorkerLostError(f"{what} ({signal.Signals(-code).name})", started=self.started, killed=killed)
        return WorkerLostError(f"the decoder ended its process (exit code {code})", started=self.started)


class Supervisor:
    """Writes shards through one worker process, which it keeps from shard to shard. Not for use by two threads."""

    def __init__(self, number: int, request: Request, should_stop: Callable[[], bool] | None = None) -> None:
        self.number = number
        self.request = request
        self.should_stop = should_stop or request.stop.is_set
        self.worker: Worker | None = None

    def write(self, plan: ShardPlan, scratch: Path) -> tuple[Path, ShardResult]:
        """Write one shard under a temporary name, for `publish_shard`. StoppedError, ShardError: nothing is left behind."""
        request = self.request
        folder = request.out if isinstance(request.out, Path) else scratch
        temporary = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{plan.name}"
        places = str(temporary), str(scratch), str(request.videos)
        pools = {name: str(place) for name, place in request.pools.outside.items()}
        job = messages.ShardJob(plan.name, *places, request.settings, plan.videos, worker=self.number, pools=pools)
        try:
            rows, done = self._complete(job)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise ShardError(f"cannot write {explained(error, below(request.out, plan.name))}") from None
            raise
        num_written = sum(row.status == WRITTEN for row in rows)
        shard = ShardRow(plan.name, num_written, done.num_bytes, done.sha256)
        return temporary, ShardResult(shard, tuple(rows))

    def _complete(self, job: messages.ShardJob) -> tuple[list[VideoRow], messages.ShardDone]:
        """Run the job, again from the video at which a worker is lost, until the shard is complete."""
        all_videos = job.videos
        rows: list[VideoRow] = []
        losses: Counter[tuple[int, bool, bool]] = Counter()
        while True:
            job = dataclasses.replace(job, videos=all_videos[len(rows) :])
            if self.worker is not None and self.worker.num_jobs >= _JOBS_PER_WORKER:
                self.close()
            try:
                if self.worker is None:
                    self.worker = Worker(self.request.workers, self.should_stop, job.settings.encoder)
                self.worker.send(job)
                for answer in self.worker.answers():
                    if isinstance(answer, messages.VideoDone):
                        rows.append(answer.row)
                        job = dataclasses.replace(job, start=answer.end)
                        self._report(answer.row.key, answer.row.num_frames, answer.row)
                    elif isinstance(answer, messages.ShardDone):
                        return rows, answer
                    elif isinstance(answer, messages.StoreWarning):
                        warn_once(answer.store, answer.text)
                    elif isinstance(answer, messages.JobFailed):
                        raise ShardError(answer.reason)
                    else:
                        key = all_videos[len(rows)].key if len(rows) < len(all_videos) else ""
                        self._report(key, getattr(answer, "num_frames", 0))
            except WorkerLostError as lost:
                self.worker = None
                kind = (lost.started, lost.killed)
                losses[len(rows), *kind] += 1
                count = losses[len(rows), *kind]
                if not lost.started:
                    time.sleep(min(1.0, 0.1 * count))
                if not lost.final and count < _MAX_LOSSES[kind]:
                    continue  # a fresh process begins with the same video
                if not lost.started:
                    raise ShardError(f"the worker process cannot start: {lost}") from None
                if len(rows) == len(all_videos):
                    raise ShardError(f"the worker was lost repeatedly while closing {job.shard}: {lost}") from None
                # The video is to blame: it fails, and the next process goes on behind it.
                row = failed_row(all_videos[len(rows)], str(lost))
                rows.append(row)
                self._report(row.key, 0, row)

    def _report(self, key: str, num_frames: int, row: VideoRow | None = None) -> None:
        self.request.on_progress(Progress(self.number, key, num_frames, row))

    def close(self) -> None:
        """End the worker process."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None
