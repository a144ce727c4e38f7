"""Progress of an extraction: a live panel on a terminal, plain lines elsewhere, or one JSON object a line."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

from cli.common import human_seconds, say
from manifests.console import visible
from manifests.records import FAILED
from tgprep.extract.workers.shards import Progress, Workload

_PLAIN_SECONDS = 30.0
_TICK_SECONDS = 1.0
_PROSE = ("note", "finished")  # other lines hold commands to copy
_MAX_WORKER_ROWS = 16


class ExtractProgress:
    """Counts and logs what workers report: videos, frames a second, failures, time left. Called from several threads.

    log_json: one JSON object a line on stderr in place of text, with `time` (seconds since 1970) and `event`: note, planned,
    video, progress, error, interrupted, finished.
    """

    def __init__(self, log_json: bool = False) -> None:
        self.lock = threading.Lock()
        self.began = self.last_line = time.monotonic()
        self.workload = Workload(0, 0)  # until it is known
        self.num_ended = self.num_failed = self.num_frames = self.num_ended_bytes = 0
        self.closed = threading.Event()
        self.ticker = threading.Thread(target=self._tick, daemon=True)
        self.current: dict[int, tuple[str, int]] = {}  # worker -> key and frames of its video
        self.live: Any = None
        self.log_json = log_json
        self.on_terminal = not log_json and sys.stderr.isatty()

    def log(self, event: str, text: str, **facts: Any) -> None:
        """Write a line on stderr. Never called with the lock held: the panel's thread waits for the lock while it holds the terminal."""
        if self.log_json:
            line = {"time": round(time.time(), 3), "event": event, **(facts or {"text": text})}
            say(json.dumps(line, ensure_ascii=False))
            return
        if (live := self.live) is not None:  # another thread may take the panel away
            live.console.print(visible(text), style="yellow", highlight=False, markup=False, emoji=False)
            return
        if self.on_terminal and event in _PROSE:
            width = 80
            with contextlib.suppress(OSError):  # the terminal is gone
                width = os.get_terminal_size(sys.stderr.fileno()).columns or width
            indent = " " * (len(text) - len(text.lstrip()) + 2)
            text = textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        say(text)

    def planned(self, workload: Workload) -> None:
        """Start: the work is known."""
        self.workload = workload
        self.began = self.last_line = time.monotonic()
        if self.on_terminal:
            from rich.console import Console
            from rich.live import Live

            self.live = Live(self, console=Console(stderr=True), refresh_per_second=4, transient=True)
            self.live.start()
        else:
            total, kept = workload.num_videos, workload.num_kept
            done_before = f", {kept} of them done before" if kept else ""
            self.log("planned", f"{total} videos to extract{done_before}", num_videos=total, num_kept=kept)
            self.ticker = threading.Thread(target=self._tick, daemon=True)  # an update plans its work after the first
            self.ticker.start()

    def __call__(self, event: Progress) -> None:
        """Count an event of a worker."""
        row = event.row
        with self.lock:
            # The key of an ended video stays in the panel until the next one begins.
            self.current[event.worker] = (row.key, 0) if row else (event.key, event.frames)
            if row is not None:
                self.num_ended += 1
                self.num_ended_bytes += row.num_source_bytes
                self.num_frames += row.num_frames
                self.num_failed += row.status == FAILED
        if row is not None and self.log_json:
            facts = {"path": row.path, "key": row.key, "status": row.status, "error": row.error}
            self.log("video", "", **facts, note=row.note, num_frames=row.num_frames, worker=event.worker)
        elif row is not None and row.status == FAILED:
            self.log("video", f"failed: {row.path}: {row.error}")
        if not self.on_terminal:
            self._log_line_if_due()

    def _tick(self) -> None:
        """Log a line now and then even while no worker reports anything."""
        while not self.closed.wait(_TICK_SECONDS):
            self._log_line_if_due()

    def _log_line_if_due(self) -> None:
        with self.lock:
            if time.monotonic() - self.last_line < _PLAIN_SECONDS:
                return
            self.last_line = time.monotonic()
            line, state = self.line(), self.state()
        self.log("progress", line, **state)

    def state(self) -> dict[str, int | float]:
        """The state as numbers; seconds_left is -1 until a video has ended."""
        work, seconds = self.workload, max(1e-3, time.monotonic() - self.began)
        frames = self.num_frames + sum(frames for _, frames in self.current.values())
        # Long videos take longer: the estimate follows the bytes of the source files if they are known.
        done, to_do = self.num_ended, work.num_videos - work.num_kept
        if work.num_source_bytes:
            done, to_do = self.num_ended_bytes, work.num_source_bytes - work.num_kept_source_bytes
        return {
            "num_videos": work.num_videos,
            "num_done": work.num_kept + self.num_ended,
            "num_failed": self.num_failed,
            "frames_per_second": round(frames / seconds, 1),
            "seconds_left": round(seconds / done * max(0, to_do - done), 1) if done else -1.0,
        }

    def line(self) -> str:
        """The state in one line."""
        state = self.state()
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        left = f", {human_seconds(state['seconds_left'])} left" if state["seconds_left"] >= 0 else ""
        return f"{state['num_done']} of {state['num_videos']} videos, {state['frames_per_second']:.0f} frames/s{failed}{left}"

    def close(self) -> None:
        """Remove the panel and end the automatic lines."""
        self.closed.set()
        if self.ticker.is_alive():
            self.ticker.join()
        if self.live is not None:
            self.live.stop()
            self.live = None

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        with self.lock:
            line, state, current = self.line(), self.state(), sorted(self.current.items())
        head, workers = Table.grid(padding=(0, 2)), Table.grid(padding=(0, 2))
        bar = ProgressBar(total=max(1, state["num_videos"]), completed=state["num_done"], width=24)
        head.add_row(bar, Text(line, no_wrap=True, overflow="ellipsis"))
        workers.add_column(justify="right", no_wrap=True)
        # Of fixed width, so that nothing moves when names and counts change.
        workers.add_column(no_wrap=True, overflow="ellipsis", width=max(10, min(60, options.max_width - 24)))
        workers.add_column(justify="right", no_wrap=True, width=14)
        for worker, (key, frames) in current[:_MAX_WORKER_ROWS]:
            count = f"{frames} frames" if frames else "opening"
            workers.add_row(Text(f"{worker + 1}", style="dim"), Text(visible(key)), Text(count, style="dim"))
        if len(current) > _MAX_WORKER_ROWS:
            workers.add_row("", Text(f"and {len(current) - _MAX_WORKER_ROWS} more workers", style="dim"), "")
        yield head
        yield workers
