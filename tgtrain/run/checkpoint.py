"""Checkpoints: written atomically with a sha256 beside each, at least two kept, and loading one never runs code.

checkpoints/step-00000120.pt, .pt.sha256    weights, momentum, counters, settings; with the accuracy, once it is measured
checkpoints/step-00000120.due.pt            saved before the evaluation of its step; removed when the measured one is written
checkpoints/best.json                       name, metric and value of the best one
checkpoints/begun-from.json                 sha256 of the checkpoint that `--resume PATH` named
checkpoints/set-aside-1/                    archive of later checkpoints, after a run went back to an older one
"""

from __future__ import annotations

import hashlib
import io
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from manifests.disk import TEMPORARY_PREFIX
from manifests.files import atomic_write, read_bytes, read_json
from manifests.manifest_io import file_sha256, json_bytes
from manifests.records import InputError
from tgtrain.data.setup import Identity
from tgtrain.errors import RunError
from tgtrain.run.folder import METRICS_NAME
from tgtrain.run.state_file import load_state

CHECKPOINT_VERSION = 1
FOLDER = "checkpoints"
_BEST = "best.json"
_DUE = ".due"
_ARCHIVE = "set-aside-"
State = dict[str, torch.Tensor]
_MAY_LACK = {"thresholds", "teacher", "running"}


@dataclass(frozen=True, slots=True)
class Measured:
    """The accuracy of a checkpoint when it was saved. metric: its name, and the part it was measured on."""

    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint of a run, as best.json names it."""

    path: Path
    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State after `step` steps. model, optimiser, extra: state dicts of tensors and plain values.

    thresholds: of an adaptive rule, see `tgtrain.method.thresholds`. teacher: the averaged model. running: with a teacher, the
    running statistics of both that training goes on with, after an evaluation. A file without one of these reads as {}.
    """

    step: int
    identity: Identity
    model: dict[str, Any]
    optimiser: dict[str, Any]
    extra: dict[str, Any]
    measured: Measured | None = None  # in the file, so that a kill before best.json is written loses nothing
    thresholds: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    running: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """ValueError if a value is not of its type: a file may hold anything."""
        of_tensors = (self.model, self.thresholds, self.teacher, self.running)
        if not all(isinstance(part, dict) for part in (*of_tensors, self.optimiser, self.extra)):
            raise ValueError("its model, optimiser, extra, thresholds or teacher is no dict")
        tensors = [pair for part in of_tensors for pair in part.items()]
        if not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors):
            raise ValueError("its model, thresholds or teacher holds something else than tensors")
        counts = self.step, *(self.extra.get(name, 0) for name in ("num_read", "num_bad", "num_skipped"))
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            raise ValueError("a count in it is no whole number")
        measured = ("", 0.0) if self.measured is None else (self.measured.metric, self.measured.value)
        texts = *astuple(self.identity), measured[0]
        if not (all(isinstance(text, str) for text in texts) and isinstance(measured[1], float)):
            raise ValueError("its identity or accuracy is of another type")
        if not isinstance(self.extra.get("settings", {}), dict):
            raise ValueError("its settings are no dict")

    @property
    def due(self) -> bool:
        """Whether it was saved before the evaluation of its step."""
        return bool(self.extra.get("evaluation_due"))


class DamagedError(InputError):
    """A checkpoint whose content is not what was written; an older one may be valid."""


