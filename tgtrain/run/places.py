"""Which folders are runs. No torch: a wrong name is reported before it is loaded."""

from __future__ import annotations

from pathlib import Path

from manifests.records import InputError

CONFIG_NAME = "config.json"


def newest_run(folder: Path = Path("runs")) -> Path:
    """The newest run below `folder`. InputError if there is none."""
    runs = sorted((path.stat().st_mtime, path.parent) for path in folder.glob(f"**/{CONFIG_NAME}"))
    if not runs:
        raise InputError(f"No run below {folder}/. `tgtrain run` makes one, or name its folder.")
    return runs[-1][1]


def require_run(run: Path) -> Path:
    """The folder, if it is a run; InputError otherwise."""
    if not (run / CONFIG_NAME).exists():
        raise InputError(f"{run} is no run (no {CONFIG_NAME}). `tgtrain run` makes one below ./runs.")
    return run
