"""The optimiser of a run: SGD with momentum, on a GPU as one fused kernel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tgtrain.config import OptimiserSettings


def make_optimiser(parameters: Iterable[nn.Parameter], settings: OptimiserSettings, *, fused: bool) -> torch.optim.SGD:
    """SGD before its first step. fused: one kernel, which a GPU runs without being waited for."""
    optimiser = torch.optim.SGD(
        parameters,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        fused=fused or None,  # None is torch's own choice
    )
    _fill_momentum(optimiser)
    return optimiser


def restore(optimiser: torch.optim.SGD, state: dict[str, Any]) -> None:
    """Load the state of a checkpoint, which may be from another device; kernel and memory layout stay those of this one."""
    fused_flags = [group["fused"] for group in optimiser.param_groups]
    optimiser.load_state_dict(state)
    for group, fused in zip(optimiser.param_groups, fused_flags, strict=True):
        group["fused"] = fused
        for parameter in group["params"]:
            buffer = optimiser.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None and buffer.stride() != parameter.stride():
                # The fused kernel walks through both in memory order, without a check that it is the same.
                optimiser.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)
    _fill_momentum(optimiser)


def _fill_momentum(optimiser: torch.optim.SGD) -> None:
    """Give fused SGD zeros as its momentum if it has none.

    By itself it allocates memory that its first step fills. If the scaler of float16 skips that step, the memory is not filled,
    and the second step adds to whatever was there.
    """
    for group in optimiser.param_groups:
        if not group["fused"] or not group["momentum"]:
            continue
        for parameter in group["params"]:
            state = optimiser.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)
