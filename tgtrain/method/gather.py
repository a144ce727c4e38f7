"""Rows of all ranks for a loss that compares across the global batch, with gradients that find their way home."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Takes the own rows [N, D]; gives the rows of all ranks [ranks x N, D], rank 0 first, and the index of the own first row.
RowGather = Callable[[Tensor], tuple[Tensor, int]]


def local_rows(rows_ND: Tensor) -> tuple[Tensor, int]:
    """The gather of a single rank: the rows as they are."""
    return rows_ND, 0


def gather_rows(rows_ND: Tensor) -> tuple[Tensor, int]:
    """The rows of all ranks of the default process group, differentiable; `local_rows` where there is only one rank.

    Every rank must bring the same number of rows. A row's gradient is the sum over the ranks that used it, so the mean
    over ranks that DistributedDataParallel takes is the gradient of the mean of the ranks' losses.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return local_rows(rows_ND)
    gathered: Tensor = _GatherRows.apply(rows_ND)  # type: ignore[no-untyped-call]
    return gathered, dist.get_rank() * rows_ND.shape[0]


def sum_over_ranks(count: Tensor) -> tuple[Tensor, int]:
    """The sum of a count over all ranks, without gradient, and how many ranks there are; the count itself without others."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return count, 1
    total = count.detach().clone()
    dist.all_reduce(total)
    return total, dist.get_world_size()


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor) -> Tensor:
        ctx.num_rows = rows_ND.shape[0]
        parts = [torch.empty_like(rows_ND) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows_ND.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad_MD: Tensor) -> Tensor:
        # Collectives may work in place: the incoming gradient belongs to autograd.
        total_MD = grad_MD.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total_MD)
        own = dist.get_rank() * ctx.num_rows
        return total_MD[own : own + ctx.num_rows]
