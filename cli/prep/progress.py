"""Progress of an extraction: a live panel on a terminal, plain lines elsewhere, or one JSON object a line."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from cli.common import human_seconds, plural, say
from cli.terminal import Panel, bar, columns, folded, is_terminal
from manifests.console import visible
from manifests.records import FAILED
from tgprep.extract.workers.shards import Progress, Workload

_PLAIN_SECONDS = 30.0
_TICK_SECONDS = 1.0
_PROSE = ("note", "finished")  # other lines hold commands to copy
_NEWS = ("note", "planned", "progress", "finished", "task")  # what --quiet leaves out
_MAX_WORKER_ROWS = 16


class ExtractProgress:
    """Counts and logs what workers report: videos, frames a second, failures, time left. Called from several threads.

    log_json: one JSON object a line on stderr in place of text, with `time` (seconds since 1970) and `event`: note, planned,
    video, progress, error, interrupted, finished. quiet: failed videos and errors alone.
    """

    def __init__(self, log_json: bool = False, quiet: bool = False) -> None:
        self.lock = threading.Lock()
        self.planned_at = self.began = self.last_line = time.monotonic()
        self.has_begun = False  # a worker has reported something: `began` is when the first one started
        self.workload = Workload(0, 0)  # until it is known
        self.num_ended = self.num_failed = self.num_frames = self.num_ended_bytes = 0
        self.closed = threading.Event()
        self.ticker = threading.Thread(target=self._tick, daemon=True)
        self.current: dict[int, tuple[str, int]] = {}  # worker -> key and frames of its video
        self.panel: Panel | None = None
        self.log_json, self.quiet = log_json, quiet and not log_json
        self.on_terminal = not log_json and is_terminal(sys.stderr)

    def log(self, event: str, text: str, **facts: Any) -> None:
        """Write a line on stderr. Never called with the lock held: the panel's thread waits for the lock while it holds the terminal."""
        if self.log_json:
            line = {"time": round(time.time(), 3), "event": event, **(facts or {"text": text})}
            say(json.dumps(line, ensure_ascii=False))
            return
        if self.quiet and event in _NEWS and not text.startswith("Wrong"):
            return
        if (panel := self.panel) is not None:  # another thread may take the panel away
            panel.print(text, "yellow")
            return
        say(folded(text, columns(sys.stderr)) if self.on_terminal and event in _PROSE else text)

    def planned(self, workload: Workload) -> None:
        """Start: the work is known."""
        self.workload = workload
        self.planned_at = self.began = self.last_line = time.monotonic()
        self.has_begun = False
        if self.quiet:
            return
        if self.on_terminal:
            self.panel = Panel(self.rows, ticking=True)
        else:
            total, kept = workload.num_videos, workload.num_kept
            done_before = f", {kept} of them done before" if kept else ""
            self.log("planned", f"{plural(total, 'video')} to extract{done_before}", num_videos=total, num_kept=kept)
            self.ticker = threading.Thread(target=self._tick, daemon=True)  # an update plans its work after the first
            self.ticker.start()

    def __call__(self, event: Progress) -> None:
        """Count an event of a worker."""
        row = event.row
        with self.lock:
            if not self.has_begun and row is None:  # importing libraries is no extraction
                self.began = time.monotonic()
            self.has_begun = True
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
        if not self.on_terminal and not self.quiet:
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
        done, to_do = float(self.num_ended), work.num_videos - work.num_kept
        if work.num_source_bytes:
            done, to_do = float(self.num_ended_bytes), work.num_source_bytes - work.num_kept_source_bytes
        # Videos in work count by their frames: else the first estimates are too long by the number of workers.
        if self.num_frames:
            mean_frames = self.num_frames / max(1, self.num_ended - self.num_failed)
            begun = sum(min(1.0, frames / mean_frames) for _, frames in self.current.values())
            done += begun * done / max(1, self.num_ended)
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
        if not self.has_begun:
            kept = f", {state['num_done']} done before" if state["num_done"] else ""
            return f"starting workers for {plural(int(state['num_videos']), 'video')}{kept}"
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        left = f", {human_seconds(state['seconds_left'])} left" if state["seconds_left"] >= 0 else ""
        return f"{state['num_done']:,} of {plural(int(state['num_videos']), 'video')}, {state['frames_per_second']:.0f} frames/s{failed}{left}"

    def close(self) -> None:
        """Remove the panel and end the automatic lines."""
        self.closed.set()
        if self.ticker.is_alive():
            self.ticker.join()
        if self.panel is not None:
            self.panel.close()
            self.panel = None

    def rows(self, width: int, height: int) -> list[Any]:
        """The lines of the panel: a bar as wide as the terminal, the state, a line for each worker."""
        from rich.table import Table
        from rich.text import Text

        with self.lock:
            line, state, current = self.line(), self.state(), sorted(self.current.items())
        line += f", {human_seconds(time.monotonic() - self.planned_at)} so far"
        workers = Table.grid(padding=(0, 2))
        workers.add_column(justify="right", no_wrap=True)
        # Of fixed width, so that nothing moves when names and counts change.
        workers.add_column(no_wrap=True, overflow="ellipsis", width=max(10, min(60, width - 24)))
        workers.add_column(justify="right", no_wrap=True, width=14)
        most = max(1, min(_MAX_WORKER_ROWS, height - 4))
        for worker, (key, frames) in current[:most]:
            count = plural(frames, "frame") if frames else "opening"
            workers.add_row(Text(f"{worker + 1}", style="dim"), Text(visible(key)), Text(count, style="dim"))
        if len(current) > most:
            workers.add_row("", Text(f"and {plural(len(current) - most, 'more worker')}", style="dim"), "")
        return [
            bar(state["num_done"], state["num_videos"], width),
            Text(line, no_wrap=True, overflow="ellipsis"),
            workers,
        ]
