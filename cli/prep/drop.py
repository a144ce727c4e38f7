"""`tgprep drop`: take videos out of a data set, or put them back."""

from __future__ import annotations

from pathlib import Path

import click

from cli.common import PlaceType, echo, handled, plural, print_json
from cli.prep.changes import change_facts, say_what_follows


@click.command()
@click.argument("out", type=PlaceType(text=True), default="dataset")
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="the videos: one key (Class/video) a line, or a csv that begins with the key",
)
@click.option("--restore", is_flag=True, help="put dropped videos back: those of --keys, or all")
@click.option("--dry-run", is_flag=True, help="only say what would change")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def drop(out: str, keys: Path | None, restore: bool, dry_run: bool, as_json: bool) -> None:
    """Take videos out of the tables of the data set at OUT [default: ./dataset].

    Nothing reads them any more: training, preview, export, new splits. Shards keep their bytes, so that the videos can be put back
    (--restore) and `tgprep check` can verify the shards; readers of tars alone still see them. `tgprep extract --add` does not
    extract them again. Splits made before are refused: make them again.

    Keys that name no video are named, and nothing changes. Exit codes: 0 all well, 2 wrong usage or input.
    """
    from manifests.lists.text import read_keys
    from manifests.records import InputError
    from tgprep.edit import drop as edit

    if keys is None and not restore:
        raise InputError("drop needs --keys FILE: the videos to drop, one key a line.")
    names = [] if keys is None else read_keys(keys)
    if keys is not None and not names:
        raise InputError(f"--keys {keys}: names no video.")
    changed = (edit.restore if restore else edit.drop)(out, names, dry_run=dry_run)
    facts = change_facts(out, changed, dry_run)
    if as_json:
        print_json(facts)
        return
    done, same = ("restored", "not dropped") if restore else ("dropped", "dropped before")
    would = "would be " * dry_run
    before = f" ({changed.num_same:,} were {same})" if changed.num_same else ""
    echo(
        f"{out}: {plural(changed.num_changed, 'video')} {would}{done}{before}; {plural(facts['num_videos'], 'video')} = {facts['num_written']:,} written + "
        f"{facts['num_failed']:,} failed + {facts['num_skipped']:,} skipped",
        kept=out,
    )
    say_what_follows(out, changed, dry_run)
