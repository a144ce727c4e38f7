"""The loss terms of Learning from Temporal Gradient (LTG, CVPR 2022) and of its baselines, as pure functions.

All are computed in float32, also under autocast; none waits for the device.
Shape letters: B labelled rows, U unlabelled rows, K classes, N rows of one rank, M rows of all ranks, D embedding,
C channels, T frames, H height, W width. A loss is a scalar tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from tgtrain.method.networks.settings import View
from tgtrain.method.settings import AlignKind, ContrastVariant, PseudoLabelMetric, StopGradient

UDA_TEMPERATURE = 0.4


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    """Pseudo-labels that the weak views give the unlabelled clips."""

    logits_UK: Tensor
    """Scores that the labels come from, still attached to the graph."""
    labels_U: Tensor
    """Class of the highest score."""
    confident_U: Tensor
    """bool: the probability of that class is at or above the threshold, so the label is trusted; SoftMatch: its weight, 0..1."""


@dataclass(frozen=True, slots=True)
class Trust:
    """How far the pseudo-labels of a step are trusted, by class, under a rule of `tgtrain.method.thresholds`."""

    least_K: Tensor
    """Least probability of a label that counts fully."""
    variance: Tensor | None = None
    """Below that the weight falls by a normal curve of this variance; None: it is 0."""
    prior_K: Tensor | None = None
    """What the fairness term compares the strong views with, sum 1; None: there is no such term."""

    def weights(self, probability_U: Tensor, labels_U: Tensor) -> Tensor:
        """Weight of each label: bool without a variance, else float 0..1."""
        least_U = self.least_K[labels_U]
        if self.variance is None:
            return probability_U >= least_U
        return torch.exp(-((probability_U - least_U).clamp(max=0) ** 2) / (2 * self.variance))


def supervised_loss(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Cross-entropy with the true labels, mean over the labelled clips (LTG section 3.1)."""
    return F.cross_entropy(logits_BK.float(), labels_B)


def labelling_logits(weak: Mapping[View, Tensor], view: View, metric: PseudoLabelMetric) -> Tensor:
    """Choose the weak scores [U, K] that label the rows of `view` (LTG section 3.1; the alternatives are its ablation).

    avg: mean of the logits of all views. rgb, tg: logits of that view. individual: each view labels its own rows.
    """
    match metric:
        case "avg":
            return torch.stack([logits_UK.float() for logits_UK in weak.values()]).mean(dim=0)
        case "individual":
            return weak[view]
    return weak[metric]


def pseudo_labels(weak_UK: Tensor, threshold: float | Trust) -> PseudoLabels:
    """Label each clip with the argmax of its weak scores, without gradient; trusted if its softmax is at least `threshold`."""
    probability_U, labels_U = weak_UK.detach().float().softmax(dim=1).max(dim=1)
    if isinstance(threshold, Trust):
        return PseudoLabels(weak_UK, labels_U, threshold.weights(probability_U, labels_U))
    return PseudoLabels(weak_UK, labels_U, probability_U >= threshold)


def pseudo_label_loss(strong_UK: Tensor, targets: PseudoLabels) -> Tensor:
    """FixMatch: cross-entropy of the strong views with the trusted pseudo-labels (LTG section 3.1).

    Sum over the trusted clips / U: the mean over all unlabelled clips, where an untrusted one counts 0.
    """
    loss_U = F.cross_entropy(strong_UK.float(), targets.labels_U, reduction="none")
    return (loss_U * targets.confident_U).mean()


def fairness_loss(strong_UK: Tensor, targets: PseudoLabels, prior_K: Tensor) -> Tensor:
    """FreeMatch: against a model that predicts some classes alone (ICLR 2023, section 3.3): sum_k prior_k log m_k.

    m is the mean softmax of the trusted strong rows of all ranks, each class divided by its share of their argmax (0 if it has
    none), sum 1. 0 without a trusted row. The same value on every rank.
    """
    probability_MK, _ = gather_rows(strong_UK.float().softmax(dim=1))
    trusted_M, _ = gather_rows(targets.confident_U.float())
    num_trusted = trusted_M.sum()
    mean_K = (probability_MK * trusted_M[:, None]).sum(dim=0) / num_trusted.clamp(min=1)
    counts_K = torch.zeros_like(mean_K).index_add_(0, probability_MK.argmax(dim=1), trusted_M)
    # What the counts are divided by cancels out.
    ratio_K = mean_K * torch.where(counts_K > 0, 1 / counts_K, 0)
    ratio_K = ratio_K / torch.where(num_trusted > 0, ratio_K.sum(), 1)
    return torch.where(num_trusted > 0, (prior_K * (ratio_K + 1e-12).log()).sum(), 0)


def soft_target_loss(strong_UK: Tensor, soft_UK: Tensor) -> Tensor:
    """Cross-entropy of the strong views with soft targets; a row of zeros is no target.

    Sum over the clips with a target / U: the mean over all unlabelled clips, where one without counts 0.
    """
    return -(soft_UK * strong_UK.float().log_softmax(dim=1)).sum(dim=1).mean()


def has_target(soft_UK: Tensor) -> Tensor:
    """bool[U]: which rows have a soft target."""
    return soft_UK.sum(dim=1) > 0


