"""Which loss terms a method adds up, with which weights, and which models it can train."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import Field

from manifests.records import InputError
from manifests.splits.settings import NAME_RULE, is_split_name
from tgtrain.method.networks.settings import ModelSettings, wrong_choices, wrong_values

PseudoLabelMetric = Literal["avg", "rgb", "tg", "individual"]
AlignKind = Literal["cosine", "l1", "l2"]
StopGradient = Literal["tg", "rgb", "none"]
ContrastVariant = Literal["crossview_sameclip", "crossview", "rgb", "tg"]
WeakForward = Literal["joined", "apart"]
StrongForward = Literal["joined", "apart"]
PseudoLabelRows = Literal["without_target", "all"]
Method = Literal["ltg", "fixmatch", "uda", "mvpl", "supervised"]
TeacherKind = Literal["none", "ema"]
TeacherBatchNorm = Literal["average", "copy"]
ThresholdRule = Literal["fixed", "freematch", "flexmatch", "softmatch"]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, slots=True)
class MethodSettings:
    """Which terms make up the loss, and their weights. The defaults are the main recipe of LTG (CVPR 2022).

    Raises InputError naming every wrong setting.
    """

    method: Method = "ltg"
    """ltg, fixmatch and mvpl share one formula and differ in the model and in the terms that are switched on; uda has soft
    targets; supervised learns from the labels alone, and from soft `targets` if there are any."""
    labelled_weight: float = 0.5
    """Of the supervised loss, per view: 0.5 with two views, 1 with one."""
    unlabelled_weight: float = 0.5
    """Of the loss with pseudo-labels, per view: 0.5 with two views, 1 with one."""
    threshold: float = 0.3
    """Least probability of a trusted pseudo-label, 0..1."""
    pseudo_label_metric: PseudoLabelMetric = "avg"
    """Scores that label: the mean of both views, those of one view, or of each view for itself."""
    warmup_epochs: int = 30
    """Epochs without pseudo-label loss."""
    align_stages: tuple[int, ...] = (0, 1, 2, 3)
    """Stages (0 to 3) whose features are aligned, () for none."""
    align_loss: AlignKind = "cosine"
    """Distance of the features of both views."""
    align_weight: float = 1.0
    """Per stage."""
    stop_gradient: StopGradient = "tg"
    """The view whose features the alignment does not change."""
    contrast: tuple[ContrastVariant, ...] = ("crossview_sameclip",)
    """Variants of the contrast loss, () for none."""
    contrast_weight: float = 1.0
    """Of each variant."""
    contrast_warmup_epochs: int = 0
    """Epochs in which the contrast loss is reported but not learnt from."""
    temperature: float = 0.5
    """Of the contrast loss, above 0."""
    clips_per_video: int = 1
    """Clips of each video in a part of the batch."""
    uda_detach: bool = True
    """See `losses.uda_loss`."""
    weak_forward: WeakForward = "joined"
    """joined: weak views go through the networks with all others; apart: before them, without gradient and with BatchNorm
    statistics of their own (less time and memory, another result)."""
    strong_forward: StrongForward = "joined"
    """joined: strong views go through the networks with all others; apart: after them, with BatchNorm statistics of their own, which
    do not count for the running averages (another result, at the same cost)."""
    threshold_rule: ThresholdRule = "fixed"
    """Which pseudo-labels are trusted, see `tgtrain.method.thresholds`: those above `threshold`, or by class."""
    threshold_momentum: float = 0.999
    """Of the running averages of freematch and softmatch, for one step."""
    freematch_quantile: float = 0.0
    """The overall level follows this quantile of the highest probabilities (published alternative 0.8); 0: their mean."""
    freematch_clip: float = 1.0
    """Highest overall level (published alternative 0.95)."""
    fairness_weight: float = 0.01
    """Of FreeMatch's fairness term, per view; published 0.001 to 0.05, 0 for none."""
    flexmatch_warmup: bool = True
    """Videos without a trusted label count as a class, so that all thresholds stay low while they are the most."""
    softmatch_n_sigma: float = 2.0
    """The larger, the faster a weight falls below the mean."""
    targets: str = ""
    """Name of soft targets of the data set (`tgprep targets`) that strong views learn from; "" for none."""
    soft_weight: float = 0.5
    """Of the loss with soft targets, per view: 0.5 with two views, 1 with one."""
    soft_warmup_epochs: int = 0
    """Epochs without that loss; hard pseudo-labels then are for all rows."""
    soft_temperature: float = 1.0
    """Each target q becomes q^(1 / soft_temperature), normalised: below 1 sharper, above 1 flatter."""
    pseudo_label_rows: PseudoLabelRows = "without_target"
    """Rows that learn from hard pseudo-labels: those without a soft target, or all, beside it."""
    teacher: TeacherKind = "none"
    """ema: a running average of the weights labels the weak views, see `tgtrain.method.teacher`."""
    teacher_decay: float = 0.999
    """Of the average, for one step; less in the first steps."""
    teacher_batch_norm: TeacherBatchNorm = "average"
    """What the teacher does with the running statistics of BatchNorm: average them like weights, or copy the student's."""

    def __post_init__(self) -> None:
        wrong = wrong_choices(
            self,
            method=Method,
            pseudo_label_metric=PseudoLabelMetric,
            align_loss=AlignKind,
            stop_gradient=StopGradient,
            weak_forward=WeakForward,
            strong_forward=StrongForward,
            threshold_rule=ThresholdRule,
            pseudo_label_rows=PseudoLabelRows,
            teacher=TeacherKind,
            teacher_batch_norm=TeacherBatchNorm,
        )
        weights = (
            "labelled_weight",
            "unlabelled_weight",
            "align_weight",
            "contrast_weight",
            "fairness_weight",
            "soft_weight",
        )
        epochs = ("warmup_epochs", "contrast_warmup_epochs", "soft_warmup_epochs")
        wrong += wrong_values(
            self,
            ("threshold", 0 <= self.threshold <= 1, "a probability, 0 to 1"),
            ("temperature", 0 < self.temperature < math.inf, "more than 0"),
            *((name, 0 <= getattr(self, name) < math.inf, "0 or more") for name in weights),
            *((name, getattr(self, name) >= 0, "0 or more") for name in epochs),
            ("soft_temperature", 0 < self.soft_temperature < math.inf, "more than 0"),
            (
                "targets",
                not self.targets or is_split_name(self.targets),
                f"a name: {NAME_RULE.removeprefix('expected ')}",
            ),
            ("clips_per_video", 1 <= self.clips_per_video <= 64, "1 to 64"),
            ("threshold_momentum", 0 <= self.threshold_momentum < 1, "0 or more, less than 1"),
            ("teacher_decay", 0 <= self.teacher_decay < 1, "0 or more, less than 1"),
            ("freematch_quantile", 0 <= self.freematch_quantile <= 1, "a share, 0 to 1"),
            ("freematch_clip", 0 < self.freematch_clip <= 1, "a probability above 0"),
            ("softmatch_n_sigma", 0 < self.softmatch_n_sigma < math.inf, "more than 0"),
        )
        if self.method == "uda" and self.threshold_rule != "fixed":
            wrong.append(
                f"threshold_rule: got {self.threshold_rule}, expected fixed: uda has a threshold of its own kind"
            )
        wrong += self._wrong_terms()
        if wrong:
            raise InputError("The method cannot be run:\n  " + "\n  ".join(wrong))

    def _wrong_terms(self) -> list[str]:
        """Complaints about alignment and contrast, and what they require of other settings."""
        variants = get_args(ContrastVariant)
        wrong = [
            f"contrast: got {variant!r}, expected one of {', '.join(variants)}"
            for variant in self.contrast
            if variant not in variants
        ]
        different_stages = set(self.align_stages) <= {0, 1, 2, 3} and len(set(self.align_stages)) == len(
            self.align_stages
        )
        wrong += wrong_values(
            self,
            ("align_stages", different_stages, "different stages, each 0, 1, 2 or 3"),
            ("contrast", len(set(self.contrast)) == len(self.contrast), "each variant once"),
        )
        between_clips = [variant for variant in self.contrast if variant != "crossview_sameclip"]
        if between_clips and self.clips_per_video != 2:
            wrong.append(f"clips_per_video: got {self.clips_per_video}, contrast {', '.join(between_clips)} expects 2")
        learns_from_weak = {
            "align_stages": bool(self.align_stages),
            "contrast": bool(self.contrast),
            "uda_detach false": self.method == "uda" and not self.uda_detach,
        }
        if self.teacher != "none" and learns_from_weak["uda_detach false"]:
            wrong.append(f"teacher: got {self.teacher}, but uda_detach false learns from the weak views: it needs none")
        if self.weak_forward == "apart":
            wrong += [
                f"weak_forward: got apart, but {name} learns from the weak views: it needs joined"
                for name, learns in learns_from_weak.items()
                if learns
            ]
        return wrong

    @property
    def uses_unlabelled(self) -> bool:
        """Whether a step needs weak and strong views of unlabelled clips."""
        return self.uses_pseudo_labels or bool(self.targets)

    @property
    def uses_pseudo_labels(self) -> bool:
        """Whether weak views label strong ones."""
        return self.method != "supervised"

    @property
    def tests_teacher(self) -> bool:
        """Whether the run has a teacher, which is what is tested, exported and compared unless the user says otherwise."""
        return self.teacher != "none"

    @property
    def joins_weak(self) -> bool:
        """Whether the weak views go through the networks together with all others.

        With a teacher, which labels them, they do only if alignment or contrast learn from them.
        """
        if self.teacher != "none":
            return bool(self.align_stages or self.contrast)
        return self.weak_forward == "joined"


