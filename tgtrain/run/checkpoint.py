"""Checkpoints: atomic, with a sha256 beside each, at least two kept, never a file that runs code when loaded."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from manifests.manifest_io import TEMPORARY_PREFIX, atomic_write, file_sha256, json_bytes
from manifests.records import InputError
from tgtrain.data.setup import Identity
from tgtrain.errors import RunError

CHECKPOINT_VERSION = 1
FOLDER = "checkpoints"
_BEST = "best.json"
_DUE = ".due"
_BEGUN = "begun-from.json"
_ASIDE = "set-aside-"
_METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class Measured:
    """The accuracy that a checkpoint was measured with when it was saved. metric: its name and what it was measured on."""

    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State after `step` steps. model, optimiser, extra: state dicts of tensors and plain values.

    measured: kept in the file, so that a kill between its writing and the mark of the best one loses nothing.
    """

    step: int
    identity: Identity
    model: dict[str, Any]
    optimiser: dict[str, Any]
    extra: dict[str, Any]
    measured: Measured | None = None

    @property
    def due(self) -> bool:
        """Whether it was saved before the evaluation of its step, which is still to be made."""
        return bool(self.extra.get("evaluation_due"))


class DamagedError(InputError):
    """A checkpoint that is not as it was written; an older one may be whole."""


