"""Damaged samples met in a run: named, counted over all ranks, and too many of them stop it on every rank at the same step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tgtrain.ranks.distributed import Ranks

LEAST_CLIPS = 1000  # of fewer clips read a share says little: that of so many is allowed from the start


class TooMuchDamageError(Exception):
    """More of the clips read were damaged than the run allows."""


class Damage:
    """The clips read and those of them that were damaged.

    num_read, num_bad: of all ranks, as of the last `join`. What this rank has added since waits for the next one.
    """

    def __init__(self, limit: float, num_read: int = 0, num_bad: int = 0) -> None:
        self.limit, self.num_read, self.num_bad = limit, num_read, num_bad
        self._own_read = 0
        self._own_bad: list[str] = []
        self._told: set[str] = set()

    def add(self, num_read: int, bad: Iterable[str]) -> None:
        """Count clips of this rank; bad: for each damaged one what is wrong with it."""
        self._own_read += num_read
        self._own_bad += bad

    def join(self, ranks: Ranks, log: Callable[[str], None]) -> None:
        """Bring the counts of all ranks together, and tell each damaged sample once. All ranks must call this.

        Raises TooMuchDamageError on all of them, once more than `limit` of the clips read, or of LEAST_CLIPS where fewer were
        read, were damaged.
        """
        everyone = ranks.gather((self._own_read, self._own_bad))
        self._own_read, self._own_bad = 0, []
        for num_read, bad in everyone:
            self.num_read += num_read
            self.num_bad += len(bad)
            for reason in bad:
                if reason not in self._told:
                    log(f"damaged sample replaced: {reason}")
                    self._told.add(reason)
        if self.num_bad > self.limit * max(self.num_read, LEAST_CLIPS):
            raise TooMuchDamageError(
                f"{self.num_bad} of {self.num_read} clips read were damaged, runtime.max_bad_fraction allows {self.limit:g} "
                f"(of {LEAST_CLIPS} clips where fewer were read). `tgprep check` finds what is damaged and tells how to mend it."
            )


def left_out(what: str, bad: Sequence[str]) -> str:
    """A line about damaged videos that a measurement went on without."""
    return f"{what} left out {len(bad)} damaged video{'s' * (len(bad) != 1)}, the first: {bad[0]}"
