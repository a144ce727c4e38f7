"""The loss terms and diagnostics of one training step, and the names that logs show them under."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tgtrain.method.losses import PseudoLabels, has_target
from tgtrain.method.networks.settings import View
from tgtrain.method.settings import MethodSettings

CLASS_COUNTS = "class_counts"  # no scalar, but the counts of `tgtrain.method.class_counts`
COUNTS = (
    "train/num_selected",
    "train/num_checked",
    "train/num_correct",
    CLASS_COUNTS,
)  # of the `named_values`: summed over ranks, not averaged
NamedValues = list[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one step on one rank: scalar tensors on the device, weights applied, keyed by view; absent ones left out."""

    total: Tensor
    """Sum to call backward on."""
    supervised: Mapping[View, Tensor]
    pseudo: Mapping[View, Tensor]
    align: tuple[Tensor, ...]
    """One per stage of `align_stages`."""
    contrast: tuple[Tensor, ...]
    """One per variant; reported during the contrast warm-up too."""
    diagnostics: Mapping[str, Tensor]
    """What else a log shows, by the name it has there; without gradient, see `diagnose`."""
    fairness: Mapping[View, Tensor] = field(default_factory=dict)
    """Of FreeMatch."""
    soft: Mapping[View, Tensor] = field(default_factory=dict)
    """Of soft targets."""
    class_counts: Tensor | None = None
    """Of `tgtrain.method.class_counts`; None without pseudo-labels."""


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """Sum scalars on their device."""
    return torch.stack(list(terms)).sum()


def named_values(terms: Terms, method: MethodSettings) -> NamedValues:
    """Name what a log shows of a step: detached scalars, absent terms left out; nothing waits for the device. CLASS_COUNTS comes last.

    Loss terms are named loss/..., diagnostics train/...; alignment by its stage (1 to 4), contrast by its variant.
    """
    values = [
        ("loss/total", terms.total),
        *((f"loss/supervised_{view}", term) for view, term in terms.supervised.items()),
        *((f"loss/pseudo_{view}", term) for view, term in terms.pseudo.items()),
        *((f"loss/soft_{view}", term) for view, term in terms.soft.items()),
        *((f"loss/fairness_{view}", term) for view, term in terms.fairness.items()),
        *((f"loss/align_stage{s + 1}", term) for s, term in zip(method.align_stages, terms.align, strict=True)),
        *((f"loss/contrast_{variant}", term) for variant, term in zip(method.contrast, terms.contrast, strict=True)),
        *terms.diagnostics.items(),
        *([] if terms.class_counts is None else [(CLASS_COUNTS, terms.class_counts)]),
    ]
    return [(name, value.detach()) for name, value in values]


@torch.no_grad()
def diagnose(
    labelled: Mapping[View, Tensor],
    labels_B: Tensor,
    targets: Mapping[View, PseudoLabels],
    true_labels_U: Tensor | None,
) -> dict[str, Tensor]:
    """Compute the diagnostics of a step, named train/... as logs show them.

    labelled_top1, labelled_top5: fraction of labelled rows that each view classifies correctly (top min(5, K)).
    num_selected: trusted pseudo-labels (SoftMatch: the sum of their weights). mask_fraction: the same / U. If the true labels are
    given, num_checked: trusted ones of rows whose class is known, and num_correct: the correct ones of these. All four are means
    over the views, whose pseudo-labels may differ.
    """
    values = {
        f"train/labelled_top{k}_{view}": top_k_fraction(logits_BK, labels_B, k)
        for k in (1, 5)
        for view, logits_BK in labelled.items()
    }
    if targets:
        confident_VU = torch.stack([target.confident_U for target in targets.values()])
        values["train/num_selected"] = confident_VU.float().sum(dim=1).mean()
        values["train/mask_fraction"] = confident_VU.float().mean()
        if true_labels_U is not None:
            correct_VU = torch.stack([target.labels_U == true_labels_U for target in targets.values()])
            values["train/num_checked"] = (confident_VU * (true_labels_U >= 0)).float().sum(dim=1).mean()
            values["train/num_correct"] = (confident_VU * correct_VU).float().sum(dim=1).mean()
    return values


@torch.no_grad()
def diagnose_soft(strong: Mapping[View, Tensor], soft_UK: Tensor, true_labels_U: Tensor | None) -> dict[str, Tensor]:
    """Compute the diagnostics of soft targets, named train/... as logs show them.

    soft_fraction: share of the unlabelled rows that have a target. soft_agreement_VIEW: share of all unlabelled rows that have
    one, and whose strong view has its most likely class. If the true labels are given, soft_checked: share of all that have one
    and a known class, and soft_right: share of all that have one whose most likely class is the true label.
    `tgprep targets --show` says how many are right of all videos.
    """
    has_U, labels_U = has_target(soft_UK), soft_UK.argmax(dim=1)
    values = {"train/soft_fraction": has_U.float().mean()}
    for view, strong_UK in strong.items():
        values[f"train/soft_agreement_{view}"] = (has_U & (strong_UK.argmax(dim=1) == labels_U)).float().mean()
    if true_labels_U is not None:
        values["train/soft_checked"] = (has_U & (true_labels_U >= 0)).float().mean()
        values["train/soft_right"] = (has_U & (labels_U == true_labels_U)).float().mean()
    return values


@torch.no_grad()
def top_k_fraction(logits_BK: Tensor, labels_B: Tensor, k: int) -> Tensor:
    """Fraction of rows whose class is among the min(k, K) highest scores, on the device."""
    top_Bk = logits_BK.topk(min(k, logits_BK.shape[1]), dim=1).indices
    return (top_Bk == labels_B[:, None]).any(dim=1).float().mean()
