"""Memory for pixels that a loader process reads and the training process maps."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from tgtrain.data.reader import NO_PIXELS, Clip


@dataclass(slots=True)
class PixelMemory:
    """Gives memory to the items of a loader, by name within an item.

    Every `num_items`-th item reuses the same memory; 0: each gets new memory. The kernel clears new shared memory page by page, and
    a training clip has hundreds of pages.
    """

    num_items: int = 0
    item: int = -1  # the current one
    _kept: dict[Hashable, Tensor] = field(default_factory=dict)

    def next_item(self) -> None:
        """From now on memory is for the next item."""
        self.item += 1

    def new(self, name: Hashable, shape: tuple[int, ...]) -> Tensor:
        """Uninitialised uint8; in a loader process it is shared memory, if there is enough."""
        place = (self.item % self.num_items, name) if self.num_items else None
        kept = self._kept.get(place)
        if kept is not None and kept.shape == shape:
            return kept
        if get_worker_info() is None:
            return torch.empty(shape, dtype=torch.uint8)
        try:
            storage = torch.UntypedStorage._new_shared(math.prod(shape), device="cpu")  # type: ignore[no-untyped-call]
        except RuntimeError:
            self.keep_none()
            return torch.empty(shape, dtype=torch.uint8)
        memory = torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
        if place is not None:
            self._kept[place] = memory
        return memory

    def keep_none(self) -> None:
        """Give new memory to each item from now on, because there is not enough to be kept. Items handed over stay as they are."""
        self.num_items = 0
        self._kept.clear()


of_process = PixelMemory()
"""The memory of the loader that this process serves."""


def rows_as_clips(rgb: Tensor | None, tg: Tensor | None, rows: Iterable[int]) -> list[Clip]:
    """Rows of uint8[V, T, S, S, 3] as clips to be filled."""
    rgb_rows, tg_rows = (None if pixels is None else pixels.numpy() for pixels in (rgb, tg))
    return [
        Clip(NO_PIXELS if rgb_rows is None else rgb_rows[row], None if tg_rows is None else tg_rows[row])
        for row in rows
    ]
