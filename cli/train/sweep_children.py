"""The processes of a sweep: `tgtrain run` and `tgtrain test` of each cell, some cells at a time.

A cell is held by a lock that its processes inherit: another sweep into the same folder leaves the cell alone until they have
ended, also if this process is killed, which they notice and then save.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from cli.common import plural, say
from cli.train.launch import PARENT_PIPE, child_environment
from manifests.disk import made_folder
from manifests.locks import lock_file
from manifests.records import InputError
from tgtrain.ranks.signals import signals_blocked
from tgtrain.sweep import Cell, Progress, progress_of

_POLL_SECONDS = 0.05
_AGAIN_SECONDS = 2.0  # between two looks at a cell that another process holds
_LOCKS, _LOGS = ".locks", "logs"


@dataclass(frozen=True, slots=True)
class Commands:
    """How cells are run."""

    folder: Path
    """Of the sweep."""
    data: str
    words: tuple[str, ...]
    """Options of both `tgtrain run` and `tgtrain test`."""
    environments: tuple[Mapping[str, str], ...]
    """One for each cell that is in work at a time: what its processes see, such as their GPUs."""
    workers: int | None = None
    """Loader processes of each process of a run whose settings leave it open; None for its own choice."""

    def run_of(self, cell: Cell) -> list[str]:
        """The words of `tgtrain run`."""
        sets = [word for text in cell.overrides for word in ("--set", text)]
        words = [
            "run",
            self.data,
            "--recipe",
            cell.recipe,
            "--split",
            cell.split,
            "--out",
            str(self.folder / cell.name),
        ]
        if self.workers is not None and cell.config.runtime.workers < 0:
            sets += ["--set", f"runtime.workers={self.workers}"]
        return [*words, *sets, *self.words]

    def test_of(self, cell: Cell) -> list[str]:
        """The words of `tgtrain test`. The data is named: it may have moved since the run began."""
        shards = ["--shards", cell.config.data.shards] if cell.config.data.shards else []
        words = ["test", str(self.folder / cell.name), "--views", cell.views.protocol, "--data", self.data]
        return [*words, *shards, *self.words]


@dataclass(slots=True)
class _Job:
    """A cell in work."""

    cell: Cell
    slot: int
    holds: ExitStack
    lock: int | None
    log: Path
    process: subprocess.Popen[bytes]
    testing: bool
    shown: int
    """Bytes of the log that were shown."""
    last: str = ""
    """The last line that names an error, else the last line, of this process."""


class Children:
    """The processes of all cells in work."""

    def __init__(self, commands: Commands, seen: list[int], pipe: int) -> None:
        self.commands, self.seen, self.pipe = commands, seen, pipe
        self.jobs: list[_Job] = []
        self.failed: dict[str, str] = {}
        self.waited_for: set[str] = set()
        self.forwarded = 0

    def work(self, cells: Sequence[Cell]) -> None:
        """Run and test all cells that are not yet; after a signal, until their processes have saved and ended."""
        pending = deque(cells)
        elsewhere: deque[tuple[float, Cell]] = deque()  # held by other processes: when to look again
        try:
            while pending or elsewhere or self.jobs:
                self._forward()
                if self.seen:
                    pending.clear()
                    elsewhere.clear()
                while elsewhere and elsewhere[0][0] < time.monotonic():
                    pending.append(elsewhere.popleft()[1])
                free = sorted(set(range(len(self.commands.environments))) - {job.slot for job in self.jobs})
                if pending and free and not self.seen and not self._begin(cell := pending.popleft(), free[0]):
                    elsewhere.append((time.monotonic() + _AGAIN_SECONDS, cell))
                for job in list(self.jobs):
                    self._look_at(job)
                if not (pending and free):
                    time.sleep(_POLL_SECONDS)
        finally:
            for job in self.jobs:  # left only if this process has failed
                job.process.terminate()
            for job in self.jobs:
                job.process.wait()
                job.holds.close()

    def _forward(self) -> None:
        """Pass new signals on; a second SIGINT ends all at once."""
        for number in self.seen[self.forwarded :]:
            again = number == signal.SIGINT and signal.SIGINT in self.seen[: self.forwarded]
            for job in self.jobs:
                job.process.send_signal(signal.SIGKILL if again else number)
            self.forwarded += 1

    def _begin(self, cell: Cell, slot: int) -> bool:
        """Take up a cell; False if another process holds it."""
        folder, holds = self.commands.folder, ExitStack()
        place = folder / _LOCKS / f"{cell.name}.lock"
        try:
            lock = holds.enter_context(lock_file(place, f"{folder / cell.name}"))
        except InputError as error:
            if cell.name not in self.waited_for:
                say(f"{cell.name}: {error} This sweep goes on with other cells and waits.")
                self.waited_for.add(cell.name)
            return False
        holds.callback(place.unlink, missing_ok=True)
        progress = self._progress(cell)
        if progress is None or progress.state == "tested":
            holds.close()
            return True
        log = folder / _LOGS / f"{cell.name}.log"
        log.parent.mkdir(exist_ok=True)
        self._start(
            cell, slot, holds, None if lock is None else lock.fileno(), log, testing=progress.state == "trained"
        )
        return True

    def _start(self, cell: Cell, slot: int, holds: ExitStack, lock: int | None, log: Path, *, testing: bool) -> None:
        words = self.commands.test_of(cell) if testing else self.commands.run_of(cell)
        say(f"{cell.name}: cell {cell.number} is {'tested' if testing else 'trained'}")
        environment = {**child_environment(), **self.commands.environments[slot], PARENT_PIPE: str(self.pipe)}
        with open(log, "ab", opener=_open_no_link) as file, signals_blocked():
            shown = file.seek(0, os.SEEK_END)
            # Signals are blocked in the child until it can note them.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tgtrain", *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                pass_fds=[self.pipe] + ([] if lock is None else [lock]),
                process_group=0,  # a terminal's Ctrl-C reaches it once, through this process
            )
        self.jobs.append(_Job(cell, slot, holds, lock, log, process, testing, shown))

    def _look_at(self, job: _Job) -> None:
        """Show what a process has printed, and do what follows if it has ended."""
        code = job.process.poll()
        self._show(job, to_end=code is not None)
        if code is None:
            return
        self.jobs.remove(job)
        cell = job.cell
        progress = self._progress(cell)
        if progress is None or progress.state == "tested":
            pass
        elif self.seen:
            say(f"{cell.name}: stopped; the same command resumes it")
        elif progress.state == "trained" and not job.testing and code == 0:
            self._start(cell, job.slot, job.holds, job.lock, job.log, testing=True)
            return
        else:
            command = f"tgtrain {'test' if job.testing else 'run'}"
            end = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            self.failed[cell.name] = f"{command} {end}: {job.last or 'no message'} ({job.log})"
            say(f"{cell.name}: failed")
        job.holds.close()

    def _show(self, job: _Job, *, to_end: bool) -> None:
        """Print the complete lines of the log that are new."""
        with suppress(OSError), job.log.open("rb") as file:
            file.seek(job.shown)
            content = file.read()
            size = len(content) if to_end else content.rfind(b"\n") + 1
            job.shown += size
            for line in content[:size].decode(errors="replace").splitlines():
                say(f"{job.cell.name}: {line}")
                if line.startswith("Error:") or not job.last.startswith("Error:"):
                    job.last = line

    def _progress(self, cell: Cell) -> Progress | None:
        """How far a cell has come, reported if it is tested; None, which is a failure, if its run cannot be read."""
        try:
            progress = progress_of(cell, self.commands.folder / cell.name)
        except InputError as error:
            self.failed[cell.name] = str(error)
            return None
        if progress.state == "tested":
            say(f"{cell.name}: {figures(progress)}")
        if progress.num_bad:
            self.failed[cell.name] = (
                f"{plural(progress.num_bad, 'test video')} could not be read and {'is' if progress.num_bad == 1 else 'are'} not counted"
            )
        return progress


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def work(commands: Commands, cells: Sequence[Cell], seen: list[int]) -> dict[str, str]:
    """Run and test cells, and return what was wrong with those that failed, by name. seen: the signals received, see `note_signals`.

    OSError if the folder cannot be written to, InputError if a link leads out of it.
    """
    with made_folder(commands.folder):
        for name in (_LOCKS, _LOGS):
            if (place := commands.folder / name).is_symlink():
                raise InputError(
                    f"{place} is a link to {place.resolve()}. A sweep writes into its own folder alone: remove the link."
                )
        read_end, write_end = os.pipe()
        try:
            children = Children(commands, seen, read_end)
            children.work(cells)
        finally:
            os.close(read_end)
            os.close(write_end)
            with suppress(OSError):
                (commands.folder / _LOCKS).rmdir()  # if nothing is in it
    return children.failed


def figures(progress: Progress) -> str:
    """The top-1 accuracy of each network, for a line."""
    texts = [
        f"{result.modality} {100 * value:.2f} %"
        for result in progress.results
        if (value := result.metric("top1")) is not None
    ]
    return f"top1@{progress.results[0].protocol} {', '.join(texts)}" if texts else ""


def environments(
    jobs: int, per_job: int, gpus: Sequence[str], cores: int, log: Callable[[str], None]
) -> tuple[dict[str, str], ...]:
    """What the processes of each of several jobs see: their own GPUs, and their share of the cores for threads.

    gpus: names as in CUDA_VISIBLE_DEVICES; [] if there are none or none are to be given out. InputError if they do not suffice
    for jobs of several processes; jobs of one process share them.
    """
    if jobs == 1:
        return ({},)
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // (jobs * per_job)))
    plain = {"OMP_NUM_THREADS": threads}
    if not gpus:
        return tuple(plain for _ in range(jobs))
    if per_job > 1 and jobs * per_job > len(gpus):
        raise InputError(
            f"--jobs {jobs} with --devices {per_job} need {plural(jobs * per_job, 'GPU')}, and {len(gpus)} {'is' if len(gpus) == 1 else 'are'} visible. Lower one of them."
        )
    if jobs * per_job > len(gpus):
        log(f"note: {plural(jobs, 'cell')} at a time share {plural(len(gpus), 'GPU')}")
    sets = [[gpus[(slot * per_job + place) % len(gpus)] for place in range(per_job)] for slot in range(jobs)]
    return tuple({**plain, "CUDA_VISIBLE_DEVICES": ",".join(own)} for own in sets)
