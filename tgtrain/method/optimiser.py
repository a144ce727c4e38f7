"""The optimiser of a run: SGD with momentum or AdamW, with rates that may fall from the output of a network to its input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tgtrain.method.networks.backbones import Backbone
from tgtrain.method.networks.model import Model
from tgtrain.method.settings import OptimiserSettings

_MOMENTA = ("momentum_buffer", "exp_avg", "exp_avg_sq")  # of SGD and AdamW: tensors like the weights


def parameter_groups(model: Model, settings: OptimiserSettings) -> list[Any]:
    """The weights that learn, in groups of one rate (`scale` of the full one) and one weight decay; SGD as published has one.

    Layer-wise decay as in BEiT and VideoMAE: of N levels the last has the rate times layer_decay, the first layer_decay^N.
    """
    learnt = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    if settings.name == "sgd" and settings.layer_decay == 1:
        return [weight for _, weight in learnt]
    distance: dict[nn.Parameter, int] = {}  # from the output, in levels
    for backbone in model.modules():
        if isinstance(backbone, Backbone):
            levels = backbone.levels()
            distance |= {
                weight: len(levels) - number for number, level in enumerate(levels) for weight in level.parameters()
            }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for _, weight in learnt:
        decays = settings.name == "sgd" or weight.ndim > 1
        key = settings.layer_decay ** distance.get(weight, 0), settings.weight_decay if decays else 0.0
        groups.setdefault(key, []).append(weight)
    return [{"params": weights, "scale": scale, "weight_decay": decay} for (scale, decay), weights in groups.items()]


def make_optimiser(parameters: Iterable[Any], settings: OptimiserSettings, *, fused: bool) -> torch.optim.Optimizer:
    """An optimiser before its first step. fused: one kernel, which a GPU runs without being waited for."""
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "fused": fused or None,  # None is torch's own choice
    }
    if settings.name == "adamw":
        return torch.optim.AdamW(parameters, betas=settings.betas, **options)
    optimiser = torch.optim.SGD(parameters, momentum=settings.momentum, **options)
    _fill_momentum(optimiser)
    return optimiser


def restore(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of a checkpoint, which may be from another device; kernel and memory layout stay those of this one."""
    own = optimiser.param_groups
    groups = [{**saved, "fused": group["fused"]} for saved, group in zip(state["param_groups"], own, strict=True)]
    optimiser.load_state_dict({**state, "param_groups": groups})
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            of_parameter = optimiser.state.get(parameter, {})
            for name in _MOMENTA:
                momentum = of_parameter.get(name)
                if momentum is not None and momentum.stride() != parameter.stride():
                    # The fused kernel walks through both in memory order, without a check that it is the same.
                    of_parameter[name] = torch.empty_like(parameter).copy_(momentum)
    if isinstance(optimiser, torch.optim.SGD):
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
