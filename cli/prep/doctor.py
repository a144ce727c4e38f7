"""`tgprep doctor`: whether this machine can extract, and what to do where it cannot."""

from __future__ import annotations

from pathlib import Path

import click

from cli.common import handled


@click.command()
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@handled
def doctor(folder: Path, as_json: bool) -> None:
    """Try what extraction needs on this machine: packages, decoders on a clip, JPEG, programs, limits, the disk of FOLDER.

    Says what is wrong and what to do. Exit code 1 where something is wrong that stops extraction.
    """
    from cli.common import tell
    from tgprep.doctor import examine

    tell(examine(folder.absolute()), "extract", as_json)
