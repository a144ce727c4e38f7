"""`tgtrain doctor`: whether this machine can train, and what to do if not."""

from __future__ import annotations

from pathlib import Path

import click

from cli.common import handled, print_findings, quiet_threads


@click.command()
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def doctor(folder: Path, as_json: bool) -> None:
    """Try what training needs on this machine: packages, devices, processes, JPEG, shared memory, limits, the disk of FOLDER.

    Prints what is wrong and what to do. Exit code 1 if an error stops training.
    """
    quiet_threads()
    from manifests.records import InputError

    try:
        from tgtrain.doctor import examine
    except ModuleNotFoundError as error:
        raise InputError(f"Training needs {error.name}: pip install 'tgprep[train]'.") from None

    print_findings(examine(folder.absolute()), "train", as_json)
