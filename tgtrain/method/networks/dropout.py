"""Dropout whose masks are drawn for the joined batch of all ranks, so that any number of ranks drops the same.

Shape letters: B clips, C channels, L blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SharedDropout(nn.Module):
    """Dropout of rows [B, C] with a mask drawn for the joined batch, of which they are every `stride`-th row from `first` on.

    So ranks that start from the same state of the generator drop what one process with the joined batch drops. With the
    initial first 0 and stride 1 it equals `nn.Dropout`, on CPU bit for bit.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.first, self.stride = 0, 1

    def forward(self, rows_BC: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return rows_BC
        keep_probability = 1 - self.probability
        mask = rows_BC.new_empty((rows_BC.shape[0] * self.stride, rows_BC.shape[1])).bernoulli_(keep_probability)
        return rows_BC * mask.div_(keep_probability)[self.first :: self.stride]


class DropPath(SharedDropout):
    """Stochastic depth (Huang et al., 2016): each residual branch of a block is left out for some clips.

    The probability rises evenly from 0 in the first block to that given in the last. The masks of all blocks are drawn before
    the first one: a block that is computed twice (activation checkpointing) is computed with the same mask.
    """

    def __init__(self, probability: float, num_blocks: int) -> None:
        super().__init__(probability)
        self.num_blocks = num_blocks

    def forward(self, rows_BNC: Tensor) -> Tensor:
        """The factors of the two branches of every block, for B clips: [L, 2, B, 1, 1]."""
        keep_L = 1 - torch.linspace(0, self.probability, self.num_blocks, device=rows_BNC.device)[:, None, None]
        if not self.training or not self.probability:
            return torch.ones_like(keep_L).expand(-1, 2, len(rows_BNC))[..., None, None]
        drawn = torch.bernoulli(keep_L.expand(-1, 2, len(rows_BNC) * self.stride))
        return (drawn / keep_L)[:, :, self.first :: self.stride, None, None]


def share_dropout(model: nn.Module, first: int, stride: int) -> None:
    """Set for every dropout of the model which rows of the joined batch this rank has, see `SharedDropout`."""
    for module in model.modules():
        if isinstance(module, SharedDropout):
            module.first, module.stride = first, stride
