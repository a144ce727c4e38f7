"""Compared runs that differ by seed and fold alone are one group: a mean, and the range of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tgtrain.evaluate.results import TestResult
from tgtrain.report.run_data import RunData
from tgtrain.report.settings import setting_key, setting_names
from tgtrain.report.statistics import Spread, mean_and_deviation


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of one setting, by their places in the list of runs. A run that repeats a seed and split is a group of its own."""

    name: str
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A group in the table of means."""

    group: Group
    metrics: Mapping[str, Spread | None]  # by name with protocol; None if not every run has it


def group_runs(runs: Sequence[RunData]) -> tuple[Group, ...]:
    """Gather the runs, in order of the first of each group."""
    found: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        found.setdefault(setting_key(run.facts) + run.facts.data.digest, []).append(place)
    members: list[tuple[int, ...]] = []
    for places in found.values():
        cells = {(runs[place].facts.split.digest, runs[place].facts.config.runtime.seed) for place in places}
        members += [tuple(places)] if len(cells) == len(places) else [(place,) for place in places]
    members.sort()
    several = [group for group in members if len(group) > 1]
    names = dict(zip(several, setting_names([runs[group[0]].facts for group in several]), strict=True))
    return tuple(
        Group(f"{names[group]} ({len(group)} runs)" if group in names else runs[group[0]].name, group)
        for group in members
    )


def group_rows(groups: Sequence[Group], results: Sequence[TestResult]) -> tuple[GroupRow, ...]:
    """The mean and deviation of each metric over the runs of each group. results: one of each run, all measured alike."""
    names = list(dict.fromkeys(name for result in results for name in result.metrics))
    rows = []
    for group in groups:
        spreads: dict[str, Spread | None] = {}
        for name in names:
            values = [results[place].metrics[name] for place in group.members if name in results[place].metrics]
            spreads[name] = mean_and_deviation(values) if len(values) == len(group.members) else None
        rows.append(GroupRow(group, spreads))
    return tuple(rows)
