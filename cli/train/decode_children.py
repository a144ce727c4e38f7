"""Views of raw videos, decoded in child processes that can be killed: a decoder that crashes or hangs costs one video.

The children import no torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, cast

from manifests.machine import resident_mb

if TYPE_CHECKING:
    from manifests.gradient import Frame
    from tgprep.encode.flow import FlowMethod
    from tgtrain.data.clip import ClipSettings
    from tgtrain.data.reader import Clip, OfPair
    from tgtrain.evaluate.predict import OpenedVideo


_START_SECONDS = 120.0  # imports on a busy machine
_POLL_SECONDS = 0.25
_MAX_MEMORY_MB = 4096  # as `tgprep extract --max-memory-mb` has it


@dataclass(frozen=True, slots=True)
class ViewJob:
    """What to read of a video."""

    path: Path
    clip: ClipSettings
    num_clips: int
    num_crops: int
    rgb: bool
    tg: bool
    short_side: int
    """Of the stored frames of the data set that was trained on, pixels; 0 for unscaled."""
    decoder: str
    flow: str = ""
    """How that data set computed flow, used if the clip settings have flow; `flow_compat` likewise."""
    flow_compat: str = ""


@dataclass(frozen=True, slots=True)
class ViewReply:
    """The views of a video, or why it cannot be read."""

    clips: Sequence[Clip] = ()
    num_frames: int = 0
    bad: str = ""
    """Why it cannot be read."""


def read_all(template: ViewJob, paths: Sequence[Path], children: int, deadline_seconds: float) -> Iterator[ViewReply]:
    """Read the views of each video, in order, ahead of use by `children` processes; holds a few videos' views at a time."""
    stopping = threading.Event()
    processes = [_Child(stopping) for _ in range(children)]
    idle: SimpleQueue[_Child] = SimpleQueue()
    for child in processes:
        idle.put(child)

    def read(path: Path) -> ViewReply:
        child = idle.get()
        try:
            return child.request(replace(template, path=path), deadline_seconds)
        finally:
            idle.put(child)

    # One thread a child process waits for its reply, and restarts the process if it is lost.
    pool = ThreadPoolExecutor(children)
    pending: deque[Future[ViewReply]] = deque()
    try:
        for path in paths:
            pending.append(pool.submit(read, path))
            if len(pending) > children:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # A kill wakes the thread that waits for a reply; only then can the pool end.
        stopping.set()
        for child in processes:
            if (process := child.process) is not None:
                process.kill()
        pool.shutdown(wait=True, cancel_futures=True)
        for child in processes:
            child.close()


class _Child:
    """One decoding process, started with the first request and restarted after it was lost."""

    def __init__(self, stopping: threading.Event) -> None:
        self.stopping = stopping
        self.process: multiprocessing.process.BaseProcess | None = None
        self.connection: Connection | None = None

    def request(self, job: ViewJob, deadline_seconds: float) -> ViewReply:
        """Send a job and wait for the reply; a process that dies, is late or too large is killed, and its video is bad."""
        try:
            connection = self.connection or self._start()
            # A stop while the process started has not killed it.
            if self.stopping.is_set():
                return ViewReply(bad="stopped")
            connection.send(job)
            reason = self._wait(connection, deadline_seconds)
            if not reason:
                reply: ViewReply = connection.recv()
                return reply
        except (EOFError, OSError):
            reason = "the decoder crashed"
        self.close()
        return ViewReply(bad=reason)

    def _wait(self, connection: Connection, deadline_seconds: float) -> str:
        """Wait for the reply; returns why there will be none, or nothing."""
        deadline = time.monotonic() + deadline_seconds
        while not connection.poll(max(0.0, min(_POLL_SECONDS, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                return f"decoding took longer than {deadline_seconds:g} s"
            if (process := self.process) is not None and resident_mb(process.pid or 0) > _MAX_MEMORY_MB:
                return f"the decoder took over {_MAX_MEMORY_MB} MB of memory and was stopped"
        return ""

    def close(self) -> None:
        """Kill the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
        if self.connection is not None:
            self.connection.close()
        self.process = self.connection = None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        self.process = process
        theirs.close()
        if not self.connection.poll(_START_SECONDS):
            raise OSError("the process does not start")
        self.connection.recv()
        return self.connection


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    from tgtrain.evaluate import predict  # noqa: F401  (imported before the deadline of the first video starts)

    with contextlib.suppress(EOFError, OSError):
        connection.send(True)
        while True:
            connection.send(_read(connection.recv()))


def _read(job: ViewJob) -> ViewReply:
    from tgprep.decode.frames import DecodeError
    from tgprep.decode.open import open_video
    from tgtrain.evaluate.predict import OpenedVideo, UnreadableError, read_views

    with contextlib.ExitStack() as opened:

        def open_frames() -> OpenedVideo:
            video = open_video(job.path, decoder=job.decoder, space="rgb", short_side=job.short_side)
            opened.callback(video.close)
            return OpenedVideo(cast("Iterator[Frame]", video.frames), video.num_frames_header)

        views = job.clip, job.num_clips, job.num_crops
        try:
            return ViewReply(*read_views(open_frames, *views, rgb=job.rgb, tg=job.tg, of_pair=_of_pair(job)))
        except (DecodeError, UnreadableError) as error:
            return ViewReply(bad=str(error))
        except (OSError, ValueError, MemoryError) as error:
            return ViewReply(bad=f"{type(error).__name__}: {error}")


def _of_pair(job: ViewJob) -> OfPair:
    """The function that gives a TG picture of two frames: their TG, or the flow that the network was trained on."""
    from manifests.gradient import temporal_gradient

    if job.clip.gradient != "flow":
        return temporal_gradient
    import cv2

    from tgprep.encode.flow import flow_estimator, flow_picture

    estimate = flow_estimator(cast("FlowMethod", job.flow))

    def flow(previous: Frame, following: Frame) -> Frame:
        luma = (cast("Frame", cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)) for frame in (previous, following))
        return flow_picture(estimate(*luma), uncentred="flow_magnitude" in job.flow_compat.split(","))

    return flow
