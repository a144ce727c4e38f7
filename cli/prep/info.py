"""`tgprep info`: what is in a data set, in one screen."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from cli.common import PlaceType, handled, human_bytes, print_json
from manifests.sample import flow_method

_NAME = 12  # columns of the names at the left
_MAX_ROWS = 6


@click.command()
@click.argument("out", type=PlaceType(text=True), default="dataset")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@handled
def info(out: str, as_json: bool) -> None:
    """Show what is in the data set at OUT [default: ./dataset].

    Counts, bytes, lengths, picture sizes and frame rates, what failed and why, splits, digests and versions.
    """
    from tgprep.view.contents import describe

    facts = describe(out)
    if as_json:
        print_json(facts)
    else:
        width = max(60, min(shutil.get_terminal_size((80, 24)).columns, 100))
        click.echo("\n".join(page(facts, width)))


def page(facts: dict[str, Any], width: int) -> Iterator[str]:
    """The facts of `tgprep.view.contents.describe` as lines of at most `width` columns."""

    def row(name: str, value: str) -> list[str]:
        first, rest = f"{name:<{_NAME}}", " " * _NAME
        return textwrap.wrap(value, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)

    def span(summary: dict[str, float]) -> str:
        return f"{summary['min']:,} to {summary['max']:,}, median {summary['median']:,}"

    yield from row("data set", f"{facts['path']} ({facts['dataset']}, format {facts['format_version']})")
    counts = f"{facts['num_written']:,} written + {facts['num_failed']:,} failed + {facts['num_skipped']:,} skipped"
    yield from row("videos", f"{facts['num_videos']:,} = {counts}")
    empty = f", {facts['num_empty_classes']:,} without videos" if facts["num_empty_classes"] else ""
    yield from row("classes", f"{facts['num_classes']:,}{empty}; videos a class {span(facts['videos_per_class'])}")
    yield from row("groups", f"{facts['num_groups']:,}" if facts["num_groups"] else "none")
    yield from row("frames", f"{facts['num_frames']:,}; a video {span(facts['frames_per_video'])}")
    stored_as = _stored_as(facts["settings"])
    yield from row("shards", f"{facts['num_shards']:,}, {human_bytes(facts['num_bytes'])}, {stored_as}")
    gradient = facts["gradient"]
    stored = "stored" if gradient["stored"] else "derived while reading"
    yield from row("TG", f"{stored}, from {gradient['source']} frames in {gradient['space']}")
    if method := flow_method(facts["settings"]):
        yield from row("flow", f"stored, {method}")
    for number, parts in enumerate(facts["subsets_per_fold"], 1):
        yield from row(f"fold {number}", ", ".join(f"{count:,} {name}" for name, count in parts.items()))
    if facts["num_with_note"]:
        yield from row("notes", f"{facts['num_with_note']:,} written videos carry one (column `note`)")

    lengths = [(f"{entry['from']:,}-{entry['below'] - 1:,}", entry["videos"]) for entry in facts["lengths"]]
    sizes = [(f"{size['width']}x{size['height']}", size["videos"]) for size in facts["picture_sizes"]]
    rates = [(f"{rate['fps']:.5g}" if rate["fps"] else "unknown", rate["videos"]) for rate in facts["fps"]]
    short = f"; {facts['num_shorter_than_64']:,} videos under 64" if facts["num_shorter_than_64"] else ""
    charts = [
        ("pictures", _most(sizes)),
        ("frames a second", _most(rates)),
        ("codec", _most(list(facts["codecs"].items()))),
    ]
    for title, bins in charts:
        if len(bins) == 1:  # no chart of one bar
            yield from row({"frames a second": "fps"}.get(title, title), bins[0][0])
    for title, bins in [(f"length in frames{short}", lengths), *charts]:
        if len(bins) > (bins is not lengths):
            yield from ("", title, *bars(bins, width))

    if facts["not_written"]:
        yield ""
    for item in facts["not_written"]:
        yield from row(item["status"], f"{item['videos']:,} x {item['reason']}")
    if facts["num_other_reasons"]:
        yield from row("", f"and {facts['num_other_reasons']:,} more reasons (columns `status`, `error`)")

    yield ""
    if facts["splits"]:
        yield from _splits(facts["splits"])
    else:
        yield "no split yet: `tgprep split --percent 20` makes one"
    yield ""
    yield from row("digest", facts["digest"])
    yield from row("made with", ", ".join(f"{name} {version}" for name, version in facts["versions"].items()))


def _stored_as(settings: dict[str, Any]) -> str:
    if settings.get("store") == "video":
        return f"H.264 video of CRF {settings['crf']}, a self-contained picture every {settings['gop']} frames"
    return f"JPEG quality {settings.get('quality', 'unknown')}"


def bars(bins: Iterable[tuple[str, int]], width: int) -> Iterator[str]:
    """A bar chart of names and counts in lines of at most `width` columns; what is counted at all has a bar."""
    bins = list(bins)
    names = max(len(name) for name, _ in bins)
    most = max(count for _, count in bins)
    room = width - names - len(f"{most:,}") - 6
    for name, count in bins:
        yield f"  {name:>{names}}  {'#' * -(-count * room // max(most, 1)):<{room}}  {count:>{len(f'{most:,}')},}"


def _most(counts: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """The most frequent ones, names that read the same joined, the rest as one."""
    joined: dict[str, int] = {}
    for name, count in counts:
        joined[name] = joined.get(name, 0) + count
    ordered = sorted(joined.items(), key=lambda pair: -pair[1])
    if len(ordered) <= _MAX_ROWS + 1:
        return ordered
    rest = ordered[_MAX_ROWS:]
    return [*ordered[:_MAX_ROWS], (f"{len(rest):,} others", sum(count for _, count in rest))]


def _splits(splits: Sequence[dict[str, Any]]) -> Iterator[str]:
    parts = ("labelled", "unlabelled", "validation", "test")
    yield f"{'split, newest first':<20}" + "".join(f"{part:>11}" for part in parts) + "  digest"
    for split in splits:
        name = split["name"]
        if len(name) > 20:
            yield name
            name = ""
        yield f"{name:<20}" + "".join(f"{split[part]:>11,}" for part in parts) + f"  {split['digest'][:12]}"
        if not split["current"]:
            yield "  made for another state of the data set: make it again"
