"""One training step: the joined batch through the networks, then the loss terms in the order of the formula.

Shape letters: B labelled rows, U unlabelled rows, K classes, D embedding, T frames, H height, W width. With more than
one clip a video the rows of a part are clip-major: the first clips of all its videos, then the second clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tgtrain.method import losses
from tgtrain.method.class_counts import count_classes
from tgtrain.method.networks.model import ModelOutput, StreamOutput
from tgtrain.method.networks.settings import View
from tgtrain.method.networks.sync_bn import frozen_running_statistics
from tgtrain.method.settings import MethodSettings
from tgtrain.method.terms import Terms, diagnose, diagnose_soft, sum_of
from tgtrain.method.thresholds import Thresholds


@dataclass(frozen=True, slots=True)
class Clips:
    """Normalised float clips [rows, 3, T, H, W] of one part of the batch; None for a view that the model does not take."""

    rgb: Tensor | None
    tg: Tensor | None

    def __post_init__(self) -> None:
        if self.rgb is not None and self.tg is not None and len(self.rgb) != len(self.tg):
            raise ValueError(f"both views need the same rows, got rgb {self.rgb.shape} and tg {self.tg.shape}")

    def __len__(self) -> int:
        """Number of rows."""
        return max((len(view) for view in (self.rgb, self.tg) if view is not None), default=0)


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The batch of one step on one rank: B labelled rows, and U unlabelled rows as a weak and as a strong view."""

    labelled: Clips
    labels_B: Tensor
    """Class of each labelled row, int64; repeated clip-major with more than one clip a video."""
    weak: Clips | None = None
    """None for supervised training, as is `strong`."""
    strong: Clips | None = None
    true_labels_U: Tensor | None = None
    """For diagnostics only; -1 if unknown."""
    videos_U: Tensor | None = None
    """Number of each row's video among the unlabelled ones, int64; only FlexMatch needs it."""
    soft_UK: Tensor | None = None
    """Soft target of each unlabelled row, zeros for a row without; None if the run has none."""

    def __post_init__(self) -> None:
        if len(self.labelled) != len(self.labels_B):
            raise ValueError(f"got {len(self.labelled)} labelled rows and {len(self.labels_B)} labels")
        num_weak, num_strong = (None if part is None else len(part) for part in (self.weak, self.strong))
        if num_weak != num_strong:
            raise ValueError(f"got {num_weak} weak rows and {num_strong} strong rows")
        if self.true_labels_U is not None and len(self.true_labels_U) != num_weak:
            raise ValueError(f"got {num_weak} weak rows and {len(self.true_labels_U)} true labels for them")
        if self.videos_U is not None and len(self.videos_U) != num_weak:
            raise ValueError(f"got {num_weak} weak rows and the videos of {len(self.videos_U)}")
        if self.soft_UK is not None and len(self.soft_UK) != num_weak:
            raise ValueError(f"got {num_weak} weak rows and {len(self.soft_UK)} soft targets")


def step_terms(
    model: nn.Module,
    views: StepInputs,
    method: MethodSettings,
    epoch: int,
    thresholds: Thresholds | None = None,
    teacher: nn.Module | None = None,
) -> Terms:
    """Run one batch through the model and compute its loss terms; calling `total.backward()` is left to the caller.

    model: of `tgtrain.method.networks.model`, or a wrapper of one (DistributedDataParallel). epoch: from 0, for the warm-ups.
    thresholds: updated by the batch; None for the fixed threshold. teacher: labels the weak views, in eval mode.
    """
    output = forward_views(model, views, method, teacher)
    trust = None
    if thresholds is not None:
        weak = split_rows(output, len(views.labels_B), method.clips_per_video).weak
        trust = thresholds.observe(weak, views.videos_U)
    return loss_terms(output, views.labels_B, method, epoch, views.true_labels_U, trust, views.soft_UK)


