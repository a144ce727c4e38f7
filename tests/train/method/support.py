"""Small models, batches and method settings that tests of the step share."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from tgtrain.method.networks.model import Model, ModelSettings, View, build_model
from tgtrain.method.settings import MethodSettings
from tgtrain.method.step import Clips, StepInputs, forward_views
from tgtrain.method.thresholds import Thresholds

TWO_CLIPS = ('method.contrast=["crossview", "rgb", "tg"]', "method.clips_per_video=2")
SMALL_MODEL = ModelSettings(5, depth=10, width=4, dropout=0.5)
LTG = MethodSettings(warmup_epochs=0, threshold=0.285)
ONE_VIEW = replace(SMALL_MODEL, streams="rgb", projection="none")
METHOD_CASES: dict[str, tuple[MethodSettings, ModelSettings]] = {
    "ltg": (LTG, SMALL_MODEL),
    "ltg, each view labels itself, stop none": (
        replace(LTG, pseudo_label_metric="individual", stop_gradient="none"),
        SMALL_MODEL,
    ),
    "shared head, both within-view contrasts": (
        replace(LTG, contrast=("rgb", "tg", "crossview"), clips_per_video=2),
        replace(SMALL_MODEL, projection="shared"),
    ),
    "fixmatch": (
        MethodSettings("fixmatch", 1.0, 1.0, threshold=0.285, align_stages=(), contrast=(), warmup_epochs=0),
        ONE_VIEW,
    ),
    "uda": (MethodSettings("uda", 1.0, 1.0, threshold=0.285, align_stages=(), contrast=(), warmup_epochs=0), ONE_VIEW),
    "mvpl": (
        MethodSettings("mvpl", contrast=(), align_stages=(), threshold=0.285, warmup_epochs=0),
        replace(SMALL_MODEL, streams="joint", projection="none"),
    ),
}
# Short memories and a large fairness term, so that one step shows.
METHOD_CASES |= {
    "freematch": (
        replace(LTG, threshold_rule="freematch", threshold_momentum=0.2, fairness_weight=0.3),
        SMALL_MODEL,
    ),
    "flexmatch": (replace(METHOD_CASES["fixmatch"][0], threshold_rule="flexmatch"), ONE_VIEW),
    "softmatch, each view labels itself": (
        replace(
            METHOD_CASES["mvpl"][0],
            threshold_rule="softmatch",
            threshold_momentum=0.2,
            pseudo_label_metric="individual",
        ),
        METHOD_CASES["mvpl"][1],
    ),
}
SOFT = {"targets": "made", "soft_weight": 0.7, "threshold": 0.24}  # trusted with a target, and without
METHOD_CASES |= {
    "soft targets, ltg": (replace(LTG, **SOFT), SMALL_MODEL),  # type: ignore[arg-type]
    "soft targets, uda": (replace(METHOD_CASES["uda"][0], **SOFT), ONE_VIEW),  # type: ignore[arg-type]
}

PART_CASES: dict[str, tuple[MethodSettings, ModelSettings]] = {
    **METHOD_CASES,
    "uda as in the reference": (replace(METHOD_CASES["uda"][0], uda_detach=False), METHOD_CASES["uda"][1]),
    "weak views apart": (replace(METHOD_CASES["fixmatch"][0], weak_forward="apart"), METHOD_CASES["fixmatch"][1]),
    "strong views apart": (replace(METHOD_CASES["ltg"][0], strong_forward="apart"), METHOD_CASES["ltg"][1]),
    "weak and strong views apart": (
        replace(METHOD_CASES["fixmatch"][0], weak_forward="apart", strong_forward="apart"),
        METHOD_CASES["fixmatch"][1],
    ),
    "contrast that is not learnt yet": (
        replace(METHOD_CASES["ltg"][0], contrast_warmup_epochs=1),
        METHOD_CASES["ltg"][1],
    ),
    "supervised": (MethodSettings("supervised"), METHOD_CASES["ltg"][1]),
    "soft targets, supervised": (MethodSettings("supervised", **SOFT), METHOD_CASES["ltg"][1]),  # type: ignore[arg-type]
    "soft targets beside the labels of freematch": (
        replace(METHOD_CASES["freematch"][0], pseudo_label_rows="all", **SOFT),  # type: ignore[arg-type]
        SMALL_MODEL,
    ),
    "soft targets, softmatch": (
        replace(METHOD_CASES["softmatch, each view labels itself"][0], **SOFT),
        METHOD_CASES["mvpl"][1],
    ),  # type: ignore[arg-type]
}


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole_batch(model: ModelSettings) -> StepInputs:
    def clips(seed: int) -> Clips:
        rgb, tg = (randn(8, 3, 4, 32, 32, seed=seed + i) for i in (0, 10))
        return Clips(rgb, tg) if model.streams != "rgb" else Clips(rgb, None)

    # Every other row has a soft target.
    soft_UK = randn(8, 5, seed=7).softmax(dim=1) * (torch.arange(8) % 2)[:, None]
    known = torch.arange(8) % 3, torch.arange(8) * 5 % 7
    return StepInputs(clips(1), torch.arange(8) % 5, clips(2), clips(3), *known, soft_UK)


def thresholds_of(method: MethodSettings, model: ModelSettings) -> Thresholds | None:
    """The state of a case's rule, for 9 videos, after something was learnt of some; None for the fixed threshold."""
    if method.threshold_rule == "fixed" or not method.uses_unlabelled:
        return None
    views: tuple[View, ...] = ("rgb",) if model.streams == "rgb" else ("rgb", "tg")
    thresholds = Thresholds(method, views, model.num_classes, 9, torch.device("cpu"))
    for state in thresholds.states.values():
        if "learnt_K" in state:
            state["learnt_K"].copy_(torch.linspace(0.5, 1, model.num_classes))
            state["label_N"][:4] = torch.tensor([0, 1, 1, 2])
    return thresholds


