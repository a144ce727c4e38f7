"""The schedule of a run: learning rate, epochs and warm-up, as pure functions of the step, the epoch and the recipe.

Epochs, iterations and steps count from 0; an epoch has the same number of iterations throughout a run, and
step = epoch * iterations_per_epoch + iteration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

WARMUP_START = 0.1


@dataclass(frozen=True, slots=True)
class LearningRateSettings:
    """The published schedule: cosine by epoch to 0, multiplied by a linear warm-up by iteration."""

    base: float
    """Highest rate; published 0.2 for 80 videos a step."""
    num_epochs: int
    """Length of the cosine."""
    warmup_epochs: int
    """Published 30 of 180; 0 for none."""
    iterations_per_epoch: int

    def __post_init__(self) -> None:
        if self.num_epochs < 1 or self.iterations_per_epoch < 1 or self.warmup_epochs < 0:
            raise ValueError(f"epochs and iterations must be at least 1, warm-up at least 0, got {self}")


def learning_rate(settings: LearningRateSettings, epoch: int, iteration: int) -> float:
    """Rate of one step (LTG, CVPR 2022, section 4.1): constant within an epoch once the warm-up is over.

        0.5 * base * (1 + cos(pi * epoch / num_epochs))
        * (0.1 + 0.9 * step / (warmup_epochs * iterations_per_epoch))     while epoch < warmup_epochs

    0 <= epoch < num_epochs, 0 <= iteration < iterations_per_epoch.
    """
    cosine = 0.5 * settings.base * (1 + math.cos(math.pi * epoch / settings.num_epochs))
    if epoch >= settings.warmup_epochs:
        return cosine
    step = epoch * settings.iterations_per_epoch + iteration
    warm = step / (settings.warmup_epochs * settings.iterations_per_epoch)
    return cosine * (WARMUP_START + (1 - WARMUP_START) * warm)


def epoch_of(step: int, iterations_per_epoch: int) -> tuple[int, int]:
    """Epoch and iteration within it of a step."""
    return divmod(step, iterations_per_epoch)


def is_due(epoch: int, every_epochs: int, num_epochs: int) -> bool:
    """Whether something done every `every_epochs` epochs (0: never) is due after this epoch; always after the last one."""
    done = epoch + 1
    return done == num_epochs or (every_epochs > 0 and done % every_epochs == 0)
