"""Random choice of the strong operations of a clip and their amounts, on the host; `tgtrain.method.augment.apply` runs them.

The main recipe is imgaug's RandAugment-like list as MMAction2 0.16 sets it up: exactly two of fifteen operations, without
replacement, in the order of the list. The reference draws the signs of the geometric operations once a run, and all its
loader workers replay one sequence. Here every clip draws signs and operations from its own generator
(tgtrain.randomness.sample_seed); `fixed_signs` reproduces the former for comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from manifests.records import InputError
from tgtrain.randomness import below


class StrongOp(IntEnum):
    """The operations in the order in which they are applied; see tgtrain.method.augment.operations for each."""

    SHEAR_X = 0
    SHEAR_Y = 1
    TRANSLATE_X = 2
    TRANSLATE_Y = 3
    ROTATE = 4
    POSTERIZE = 5
    SOLARIZE = 6
    COLOR = 7
    CONTRAST = 8
    BRIGHTNESS = 9
    SHARPNESS = 10
    AUTOCONTRAST = 11
    EQUALIZE = 12
    INVERT = 13
    CUTOUT = 14


SIGNED_OPS = (StrongOp.SHEAR_X, StrongOp.SHEAR_Y, StrongOp.TRANSLATE_X, StrongOp.TRANSLATE_Y, StrongOp.ROTATE)
GEOMETRIC_OPS = (*SIGNED_OPS, StrongOp.CUTOUT)  # move or hide parts of the image


@dataclass(frozen=True, slots=True)
class StrongStep:
    """One operation on one clip, the same for all its frames."""

    op: StrongOp
    amount: float = 0.0
    """Degrees (shear, rotate; clockwise positive), fraction of width or height (translate; right and down positive), bits
    kept (posterize), first inverted level (solarize), factor (color, contrast, brightness, sharpness), fraction of the
    shorter side (cutout); 0.0 if the operation takes none."""
    centre_y: float = 0.5
    """Fraction of the height: the middle of the cutout's square, or the fixed point of shear and rotation."""
    centre_x: float = 0.5
    """The same, as a fraction of the width."""
    fill: int = 0
    """Grey level that cutout paints and that geometric operations bring in from outside."""


@dataclass(frozen=True, slots=True)
class StrongPlan:
    """The operations of one clip, in the order of application; images between them are uint8."""

    steps: tuple[StrongStep, ...]


@dataclass(frozen=True, slots=True)
class StrongSettings:
    """How strong views of the main recipe are drawn."""

    num_ops: int = 2
    """Operations a clip."""
    level: float = 0.9
    """Strength, 0 to 1."""
    cutout_fill: int = 128
    """Grey level."""
    shared_geometry: bool = False
    """TG gets the geometric operations of RGB (the reference draws the two independently)."""
    fixed_signs: tuple[int, ...] | None = None
    """Signs of SIGNED_OPS for a whole run (quirk of the reference, see `draw_run_signs`), for RGB or a single view."""
    fixed_signs_tg: tuple[int, ...] | None = None
    """The same for TG beside RGB."""

    def __post_init__(self) -> None:
        check_ranges(self, num_ops=(0, len(StrongOp)), level=(0, 1), cutout_fill=(0, 255))
        for name in ("fixed_signs", "fixed_signs_tg"):
            signs = getattr(self, name)
            if signs is not None and (len(signs) != len(SIGNED_OPS) or not set(signs) <= {-1, 1}):
                raise InputError(f"setting {name}: got {signs}, expected {len(SIGNED_OPS)} numbers 1 or -1")


def check_ranges(settings: object, **ranges: tuple[float, float]) -> None:
    """InputError for the first setting below the lower or above the upper of its bounds."""
    for name, (low, high) in ranges.items():
        if not low <= getattr(settings, name) <= high:
            raise InputError(f"setting {name}: got {getattr(settings, name)}, expected {low} to {high}")


def amount_at(op: StrongOp, level: float) -> float:
    """Amount of an operation, without sign, at a level from 0 to 1 (published 0.9)."""
    match op:
        case StrongOp.SHEAR_X | StrongOp.SHEAR_Y:
            return 17.19 * level
        case StrongOp.TRANSLATE_X | StrongOp.TRANSLATE_Y | StrongOp.CUTOUT:
            return 0.2 * level
        case StrongOp.ROTATE:
            return 30 * level
        case StrongOp.POSTERIZE:
            return max(1, int(4 * level))
        case StrongOp.SOLARIZE:
            return int(256 * level)
        case StrongOp.COLOR | StrongOp.CONTRAST | StrongOp.BRIGHTNESS | StrongOp.SHARPNESS:
            return 1.8 * level + 0.1
    return 0.0


def draw_strong_plan(rng: np.random.Generator, settings: StrongSettings) -> StrongPlan:
    """Draw the plan of one clip of one view."""
    return _plan(_choose(rng, tuple(StrongOp), settings.num_ops), rng, settings)


def draw_strong_plans(
    rng_rgb: np.random.Generator, rng_tg: np.random.Generator, settings: StrongSettings
) -> tuple[StrongPlan, StrongPlan]:
    """Draw the plans of the RGB and the TG view of one clip: independent, or with the same geometry (`shared_geometry`)."""
    rgb = draw_strong_plan(rng_rgb, settings)
    if settings.shared_geometry:
        return rgb, with_geometry_of(rgb, rng_tg, settings)
    return rgb, draw_strong_plan(rng_tg, replace(settings, fixed_signs=settings.fixed_signs_tg))


def with_geometry_of(plan: StrongPlan, rng: np.random.Generator, settings: StrongSettings) -> StrongPlan:
    """Draw another plan of the same length with the geometric steps of `plan` (cutout too).

    On its own it is distributed like a plan of `draw_strong_plan`: the other operations are equally likely.
    """
    shared = tuple(step for step in plan.steps if step.op in GEOMETRIC_OPS)
    others = tuple(op for op in StrongOp if op not in GEOMETRIC_OPS)
    drawn = _plan(_choose(rng, others, len(plan.steps) - len(shared)), rng, settings)
    return StrongPlan(tuple(sorted((*shared, *drawn.steps), key=lambda step: step.op)))


def draw_run_signs(rng: np.random.Generator) -> tuple[int, ...]:
    """Draw the signs of SIGNED_OPS for a whole run and one view, for `fixed_signs`."""
    return tuple(_sign(rng) for _ in SIGNED_OPS)


def _plan(ops: tuple[StrongOp, ...], rng: np.random.Generator, settings: StrongSettings) -> StrongPlan:
    steps = []
    for op in ops:
        amount = amount_at(op, settings.level)
        if op in SIGNED_OPS:
            fixed = settings.fixed_signs
            steps.append(StrongStep(op, amount * (fixed[SIGNED_OPS.index(op)] if fixed else _sign(rng))))
        elif op is StrongOp.CUTOUT:
            steps.append(StrongStep(op, amount, rng.random(), rng.random(), settings.cutout_fill))
        else:
            steps.append(StrongStep(op, amount))
    return StrongPlan(tuple(steps))


def _choose(rng: np.random.Generator, ops: tuple[StrongOp, ...], count: int) -> tuple[StrongOp, ...]:
    """Choose `count` different operations, each set equally likely, in the order of the list."""
    remaining = list(ops)
    return tuple(sorted(remaining.pop(below(rng, len(remaining))) for _ in range(count)))


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1