def scaled_model(settings: ModelSettings) -> Model:
    model = build_model(settings, seed=4).train()
    with torch.no_grad():  # beyond the threshold for some rows, not for all
        for name, parameter in model.named_parameters():
            if name.startswith("head_"):
                parameter.mul_(6)
    return model


def close(got: Tensor, expected: Tensor, what: str, rtol: float = 1e-3, atol: float = 1e-5) -> None:
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol, msg=lambda m: f"{what}: {m}")


def blocks(views: StepInputs, num_parts: int, num_clips: int) -> list[StepInputs]:
    """The parts by hand: of the rows of every clip index the k-th block."""

    def rows(part: Tensor, k: int) -> Tensor:
        return torch.cat([clip.chunk(num_parts)[k] for clip in part.chunk(num_clips)])

    def cut(clips: Clips, k: int) -> Clips:
        return Clips(*(None if view is None else rows(view, k) for view in (clips.rgb, clips.tg)))

    return [
        StepInputs(
            cut(views.labelled, k),
            rows(views.labels_B, k),
            None if views.weak is None else cut(views.weak, k),
            None if views.strong is None else cut(views.strong, k),
            None if views.true_labels_U is None else rows(views.true_labels_U, k),
            None if views.videos_U is None else rows(views.videos_U, k),
            None if views.soft_UK is None else rows(views.soft_UK, k),
        )
        for k in range(num_parts)
    ]


def batch_of(case: str) -> StepInputs:
    method, settings = PART_CASES[case]
    views = whole_batch(settings)
    if method.uses_unlabelled:
        return views
    return StepInputs(views.labelled, views.labels_B)


def model_of(case: str, frozen: bool) -> Model:
    """Without dropout; frozen: its BatchNorm gives what the statistics of the whole batch give, and keeps them."""
    model = scaled_model(replace(PART_CASES[case][1], dropout=0.0))
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    if frozen:
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.momentum = 1.0
        with torch.no_grad():
            forward_views(model, whole_batch(PART_CASES[case][1]))
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
    return model
