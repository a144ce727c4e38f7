"""How an extraction is followed: a live panel on a terminal, plain lines elsewhere, or one JSON object a line."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from cli.common import human_seconds
from manifests.records import FAILED

if TYPE_CHECKING:
    from tgprep.supervise import Progress

_PLAIN_SECONDS = 30.0
_MAX_WORKER_ROWS = 16


class ExtractProgress:
    """Counts what ends and tells it: videos, frames a second, failures, time left. Called from several threads.

    log_json: one JSON object a line on stderr in place of text, with `time` (seconds since 1970) and `event`: note, planned,
    video, progress, error, interrupted, finished.
    """

    def __init__(self, log_json: bool = False) -> None:
        self.lock = threading.Lock()
        self.began = self.said = time.monotonic()
        self.total = self.kept = self.ended = self.failed = self.frames = 0
        self.current: dict[int, tuple[str, int]] = {}
        self.live: Any = None
        self.log_json = log_json
        self.on_terminal = not log_json and sys.stderr.isatty()

    def tell(self, event: str, text: str, **facts: Any) -> None:
        """A line on stderr; that nobody reads it any more (`2>&1 | head`) does not end the work."""
        with contextlib.suppress(BrokenPipeError):
            if self.log_json:
                line = {"time": round(time.time(), 3), "event": event, **(facts or {"text": text})}
                click.echo(json.dumps(line, ensure_ascii=False), err=True)
            elif self.live is not None:
                self.live.console.print(text, style="yellow", highlight=False, markup=False)
            else:
                click.echo(text, err=True)

    def planned(self, num_videos: int, num_kept: int) -> None:
        """The work: all videos of the plan, and how many of them earlier runs have done."""
        self.total, self.kept = num_videos, num_kept
        self.began = self.said = time.monotonic()
        if self.on_terminal:
            from rich.console import Console
            from rich.live import Live

            self.live = Live(self, console=Console(stderr=True), refresh_per_second=4, transient=True)
            self.live.start()
        else:
            before = f", {num_kept} of them done before" if num_kept else ""
            self.tell("planned", f"{num_videos} videos to extract{before}", num_videos=num_videos, num_kept=num_kept)

    def __call__(self, event: Progress) -> None:
        """Take in what a worker says."""
        with self.lock:
            row = event.row
            if row is None:
                self.current[event.worker] = (event.key, event.frames)
            else:
                self.current[event.worker] = (row.key, 0)  # it stays in the panel until the next one begins
                self.ended += 1
                self.frames += row.num_frames
                self.failed += row.status == FAILED
                if self.log_json:
                    facts = {"path": row.path, "key": row.key, "status": row.status, "error": row.error}
                    self.tell("video", "", **facts, note=row.note, num_frames=row.num_frames, worker=event.worker)
                elif row.status == FAILED:
                    self.tell("video", f"failed: {row.path}: {row.error}")
            if not self.on_terminal and time.monotonic() - self.said >= _PLAIN_SECONDS:
                self.said = time.monotonic()
                self.tell("progress", self.line(), **self.state())

    def state(self) -> dict[str, int | float]:
        """The state as numbers; seconds_left is -1 while unknown."""
        return {
            "num_videos": self.total,
            "num_done": self.kept + self.ended,
            "num_failed": self.failed,
            "frames_per_second": round(self.rate(), 1),
            "seconds_left": round(self.seconds_left(), 1),
        }

    def line(self) -> str:
        """The state in one line."""
        parts = [f"{self.kept + self.ended} of {self.total} videos", f"{self.rate():.0f} frames/s"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        left = self.seconds_left()
        if left >= 0:
            parts.append(f"{human_seconds(left)} left")
        return ", ".join(parts)

    def rate(self) -> float:
        """Frames a second since the beginning, the videos under way included."""
        under_way = sum(frames for _, frames in self.current.values())
        return (self.frames + under_way) / max(1e-3, time.monotonic() - self.began)

    def seconds_left(self) -> float:
        """From the mean time a video took so far; -1 before the first has ended."""
        if not self.ended:
            return -1.0
        return (time.monotonic() - self.began) / self.ended * (self.total - self.kept - self.ended)

    def close(self) -> None:
        """Take the panel away."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        with self.lock:
            head = Table.grid(padding=(0, 2))
            bar = ProgressBar(total=max(1, self.total), completed=self.kept + self.ended, width=24)
            head.add_row(bar, Text(self.line(), no_wrap=True, overflow="ellipsis"))
            workers = Table.grid(padding=(0, 2))
            workers.add_column(justify="right", no_wrap=True)
            # Of one width, so that nothing jumps when names and counts change.
            workers.add_column(no_wrap=True, overflow="ellipsis", width=max(10, min(60, options.max_width - 24)))
            workers.add_column(justify="right", no_wrap=True, width=14)
            for worker, (key, frames) in sorted(self.current.items())[:_MAX_WORKER_ROWS]:
                state = f"{frames} frames" if frames else "opening"
                workers.add_row(Text(f"{worker + 1}", style="dim"), Text(key), Text(state, style="dim"))
            if len(self.current) > _MAX_WORKER_ROWS:
                workers.add_row("", Text(f"and {len(self.current) - _MAX_WORKER_ROWS} more workers", style="dim"), "")
        yield head
        yield workers
