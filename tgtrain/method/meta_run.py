"""Runs work on tensors without values, and counts what it would take: the peak of its memory, and its arithmetic.

On torch's `meta` device every operation computes shapes alone. So the counts are exact, come in a fraction of a second, and hold
for every network, loss and setting: there is no table to keep in step with the code.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# What autocast runs in half precision; it leaves all else as it comes.
_IN_HALF = {
    torch.conv1d, torch.conv2d, torch.conv3d, F.linear, F.scaled_dot_product_attention, torch.matmul, Tensor.matmul,
    Tensor.__matmul__, torch.bmm, torch.addmm, torch.mm,
}  # fmt: skip
_BATCH_NORM = (torch.ops.aten.native_batch_norm, torch.ops.aten.native_batch_norm_backward)


@dataclass(frozen=True, slots=True)
class Counted:
    """What some work takes."""

    peak_bytes: int
    """Of the tensors that it makes, at the moment when they are the most."""
    flops: int
    """Additions and multiplications of convolutions and matrix products."""


def count(work: Callable[[], object], precision: torch.dtype | None = None) -> Counted:
    """Run `work` on the meta device and count its tensors and its arithmetic. precision: that of autocast; None for none."""
    watch = _Watch()
    with watch, autocast(precision):
        work()
    return Counted(watch.peak, watch.flops)


def autocast(precision: torch.dtype | None) -> AbstractContextManager[object]:
    """The autocast of `count`. The backward pass does not know it: what is computed again there needs it once more."""
    return nullcontext() if precision is None else _Half(precision)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation, of the backward pass too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.flops = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        packet = func.overloadpacket
        if (
            packet in _BATCH_NORM and args[0].is_meta
        ):  # whose decomposition by torch takes half of the time of all operations
            input_, weight = (args[0], args[1]) if packet is _BATCH_NORM[0] else (args[1], args[2])
            channel = input_.new_empty(input_.shape[1], dtype=torch.float32 if weight is None else weight.dtype)
            output: Any = (torch.empty_like(input_), channel, torch.empty_like(channel))
        else:
            output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        if (formula := flop_registry.get(packet)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=output)
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage, unless it is that of another tensor."""
        key, size = storage._cdata, storage.nbytes()
        if key not in self.seen:
            self.seen.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.live -= size


class _Half(TorchFunctionMode):
    """Autocast for a device that has none."""

    def __init__(self, precision: torch.dtype) -> None:
        super().__init__()
        self.precision = precision

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _IN_HALF:
            args = tuple(self._cast(arg) for arg in args)
        return func(*args, **(kwargs or {}))

    def _cast(self, value: Any) -> Any:
        return value.to(self.precision) if isinstance(value, Tensor) and value.dtype is torch.float32 else value
