"""Programs of ours on a terminal."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

from tests.extraction import environment

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _take_terminal() -> None:
    """Make the standard input the terminal of this process. Signals are as in a shell, also if the tests run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A program of ours on a terminal with this many columns; `shown` is its output. path: of test modules."""

    def __init__(
        self,
        columns: int,
        *arguments: str | Path,
        path: Path | None = None,
        prefix: Sequence[str] = (),
        program: str = "prep",
        folder: Path | None = None,
        **values: str,
    ) -> None:
        self.ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-P", "-m", f"tg{program}", *map(str, arguments)],
            cwd=folder,
            # pytest-xdist sets the columns of its workers, which would count for more than those of the terminal.
            env={
                name: value
                for name, value in {**environment(path, **values), "TERM": "xterm-256color"}.items()
                if name not in ("COLUMNS", "LINES")
            },
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(theirs)
        self.shown = ""

    def read(self, seconds: float = 0.1) -> bool:
        """Take what is there; False once the process has left the terminal."""
        if not select.select([self.ours], [], [], seconds)[0]:
            return True
        try:
            piece = os.read(self.ours, 1 << 16)
        except OSError:  # so Linux says that nobody is on the other side any more
            return False
        self.shown += piece.decode()
        return bool(piece)

    def read_to_the_end(self, seconds: float = 60) -> int:
        """The exit code; AssertionError where it does not end."""
        deadline = time.monotonic() + seconds
        while self.read():
            assert time.monotonic() < deadline, f"it hangs after {self.shown[-2000:]!r}"
        return self.process.wait(timeout=20)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in re.split(r"[\r\n]+", _ESCAPE.sub("", self.shown))]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)
