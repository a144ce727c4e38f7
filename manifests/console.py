"""The one place that prints: what a program writes on stdout and stderr passes through here.

Names come from files of anyone: characters that command a terminal, or change the order in which it shows others, are printed
as their codes (`visible`).

Output is not the work. Whatever happens to a stream (its reader or terminal is gone, its disk is full, it was closed before the
program began) costs what would have been printed and nothing else; `exit_code` reports a lost result at the end.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import locale
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator

# Control characters but line feed and tab, marks of writing direction, separators of lines, halves of pairs, the byte order mark.
_COMMANDS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


_EITHER = re.compile(r"\{([^{}|]+)\|([^{}|]+)\}")  # the singular and the plural of `counted`
_FAILING = ("strict", "surrogateescape")  # how Python treats characters that an encoding lacks: an exception


class _Stream(io.FileIO):
    """The file of stdout or stderr, whose `write` never fails: `lost` is the first error."""

    lost: OSError | None = None
    closed_before = False

    def write(self, data: io.ReadableBuffer) -> int:  # type: ignore[name-defined]
        size = len(memoryview(data).cast("B"))
        try:
            if self.closed_before:
                raise OSError(errno.EBADF, "it is closed")
            while (count := super().write(data)) is None:  # a terminal that another program has made non-blocking
                select.select([], [self], [])
            return count
        except OSError as error:
            self.lost = self.lost or error
            return size


_streams: dict[str, _Stream] = {}


def protect() -> None:
    """Make stdout and stderr of this process such streams; called once, before anything is printed.

    Descriptors 0 to 2 that are closed are opened on nothing: the next file that is opened would take their place, and get what
    libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if closed := not _is_open(number):
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            os.set_inheritable(number, True)
        before = getattr(sys, name)
        if name == "stdin" or before is not getattr(sys, f"__{name}__"):  # what a test has put there stays
            continue
        _streams[name] = raw = _Stream(number, "w", closefd=False)
        raw.closed_before = closed
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                io.BufferedWriter(raw),
                encoding="utf-8" if before is None else _encoding(before),
                # A name that the locale cannot show is shown by its codes.
                errors="backslashreplace" if before is None or before.errors in _FAILING else before.errors,
                line_buffering=before is None or before.line_buffering,
                write_through=before is not None and before.write_through,
            ),
        )


def visible(text: str) -> str:
    """The text with `\\u001b` and the like in place of characters that command a terminal. JSON and TOML stay what they are."""
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(text: str = "") -> None:
    """Print a line of the log on stderr; stdout holds results only. It never fails, in processes that are not protected, too."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            # The line and its end in one piece: other threads print, too.
            print(f"{visible(text)}\n", end="", file=sys.stderr, flush=True)


def echo(text: object = "", *, end: str = "\n", kept: str = "", exact: bool = False) -> None:
    """Print a line of the result on stdout.

    exact: a list for another program, as it is unless it goes to a terminal.
    kept: where else the result is, so that the command has done its work without this line, too.
    """
    print(text if exact and not sys.stdout.isatty() else visible(str(text)), end=end, flush=True)
    stream = _streams.get("stdout")
    if kept and stream is not None and stream.lost is not None:
        if stream.lost.errno != errno.EPIPE:
            say(f"note: the result cannot be printed ({stream.lost.strerror}); it is in {kept}")
        stream.lost = None


@contextlib.contextmanager
def waiting(what: str | Callable[[], str], after_seconds: float = 5.0) -> Iterator[None]:
    """Say what this process waits for if the block takes long: after this time, then after twice that time and so on."""
    done, began = threading.Event(), time.monotonic()

    def report() -> None:
        due = after_seconds
        while not done.wait(began + due - time.monotonic()):
            say(f"waiting for {what if isinstance(what, str) else what()} ({due:.0f} s so far)")
            due = min(2 * due, due + 600)

    threading.Thread(target=report, name="waiting", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def reader_is_gone() -> bool:
    """Whether nobody reads stdout any more, as after `| head`: nothing more needs to be computed for it."""
    stream = _streams.get("stdout")
    return stream is not None and stream.lost is not None and stream.lost.errno == errno.EPIPE


def lost_log() -> str:
    """Why lines of the log on stderr were lost; empty if none was."""
    stream = _streams.get("stderr")
    return (stream.lost.strerror or "") if stream is not None and stream.lost is not None else ""


def exit_code(code: int) -> int:
    """The exit code of a command that ends with this one: 2, after a message, if the result could not be printed."""
    stream = _streams.get("stdout")
    if stream is None:
        return code
    with contextlib.suppress(ValueError):
        sys.stdout.flush()
    error, stream.lost = stream.lost, None
    if error is None or error.errno == errno.EPIPE:
        return code
    say(f"Error: the result cannot be printed: standard output: {error.strerror}. Make room, or send it elsewhere.")
    return code or 2


def _encoding(stream: io.TextIOBase) -> str:
    """The encoding of a stream; in UTF-8 mode a terminal has that of its locale, unless this is ASCII, Python's guess for none."""
    if sys.flags.utf8_mode and stream.isatty() and not os.environ.get("PYTHONIOENCODING"):
        with contextlib.suppress(LookupError):
            of_locale = codecs.lookup(locale.getencoding()).name
            return stream.encoding if of_locale == "ascii" else of_locale
    return stream.encoding


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def plural(count: int, one: str, many: str = "") -> str:
    """A number with its noun: 1 video, 2 videos, 3 classes. many: the plural, if it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def counted(message: str, count: int) -> str:
    """A message about a number of things: `{video is|videos are}` becomes `1 video is` or `3 videos are`, {n} the number alone."""
    agreed = _EITHER.sub(lambda found: plural(count, found[1], found[2]), message)
    return agreed.replace("{n}", f"{count:,}")
