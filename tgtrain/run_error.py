"""Why a run ends before its last step, and what it can go on from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tgtrain.checkpoint import every_checkpoint


class RunError(Exception):
    """The run cannot go on (the loss is no number, too many damaged videos); checkpoints stay."""


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
