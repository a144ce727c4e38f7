"""The optimiser of a run: SGD with momentum, on a GPU as one fused kernel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tgtrain.config import OptimiserSettings


def make_optimiser(parameters: Iterable[nn.Parameter], settings: OptimiserSettings, *, fused: bool) -> torch.optim.SGD:
    """SGD without steps done. fused: by one kernel, which a GPU takes without being waited for."""
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
    """Go on from the state of a checkpoint, which may be of another device: how steps are carried out, and how
    momentum lies in memory, stays as it is here.
    """
    ways = [group["fused"] for group in optimiser.param_groups]
    optimiser.load_state_dict(state)
    for group, fused in zip(optimiser.param_groups, ways, strict=True):
        group["fused"] = fused
        for parameter in group["params"]:
            buffer = optimiser.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None and buffer.stride() != parameter.stride():
                # The fused kernel goes through both as they lie in memory, and does not ask whether that is one order.
                optimiser.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)
    _fill_momentum(optimiser)


def _fill_momentum(optimiser: torch.optim.SGD) -> None:
    """Give fused SGD a momentum of zeros where it has none, with which the next step is the first one.

    Of itself it takes memory without values, to be written by its first step. Where a scaler skips that step, as float16 does
    at its first scale, nothing is written, and the second step adds to whatever was in that memory.
    """
    for group in optimiser.param_groups:
        if not group["fused"] or not group["momentum"]:
            continue
        for parameter in group["params"]:
            state = optimiser.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)
