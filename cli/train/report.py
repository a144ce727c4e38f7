"""`tgtrain report`: one HTML page about one run, or several compared; or a table of settings."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import completion
from cli.common import EXIT_FAILURES, echo, handled, run_or_newest, say
from cli.train.scoring import data_options

if TYPE_CHECKING:
    from tgtrain.report.table import Form, Shown


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...", type=click.Path(path_type=Path), shell_complete=completion.runs)
@click.option(
    "--table",
    "form",
    type=click.Choice(["markdown", "latex", "csv"]),
    help="print a table of settings instead: mean and deviation over seeds and folds; RUN may be the folder of a sweep",
)
@click.option(
    "--protocol", metavar="CLIPSxCROPS", help="which tests a table shows  [default: the best that all runs have]"
)
@click.option(
    "--modality",
    type=click.Choice(["rgb", "tg", "both", "each"]),
    help="which network a table shows; each: one row a network  [default: the first of rgb, both, tg that all runs have]",
)
@click.option("--part", type=click.Choice(["test", "validation"]), help="which videos a table counts  [default: test]")
@click.option(
    "--show",
    type=click.Choice(["settings", "pairs", "both"]),
    help="rows of a table: settings, McNemar tests of their pairs, or both  [default: both; of csv: settings]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="file to write  [default: report.html in RUN; with several runs ./report.html; a table is printed]",
)
@data_options
@handled
def report(
    runs: tuple[Path, ...],
    form: Form | None,
    protocol: str | None,
    modality: str | None,
    part: str | None,
    show: Shown | None,
    output: Path | None,
    data: str,
    shards: str,
) -> None:
    """Write one HTML page about RUN [default: the newest run below ./runs], or compare several runs.

    The page shows accuracy, pseudo-labels by class over time, errors as moving clips, calibration, curves, cost, data and
    settings. Several runs: seeds and folds as mean and range, and where the settings differ. It is one file that needs no network.
    Prints the path of the page.

    With --table: one row for each setting of the runs [default: all below ./runs], and a McNemar test of each pair of settings
    on the stored predictions. Runs that have not finished or are untested are named and left out (exit code 1); runs that were
    measured differently are refused (exit code 2).
    """
    from manifests.records import InputError

    if form is not None:
        if data or shards:
            raise InputError("--table reads runs alone: leave --data and --shards out.")
        _table(runs, form, protocol, modality, part, show, output)
        return
    for option, value in (("protocol", protocol), ("modality", modality), ("part", part), ("show", show)):
        if value is not None:
            raise InputError(f"--{option} chooses what a table shows: add --table markdown, latex or csv.")
    from tgtrain.report.page import write_report
    from tgtrain.run.folder import Typed

    path = write_report(runs or (run_or_newest(None),), output, Typed(data, shards))
    echo(path, kept=str(path))


def _table(
    runs: tuple[Path, ...],
    form: Form,
    protocol: str | None,
    modality: str | None,
    part: str | None,
    show: Shown | None,
    output: Path | None,
) -> None:
    from cli.train.scoring import check_output
    from manifests.files import atomic_write
    from manifests.records import InputError
    from tgtrain.report.settings import Wanted
    from tgtrain.report.table import write_table

    if protocol is not None and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", protocol):
        raise InputError(f"--protocol {protocol}: expected CLIPSxCROPS, such as 10x3.")
    check_output(output)
    shown = show or ("settings" if form == "csv" else "both")
    table = write_table(runs or (Path("runs"),), Wanted(protocol, modality, part or "test"), form, shown)
    if output is None:
        echo(table.text, end="")
    else:
        with atomic_write(output) as file:
            file.write(table.text.encode(errors="backslashreplace"))
        echo(output, kept=str(output))
    for reason in table.left_out:
        say(f"left out: {reason}")
    if table.left_out:
        sys.exit(EXIT_FAILURES)
