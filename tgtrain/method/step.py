"""One training step: the joined batch through the networks, then the loss terms in the order of the formula.

Shape letters: B labelled rows, U unlabelled rows, K classes, D embedding, T frames, H height, W width. With more than
one clip a video the rows of a part are clip-major: the first clips of all its videos, then the second clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tgtrain.method import losses
from tgtrain.method.gather import RowGather, gather_rows
from tgtrain.method.networks.model import ModelOutput, StreamOutput, View
from tgtrain.method.settings import MethodSettings, WeakForward

COUNTS = ("train/num_selected", "train/num_correct")  # of the values of `named_values`: added up, not averaged


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
    """The batch of one step on one rank: B labelled rows, and U unlabelled rows as a weak and as a strong view.

    labels_B: class of each labelled row, int64 (repeated clip-major with more clips a video).
    weak, strong: None for supervised training. true_labels_U: for diagnostics alone; -1 where unknown.
    """

    labelled: Clips
    labels_B: Tensor
    weak: Clips | None = None
    strong: Clips | None = None
    true_labels_U: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.labelled) != len(self.labels_B):
            raise ValueError(f"got {len(self.labelled)} labelled rows and {len(self.labels_B)} labels")
        num_weak, num_strong = (None if part is None else len(part) for part in (self.weak, self.strong))
        if num_weak != num_strong:
            raise ValueError(f"got {num_weak} weak rows and {num_strong} strong rows")
        if self.true_labels_U is not None and len(self.true_labels_U) != num_weak:
            raise ValueError(f"got {num_weak} weak rows and {len(self.true_labels_U)} true labels for them")


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one step on one rank: scalar tensors on the device, weights applied; None for absent ones.

    total: the sum to call backward on. align: one per stage of `align_stages`. contrast: one per variant.
    Diagnostics, without gradient: labelled_top1, top5: fraction of labelled rows that the view gets right (top min(5, K));
    num_selected: trusted pseudo-labels; mask_fraction: the same / U; num_correct: trusted and right, where the true labels
    were given. With pseudo_label_metric "individual" these three are means over the two views.
    """

    total: Tensor
    supervised_rgb: Tensor | None
    supervised_tg: Tensor | None
    pseudo_rgb: Tensor | None
    pseudo_tg: Tensor | None
    align: tuple[Tensor, ...]
    contrast: tuple[Tensor, ...]
    labelled_top1_rgb: Tensor | None
    labelled_top1_tg: Tensor | None
    labelled_top5_rgb: Tensor | None
    labelled_top5_tg: Tensor | None
    num_selected: Tensor | None
    mask_fraction: Tensor | None
    num_correct: Tensor | None