def uda_loss(strong_UK: Tensor, targets: PseudoLabels, detach: bool = True) -> Tensor:
    """UDA: cross-entropy of the strong views with the sharpened softmax of the weak views (UDA, NeurIPS 2020).

    Mean over the trusted clips of all ranks, 0 without any. detach: the targets are constants; False lets the gradient
    into the weak views, as the reference code does.
    """
    return mean_over_trusted(uda_sum(strong_UK, targets, detach), targets.confident_U.sum())


def uda_sum(strong_UK: Tensor, targets: PseudoLabels, detach: bool) -> Tensor:
    """The sum over the trusted clips of this rank that `uda_loss` takes the mean of; targets at temperature 0.4."""
    weak_UK = targets.logits_UK.float()
    soft_UK = ((weak_UK.detach() if detach else weak_UK) / UDA_TEMPERATURE).softmax(dim=1)
    loss_U = -(soft_UK * strong_UK.float().log_softmax(dim=1)).sum(dim=1)
    return (loss_U * targets.confident_U).sum()


def mean_over_trusted(loss_sum: Tensor, num_trusted: Tensor) -> Tensor:
    """Divide a rank's sum so that the mean over ranks of the results is the mean over the trusted clips of all ranks."""
    num_trusted_all, num_ranks = sum_over_ranks(num_trusted)
    # Without any trusted clip the sum is 0 too, whatever it is divided by.
    return num_ranks * loss_sum / torch.where(num_trusted_all > 0, num_trusted_all, 1)


def alignment_loss(rgb_NCTHW: Tensor, tg_NCTHW: Tensor, kind: AlignKind, stop_gradient: StopGradient) -> Tensor:
    """Distance between the features of the two views at one stage (LTG section 3.2).

    cosine: 1 - cosine over channels, mean over clips and positions. l1, l2: mean absolute, mean squared difference.
    stop_gradient: the side that is a constant; "tg" makes TG the teacher of RGB.
    """
    rgb = (rgb_NCTHW.detach() if stop_gradient == "rgb" else rgb_NCTHW).float()
    tg = (tg_NCTHW.detach() if stop_gradient == "tg" else tg_NCTHW).float()
    match kind:
        case "cosine":
            return 1 - F.cosine_similarity(rgb, tg, dim=1).mean()
        case "l1":
            return F.l1_loss(rgb, tg)
        case "l2":
            return F.mse_loss(rgb, tg)


def contrast_loss(first_ND: Tensor, second_ND: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE between two sets of embeddings (LTG section 3.3): row i of one is the positive of row i of the other.

    Negatives are all other rows of the *other* set, over all ranks. Mean over rows and both directions; the embeddings
    are L2-normalised here. temperature: above 0, published 0.5.
    """
    with nullcontext() if first_ND.is_meta else torch.autocast(device_type=first_ND.device.type, enabled=False):
        first_ND, second_ND = F.normalize(first_ND.float(), dim=1), F.normalize(second_ND.float(), dim=1)
        directions = []
        for query_ND, key_ND in ((first_ND, second_ND), (second_ND, first_ND)):
            key_MD, first_row = gather_rows(key_ND)
            target_N = torch.arange(first_row, first_row + len(query_ND), device=query_ND.device)
            directions.append(F.cross_entropy(query_ND @ key_MD.T / temperature, target_N))
        return (directions[0] + directions[1]) / 2


def clip_contrast_loss(clips: Mapping[View, Sequence[Tensor]], variant: ContrastVariant, temperature: float) -> Tensor:
    """The contrast loss over the clips of a video; `clips[view][c]` holds the embeddings [N, D] of clip c.

    crossview_sameclip: RGB and TG of the same clip, mean over the clips (negatives from that clip index only).
    crossview: RGB of one clip and TG of the other, mean of both ways. rgb, tg: the two clips within that view.
    All but the first need exactly two clips.
    """
    match variant:
        case "crossview_sameclip":
            pairs = list(zip(clips["rgb"], clips["tg"], strict=True))
        case "crossview":
            rgb, tg = clips["rgb"], clips["tg"]
            pairs = [(rgb[0], tg[1]), (rgb[1], tg[0])]
        case view:
            pairs = [(clips[view][0], clips[view][1])]
    return torch.stack([contrast_loss(first, second, temperature) for first, second in pairs]).mean()


def gather_rows(rows_ND: Tensor) -> tuple[Tensor, int]:
    """Gather the rows of all ranks: [ranks x N, D], rank 0 first, and the index of this rank's first row among them.

    Every rank must bring the same number of rows. A row's gradient is the sum over the ranks that used it, so the mean
    over ranks that DistributedDataParallel takes is the gradient of the mean of the ranks' losses.
    """
    if not _several_ranks(rows_ND):
        return rows_ND, 0
    gathered: Tensor = _GatherRows.apply(rows_ND)  # type: ignore[no-untyped-call]
    return gathered, dist.get_rank() * rows_ND.shape[0]


def sum_over_ranks(count: Tensor) -> tuple[Tensor, int]:
    """Sum a count over all ranks, without gradient; also gives the number of ranks."""
    if not _several_ranks(count):
        return count, 1
    total = count.detach().clone()
    dist.all_reduce(total)
    return total, dist.get_world_size()


def _several_ranks(tensor: Tensor) -> bool:
    """Whether the tensor is that of one rank among several; one without values is counted by one rank alone."""
    return not tensor.is_meta and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


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
