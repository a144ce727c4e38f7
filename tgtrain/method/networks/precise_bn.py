"""Precise BatchNorm: statistics for evaluation, computed over many batches with fixed weights.

Running averages lag behind the weights, so the reference replaces them before an evaluation (Wu and Johnson, Rethinking
"Batch" in BatchNorm, 2021, section 3; the paper adds the variance of the means, the reference and this module do not).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tgtrain.method.networks.sync_bn import own_rows_only


@torch.no_grad()
def recompute_statistics(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replace every running mean and variance of `network` that is not frozen by the plain average of the batch statistics.

    Variances are the unbiased ones of each batch. The network is run on each batch with its BatchNorm layers in train mode
    and all else in eval mode; afterwards modes, momenta and counters are restored. Needs no more memory than a forward.

    network: called on each batch; the backbone of a view (`model.backbone("rgb")`).
    batches: with none the statistics stay. Every batch must give each layer more than one value
    per channel. Ranks have batches of their own, possibly none: the result is the average over all of them, the same on
    every rank. All ranks must call this. Returns the number of batches that this rank used.
    """
    modes = {module: module.training for module in network.modules()}
    network.train()
    # A layer that stays in eval mode is frozen.
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]
    momenta = [layer.momentum for layer in layers]
    counters = [None if layer.num_batches_tracked is None else layer.num_batches_tracked.clone() for layer in layers]
    used = 0
    # Dropout stays off; only BatchNorm sees training.
    try:
        network.eval()
        for layer in layers:
            layer.train()
        for used, batch in enumerate(batches, start=1):
            for layer in layers:
                # mean_n = mean_{n-1} + (x_n - mean_{n-1}) / n makes the running average a plain one; n = 1 drops the old.
                layer.momentum = 1 / used
            with own_rows_only(layers):
                network(batch)
    finally:
        for module, training in modes.items():
            module.training = training
        for layer, momentum, counter in zip(layers, momenta, counters, strict=True):
            layer.momentum = momentum
            if counter is not None and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(counter)
    _average_over_ranks(layers, used)
    return used


def _average_over_ranks(layers: list[_BatchNorm], used: int) -> None:
    """Average the statistics over the ranks, weighted by their numbers of batches; with no batch at all they stay."""
    statistics = [s for layer in layers for s in (layer.running_mean, layer.running_var) if s is not None]
    if not statistics or not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    sums = torch.cat([s.double() * used for s in statistics] + [statistics[0].new_full((1,), used).double()])
    dist.all_reduce(sums)
    if int(sums[-1]):
        means = torch.split(sums[:-1] / sums[-1], [len(s) for s in statistics])
        for statistic, mean in zip(statistics, means, strict=True):
            statistic.copy_(mean)
