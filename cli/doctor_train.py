"""`tgtrain doctor`: whether this machine can train, and what to do where it cannot."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from cli.common import EXIT_FAILURES, handled, print_json, quiet_threads

_MARKS = {"ok": "ok", "note": "-", "warning": "!", "error": "WRONG"}


@click.command()
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def doctor(folder: Path, as_json: bool) -> None:
    """Try what training needs on this machine: packages, devices, processes, JPEG, shared memory, limits, the disk of FOLDER.

    Says what is wrong and what to do. Exit code 1 where something is wrong that stops training.
    """
    quiet_threads()
    from manifests.records import InputError

    try:
        from tgtrain.doctor import examine
    except ModuleNotFoundError as error:
        raise InputError(f"Training needs {error.name}: pip install 'tgprep[train]'.") from None

    found = []
    for finding in examine(folder.absolute()):
        found.append(finding)
        if not as_json:
            click.echo(f"{_MARKS[finding.level]:<5}  {finding.name:<13}  {finding.text}")
            if finding.advice:
                click.echo(f"{'':<22}-> {finding.advice}")
    wrong = [finding for finding in found if finding.level == "error"]
    warned = [finding for finding in found if finding.level == "warning"]
    if as_json:
        print_json({"ok": not wrong, "findings": [asdict(finding) for finding in found]})
    elif wrong:
        click.echo(f"\nWrong: {', '.join(finding.name for finding in wrong)}.")
    else:
        click.echo(
            "\nThis machine can train." + (f" Could be better: {', '.join(f.name for f in warned)}." if warned else "")
        )
    sys.exit(EXIT_FAILURES if wrong else 0)