def loss_terms(
    output: ModelOutput,
    labels_B: Tensor,
    method: MethodSettings,
    epoch: int,
    true_labels_U: Tensor | None = None,
    trust: Mapping[View, losses.Trust] | None = None,
    soft_UK: Tensor | None = None,
) -> Terms:
    """Compute the terms of a forward over [labelled, weak, strong]; without unlabelled rows their terms are absent.

    trust: of a threshold rule, for each view; None for the fixed threshold. soft_UK: see StepInputs.
    """
    soft_UK = learnt_targets(soft_UK, method, epoch)
    rows = split_rows(output, len(labels_B), method.clips_per_video)

    supervised = {
        view: method.labelled_weight * losses.supervised_loss(logits_BK, labels_B)
        for view, logits_BK in rows.labelled.items()
    }
    # The weak views label the strong ones.
    targets = pseudo_labels(rows.weak, method, trust, soft_UK)
    pseudo = {
        view: method.unlabelled_weight * unlabelled_loss(rows.strong[view], target, method, epoch)
        for view, target in targets.items()
    }
    # Targets that were made beforehand teach them, too.
    soft = {
        view: method.soft_weight * losses.soft_target_loss(strong_UK, soft_UK)
        for view, strong_UK in rows.strong.items()
        if soft_UK is not None
    }
    fairness = fairness_terms(rows.strong, targets, method, epoch, trust or {})
    # Between the views: features of each stage, then embeddings.
    align = [
        method.align_weight
        * losses.alignment_loss(
            rows.features["rgb"][stage], rows.features["tg"][stage], method.align_loss, method.stop_gradient
        )
        for stage in method.align_stages
    ]
    contrast = [
        method.contrast_weight * losses.clip_contrast_loss(rows.embeddings, variant, method.temperature)
        for variant in method.contrast
    ]
    gate = contrast_gate(method, epoch)
    learnt = [*supervised.values(), *pseudo.values(), *soft.values(), *fairness.values(), *align]
    total = sum_of([*learnt, *(gate * term for term in contrast)])

    diagnostics = diagnose(rows.labelled, labels_B, targets, true_labels_U)
    if soft_UK is not None:
        diagnostics |= diagnose_soft(rows.strong, soft_UK, true_labels_U)
    counts = count_classes(targets, true_labels_U) if targets else None
    return Terms(total, supervised, pseudo, tuple(align), tuple(contrast), diagnostics, fairness, soft, counts)


def learnt_targets(soft_UK: Tensor | None, method: MethodSettings, epoch: int) -> Tensor | None:
    """The soft targets of a step; None for a method without. During the warm-up no row has one."""
    if soft_UK is None or not method.targets:
        return None
    return soft_UK if epoch >= method.soft_warmup_epochs else torch.zeros_like(soft_UK)


def pseudo_labels(
    weak: dict[View, Tensor],
    method: MethodSettings,
    trust: Mapping[View, losses.Trust] | None = None,
    soft_UK: Tensor | None = None,
) -> dict[View, losses.PseudoLabels]:
    """Pseudo-labels for the rows of each view, from the weak logits of the views; {} if the method has none.

    soft_UK: see `learnt_targets`; unless the method labels all rows, no label is trusted where there is a soft target.
    """
    if not method.uses_pseudo_labels:
        return {}
    scores = {view: losses.labelling_logits(weak, view, method.pseudo_label_metric) for view in weak}
    labels = {view: losses.pseudo_labels(scores[view], trust[view] if trust else method.threshold) for view in weak}
    if soft_UK is None or method.pseudo_label_rows == "all":
        return labels
    has_U = losses.has_target(soft_UK)
    return {view: replace(label, confident_U=label.confident_U.masked_fill(has_U, 0)) for view, label in labels.items()}


def unlabelled_loss(strong_UK: Tensor, targets: losses.PseudoLabels, method: MethodSettings, epoch: int) -> Tensor:
    """Loss of the strong rows of one view, before its weight; 0 during the warm-up."""
    if epoch < method.warmup_epochs:
        return strong_UK.new_zeros((), dtype=torch.float32)
    if method.method == "uda":
        return losses.uda_loss(strong_UK, targets, method.uda_detach)
    return losses.pseudo_label_loss(strong_UK, targets)


def fairness_terms(
    strong: Mapping[View, Tensor],
    targets: Mapping[View, losses.PseudoLabels],
    method: MethodSettings,
    epoch: int,
    trust: Mapping[View, losses.Trust],
) -> dict[View, Tensor]:
    """FreeMatch's fairness term of each view, weight applied; absent for other rules, 0 during the warm-up."""
    terms = {}
    for view, of_view in trust.items():
        if of_view.prior_K is not None:
            weight = method.fairness_weight if epoch >= method.warmup_epochs else 0.0
            terms[view] = weight * losses.fairness_loss(strong[view], targets[view], of_view.prior_K)
    return terms


def contrast_gate(method: MethodSettings, epoch: int) -> float:
    """Factor of the contrast terms in the total: 0 during their warm-up.

    Not a detach: DistributedDataParallel expects a gradient for every weight in every step.
    """
    return 1.0 if epoch >= method.contrast_warmup_epochs else 0.0


