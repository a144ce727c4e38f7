"""Damaged samples of a run: logged, counted over all ranks; too many stop the run on every rank at the same step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tgtrain.errors import RunError
from tgtrain.ranks.distributed import Ranks

LEAST_CLIPS = 1000  # the share is taken of at least so many clips: of fewer it says little


class Damage:
    """Counts of clips that were read, and of those that were damaged.

    num_read, num_bad: over all ranks at the last `join`. What this rank has added since is counted at the next one.
    """

    def __init__(self, limit: float, num_read: int = 0, num_bad: int = 0) -> None:
        self.limit, self.num_read, self.num_bad = limit, num_read, num_bad
        self._own_read = 0
        self._own_bad: list[str] = []
        self._logged: set[str] = set()

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
    return f"{what} left out {len(bad)} damaged video{'s' * (len(bad) != 1)}, the first: {bad[0]}"
