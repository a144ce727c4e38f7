"""Activation checkpointing: less memory for a step, more time. Gradients and BatchNorm statistics stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from tgtrain.method.networks.backbones import BasicBlock, Bottleneck, Stem
from tgtrain.method.networks.videomae import Block


def checkpoint_activations(model: nn.Module, again: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
    """Make the stem and every block of a model keep only their input, and compute the rest again in the backward pass.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016. Call it after BatchNorm layers were replaced.
    again: a context for the second computation, besides torch's autocast.
    """
    for module in model.modules():
        if isinstance(module, BasicBlock | Bottleneck | Stem | Block):
            module.forward = partial(_recomputed, module, module.forward, again)  # type: ignore[method-assign]


def _recomputed(
    module: nn.Module,
    forward: Callable[..., Tensor],
    again: Callable[[], AbstractContextManager[object]],
    *inputs: Tensor | None,
) -> Tensor:
    if not (module.training and torch.is_grad_enabled()):
        return forward(*inputs)

    # Strong views that go apart leave the running statistics alone; what autograd keeps must be the same the second time.
    apart = [each for each in module.modules() if isinstance(each, _BatchNorm) and not each.track_running_stats]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(module, again(), apart)

    # Dropout comes after the backbone, and drop path is drawn before the blocks: no state of a generator has to be restored.
    output: Tensor = checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    return output


@contextmanager
def _statistics_kept(
    module: nn.Module, again: AbstractContextManager[object], apart: list[_BatchNorm]
) -> Iterator[None]:
    """Within this context, a forward in train mode leaves running averages alone: it is the second one of the same rows.

    apart: layers that kept none in the first one.
    """
    apart = [layer for layer in apart if layer.track_running_stats]  # others never keep any
    for layer in apart:
        layer.track_running_stats = False
    # A frozen layer is in eval mode, and keeps its averages anyway.
    layers = [each for each in module.modules() if isinstance(each, _BatchNorm) and each.training and each not in apart]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        with again:
            yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked.sub_(1)
        for layer in apart:
            layer.track_running_stats = True