def forward_views(
    model: nn.Module, views: StepInputs, method: MethodSettings | None = None, teacher: nn.Module | None = None
) -> ModelOutput:
    """Run each network over [labelled, weak, strong], as published at once, so that BatchNorm sees the joined batch.

    method: which views go apart, None for the published way. If the weak views do, they go first, without gradient, and the output
    holds logits only. If the strong ones do, they go last, and the output holds no features and embeddings of them. Views that go
    apart have BatchNorm statistics of their own; those of strong views do not count for the running averages.
    teacher: gives the logits of the weak rows.
    """
    labelled, weak, strong = views.labelled, views.weak, views.strong
    if weak is None or strong is None:
        return _forward(model, [labelled])
    joins_weak = method is None or method.joins_weak
    of_weak = None
    if teacher is not None or not joins_weak:
        with torch.no_grad():
            of_weak = _forward(model if teacher is None else teacher, [weak])
    first = [labelled, weak] if joins_weak else [labelled]
    if method is None or method.strong_forward == "joined":
        output = _forward(model, [*first, strong])
    else:
        output = _forward(model, first)
        with frozen_running_statistics(model):
            output = _with_strong(output, _forward(model, [strong]))
    if of_weak is None:
        return output
    return _with_weak(output, of_weak, len(labelled), num_replaced=len(weak) if joins_weak else 0)


def _forward(model: nn.Module, parts: Sequence[Clips]) -> ModelOutput:
    joined = []
    for clips in ([part.rgb for part in parts], [part.tg for part in parts]):
        given = [view for view in clips if view is not None]
        if 0 < len(given) < len(parts):
            raise ValueError(f"a view must be in all parts of the batch or in none, got it in {len(given)}")
        joined.append(torch.cat(given) if given else None)
    output: ModelOutput = model(*joined)
    return output


def _with_strong(others: ModelOutput, strong: ModelOutput) -> ModelOutput:
    """Put the strong logits behind those of the other rows; nothing learns from the features and embeddings of strong rows."""
    streams: list[StreamOutput | None] = []
    for stream, rows in ((others.rgb, strong.rgb), (others.tg, strong.tg)):
        if stream is None or rows is None:
            streams.append(None)
            continue
        streams.append(replace(stream, logits_BK=torch.cat([stream.logits_BK, rows.logits_BK])))
    return ModelOutput(*streams)


def _with_weak(others: ModelOutput, weak: ModelOutput, first: int, num_replaced: int = 0) -> ModelOutput:
    """Put the weak logits between those of the other rows at row `first`, in place of as many as are replaced.

    Without any the features and embeddings, which have no weak rows, are left out.
    """
    streams: list[StreamOutput | None] = []
    for stream, rows in ((others.rgb, weak.rgb), (others.tg, weak.tg)):
        if stream is None or rows is None:
            streams.append(None)
            continue
        before, after = stream.logits_BK[:first], stream.logits_BK[first + num_replaced :]
        logits_BK = torch.cat([before, rows.logits_BK, after])
        features, embedding_BD = (stream.features, stream.embedding_BD) if num_replaced else ((), None)
        streams.append(StreamOutput(logits_BK, features, embedding_BD))
    return ModelOutput(*streams)


@dataclass(frozen=True, slots=True)
class Rows:
    """A forward over [labelled, weak, strong] cut into its parts, by view; `weak` and `strong` are empty without such rows."""

    labelled: dict[View, Tensor]
    """Logits [B, K]."""
    weak: dict[View, Tensor]
    """Logits [U, K], as in `strong`."""
    strong: dict[View, Tensor]
    features: dict[View, tuple[Tensor, ...]]
    """Stage outputs of labelled and weak rows: the strong views of RGB and TG do not show the same picture."""
    embeddings: dict[View, list[Tensor]]
    """Embeddings of labelled and weak rows, one [rows, D] per clip of a video; empty if the model has no projection."""


def split_rows(output: ModelOutput, num_labelled: int, clips_per_video: int) -> Rows:
    """Cut a forward over [labelled, weak, strong] into its parts."""
    rows = Rows({}, {}, {}, {}, {})
    streams: list[tuple[View, StreamOutput | None]] = [("rgb", output.rgb), ("tg", output.tg)]
    for view, stream in streams:
        if stream is None:
            continue
        # Weak and strong rows are equally many.
        num_weak = (len(stream.logits_BK) - num_labelled) // 2
        cuts = (num_labelled, num_labelled + num_weak)
        labelled_BK, weak_UK, strong_UK = stream.logits_BK.tensor_split(cuts)
        rows.labelled[view] = labelled_BK
        if num_weak:
            rows.weak[view], rows.strong[view] = weak_UK, strong_UK
        rows.features[view] = tuple(stage[: cuts[1]] for stage in stream.features)
        # Clip-major in each part: the rows of one clip are a chunk of the labelled and one of the weak rows.
        rows.embeddings[view] = []
        if stream.embedding_BD is not None:
            labelled_BD, weak_UD, _ = stream.embedding_BD.tensor_split(cuts)
            clips = zip(labelled_BD.chunk(clips_per_video), weak_UD.tensor_split(clips_per_video), strict=True)
            rows.embeddings[view] = [torch.cat(clip) for clip in clips]
    return rows
