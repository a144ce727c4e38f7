"""Gradient accumulation: a global batch as K micro-batches, whose gradients add up to one update of the weights.

Micro-batch k of all ranks together is the k-th block of the global batch, whatever the number of ranks, so a run in K
micro-batches is the same function of seed and step on any number of them. Compared with the batch in one piece:

    supervised, pseudo-labels, alignment,  means over equal parts: the mean over micro-batches is that of the batch
    soft targets
    UDA                                    divided by the trusted clips of the whole batch, counted beforehand
    threshold rules                        updated once by the weak views of the whole batch, run beforehand without gradient
    FreeMatch's fairness                   that of the whole batch, as the contrast over "batch"
    contrast over "batch"                  every row is compared with the rows of all micro-batches: each is run twice, first
                                           without gradient for its embeddings (GradCache: Gao et al., Scaling Deep
                                           Contrastive Learning Batch Size, 2021)
    contrast over "part"                   rows are compared within their micro-batch: one run, fewer negatives
    BatchNorm                              statistics of each micro-batch (of all ranks), not of the batch; running averages
                                           span as many videos as with the batch in one piece
    dropout                                drawn from (seed, step, micro-batch)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from tgtrain.method import losses
from tgtrain.method.networks.settings import View
from tgtrain.method.networks.sync_bn import frozen_running_statistics
from tgtrain.method.settings import MethodSettings
from tgtrain.method.step import (
    Rows,
    StepInputs,
    contrast_gate,
    fairness_terms,
    forward_views,
    learnt_targets,
    loss_terms,
    pseudo_labels,
    split_rows,
    step_terms,
)
from tgtrain.method.terms import COUNTS, NamedValues, Terms, named_values, sum_of
from tgtrain.method.thresholds import Thresholds

ContrastOver = Literal["batch", "part"]


@dataclass(frozen=True, slots=True)
class BatchSurvey:
    """What the loss of one micro-batch takes from the whole batch of this rank."""

    num_parts: int
    num_trusted: Mapping[View, Tensor]
    """Trusted pseudo-labels in all micro-batches."""
    trust: Mapping[View, losses.Trust] | None = None
    """What pseudo-labels are trusted by; None for the fixed threshold."""
    contrast: tuple[Tensor, ...] | None = None
    """Value of each contrast term over the batch, weights applied; None if each micro-batch has its own contrast."""
    gradients: Mapping[View, Sequence[Tensor]] = field(default_factory=dict)
    """Gradient of their sum at the embeddings of this micro-batch: one [rows, D] per clip of a video."""
    fairness: Mapping[View, Tensor] = field(default_factory=dict)
    """Value of each fairness term over the batch, weights applied; empty without such terms."""
    fairness_gradients: Mapping[View, Tensor] = field(default_factory=dict)
    """Gradient of each at the strong logits [U, K] of this micro-batch."""


def add_gradients(
    network: nn.Module,
    parts: Callable[[], Iterable[StepInputs]],
    num_parts: int,
    method: MethodSettings,
    epoch: int,
    *,
    over: ContrastOver = "batch",
    thresholds: Thresholds | None = None,
    teacher: nn.Module | None = None,
    autocast: AbstractContextManager[object] | None = None,
    scale: Callable[[Tensor], Tensor] = lambda total: total,
) -> NamedValues:
    """Add the gradients of a batch to the `.grad` of the weights; returns the values to log. Waits for nothing.

    parts: gives the `num_parts` micro-batches, the same ones each time, and seeds the generator of dropout before each.
    over: what the rows of the contrast loss are compared with. thresholds: updated once; None for the fixed one. teacher: see
    `step_terms`. autocast: for the forward passes. scale: for float16 gradients.
    All ranks must call this.
    """
    precision = autocast or nullcontext()
    surveys: Sequence[BatchSurvey | None] = [None] * num_parts
    # UDA, thresholds and a contrast over the batch need the other micro-batches for the loss of one.
    needs_others = _counts_trusted(method, epoch) or thresholds is not None or (over == "batch" and method.contrast)
    if num_parts > 1 and needs_others:
        with precision:
            surveys = _survey(network, parts(), method, epoch, over, thresholds, teacher)
    values = []
    # DistributedDataParallel synchronises gradients with the last micro-batch only.
    for number, (views, survey) in enumerate(zip(parts(), surveys, strict=True)):
        with nullcontext() if number == num_parts - 1 else _no_sync(network):
            with precision:
                if survey is None:
                    terms = step_terms(network, views, method, epoch, thresholds, teacher)
                else:
                    terms = _terms_over_batch(network, views, method, epoch, survey, teacher)
            total = terms.total if num_parts == 1 else terms.total / num_parts
            scale(total).backward()  # type: ignore[no-untyped-call]
        values.append(named_values(terms, method))
    return values[0] if num_parts == 1 else _average(values)


def _counts_trusted(method: MethodSettings, epoch: int) -> bool:
    """Whether the loss is divided by the number of trusted clips of the whole batch."""
    return method.method == "uda" and epoch >= method.warmup_epochs


def _survey(
    network: nn.Module,
    parts: Iterable[StepInputs],
    method: MethodSettings,
    epoch: int,
    over: ContrastOver,
    thresholds: Thresholds | None,
    teacher: nn.Module | None,
) -> list[BatchSurvey]:
    """Run every micro-batch once without gradient, and collect what the loss of each takes from the others."""
    forwards: list[Rows] = []
    videos: list[Tensor] = []
    soft: list[Tensor] = []
    with torch.no_grad(), frozen_running_statistics(network):
        for views in parts:
            output = forward_views(network, views, method, teacher)
            forwards.append(split_rows(output, len(views.labelled), method.clips_per_video))
            videos += [] if views.videos_U is None else [views.videos_U]
            soft += [] if views.soft_UK is None else [views.soft_UK]
    weak = {view: torch.cat([rows.weak[view] for rows in forwards]) for view in forwards[0].weak}
    trust = None if thresholds is None else thresholds.observe(weak, torch.cat(videos) if videos else None)
    soft_UK = learnt_targets(torch.cat(soft) if soft else None, method, epoch)
    targets = pseudo_labels(weak, method, trust, soft_UK)
    num_trusted = {view: target.confident_U.sum() for view, target in targets.items()}
    surveys = [BatchSurvey(len(forwards), num_trusted, trust)] * len(forwards)
    if over == "batch" and method.contrast:
        surveys = _survey_contrast(surveys, [rows.embeddings for rows in forwards], method)
    if trust is not None:
        surveys = _survey_fairness(surveys, [rows.strong for rows in forwards], targets, method, epoch)
    return surveys


def _survey_contrast(
    surveys: Sequence[BatchSurvey], embeddings: Sequence[Mapping[View, Sequence[Tensor]]], method: MethodSettings
) -> list[BatchSurvey]:
    """Compute the contrast terms of the whole batch, and their gradient at the embeddings of each micro-batch."""
    leaves = [
        {view: [rows.float().requires_grad_() for rows in clips] for view, clips in part.items()} for part in embeddings
    ]
    batch = {
        view: [torch.cat(rows) for rows in zip(*(part[view] for part in leaves), strict=True)] for view in leaves[0]
    }
    # The terms over the joined rows, as a step with the batch in one piece computes them.
    terms = [
        method.contrast_weight * losses.clip_contrast_loss(batch, variant, method.temperature)
        for variant in method.contrast
    ]
    flat = [rows for part in leaves for clips in part.values() for rows in clips]
    gradients = iter(torch.autograd.grad(sum_of(terms), flat, allow_unused=True, materialize_grads=True))
    return [
        replace(
            survey,
            contrast=tuple(term.detach() for term in terms),
            gradients={view: [next(gradients) for _ in clips] for view, clips in part.items()},
        )
        for survey, part in zip(surveys, leaves, strict=True)
    ]


def _survey_fairness(
    surveys: Sequence[BatchSurvey],
    strong: Sequence[Mapping[View, Tensor]],
    targets: Mapping[View, losses.PseudoLabels],
    method: MethodSettings,
    epoch: int,
) -> list[BatchSurvey]:
    """Compute the fairness terms of the whole batch, and their gradient at the strong logits of each micro-batch."""
    leaves = [{view: rows_UK.float().requires_grad_() for view, rows_UK in part.items()} for part in strong]
    batch = {view: torch.cat([part[view] for part in leaves]) for view in leaves[0]}
    terms = fairness_terms(batch, targets, method, epoch, surveys[0].trust or {})
    if not terms:
        return list(surveys)
    flat = [rows_UK for part in leaves for rows_UK in part.values()]
    gradients = iter(torch.autograd.grad(sum_of(terms.values()), flat))
    return [
        replace(
            survey,
            fairness={view: term.detach() for view, term in terms.items()},
            fairness_gradients={view: next(gradients) for view in part},
        )
        for survey, part in zip(surveys, leaves, strict=True)
    ]


def _terms_over_batch(
    network: nn.Module,
    views: StepInputs,
    method: MethodSettings,
    epoch: int,
    survey: BatchSurvey,
    teacher: nn.Module | None,
) -> Terms:
    """The terms of one micro-batch such that the mean over micro-batches is that of the whole batch."""
    output = forward_views(network, views, method, teacher)
    rows = split_rows(output, len(views.labels_B), method.clips_per_video)
    # With a contrast over the batch the micro-batch has none of its own: replaced below, as is fairness.
    own = method if survey.contrast is None else replace(method, contrast=())
    trust = survey.trust and {view: replace(of_view, prior_K=None) for view, of_view in survey.trust.items()}
    terms = loss_terms(output, views.labels_B, own, epoch, views.true_labels_U, trust, views.soft_UK)
    contrast = learnt = terms.contrast
    if survey.contrast is not None:
        contrast = survey.contrast
        own_rows = [rows_ND for clips in rows.embeddings.values() for rows_ND in clips]
        gradients = [gradient for view in rows.embeddings for gradient in survey.gradients[view]]
        learnt = (*contrast, survey.num_parts * _zero_with_gradient(own_rows, gradients))
    fairness = list(survey.fairness.values())
    if fairness:
        strong = [rows.strong[view] for view in survey.fairness_gradients]
        zero = _zero_with_gradient(strong, list(survey.fairness_gradients.values()))
        fairness.append(survey.num_parts * zero)
    pseudo = terms.pseudo
    if _counts_trusted(method, epoch):
        # The trusted clips of the batch, shared evenly among the micro-batches, in place of those of this one.
        pseudo = {
            view: method.unlabelled_weight
            * losses.mean_over_trusted(
                losses.uda_sum(rows.strong[view], target, method.uda_detach),
                survey.num_trusted[view] / survey.num_parts,
            )
            for view, target in pseudo_labels(
                rows.weak, method, None, learnt_targets(views.soft_UK, method, epoch)
            ).items()
        }
    gate = contrast_gate(method, epoch)
    others = [*terms.supervised.values(), *pseudo.values(), *terms.soft.values(), *fairness, *terms.align]
    total = sum_of([*others, *(gate * term for term in learnt)])
    return replace(terms, total=total, pseudo=pseudo, contrast=contrast, fairness=survey.fairness)


def _zero_with_gradient(rows: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """A term of value zero whose gradient at the rows is that of a loss of the whole batch (GradCache)."""
    products = sum_of((own.float() * gradient).sum() for own, gradient in zip(rows, gradients, strict=True))
    return products - products.detach()


@torch.no_grad()
def clip_gradients(network: nn.Module, limit: float, may_ask: bool = False) -> Tensor:
    """Scale all gradients down if their L2 norm is above `limit` (0: never); returns the norm before.

    may_ask: read the norm, which saves a multiplication by 1 of all gradients; otherwise nothing waits for the device.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(parameter.grad for parameter in parameters if parameter.grad is not None)
    if limit and not (may_ask and norm + 1e-6 <= limit):
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def rescale_bn_momentum(network: nn.Module, num_parts: int) -> None:
    """Lower BatchNorm momentum so that K micro-batch updates decay running statistics like one full-batch update."""
    for layer in network.modules():
        if isinstance(layer, _BatchNorm) and layer.momentum is not None and num_parts > 1:
            layer.momentum = 1 - (1 - layer.momentum) ** (1 / num_parts)


def _no_sync(network: nn.Module) -> AbstractContextManager[None]:
    """Skip the gradient synchronisation of DistributedDataParallel for this micro-batch."""
    plain = getattr(network, "_orig_mod", network)  # torch.compile wraps it
    return plain.no_sync() if isinstance(plain, DistributedDataParallel) else nullcontext()


def _average(values: Sequence[NamedValues]) -> NamedValues:
    """Average the logged values over the micro-batches; counts are summed."""
    averages = []
    for same in zip(*values, strict=True):
        name, stacked = same[0][0], torch.stack([value.float() for _, value in same])
        averages.append((name, stacked.sum(dim=0) if name in COUNTS else stacked.mean()))
    return averages
