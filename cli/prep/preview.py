"""`tgprep preview`: write a page to look at a data set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from cli import completion
from cli.common import EXIT_FAILURES, PlaceType, handled, human_bytes, plural, print_json, progress_lines, say

_MAX_VIDEOS = 300


@click.command()
@click.argument("out", type=PlaceType(text=True), default="dataset")
@click.option(
    "--output", type=click.Path(path_type=Path), default="preview.html", show_default=True, help="the page to write"
)
@click.option(
    "--split",
    metavar="NAME",
    shell_complete=completion.splits,
    help="show the parts of this split  [default: the newest]",
)
@click.option(
    "--keys",
    metavar="KEY,...",
    multiple=True,
    help="show these videos; @FILE names a list with one key a line, or a csv that begins with the key",
)
@click.option(
    "--max-videos",
    type=click.IntRange(1, 5000),
    default=_MAX_VIDEOS,
    show_default=True,
    help="videos to show, spread evenly over classes and parts",
)
@click.option("--threads", type=click.IntRange(0), default=0, help="threads (0: one per core)")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def preview(
    out: str, output: Path, split: str | None, keys: tuple[str, ...], max_videos: int, threads: int, as_json: bool
) -> None:
    """Write one self-contained page to look at the data set at OUT [default: ./dataset].

    It shows classes, film strips of RGB over TG, short moving clips, charts of class balance, length and motion, pairs of videos
    that are in train and test, and the videos that failed and why, with filters for class, part of the split, group, note, pair
    and text. It works offline.
    """
    from tgprep.view.preview import write_preview

    choice: dict[str, Any] = {"split": split, "keys": _keys(keys), "max_videos": max_videos}
    outcome = write_preview(out, output, **choice, threads=threads, on_progress=progress_lines("videos"))
    for key, reason in outcome.damaged:
        say(f"damaged: {key}: {reason}")
    if outcome.damaged:
        say(f"{plural(len(outcome.damaged), 'video')} cannot be read: `tgprep check {out} --deep` shows what is wrong.")
    if as_json:
        facts = {name: getattr(outcome, name) for name in ("num_shown", "num_videos", "num_bytes", "split")}
        damaged = [{"key": key, "reason": reason} for key, reason in outcome.damaged]
        print_json({"path": str(outcome.path), **facts, "damaged": damaged})
    else:
        say(
            f"{outcome.num_shown} of {plural(outcome.num_videos, 'video')}, {human_bytes(outcome.num_bytes)}: {outcome.path}"
        )
    sys.exit(EXIT_FAILURES if outcome.damaged else 0)


def _keys(options: tuple[str, ...]) -> tuple[str, ...]:
    """The keys of all --keys options: lists with commas, and files."""
    from manifests.lists.text import read_keys
    from manifests.records import InputError

    keys: list[str] = []
    for text in options:
        if text.startswith("@"):
            keys += read_keys(Path(text[1:]))
        else:
            keys += text.split(",")
    keys = [key.strip() for key in keys if key.strip()]
    if options and not keys:
        raise InputError(f"--keys {' '.join(options)}: names no video.")
    return tuple(keys)
