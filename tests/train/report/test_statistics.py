"""Statistics against scipy, textbook values and slow plain counting."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgtrain.report.statistics import mcnemar, mean_and_deviation, standard_error_over_groups


def rows(only_first: int, only_second: int, both: int = 3, neither: int = 2) -> tuple[np.ndarray, np.ndarray]:
    counts = (only_first, only_second, both, neither)
    return np.repeat([True, False, True, False], counts), np.repeat([False, True, True, False], counts)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 5, 1.0),
        (0, 6, 0.03125),  # 2 / 2^6
        (10, 2, 0.03857421875),  # 2 (1 + 12 + 66) / 2^12
        (2, 10, 0.03857421875),
        # Those below from scipy.stats.binomtest(min(b, c), b + c).pvalue of scipy 1.17.
        (86, 150, 3.7159361395713866e-05),  # Agresti: approval of a prime minister in two surveys of the same people
        (121, 59, 4.4344492637551645e-06),
        (3, 40, 3.0213413992896676e-09),
        (1200, 1000, 2.1817026407914194e-05),
    ],
)  # fmt: skip
def test_exact_p_values(only_first: int, only_second: int, p: float) -> None:
    result = mcnemar(*rows(only_first, only_second))
    assert (result.only_first, result.only_second) == (only_first, only_second)
    assert result.p == pytest.approx(p, rel=1e-9)


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 400))
def test_p_is_that_of_scipy(only_first: int, only_second: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = 1.0
    if only_first + only_second:
        expected = stats.binomtest(only_first, only_first + only_second).pvalue
    assert mcnemar(*rows(only_first, only_second)).p == pytest.approx(expected, rel=1e-9)


def test_p_of_a_large_pool_is_quick_and_finite() -> None:
    result = mcnemar(*rows(20_300, 19_700))
    # The normal approximation with continuity correction: z = (600 - 1) / 200.
    assert result.p == pytest.approx(math.erfc(2.995 / math.sqrt(2)), rel=1e-3)
    assert 0 <= mcnemar(*rows(0, 40_000)).p < 1e-300


def test_rows_must_be_the_same() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        mcnemar(np.ones(2, bool), np.ones(3, bool))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_deviation_is_that_of_a_sample(values: list[float]) -> None:
    found = mean_and_deviation(values)
    assert found.mean == pytest.approx(statistics.mean(values))
    assert found.deviation == pytest.approx(statistics.stdev(values), abs=1e-12)
    assert found.num_values == len(values)


def test_one_value_has_no_deviation_and_none_has_no_mean() -> None:
    assert (mean_and_deviation([0.5]).mean, mean_and_deviation([0.5]).deviation) == (0.5, None)
    for wrong in ([], [0.5, math.nan]):
        with pytest.raises(ValueError, match="finite"):
            mean_and_deviation(wrong)


def test_rows_that_are_their_own_groups_give_the_usual_standard_error() -> None:
    right = np.array([1, 0, 1, 1, 0, 1, 1, 1], bool)
    expected = right.std(ddof=1) / math.sqrt(8)
    assert standard_error_over_groups(right, np.arange(8)) == pytest.approx(expected)
    assert standard_error_over_groups(right, list("abcdefgh")) == pytest.approx(expected)


def test_rows_that_only_repeat_their_group_count_once() -> None:
    of_people = np.array([1, 0, 0, 1, 1], bool)
    repeated, people = np.repeat(of_people, 12), np.repeat(np.arange(5), 12)
    alone = standard_error_over_groups(of_people, np.arange(5))
    assert standard_error_over_groups(repeated, people) == pytest.approx(alone)
    mixed = np.random.default_rng(1).permutation(60)
    assert standard_error_over_groups(repeated[mixed], people[mixed]) == pytest.approx(alone)


def test_groups_of_different_size_against_plain_sums() -> None:
    right, groups = [1, 1, 0, 1, 0, 0, 1], ["a", "a", "a", "b", "b", "c", "c"]
    mean = sum(right) / 7
    sums = [
        sum(value - mean for value, _ in rows)
        for _, rows in itertools.groupby(zip(right, groups, strict=True), lambda row: row[1])
    ]
    expected = math.sqrt(3 / 2 * sum(value**2 for value in sums)) / 7
    assert standard_error_over_groups(right, groups) == pytest.approx(expected)


def test_one_group_has_no_standard_error() -> None:
    assert standard_error_over_groups([1, 0, 1], ["a", "a", "a"]) is None
    with pytest.raises(ValueError, match="groups"):
        standard_error_over_groups([1, 0, 1], ["a", "a"])
