"""The loss terms of Learning from Temporal Gradient (LTG, CVPR 2022) and of its baselines, as pure functions.

All are computed in float32, under autocast too; none waits for the device.
Shape letters: B labelled rows, U unlabelled rows, K classes, N rows of one rank, M rows of all ranks, D embedding,
C channels, T frames, H height, W width. A loss is a scalar tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tgtrain.method.gather import RowGather, gather_rows, sum_over_ranks
from tgtrain.method.networks.model import View

PseudoLabelMetric = Literal["avg", "rgb", "tg", "individual"]
AlignKind = Literal["cosine", "l1", "l2"]
StopGradient = Literal["tg", "rgb", "none"]
ContrastVariant = Literal["crossview_sameclip", "crossview", "rgb", "tg"]


UDA_SHARPENING = 0.4


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    """What the weak views say about the unlabelled clips.

    logits_UK: the scores that the labels come from, still attached to the graph. labels_U: the class of the highest
    score. confident_U: bool, probability of that class at or above the threshold.
    """

    logits_UK: Tensor
    labels_U: Tensor
    confident_U: Tensor


def supervised_loss(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Cross-entropy with the true labels, mean over the labelled clips (LTG section 3.1)."""
    return F.cross_entropy(logits_BK.float(), labels_B)


def labelling_logits(weak: Mapping[View, Tensor], view: View, metric: PseudoLabelMetric) -> Tensor:
    """The weak scores [U, K] that label the rows of `view` (LTG section 3.1; the alternatives are its ablation).

    avg: the mean of all views' logits. rgb, tg: those of that view. individual: the view's own.
    """
    match metric:
        case "avg":
            return torch.stack([logits_UK.float() for logits_UK in weak.values()]).mean(dim=0)
        case "individual":
            return weak[view]
        case teacher:
            return weak[teacher]


def pseudo_labels(weak_UK: Tensor, threshold: float) -> PseudoLabels:
    """Labels from weak scores, without gradient: argmax, trusted where softmax gives it at least `threshold` (0..1)."""
    probability_U, labels_U = weak_UK.detach().float().softmax(dim=1).max(dim=1)
    return PseudoLabels(weak_UK, labels_U, probability_U >= threshold)


def pseudo_label_loss(strong_UK: Tensor, targets: PseudoLabels) -> Tensor:
    """FixMatch: cross-entropy of the strong views with the trusted pseudo-labels (LTG section 3.1).

    Sum over the trusted clips / U: the mean over all unlabelled clips, where an untrusted one counts 0.
    """
    loss_U = F.cross_entropy(strong_UK.float(), targets.labels_U, reduction="none")
    return (loss_U * targets.confident_U).mean()


def uda_loss(strong_UK: Tensor, targets: PseudoLabels, detach: bool = True, counted: Tensor | None = None) -> Tensor:
    """UDA: cross-entropy of the strong views with the weak views' softmax at temperature 0.4 (UDA, NeurIPS 2020).

    Mean over the trusted clips of all ranks; 0 without any. A rank's value is such that the mean over ranks is that. detach: the targets are constants; False lets the gradient into the
    weak views as the reference code does. counted: trusted clips to divide by instead of those given here: the mean over the
    parts of a batch of which these rows are one, so that the mean of the parts' values is that of the batch.
    """
    weak_UK = targets.logits_UK.float()
    soft_UK = ((weak_UK.detach() if detach else weak_UK) / UDA_SHARPENING).softmax(dim=1)
    loss_U = -(soft_UK * strong_UK.float().log_softmax(dim=1)).sum(dim=1)
    num_trusted, num_ranks = sum_over_ranks(targets.confident_U.sum() if counted is None else counted)
    # Without any trusted clip the sum is 0 too, whatever it is divided by.
    return num_ranks * (loss_U * targets.confident_U).sum() / torch.where(num_trusted > 0, num_trusted, 1)


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


def contrast_loss(first_ND: Tensor, second_ND: Tensor, temperature: float, gather: RowGather = gather_rows) -> Tensor:
    """Symmetric InfoNCE between two sets of embeddings (LTG section 3.3): row i of one is the positive of row i of the other.

    Negatives are all other rows of the *other* set, of all ranks. Mean over rows and both directions; the embeddings
    are L2-normalised here. temperature: above 0, published 0.5. gather: see `gather.RowGather`.
    """
    with torch.autocast(device_type=first_ND.device.type, enabled=False):
        first_ND, second_ND = F.normalize(first_ND.float(), dim=1), F.normalize(second_ND.float(), dim=1)
        forth = _one_direction(first_ND, second_ND, temperature, gather)
        back = _one_direction(second_ND, first_ND, temperature, gather)
        return (forth + back) / 2


def _one_direction(query_ND: Tensor, key_ND: Tensor, temperature: float, gather: RowGather) -> Tensor:
    key_MD, first_own = gather(key_ND)
    target_N = torch.arange(first_own, first_own + len(query_ND), device=query_ND.device)
    return F.cross_entropy(query_ND @ key_MD.T / temperature, target_N)


def clip_contrast_loss(
    clips: Mapping[View, Sequence[Tensor]],
    variant: ContrastVariant,
    temperature: float,
    gather: RowGather = gather_rows,
) -> Tensor:
    """The contrast loss over the clips of a video; `clips[view][c]` holds the embeddings [N, D] of clip c.

    crossview_sameclip: RGB and TG of the same clip, mean over the clips (negatives from that clip index alone).
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
    return torch.stack([contrast_loss(first, second, temperature, gather) for first, second in pairs]).mean()
