"""How an extraction is followed: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import click

from cli.common import human_seconds
from manifests.records import FAILED

if TYPE_CHECKING:
    from tgprep.supervise import Progress

_PLAIN_SECONDS = 30.0


def say(text: str) -> None:
    """A line on stderr; that nobody reads it any more (`2>&1 | head`) does not end the work."""
    with contextlib.suppress(BrokenPipeError):
        click.echo(text, err=True)


class ExtractProgress:
    """Counts what ends and shows it: videos, frames a second, failures, time left. Called from several threads."""

    def __init__(self, quiet: bool = False) -> None:
        self.lock = threading.Lock()
        self.began = self.said = time.monotonic()
        self.total = self.kept = self.ended = self.failed = self.frames = 0
        self.current: dict[int, tuple[str, int]] = {}
        self.live: Any = None
        self.quiet = quiet
        self.on_terminal = not quiet and sys.stderr.isatty()

    def planned(self, num_videos: int, num_kept: int) -> None:
        """The work: all videos of the plan, and how many of them earlier runs have done."""
        self.total, self.kept = num_videos, num_kept
        self.began = self.said = time.monotonic()
        if self.on_terminal:
            from rich.console import Console
            from rich.live import Live

            self.live = Live(self, console=Console(stderr=True), refresh_per_second=4, transient=True)
            self.live.start()
        elif not self.quiet:
            say(f"{num_videos} videos to extract" + (f", {num_kept} of them done before" if num_kept else ""))

    def __call__(self, event: Progress) -> None:
        """Take in what a worker says."""
        with self.lock:
            if event.row is None:
                self.current[event.worker] = (event.key, event.frames)
                return
            self.current.pop(event.worker, None)
            self.ended += 1
            self.frames += event.row.num_frames
            if event.row.status == FAILED:
                self.failed += 1
                self._tell(f"failed: {event.row.path}: {event.row.error}")
            if not self.on_terminal and not self.quiet and time.monotonic() - self.said >= _PLAIN_SECONDS:
                self.said = time.monotonic()
                say(self.line())

    def line(self) -> str:
        """The state in one line."""
        done = self.kept + self.ended
        parts = [f"{done} of {self.total} videos", f"{self.rate():.0f} frames/s"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        left = self.seconds_left()
        if left is not None:
            parts.append(f"{human_seconds(left)} left")
        return ", ".join(parts)

    def rate(self) -> float:
        """Frames a second since the beginning, the videos under way included."""
        under_way = sum(frames for _, frames in self.current.values())
        return (self.frames + under_way) / max(1e-3, time.monotonic() - self.began)

    def seconds_left(self) -> float | None:
        """From the mean time a video took so far; None before the first has ended."""
        if not self.ended:
            return None
        return (time.monotonic() - self.began) / self.ended * (self.total - self.kept - self.ended)

    def close(self) -> None:
        """Take the panel away."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _tell(self, text: str) -> None:
        if self.live is not None:
            self.live.console.print(text, style="yellow", highlight=False, markup=False)
        elif not self.quiet:
            say(text)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        with self.lock:
            rows = Table.grid(padding=(0, 1))
            for worker, (key, frames) in sorted(self.current.items()):
                rows.add_row(
                    Text(f"  {worker + 1}", style="dim"),
                    Text(key, overflow="ellipsis", no_wrap=True),
                    Text(f"{frames} frames" if frames else "", style="dim"),
                )
            bar = ProgressBar(total=max(1, self.total), completed=self.kept + self.ended, width=40)
            return Group(bar, Text(self.line()), rows)
