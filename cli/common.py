"""Shared by all commands: lazy loading, one message per mistake, exit codes, options from settings models, progress lines.

Exit codes: 0 success; 1 finished but something failed; 2 wrong usage or input; 130 and 143 interrupted.
"""

from __future__ import annotations

import functools
import importlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, get_args, get_origin

import click
from click.core import ParameterSource

from manifests import console
from manifests.console import echo, plural, reader_is_gone, say
from manifests.disk import explained, is_storage_error
from manifests.files import parse_location
from manifests.machine import core_quota, require_utf8_names, usable_cores
from manifests.object_store import UnreachableError, giving_up
from manifests.records import InputError
from manifests.spelling import british
from tgtrain.errors import RunError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from pydantic import BaseModel

EXIT_FAILURES = 1
EXIT_USAGE = 2
_MOST_CHARACTERS = 10_000  # of a message, which may quote a name without end
__all__ = ["echo", "plural", "reader_is_gone", "say"]  # with all that is defined here: commands print through these
P = ParamSpec("P")
R = TypeVar("R")


class PlaceType(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """The type of an option that names a folder by path or fsspec URL: a Path or the URL as str; with `text`, always str."""

    name = "path or URL"

    def __init__(self, *, text: bool = False) -> None:
        self.text = text

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.startswith("memory://"):
            self.fail(f"{value} is gone when this program ends; name a folder or a store.", param, ctx)
        place = parse_location(value) if isinstance(value, str) else value
        return str(place) if self.text else place


class PartType(click.Choice):  # type: ignore[type-arg]  # generic in new versions of click only
    """The name of a part of a split, in either spelling."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(british(value) if isinstance(value, str) else value, param, ctx)


class LazyGroup(click.Group):
    """A group whose commands are imported only when called, so that `--help` is fast.

    lazy: name -> (module, one line of help); the module's function has the command's name, with `_` for `-`.
    """

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program: file names are UTF-8 in every locale; whatever happens to its output, the work goes on."""
        if not args and not kwargs.get("args"):  # no words are given: they come from the command line of this process
            require_utf8_names()
        console.protect()
        try:
            return super().main(*args, **kwargs)
        except SystemExit as end:
            sys.exit(console.exit_code(end.code) if isinstance(end.code, int) else end.code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return None
        module = importlib.import_module(self.lazy[cmd_name][0])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands, without importing them, and options."""
        from click.shell_completion import CompletionItem

        commands = [
            CompletionItem(name, help=text) for name, (_, text) in self.lazy.items() if name.startswith(incomplete)
        ]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.lazy:
            near = get_close_matches(name, self.lazy, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise click.UsageError(f"No command `{name}`.{hint} Commands: {', '.join(self.lazy)}.", ctx)
        end = args.index("--") if "--" in args else len(args)
        words = [_one_spelling(word) for word in args[:end]]
        return super().resolve_command(ctx, [*words, *args[end:]])


def _one_spelling(word: str) -> str:
    """An option in the spelling that its command knows: --unlabeled=DIR -> --unlabelled=DIR; other words as they are."""
    name, equals, value = word.partition("=")
    return f"{british(name)}{equals}{value}" if word.startswith("--") else word


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


@contextmanager
def _signals_raise() -> Iterator[list[int]]:
    """Let SIGTERM end a command as SIGINT does; commands with handlers of their own keep them. Gives the signals that came."""
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise _Terminated if number == signal.SIGTERM else KeyboardInterrupt

    free: dict[int, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [number for number, handler in free.items() if is_main and signal.getsignal(number) == handler]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield came
    finally:
        for number in numbers:
            if signal.getsignal(number) is end:
                signal.signal(number, free[number])


def handled(function: Callable[P, R]) -> Callable[P, R]:
    """Print errors of the user's input and environment as one message and set the exit code; other exceptions are bugs."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with _signals_raise() as came:
                return function(*args, **kwargs)
        except InputError as error:
            say(f"Error: {error!s:.{_MOST_CHARACTERS}}")
            sys.exit(EXIT_USAGE)
        except RunError as error:
            say(f"Error: {error}")
            sys.exit(EXIT_FAILURES)
        except KeyboardInterrupt as error:
            say("Interrupted.")
            sys.exit(128 + (signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT))
        except MemoryError:
            say("Error: the memory of this machine does not suffice. Use smaller settings, or a larger machine.")
            sys.exit(EXIT_FAILURES)
        except UnicodeEncodeError as error:
            if error.encoding != "utf-8":
                raise
            name = error.object[: error.end].split('"')[-1][-60:]
            say(f"Error: {name}: the name of this file or folder is not valid UTF-8. Rename it.")
            sys.exit(EXIT_USAGE)
        except OSError as error:
            if not is_storage_error(error):
                raise
            # A store that does not answer fails the work; a path that cannot be used (too long, a folder in place of a file,
            # no permission, a full disk) is the user's to correct.
            say(f"Error: {explained(error)}")
            sys.exit(EXIT_FAILURES if isinstance(error, UnreachableError) else EXIT_USAGE)
        except Exception:
            if not came:  # else a library that it interrupted raised this in place of our exception
                raise
            say("Interrupted.")
            sys.exit(128 + came[0])

    return wrapper


def one_mode(
    ctx: click.Context,
    modes: dict[str, tuple[set[str], set[str]]],
    hint: str,
    marks: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Detect what a command with several modes is to do; InputError if its options cannot be combined.

    modes: for each the options that choose it, and those that it takes besides; the last one is without options. hint: what to
    do about options without a mode. marks: how messages name a mode, if not as the option of its name.
    """
    default = list(modes)[-1]
    given = {name for name in ctx.params if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT}
    given -= {"out", "as_json"}
    chosen = [mode for mode, (choosing, _) in modes.items() if choosing & given] or [default]
    if len(chosen) > 1:
        raise InputError(f"Do one thing at a time: {', '.join(sorted(chosen))} cannot be combined.")
    mode = chosen[0]
    spelled = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
    if unexpected := sorted(spelled[name] for name in given.difference(*modes[mode])):
        problem = hint if mode == default else f"has no meaning with {marks.get(mode, f'--{mode}')}."
        raise InputError(f"{', '.join(unexpected)}: {problem}")
    return mode


def print_json(value: Any) -> None:
    """Print the result as one JSON object on stdout."""
    echo(json.dumps(value, indent=2, ensure_ascii=(sys.stdout.encoding or "utf-8").lower() != "utf-8"))


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # else the work goes on without its terminal (nohup)
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def interruptible() -> Iterator[tuple[threading.Event, list[int]]]:
    """Catch SIGINT, SIGTERM and SIGHUP: set the event and record the signal; a second SIGINT raises KeyboardInterrupt."""
    stop = threading.Event()
    seen: list[int] = []
    setters: list[threading.Thread] = []

    def note(number: int, frame: FrameType | None) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)
        stop.set()
        # In a thread: the signal may have interrupted code that holds the lock of this event. Nothing waits for a silent store.
        setter = threading.Thread(target=giving_up.set, daemon=True)
        setter.start()
        setters.append(setter)

    try:
        with _handled_by(note):
            yield stop, seen
    finally:
        try:
            for setter in setters:  # one that sets the event late would make later calls give up
                setter.join()
        finally:
            giving_up.clear()


@contextmanager
def at_once(seen: list[int]) -> Iterator[None]:
    """Within `interruptible`: let signals raise KeyboardInterrupt, for work that needs no orderly end."""

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    with _handled_by(note):
        if seen:
            raise KeyboardInterrupt
        yield


@contextmanager
def stoppable(message: str) -> Iterator[threading.Event]:
    """Run work that a signal stops through the event; if it stops, print the message and exit with 128 + the signal."""
    with interruptible() as (stop, signals):
        try:
            yield stop
        except KeyboardInterrupt:
            say(message)
            sys.exit(128 + (signals[0] if signals else signal.SIGINT))


def progress_lines(unit: str = "", *, of_bytes: bool = False, seconds: float = 10.0) -> Callable[[int, int], None]:
    """A callback (done, total) that prints at most one line in so many seconds, with the time left."""
    started = printed = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal printed
        if time.monotonic() - printed > seconds:
            printed = time.monotonic()
            amount = f"{human_bytes(done)} of {human_bytes(total)}" if of_bytes else f"{done} of {total} {unit}"
            say(f"{amount}  {human_seconds((printed - started) * (total - done) / max(1, done))} left")

    return report


def options_from(model: type[BaseModel]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add click options for a model's fields: names, types, defaults, ranges and help are defined in the model only.

    Options that the user does not give are None, and `tgprep.config.build` leaves them to the model.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for name, field in reversed(model.model_fields.items()):
            kind: Any = field.annotation
            if get_origin(kind) is Literal:
                kind = click.Choice([str(value) for value in get_args(kind)])
            text = f"{field.description}  [default: {field.default}]"
            function = click.option(f"--{name.replace('_', '-')}", name, type=kind, default=None, help=text)(function)
        return function

    return add


def cache_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --cache and --cache-gb, for commands that read shards."""
    gigabytes = click.option(
        "--cache-gb",
        type=click.FloatRange(min=0),
        help="limit of the cache in GB of 10^9 bytes  [default: 80 % of what its disk has free]",
    )
    folder_help = "local folder for shards of a data set at a URL  [default: ~/.cache/tgtrain]"
    return click.option("--cache", "cache_folder", metavar="DIR", help=folder_help)(gigabytes(function))


quiet_option = click.option(
    "-q", "--quiet", is_flag=True, help="print warnings and errors only; metrics and tables hold the rest"
)
force_option = click.option("--force", is_flag=True, help="try it even if the memory does not suffice by the estimate")


def quiet_threads() -> None:
    """Let computing threads leave room for others, idle ones sleep and no more than the quota allows; before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # when they spin, the loader's processes starve
    if math.isfinite(core_quota()):  # which the library does not know
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def human_bytes(count: float) -> str:
    """Format a number of bytes: 12.3 MB (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """Format a duration: 4 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def run_or_newest(run: Path | None) -> Path:
    """The given run folder, or the newest below ./runs, which is then named. InputError if it is no run; needs no torch."""
    from tgtrain.run.places import newest_run, require_run

    if run is not None:
        return require_run(run)
    run = newest_run()
    say(f"run {run}")
    return run
