"""Pseudo-labels counted by class: how many are kept, and how many of those are right. Training that fails shows it here first.

Shape letters: U unlabelled rows of this rank, K classes, V views whose labels differ, Q the quantities of `QUANTITIES`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tgtrain.method.losses import PseudoLabels
from tgtrain.method.networks.settings import View
from tgtrain.method.settings import MethodSettings
from tgtrain.method.terms import CLASS_COUNTS, NamedValues

QUANTITIES = ("num_predicted", "num_selected", "num_checked", "num_correct", "num_true")


@dataclass(frozen=True, slots=True)
class ClassCount:
    """One class since the last log. Counts are of rows: clips of the unlabelled stream."""

    view: str  # whose pseudo-labels; "" if all views have the same ones
    label: int
    num_predicted: int  # labelled as this class, trusted or not
    num_selected: float  # of these the trusted ones; SoftMatch: the sum of their weights
    num_checked: float  # of these the ones whose true class is known
    num_correct: float  # of these the right ones
    num_true: int  # rows that are truly of this class, as far as it is known

    @property
    def share(self) -> float:
        """Of the labels the share that is trusted; NaN of none."""
        return self.num_selected / self.num_predicted if self.num_predicted else math.nan


class ClassCounts:
    """The counts of this rank: float32[V, Q, K] on the device. Nothing waits for them before they are logged or saved."""

    def __init__(self, method: MethodSettings, views: Sequence[View], num_classes: int, device: torch.device) -> None:
        self.views = labelled_views(method, views)
        self.counts = torch.zeros((len(self.views), len(QUANTITIES), num_classes), device=device)

    def add(self, values: NamedValues) -> NamedValues:
        """Add the counts among the values of a step; gives the other values."""
        for name, value in values:
            if name == CLASS_COUNTS:
                self.counts += value[: len(self.views)]
        return [(name, value) for name, value in values if name != CLASS_COUNTS]

    def take(self) -> list[ClassCount]:
        """Every class since the last call. Waits for the device."""
        rows = []
        for view, counts_QK in zip(self.views, self.counts.tolist(), strict=True):
            for label, values in enumerate(zip(*counts_QK, strict=True)):
                predicted, selected, checked, correct, true = values
                rows.append(ClassCount(view, label, round(predicted), selected, checked, correct, round(true)))
        self.counts.zero_()
        return rows

    def load(self, *saved: object) -> None:
        """Begin with the sum of saved counts. ValueError if one does not fit."""
        self.counts.zero_()
        for each in saved:
            if not isinstance(each, Tensor) or each.shape != self.counts.shape:
                raise ValueError("its counts of pseudo-labels are those of other classes")
            self.counts += each.to(self.counts.device).nan_to_num()


def labelled_views(method: MethodSettings, views: Sequence[View]) -> tuple[str, ...]:
    """The views that have pseudo-labels of their own; one without a name if the same scores label all."""
    return tuple(views) if method.pseudo_label_metric == "individual" and len(views) > 1 else ("",)


@torch.no_grad()
def count_classes(targets: Mapping[View, PseudoLabels], true_labels_U: Tensor | None) -> Tensor:
    """The counts of a step, float32[views, Q, K]. Waits for nothing."""
    return torch.stack([_count(target, true_labels_U) for target in targets.values()])


def _count(target: PseudoLabels, true_labels_U: Tensor | None) -> Tensor:
    labels_U, kept_U = target.labels_U, target.confident_U.float()
    truth_U = torch.full_like(labels_U, -1) if true_labels_U is None else true_labels_U
    known_U, right_U = (truth_U >= 0).float(), (truth_U == labels_U).float()
    predicted_UK = _one_hot(labels_U, target.logits_UK)
    true_UK = _one_hot(truth_U.clamp(min=0), target.logits_UK)
    # Sums, not matrix products, which autocast would round.
    weights = (torch.ones_like(kept_U), kept_U, kept_U * known_U, kept_U * right_U)
    counts = [(predicted_UK * weight_U[:, None]).sum(dim=0) for weight_U in weights]
    return torch.stack([*counts, (true_UK * known_U[:, None]).sum(dim=0)])


def _one_hot(labels_U: Tensor, like_UK: Tensor) -> Tensor:
    # Not F.one_hot or bincount, which wait for the device.
    return torch.zeros(like_UK.shape, device=like_UK.device).scatter_(1, labels_U[:, None], 1)
