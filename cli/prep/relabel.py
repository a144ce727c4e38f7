"""`tgprep relabel`: give videos other classes, or none."""

from __future__ import annotations

from pathlib import Path

import click

from cli.common import PlaceType, echo, handled, plural, print_json, say
from cli.prep.changes import change_facts, say_what_follows

_SHOWN = 20


@click.command()
@click.argument("out", type=PlaceType(text=True), default="dataset")
@click.option(
    "--from",
    "file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="videos and their classes: a csv with the columns key and label, or any other list that `tgprep split --import` reads",
)
@click.option("--dry-run", is_flag=True, help="only say what would change")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def relabel(out: str, file: Path, dry_run: bool, as_json: bool) -> None:
    """Set the classes of videos of the data set at OUT [default: ./dataset] to those of a list.

    A label is the name of a class, or its number. A name that no class has makes a new class behind the others; an empty cell takes
    the label away; videos without a label can get one. Keys stay. Shards keep their bytes: the tables count, and readers of tars
    alone see the old label. Splits made before are refused: make them again.

    Lines that name no video are named, and nothing changes. Exit codes: 0 all well, 2 wrong usage or input.
    """
    from tgprep.edit.relabel import relabel as run_relabel

    done = run_relabel(out, file, dry_run=dry_run)
    facts = change_facts(out, done.changed, dry_run)
    if as_json:
        moves = [{"from": before, "to": after, "videos": count} for (before, after), count in done.moves.items()]
        print_json({**facts, "moves": moves, "new_classes": list(done.new_classes), "notes": list(done.notes)})
        return
    for (before, after), count in list(done.moves.items())[:_SHOWN]:
        echo(f"{count:>9,}  {before or '(no label)'} -> {after or '(no label)'}", kept=out)
    if len(done.moves) > _SHOWN:
        echo(f"and {plural(len(done.moves) - _SHOWN, 'more pair')} of classes (--json lists them all)", kept=out)
    same = f" ({done.changed.num_same:,} had that label)" if done.changed.num_same else ""
    echo(
        f"{out}: {plural(done.changed.num_changed, 'video')} {'would be ' * dry_run}relabelled{same}; {plural(facts['num_classes'], 'class', 'classes')}, "
        f"{len(done.new_classes):,} of them new; {plural(facts['num_without_label'], 'video')} without a label",
        kept=out,
    )
    for note in done.notes:
        say(f"note: {note}")
    say_what_follows(out, done.changed, dry_run)
