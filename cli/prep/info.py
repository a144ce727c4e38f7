"""`tgprep info`: show what is in a data set, on one screen."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from cli.common import PlaceType, handled, human_bytes, plural, print_json
from cli.terminal import print_styled
from manifests.sample import flow_method

if TYPE_CHECKING:
    from tgprep.view.contents import Contents, SplitContents, Summary

_NAME = 12  # columns of the names at the left
_MAX_ROWS = 6
_NAMED = re.compile(r"\S+(?: \S+)*(?=  )")  # the name at the left of a line
Row = Callable[[str, str], list[str]]


@click.command()
@click.argument("out", type=PlaceType(text=True), default="dataset")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
@handled
def info(out: str, as_json: bool) -> None:
    """Show what is in the data set at OUT [default: ./dataset].

    Counts, bytes, lengths, picture sizes and frame rates, what failed and why, splits, digests and versions.
    """
    from tgprep.share.tables import outdated_card
    from tgprep.view.contents import describe

    contents = describe(out)
    if as_json:
        print_json(contents.to_json())
    else:
        width = max(60, min(shutil.get_terminal_size((80, 24)).columns, 100))
        for line in page(contents, width):
            name = _NAMED.match(line)
            print_styled((line[: name.end() if name else 0], "bold"), (line[name.end() if name else 0 :], ""))
        for note in outdated_card(out):
            for line in textwrap.wrap(f"note: {note}", width, break_on_hyphens=False, break_long_words=False):
                print_styled((line, "yellow"))


def page(contents: Contents, width: int) -> Iterator[str]:
    """Show the contents as lines of at most `width` columns."""

    def row(name: str, value: str) -> list[str]:
        first, rest = f"{name:<{_NAME}}", " " * _NAME
        return textwrap.wrap(
            value, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
        )

    yield from _counts(contents, row)
    yield from _charts(contents, row, width)
    if contents.not_written:
        yield ""
    for (status, reason), count in contents.not_written.items():
        yield from row(status, f"{count:,} x {reason}")
    if contents.num_other_reasons:
        yield from row("", f"and {plural(contents.num_other_reasons, 'more reason')} (columns `status`, `error`)")
    yield ""
    if contents.splits:
        yield from _splits(contents.splits, width)
    else:
        yield "no split yet: `tgprep split --percent 20` makes one (with --test-percent 20 if no list names test videos)"
    yield ""
    yield from row("digest", contents.digest)
    yield from row("made with", ", ".join(f"{name} {version}" for name, version in contents.versions.items()))


def _counts(contents: Contents, row: Row) -> Iterator[str]:
    c, gradient = contents, contents.gradient

    def span(summary: Summary) -> str:
        return f"{summary.min:,} to {summary.max:,}, median {summary.median:,}"

    yield from row("data set", f"{c.path} ({c.dataset}, format {c.format_version})")
    counts = f"{c.num_written:,} written + {c.num_failed:,} failed + {c.num_skipped:,} skipped"
    yield from row("videos", f"{c.num_videos:,} = {counts}")
    empty = f", {c.num_empty_classes:,} without videos" if c.num_empty_classes else ""
    yield from row("classes", f"{c.num_classes:,}{empty}; videos a class {span(c.videos_per_class)}")
    if c.num_without_label:
        yield from row("no label", f"{plural(c.num_without_label, 'video')}: unlabelled in every split")
    if c.num_dropped:
        yield from row("dropped", f"{plural(c.num_dropped, 'more video')}, whose bytes are still in the shards")
    if c.num_relabelled:
        yield from row(
            "labels",
            f"{plural(c.num_relabelled, 'video has another one', 'videos have other ones')} than the shards say: the tables count",
        )
    if c.num_segments:
        yield from row("segments", f"{c.num_segments:,} of {plural(c.num_cut_files, 'file')}")
    yield from row("groups", f"{c.num_groups:,}" if c.num_groups else "none")
    yield from row("frames", f"{c.num_frames:,}; a video {span(c.frames_per_video)}")
    if c.settings.get("store") == "video":
        coding = f"H.264 video of CRF {c.settings['crf']}, a self-contained picture every {c.settings['gop']} frames"
    else:
        coding = f"JPEG quality {c.settings.get('quality', 'unknown')}"
    yield from row("shards", f"{c.num_shards:,}, {human_bytes(c.num_bytes)}, {coding}")
    stored = "stored" if gradient.stored else "derived while reading"
    yield from row("TG", f"{stored}, from {gradient.source} frames in {gradient.space}")
    if method := flow_method(c.settings):
        yield from row("flow", f"stored, {method}")
    for number, parts in enumerate(c.subsets_per_fold, 1):
        yield from row(f"fold {number}", ", ".join(f"{count:,} {name}" for name, count in parts.items()))
    if c.num_with_note:
        yield from row(
            "notes", f"{plural(c.num_with_note, 'written video carries', 'written videos carry')} one (column `note`)"
        )


def _charts(contents: Contents, row: Row, width: int) -> Iterator[str]:
    lengths = [(f"{low:,}-{high - 1:,}", count) for low, high, count in contents.lengths]
    short = f"; {plural(contents.num_shorter_than_64, 'video')} under 64" if contents.num_shorter_than_64 else ""
    charts = {
        "pictures": _most((f"{x}x{y}", count) for (x, y), count in contents.picture_sizes.items()),
        "frames a second": _most((f"{fps:.5g}" if fps else "unknown", count) for fps, count in contents.fps.items()),
        "codec": _most(contents.codecs.items()),
    }
    # A chart of one bar is a row instead, unless it is that of the lengths.
    for title, bins in charts.items():
        if len(bins) == 1:
            yield from row("fps" if title == "frames a second" else title, bins[0][0])
    if lengths:
        yield from ("", f"length in frames{short}", *bars(lengths, width))
    for title, bins in charts.items():
        if len(bins) > 1:
            yield from ("", title, *bars(bins, width))


def bars(bins: Sequence[tuple[str, int]], width: int) -> Iterator[str]:
    """A bar chart of names and counts in lines of at most `width` columns; every count above 0 has a bar."""
    names = max(len(name) for name, _ in bins)
    most = max(count for _, count in bins)
    room = width - names - len(f"{most:,}") - 6
    for name, count in bins:
        yield f"  {name:>{names}}  {'#' * -(-count * room // max(most, 1)):<{room}}  {count:>{len(f'{most:,}')},}"


def _most(counts: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Join equal names, keep the most frequent ones, and sum up the rest as one."""
    joined: Counter[str] = Counter()
    for name, count in counts:
        joined[name] += count
    ordered = joined.most_common()
    if len(ordered) <= _MAX_ROWS + 1:
        return ordered
    rest = ordered[_MAX_ROWS:]
    return [*ordered[:_MAX_ROWS], (f"{len(rest):,} others", sum(count for _, count in rest))]


def _splits(splits: Sequence[SplitContents], width: int) -> Iterator[str]:
    parts = ("labelled", "unlabelled", "validation", "test")
    column = max(20, min(max(len(split.name) for split in splits), width - 58))  # what the figures leave
    yield f"{'split, newest first':<{column}}" + "".join(f"{part:>11}" for part in parts) + "  digest"
    for split in splits:
        name = split.name
        if len(name) > column:
            yield name
            name = ""
        yield f"{name:<{column}}" + "".join(f"{getattr(split, part):>11,}" for part in parts) + f"  {split.digest[:12]}"
        if not split.current:
            yield "  made for another state of the data set: make it again"
