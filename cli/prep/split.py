"""`tgprep split`: draw, import, export, show and compare label splits."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.common import (
    EXIT_FAILURES,
    PlaceType,
    handled,
    human_bytes,
    print_json,
    progress_lines,
    say,
    stoppable,
)
from manifests.splits.settings import EXPORT_FORMS, LABELS, PARTS, POOLS, STRATEGIES, UNLABELLED, SplitSettings

if TYPE_CHECKING:
    from manifests.splits.label_split import LabelSplit
    from manifests.table import Manifest


_DEFAULT: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(SplitSettings)}
_FILE = click.Path(dir_okay=False, path_type=Path)
_DRAW = {"percent", "per_class", "strategy", "by_group", "nested", "seed", "hold_out", "test_percent"}
_BOTH = {"fold", "unlabelled", "pool", "name", "overwrite"}
_ALLOWED = {
    "draw": _DRAW | _BOTH,
    "import": {"import_file", "import_unlabelled", "import_validation", "import_test", "labels", "report"} | _BOTH,
    "export": {"export", "part", "output", "name", "overwrite"},
    "materialise": {"materialise", "output"},
    "show": {"show"},
    "compare": {"compare"},
    "list": set(),
}


@click.command()
@click.argument("out", type=PlaceType(text=True), default="dataset")
@click.option("--percent", type=float, help="Label this share of the train videos: 20 means 20 %.")
@click.option("--per-class", type=int, metavar="N", help="Label N videos of every class.")
@click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    help=f"How --percent is drawn: {_DEFAULT['strategy']} over all videos, as the published UCF101 and HMDB51 lists; stratified: "
    "each class its share, at least one; per-class: of Kinetics, 6 videos of every class for each percent, as published.  "
    f"[default: {_DEFAULT['strategy']}]",
)
@click.option("--by-group", is_flag=True, help="Label whole groups (all clips of one source) or none of one.")
@click.option(
    "--nested/--redrawn",
    default=_DEFAULT["nested"],
    help="With one seed, smaller percentages are parts of larger ones, or each is drawn independently.  [default: nested]",
)
@click.option("--fold", type=int, default=_DEFAULT["fold"], show_default=True, help="Official fold, from 1.")
@click.option("--seed", type=int, default=_DEFAULT["seed"], show_default=True, help="Another seed, another draw.")
@click.option(
    "--unlabelled",
    "--unlabeled",
    type=click.Choice(UNLABELLED),
    default=_DEFAULT["unlabelled"],
    show_default=True,
    help="Unlabelled videos: all train videos, the labelled too, as in the paper; or the rest.",
)
@click.option(
    "--pool",
    type=click.Choice(POOLS),
    help="Train list: the official one, or every video outside test (non-test: HMDB51 as published).  [default: official; "
    "for an imported list what it needs]",
)
@click.option(
    "--hold-out",
    type=float,
    default=0.0,
    metavar="P",
    help="Set P % of train aside for validation, by group: to choose a checkpoint or a setting by it. Choosing by the test "
    "part is test selection, and its figure is no longer a test's.",
)
@click.option("--test-percent", type=float, default=0.0, metavar="P", help="Set P % of train aside for test, by group.")
@click.option(
    "--import", "import_file", type=_FILE, metavar="FILE", help="Labelled videos from a list in any known form."
)
@click.option("--import-unlabelled", type=_FILE, metavar="FILE", help="With --import: list of the unlabelled videos.")
@click.option("--import-validation", type=_FILE, metavar="FILE", help="With --import: list of the validation videos.")
@click.option("--import-test", type=_FILE, metavar="FILE", help="With --import: list of the test videos.")
@click.option(
    "--labels",
    type=click.Choice(LABELS),
    default=LABELS[0],
    show_default=True,
    help="With --import: labels of the class folders, or the list's own, mistakes included.",
)
@click.option(
    "--report",
    type=_FILE,
    metavar="FILE",
    help="With --import: write every line without a video and every difference in label or frame count as CSV.",
)
@click.option("--export", type=click.Choice(EXPORT_FORMS), help="Write one part of a split as a list file.")
@click.option(
    "--part", type=click.Choice(PARTS), default=PARTS[0], show_default=True, help="With --export: which part."
)
@click.option(
    "--materialise",
    "--materialize",
    metavar="NAME",
    help="Write a split as separate shards, a set of tars for each part, for readers of plain WebDataset.",
)
@click.option(
    "--output",
    metavar="PLACE",
    help="With --export: the file; without it the list goes to stdout. With --materialise: the folder.  [default: OUT-NAME]",
)
@click.option("--show", metavar="NAME", help="Show a split.")
@click.option("--compare", nargs=2, metavar="A B", help="Videos that two splits share.")
@click.option("--name", default="", help="Name of the split.  [default: from the settings, such as p20-s0-f1]")
@click.option("--overwrite", is_flag=True, help="Replace another split (or list file) of that name.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@handled
def split(out: str, as_json: bool, **options: Any) -> None:
    """Choose the labelled videos of the data set at OUT [default: ./dataset].

    \b
      tgprep split --percent 20                       draw 20 % of the train videos
      tgprep split --per-class 6                      six of every class
      tgprep split --import list.txt                  a published or own list
      tgprep split --export csv --output list.csv     the newest split as a list
      tgprep split --materialise p20-s0-f1            the split as plain tars
      tgprep split                                    list the splits

    A split is drawn by hashes of names and seed: the same on every machine. It is written to OUT/splits/NAME.parquet.
    """
    from manifests.manifest_io import read_manifest

    mode = _mode(click.get_current_context())
    manifest = read_manifest(out)
    run: dict[str, Callable[..., None]] = {
        "draw": _draw,
        "import": _import,
        "export": _export,
        "materialise": _materialise,
        "show": _show,
        "compare": _compare,
        "list": _list,
    }
    run[mode](out, manifest, as_json, **options)


def _mode(ctx: click.Context) -> str:
    """Detect the mode from the given options; InputError if they cannot be combined."""
    from click.core import ParameterSource

    from manifests.records import InputError

    given = {name for name in ctx.params if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT}
    given -= {"out", "as_json"}
    marks = {"import_file": "import", "export": "export", "show": "show", "compare": "compare"}
    marks["materialise"] = "materialise"
    modes = [mode for name, mode in marks.items() if name in given]
    if {"percent", "per_class"} & given:
        modes.append("draw")
    spelled = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
    if len(modes) > 1:
        raise InputError(f"Do one thing at a time: {', '.join(sorted(modes))} cannot be combined.")
    mode = modes[0] if modes else "list"
    if unexpected := sorted(spelled[name] for name in given - _ALLOWED[mode]):
        needed = {"list": "--percent P, --per-class N, --import FILE or --export FORM"}.get(mode)
        raise InputError(
            f"{', '.join(unexpected)}: " + (f"give {needed} too." if needed else f"has no meaning with {_mark(mode)}.")
        )
    return mode


def _mark(mode: str) -> str:
    return "--percent or --per-class" if mode == "draw" else f"--{mode}"


def _draw(out: str, manifest: Manifest, as_json: bool, **options: Any) -> None:
    from manifests.splits.label_split import make_split
    from manifests.splits.settings import kinetics_per_class

    percent, per_class, strategy = options["percent"], options["per_class"], options["strategy"]
    if strategy == "per-class" and percent is not None and per_class is None:
        per_class, percent = kinetics_per_class(manifest.header.dataset, percent), None
        say(f"per-class, --percent {options['percent']:g}: {per_class} videos of every class, as the published lists")
    settings = SplitSettings(
        percent=percent,
        per_class=per_class,
        strategy=strategy or ("per-class" if per_class is not None else _DEFAULT["strategy"]),
        by_group=options["by_group"],
        nested=options["nested"],
        fold=options["fold"],
        seed=options["seed"],
        unlabelled=options["unlabelled"],
        pool=options["pool"] or _DEFAULT["pool"],
        hold_out_percent=options["hold_out"],
        test_percent=options["test_percent"],
        name=options["name"],
    )
    _write(out, manifest, make_split(manifest, settings), options["overwrite"], as_json, {})


def _import(out: str, manifest: Manifest, as_json: bool, **options: Any) -> None:
    from cli.prep.split_page import describe_import, import_page, import_table
    from manifests.splits.list_import import ImportSettings, import_lists

    files = {"labelled": options["import_file"]}
    files |= {part: file for part in PARTS[1:] if (file := options[f"import_{part}"]) is not None}
    settings = ImportSettings(
        labels=options["labels"],
        unlabelled=options["unlabelled"],
        pool=options["pool"],
        fold=options["fold"],
        name=options["name"],
    )
    imported, report = import_lists(manifest, files, settings)
    if options["report"] is not None:
        _write_report(options["report"], import_table(report))
    facts = {**describe_import(report), "labels": settings.labels}
    if not as_json:
        click.echo(import_page(facts) + "\n")
    _write(out, manifest, imported, options["overwrite"], as_json, {"import": facts})


def _write_report(file: Path, text: str) -> None:
    from manifests.files import atomic_write
    from manifests.records import InputError

    try:
        with atomic_write(file) as opened:
            opened.write(text.encode())
    except OSError as error:
        raise InputError(f"--report {file}: cannot be written ({error.strerror or error}).") from None
    say(f"report: {file}")


def _write(out: str, manifest: Manifest, new: LabelSplit, overwrite: bool, as_json: bool, more: dict[str, Any]) -> None:
    from cli.prep.split_page import describe, page
    from manifests.splits.label_split import list_splits, split_place, write_split

    existed = new.name in list_splits(out)
    changed = write_split(out, new, overwrite=overwrite)
    state = ("replaced" if existed else "written") if changed else "unchanged"
    place = split_place(out, new.name)
    facts = {**describe(new, manifest), "path": place, "state": state, **more}
    if as_json:
        print_json(facts)
    else:
        click.echo(page(facts))
    say(f"{state}: {place}")


def _export(out: str, manifest: Manifest, as_json: bool, **options: Any) -> None:
    from manifests.files import atomic_write
    from manifests.records import InputError
    from manifests.splits.label_split import read_split
    from manifests.splits.lists import export_list

    chosen = read_split(out, options["name"] or None)
    text = export_list(chosen, manifest, options["export"], options["part"])
    target = Path(options["output"]) if options["output"] else None
    count = text.count("\n") - (options["export"] == "csv")
    if target is None:
        if as_json:
            raise InputError("--json with --export needs --output FILE: the list itself goes to stdout.")
        click.echo(text, nl=False)
    else:
        if target.is_dir():
            raise InputError(f"--output {target} is a folder. Name a file for the list.")
        if not target.parent.is_dir():
            raise InputError(f"--output {target}: the folder {target.parent} does not exist.")
        is_same = target.exists() and target.read_bytes() == text.encode()
        if target.exists() and not is_same and not options["overwrite"]:
            raise InputError(f"--output {target} exists with other content. Give another name, or --overwrite.")
        if not is_same:
            try:
                with atomic_write(target) as file:
                    file.write(text.encode())
            except OSError as error:
                raise InputError(f"--output {target}: cannot be written ({error.strerror or error}).") from None
    say(f"{count} {options['part']} videos of split {chosen.name}" + (f" in {target}" if target else ""))
    if as_json:
        facts = {"name": chosen.name, "part": options["part"], "form": options["export"]}
        print_json({**facts, "num_videos": count, "path": str(target)})


def _materialise(out: str, manifest: Manifest, as_json: bool, **options: Any) -> None:
    from manifests.splits.label_split import read_split
    from tgprep.convert.materialise import default_folder, materialise

    chosen = read_split(out, options["materialise"])
    folder = options["output"] or default_folder(out, chosen.name)
    with stoppable("Interrupted. Finished shards are kept; run the same command again to continue.") as stop:
        made = materialise(manifest, chosen, folder, stop=stop, on_progress=progress_lines(of_bytes=True))
    if as_json:
        print_json({"name": chosen.name, **dataclasses.asdict(made), "folder": str(made.folder)})
        return
    for part in made.parts:
        last = part.shards[-1].removesuffix(".tar").rpartition("-")[2]
        shards = part.shards[0] if len(part.shards) == 1 else f"{part.part}-{{000000..{last}}}.tar"
        click.echo(f"{part.part:<12}{part.num_videos:>9,} videos{human_bytes(part.num_bytes):>10}   {shards}")
    if made.num_relabelled:
        say(f"{made.num_relabelled} samples carry another label than their class folder's (listed in split.json)")
    kept = f" ({made.num_kept} of {made.num_shards} shards existed)" if made.num_kept else ""
    say(f"split {chosen.name} as plain shards{kept}: {made.folder}")


def _show(out: str, manifest: Manifest, as_json: bool, **options: Any) -> None:
    from cli.prep.split_page import describe, page
    from manifests.splits.label_split import read_split, split_place

    chosen = read_split(out, options["show"])
    facts = {**describe(chosen, manifest), "path": split_place(out, chosen.name)}
    if as_json:
        print_json(facts)
    else:
        click.echo(page(facts))
    if any(problem["level"] == "error" for problem in facts["problems"]):
        sys.exit(EXIT_FAILURES)


def _compare(out: str, manifest: Manifest, as_json: bool, **options: Any) -> None:
    from cli.prep.split_page import overlap_page
    from manifests.splits.check import compare_splits
    from manifests.splits.label_split import read_split

    first, second = (read_split(out, name) for name in options["compare"])
    overlaps = [dataclasses.asdict(overlap) for overlap in compare_splits(first, second)]
    if as_json:
        print_json({"first": first.name, "second": second.name, "parts": overlaps})
    else:
        click.echo(overlap_page(first.name, second.name, overlaps))


def _list(out: str, manifest: Manifest, as_json: bool, **options: Any) -> None:
    from manifests.records import InputError
    from manifests.splits.label_split import list_splits, read_split

    names = list_splits(out)
    if not names:
        raise InputError(f"{out} has no split yet. Make one: `tgprep split {out} --percent 20` (`--help` for more).")
    rows: list[dict[str, Any]] = []
    for name in names:
        chosen = read_split(out, name)
        rows.append({"name": name, **{part: int(chosen.part(part).sum()) for part in PARTS}})
    if as_json:
        print_json({"path": out, "splits": rows})
        return
    width = max(len(row["name"]) for row in rows) + 2
    click.echo(f"{'split, newest first':<{max(width, 20)}}" + "".join(f"{part:>12}" for part in PARTS))
    for row in rows:
        click.echo(f"{row['name']:<{max(width, 20)}}" + "".join(f"{row[part]:>12,}" for part in PARTS))
