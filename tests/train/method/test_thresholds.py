"""Class-adaptive thresholds against the figures of the authors' common code, step by step, and against plain loops.

The figures are read from golden/ in the shared folder; TG_GOLDEN_THRESHOLDS names another file of the same form.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from manifests.records import InputError
from tests.train.method.support import close
from tgtrain.method import losses
from tgtrain.method.networks.model import View
from tgtrain.method.settings import MethodSettings
from tgtrain.method.thresholds import Thresholds

CPU = torch.device("cpu")
FIXMATCH = MethodSettings("fixmatch", 1.0, 1.0, align_stages=(), contrast=(), warmup_epochs=0)
SHARED = Path(os.environ.get("TG_SHARED", Path(__file__).resolve().parents[4] / "shared"))
GOLDEN = Path(os.environ.get("TG_GOLDEN_THRESHOLDS") or SHARED / "golden" / "thresholds.json")
STATE = {
    "time_p": "level", "p_model": "probability_K", "label_hist": "histogram_K", "classwise_acc": "learnt_K",
    "mu": "mean", "var": "variance",
}  # fmt: skip


@cache
def cases() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(GOLDEN.read_text())["cases"]
    return found


def golden() -> list[Any]:
    if GOLDEN.is_file():
        names = [(number, key) for number, case in enumerate(cases()) for key in case["results"]]
        return [pytest.param(number, key, id=f"{number} {key}") for number, key in names]
    if os.environ.get("TG_GOLDEN_THRESHOLDS"):
        raise FileNotFoundError(f"TG_GOLDEN_THRESHOLDS names {GOLDEN}, which is no file")
    return [pytest.param(0, "", marks=pytest.mark.skip(reason=f"no golden figures at {GOLDEN}"))]


def settings_of(key: str) -> MethodSettings:
    rule, *pairs = key.split()
    given = dict(pair.split("=") for pair in pairs)
    method = replace(FIXMATCH, threshold_rule=rule, threshold_momentum=float(given.get("momentum", 0.999)))
    return replace(
        method,
        threshold=float(given.get("cutoff", 0.95)),
        freematch_quantile=0.8 if given.get("quantile") == "True" else 0.0,
        freematch_clip=0.95 if given.get("clip") == "True" else 1.0,
        flexmatch_warmup=given.get("warmup") == "True",
        softmatch_n_sigma=float(given.get("n_sigma", 2)),
    )


@pytest.mark.parametrize(("number", "key"), golden())
def test_every_step_has_the_published_codes_figures(number: int, key: str) -> None:
    case = cases()[number]
    method = settings_of(key)
    state = Thresholds(method, ("rgb",), case["num_classes"], case["num_unlabelled_videos"], CPU)
    for step, expected in enumerate(case["results"][key]):
        weak, strong = (torch.tensor(case[name][step]) for name in ("weak_logits", "strong_logits"))
        trust = state.observe({"rgb": weak}, torch.tensor(case["rows"][step]))["rgb"]
        targets = losses.pseudo_labels(weak, trust)
        found = {name: state.states[""][ours] for name, ours in STATE.items() if name in expected}
        found |= {name: targets.confident_U.float() for name in ("mask", "weight") if name in expected}
        found["pseudo_loss"] = losses.pseudo_label_loss(strong, targets)
        if trust.prior_K is not None:
            found["fairness_loss"] = losses.fairness_loss(strong, targets, trust.prior_K)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            close(found[name], torch.tensor(value).float(), f"{name} at {step}", rtol=1e-4, atol=1e-7)


def test_flexmatch_remembers_each_video_by_its_surest_row_in_any_order() -> None:
    method = replace(FIXMATCH, threshold_rule="flexmatch", threshold=0.9)
    generator = torch.Generator().manual_seed(1)
    rows, orders = (
        4 * torch.randn(40, 3, generator=generator),
        (torch.arange(40), torch.randperm(40, generator=generator)),
    )
    videos = torch.randint(0, 20, (40,), generator=generator)
    found = []
    for order in orders:
        state = Thresholds(method, ("rgb",), 3, 20, CPU)
        state.observe({"rgb": rows[order]}, videos[order])
        found.append(state.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())

    expected = [-1] * 20
    probabilities = rows.softmax(1)
    for video in range(20):
        own = probabilities[videos == video]
        if len(own) and own.max() >= 0.9:
            expected[video] = int(own.max(0).values.argmax())
    assert found[0][".label_N"].tolist() == expected
    assert -1 in expected
    assert len(set(expected)) == 4


def test_a_video_keeps_its_label_until_another_is_sure() -> None:
    state = Thresholds(replace(FIXMATCH, threshold_rule="flexmatch", threshold=0.9), ("rgb",), 3, 4, CPU)
    remembered = []
    for logits in ([0.0, 9, 0], [1.0, 0, 0], [9.0, 0, 0]):
        state.observe({"rgb": torch.tensor([logits])}, torch.tensor([2]))
        remembered.append(state.states[""]["label_N"].tolist())
    assert remembered == [[-1, -1, 1, -1], [-1, -1, 1, -1], [-1, -1, 0, -1]]


@pytest.mark.parametrize(("metric", "names"), [("avg", [""]), ("tg", [""]), ("individual", ["rgb", "tg"])])
def test_views_share_a_state_if_the_same_scores_label_them(metric: losses.PseudoLabelMetric, names: list[str]) -> None:
    method = replace(FIXMATCH, threshold_rule="freematch", pseudo_label_metric=metric, threshold_momentum=0.0)
    state = Thresholds(method, ("rgb", "tg"), 4, 0, CPU)
    assert list(state.states) == names
    generator = torch.Generator().manual_seed(2)
    weak: dict[View, torch.Tensor] = {view: torch.randn(6, 4, generator=generator) for view in ("rgb", "tg")}
    trust = state.observe(weak, None)
    assert torch.equal(trust["rgb"].least_K, trust["tg"].least_K) == (len(names) == 1)
    for view in weak:
        scores = {"avg": (weak["rgb"] + weak["tg"]) / 2, "tg": weak["tg"]}.get(metric, weak[view])
        expected = scores.softmax(1)
        level = expected.amax(1).mean() * expected.mean(0) / expected.mean(0).max()
        close(trust[view].least_K, level, view)


def test_a_step_that_overflows_leaves_no_trace_in_the_state() -> None:
    for rule in ("freematch", "flexmatch", "softmatch"):
        state = Thresholds(replace(FIXMATCH, threshold_rule=rule), ("rgb",), 3, 2, CPU)
        before = {name: value.clone() for name, value in state.states[""].items()}
        state.observe({"rgb": torch.tensor([[float("inf"), 0.0, 0.0], [0.0, 0.0, 9.0]])}, torch.tensor([0, 1]))
        kept = {"level", "probability_K", "mean", "variance"} & before.keys()
        assert all(torch.equal(state.states[""][name], before[name]) for name in kept)
        assert all(value.isfinite().all() for name, value in state.states[""].items() if name in kept | {"learnt_K"})


def test_one_row_has_no_variance_and_no_trusted_row_no_fairness() -> None:
    state = Thresholds(replace(FIXMATCH, threshold_rule="softmatch"), ("rgb",), 3, 0, CPU)
    state.observe({"rgb": torch.tensor([[1.0, 0.0, 0.0]])}, None)
    assert float(state.states[""]["variance"]) == 1.0
    strong = torch.randn(4, 3, requires_grad=True)
    targets = losses.pseudo_labels(torch.randn(4, 3), 1.1)
    loss = losses.fairness_loss(strong, targets, torch.full((3,), 1 / 3))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert strong.grad is not None
    assert not strong.grad.any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "uda", "threshold_rule": "freematch"}, "threshold_rule: got freematch, expected fixed"),
        ({"threshold_rule": "adaptive"}, "threshold_rule: got 'adaptive', expected one of fixed, freematch"),
        ({"threshold_momentum": 1.0}, "threshold_momentum: got 1.0, expected 0 or more, less than 1"),
        ({"freematch_quantile": 1.5}, "freematch_quantile: got 1.5"),
        ({"freematch_clip": 0.0}, "freematch_clip: got 0.0"),
        ({"fairness_weight": -1.0}, "fairness_weight: got -1.0"),
        ({"softmatch_n_sigma": 0.0}, "softmatch_n_sigma: got 0.0"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(FIXMATCH, **changes)


def test_a_state_of_another_rule_or_size_is_refused() -> None:
    state = Thresholds(replace(FIXMATCH, threshold_rule="flexmatch"), ("rgb",), 3, 5, CPU)
    for saved in (
        {},
        Thresholds(replace(FIXMATCH, threshold_rule="freematch"), ("rgb",), 3, 5, CPU).state_dict(),
        Thresholds(replace(FIXMATCH, threshold_rule="flexmatch"), ("rgb",), 3, 6, CPU).state_dict(),
    ):
        with pytest.raises(ValueError, match="no thresholds of rule flexmatch"):
            state.load_state_dict(saved)
