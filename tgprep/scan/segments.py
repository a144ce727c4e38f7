"""Segments of long videos: the times in a user's list, and whether the files beside a Kinetics csv are whole YouTube videos."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from manifests.console import plural
from manifests.files import Location, below
from manifests.lists.labels import number_of
from manifests.lists.table import COLUMNS, KINETICS_COLUMNS, Row, Table, read_table
from manifests.lists.text import read_text, shown
from manifests.records import MAX_NAME_BYTES, MAX_SECONDS, SEGMENT_FIELDS, InputError, Place
from tgprep.scan.files import VideoFile, some
from tgprep.scan.rules import VideoLabel

WHOLE = (0.0, -1.0)  # start and end of a file that is not cut, in a list that cuts others
_NUM_FILES = 20
_PROBE_SECONDS = 60


def columns_of_times(table: Table) -> tuple[str, str] | None:
    """The columns of start and end in seconds: our own, or those of Kinetics in a list without another column for paths."""
    if set(SEGMENT_FIELDS) & set(table.columns):
        return SEGMENT_FIELDS
    return KINETICS_COLUMNS[1:] if names_by_id(table.columns) else None


def names_by_id(columns: Collection[str]) -> bool:
    """Whether a list names videos as Kinetics does, by YouTube id and times, and has no column for paths."""
    return set(KINETICS_COLUMNS) <= set(columns) and set(COLUMNS["path"]).isdisjoint(columns)


def times_of(row: Row, columns: tuple[str, str], where: str) -> tuple[float, float]:
    """Start and end of a row, half-open; `WHOLE` if both cells are empty. InputError names the row."""
    cells = tuple(map(row.get, columns))
    if not any(cells):
        return WHOLE
    numbers = tuple(map(number_of, cells))
    for column, cell, number in zip(columns, cells, numbers, strict=True):
        if number is None or not 0 <= number <= MAX_SECONDS:
            raise InputError(
                f"{where}: {column} is {shown(cell)}; expected seconds from 0, such as 12 or 12.5. Leave both times empty for a "
                "whole file."
            )
    start, end = (round(number or 0.0, 6) for number in numbers)
    if start >= end:
        raise InputError(
            f"{where}: {columns[0]} {shown(cells[0])} is not before {columns[1]} {shown(cells[1])}. Exchange or correct them."
        )
    return start, end


def default_group(path: str) -> str:
    """The group of the segments of a file: its path, so that no split has parts of it in train and in test."""
    return path if len(path.encode()) <= MAX_NAME_BYTES else hashlib.sha256(path.encode()).hexdigest()


def by_file(rows: Mapping[Place, VideoLabel | str]) -> dict[str, tuple[VideoLabel, ...]]:
    """The segments of each file. rows: text is the reason to skip one."""
    found: defaultdict[str, list[VideoLabel]] = defaultdict(list)
    for (path, *_), label in rows.items():
        if isinstance(label, VideoLabel):
            found[path].append(label)
    return {path: tuple(of_file) for path, of_file in found.items()}


def notes_on_segments(segments: Mapping[str, tuple[VideoLabel, ...]], files: Iterable[str]) -> Iterator[str]:
    """Notes for the user on how many segments there are, and on files whose segments are kept apart by their groups or subsets."""
    present = [path for path in files if path in segments]
    num_cut = sum(label.end_seconds >= 0 for path in present for label in segments[path])
    yield f"{plural(num_cut, 'segment')} of {plural(sum(segments[path][0].end_seconds >= 0 for path in present), 'file')}"
    for what, values in (
        ("groups", lambda label: label.group),
        ("subsets", lambda label: label.subsets),
    ):
        of_file: Callable[[VideoLabel], object] = values
        apart = [path for path in present if len(set(map(of_file, segments[path]))) > 1]
        if apart:
            yield (
                f"{plural(len(apart), 'file has', 'files have')} segments of several {what}, so that parts of one file may be in train and in test: "
                f"{some(sorted(apart))}"
            )


def is_untrimmed(listing: Iterable[VideoFile], videos: Location, annotations: Path) -> bool:
    """Whether files beside a Kinetics csv, named by id alone, are longer than the clips that it lists: whole YouTube videos.

    The first files are opened, in a process of their own. Files in a store are judged by the list: several clips of one file.
    """
    table: Table = read_table(read_text(annotations), annotations)
    clips: defaultdict[str, list[float]] = defaultdict(list)
    for row in table.rows:
        start, end = (number_of(row.get(column)) for column in KINETICS_COLUMNS[1:])
        clips[row.get("youtube_id")].append((end or 0) - (start or 0))
    named = [file for file in listing if file.stem in clips]
    if not isinstance(videos, Path):
        return any(len(clips[file.stem]) > 1 for file in named)
    chosen = named[:: max(1, len(named) // _NUM_FILES)][:_NUM_FILES]
    lengths = _durations([below(videos, file.path) for file in chosen])
    longer = [seconds > max(clips[file.stem]) + 1 for file, seconds in zip(chosen, lengths, strict=True) if seconds > 0]
    return sum(longer) * 2 > len(longer)


def _durations(paths: list[Location]) -> list[float]:
    """Lengths of files in seconds as their headers say, 0 for unknown ones. A file that crashes its decoder makes all unknown."""
    command = [sys.executable, "-X", "utf8", "-P", "-m", "tgprep.decode.durations", *map(str, paths)]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_PROBE_SECONDS, check=True, stdin=subprocess.DEVNULL
        )
        found = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return [0.0] * len(paths)
    return [float(seconds) for seconds in found]
