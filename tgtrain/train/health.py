"""Health of a run: few samples may be damaged, its numbers must stay finite, and its loss must not explode."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from torch import nn

from manifests.console import plural
from tgtrain.errors import RunError
from tgtrain.ranks.distributed import Ranks

_LEAST_SCALE = 2.0**-10  # of 2^16 at the start, halved after every step whose gradients are not finite
_LESS_RATE = "Lower optimiser.learning_rate, or use runtime.precision=float32. The last checkpoint is from before."
_USUAL_LINES = 25  # lines of the log whose median is the usual loss
_LINES_IN_A_ROW = 3
_LEAST_USUAL = 1.0  # a loss near 0 may rise many times over when pseudo-labels begin to count
LEAST_CLIPS = 1000  # the share of damaged clips is taken of at least so many: of fewer it says little


class Damage:
    """Clips that were read, and those that were damaged: over all ranks at the last `join`, which counts what was added since."""

    def __init__(self, limit: float, num_read: int = 0, num_bad: int = 0) -> None:
        self.limit, self.num_read, self.num_bad = limit, num_read, num_bad
        self._own_read, self._own_bad, self._logged = 0, list[str](), set[str]()

    def add(self, num_read: int, bad: Iterable[str]) -> None:
        """Count clips of this rank. bad: the reason for each damaged one."""
        self._own_read += num_read
        self._own_bad += bad

    def join(self, ranks: Ranks, log: Callable[[str], None]) -> None:
        """Add up the counts of all ranks, and log each damaged sample once. All ranks must call this.

        Raises RunError on all of them, once more than `limit` of the clips read (at least of LEAST_CLIPS) were damaged.
        """
        everyone = ranks.gather((self._own_read, self._own_bad))
        self._own_read, self._own_bad = 0, []
        for num_read, bad in everyone:
            self.num_read += num_read
            self.num_bad += len(bad)
            for reason in bad:
                if reason not in self._logged:
                    log(f"damaged sample replaced: {reason}")
                    self._logged.add(reason)
        if self.num_bad > self.limit * max(self.num_read, LEAST_CLIPS):
            raise RunError(
                f"{self.num_bad} of {self.num_read} clips read were damaged, runtime.max_bad_fraction allows {self.limit:g} "
                f"(of {LEAST_CLIPS} clips if fewer were read). `tgprep check` finds what is damaged and says how to repair it."
            )


def left_out(what: str, bad: Sequence[str]) -> str:
    """A log line about damaged videos that a measurement has left out."""
    return f"{what} left out {plural(len(bad), 'damaged video')}, the first: {bad[0]}"


class LossWatch:
    """Detects an exploding loss: over `factor` times the usual one on 3 lines of the log in a row.

    Usual is the median of the last 25 lines that were not too high, at least 1. The first line is not judged. A loss that is not
    finite, as float16 may have, is ignored. factor 0: never.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.lines: deque[float] = deque(maxlen=_USUAL_LINES)
        self.num_high = 0

    @property
    def usual(self) -> float:
        """The loss to compare with."""
        return max(_LEAST_USUAL, median(self.lines or [0]))

    def explodes(self, loss: float) -> bool:
        """Judge the mean loss of one line of the log."""
        if not self.factor or not math.isfinite(loss):
            return False
        if self.lines and loss > self.factor * self.usual:
            self.num_high += 1
        else:
            self.num_high = 0
            self.lines.append(loss)
        return self.num_high >= _LINES_IN_A_ROW


def require_health(loss: float, grad_norm: float, watch: LossWatch, scale: float | None, step: int) -> None:
    """Judge one line of the log; RunError if the run does not learn any more.

    scale: of float16 gradients, whose scaler skips steps that are not finite; None for other precisions.
    """
    if scale is None and not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise RunError(
            f"the loss or its gradient is no finite number any more (around step {step}: loss {loss}, "
            f"gradient norm {grad_norm}). {_LESS_RATE}"
        )
    if watch.explodes(loss):
        raise RunError(
            f"the loss explodes: at step {step} it is {loss:.4g}, for the third line of the log in a row "
            f"over {watch.factor:g} times the usual {watch.usual:.4g} (runtime.max_loss_factor). Lower "
            f"optimiser.learning_rate, or raise optimiser.warmup_epochs."
        )
    if scale is not None and scale < _LEAST_SCALE:
        raise RunError(f"float16 finds no scale at which gradients are finite (around step {step}). {_LESS_RATE}")


def require_finite(model: nn.Module, step: int) -> None:
    """RunError if a weight or statistic is not finite: such a model is neither measured nor saved."""
    state = model.state_dict().items()
    broken = [name for name, value in state if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise RunError(
            f"{len(broken)} of the weights and statistics are no finite numbers any more at step {step} (first {broken[0]}). "
            f"{_LESS_RATE}"
        )
