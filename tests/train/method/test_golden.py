"""Parity with the reference code: losses, accuracies and gradient norms of one step, from figures that it computed.

The figures are read from golden/ in the shared folder; TG_GOLDEN_METHOD and TG_GOLDEN_BASELINES name other files of the
same form. Weights and inputs are made from their rules. All cases of a file that start from the same weights and clips
share one forward; each has its own backward.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tgtrain.method.networks.model import Model, ModelOutput, ModelSettings, build_model, count_parameters
from tgtrain.method.settings import MethodSettings, check_method
from tgtrain.method.step import Clips, StepInputs, forward_views, loss_terms
from tgtrain.method.terms import Terms

LOSS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3
CROSSVIEW = ("crossview", "crossview_sameclip")


def golden_path(name: str, variable: str) -> Path:
    shared = Path(os.environ.get("TG_SHARED", Path(__file__).resolve().parents[4] / "shared"))
    return Path(os.environ.get(variable) or shared / "golden" / name)


METHOD = golden_path("method.json", "TG_GOLDEN_METHOD")
BASELINES = golden_path("baselines.json", "TG_GOLDEN_BASELINES")


@cache
def figures_in(path: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


def cases_in(path: Path, variable: str) -> list[Any]:
    """One test per case of the file; one skipped test where there is no such file."""
    if path.is_file():
        return [pytest.param(case, id=case["variant"]) for case in figures_in(path)["cases"]]
    if os.environ.get(variable):
        raise FileNotFoundError(f"{variable} names {path}, which is no file")
    return [pytest.param({}, marks=pytest.mark.skip(reason=f"no golden figures at {path}"))]


def fill(model: torch.nn.Module, seed: int) -> None:
    """Weights from their names, by the rule of the golden files."""
    for name, parameter in model.named_parameters():
        random = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
        x = random.standard_normal(tuple(parameter.shape)).astype(np.float32)
        if ".bn" in name and name.endswith("weight"):
            x = 1 + 0.1 * x
        elif name.endswith("bias"):
            x = 0.1 * x
        else:
            x *= math.sqrt(2 / math.prod(x.shape[1:])) * (1.6 if name.startswith("head_") else 1)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(x.astype(np.float32)))


def make_views(golden: dict[str, Any], clips_per_video: int) -> StepInputs:
    """Clips and labels by the rule of the golden files; rows clip-major."""
    random = np.random.RandomState(1000 + golden["seed"])
    batch, clip, size = golden["batch"], golden["clip"], golden["size"]

    def clips() -> torch.Tensor:
        x = random.standard_normal((batch, clips_per_video, 3, clip, size, size)).astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray(x.swapaxes(0, 1))).flatten(0, 1)

    rgb, tg = [clips() for _ in range(3)], [clips() for _ in range(3)]
    labels = torch.from_numpy(random.randint(0, golden["classes"], size=(batch, 1))).flatten().long()
    labelled, weak, strong = (Clips(*pair) for pair in zip(rgb, tg, strict=True))
    return StepInputs(labelled, labels.repeat(clips_per_video), weak, strong)


def only_rgb(views: StepInputs) -> StepInputs:
    assert views.weak is not None
    assert views.strong is not None
    labelled, weak, strong = (Clips(part.rgb, None) for part in (views.labelled, views.weak, views.strong))
    return StepInputs(labelled, views.labels_B, weak, strong)


@dataclass(frozen=True)
class Forward:
    model: Model
    labels_B: torch.Tensor
    output: ModelOutput


@lru_cache(maxsize=1)
def forward_of(path: Path, settings: ModelSettings, clips_per_video: int) -> Forward:
    """The forward that cases share; only the newest is kept, for its graph is large."""
    golden = figures_in(path)
    # Contiguous, not channels last: other orders of summing move the smallest of these losses by more than 1e-4.
    model = build_model(settings).train()
    fill(model, golden["seed"])
    views = make_views(golden, clips_per_video)
    views = only_rgb(views) if settings.streams == "rgb" else views
    return Forward(model, views.labels_B, forward_views(model, views))


@pytest.fixture(scope="module", autouse=True)
def _free_the_graph() -> Iterator[None]:
    yield
    forward_of.cache_clear()


def method_of(case: dict[str, Any]) -> tuple[MethodSettings, bool]:
    """The settings of a case of method.json, and whether its projection is shared. An unknown option is an error."""
    given = dict(case["options"])
    contrast = given.pop("crossclip_contrast_loss", ["crossview_sameclip"]) or []
    align_stages = given.pop("temp_align_indices", (0, 1, 2, 3)) or ()
    weights = given.pop("cls_loss_weight", {"labeled": 0.5, "unlabeled": 0.5})
    settings = MethodSettings(
        labelled_weight=weights["labeled"],
        unlabelled_weight=weights["unlabeled"],
        threshold=given.pop("fixmatch_threshold", 0.3),
        pseudo_label_metric=given.pop("pseudo_label_metric", "avg"),
        warmup_epochs=given.pop("warmup_epoch", 30),
        align_stages=tuple(align_stages),
        align_loss=given.pop("align_loss_func", "Cosine").lower(),
        stop_gradient=given.pop("align_stop_grad", "tg") or "none",
        contrast=tuple(variant.removesuffix("_sharedhead") for variant in contrast),
        contrast_weight=given.pop("contrast_loss_weight", 1.0),
        contrast_warmup_epochs=given.pop("contrast_warmup_epoch", 0),
        temperature=given.pop("temperature", 0.5),
        clips_per_video=case["clips_per_video"],
    )
    assert not given, f"options of the golden case {case['variant']} that this test cannot translate: {given}"
    return settings, any(variant.endswith("_sharedhead") for variant in contrast)


def contrast_losses(terms: Terms, method: MethodSettings) -> dict[str, torch.Tensor]:
    names = ["crossview" if variant in CROSSVIEW else variant for variant in method.contrast]
    return {f"loss_{name}_contrast": term for name, term in zip(names, terms.contrast, strict=True)}


def two_view_figures(terms: Terms, method: MethodSettings) -> dict[str, torch.Tensor | None]:
    align = zip(method.align_stages, terms.align, strict=True)
    return {
        **contrast_losses(terms, method),
        **{f"loss_layer{stage}_align": term for stage, term in align},
        "loss_cls_labeled_rgb": terms.supervised["rgb"],
        "loss_cls_labeled_diff": terms.supervised["tg"],
        "loss_cls_unlabeled_rgb": terms.pseudo["rgb"],
        "loss_cls_unlabeled_diff": terms.pseudo["tg"],
        "top1_acc_labeled_rgb": terms.diagnostics["train/labelled_top1_rgb"],
        "top1_acc_labeled_diff": terms.diagnostics["train/labelled_top1_tg"],
        "top5_acc_labeled_rgb": terms.diagnostics["train/labelled_top5_rgb"],
        "top5_acc_labeled_diff": terms.diagnostics["train/labelled_top5_tg"],
        "num_select": terms.diagnostics["train/num_selected"],
    }


def one_view_figures(terms: Terms) -> dict[str, torch.Tensor | None]:
    assert "tg" not in terms.supervised
    return {
        "loss_cls_labeled": terms.supervised["rgb"],
        "loss_cls_unlabeled": terms.pseudo["rgb"],
        "top1_acc_labeled": terms.diagnostics["train/labelled_top1_rgb"],
        "top5_acc_labeled": terms.diagnostics["train/labelled_top5_rgb"],
        "num_select": terms.diagnostics["train/num_selected"],
    }


def gradient_norms(total: torch.Tensor, model: torch.nn.Module) -> dict[str, float]:
    """L2 norm of d total / d weights per top-level module, of those that the total depends on."""
    names, weights = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True)
    squares: dict[str, float] = {}
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is not None:
            part = name.split(".")[0]
            squares[part] = squares.get(part, 0.0) + float(gradient.double().square().sum())
    return {part: math.sqrt(square) for part, square in squares.items()}


def check(case: dict[str, Any], forward: Forward, terms: Terms, figures: dict[str, torch.Tensor | None]) -> None:
    got = {name: float(value.detach()) for name, value in figures.items() if value is not None}
    assert got == pytest.approx(case["losses"], rel=LOSS_TOLERANCE, abs=1e-7)
    assert float(terms.total.detach()) == pytest.approx(case["total"], rel=LOSS_TOLERANCE)
    norms = gradient_norms(terms.total, forward.model)
    assert norms == pytest.approx(case["grad_norm"], rel=GRADIENT_TOLERANCE)


@pytest.mark.parametrize("case", cases_in(METHOD, "TG_GOLDEN_METHOD"))
def test_method_case(case: dict[str, Any]) -> None:
    method, shared = method_of(case)
    settings = ModelSettings(figures_in(METHOD)["classes"], dropout=0.0, projection="shared" if shared else "separate")
    if method.contrast:
        check_method(method, settings)
    forward = forward_of(METHOD, settings, case["clips_per_video"])
    terms = loss_terms(forward.output, forward.labels_B, method, case["epoch"])
    check(case, forward, terms, two_view_figures(terms, method))


@pytest.mark.parametrize("case", cases_in(BASELINES, "TG_GOLDEN_BASELINES"))
def test_baseline_case(case: dict[str, Any]) -> None:
    name = case["variant"].split("_")[0]
    mvpl = name == "mvpl"
    stated = re.search(r"threshold_([0-9.]+)", case["variant"])
    method = MethodSettings(
        method=name,
        labelled_weight=0.5 if mvpl else 1.0,
        unlabelled_weight=0.5 if mvpl else 1.0,
        threshold=float(stated.group(1)) if stated else 0.3,
        align_stages=(),
        contrast=(),
        uda_detach=False,  # as the reference code has it
    )
    settings = ModelSettings(
        figures_in(BASELINES)["classes"],
        streams="joint" if mvpl else "rgb",
        backbone="slowonly" if mvpl else "r3d",
        depth=50 if mvpl else 18,
        dropout=0.0,
        projection="none",
    )
    check_method(method, settings)
    forward = forward_of(BASELINES, settings, 1)
    assert count_parameters(forward.model) == case["parameter_count"]
    if "parameters" in case:
        assert shapes(forward.model) == case["parameters"]
    terms = loss_terms(forward.output, forward.labels_B, method, case["epoch"])
    check(case, forward, terms, two_view_figures(terms, method) if mvpl else one_view_figures(terms))


def shapes(model: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(parameter.shape) for name, parameter in model.named_parameters()}


@pytest.fixture
def golden() -> dict[str, Any]:
    if not METHOD.is_file():
        pytest.skip(f"no golden figures at {METHOD}")
    return figures_in(METHOD)


def test_parameters(golden: dict[str, Any]) -> None:
    model = build_model(ModelSettings(golden["classes"]))
    assert shapes(model) == golden["parameters"]
    assert {name: count_parameters(part) for name, part in model.named_children()} == golden["parameter_count"]


def test_feature_shapes(golden: dict[str, Any]) -> None:
    model = build_model(ModelSettings(golden["classes"])).to("meta").eval()
    output = model(rgb=torch.empty(1, 3, 8, 224, 224, device="meta"))
    assert [list(feature.shape[1:]) for feature in output.rgb.features] == golden["feature_shapes_8x224x224"]


def test_features_of_the_labelled_rgb_clips_alone(golden: dict[str, Any]) -> None:
    model = build_model(ModelSettings(golden["classes"], streams="rgb", projection="none")).train()
    fill(model, golden["seed"])
    with torch.no_grad():
        features = model(rgb=make_views(golden, 1).labelled.rgb).rgb.features
    for feature, expected in zip(features, golden["rgb_features"], strict=True):
        assert list(feature.shape) == expected["shape"]
        got = [float(feature.mean()), float(feature.std()), float(feature.norm())]
        assert got == pytest.approx([expected["mean"], expected["std"], expected["l2"]], rel=LOSS_TOLERANCE)
