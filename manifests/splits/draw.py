"""Draw the videos of a split: pure functions of names, classes and a seed, the same on every machine and in every version.

Order: names are sorted by the sha256 of `seed:purpose:name` (hexadecimal, UTF-8). No random generator is involved, so a draw
does not depend on other videos: one more or fewer video in the folder moves only the end of the draw.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from fractions import Fraction
from typing import TypeVar

from manifests.splits.settings import share

Unit = TypeVar("Unit", bound=Hashable)


def stable_order(names: Sequence[str], seed: int, purpose: str) -> list[int]:
    """Sort unique names by hash; return their indices."""
    start = f"{seed}:{purpose}:"
    digests = [hashlib.sha256((start + name).encode()).digest() for name in names]
    return sorted(range(len(names)), key=digests.__getitem__)


def draw_random(names: Sequence[str], percent: float, seed: int, purpose: str) -> list[int]:
    """Draw floor(percent * n) of n names; larger percentages contain smaller ones."""
    return stable_order(names, seed, purpose)[: share(percent, len(names))]


def draw_stratified(
    names: Sequence[str], classes: Sequence[Hashable], percent: float, seed: int, purpose: str
) -> list[int]:
    """Draw floor(percent * n) names in proportion to the classes, at least one of each class.

    Each class gets one name, then the Webster / Sainte-Lague rule picks the class with the least (drawn + 1/2) / size. So
    larger percentages contain smaller ones, which the method of largest remainders does not guarantee.
    """
    sizes = Counter(classes)
    taken: Counter[Hashable] = Counter()
    turns: list[tuple[float, int, int]] = []
    for rank, place in enumerate(stable_order(names, seed, purpose)):
        name_class = classes[place]
        before = taken[name_class]
        turns.append(((2 * before + 1) / (2 * sizes[name_class]) if before else 0.0, rank, place))
        taken[name_class] += 1
    turns.sort()
    return [place for _, _, place in turns[: max(share(percent, len(names)), len(sizes))]]


def draw_per_class(names: Sequence[str], classes: Sequence[Hashable], count: int, seed: int, purpose: str) -> list[int]:
    """Draw `count` names of every class, or all of a smaller class; larger counts contain smaller ones."""
    taken: Counter[Hashable] = Counter()
    drawn = []
    for place in stable_order(names, seed, purpose):
        if taken[classes[place]] < count:
            taken[classes[place]] += 1
            drawn.append(place)
    return drawn


def draw_groups(units: Sequence[str], percent: float, seed: int, purpose: str, *, nested: bool = True) -> list[int]:
    """Draw complete units in hashed order while they fit into floor(percent * n) videos. units: the unit of each video.

    nested: end at the first unit that does not fit, so that larger percentages contain smaller ones. Otherwise skip that unit
    and draw smaller ones after it, which comes nearer to the percentage.
    """
    members = _members(units)
    names = list(members)
    drawn: list[int] = []
    target = share(percent, len(units))
    for place in stable_order(names, seed, purpose):
        if len(drawn) + len(members[names[place]]) > target:
            if nested:
                break
            continue
        drawn.extend(members[names[place]])
    return drawn


def draw_groups_stratified(
    units: Sequence[str],
    classes: Sequence[Hashable],
    percent: float,
    seed: int,
    purpose: str,
    *,
    leave_one: bool = False,
) -> list[int]:
    """Draw complete units, in each class as near as possible to its share; at least one unit of each class.

    leave_one: leave at least one unit of each class. All videos of a unit must have one class.
    """
    drawn: list[int] = []
    for places in _members(classes).values():
        members = _members([units[place] for place in places])
        names = list(members)
        order = stable_order(names, seed, purpose)[: len(names) - leave_one]
        target = Fraction(str(percent)) * len(places) / 100
        count = 0
        for turn, unit in enumerate(order):
            added = [places[member] for member in members[names[unit]]]
            # Stop when one more unit would lead away from the share; the first is always drawn.
            if turn and abs(count + len(added) - target) >= abs(count - target):
                break
            count += len(added)
            drawn.extend(added)
    return drawn


def _members(units: Iterable[Unit]) -> dict[Unit, list[int]]:
    members: defaultdict[Unit, list[int]] = defaultdict(list)
    for place, unit in enumerate(units):
        members[unit].append(place)
    return members
