"""A global batch on fewer machines than it was made for: the batch in parts, gradients added up, one update of the weights.

Part k of every rank together is the k-th block of the global batch, whatever the number of ranks, so a run in K parts is
the same function of seed and step on any number of them. What is the same as with the batch in one piece, and what not:

    supervised, pseudo-labels, alignment   means over equal parts: the mean of the parts is that of the batch
    UDA                                    divided by the trusted clips of the whole batch, counted beforehand
    contrast over "batch"                  every row meets the rows of all parts: each part is run twice, first without gradient
                                           for its embeddings (Gao et al., Scaling Deep Contrastive Learning Batch Size, 2021)
    contrast over "part"                   rows meet those of their own part alone: one run, fewer negatives
    BatchNorm                              statistics of each part (of all ranks), not of the batch; running averages reach back
                                           over as many videos as with the batch in one piece
    dropout                                drawn from (seed, step, part)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from tgtrain.method import losses
from tgtrain.method.gather import RowGather, gather_rows
from tgtrain.method.networks.model import View
from tgtrain.method.settings import MethodSettings
from tgtrain.method.step import COUNTS, PartSummary, StepInputs, Whole, named_values, step_terms, summarise

ContrastOver = Literal["batch", "part"]
NamedValues = list[tuple[str, Tensor]]


def add_gradients(
    network: nn.Module,
    parts: Callable[[], Iterable[StepInputs]],
    num_parts: int,
    method: MethodSettings,
    epoch: int,
    *,
    over: ContrastOver = "batch",
    autocast: AbstractContextManager[object] | None = None,
    scale: Callable[[Tensor], Tensor] = lambda total: total,
    gather: RowGather = gather_rows,
) -> NamedValues:
    """Add the gradients of a batch to the `.grad` of the weights, and give what a log shows of it; waits for nothing.

    parts: gives the `num_parts` parts, the same ones each time, and sets the generator that dropout draws from before each.
    over: what the rows of the contrast loss are compared with. autocast: of the forward passes. scale: of float16 gradients.
    All ranks must call this; DistributedDataParallel joins gradients once, with the last part.
    """
    precision = autocast or nullcontext()
    wholes: Sequence[Whole | None] = [None] * num_parts
    if num_parts > 1 and _needs_survey(method, epoch, over):
        with precision:
            wholes = _survey(network, parts(), method, over, gather)
    found = []
    for number, (views, whole) in enumerate(zip(parts(), wholes, strict=True)):
        with nullcontext() if number == num_parts - 1 else _on_its_own(network):
            with precision:
                terms = step_terms(network, views, method, epoch, gather, whole)
            total = terms.total if num_parts == 1 else terms.total / num_parts
            scale(total).backward()  # type: ignore[no-untyped-call]
        found.append(named_values(terms, method))
    return found[0] if num_parts == 1 else _joined(found)


def _needs_survey(method: MethodSettings, epoch: int, over: ContrastOver) -> bool:
    """Whether a part's loss depends on the other parts."""
    counts_trusted = method.method == "uda" and epoch >= method.warmup_epochs
    return counts_trusted or (over == "batch" and bool(method.contrast))


def _survey(
    network: nn.Module, parts: Iterable[StepInputs], method: MethodSettings, over: ContrastOver, gather: RowGather
) -> list[Whole]:
    """Run every part once without gradient, and give each what its loss takes from the others."""
    with torch.no_grad(), statistics_kept(network):
        seen = [summarise(network, views, method) for views in parts]
    num_trusted = {view: sum_of(part.num_trusted[view] for part in seen) for view in seen[0].num_trusted}
    alone = Whole(len(seen), num_trusted)
    if over == "part" or not method.contrast:
        return [alone] * len(seen)
    return _with_contrast(alone, seen, method, gather)


def _with_contrast(alone: Whole, seen: Sequence[PartSummary], method: MethodSettings, gather: RowGather) -> list[Whole]:
    """The contrast of the whole batch, and its gradient at the embeddings of each part."""
    leaves = [
        {view: [rows.float().requires_grad_() for rows in clips] for view, clips in part.embeddings.items()}
        for part in seen
    ]
    joined: dict[View, list[Tensor]] = {
        view: [torch.cat(rows) for rows in zip(*(part[view] for part in leaves), strict=True)] for view in leaves[0]
    }
    values = [
        method.contrast_weight * losses.clip_contrast_loss(joined, variant, method.temperature, gather)
        for variant in method.contrast
    ]
    flat = [rows for part in leaves for clips in part.values() for rows in clips]
    found = torch.autograd.grad(torch.stack(values).sum(), flat, allow_unused=True, materialize_grads=True)
    gradients = iter(found)
    return [
        replace(
            alone,
            contrast=tuple(value.detach() for value in values),
            gradients={view: tuple(next(gradients) for _ in clips) for view, clips in part.items()},
        )
        for part in leaves
    ]


@torch.no_grad()
def clip_gradients(network: nn.Module, limit: float, may_ask: bool = False) -> Tensor:
    """The L2 norm of all gradients, which are scaled down where it is above `limit` (0: never).

    may_ask: look at the norm, and save a pass over gradients that would be multiplied by 1; else nothing waits for the device.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(parameter.grad for parameter in parameters if parameter.grad is not None)
    if limit and not (may_ask and norm + 1e-6 <= limit):
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Within, BatchNorm in train mode leaves its running statistics and counters as they are."""
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def rescale_bn_momentum(network: nn.Module, num_parts: int) -> None:
    """Let the running statistics of BatchNorm, updated once a part, weigh a step as much as one update does now."""
    for layer in network.modules():
        if isinstance(layer, _BatchNorm) and layer.momentum is not None and num_parts > 1:
            layer.momentum = 1 - (1 - layer.momentum) ** (1 / num_parts)


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of scalars, on their device."""
    return torch.stack(list(tensors)).sum()


def _on_its_own(network: nn.Module) -> AbstractContextManager[None]:
    """Within, gradients stay with the rank."""
    plain = getattr(network, "_orig_mod", network)  # torch.compile wraps it
    return plain.no_sync() if isinstance(plain, DistributedDataParallel) else nullcontext()


def _joined(found: Sequence[NamedValues]) -> NamedValues:
    """Means over the parts; counts are sums."""
    joined = []
    for same in zip(*found, strict=True):
        name, values = same[0][0], torch.stack([value.float() for _, value in same])
        joined.append((name, values.sum() if name in COUNTS else values.mean()))
    return joined
