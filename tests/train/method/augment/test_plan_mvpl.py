"""MvPL's strong views: the figures of pytorchvideo's RandAugment, and what is drawn how often."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from manifests.records import InputError
from tgtrain.method.augment.apply import apply_strong
from tgtrain.method.augment.plan import SIGNED_OPS, StrongOp, StrongPlan
from tgtrain.method.augment.plan_mvpl import MVPL_OPS, MvplSettings, draw_mvpl_plan, mvpl_step
from tgtrain.randomness import Choice, sample_seed

FACTOR_OPS = (StrongOp.COLOR, StrongOp.CONTRAST, StrongOp.BRIGHTNESS, StrongOp.SHARPNESS)


def generators(count: int) -> Iterator[np.random.Generator]:
    return (sample_seed(4, 1, number, "Punch/v_Punch_g01_c03", Choice.STRONG_RGB) for number in range(count))


def test_half_of_two_evenly_chosen_operations_is_applied() -> None:
    plans = [draw_mvpl_plan(rng, MvplSettings()) for rng in generators(5600)]
    applied = [[step.op for step in plan.steps[:-1]] for plan in plans]
    assert all(plan.steps[-1].op is StrongOp.CUTOUT for plan in plans)
    assert all(len(set(ops)) == len(ops) for ops in applied)
    lengths = np.bincount([len(ops) for ops in applied]) / len(plans)
    np.testing.assert_allclose(lengths, [0.25, 0.5, 0.25], atol=0.03)
    counts = Counter(op for ops in applied for op in ops)  # 5,600 in all, 400 of each of 14
    assert set(counts) == set(MVPL_OPS)
    assert sum((count - 400) ** 2 / 400 for count in counts.values()) < 13 + 4 * math.sqrt(26)
    in_list_order = np.mean([ops == sorted(ops) for ops in applied if len(ops) == 2])
    assert 0.42 < in_list_order < 0.58  # the order is random, unlike the main recipe's


def test_levels_are_1_to_10_and_signs_even() -> None:
    plans = [draw_mvpl_plan(rng, MvplSettings(num_ops=14, probability=1, cutout_part=0)) for rng in generators(1000)]
    degrees = np.array([step.amount for plan in plans for step in plan.steps if step.op is StrongOp.ROTATE])
    levels = np.bincount(np.abs(degrees / 3).round().astype(int), minlength=11)
    assert levels[0] == 0
    assert ((levels[1:] - 100) ** 2 / 100).sum() < 9 + 4 * math.sqrt(18)
    assert 0.44 < np.mean(degrees > 0) < 0.56


def test_amounts_at_the_ends_of_the_range() -> None:
    assert [mvpl_step(StrongOp.POSTERIZE, level, 1).amount for level in (1, 2, 3, 5, 8, 10)] == [4, 4, 3, 2, 1, 0]
    assert [mvpl_step(StrongOp.SOLARIZE, level, 1).amount for level in (1, 5, 8, 10)] == [229, 127, 50, 0]
    for op in FACTOR_OPS:
        amounts = [mvpl_step(op, level, sign).amount for level, sign in ((10, 1), (10, -1), (1, 1))]
        assert amounts == pytest.approx([1.9, 0.1, 1.09])
    assert mvpl_step(StrongOp.TRANSLATE_X, 10, -1).amount == pytest.approx(-0.45)
    assert mvpl_step(StrongOp.ROTATE, 5, -1).amount == pytest.approx(-15)
    assert math.tan(math.radians(mvpl_step(StrongOp.SHEAR_Y, 10, 1).amount)) == pytest.approx(0.3)
    assert {mvpl_step(op, 5, 1).fill for op in SIGNED_OPS} == {0}


def test_shear_is_about_the_upper_edge_on_a_black_ground() -> None:
    """Against torch's own affine_grid with the shear and the shift of half a height times factor spelt out."""
    height, width, factor = 30, 44, 0.3
    random = torch.Generator().manual_seed(0)
    clip = torch.randint(0, 256, (1, 1, height, width, 3), dtype=torch.uint8, generator=random)
    got = apply_strong(clip, [StrongPlan((mvpl_step(StrongOp.SHEAR_X, 10, 1),))])[0, 0]
    # affine_grid counts from -1 to 1: x in half widths, y in half heights.
    matrix = torch.tensor([[[1.0, factor * height / width, factor * height / width], [0.0, 1.0, 0.0]]])
    grid = F.affine_grid(matrix, [1, 3, height, width], align_corners=False)
    image = clip[0].permute(0, 3, 1, 2).float()
    expected = F.grid_sample(image, grid, align_corners=False)[0].permute(1, 2, 0)
    assert (got - expected).abs().max() <= 0.51
    assert got[-1, -3:].unique().tolist() == [0]


def test_cutout_takes_four_sevenths_of_the_side() -> None:
    plan = draw_mvpl_plan(next(generators(1)), MvplSettings(num_ops=0))
    (step,) = plan.steps
    middle = StrongPlan((type(step)(step.op, step.amount, 0.5, 0.5, step.fill),))
    got = apply_strong(torch.full((1, 1, 224, 224, 3), 9, dtype=torch.uint8), [middle])
    assert int((got[..., 0] == 0).sum()) == 128 * 128


def test_settings_are_checked() -> None:
    for wrong in ({"num_ops": 15}, {"probability": 2.0}, {"magnitude": 0}, {"cutout_part": 1.5}, {"cutout_fill": -1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            MvplSettings(**wrong)  # type: ignore[arg-type]
