"""`tgtrain report`: one HTML page about a run, or several compared."""

from __future__ import annotations

from pathlib import Path

import click

from cli.common import echo, handled, run_or_newest


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="file to write  [default: report.html in RUN; with several runs ./report.html]",
)
@handled
def report(runs: tuple[Path, ...], output: Path | None) -> None:
    """Write one HTML page about RUN [default: the newest run below ./runs], or compare several runs.

    The page shows accuracy, curves, confusions, example clips, data and settings. It is one file that needs no network.
    Prints the path of the page.
    """
    from tgtrain.report.page import write_report

    path = write_report(runs or (run_or_newest(None),), output)
    echo(path, kept=str(path))
