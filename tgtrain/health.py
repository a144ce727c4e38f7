"""Whether a run still learns: the loss must not run away."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

_USUAL_LINES = 25  # of the log, whose median is the usual loss
_LINES_IN_A_ROW = 3
_LEAST_USUAL = 1.0  # a loss near 0 may rise many times over when pseudo-labels begin to count


class LossWatch:
    """Tells when the loss of a run explodes.

    It does when it is over `factor` times the usual one on 3 lines of the log in a row; usual is the median of the last
    25 lines that were not so, and at least 1. Nothing is told of the first line, which the next ones are compared with.
    A loss that is no finite number is passed over, as float16 may have. factor: 0 for never.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.lines: deque[float] = deque(maxlen=_USUAL_LINES)
        self.num_high = 0

    @property
    def usual(self) -> float:
        """What the loss is compared with."""
        return max(_LEAST_USUAL, median(self.lines)) if self.lines else _LEAST_USUAL

    def explodes(self, loss: float) -> bool:
        """Take in the mean loss of one line of the log."""
        if not self.factor or not math.isfinite(loss):
            return False
        if self.lines and loss > self.factor * self.usual:
            self.num_high += 1
        else:
            self.num_high = 0
            self.lines.append(loss)
        return self.num_high >= _LINES_IN_A_ROW