def save(run: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint, update best.json, and remove the oldest ones beyond `keep`, never the best.

    A checkpoint whose evaluation is due has another name, and stays until the measured one of its step is written: replacing
    a file by one of the same name would leave it damaged between its digest and its content.

    Killed at any moment: the new file is complete, or the older ones are unchanged; `finish_save` does the rest when the run
    resumes. OSError if the disk does not take it: the older ones are unchanged.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial(run)
    path = folder / f"step-{checkpoint.step:08d}{_DUE * checkpoint.due}.pt"
    buffer = io.BytesIO()
    state = {entry.name: getattr(checkpoint, entry.name) for entry in fields(checkpoint)}
    state = {name: value for name, value in state.items() if name not in _MAY_LACK or value}
    state |= {"identity": asdict(checkpoint.identity), "measured": checkpoint.measured and asdict(checkpoint.measured)}
    torch.save({"version": CHECKPOINT_VERSION, **state}, buffer)
    content = buffer.getbuffer()
    # The digest comes first: a file without its digest, or with another one, never counts as a checkpoint.
    with atomic_write(_digest_path(path)) as file:
        file.write(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n".encode())
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError:
        if not path.exists():
            _digest_path(path).unlink(missing_ok=True)
        raise
    finish_save(run, checkpoint, keep)
    return path


def remove_partial(run: Path) -> None:
    """Remove what a kill during a write has left: temporary files, and digests without a file."""
    for path in (run / FOLDER).glob(f"{TEMPORARY_PREFIX}*"):
        path.unlink(missing_ok=True)
    for digest in (run / FOLDER).glob("step-*.pt.sha256"):
        if not digest.with_suffix("").exists():
            digest.unlink(missing_ok=True)


def finish_save(run: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Do what follows a saved checkpoint: update best.json, remove the oldest beyond `keep` and those that were due."""
    known, measured = best(run), checkpoint.measured
    if measured is not None and (known is None or measured.value > known.value):
        known = Best(run / FOLDER / f"step-{checkpoint.step:08d}.pt", measured.metric, measured.value)
        with atomic_write(run / FOLDER / _BEST) as file:
            file.write(json_bytes({"checkpoint": known.path.name, **asdict(measured)}))
    old = [path for path in list_checkpoints(run)[: -max(2, keep)] if known is None or path != known.path]
    for path in every_checkpoint(run):
        age = checkpoint.step - step_of(path)
        if path in old or (_is_due(path) and (age > 0 or (age == 0 and not checkpoint.due))):
            path.unlink(missing_ok=True)
            _digest_path(path).unlink(missing_ok=True)


def best(run: Path) -> Best | None:
    """The best checkpoint; None before there is one."""
    try:
        values = read_json(run / FOLDER / _BEST)
        found = Best(run / FOLDER / Path(values["checkpoint"]).name, str(values["metric"]), float(values["value"]))
        if not math.isfinite(found.value):
            return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return found if found.path.is_file() else None


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.stem.removeprefix("step-").removesuffix(_DUE))


def archive_newer(run: Path, after_step: int, due: bool = False) -> Path | None:
    """Move the checkpoints of later steps into a folder, with a copy of the metrics; None if there are none.

    They are damaged, or of a course that is given up. due: the run resumes before the evaluation of `after_step`, so the
    measured checkpoint of that step is moved, too. best.json is then written again from those that stay. Killed in between,
    the newest that stays is still the newest of its course.
    """
    newer = [
        path
        for path in every_checkpoint(run)
        if step_of(path) > after_step or (due and step_of(path) == after_step and not _is_due(path))
    ]
    if not newer:
        return None
    number = 1 + sum(1 for _ in (run / FOLDER).glob(f"{_ARCHIVE}*"))
    archive = run / FOLDER / f"{_ARCHIVE}{number}"
    archive.mkdir()
    if (run / METRICS_NAME).is_file():
        shutil.copyfile(run / METRICS_NAME, archive / METRICS_NAME)
    # The newest first, and each digest before its file: see the docstring on kills.
    for path in reversed(newer):
        if _digest_path(path).is_file():
            _digest_path(path).rename(archive / _digest_path(path).name)
        path.rename(archive / path.name)
    rebuild_best(run)
    return archive


def rebuild_best(run: Path) -> None:
    """Write best.json again from the checkpoints if it is missing or damaged, or names one that is gone."""
    if best(run) is not None:
        return
    (run / FOLDER / _BEST).unlink(missing_ok=True)
    for path in list_checkpoints(run):
        with suppress(DamagedError):
            finish_save(run, load(path), keep=sys.maxsize)


def list_checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run, oldest first, without those whose evaluation is due."""
    return [path for path in every_checkpoint(run) if not _is_due(path)]


def every_checkpoint(run: Path) -> list[Path]:
    """All that the run can resume from, oldest first: of one step the one whose evaluation is due comes first."""
    paths = (run / FOLDER).glob("step-*.pt")
    named = [path for path in paths if path.stem.removeprefix("step-").removesuffix(_DUE).isdecimal()]
    return sorted(named, key=lambda path: (step_of(path), not _is_due(path)))


def _is_due(path: Path) -> bool:
    return path.stem.endswith(_DUE)


def load(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read one checkpoint, running no code from it.

    DamagedError if its content is not what was written; InputError if it is missing, or of another version.
    """
    if not path.is_file():
        raise InputError(f"No checkpoint {path}.")
    try:
        expected = digest_of(path)
    except (OSError, ValueError, IndexError):
        raise DamagedError(f"{path}: no sha256 beside it ({_digest_path(path).name}); it was not completed.") from None
    actual = file_sha256(path)
    if actual != expected:
        raise DamagedError(f"{path} is damaged: sha256 {actual[:16]}…, expected {expected[:16]}….")
    try:
        raw = load_state(path, device)
        if raw["version"] != CHECKPOINT_VERSION:
            raise InputError(
                f"{path}: format version {raw['version']}, this program reads {CHECKPOINT_VERSION}. "
                "Use the version of tgprep that wrote it."
            )
        names = {entry.name for entry in fields(Checkpoint)} - (_MAY_LACK - raw.keys())
        state = {name: raw[name] for name in names}
        state |= {"identity": Identity(**raw["identity"]), "measured": raw["measured"] and Measured(**raw["measured"])}
        return Checkpoint(**state)
    except (LookupError, TypeError, ValueError) as error:
        raise DamagedError(f"{path} is no checkpoint of this program ({error}).") from None


def load_newest(run: Path, log: Callable[[str], None]) -> Checkpoint | None:
    """The newest valid checkpoint of a run; None before there is one. Damaged newer ones are skipped and logged.

    InputError if there are checkpoints and none is valid: to start at step 0 would throw the run away.
    """
    problems = []
    for path in reversed(every_checkpoint(run)):
        try:
            checkpoint = load(path)
        except DamagedError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            log(f"{problem} Trying the one before.")
        return checkpoint
    if not problems and (run / FOLDER / _BEST).exists():
        problems.append(f"{run / FOLDER} names a best checkpoint and holds none.")
    if problems:
        raise InputError(
            f"No checkpoint of {run} can be read: {' '.join(problems)} Restore one from a copy; to begin at step 0, "
            f"remove {run / FOLDER}, or name another folder with --out."
        )
    return None


def find(run: Path, which: str) -> Path:
    """The path of `last`, `best`, or a named checkpoint. InputError if there is none."""
    every, known = list_checkpoints(run), best(run)
    if which == "best":
        if known is None:
            raise InputError(f"{run} has no best checkpoint yet: none was evaluated. Use --checkpoint last.")
        return known.path
    if which == "last":
        if not every:
            raise InputError(f"{run} has no checkpoint yet. `tgtrain run` writes one at the end of every evaluation.")
        return every[-1]
    for path in (Path(which), run / FOLDER / which):
        if path.is_file():
            return path
    raise InputError(f"No checkpoint {which}; in {run}: {', '.join(path.name for path in every) or 'none'}.")


def digest_of(path: Path) -> str:
    """The sha256 of a checkpoint, from the file beside it."""
    return read_bytes(_digest_path(path), 4096).decode().split()[0]


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".pt.sha256")


@contextmanager
def writing(run: Path, step: int) -> Iterator[None]:
    """Within, files of the run are written: an OSError becomes a RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{error.filename or run}: {error.strerror or error} (at step {step}). {last_valid(run)}; "
            f"make room or repair the disk, then the same command goes on from there."
        ) from error


def last_valid(run: Path) -> str:
    """A clause that names the checkpoint to resume from, or says that there is none."""
    every = every_checkpoint(run)
    return f"{every[-1].name.capitalize()} is the last valid checkpoint" if every else "No checkpoint was written yet"
