"""Checkpoints: atomic, with a sha256 beside each, at least two kept, never a file that runs code when loaded."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from manifests.records import InputError
from manifests.store import TEMPORARY_PREFIX, atomic_write, file_sha256, json_bytes

CHECKPOINT_VERSION = 1
FOLDER = "checkpoints"
_BEST = "best.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a checkpoint belongs to; loading it for anything else is refused with the difference."""

    data_digest: str
    split_digest: str
    model: str

    def differences(self, other: Identity) -> list[str]:
        """What differs, in words."""
        named = (
            ("data set", self.data_digest[:12], other.data_digest[:12]),
            ("split", self.split_digest[:12], other.split_digest[:12]),
            ("model", self.model, other.model),
        )
        return [f"{name} {before} there, {now} now" for name, before, now in named if before != now]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State after `step` steps. model, optimiser, extra: state dicts of tensors and plain values."""

    step: int
    identity: Identity
    model: dict[str, Any]
    optimiser: dict[str, Any]
    extra: dict[str, Any]


def save(run: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint under its step's name; then remove the oldest ones beyond `keep`, never the best.

    Killed at any moment: either the whole new file is there under its name, or the older ones are as they were.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        leftover.unlink(missing_ok=True)
    path = folder / f"step-{checkpoint.step:08d}.pt"
    buffer = io.BytesIO()
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
        },
        buffer,
    )
    content = buffer.getbuffer()
    # The digest first: a file without its digest, or with another one, never counts as a checkpoint.
    with atomic_write(_sidecar(path)) as file:
        file.write(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n".encode())
    with atomic_write(path) as file:
        file.write(content)
    _prune(run, keep)
    return path


def mark_best(run: Path, path: Path, metric: str, value: float) -> None:
    """Remember a checkpoint as the best one, so that it is kept."""
    with atomic_write(run / FOLDER / _BEST) as file:
        file.write(json_bytes({"checkpoint": path.name, "metric": metric, "value": value}))


def best(run: Path) -> tuple[Path, float] | None:
    """The best checkpoint and its value; None before there is one."""
    try:
        found = json.loads((run / FOLDER / _BEST).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    path = run / FOLDER / found["checkpoint"]
    return (path, float(found["value"])) if path.is_file() else None


def list_checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted((run / FOLDER).glob("step-*.pt"))


def load(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read one checkpoint. InputError where it is missing, damaged, or of another version."""
    if not path.is_file():
        raise InputError(f"No checkpoint {path}.")
    try:
        expected = _sidecar(path).read_text().split()[0]
    except (FileNotFoundError, IndexError):
        raise InputError(
            f"{path}: no sha256 beside it ({_sidecar(path).name}); it was not written to the end."
        ) from None
    found = file_sha256(path)
    if found != expected:
        raise InputError(f"{path} is damaged: sha256 {found[:16]}…, expected {expected[:16]}….")
    raw = torch.load(path, map_location=device, weights_only=True)
    if raw.get("version") != CHECKPOINT_VERSION:
        raise InputError(f"{path}: version {raw.get('version')}, this program reads {CHECKPOINT_VERSION}.")
    return Checkpoint(raw["step"], Identity(**raw["identity"]), raw["model"], raw["optimiser"], raw["extra"])


def load_newest(run: Path, tell: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint of a run, or None; damaged newer ones are passed over, saying so."""
    for path in reversed(list_checkpoints(run)):
        try:
            return load(path)
        except InputError as error:
            tell(f"{error} Trying the one before.")
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


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".pt.sha256")


def _prune(run: Path, keep: int) -> None:
    kept_best = best(run)
    for path in list_checkpoints(run)[: -max(2, keep)]:
        if kept_best is None or path != kept_best[0]:
            path.unlink(missing_ok=True)
            _sidecar(path).unlink(missing_ok=True)
