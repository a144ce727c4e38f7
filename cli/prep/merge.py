"""`tgprep merge`: several data sets become one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from cli.common import PlaceType, echo, handled, human_bytes, plural, print_json, progress_lines, say, stoppable
from cli.prep.account import next_step


@click.command()
@click.argument("sources", nargs=-1, required=True, type=PlaceType(text=True), metavar="A B...")
@click.argument("out", type=PlaceType(), metavar="OUT")
@click.option(
    "--copy", is_flag=True, help="copy the shards, also if they could be linked (OUT then shares no file with A and B)"
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def merge(sources: tuple[str, ...], out: Path, copy: bool, as_json: bool) -> None:
    """Make one data set at OUT of the data sets A, B and any more, without decoding a frame.

    Shards keep their bytes: they are linked if OUT is on the same disk (no room is taken), else copied. Classes are joined by
    name: those of A keep their labels, new ones of B follow. Keys must differ: videos that clash are named, and nothing is written.
    The data sets must have been made with the same settings; A and B do not change. Splits and targets do not come along.

    Interrupted, the same command goes on. Exit codes: 0 all well, 2 wrong usage or input.
    """
    from tgprep.edit.merge import merge as run_merge

    with stoppable("Interrupted. Finished shards are kept; run the same command again to continue.") as stop:
        merged = run_merge(sources, out, copy=copy, stop=stop, on_progress=progress_lines(of_bytes=True))
    header = merged.manifest.header
    counts = {name: getattr(header, name) for name in ("num_written", "num_failed", "num_skipped")}
    facts: dict[str, Any] = {
        "path": str(out),
        **counts,
        "num_videos": len(merged.manifest.videos),
        "num_classes": len(header.classes),
        "num_shards": len(merged.manifest.shards),
        "num_linked": merged.num_linked,
        "num_copied": merged.num_copied,
        "digest": merged.manifest.digest,
        "sources": [dataclasses.asdict(source) for source in merged.sources],
        "notes": list(merged.notes),
    }
    if as_json:
        print_json(facts)
        return
    for source in merged.sources:
        classes = f"{source.new_classes:,} {'new ' * (source is not merged.sources[0])}classes"
        shards = f"{plural(source.num_shards, 'shard')} ({human_bytes(source.num_bytes)})"
        echo(f"{source.root}: {plural(source.num_videos, 'video')}, {classes}, {shards}", kept=str(out))
    num_there = facts["num_shards"] - merged.num_linked - merged.num_copied
    how = {"linked": merged.num_linked, "copied": merged.num_copied, "there before": num_there}
    echo(
        f"{out}: {plural(facts['num_videos'], 'video')} = {header.num_written:,} written + {header.num_failed:,} failed + "
        f"{header.num_skipped:,} skipped, {plural(len(header.classes), 'class', 'classes')}, {plural(facts['num_shards'], 'shard')} ("
        f"{', '.join(f'{count:,} {word}' for word, count in how.items() if count) or 'none'})",
        kept=str(out),
    )
    for note in merged.notes:
        say(f"note: {note}")
    for line in next_step(merged.manifest, out):
        say(line)
