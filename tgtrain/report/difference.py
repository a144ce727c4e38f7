"""Where two groups of runs differ: gain of each class, confusions, and the videos that only one of them gets right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tgtrain.evaluate.results import TestResult
from tgtrain.report.classes import MAX_TABLE_CLASSES
from tgtrain.report.groups import Group
from tgtrain.report.run_data import RunData

MAX_DIFFERENCES = 4  # groups that are compared with the first one
MAX_SHOWN = 12  # videos of a side with a picture
MAX_LISTED = 500  # further ones, as text
_MAX_CHANGES = 10


@dataclass(frozen=True, slots=True)
class Gain:
    """A class: its mean accuracy in both groups, and the gain of the second, -1..1."""

    name: str
    num_videos: int
    first: float
    second: float

    @property
    def gain(self) -> float:
        """Of the second over the first."""
        return self.second - self.first


@dataclass(frozen=True, slots=True)
class Change:
    """A confusion whose share of the true class differs, -1..1: more or less of it in the second group."""

    truth_name: str
    prediction_name: str
    first: float
    second: float


@dataclass(frozen=True, slots=True)
class Parted:
    """A video that one group gets right in more than half of its runs, and the other does not."""

    key: str
    truth_name: str
    taken_for: str  # the most frequent wrong answer of the group that misses it


@dataclass(frozen=True, slots=True)
class Difference:
    """The second group against the first."""

    first: str
    second: str
    gains: tuple[Gain, ...]  # the largest gain first
    changes: tuple[Change, ...]  # of confusions, the largest first
    names: tuple[str, ...]  # of the classes of `cells`; () if they are too many for a table
    cells: tuple[tuple[float, ...], ...]  # row = truth: share of the row in the second less that in the first
    only_first: tuple[Parted, ...]
    only_second: tuple[Parted, ...]
    num_both: int
    num_neither: int


def differences(
    runs: Sequence[RunData], results: Sequence[TestResult], groups: Sequence[Group]
) -> tuple[Difference, ...]:
    """Compare the first group with the others, at most 4. results: one of each run, all measured alike; () without any."""
    if not results or len({run.facts.data.digest for run in runs}) > 1:
        return ()
    return tuple(_difference(runs, results, groups[0], other) for other in groups[1 : 1 + MAX_DIFFERENCES])


def _difference(runs: Sequence[RunData], results: Sequence[TestResult], one: Group, other: Group) -> Difference:
    run = runs[one.members[0]]
    sides = [[results[place] for place in group.members] for group in (one, other)]
    shares = [_shares(side) for side in sides]
    changes: list[Change] = []
    names: tuple[str, ...] = ()
    cells: tuple[tuple[float, ...], ...] = ()
    if shares[0] is not None and shares[1] is not None and shares[0].shape == shares[1].shape:
        gap = shares[1] - shares[0]
        wrong = [(t, p) for t, p in np.argwhere(np.abs(gap) > 1e-9).tolist() if t != p]
        wrong.sort(key=lambda cell: (-abs(gap[cell[0], cell[1]]), cell))
        changes = [
            Change(run.class_name(t), run.class_name(p), float(shares[0][t, p]), float(shares[1][t, p]))
            for t, p in wrong[:_MAX_CHANGES]
        ]
        present = np.flatnonzero((shares[0] + shares[1]).sum(axis=0) + (shares[0] + shares[1]).sum(axis=1))
        if len(present) <= MAX_TABLE_CLASSES:
            names = tuple(run.class_name(int(label)) for label in present)
            cells = tuple(map(tuple, gap[np.ix_(present, present)].tolist()))
    parted = _parted(run, sides)
    return Difference(one.name, other.name, _gains(sides), tuple(changes), names, cells, *parted)


def _gains(sides: Sequence[Sequence[TestResult]]) -> tuple[Gain, ...]:
    """The classes that both sides were tested on."""
    means: list[dict[str, tuple[float, int]]] = []
    for side in sides:
        values: dict[str, list[tuple[float, int]]] = {}
        for score in (score for result in side for score in result.classes if np.isfinite(score.accuracy)):
            values.setdefault(score.name, []).append((score.accuracy, score.num_videos))
        means.append(
            {name: (float(np.mean([v for v, _ in each])), max(n for _, n in each)) for name, each in values.items()}
        )
    shared = [name for name in means[0] if name in means[1]]
    gains = [Gain(name, means[0][name][1], means[0][name][0], means[1][name][0]) for name in shared]
    return tuple(sorted(gains, key=lambda row: (-row.gain, row.name)))


def _shares(side: Sequence[TestResult]) -> npt.NDArray[np.float64] | None:
    """The confusion matrices of a group summed, each row as shares; None if one is missing or of other classes."""
    matrices = [result.confusion for result in side if result.confusion is not None]
    if len(matrices) < len(side) or len({matrix.shape for matrix in matrices}) > 1:
        return None
    counts = np.sum(matrices, axis=0).astype(np.float64)
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def _parted(
    run: RunData, sides: Sequence[Sequence[TestResult]]
) -> tuple[tuple[Parted, ...], tuple[Parted, ...], int, int]:
    """The videos that the first side alone gets, the second alone, and how many both get, and neither."""
    answers = [_answers(side) for side in sides]
    only: tuple[list[Parted], list[Parted]] = ([], [])
    num_both = num_neither = 0
    for key in sorted(answers[0].keys() & answers[1].keys()):
        (label, first), (other_label, second) = answers[0][key], answers[1][key]
        if label != other_label:
            continue
        gets = [2 * guesses[label] > guesses.total() for guesses in (first, second)]
        num_both += all(gets)
        num_neither += not any(gets)
        if gets[0] != gets[1]:
            missed = second if gets[0] else first
            taken = next(guess for guess, _ in missed.most_common() if guess != label)
            only[gets[1]].append(Parted(key, run.class_name(label), run.class_name(taken)))
    return tuple(only[0]), tuple(only[1]), num_both, num_neither


def _answers(side: Sequence[TestResult]) -> Mapping[str, tuple[int, Counter[int]]]:
    """Of each video its label, and how often each class was answered."""
    found: dict[str, tuple[int, Counter[int]]] = {}
    for entry in (entry for result in side for entry in result.predictions):
        found.setdefault(entry.key, (entry.label, Counter()))[1][entry.prediction] += 1
    return found
