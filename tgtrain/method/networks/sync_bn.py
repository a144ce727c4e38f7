"""BatchNorm over the rows of all ranks: torch's SyncBatchNorm on GPUs, and one for CPUs, for which torch has none.

With it a model trained on any number of ranks equals one trained on the joined batch, on every machine.
Shape letters: N rows of one rank, M values per channel of all ranks, C channels; `...` stands for T, H, W.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class CrossRankBatchNorm(_BatchNorm):
    """BatchNorm whose batch statistics cover the rows of all ranks of the default process group, on any device.

    Means, variances and gradients equal those of one process with the joined batch, up to rounding; the running
    statistics of all ranks are bit-equal. Ranks may have different numbers of rows. In eval mode, and with one rank,
    it is plain BatchNorm. Each forward in train mode and each backward is one collective: all ranks must call them.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected [N, C, ...], got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, ...] -> the same shape and dtype."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        self._check_input_dim(input)
        output, mean_C, variance_C, count = _CrossRankNorm.apply(input, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        self._update_statistics(mean_C, variance_C, count)
        normalised: Tensor = output
        return normalised

    @torch.no_grad()
    def _update_statistics(self, mean_C: Tensor, variance_C: Tensor, count: Tensor) -> None:
        """Update running statistics like plain BatchNorm: unbiased variance; momentum None means the plain average."""
        if not self.track_running_stats or self.num_batches_tracked is None:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased_C = variance_C * (count / (count - 1))
        self.running_mean.mul_(1 - share).add_(mean_C, alpha=share)
        self.running_var.mul_(1 - share).add_(unbiased_C, alpha=share)


class _CrossRankNorm(torch.autograd.Function):
    """Normalisation over all ranks, which combines means and variances of partial samples (Chan et al., 1979)."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values = input.float()
        own_var_C, own_mean_C = torch.var_mean(values, dim=_all_but_channels(input), correction=0)
        own_count = own_mean_C.new_full((1,), input.numel() / input.shape[1])
        own_X = torch.cat([own_mean_C, own_var_C, own_count]).double()
        parts = [torch.empty_like(own_X) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own_X)
        parts_RX = torch.stack(parts)
        mean_RC, var_RC, count_R1 = parts_RX.tensor_split((input.shape[1], 2 * input.shape[1]), dim=1)
        count = count_R1.sum()
        if count <= 1:
            raise ValueError("BatchNorm in training needs more than one value per channel over all ranks")
        mean_C = (mean_RC * count_R1).sum(0) / count
        variance_C = ((var_RC + (mean_RC - mean_C).square()) * count_R1).sum(0) / count
        inverse_C = (variance_C + eps).rsqrt().float()
        mean_C, variance_C, count = mean_C.float(), variance_C.float(), count.float()
        ctx.save_for_backward(input, weight_C, mean_C, inverse_C, count)
        # The eval-mode kernel normalises with given statistics.
        output = F.batch_norm(values, mean_C, variance_C, weight_C, bias_C, training=False, eps=eps)
        ctx.mark_non_differentiable(mean_C, variance_C, count)
        return output.to(input.dtype), mean_C, variance_C, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Any) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        input, weight_C, mean_C, inverse_C, count = ctx.saved_tensors
        shape = [1, -1] + [1] * (input.dim() - 2)
        grad = grad.float()
        normal = (input.float() - mean_C.view(shape)) * inverse_C.view(shape)
        axes = _all_but_channels(input)
        own_sums_2C = torch.stack([grad.sum(axes), (grad * normal).sum(axes)])
        sums_2C = own_sums_2C.clone()
        dist.all_reduce(sums_2C)
        mean_grad_C, mean_product_C = sums_2C / count
        scale_C = inverse_C if weight_C is None else inverse_C * weight_C
        # In place on `normal`, which is not needed any more: saves one tensor of the input's size.
        grad_input = normal.mul_(-mean_product_C.view(shape)).add_(grad).sub_(mean_grad_C.view(shape))
        grad_input = grad_input.mul_(scale_C.view(shape)).to(input.dtype)
        # Weight gradients stay those of this rank: DistributedDataParallel joins them.
        grad_bias_C, grad_weight_C = own_sums_2C
        return grad_input, *((None, None) if weight_C is None else (grad_weight_C, grad_bias_C)), None


def _all_but_channels(input: Tensor) -> list[int]:
    return [axis for axis in range(input.dim()) if axis != 1]


def synchronised(model: ModuleT, device: torch.device) -> ModuleT:
    """Replace every BatchNorm of the model by one over all ranks; names in the state dict stay."""
    if device.type == "cuda":
        converted: ModuleT = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, _BatchNorm):
                replacement = CrossRankBatchNorm(
                    layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
                )
                replacement.load_state_dict(layer.state_dict())
                for own, parameter in zip(replacement.parameters(), layer.parameters(), strict=True):
                    own.requires_grad_(parameter.requires_grad)  # a frozen one stays frozen
                parent.add_module(name, replacement.train(layer.training))
    return model


@contextmanager
def own_rows_only(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Within this context, cross-rank BatchNorm layers among these use the statistics of this rank's rows only."""
    changed = [layer for layer in layers if isinstance(layer, CrossRankBatchNorm | nn.SyncBatchNorm)]
    for layer in changed:
        layer.forward = partial(_BatchNorm.forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward


@contextmanager
def frozen_running_statistics(network: nn.Module) -> Iterator[None]:
    """Within this context BatchNorm in train mode does not update its running statistics and counters."""
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
