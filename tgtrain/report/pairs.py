"""Tests of pairs of settings on the predictions that `tgtrain test` stored: which of two has more videos right, and how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from tgtrain.report.settings import Measured, Setting
from tgtrain.report.statistics import McNemar, holm, mcnemar, standard_error_over_groups


@dataclass(frozen=True, slots=True)
class Pair:
    """Two settings compared by the videos of the runs that both have, pooled over seeds and folds."""

    first: str
    second: str
    num_runs: int = 0
    """Runs of each that have a partner: the same split and seed."""
    num_rows: int = 0
    """Videos of all those runs; one that is tested under several seeds counts each time."""
    test: McNemar | None = None
    """None if nothing could be compared."""
    p_holm: float = 1.0
    """p, corrected for the number of pairs."""
    difference: float = 0.0
    """Accuracy of the first less that of the second, over these videos: -1..1."""
    standard_error: float | None = None
    """Of the difference, with one video under several seeds as one group."""
    notes: tuple[str, ...] = ()


def compare_pairs(settings: Sequence[Setting]) -> tuple[Pair, ...]:
    """Test every pair of settings."""
    answers = {id(each): _answers(each) for setting in settings for each in setting.measured}
    pairs = [_compare(first, second, answers) for first, second in combinations(settings, 2)]
    tested = [place for place, pair in enumerate(pairs) if pair.test is not None]
    corrected = holm([pair.test.p for pair in pairs if pair.test is not None])
    for place, p in zip(tested, corrected, strict=True):
        pairs[place] = replace(pairs[place], p_holm=p)
    return tuple(pairs)


_Answers = Mapping[str, tuple[int, bool]]  # key of a video -> its label, and whether the answer is right


def _answers(each: Measured) -> _Answers:
    return {entry.key: (entry.label, entry.prediction == entry.label) for entry in each.result.predictions}


def _compare(first: Setting, second: Setting, answers: Mapping[int, _Answers]) -> Pair:
    pair = Pair(first.name, second.name)
    partners = {each.cell: each for each in second.measured}
    matched = [(each, partners[each.cell]) for each in first.measured if each.cell in partners]
    if not matched:
        return replace(pair, notes=("they have no split and seed in common",))
    notes: list[str] = []
    keys: list[str] = []
    rights: list[tuple[bool, bool]] = []
    num_runs = 0
    for one, other in matched:
        of_one, of_other = answers[id(one)], answers[id(other)]
        missing = [each.run.name for each, found in ((one, of_one), (other, of_other)) if not found]
        shared = sorted(of_one.keys() & of_other.keys())
        if missing:
            notes.append(f"no predictions of {' and '.join(missing)}")
        elif not shared or any(of_one[key][0] != of_other[key][0] for key in shared):
            notes.append(f"the predictions of {one.run.name} and {other.run.name} are of other videos or labels")
        else:
            num_runs += 1
            if num_alone := len(of_one.keys() ^ of_other.keys()):
                notes.append(
                    f"{num_alone} videos that only one of {one.run.name} and {other.run.name} has are not compared"
                )
            keys += shared
            rights += [(of_one[key][1], of_other[key][1]) for key in shared]
    if not keys:
        return replace(pair, notes=tuple(notes))
    table = np.array(rights, bool)
    differences = table[:, 0].astype(float) - table[:, 1]
    return replace(
        pair,
        num_runs=num_runs,
        num_rows=len(keys),
        test=mcnemar(table[:, 0], table[:, 1]),
        difference=float(differences.mean()),
        standard_error=standard_error_over_groups(differences, keys),
        notes=tuple(notes),
    )
