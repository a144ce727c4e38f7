"""`tgprep targets`: import, export, show and compare soft targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import completion
from cli.common import PlaceType, handled, one_mode

_FILE = click.Path(dir_okay=False, path_type=Path)
# For each mode the options that choose it, and those that it takes besides; without any of them targets are listed.
_MODES: dict[str, tuple[set[str], set[str]]] = {
    "import": ({"import_files"}, {"name", "scores", "temperature", "skip_unknown", "split", "overwrite"}),
    "export": ({"export"}, {"output", "overwrite"}),
    "show": ({"show"}, {"split", "least_sure", "per_class", "by", "output", "overwrite"}),
    "compare": ({"compare"}, set()),
    "list": (set(), set()),
}


@click.command()
@click.argument("out", type=PlaceType(text=True), default="dataset")
@click.option(
    "--import", "import_files", type=_FILE, multiple=True, metavar="FILE",
    help="make targets from a Parquet or csv file: a key and K probabilities, or a class, for each video; again for the mean of several",
)  # fmt: skip
@click.option("--name", help="with --import: name of the targets  [default: that of the file]")
@click.option(
    "--scores",
    type=click.Choice(["probabilities", "logits"]),
    help="with --import: what the numbers are  [default: as predictions of `tgtrain test` say, else probabilities]",
)
@click.option(
    "--temperature", type=float, default=1.0, show_default=True,
    help="with --scores logits: they are divided by it before the softmax",
)  # fmt: skip
@click.option("--skip-unknown", is_flag=True, help="with --import: leave out rows that name no video, and count them")
@click.option("--export", metavar="NAME", help="write targets as a file: Parquet, or csv if --output ends in .csv")
@click.option("--output", type=_FILE, metavar="FILE", help="with --export or --least-sure: the file to write")
@click.option(
    "--show",
    metavar="NAME",
    shell_complete=completion.targets,
    help="show targets: history, coverage, entropy, agreement with the labels",
)
@click.option(
    "--split",
    metavar="NAME",
    shell_complete=completion.splits,
    help="with --show or --import: measure the parts of this split  [default: the newest]",
)
@click.option(
    "--least-sure", type=click.IntRange(min=1), metavar="N",
    help="with --show: list the N videos without a label of which the targets are least sure",
)  # fmt: skip
@click.option("--per-class", is_flag=True, help="with --least-sure: N of each predicted class")
@click.option(
    "--by", type=click.Choice(["entropy", "margin"]), default="entropy", show_default=True,
    help="with --least-sure: the largest entropy, or the smallest margin between the two most likely classes",
)  # fmt: skip
@click.option("--compare", nargs=2, metavar="A B", shell_complete=completion.targets, help="how far two targets agree")
@click.option("--overwrite", is_flag=True, help="replace other targets (or a file) of that name")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def targets(out: str, as_json: bool, **options: Any) -> None:
    """Soft targets of the data set at OUT [default: ./dataset]: for each video the probabilities of all classes.

    \b
      tgtrain test --part unlabelled --predictions first.parquet     a run scores the videos
      tgprep targets --import first.parquet --name first             its scores become targets
      tgtrain run --set method.targets=first                         a run learns from them
      tgprep targets --show first --least-sure 50 --output ask.txt   which videos to label next
      tgprep split --grow ask.txt                                    a split with their labels

    Targets are written to OUT/targets/NAME.parquet. docs/targets.md describes files, training and leakage.
    """
    mode = one_mode(
        click.get_current_context(), _MODES, "give --import FILE, --export NAME, --show NAME or --compare A B too."
    )

    from cli.prep import target_modes  # loads pyarrow, which `--help` need not wait for

    target_modes.run(mode, out, as_json, options)