def check_method(method: MethodSettings, model: ModelSettings) -> None:
    """Reject a method that the model cannot serve, and a model with parts that the method would leave untrained.

    Raises InputError naming everything that does not match.
    """
    streams, variants = model.streams, set(method.contrast)
    wrong = []
    if method.method == "mvpl" and streams != "joint":
        wrong.append(f"method mvpl: got streams {streams}, expected joint (one network for both views)")
    # One network has no other view to align with, to contrast with or to label its rows.
    if streams in ("rgb", "tg"):
        if method.align_stages:
            wrong.append(f"align_stages: got streams {streams}, alignment expects two views; set align_stages to none")
        if variants - {streams}:
            others = ", ".join(sorted(variants - {streams}))
            wrong.append(f"contrast {others}: got streams {streams}, which lack the other view; drop it")
        if method.pseudo_label_metric in {"rgb", "tg"} - {streams}:
            wrong.append(f"pseudo_label_metric: got {method.pseudo_label_metric}, expected avg or {streams}")
    # DistributedDataParallel fails if some weights get no gradient.
    if variants and model.projection == "none":
        wrong.append("projection: got none, contrast expects separate or shared")
    if not variants and model.projection != "none":
        wrong.append(f"projection: got {model.projection}, expected none: without contrast it is never trained")
    if streams == "two" and model.projection == "separate" and variants in ({"rgb"}, {"tg"}):
        wrong.append(
            f"projection: got separate, expected shared: contrast {variants.pop()} leaves the other one untrained"
        )
    if wrong:
        raise InputError("Model and method do not fit:\n  " + "\n  ".join(wrong))


@dataclass(frozen=True, slots=True)
class OptimiserSettings:
    """SGD with momentum, or AdamW; cosine per epoch to 0, times a linear warm-up per step from 0.1 of the rate."""

    name: Literal["sgd", "adamw"] = "sgd"  # of the optimiser
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 180  # passes over the unlabelled videos
    learning_rate: Rate = 0.2  # for the recipe's global batch
    momentum: Share = 0.9  # of sgd
    betas: tuple[Share, Share] = (0.9, 0.999)  # of adamw
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    """sgd: added to the gradient of all weights, as published; adamw: decoupled, and not of biases and norms."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the rate from one level of a backbone to the one before it (blocks of videomae, stages of the others); heads have the
    full rate. 1: all have it."""
    warmup_epochs: Annotated[int, Field(ge=0, le=1_000_000)] = 30  # of the learning rate
    clip_norm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 40.0
    """Limit of the L2 norm of all gradients; 0: none."""
