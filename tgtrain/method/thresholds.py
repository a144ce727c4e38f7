"""Class-adaptive thresholds: how far a pseudo-label is trusted follows from what the model has predicted so far.

    freematch    running mean of the highest probability, lowered for classes of low mean probability (Wang et al., ICLR 2023)
    flexmatch    `threshold`, lowered for classes that few videos were labelled as with confidence (Zhang et al., NeurIPS 2021)
    softmatch    no threshold but a weight, which falls below the running mean of the highest probability (Chen et al., ICLR 2023)

The state is updated once a step, with the weak views of the whole batch of all ranks, before it judges them (FlexMatch: after, as
published). The figures are those of the authors' common code, microsoft/Semi-supervised-learning at 1ef4cbe.
Shape letters: U rows of this rank, M rows of all ranks, K classes, N unlabelled videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tgtrain.method.class_counts import labelled_views
from tgtrain.method.losses import Trust, gather_rows, labelling_logits
from tgtrain.method.networks.settings import View
from tgtrain.method.settings import MethodSettings

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class ClassTrust:
    """One class in a log: its threshold now, and the pseudo-labels since the last log."""

    view: str  # whose pseudo-labels; "" if all views have the same ones
    label: int
    threshold: float
    num_predicted: int
    trusted: float  # their mean weight: the share that is trusted; NaN of none


class Thresholds:
    """The state of a rule: one for all views if the same scores label them, else one for each. Tensors on `device`."""

    def __init__(
        self, method: MethodSettings, views: Sequence[View], num_classes: int, num_videos: int, device: torch.device
    ) -> None:
        """num_videos: N, which FlexMatch remembers the labels of."""
        self.method = method
        names = labelled_views(method, views)
        self.states = {name: _initial(method, num_classes, num_videos, device) for name in names}

    @torch.no_grad()
    def observe(self, weak: Mapping[View, Tensor], videos_U: Tensor | None) -> dict[View, Trust]:
        """Update the state with the weak logits [U, K] of a batch, and give what the labels of each view are trusted by.

        videos_U: for FlexMatch, the number of each row's video among the N. Waits for nothing. All ranks must call this, with
        equally many rows.
        """
        trust: dict[View, Trust] = {}
        for view in weak:
            if len(self.states) == 1 and trust:  # the same scores label this view
                trust[view] = next(iter(trust.values()))
                continue
            state = self.states[view if view in self.states else ""]
            logits_UK = labelling_logits(weak, view, self.method.pseudo_label_metric)
            probability_MK = _of_all_ranks(logits_UK.float().softmax(dim=1))
            match self.method.threshold_rule:
                case "freematch":
                    trust[view] = update_freematch(state, probability_MK, self.method)
                case "flexmatch":
                    assert videos_U is not None
                    trust[view] = update_flexmatch(state, probability_MK, _of_all_ranks(videos_U), self.method)
                case _:
                    trust[view] = update_softmatch(state, probability_MK, self.method)
            _count(state, probability_MK, trust[view])
        return trust

    def by_class(self) -> list[ClassTrust]:
        """Every class since the last call. Waits for the device."""
        classes = []
        for view, state in self.states.items():
            shares_K = state["num_trusted_K"] / state["num_predicted_K"]
            columns = (state["least_K"].tolist(), state["num_predicted_K"].tolist(), shares_K.tolist())
            rows = enumerate(zip(*columns, strict=True))
            classes += [ClassTrust(view, label, least, int(num), share) for label, (least, num, share) in rows]
            state["num_predicted_K"].zero_()
            state["num_trusted_K"].zero_()
        return classes

    def state_dict(self) -> State:
        """All tensors, by `view.name`."""
        return {f"{view}.{name}": value for view, state in self.states.items() for name, value in state.items()}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Take over a saved state; ValueError if it is of another rule, or other sizes."""
        own = self.state_dict()
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in saved.items()}:
            raise ValueError(f"it holds no thresholds of rule {self.method.threshold_rule}, or those of other classes")
        for name, value in own.items():
            value.copy_(saved[name])


def update_freematch(state: State, probability_MK: Tensor, method: MethodSettings) -> Trust:
    """FreeMatch: `level` times the relative mean probability of the class."""
    momentum = method.threshold_momentum
    highest_M, labels_M = probability_MK.max(dim=1)
    level = highest_M.quantile(method.freematch_quantile) if method.freematch_quantile else highest_M.mean()
    _average(state["level"], level, momentum)
    state["level"].clamp_(max=method.freematch_clip)
    _average(state["probability_K"], probability_MK.mean(dim=0), momentum)
    _average(state["histogram_K"], _one_hot(labels_M, probability_MK).mean(dim=0), momentum)
    probability_K = state["probability_K"]
    prior_K = _per_occurrence(probability_K, state["histogram_K"]) if method.fairness_weight else None
    return Trust(state["level"] * probability_K / probability_K.max(), prior_K=prior_K)


