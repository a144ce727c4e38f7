"""The EMA teacher: its average by hand, what it labels, and what the student then forwards."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manifests.records import InputError
from tests.train.method.support import (
    METHOD_CASES,
    ONE_VIEW,
    SMALL_MODEL,
    blocks,
    close,
    randn,
    scaled_model,
    whole_batch,
)
from tgtrain.method import losses
from tgtrain.method.accumulate import add_gradients
from tgtrain.method.networks.model import Model, build_model
from tgtrain.method.settings import MethodSettings, TeacherBatchNorm
from tgtrain.method.step import forward_views, step_terms
from tgtrain.method.teacher import Teacher

FIXMATCH = replace(METHOD_CASES["fixmatch"][0], teacher="ema")
LTG = replace(METHOD_CASES["ltg"][0], teacher="ema")


def disturbed(model: Model, seed: int) -> Model:
    """The model with other weights and statistics."""
    with torch.no_grad():
        for number, value in enumerate([*model.parameters(), *model.buffers()]):
            if value.is_floating_point():
                value.add_(0.1 * randn(*value.shape, seed=seed + number).abs())
            else:
                value.add_(seed)
    return model


@pytest.mark.parametrize("batch_norm", ["average", "copy"])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_the_average_is_the_one_by_hand(batch_norm: TeacherBatchNorm, decay: float) -> None:
    method = replace(LTG, teacher_decay=decay, teacher_batch_norm=batch_norm)
    student = build_model(SMALL_MODEL, seed=1)
    teacher = Teacher(build_model(SMALL_MODEL), student, method)
    expected = {name: value.clone() for name, value in student.state_dict().items()}
    weights = dict(student.named_parameters())
    for step in range(4):
        disturbed(student, 100 * step)
        teacher.update(student, step)
        share = min(decay, (1 + step) / (10 + step))
        for name, new in student.state_dict().items():
            copied = name not in weights and (batch_norm == "copy" or not new.is_floating_point())
            expected[name] = new.clone() if copied else share * expected[name] + (1 - share) * new
    for name, value in teacher.model.state_dict().items():
        close(value, expected[name], name, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert not teacher.model.training


def views_and_models(settings: Any = ONE_VIEW) -> tuple[Any, Model, Model]:
    """A batch, the student, and another model in eval mode that stands for its teacher."""
    student, views = scaled_model(replace(settings, dropout=0.0)), whole_batch(settings)
    teacher = copy.deepcopy(student)
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():
        for number, parameter in enumerate(teacher.parameters()):
            parameter.mul_(1 + 0.1 * randn(*parameter.shape, seed=number))
        forward_views(teacher, views)
    return views, student, teacher.eval().requires_grad_(False)


def rows_of(model: nn.Module, network: nn.Module) -> list[int]:
    """Filled with the number of rows of every forward through a network of the model."""
    rows: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    return rows


def test_the_teacher_labels_and_the_student_forwards_the_others_alone() -> None:
    views, student, teacher = views_and_models()
    with torch.no_grad():
        scores = teacher(views.weak.rgb).rgb.logits_BK
    method = replace(FIXMATCH, threshold=float(scores.softmax(1).amax(1).median()))
    others = copy.deepcopy(student)(torch.cat([views.labelled.rgb, views.strong.rgb])).rgb.logits_BK
    targets = losses.pseudo_labels(scores, method.threshold)
    expected = losses.supervised_loss(others[:8], views.labels_B) + losses.pseudo_label_loss(others[8:], targets)
    before = copy.deepcopy(teacher.state_dict())
    seen, labelled = rows_of(student, student.backbone("rgb")), rows_of(teacher, teacher.backbone("rgb"))
    terms = step_terms(student, views, method, 0, teacher=teacher)
    terms.total.backward()
    close(terms.total, expected, "total")
    assert 0 < float(terms.diagnostics["train/num_selected"]) < 8
    assert (seen, labelled) == ([16], [8])
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_student_forwards_weak_views_that_it_learns_from() -> None:
    views, student, teacher = views_and_models(SMALL_MODEL)
    plain = step_terms(copy.deepcopy(student), views, replace(LTG, teacher="none"), 0)
    seen = rows_of(student, student.backbone("tg"))
    terms = step_terms(student, views, LTG, 0, teacher=teacher)
    assert seen == [24]
    for got, expected in zip((*terms.align, *terms.contrast), (*plain.align, *plain.contrast), strict=True):
        close(got, expected, "alignment and contrast")
    with torch.no_grad():
        output = teacher(views.weak.rgb, views.weak.tg)
    scores = (output.rgb.logits_BK + output.tg.logits_BK) / 2
    trusted = losses.pseudo_labels(scores, LTG.threshold).confident_U
    assert float(terms.diagnostics["train/num_selected"]) == float(trusted.sum())
    assert not torch.equal(terms.pseudo["rgb"], plain.pseudo["rgb"])


@pytest.mark.parametrize("case", ["fixmatch", "ltg", "freematch"])
def test_parts_are_labelled_by_the_same_teacher(case: str) -> None:
    """With the statistics of BatchNorm frozen the parts are the batch in one piece."""
    method, settings = METHOD_CASES[case]
    method = replace(method, teacher="ema", threshold_rule="fixed")
    views, student, teacher = views_and_models(settings)
    student.eval()
    for name, module in student.named_modules():
        if name.startswith("project"):
            module.train()  # has an output in train mode alone
            module.requires_grad_(True)
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    joined = copy.deepcopy(student)
    terms = step_terms(joined, views, method, 0, teacher=teacher)
    terms.total.backward()
    parts = blocks(views, 2, 1)
    add_gradients(student, lambda: parts, 2, method, 0, teacher=teacher)
    for (name, one), other in zip(joined.named_parameters(), student.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        close(other.grad, one.grad, name, atol=1e-4 * float(one.grad.abs().max()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": "mean"}, "teacher: got 'mean', expected one of none, ema"),
        ({"teacher_decay": 1.0}, "teacher_decay: got 1.0, expected 0 or more, less than 1"),
        ({"teacher_batch_norm": "train"}, "teacher_batch_norm: got 'train', expected one of average, copy"),
        ({"method": "uda", "uda_detach": False}, "teacher: got ema, but uda_detach false learns from the weak views"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(FIXMATCH, **changes)
    assert MethodSettings().teacher == "none"


def test_uda_and_supervised_accept_a_teacher() -> None:
    views, student, teacher = views_and_models()
    uda = replace(FIXMATCH, method="uda", threshold=0.2)
    assert float(step_terms(student, views, uda, 0, teacher=teacher).pseudo["rgb"].detach()) > 0
    no_weak = replace(views, weak=None, strong=None, true_labels_U=None, videos_U=None, soft_UK=None)
    terms = step_terms(student, no_weak, replace(FIXMATCH, method="supervised"), 0, teacher=teacher)
    assert not terms.pseudo
    assert isinstance(terms.total, Tensor)