def save(run: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint under its step's name, mark it where it is the best, remove the oldest ones beyond `keep`, never the best.

    One whose evaluation is due has a name of its own, and stays until the measured one of its step is written: a file is
    never replaced by another of the same name, as it would be damaged between its digest and its content.

    Killed at any moment: either the whole new file is there under its name, or the older ones are as they were; what
    comes after the file is made good by `settle` when the run goes on. OSError where the disk does not take it: the
    older ones are as they were.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    clean(run)
    path = folder / f"step-{checkpoint.step:08d}{_DUE * checkpoint.due}.pt"
    buffer = io.BytesIO()
    measured = checkpoint.measured
    torch.save(
        {
            "version": CHECKPOINT_VERSION,
            "step": checkpoint.step,
            "identity": {
                "data_digest": checkpoint.identity.data_digest,
                "split_digest": checkpoint.identity.split_digest,
                "model": checkpoint.identity.model,
            },
            "model": checkpoint.model,
            "optimiser": checkpoint.optimiser,
            "extra": checkpoint.extra,
            "measured": None if measured is None else {"metric": measured.metric, "value": measured.value},
        },
        buffer,
    )
    content = buffer.getbuffer()
    # The digest first: a file without its digest, or with another one, never counts as a checkpoint.
    with atomic_write(_sidecar(path)) as file:
        file.write(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n".encode())
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError:
        if not path.exists():
            _sidecar(path).unlink(missing_ok=True)
        raise
    settle(run, checkpoint, keep)
    return path


def clean(run: Path) -> None:
    """Remove what a kill in the middle of a write has left among the checkpoints: temporary files, digests without a file."""
    for left in (run / FOLDER).glob(f"{TEMPORARY_PREFIX}*"):
        left.unlink(missing_ok=True)
    for digest in (run / FOLDER).glob("step-*.pt.sha256"):
        if not digest.with_suffix("").exists():
            digest.unlink(missing_ok=True)


def settle(run: Path, checkpoint: Checkpoint, keep: int) -> None:
    """What follows a saved checkpoint: it is marked where it is the best one; the oldest ones beyond `keep` go, and what was due."""
    known = best(run)
    if checkpoint.measured is not None and (known is None or checkpoint.measured.value > known[1]):
        _mark_best(run, f"step-{checkpoint.step:08d}.pt", checkpoint.measured)
    _prune(run, keep)
    for path in _due_checkpoints(run):
        if step_of(path) < checkpoint.step or (step_of(path) == checkpoint.step and not checkpoint.due):
            _remove(path)


def best(run: Path) -> tuple[Path, float] | None:
    """The best checkpoint and its value; None before there is one."""
    try:
        found = json.loads((run / FOLDER / _BEST).read_bytes())
        path, value = run / FOLDER / Path(found["checkpoint"]).name, float(found["value"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (path, value) if path.is_file() else None


def step_of(path: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(path.stem.removeprefix("step-").removesuffix(_DUE))


def set_aside(run: Path, after_step: int, due: bool = False) -> Path | None:
    """Move the checkpoints of later steps, damaged or of a course that is given up, into a folder of their own, with the metrics so far.

    due: the run goes on before the evaluation of `after_step`; a checkpoint that was to hold it is moved, too.

    The best one is then told from those that stay. Returns the folder; None where there was nothing to move. Killed in
    between, the newest that stays is still the newest of its course.
    """
    measured = set(list_checkpoints(run))
    newer = [
        path
        for path in every_checkpoint(run)
        if step_of(path) > after_step or (due and step_of(path) == after_step and path in measured)
    ]
    if not newer:
        return None
    number = 1 + sum(1 for _ in (run / FOLDER).glob(f"{_ASIDE}*"))
    place = run / FOLDER / f"{_ASIDE}{number}"
    place.mkdir()
    if (run / _METRICS).is_file():
        shutil.copyfile(run / _METRICS, place / _METRICS)
    for path in reversed(newer):
        if _sidecar(path).is_file():
            _sidecar(path).rename(place / _sidecar(path).name)
        path.rename(place / path.name)
    if best(run) is None:
        (run / FOLDER / _BEST).unlink(missing_ok=True)
        for path in list_checkpoints(run):
            try:
                settle(run, load(path), keep=sys.maxsize)
            except DamagedError:
                continue
    return place


def list_checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run, oldest first, without those whose evaluation is due."""
    return sorted((path for path in (run / FOLDER).glob("step-*.pt") if path.stem[5:].isdecimal()), key=step_of)


def every_checkpoint(run: Path) -> list[Path]:
    """All that the run can go on from, oldest first: of one step the one whose evaluation is due comes first."""
    return sorted([*_due_checkpoints(run), *list_checkpoints(run)], key=step_of)


def _due_checkpoints(run: Path) -> list[Path]:
    found = (run / FOLDER).glob(f"step-*{_DUE}.pt")
    return [path for path in found if path.stem[5:].removesuffix(_DUE).isdecimal()]


def load(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read one checkpoint, running no code from it.

    DamagedError where it is not as it was written; InputError where it is missing, or of another version.
    """
    if not path.is_file():
        raise InputError(f"No checkpoint {path}.")
    try:
        expected = _sidecar(path).read_text().split()[0]
    except (OSError, ValueError, IndexError):
        raise DamagedError(
            f"{path}: no sha256 beside it ({_sidecar(path).name}); it was not written to the end."
        ) from None
    found = file_sha256(path)
    if found != expected:
        raise DamagedError(f"{path} is damaged: sha256 {found[:16]}…, expected {expected[:16]}….")
    try:
        raw = torch.load(path, map_location=device, weights_only=True)
        version = raw["version"]
    except (pickle.UnpicklingError, RuntimeError, LookupError, TypeError, ValueError, EOFError) as error:
        raise DamagedError(f"{path} is no checkpoint of this program ({_first_line(error)}).") from None
    if version != CHECKPOINT_VERSION:
        raise InputError(
            f"{path}: format version {version}, this program reads {CHECKPOINT_VERSION}. Use the version of tgprep that wrote it."
        )
    try:
        measured = raw["measured"]
        return Checkpoint(
            int(raw["step"]),
            Identity(**raw["identity"]),
            raw["model"],
            raw["optimiser"],
            raw["extra"],
            None if measured is None else Measured(str(measured["metric"]), float(measured["value"])),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise DamagedError(f"{path} is no checkpoint of this program ({_first_line(error)}).") from None


def load_newest(run: Path, log: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint of a run, or None before there is one; damaged newer ones are passed over, saying so.

    InputError where there are checkpoints and none is whole: beginning anew would throw the run away.
    """
    wrong = []
    for path in reversed(every_checkpoint(run)):
        try:
            found = load(path)
        except DamagedError as error:
            wrong.append(str(error))
            continue
        for text in wrong:
            log(f"{text} Trying the one before.")
        return found
    if not wrong and (run / FOLDER / _BEST).exists():
        wrong.append(f"{run / FOLDER} names a best checkpoint and holds none.")
    if wrong:
        raise InputError(
            f"No checkpoint of {run} can be read: {' '.join(wrong)} Restore one from a copy; to begin at step 0, "
            f"remove {run / FOLDER}, or name another folder with --out."
        )
    return None


def find(run: Path, which: str) -> Path:
    """The path of `last`, `best`, or a named checkpoint. InputError where there is none."""
    if which == "best":
        found = best(run)
        if found is None:
            raise InputError(f"{run} has no best checkpoint yet: none was evaluated. Use --checkpoint last.")
        return found[0]
    if which == "last":
        every = list_checkpoints(run)
        if not every:
            raise InputError(f"{run} has no checkpoint yet. `tgtrain run` writes one at the end of every evaluation.")
        return every[-1]
    path = Path(which)
    if not path.is_file():
        path = run / FOLDER / which
    if not path.is_file():
        there = ", ".join(p.name for p in list_checkpoints(run)) or "none"
        raise InputError(f"No checkpoint {which}; in {run}: {there}.")
    return path


def digest_of(path: Path) -> str:
    """The sha256 of a checkpoint that was loaded, from the file beside it."""
    return _sidecar(path).read_text().split()[0]


def begun_from(run: Path) -> str:
    """The sha256 of the checkpoint that the run was last told to begin from; "" for none."""
    try:
        return str(json.loads((run / FOLDER / _BEGUN).read_bytes())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def note_begun_from(run: Path, digest: str, step: int) -> None:
    """Remember that the run goes on from a named checkpoint, so that the same command again goes on instead of back."""
    with atomic_write(run / FOLDER / _BEGUN) as file:
        file.write(json_bytes({"sha256": digest, "step": step}))


def _mark_best(run: Path, name: str, measured: Measured) -> None:
    with atomic_write(run / FOLDER / _BEST) as file:
        file.write(json_bytes({"checkpoint": name, "metric": measured.metric, "value": measured.value}))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:120] or type(error).__name__


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".pt.sha256")


def _prune(run: Path, keep: int) -> None:
    kept_best = best(run)
    for path in list_checkpoints(run)[: -max(2, keep)]:
        if kept_best is None or path != kept_best[0]:
            _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    _sidecar(path).unlink(missing_ok=True)


@contextmanager
def writing(run: Path, step: int) -> Iterator[None]:
    """Within, files of the run are written: where that fails it is a RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(cannot_write(run, step, error)) from error


def cannot_write(run: Path, step: int, error: OSError) -> str:
    """What is told where a file of the run cannot be written at `step`."""
    return (
        f"{error.filename or run}: {error.strerror or error} (at step {step}). {last_whole(run)}; "
        f"make room or mend the disk, then the same command goes on from there."
    )


def last_whole(run: Path) -> str:
    """A clause that names the checkpoint which the run can go on from, or says that there is none."""
    there = every_checkpoint(run)
    left = f"{there[-1].name} is the last whole checkpoint" if there else "no checkpoint was written yet"
    return left[0].upper() + left[1:]
