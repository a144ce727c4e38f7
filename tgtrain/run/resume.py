"""Which checkpoint a run goes on from, and that its folder tells of one course of training afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.manifest_io import TEMPORARY_PREFIX
from manifests.records import InputError
from tgtrain.config import Config, config_from_dict
from tgtrain.data.setup import Setup
from tgtrain.run import checkpoint as checkpoints
from tgtrain.run.checkpoint import Checkpoint
from tgtrain.run.folder import CONFIG_NAME, METRICS_NAME, decided_blocks, settings_changed


@dataclass(frozen=True, slots=True)
class Start:
    """checkpoint: None for step 0. named: sha256 of a checkpoint that was asked for, else "". copied: it lies outside the run."""

    checkpoint: Checkpoint | None
    named: str = ""
    copied: bool = False

    @property
    def step(self) -> int:
        """Steps done at the start."""
        return self.checkpoint.step if self.checkpoint else 0


def choose(run: Path, how: str, setup: Setup, log: Callable[[str], None]) -> Start:
    """Read what a run goes on from: its newest whole checkpoint (auto), none (never), or a named one. Writes nothing.

    A name that the run was begun from before means: go on, so that the same command again (a requeued job) does not go back.
    InputError where there is none, none is whole, it belongs to something else, or the run has others of its own.
    """
    own = checkpoints.every_checkpoint(run)
    if how == "never":
        if own:
            raise InputError(f"{run} has checkpoints already; --resume auto goes on, --out names a new run.")
        return Start(None)
    if how == "auto":
        start = Start(checkpoints.load_newest(run, log))
    else:
        path = checkpoints.find(run, how)
        found = checkpoints.load(path)
        named = checkpoints.digest_of(path)
        if own and named == checkpoints.begun_from(run):
            start = Start(checkpoints.load_newest(run, log))
            log(f"{run} was begun from {path.name} before and goes on")
        elif own and path.resolve().parent != (run / checkpoints.FOLDER).resolve():
            raise InputError(
                f"{run} has checkpoints of its own ({own[0].name} to {own[-1].name}); to begin from {path}, name a new folder with --out."
            )
        else:
            start = Start(found, named, copied=not own)
    if start.checkpoint is not None:
        _refuse_another(start.checkpoint, setup)
    return start


def take_up(run: Path, start: Start, keep: int, log: Callable[[str], None]) -> None:
    """Make the folder tell of the course that begins at `start`: for the one process that writes.

    Checkpoints of later steps, damaged ones too, are set aside, and what a kill kept from being done after the last save is done.
    """
    for name in (METRICS_NAME, CONFIG_NAME):
        for left in run.glob(f"{TEMPORARY_PREFIX}*-{name}"):
            left.unlink(missing_ok=True)
    checkpoints.clean(run)
    if start.checkpoint is None:
        return
    if start.copied:
        checkpoints.save(run, start.checkpoint, keep)
    aside = checkpoints.set_aside(run, start.step, start.checkpoint.due)
    if aside is not None:
        log(f"later checkpoints are set aside in {aside} (may be removed)")
    if start.named:
        checkpoints.note_begun_from(run, start.named, start.step)
    checkpoints.settle(run, start.checkpoint, keep)


def settings_in(config: Config) -> dict[str, Any]:
    """What a checkpoint holds of the settings, see `choose`."""
    return {"settings": config.to_dict()}


def _refuse_another(found: Checkpoint, setup: Setup) -> None:
    different = found.identity.differences(setup.identity)
    hint = ""
    if "settings" in found.extra:
        before = config_from_dict(found.extra["settings"], f"the checkpoint at step {found.step}")
        different += settings_changed(before, setup.config)
        hint = decided_blocks(before, setup.config)
    if different:
        raise InputError(
            f"The checkpoint at step {found.step} belongs to something else: {'; '.join(different)}.{hint}"
        )
