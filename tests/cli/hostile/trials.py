"""One trial: a command of `tgprep` or `tgtrain` in this process, on a data set that was changed, within time and memory."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner

from cli.prep import main as tgprep
from cli.train import main as tgtrain
from tests.cli.hostile.support import SPLIT

TIME_LIMIT_SECONDS = 60
MEMORY_LIMIT_BYTES = 3 * 2**30  # beyond what the process has
_TINY = (
    "data.clip_frames=2", "data.interval=1", "data.size=32", "batch.labelled=2", "batch.unlabelled=2", "model.width=2",
    "optimiser.epochs=1", "optimiser.warmup_epochs=0", "method.warmup_epochs=0", "precise_bn.batches=0", "runtime.workers=0",
)  # fmt: skip
SETTINGS = " ".join(f"--set {text}" for text in _TINY)
# {d}: the changed data set, {o}: another one (with lists beside it), {v}: the videos, {r}: a run on it, {n}: a new place, {s}: the split.
PREP = (
    "info {d}", "info {d} --json", "check {d} --threads 1", "check {d} --quick --json", "check {d} --deep --threads 1",
    "check {d} --against {v} --threads 1", "preview {d} --output {n}.html --threads 1", "export {d} {n} --threads 1",
    "split {d}", "split {d} --percent 50 --name new --overwrite", "split {d} --per-class 1 --name new", "split {d} --show {s}",
    "split {d} --compare {s} {s}", "split {d} --export csv", "split {d} --export mmaction-videos --part test", "split {d} --materialise {s} --output {n}",
    "finalize {d}", "extract {v} {d} --threads 1", "extract {v} {d} --add --dry-run", "import-rawframes {d} {n}",
    "split {d} --import {v}/list.csv --name new", "card {d}", "card {d} --force --json",
    "merge {d} {o} {n}", "merge {o} {d} {n} --copy", "drop {d} --keys {o}.txt", "drop {d} --restore", "relabel {d} --from {o}.csv",
)  # fmt: skip
TRAIN = (
    f"run {{d}} --recipe demo --out {{n}} --max-steps 1 {SETTINGS}", "test {r} --data {d} --views 1x1 --device cpu",
    f"bench {{d}} --recipe demo {SETTINGS} --workers 0 --seconds 0.1", f"sweep {{d}} --recipe demo --out {{n}} --list {SETTINGS}",
)  # fmt: skip
# On a changed run: its data set is sound.
RUN = (
    "info {r}", "info {r} --json", "report {r} --output {n}.html", "report {r} --table markdown", "test {r} --views 1x1 --device cpu",
    f"run {{d}} --recipe demo --out {{r}} {SETTINGS}",
)  # fmt: skip
SLOW = (
    "check {d} --repair --against {v} --threads 1",
    "extract {v} {d} --add --retry-failed --threads 1",
)  # start processes


@dataclass(slots=True)
class Outcome:
    """What became of one trial."""

    change: str
    command: str
    exit_code: int
    output: str
    problem: str = ""  # "" if it is right: no traceback, a message with each error, within the limits


class _TooSlowError(BaseException):
    pass


@contextmanager
def limits() -> Iterator[None]:
    """Stop what takes too long, and let the allocation of too much memory fail."""

    def stop(number: int, frame: object) -> None:
        raise _TooSlowError

    before = signal.signal(signal.SIGALRM, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_LIMIT_BYTES, hard))
    signal.alarm(TIME_LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


@dataclass(slots=True)
class Bench:
    """A folder with a data set, its videos and a run, and places for copies of them."""

    root: Path  # holds good/, videos/ and, for commands that train, run/
    names: dict[str, str] = field(default_factory=dict)

    def trial(self, name: str, change: Callable[[Path], None], command: str) -> Outcome:
        """Apply a change to a fresh copy of the data set or, for commands of RUN, of the run, and use a command on it."""
        work = self.root / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        places = {
            "d": self.root / "good",
            "v": self.root / "videos",
            "r": self.root / "run",
            "o": self.root / "other",
            "n": work / "new",
            "s": SPLIT,
        }
        kind = "r" if command in RUN else "d"
        copied = work / kind
        shutil.copytree(places[kind], copied)
        change(copied)
        words = command.format_map(places | {kind: copied}).split()
        main = tgtrain if command in TRAIN + RUN else tgprep
        outcome = Outcome(name, command, -1, "")
        try:
            with limits():
                done = CliRunner().invoke(main, words)
        except _TooSlowError:
            outcome.problem = "too slow"
            return outcome
        outcome.exit_code, outcome.output = done.exit_code, done.output
        if isinstance(done.exception, _TooSlowError):
            outcome.problem = "too slow"
        elif done.exception is not None and not isinstance(done.exception, SystemExit):
            last = traceback.extract_tb(done.exception.__traceback__)[-1]
            outcome.problem = f"{done.exception!r:.200} at {last.filename}:{last.lineno}"
        elif done.exit_code not in (0, 1, 2):
            outcome.problem = f"exit code {done.exit_code}"
        elif "Traceback" in done.output:
            outcome.problem = "prints a traceback"
        elif done.exit_code and not done.output.strip():
            outcome.problem = "no message"
        return outcome
