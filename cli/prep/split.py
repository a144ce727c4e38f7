"""`tgprep split`: draw, import, export, show and compare label splits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from cli import completion
from cli.common import PartType, PlaceType, handled, one_mode
from manifests.splits.settings import EXPORT_FORMS, LABELS, PARTS, POOLS, STRATEGIES, UNLABELLED, SplitSettings

_DEFAULT: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(SplitSettings)}
_FILE = click.Path(dir_okay=False, path_type=Path)
_BOTH = {"fold", "unlabelled", "pool", "name", "overwrite"}
# For each mode the options that choose it, and those that it takes besides; without any of them splits are listed.
_MODES: dict[str, tuple[set[str], set[str]]] = {
    "draw": (
        {"percent", "per_class"},
        {"strategy", "by_group", "nested", "seed", "hold_out_percent", "test_percent", "drop_duplicates"} | _BOTH,
    ),
    "import": ({"import_file"}, {"import_unlabelled", "import_validation", "import_test", "labels", "report"} | _BOTH),
    "export": ({"export"}, {"part", "output", "name", "overwrite"}),
    "materialise": ({"materialise"}, {"output"}),
    "grow": ({"grow"}, {"parent", "labels", "name", "overwrite"}),
    "show": ({"show"}, set()),
    "compare": ({"compare"}, set()),
    "list": (set(), set()),
}


@click.command()
@click.argument("out", type=PlaceType(text=True), default="dataset")
@click.option("--percent", type=float, help="label this share of the train videos: 20 means 20 %")
@click.option("--per-class", type=int, metavar="N", help="label N videos of every class")
@click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    help=f"How --percent is drawn: {_DEFAULT['strategy']} over all videos, as the published UCF101 and HMDB51 lists; stratified: "
    "each class its share, at least one; per-class: of Kinetics, 6 videos of every class for each percent, as published.  "
    f"[default: {_DEFAULT['strategy']}]",
)
@click.option("--by-group", is_flag=True, help="label whole groups (all clips of one source) or none of one")
@click.option(
    "--nested/--redrawn",
    default=_DEFAULT["nested"],
    help="with one seed, smaller percentages are parts of larger ones, or each is drawn independently  [default: nested]",
)
@click.option("--fold", type=int, default=_DEFAULT["fold"], show_default=True, help="official fold, from 1")
@click.option("--seed", type=int, default=_DEFAULT["seed"], show_default=True, help="another seed, another draw")
@click.option(
    "--unlabelled",
    type=click.Choice(UNLABELLED),
    default=_DEFAULT["unlabelled"],
    show_default=True,
    help="unlabelled videos: all train videos, the labelled too, as in the paper; or the rest",
)
@click.option(
    "--pool",
    type=click.Choice(POOLS),
    help="train list: the official one, or every video outside test (non-test: HMDB51 as published)  [default: official; "
    "for an imported list what it needs]",
)
@click.option(
    "--hold-out",
    "hold_out_percent",
    type=float,
    default=0.0,
    metavar="P",
    help="set P % of train aside for validation, by group: to choose a checkpoint or a setting by it. Choosing by the test "
    "part is test selection, and its figure is no longer a test's.",
)
@click.option(
    "--drop-duplicates",
    is_flag=True,
    help="leave out videos without a label that are near-copies of others, the test videos above all (see `tgprep check --duplicates`)",
)
@click.option("--test-percent", type=float, default=0.0, metavar="P", help="set P % of train aside for test, by group")
@click.option(
    "--import", "import_file", type=_FILE, metavar="FILE", help="labelled videos from a list in any known form"
)
@click.option("--import-unlabelled", type=_FILE, metavar="FILE", help="with --import: list of the unlabelled videos")
@click.option("--import-validation", type=_FILE, metavar="FILE", help="with --import: list of the validation videos")
@click.option("--import-test", type=_FILE, metavar="FILE", help="with --import: list of the test videos")
@click.option(
    "--labels",
    type=click.Choice(LABELS),
    default=LABELS[0],
    show_default=True,
    help="with --import and --grow: labels of the class folders, or the list's own, mistakes included",
)
@click.option(
    "--report",
    type=_FILE,
    metavar="FILE",
    help="with --import: write every line without a video and every difference in label or frame count as CSV",
)
@click.option("--export", type=click.Choice(EXPORT_FORMS), help="write one part of a split as a list file")
@click.option("--part", type=PartType(PARTS), default=PARTS[0], show_default=True, help="with --export: which part")
@click.option(
    "--materialise",
    shell_complete=completion.splits,
    metavar="NAME",
    help="write a split as separate shards, a set of tars for each part, for readers of plain WebDataset",
)
@click.option(
    "--output",
    metavar="PLACE",
    help="with --export: the file; without it the list goes to stdout. With --materialise: the folder  [default: OUT-NAME]",
)
@click.option(
    "--grow",
    type=_FILE,
    metavar="LIST",
    help="label the videos of a list too: a new split with the same validation and test parts, and the history of the old one",
)
@click.option(
    "--parent",
    metavar="NAME",
    shell_complete=completion.splits,
    help="with --grow: the split that grows  [default: the newest]",
)
@click.option("--show", metavar="NAME", shell_complete=completion.splits, help="show a split")
@click.option(
    "--compare", nargs=2, metavar="A B", shell_complete=completion.splits, help="videos that two splits share"
)
@click.option(
    "--name",
    default="",
    shell_complete=completion.splits,
    help="name of the split  [default: from the settings, such as p20-s0-f1]",
)
@click.option("--overwrite", is_flag=True, help="replace another split (or list file) of that name")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def split(out: str, as_json: bool, **options: Any) -> None:
    """Choose the labelled videos of the data set at OUT [default: ./dataset].

    \b
      tgprep split --percent 20                       draw 20 % of the train videos
      tgprep split --per-class 6                      six of every class
      tgprep split --import list.txt                  a published or own list
      tgprep split --export csv --output list.csv     the newest split as a list
      tgprep split --materialise p20-s0-f1            the split as plain tars
      tgprep split --grow more.txt                    label more videos of the newest split
      tgprep split                                    list the splits

    A split is drawn by hashes of names and seed: the same on every machine. It is written to OUT/splits/NAME.parquet.
    """
    hint = "give --percent P, --per-class N, --import FILE or --export FORM too."
    mode = one_mode(click.get_current_context(), _MODES, hint, {"draw": "--percent or --per-class"})

    from cli.prep import split_modes  # loads pyarrow, which `--help` need not wait for

    split_modes.run(mode, out, as_json, options)
