"""What commands draw for a person: a panel below the log on stderr, and coloured lines on stdout. rich does the drawing."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

from manifests.console import visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.live import Live

LOG_COLUMNS = 99  # of a line of prose in a log that is no terminal


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether a person looks at this stream on a terminal that can move its cursor."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def columns(stream: IO[str]) -> int:
    """Columns of the terminal that a stream goes to; 80 if it is gone."""
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or 80
    return 80


def folded(text: str, width: int = LOG_COLUMNS) -> str:
    """Prose in lines of at most `width` columns; words, which hold paths and numbers, stay whole."""
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def print_styled(*parts: tuple[str, str]) -> None:
    """Print a line of the result on stdout. parts: texts, each with its style (`bold red`, "" for none), seen on a terminal alone."""
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble(*((visible(text), style) for text, style in parts), no_wrap=True)
    Console(file=sys.stdout, highlight=False, soft_wrap=True).print(line)


def bar(done: float, total: float, width: int) -> RenderableType:
    """A bar of this width. Without colours what is left is blank."""
    from rich.progress_bar import ProgressBar

    return ProgressBar(total=max(1, total), completed=done, width=width, complete_style="cyan", finished_style="green")


class Panel:
    """A panel below the log on stderr. Lines that are printed while it is there, by whomever, scroll past above it.

    rows: gives what it shows in so many columns and at most so many lines. ticking: it is drawn four times a second by a thread;
    otherwise by `draw` alone.
    """

    def __init__(self, rows: Callable[[int, int], Sequence[RenderableType]], *, ticking: bool = False) -> None:
        from rich.console import Console

        self.rows = rows
        self.widths: list[int] = []  # of the lines on the terminal
        self.live = _make_live(self, Console(stderr=True), ticking)
        self.live.start(refresh=True)

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return self.live.console.width

    def draw(self) -> None:
        """Draw it as it is now."""
        self.live.refresh()

    def print(self, text: str, style: str = "") -> None:
        """Print a line above it."""
        from rich.text import Text

        self.live.console.print(Text(visible(text), style=style))  # a style of `print` would colour the panel, too

    def close(self, *, keep: bool = False) -> None:
        """End it. keep: its last state stays as a part of the log."""
        self.live.transient = not keep
        self.live.stop()

    def num_wrapped(self, width: int) -> int:
        """Lines that a terminal of this width has made of the drawn ones in addition, as it does when it becomes narrower."""
        return sum(max(0, -(-drawn // width) - 1) for drawn in self.widths)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich.segment import Segment

        rows = self.rows(options.max_width, options.size.height)
        lines = [line for row in rows for line in console.render_lines(row, options, pad=False) or [[]]][
            : options.size.height - 1
        ]
        self.widths = [Segment.get_line_length(line) for line in lines]
        for line in lines:
            yield from line
            yield Segment.line()


def _make_live(panel: Panel, console: Console, ticking: bool) -> Live:
    from rich.control import Control
    from rich.live import Live
    from rich.segment import ControlType

    class Resized(Live):
        """Also clears what is left of the last picture when the terminal has become narrower and wrapped its lines."""

        def process_renderables(self, renderables: list[Any]) -> list[Any]:
            extra = panel.num_wrapped(max(1, self.console.width)) if self.is_started else 0
            up = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
            cleared = [Control(*up * extra)] if extra else []
            return [*cleared, *super().process_renderables(renderables)]

    return Resized(
        panel, console=console, auto_refresh=ticking, refresh_per_second=4, transient=True, redirect_stdout=False
    )
