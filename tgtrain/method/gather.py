"""Differentiable all-gather for contrastive losses, and sums over ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows_ND: Tensor) -> tuple[Tensor, int]:
    """Gather the rows of all ranks: [ranks x N, D], rank 0 first, and the index of this rank's first row among them.

    Every rank must bring the same number of rows. A row's gradient is the sum over the ranks that used it, so the mean
    over ranks that DistributedDataParallel takes is the gradient of the mean of the ranks' losses.
    """
    if not _several_ranks():
        return rows_ND, 0
    gathered: Tensor = _GatherRows.apply(rows_ND)  # type: ignore[no-untyped-call]
    return gathered, dist.get_rank() * rows_ND.shape[0]


def sum_over_ranks(count: Tensor) -> tuple[Tensor, int]:
    """Sum a count over all ranks, without gradient; also gives the number of ranks."""
    if not _several_ranks():
        return count, 1
    total = count.detach().clone()
    dist.all_reduce(total)
    return total, dist.get_world_size()


def _several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


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
        first = dist.get_rank() * ctx.num_rows
        return total_MD[first : first + ctx.num_rows]