def update_flexmatch(state: State, probability_MK: Tensor, videos_M: Tensor, method: MethodSettings) -> Trust:
    """FlexMatch: the threshold of before the update, then each video above the cutoff is remembered as its class.

    Of the rows of one video (several clips, a small data set) the surest counts.
    """
    learnt_K = state["learnt_K"]
    trust = Trust(method.threshold * learnt_K / (2 - learnt_K))
    highest_M, labels_M = probability_MK.max(dim=1)
    remembered_N = state["label_N"]
    # Maxima do not depend on the order of rows, so they are the same for any number of ranks. -1: below the cutoff.
    surest_N = highest_M.new_zeros(len(remembered_N)).scatter_reduce(0, videos_M, highest_M, "amax")
    counts_M = (highest_M >= method.threshold) & (highest_M == surest_N[videos_M])
    label_N = torch.full_like(remembered_N, -1)
    label_N.scatter_reduce_(0, videos_M, torch.where(counts_M, labels_M, -1), "amax")
    remembered_N.copy_(torch.where(label_N >= 0, label_N, remembered_N))

    num_K = remembered_N.new_zeros(len(learnt_K) + 1).scatter_add_(0, remembered_N + 1, torch.ones_like(remembered_N))
    most = (num_K if method.flexmatch_warmup else num_K[1:]).max().clamp(min=1)
    # As published: no update as long as all videos are of one kind.
    learnt_K.copy_(torch.where(num_K.max() < len(remembered_N), num_K[1:] / most, learnt_K))
    return trust


def update_softmatch(state: State, probability_MK: Tensor, method: MethodSettings) -> Trust:
    """SoftMatch: a row counts fully from the mean on; below it by a normal curve of the variance / n_sigma^2."""
    highest_M = probability_MK.amax(dim=1)
    _average(state["mean"], highest_M.mean(), method.threshold_momentum)
    if len(highest_M) > 1:  # one row has no variance
        _average(state["variance"], highest_M.var(), method.threshold_momentum)
    mean_K = state["mean"].expand(probability_MK.shape[1]).clone()
    return Trust(mean_K, state["variance"] / method.softmatch_n_sigma**2)


def _initial(method: MethodSettings, num_classes: int, num_videos: int, device: torch.device) -> State:
    uniform_K = torch.full((num_classes,), 1 / num_classes, device=device)
    zeros_K = torch.zeros_like(uniform_K)
    match method.threshold_rule:
        case "freematch":
            rule = {"level": uniform_K.mean(), "probability_K": uniform_K, "histogram_K": uniform_K.clone()}
        case "flexmatch":
            rule = {"learnt_K": zeros_K.clone(), "label_N": torch.full((num_videos,), -1, device=device)}
        case _:
            rule = {"mean": uniform_K.mean(), "variance": torch.ones((), device=device)}
    logged = {"least_K": zeros_K, "num_predicted_K": zeros_K.clone(), "num_trusted_K": zeros_K.clone()}
    return {**rule, **logged}


def _average(running: Tensor, value: Tensor, momentum: float) -> None:
    average = running * momentum + (1 - momentum) * value
    # A step of float16 that overflows is skipped, and must not stay in the state.
    running.copy_(torch.where(value.isfinite(), average, running))


def _per_occurrence(probability_K: Tensor, histogram_K: Tensor) -> Tensor:
    """Mean probability / share of the predictions, 0 for a class that is never predicted; sum 1."""
    ratio_K = torch.where(histogram_K > 0, probability_K / histogram_K, 0)
    return ratio_K / ratio_K.sum()


def _count(state: State, probability_MK: Tensor, trust: Trust) -> None:
    """Add a batch to what `by_class` reports."""
    highest_M, labels_M = probability_MK.max(dim=1)
    one_hot_MK = _one_hot(labels_M, probability_MK)
    state["least_K"].copy_(trust.least_K)
    state["num_predicted_K"] += one_hot_MK.sum(dim=0)
    state["num_trusted_K"] += (one_hot_MK * trust.weights(highest_M, labels_M)[:, None]).sum(dim=0)


def _one_hot(labels_M: Tensor, like_MK: Tensor) -> Tensor:
    # Not F.one_hot or bincount, which wait for the device.
    return torch.zeros_like(like_MK).scatter_(1, labels_M[:, None], 1)


def _of_all_ranks(rows: Tensor) -> Tensor:
    """The rows of all ranks in the order that one process has them in: rank r of W holds every W-th one, from the r-th on."""
    gathered, _ = gather_rows(rows)
    return gathered.view(-1, *rows.shape).transpose(0, 1).flatten(0, 1)
