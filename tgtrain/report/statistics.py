"""Statistics of accuracies: mean and deviation, the exact test of McNemar, standard errors over groups. Needs numpy alone.

Shape letters: N rows, a row being one video in one run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rights = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and spread of some values."""

    mean: float
    deviation: float | None
    """Standard deviation of a sample (the divisor is one less than the number of values); None for a single value."""
    num_values: int


@dataclass(frozen=True, slots=True)
class McNemar:
    """The exact test of McNemar on two classifiers that answered the same questions."""

    only_first: int
    """Rows that the first alone has right; the letter b in textbooks."""
    only_second: int
    """Rows that the second alone has right; c."""
    p: float
    """Two-sided: how probable a split of those rows is that is at least so uneven, if both are equally good."""


def mean_and_deviation(values: Sequence[float]) -> Spread:
    """The mean and the standard deviation of a sample. ValueError without values, or if one is not finite."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"expected finite numbers, got {values!r:.100}")
    return Spread(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None, len(array))


def mcnemar(first_right: Rights, second_right: Rights) -> McNemar:
    """Compare two classifiers by the rows that only one of them has right (bool[N] each, the same rows in the same order).

    If both are equally good, each of the b + c rows falls to either side with probability 1/2, so p is twice the smaller tail
    of a binomial distribution (McNemar, Psychometrika 1947; exact form). Rows that belong together, such as one video under
    several seeds, count as independent: then p is too small, and `standard_error_over_groups` of the difference is the
    measure to trust. ValueError if the shapes differ.
    """
    first, second = np.asarray(first_right, bool), np.asarray(second_right, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"expected two bool[N] of the same rows, got {first.shape} and {second.shape}")
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    number = only_first + only_second
    ways = tail = 1  # C(number, k) and its sum, as exact integers
    for k in range(min(only_first, only_second)):
        ways = ways * (number - k) // (k + 1)
        tail += ways
    # 2 tail > 2^number if both counts are equal: the middle of the distribution is counted twice.
    return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**number))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values of several tests, corrected for their number (Holm, 1979), in the given order."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, highest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def standard_error_over_groups(values: npt.ArrayLike, groups: npt.ArrayLike) -> float | None:
    """The standard error of the mean of values[N] (accuracy if they are right or wrong) if rows of a group depend on one another.

    groups[N] names the group of each row: the person who acts, the long video that clips were cut from, or the video that
    several runs were tested on. The deviations from the mean are summed within each of the G groups:
    sqrt(G / (G - 1) * sum over groups of (sum of deviations)^2) / N. If each row is its own group, that is the usual
    deviation / sqrt(N). None with fewer than two groups. ValueError without rows, or if shapes differ.
    """
    array, names = np.asarray(values, np.float64), np.asarray(groups)
    if array.ndim != 1 or array.shape != names.shape or not len(array):
        raise ValueError(f"expected values [N] and groups [N], N > 0; got {array.shape} and {names.shape}")
    _, group_of_row = np.unique(names, return_inverse=True)
    sums = np.bincount(group_of_row, weights=array - array.mean())
    if (num_groups := len(sums)) < 2:
        return None
    return math.sqrt(num_groups / (num_groups - 1) * float((sums**2).sum())) / len(array)
