"""The schedule: the reference's learning rates, and the counting of epochs and steps."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgtrain.config import load_recipe
from tgtrain.method.schedule import LearningRateSettings, epoch_of, is_due, learning_rate


def test_rates_of_the_reference(shared: Path) -> None:
    recipes = json.loads((shared / "golden" / "pipeline.json").read_text())["learning_rate"]
    checked = 0
    for recipe, rates in recipes.items():
        stated = re.fullmatch(r"(\d+) epochs, warm-up (\d+), (\d+) iterations", recipe)
        assert stated
        settings = LearningRateSettings(0.2, *map(int, stated.groups()))
        for place, expected in rates.items():
            epoch, iteration = map(int, re.findall(r"\d+", place))
            assert learning_rate(settings, epoch, iteration) == pytest.approx(expected, rel=1e-12)
            checked += 1
    assert checked >= 15


def test_warm_up_starts_at_a_tenth_and_ends_at_the_cosine() -> None:
    settings = LearningRateSettings(base=0.2, num_epochs=10, warmup_epochs=4, iterations_per_epoch=5)
    assert learning_rate(settings, 0, 0) == pytest.approx(0.02)
    plain = LearningRateSettings(base=0.2, num_epochs=10, warmup_epochs=0, iterations_per_epoch=5)
    assert learning_rate(plain, 0, 0) == pytest.approx(0.2)
    for epoch in range(4, 10):
        assert learning_rate(settings, epoch, 3) == learning_rate(plain, epoch, 0)
    assert learning_rate(settings, 3, 4) < learning_rate(plain, 3, 4)


@given(st.integers(1, 200), st.integers(0, 220), st.integers(1, 50), st.data())
def test_rate_stays_between_zero_and_base(epochs: int, warmup: int, iterations: int, data: st.DataObject) -> None:
    settings = LearningRateSettings(0.2, epochs, warmup, iterations)
    step = data.draw(st.integers(0, settings.num_epochs * settings.iterations_per_epoch - 1))
    assert 0 < learning_rate(settings, *epoch_of(step, iterations)) <= 0.2 + 1e-12


@pytest.mark.parametrize("wrong", [(0, 0, 1), (1, -1, 1), (1, 0, 0)])
def test_impossible_lengths_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        LearningRateSettings(0.2, *wrong)


def test_counting() -> None:
    assert epoch_of(0, 238) == (0, 0)
    assert epoch_of(238 * 3 + 5, 238) == (3, 5)


def test_what_is_due_after_an_epoch() -> None:
    assert [epoch for epoch in range(12) if is_due(epoch, 5, 12)] == [4, 9, 11]
    assert [epoch for epoch in range(3) if is_due(epoch, 0, 3)] == [2]


@pytest.mark.parametrize("name", ["ucf101-20", "hmdb51-60", "k400-1", "ucf101-10-mvpl", "ucf101-20-notricks"])
def test_rates_of_a_whole_run_are_those_of_a_plain_loop(name: str) -> None:
    """The reference's own way, step by step: two hooks, one setting the rate each epoch, one lowering it each iteration."""
    optimiser = load_recipe(name).optimiser
    per_epoch = 23
    settings = LearningRateSettings(optimiser.learning_rate, optimiser.epochs, optimiser.warmup_epochs, per_epoch)
    seen = 0
    for epoch in range(optimiser.epochs):
        by_epoch = optimiser.learning_rate * (1 + math.cos(math.pi * (epoch / optimiser.epochs))) / 2
        for iteration in range(per_epoch):
            lowered = 0.0
            if seen < optimiser.warmup_epochs * per_epoch:
                lowered = (1 - seen / (optimiser.warmup_epochs * per_epoch)) * 0.9
            got = learning_rate(settings, *epoch_of(seen, per_epoch))
            assert got == pytest.approx(by_epoch * (1 - lowered), rel=1e-9), (epoch, iteration)
            seen += 1
    assert seen == settings.num_epochs * settings.iterations_per_epoch
