"""Soft targets in the step: the loss by hand, which rows have hard labels beside it, and its warm-up and temperature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from manifests.records import InputError
from tests.train.method.support import METHOD_CASES, PART_CASES, model_of, randn, whole_batch
from tgtrain.data.targets import RunTargets, TargetTable
from tgtrain.method import losses
from tgtrain.method.settings import MethodSettings
from tgtrain.method.step import StepInputs, forward_views, split_rows, step_terms
from tgtrain.method.terms import CLASS_COUNTS, named_values

CASE = "soft targets, ltg"


def by_hand(strong_UK: Tensor, soft_UK: Tensor) -> float:
    """Loop over rows and classes in float64."""
    total = 0.0
    for strong, soft in zip(strong_UK.detach().double().tolist(), soft_UK.double().tolist(), strict=True):
        log_sum = np.log(np.sum(np.exp(strong)))
        total -= sum(q * (z - log_sum) for q, z in zip(soft, strong, strict=True))
    return total / len(strong_UK)


def values_of(method: MethodSettings, views: StepInputs, epoch: int = 0) -> dict[str, float]:
    terms = step_terms(model_of(CASE, frozen=True), views, method, epoch)
    return {name: float(value) for name, value in named_values(terms, method) if name != CLASS_COUNTS}


def test_loss_is_the_cross_entropy_over_the_rows_that_have_a_target() -> None:
    views = whole_batch(PART_CASES[CASE][1])
    method = METHOD_CASES[CASE][0]
    assert views.soft_UK is not None
    rows = split_rows(forward_views(model_of(CASE, frozen=True), views), 8, 1)
    found = values_of(method, views)
    for view, strong_UK in rows.strong.items():
        assert found[f"loss/soft_{view}"] == pytest.approx(0.7 * by_hand(strong_UK, views.soft_UK), rel=1e-5)
    parts = [value for name, value in found.items() if name.startswith("loss/") and name != "loss/total"]
    assert found["loss/total"] == pytest.approx(sum(parts), rel=1e-5)
    assert found["train/soft_fraction"] == 0.5
    labels = views.soft_UK.argmax(dim=1)
    assert views.true_labels_U is not None
    has = torch.arange(8) % 2 == 1
    assert found["train/soft_right"] == pytest.approx(float((has & (labels == views.true_labels_U)).sum()) / 8)
    assert found["train/soft_checked"] == 0.5
    unknown = replace(views, true_labels_U=torch.where(torch.arange(8) == 1, -1, views.true_labels_U))
    assert values_of(method, unknown)["train/soft_checked"] == 0.375
    agree = (has & (rows.strong["rgb"].argmax(dim=1) == labels)).sum()
    assert found["train/soft_agreement_rgb"] == pytest.approx(float(agree) / 8)


def test_hard_labels_are_for_the_rows_without_a_target_or_for_all() -> None:
    views, method = whole_batch(PART_CASES[CASE][1]), METHOD_CASES[CASE][0]
    plain = values_of(replace(method, targets=""), views)
    beside = values_of(replace(method, pseudo_label_rows="all"), views)
    instead = values_of(method, views)
    assert "loss/soft_rgb" not in plain
    for name in ("loss/pseudo_rgb", "train/num_selected"):
        assert beside[name] == plain[name]
        assert 0 < instead[name] < plain[name]
    rows = split_rows(forward_views(model_of(CASE, frozen=True), views), 8, 1)
    weak = torch.stack(list(rows.weak.values())).mean(dim=0)
    labels = losses.pseudo_labels(weak, method.threshold)
    without = labels.confident_U & (torch.arange(8) % 2 == 0)
    expected = losses.pseudo_label_loss(rows.strong["rgb"], replace(labels, confident_U=without))
    assert instead["loss/pseudo_rgb"] == pytest.approx(method.unlabelled_weight * float(expected.detach()), rel=1e-5)


def test_warm_up_leaves_all_rows_to_hard_labels() -> None:
    views, method = whole_batch(PART_CASES[CASE][1]), replace(METHOD_CASES[CASE][0], soft_warmup_epochs=2)
    before, after = values_of(method, views, epoch=1), values_of(method, views, epoch=2)
    plain = values_of(replace(method, targets=""), views, epoch=1)
    soft = {name: before[name] for name in before.keys() - plain.keys()}
    assert {name: before[name] for name in plain} == plain
    assert {name.partition("_")[0] for name in soft} == {"loss/soft", "train/soft"}
    assert not any(soft.values())
    assert list(before) == list(after), "values of one interval of the log have the same names"
    assert after["loss/soft_rgb"] > 0


def test_supervised_learns_from_labels_and_targets_alone() -> None:
    views = whole_batch(PART_CASES[CASE][1])
    method = MethodSettings("supervised", targets="made", align_stages=(), contrast=())
    found = values_of(method, views)
    assert {name for name in found if name.startswith("loss/")} == {
        "loss/total", "loss/supervised_rgb", "loss/supervised_tg", "loss/soft_rgb", "loss/soft_tg",
    }  # fmt: skip
    assert method.uses_unlabelled
    assert not MethodSettings("supervised").uses_unlabelled


def test_a_target_that_is_one_class_is_a_label() -> None:
    strong_UK, labels_U = randn(6, 4, seed=1), torch.arange(6) % 4
    one_hot = torch.nn.functional.one_hot(labels_U, 4).float()
    assert torch.allclose(losses.soft_target_loss(strong_UK, one_hot), losses.supervised_loss(strong_UK, labels_U))
    strong_UK.requires_grad_()
    losses.soft_target_loss(strong_UK, torch.zeros(6, 4)).backward()  # type: ignore[no-untyped-call]
    assert strong_UK.grad is not None
    assert not strong_UK.grad.any()


@pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0, 4.0])
def test_temperature_and_videos_of_the_table(temperature: float) -> None:
    q = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]], np.float32)
    targets = RunTargets("made", "", np.array([1, -1, 0]), q, 0, 0, {})
    table = TargetTable(targets, temperature, torch.device("cpu"))
    found = table.of(torch.tensor([0, 1, 2, 2])).double().numpy()
    expected = q.astype(np.float64) ** (1 / temperature)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, [expected[1], [0, 0, 0], expected[0], expected[0]], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"soft_weight": -1}, "soft_weight"),
        ({"soft_warmup_epochs": -1}, "soft_warmup_epochs"),
        ({"soft_temperature": 0}, "soft_temperature"),
        ({"targets": "../else"}, "targets"),
        ({"pseudo_label_rows": "some"}, "pseudo_label_rows"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=f"(?m)^  {expected}: got"):
        replace(MethodSettings(), **changes)  # type: ignore[arg-type]
