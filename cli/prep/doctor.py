"""`tgprep doctor`: whether this machine can extract, and what to do if not."""

from __future__ import annotations

from pathlib import Path

import click

from cli.common import handled, print_findings


@click.command()
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def doctor(folder: Path, as_json: bool) -> None:
    """Try what extraction needs on this machine: packages, decoders on a clip, JPEG, programs, limits, the disk of FOLDER.

    Prints what is wrong and what to do. Exit code 1 if an error stops extraction.
    """
    from tgprep.doctor import examine

    print_findings(examine(folder.absolute()), "extract", as_json)
