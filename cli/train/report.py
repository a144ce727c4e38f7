"""`tgtrain report`: one HTML page about a run, or several compared."""

from __future__ import annotations

from pathlib import Path

import click

from cli.common import echo, handled, run_or_newest
from cli.train.scoring import data_options


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="file to write  [default: report.html in RUN; with several runs ./report.html]",
)
@data_options
@handled
def report(runs: tuple[Path, ...], output: Path | None, data: str, shards: str) -> None:
    """Write one HTML page about RUN [default: the newest run below ./runs], or compare several runs.

    The page shows accuracy, curves, confusions, example clips (of the first run), data and settings. It is one file that needs
    no network.
    Prints the path of the page.
    """
    from tgtrain.report.page import write_report
    from tgtrain.run.folder import Typed

    path = write_report(runs or (run_or_newest(None),), output, Typed(data, shards))
    echo(path, kept=str(path))
