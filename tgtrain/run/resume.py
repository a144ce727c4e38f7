"""Choose the checkpoint that a run resumes from, and make its folder end there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from manifests.disk import TEMPORARY_PREFIX
from manifests.files import atomic_write, read_json
from manifests.manifest_io import json_bytes
from manifests.records import InputError
from tgtrain.config import config_from_dict
from tgtrain.data.setup import Setup
from tgtrain.run import checkpoint as checkpoints
from tgtrain.run.checkpoint import Checkpoint
from tgtrain.run.folder import CONFIG_NAME, METRICS_NAME, require_same

_BEGUN = "begun-from.json"  # names the checkpoint that `--resume` named last


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run starts."""

    checkpoint: Checkpoint | None  # None: at step 0
    named: str = ""  # sha256 of the checkpoint that was requested by name or path
    copied: bool = False  # the checkpoint is outside the run

    @property
    def step(self) -> int:
        """Steps done at the start."""
        return self.checkpoint.step if self.checkpoint else 0


def choose(run: Path, resume: str, setup: Setup, log: Callable[[str], None]) -> Start:
    """Read what a run resumes from: its newest valid checkpoint (auto), none (never), or a named one. Writes nothing.

    A name that the run was begun from before means: go on, so that the same command again (a requeued job) does not go back.
    InputError if there is none, none is valid, it belongs to something else, or the run has its own checkpoints.
    """
    own = checkpoints.every_checkpoint(run)
    if resume == "never":
        if own:
            raise InputError(f"{run} has checkpoints already; --resume auto goes on, --out names a new run.")
        return Start(None)
    if resume == "auto":
        start = Start(checkpoints.load_newest(run, log))
    else:
        path = checkpoints.find(run, resume)
        checkpoint, digest = checkpoints.load(path), checkpoints.digest_of(path)
        try:
            begun_from = read_json(run / checkpoints.FOLDER / _BEGUN)["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            begun_from = ""
        if own and digest == begun_from:
            start = Start(checkpoints.load_newest(run, log))
            log(f"{run} was begun from {path.name} before and goes on")
        elif own and path.resolve().parent != (run / checkpoints.FOLDER).resolve():
            raise InputError(
                f"{run} has its own checkpoints ({own[0].name} to {own[-1].name}); to begin from {path}, name a new folder "
                "with --out."
            )
        else:
            start = Start(checkpoint, digest, copied=not own)
    if (loaded := start.checkpoint) is not None:
        name, settings = f"checkpoint at step {loaded.step}", loaded.extra.get("settings")
        before = None if settings is None else config_from_dict(settings, f"the {name}")
        require_same(setup, loaded.identity, before, f"The {name} belongs to something else")
    return start


def take_up(run: Path, start: Start, keep: int, log: Callable[[str], None]) -> None:
    """Make the folder end at `start`: archive later checkpoints, and finish what a kill has interrupted.

    For the one process that writes.
    """
    for name in (METRICS_NAME, CONFIG_NAME):
        for path in run.glob(f"{TEMPORARY_PREFIX}*-{name}"):
            path.unlink(missing_ok=True)
    checkpoints.remove_partial(run)
    if start.checkpoint is None:
        return
    if start.copied:
        checkpoints.save(run, start.checkpoint, keep)
    archive = checkpoints.archive_newer(run, start.step, start.checkpoint.due)
    if archive is not None:
        log(f"later checkpoints are archived in {archive} (may be removed)")
    if start.named:
        # So that the same command again goes on instead of back.
        with atomic_write(run / checkpoints.FOLDER / _BEGUN) as file:
            file.write(json_bytes({"sha256": start.named, "step": start.step}))
    checkpoints.rebuild_best(run)
    checkpoints.finish_save(run, start.checkpoint, keep)
