"""Pairs of videos that show the same: near-copies, equal files, and videos of one group on both sides of a test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from manifests.records import WRITTEN
from manifests.table import Manifest
from tgprep.duplicates.pairs import read_pairs

MAX_PAIRS = 50  # of each kind
_TEST_SIDE = ("test", "validation")


@dataclass(frozen=True, slots=True)
class Twins:
    """Two rows of the table of videos. leak: one is trained on and the other tested."""

    first: int
    second: int
    kind: str  # "near-copy", "same file" or "same group"
    leak: bool


@dataclass(frozen=True, slots=True)
class Leaks:
    """The pairs to show, leaks first, at most 50 of each kind, and how many of each kind there are."""

    pairs: tuple[Twins, ...]
    num_pairs: Mapping[str, int]
    num_leaks: Mapping[str, int]


def find_leaks(manifest: Manifest, roles: Sequence[str]) -> Leaks:
    """Find the pairs among the written videos. roles: the part that each row is in, "" for none.

    Near-copies are known after `tgprep check --duplicates`. Of several equal files each is paired with the first, of a group the
    first video of either side.
    """
    pairs: list[Twins] = []
    num_pairs: dict[str, int] = {}
    num_leaks: dict[str, int] = {}
    for kind, found in (
        ("near-copy", _near_copies(manifest)),
        ("same file", _same_files(manifest)),
        ("same group", _same_groups(manifest, roles)),
    ):
        twins = [Twins(a, b, kind, _is_leak(roles[a], roles[b])) for a, b in found]
        twins.sort(key=lambda each: (not each.leak, each.first, each.second))
        num_pairs[kind], num_leaks[kind] = len(twins), sum(each.leak for each in twins)
        pairs += twins[:MAX_PAIRS]
    pairs.sort(key=lambda each: not each.leak)
    return Leaks(tuple(pairs), num_pairs, num_leaks)


def _is_leak(first: str, second: str) -> bool:
    return bool(first and second) and (first in _TEST_SIDE) != (second in _TEST_SIDE)


def _near_copies(manifest: Manifest) -> Iterator[tuple[int, int]]:
    index_of = {key: index for index, key in enumerate(manifest.videos.column("key")) if key}
    for pair in read_pairs(manifest) or ():
        if {pair.first, pair.second} <= index_of.keys():
            yield index_of[pair.first], index_of[pair.second]


def _same_files(manifest: Manifest) -> Iterator[tuple[int, int]]:
    """Segments of one file are equal if their times are, too."""
    videos = manifest.videos
    times = [tuple(place[1:]) for place in videos.places()] if videos.has_segments else [()] * len(videos)
    first_of: dict[tuple[object, ...], int] = {}
    for index, (digest, status) in enumerate(zip(videos.column("source_sha256"), videos.column("status"), strict=True)):
        if digest and status == WRITTEN and (first := first_of.setdefault((digest, *times[index]), index)) != index:
            yield first, index


def _same_groups(manifest: Manifest, roles: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Groups that are trained on and tested. A group is one of its class: the data sets number them so."""
    columns = (manifest.videos.column(name) for name in ("class_name", "group", "status"))
    first_of: dict[tuple[str, str], dict[bool, int]] = {}
    for index, (class_name, group, status) in enumerate(zip(*columns, strict=True)):
        if group and status == WRITTEN and roles[index]:
            first_of.setdefault((class_name, group), {}).setdefault(roles[index] in _TEST_SIDE, index)
    for sides in first_of.values():
        if len(sides) == 2:
            yield sides[False], sides[True]