@dataclass(frozen=True, slots=True)
class Whole:
    """What the losses of one part of a rank's batch take from the whole of it, see `tgtrain.method.accumulate`.

    num_trusted: trusted pseudo-labels in all parts, per view. contrast: the value of each variant over all parts, weights
    applied; None where each part has its own. gradients: of their sum, at the embeddings of this part: per view one
    [rows, D] per clip of a video.
    """

    num_parts: int
    num_trusted: Mapping[View, Tensor]
    contrast: tuple[Tensor, ...] | None = None
    gradients: Mapping[View, tuple[Tensor, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartSummary:
    """What the other parts of a batch need of one: trusted pseudo-labels per view, embeddings per view and clip."""

    num_trusted: dict[View, Tensor]
    embeddings: dict[View, list[Tensor]]


def step_terms(
    model: nn.Module,
    views: StepInputs,
    method: MethodSettings,
    epoch: int,
    gather: RowGather = gather_rows,
    whole: Whole | None = None,
) -> Terms:
    """Forward one batch and give its loss terms; `total.backward()` is left to the caller.

    model: of `tgtrain.method.networks.model`, or a wrapper of one (DistributedDataParallel); it is called once (see `forward_views`).
    epoch: from 0, for the warm-ups. gather: brings the rows of all ranks for the contrast loss. whole: of which batch these
    views are a part; the mean of the parts' totals is then the total of that batch.
    """
    output = forward_views(model, views, method.weak_forward)
    return loss_terms(output, views.labels_B, method, epoch, views.true_labels_U, gather, whole)


def forward_views(model: nn.Module, views: StepInputs, weak_forward: WeakForward = "joined") -> ModelOutput:
    """One forward per network over [labelled, weak, strong], so that BatchNorm sees the joined batch.

    weak_forward "apart": the weak rows go first, without gradient and with statistics of their own; the output then holds
    logits alone.
    """
    if weak_forward == "apart" and views.weak is not None and views.strong is not None:
        with torch.no_grad():
            weak = _forward(model, [views.weak])
        return _insert_rows(_forward(model, [views.labelled, views.strong]), weak, len(views.labelled))
    return _forward(model, [part for part in (views.labelled, views.weak, views.strong) if part is not None])


def summarise(model: nn.Module, views: StepInputs, method: MethodSettings) -> PartSummary:
    """Forward one part of a batch and give what the others need of it."""
    output = forward_views(model, views, method.weak_forward)
    num_labelled, num_unlabelled, streams = len(views.labelled), len(views.weak or ()), _views(output)
    _, weak, _ = _split_logits(streams, num_labelled, num_unlabelled)
    return PartSummary(
        {v: target.confident_U.sum() for v, target in _targets(weak, method).items()},
        {v: _embeddings(streams[v], num_labelled, num_unlabelled, method.clips_per_video) for v in streams},
    )


def loss_terms(
    output: ModelOutput,
    labels_B: Tensor,
    method: MethodSettings,
    epoch: int,
    true_labels_U: Tensor | None = None,
    gather: RowGather = gather_rows,
    whole: Whole | None = None,
) -> Terms:
    """The terms of a forward of [labelled, weak, strong]; those of unlabelled rows are absent where there are none."""
    views = _views(output)
    num_labelled = len(labels_B)
    num_unlabelled = (len(next(iter(views.values())).logits_BK) - num_labelled) // 2
    labelled, weak, strong = _split_logits(views, num_labelled, num_unlabelled)

    supervised = {v: method.labelled_weight * losses.supervised_loss(labelled[v], labels_B) for v in views}

    targets = _targets(weak, method)
    pseudo = {v: _pseudo_term(v, strong[v], targets[v], method, epoch, whole) for v in weak}

    align = [
        method.align_weight * losses.alignment_loss(rgb, tg, method.align_loss, method.stop_gradient)
        for rgb, tg in _aligned(views, method.align_stages, num_rows=num_labelled + num_unlabelled)
    ]

    clips = {v: _embeddings(views[v], num_labelled, num_unlabelled, method.clips_per_video) for v in views}
    if whole is None or whole.contrast is None:
        contrast = [
            method.contrast_weight * losses.clip_contrast_loss(clips, variant, method.temperature, gather)
            for variant in method.contrast
        ]
        learnt = contrast
    else:
        contrast = list(whole.contrast)
        learnt = [*contrast, _pull(clips, whole)]
    # Times 0 rather than detached: DistributedDataParallel wants a gradient for every weight in every step.
    contrast_gate = 1.0 if epoch >= method.contrast_warmup_epochs else 0.0

    total = torch.stack([*supervised.values(), *pseudo.values(), *align, *(contrast_gate * c for c in learnt)]).sum()

    top1 = {v: top_k_fraction(labelled[v], labels_B, 1) for v in views}
    top5 = {v: top_k_fraction(labelled[v], labels_B, 5) for v in views}
    num_selected, mask_fraction, num_correct = _diagnose(targets, true_labels_U)
    return Terms(
        total=total,
        supervised_rgb=supervised.get("rgb"),
        supervised_tg=supervised.get("tg"),
        pseudo_rgb=pseudo.get("rgb"),
        pseudo_tg=pseudo.get("tg"),
        align=tuple(align),
        contrast=tuple(contrast),
        labelled_top1_rgb=top1.get("rgb"),
        labelled_top1_tg=top1.get("tg"),
        labelled_top5_rgb=top5.get("rgb"),
        labelled_top5_tg=top5.get("tg"),
        num_selected=num_selected,
        mask_fraction=mask_fraction,
        num_correct=num_correct,
    )


def named_values(terms: Terms, method: MethodSettings) -> list[tuple[str, Tensor]]:
    """What a log shows of a step: names and detached scalars, absent terms left out; nothing waits for the device.

    Terms are named loss/..., the rest train/...; alignment by its stage (1 to 4), contrast by its variant.
    """
    values: list[tuple[str, Tensor | None]] = [
        ("loss/total", terms.total),
        ("loss/supervised_rgb", terms.supervised_rgb),
        ("loss/supervised_tg", terms.supervised_tg),
        ("loss/pseudo_rgb", terms.pseudo_rgb),
        ("loss/pseudo_tg", terms.pseudo_tg),
        *((f"loss/align_stage{s + 1}", term) for s, term in zip(method.align_stages, terms.align, strict=True)),
        *((f"loss/contrast_{variant}", term) for variant, term in zip(method.contrast, terms.contrast, strict=True)),
        ("train/labelled_top1_rgb", terms.labelled_top1_rgb),
        ("train/labelled_top1_tg", terms.labelled_top1_tg),
        ("train/labelled_top5_rgb", terms.labelled_top5_rgb),
        ("train/labelled_top5_tg", terms.labelled_top5_tg),
        ("train/num_selected", terms.num_selected),
        ("train/mask_fraction", terms.mask_fraction),
        ("train/num_correct", terms.num_correct),
    ]
    return [(name, value.detach()) for name, value in values if value is not None]


@torch.no_grad()
def top_k_fraction(logits_BK: Tensor, labels_B: Tensor, k: int) -> Tensor:
    """Fraction of rows whose class is among the min(k, K) highest scores, on the device."""
    top_Bk = logits_BK.topk(min(k, logits_BK.shape[1]), dim=1).indices
    return (top_Bk == labels_B[:, None]).any(dim=1).float().mean()


def _forward(model: nn.Module, parts: Sequence[Clips]) -> ModelOutput:
    output: ModelOutput = model(_join([part.rgb for part in parts]), _join([part.tg for part in parts]))
    return output


def _insert_rows(others: ModelOutput, weak: ModelOutput, first: int) -> ModelOutput:
    """The logits of both, the weak rows from row `first` on."""

    def joined(stream: StreamOutput | None, rows: StreamOutput | None) -> StreamOutput | None:
        if stream is None or rows is None:
            return None
        before, after = stream.logits_BK[:first], stream.logits_BK[first:]
        return StreamOutput(torch.cat([before, rows.logits_BK, after]), (), None)

    return ModelOutput(joined(others.rgb, weak.rgb), joined(others.tg, weak.tg))


def _join(parts: Sequence[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    if 0 < len(given) < len(parts):
        raise ValueError(f"a view must be there in all parts of the batch or in none, got it in {len(given)}")
    return torch.cat(given) if given else None


def _views(output: ModelOutput) -> dict[View, StreamOutput]:
    views: dict[View, StreamOutput] = {}
    if output.rgb is not None:
        views["rgb"] = output.rgb
    if output.tg is not None:
        views["tg"] = output.tg
    return views


def _split_logits(
    views: dict[View, StreamOutput], num_labelled: int, num_unlabelled: int
) -> tuple[dict[View, Tensor], dict[View, Tensor], dict[View, Tensor]]:
    """Labelled, weak and strong logits per view; weak and strong without any view where there are no such rows."""
    parts = {v: views[v].logits_BK.tensor_split((num_labelled, num_labelled + num_unlabelled)) for v in views}
    unlabelled = parts if num_unlabelled else {}
    return {v: parts[v][0] for v in parts}, {v: parts[v][1] for v in unlabelled}, {v: parts[v][2] for v in unlabelled}


def _targets(weak: dict[View, Tensor], method: MethodSettings) -> dict[View, losses.PseudoLabels]:
    """Pseudo-labels for the rows of each view."""
    scores = {v: losses.labelling_logits(weak, v, method.pseudo_label_metric) for v in weak}
    return {v: losses.pseudo_labels(scores[v], method.threshold) for v in weak}


def _pull(clips: Mapping[View, Sequence[Tensor]], whole: Whole) -> Tensor:
    """0, with the gradient at these embeddings that the contrast of the whole batch has there."""
    pairs = [pair for v in clips for pair in zip(clips[v], whole.gradients[v], strict=True)]
    pulled = torch.stack([(rows_ND.float() * gradient_ND).sum() for rows_ND, gradient_ND in pairs]).sum()
    return whole.num_parts * (pulled - pulled.detach())


def _pseudo_term(
    view: View,
    strong_UK: Tensor,
    targets: losses.PseudoLabels,
    method: MethodSettings,
    epoch: int,
    whole: Whole | None,
) -> Tensor:
    if epoch < method.warmup_epochs:
        return strong_UK.new_zeros((), dtype=torch.float32)
    if method.method == "uda":
        counted = None if whole is None else whole.num_trusted[view] / whole.num_parts
        return method.unlabelled_weight * losses.uda_loss(strong_UK, targets, method.uda_detach, counted)
    return method.unlabelled_weight * losses.pseudo_label_loss(strong_UK, targets)


def _aligned(views: dict[View, StreamOutput], stages: Sequence[int], num_rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """RGB and TG features of each stage, labelled and weak rows: the strong views of RGB and TG do not show the same."""
    for stage in stages:
        yield views["rgb"].features[stage][:num_rows], views["tg"].features[stage][:num_rows]


def _embeddings(stream: StreamOutput, num_labelled: int, num_unlabelled: int, num_clips: int) -> list[Tensor]:
    """Embeddings of the labelled and weak rows, one [rows, D] per clip index; none where the model has no projection."""
    if stream.embedding_BD is None:
        return []
    labelled_BD, weak_UD, _ = stream.embedding_BD.tensor_split((num_labelled, num_labelled + num_unlabelled))
    clips = zip(labelled_BD.chunk(num_clips), weak_UD.tensor_split(num_clips), strict=True)
    return [torch.cat(clip) for clip in clips]


@torch.no_grad()
def _diagnose(
    targets: dict[View, losses.PseudoLabels], true_labels_U: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Trusted pseudo-labels, their fraction, and how many of them are right: means over the views."""
    if not targets:
        return None, None, None
    confident_VU = torch.stack([target.confident_U for target in targets.values()])
    num_selected = confident_VU.float().sum(dim=1).mean()
    if true_labels_U is None:
        return num_selected, confident_VU.float().mean(), None
    right_VU = torch.stack([target.labels_U == true_labels_U for target in targets.values()])
    return num_selected, confident_VU.float().mean(), (confident_VU & right_VU).float().sum(dim=1).mean()
