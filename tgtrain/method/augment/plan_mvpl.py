"""Strong views of the MvPL recipes: RandAugment as pytorchvideo draws it, then one large cutout.

Two of fourteen operations, without replacement and in random order, each applied with probability 0.5, at a uniform
integer level of 1 to 10 and with a random sign. Images between operations are uint8 here and floats in pytorchvideo: they
differ by at most one grey level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tgtrain.method.augment.plan import StrongOp, StrongPlan, StrongStep, check_ranges
from tgtrain.randomness import below

MAX_LEVEL = 10
MVPL_OPS = tuple(op for op in StrongOp if op is not StrongOp.CUTOUT)
GEOMETRIC_FILL = 0  # outside the picture: the reference asks torchvision for 0.5, which uint8 frames round to 0


@dataclass(frozen=True, slots=True)
class MvplSettings:
    """How strong views of MvPL are drawn."""

    num_ops: int = 2
    """Operations chosen a clip."""
    probability: float = 0.5
    """Of applying each of them."""
    magnitude: int = 10
    """Highest level, 1 to 10."""
    cutout_part: float = 4 / 7
    """Side of the cutout as a fraction of the shorter side; 0 for none."""
    cutout_fill: int = 0
    """Grey level."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            num_ops=(0, len(MVPL_OPS)),
            probability=(0, 1),
            magnitude=(1, MAX_LEVEL),
            cutout_part=(0, 1),
            cutout_fill=(0, 255),
        )


def draw_mvpl_plan(rng: np.random.Generator, settings: MvplSettings) -> StrongPlan:
    """Draw the plan of one clip of one view: 0 to num_ops operations, then a cutout centred anywhere in the image."""
    remaining = list(MVPL_OPS)
    chosen = [remaining.pop(below(rng, len(remaining))) for _ in range(settings.num_ops)]
    steps = []
    for op in chosen:
        if rng.random() < settings.probability:
            level = 1 + below(rng, settings.magnitude)
            steps.append(mvpl_step(op, level, 1 if rng.random() < 0.5 else -1))
    if settings.cutout_part:
        steps.append(
            StrongStep(StrongOp.CUTOUT, settings.cutout_part, rng.random(), rng.random(), settings.cutout_fill)
        )
    return StrongPlan(tuple(steps))


def mvpl_step(op: StrongOp, level: int, sign: int) -> StrongStep:
    """Make an operation at a level of 1 to 10; a negative `sign` reverses geometric ones and turns factors 1 + x into 1 - x."""
    part = level / MAX_LEVEL
    if op in (StrongOp.SHEAR_X, StrongOp.SHEAR_Y):
        # pytorchvideo shears about the upper or left edge.
        centre_y, centre_x = (0.0, 0.5) if op is StrongOp.SHEAR_X else (0.5, 0.0)
        return StrongStep(op, sign * math.degrees(math.atan(0.3 * part)), centre_y, centre_x, GEOMETRIC_FILL)
    if op in (StrongOp.TRANSLATE_X, StrongOp.TRANSLATE_Y):
        return StrongStep(op, sign * 0.45 * part, fill=GEOMETRIC_FILL)
    if op is StrongOp.ROTATE:
        return StrongStep(op, sign * 30 * part, fill=GEOMETRIC_FILL)
    if op is StrongOp.POSTERIZE:
        return StrongStep(op, 4 - 4 * level // MAX_LEVEL)
    if op is StrongOp.SOLARIZE:
        return StrongStep(op, int(255 * (1 - part)))
    if op in (StrongOp.COLOR, StrongOp.CONTRAST, StrongOp.BRIGHTNESS, StrongOp.SHARPNESS):
        return StrongStep(op, 1 + sign * 0.9 * part)
    return StrongStep(op)
