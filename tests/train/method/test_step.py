"""The step as a whole: which rows go where, warm-ups, diagnostics, and autocast; parity is in test_golden, several ranks in test_ranks."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from manifests.records import InputError
from tgtrain.method import losses
from tgtrain.method.networks.model import Model, ModelSettings, build_model
from tgtrain.method.settings import MethodSettings, check_method
from tgtrain.method.step import Clips, StepInputs, forward_views, loss_terms, step_terms
from tgtrain.method.terms import Terms, named_values, top_k_fraction

SMALL = ModelSettings(5, depth=10, width=4, dropout=0.0)
ONE_VIEW = replace(SMALL, streams="rgb", projection="none")
FIXMATCH = MethodSettings("fixmatch", 1.0, 1.0, align_stages=(), contrast=(), warmup_epochs=0)
LTG = MethodSettings(warmup_epochs=2, threshold=0.2)


def clips(rows: int, seed: int, views: str = "both") -> Clips:
    generator = torch.Generator().manual_seed(seed)
    rgb, tg = (torch.randn(rows, 3, 4, 32, 32, generator=generator) for _ in range(2))
    return Clips(rgb, tg if views == "both" else None)


def make_views(num_labelled: int = 4, num_unlabelled: int = 6, views: str = "both") -> StepInputs:
    return StepInputs(
        clips(num_labelled, 1, views),
        torch.arange(num_labelled) % 5,
        clips(num_unlabelled, 2, views),
        clips(num_unlabelled, 3, views),
        torch.arange(num_unlabelled) % 5,
    )


def value(tensor: Tensor) -> float:
    return float(tensor.detach())


def all_terms(terms: Terms) -> list[Tensor]:
    return [*terms.supervised.values(), *terms.pseudo.values(), *terms.align, *terms.contrast]


def test_each_term_sees_its_rows() -> None:
    """The terms of the step are the loss functions on the rows [labelled 4, weak 6, strong 6], picked here by hand."""
    model, views = build_model(SMALL).train(), make_views()
    output = forward_views(model, views)
    terms = loss_terms(output, views.labels_B, LTG, epoch=2)
    rgb, tg = output.rgb, output.tg
    assert rgb is not None
    assert tg is not None
    assert len(rgb.logits_BK) == 16
    targets = losses.pseudo_labels((rgb.logits_BK[4:10] + tg.logits_BK[4:10]) / 2, 0.2)
    assert value(terms.supervised["tg"]) == pytest.approx(
        0.5 * value(losses.supervised_loss(tg.logits_BK[:4], views.labels_B))
    )
    assert value(terms.pseudo["rgb"]) == pytest.approx(
        0.5 * value(losses.pseudo_label_loss(rgb.logits_BK[10:], targets))
    )
    assert value(terms.pseudo["tg"]) == pytest.approx(0.5 * value(losses.pseudo_label_loss(tg.logits_BK[10:], targets)))
    for stage, term in enumerate(terms.align):
        expected = losses.alignment_loss(rgb.features[stage][:10], tg.features[stage][:10], "cosine", "tg")
        assert value(term) == pytest.approx(value(expected))
    assert rgb.embedding_BD is not None
    assert tg.embedding_BD is not None
    expected = losses.contrast_loss(rgb.embedding_BD[:10], tg.embedding_BD[:10], 0.5)
    assert value(terms.contrast[0]) == pytest.approx(value(expected))
    assert value(terms.total) == pytest.approx(sum(map(value, all_terms(terms))))


def test_pseudo_labels_start_after_their_warm_up() -> None:
    model, views = build_model(SMALL).train(), make_views()
    output = forward_views(model, views)
    before, after = (loss_terms(output, views.labels_B, LTG, epoch) for epoch in (1, 2))
    assert value(before.pseudo["rgb"]) == value(before.pseudo["tg"]) == 0
    assert value(after.pseudo["rgb"]) > 0
    assert value(before.diagnostics["train/num_selected"]) == value(after.diagnostics["train/num_selected"]) > 0


def test_contrast_is_reported_but_not_learnt_during_its_warm_up() -> None:
    model, views = build_model(SMALL).train(), make_views()
    output = forward_views(model, views)
    method = replace(LTG, contrast_warmup_epochs=3, align_stages=())
    before, after = (loss_terms(output, views.labels_B, method, epoch) for epoch in (2, 3))
    assert value(before.contrast[0]) == value(after.contrast[0]) > 0
    assert value(after.total) - value(before.total) == pytest.approx(value(after.contrast[0]), rel=1e-5)
    weights = list(model.get_submodule("project_rgb").parameters())
    assert all(not gradient.any() for gradient in torch.autograd.grad(before.total, weights, retain_graph=True))
    assert all(gradient.any() for gradient in torch.autograd.grad(after.total, weights))


def test_supervised_forwards_the_labelled_rows_alone() -> None:
    model = build_model(ONE_VIEW).train()
    rows: list[int] = []
    model.backbone("rgb").register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    views = StepInputs(clips(4, 1, "rgb"), torch.arange(4))
    terms = step_terms(model, views, replace(FIXMATCH, method="supervised"), epoch=0)
    assert rows == [4]
    assert value(terms.total) == value(terms.supervised["rgb"]) > 0
    assert terms.supervised.keys() == {"rgb"}
    assert not terms.pseudo
    assert terms.diagnostics.keys() == {"train/labelled_top1_rgb", "train/labelled_top5_rgb"}


def test_supervised_training_of_two_streams() -> None:
    model = build_model(SMALL).train()
    method = MethodSettings("supervised")
    check_method(method, SMALL)
    terms = step_terms(model, StepInputs(clips(4, 1), torch.arange(4)), method, epoch=0)
    terms.total.backward()
    assert len(terms.align) == 4
    assert not terms.pseudo
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("method", ["fixmatch", "uda"])
def test_one_view_methods(method: Any) -> None:
    model, views = build_model(ONE_VIEW).train(), make_views(views="rgb")
    terms = step_terms(model, views, replace(FIXMATCH, method=method, threshold=0.2), epoch=0)
    assert value(terms.total) == pytest.approx(value(terms.supervised["rgb"]) + value(terms.pseudo["rgb"]))
    terms.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_diagnostics_are_counts_of_this_batch() -> None:
    model, views = build_model(SMALL).train(), make_views()
    output = forward_views(model, views)
    assert output.rgb is not None
    assert output.tg is not None
    for metric in ("rgb", "individual"):
        method = replace(LTG, pseudo_label_metric=metric, threshold=0.22)
        terms = loss_terms(output, views.labels_B, method, 2, views.true_labels_U)
        teachers = [output.rgb] if metric == "rgb" else [output.rgb, output.tg]
        selected = correct = 0.0
        for teacher in teachers:
            probabilities = teacher.logits_BK[4:10].detach().softmax(1)
            for row, label in zip(probabilities, range(6), strict=True):
                selected += float(row.max()) >= 0.22
                correct += float(row.max()) >= 0.22 and int(row.argmax()) == label % 5
        assert value(terms.diagnostics["train/num_selected"]) == selected / len(teachers)
        assert value(terms.diagnostics["train/mask_fraction"]) == pytest.approx(selected / len(teachers) / 6)
        assert value(terms.diagnostics["train/num_correct"]) == correct / len(teachers)
    right = (output.tg.logits_BK[:4].argmax(1) == views.labels_B).float().mean()
    assert value(terms.diagnostics["train/labelled_top1_tg"]) == value(right)
    assert value(terms.diagnostics["train/labelled_top5_rgb"]) == 1.0  # five classes


def test_top_k_fraction() -> None:
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
    labels = torch.tensor([2, 0])
    assert [float(top_k_fraction(scores, labels, k)) for k in (1, 2, 3, 9)] == [0.5, 1.0, 1.0, 1.0]


def test_named_values_say_which_stage_and_variant() -> None:
    model, views = build_model(SMALL).train(), make_views()
    method = replace(LTG, align_stages=(2, 3))
    terms = step_terms(model, views, method, epoch=2)
    values = dict(named_values(terms, method))
    assert values["loss/align_stage3"] == terms.align[0]
    assert values["loss/contrast_crossview_sameclip"] == terms.contrast[0]
    assert not any(tensor.requires_grad for tensor in values.values())
    losses_shown = [float(tensor) for name, tensor in values.items() if name.startswith("loss/")]
    assert losses_shown[0] == pytest.approx(sum(losses_shown[1:]), rel=1e-5)


def test_two_clips_a_video_are_clip_major() -> None:
    """Row r of clip 1 belongs to row r of clip 2: swapping the clips of all videos changes no crossview loss."""
    model = build_model(SMALL).train()
    method = replace(LTG, contrast=("crossview", "rgb", "tg"), clips_per_video=2, align_stages=())
    views = make_views(4, 6)

    def swap(part: Clips | None) -> Clips:
        assert part is not None
        assert part.rgb is not None
        assert part.tg is not None
        return Clips(part.rgb.roll(len(part) // 2, 0), part.tg.roll(len(part) // 2, 0))

    swapped = StepInputs(swap(views.labelled), views.labels_B.roll(2, 0), swap(views.weak), swap(views.strong))
    first, second = (step_terms(model, v, method, epoch=2) for v in (views, swapped))
    for term, same in zip(first.contrast, second.contrast, strict=True):
        assert value(term) == pytest.approx(value(same), rel=1e-4)
    # Within a clip order matters: shuffling the second clips alone breaks the pairs.
    order = torch.tensor([0, 1, 3, 2])
    labelled = views.labelled
    assert labelled.rgb is not None
    assert labelled.tg is not None
    broken = replace(views, labelled=Clips(labelled.rgb[order], labelled.tg[order]), labels_B=views.labels_B[order])
    third = step_terms(model, broken, method, epoch=2)
    assert abs(value(third.contrast[1]) - value(first.contrast[1])) > 1e-4


def step_of(model: Model, method: MethodSettings, views: StepInputs) -> tuple[Terms, dict[str, Tensor]]:
    model.zero_grad()
    terms = step_terms(model, views, method, epoch=0)
    terms.total.backward()
    return terms, {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("method", ["fixmatch", "uda"])
def test_weak_views_apart_label_as_they_would_alone_and_learn_nothing(method: Any) -> None:
    """Against two forwards written out; with statistics that are frozen there is no difference to the joined forward at all."""
    views = make_views(views="rgb")
    model = build_model(ONE_VIEW, seed=3).train()
    by_hand = copy.deepcopy(model)
    labelled, weak, strong = (part.rgb for part in parts_of(views))
    assert labelled is not None
    assert weak is not None
    assert strong is not None
    with torch.no_grad():
        scores = by_hand(rgb=weak).rgb.logits_BK
    others = by_hand(rgb=torch.cat([labelled, strong])).rgb.logits_BK
    threshold = float(scores.softmax(1).amax(1).median())  # some are trusted, not all
    settings = replace(FIXMATCH, method=method, threshold=threshold)
    apart = replace(settings, weak_forward="apart")
    targets = losses.pseudo_labels(scores, threshold)
    loss = losses.pseudo_label_loss if method == "fixmatch" else losses.uda_loss
    expected = losses.supervised_loss(others[:4], views.labels_B) + loss(others[4:], targets)
    expected.backward()
    forwards: list[tuple[int, bool]] = []
    hook = model.backbone("rgb").register_forward_hook(
        lambda _, inputs, outputs: forwards.append((len(inputs[0]), outputs[0].requires_grad))
    )
    terms, gradients = step_of(model, apart, views)
    assert 0 < value(terms.diagnostics["train/num_selected"]) < 6
    assert value(terms.total) == pytest.approx(value(expected), rel=1e-6)
    hook.remove()
    assert forwards == [(6, False), (10, True)]
    for name, parameter in by_hand.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=lambda m, n=name: f"{n}: {m}")
    for name, buffer in by_hand.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer)

    joined_terms, joined = step_of(copy.deepcopy(by_hand), settings, views)
    assert value(joined_terms.total) != pytest.approx(value(terms.total), rel=1e-4)  # other statistics
    frozen = by_hand.eval()
    (one, first), (other, second) = (step_of(copy.deepcopy(frozen), each, views) for each in (settings, apart))
    assert value(one.total) == pytest.approx(value(other.total), rel=1e-6)
    assert first.keys() == second.keys() == joined.keys()
    for name, gradient in first.items():
        torch.testing.assert_close(second[name], gradient, msg=lambda m, n=name: f"{n}: {m}")


def test_strong_views_apart_change_neither_the_others_nor_the_running_averages() -> None:
    """The others are as in a forward of their own; strong ones are normalised by themselves, and learnt from all the same."""
    views, apart = make_views(), replace(LTG, strong_forward="apart")
    model = build_model(SMALL, seed=3).train()
    by_hand, of_strong, learning = (copy.deepcopy(model) for _ in range(3))
    output = forward_views(model, views, apart)
    labelled, weak, strong = parts_of(views)
    others = by_hand(*(torch.cat(pair) for pair in ((labelled.rgb, weak.rgb), (labelled.tg, weak.tg))))
    joined = forward_views(copy.deepcopy(of_strong), views)
    alone = of_strong(strong.rgb, strong.tg)
    for view in ("rgb", "tg"):
        stream, of_others, of_alone = (getattr(each, view) for each in (output, others, alone))
        torch.testing.assert_close(stream.logits_BK, torch.cat([of_others.logits_BK, of_alone.logits_BK]))
        torch.testing.assert_close(stream.features, of_others.features)
        torch.testing.assert_close(stream.embedding_BD, of_others.embedding_BD)
        assert not torch.allclose(getattr(joined, view).logits_BK[:10], of_others.logits_BK, rtol=0.01)
    for name, buffer in by_hand.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer, msg=lambda m, n=name: f"{n}: {m}")
    terms = loss_terms(forward_views(learning, views, apart), views.labels_B, apart, epoch=2)
    terms.pseudo["tg"].backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in learning.backbone("tg").parameters())


def test_weak_views_that_are_learnt_from_cannot_go_apart() -> None:
    with pytest.raises(InputError, match="align_stages learns from the weak views(.|\n)*contrast learns from"):
        MethodSettings(weak_forward="apart")
    with pytest.raises(InputError, match="uda_detach false learns from the weak views: it needs joined"):
        replace(FIXMATCH, method="uda", weak_forward="apart", uda_detach=False)


def test_autocast_is_close_to_float32() -> None:
    views = make_views()
    expected = step_terms(build_model(SMALL).train(), views, LTG, epoch=2)
    model = build_model(SMALL).train()
    with torch.autocast("cpu", torch.bfloat16):
        got = step_terms(model, views, LTG, epoch=2)
    got.total.backward()
    for term, plain in zip(all_terms(got), all_terms(expected), strict=True):
        assert term.dtype == torch.float32
        assert value(term) == pytest.approx(value(plain), rel=0.1)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("method", [LTG, replace(LTG, method="uda"), replace(LTG, pseudo_label_metric="individual")])
def test_nothing_waits_for_the_device(method: MethodSettings) -> None:
    """Tensors without values: reading a value, or a shape that depends on one, would raise."""
    with FakeTensorMode():
        model, views = build_model(SMALL).train(), make_views()
        terms = step_terms(model, views, method, epoch=2)
        terms.total.backward()
        named_values(terms, method)
        with pytest.raises(DataDependentOutputException):
            terms.total.item()


def test_batches_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="3 labelled rows and 2 labels"):
        StepInputs(clips(3, 1), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="4 weak rows and 5 strong rows"):
        StepInputs(clips(2, 1), torch.zeros(2, dtype=torch.int64), clips(4, 1), clips(5, 1))
    with pytest.raises(ValueError, match="4 weak rows and None strong rows"):
        StepInputs(clips(2, 1), torch.zeros(2, dtype=torch.int64), clips(4, 1))
    with pytest.raises(ValueError, match="both views need the same rows"):
        Clips(clips(2, 1).rgb, clips(3, 1).tg)
    mixed = StepInputs(clips(2, 1), torch.zeros(2, dtype=torch.int64), clips(4, 1, "rgb"), clips(4, 1, "rgb"))
    with pytest.raises(ValueError, match="in all parts of the batch or in none"):
        forward_views(build_model(SMALL), mixed)


def test_all_wrong_method_settings_are_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        MethodSettings(
            method="none",
            threshold=1.5,
            pseudo_label_metric="mean",
            align_stages=(4,),
            align_loss="l3",
            stop_gradient="both",
            contrast=("all",),
            temperature=0,
            clips_per_video=0,
        )
    message = str(caught.value)
    for name in (
        "method",
        "threshold",
        "pseudo_label_metric",
        "align_stages",
        "align_loss",
        "stop_gradient",
        "contrast",
    ):
        assert f"\n  {name}: got" in message
    assert "\n  temperature: got" in message
    assert "\n  clips_per_video: got" in message
    with pytest.raises(InputError, match="contrast crossview, tg expects 2"):
        MethodSettings(contrast=("crossview", "tg"))


@pytest.mark.parametrize(
    ("method", "model", "complaints"),
    [
        (MethodSettings(), ONE_VIEW, ["align_stages", "contrast", "projection"]),
        (MethodSettings(), replace(SMALL, projection="none"), ["projection"]),
        (MethodSettings(contrast=()), SMALL, ["projection"]),
        (MethodSettings("mvpl", contrast=(), align_stages=()), replace(SMALL, projection="none"), ["method mvpl"]),
        (replace(FIXMATCH, pseudo_label_metric="tg"), ONE_VIEW, ["pseudo_label_metric"]),
        (MethodSettings(contrast=("rgb",), clips_per_video=2), SMALL, ["projection"]),
    ],
)
def test_methods_that_the_model_cannot_serve(
    method: MethodSettings, model: ModelSettings, complaints: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        check_method(method, model)
    assert str(caught.value).count("\n") == len(complaints)
    for complaint in complaints:
        assert f"\n  {complaint}" in str(caught.value)


@pytest.mark.parametrize(
    ("method", "model"),
    [
        (LTG, SMALL),
        (LTG, replace(SMALL, projection="shared")),
        (FIXMATCH, ONE_VIEW),
        (FIXMATCH, replace(ONE_VIEW, streams="tg")),
        (MethodSettings("mvpl", contrast=(), align_stages=()), replace(SMALL, streams="joint", projection="none")),
        (replace(LTG, contrast=("rgb", "tg"), clips_per_video=2), SMALL),
        (replace(LTG, contrast=(), align_stages=(3,)), replace(SMALL, projection="none")),
    ],
)
def test_what_check_method_lets_through_trains_every_weight(method: MethodSettings, model: ModelSettings) -> None:
    check_method(method, model)
    network, views = build_model(model).train(), make_views()
    if model.streams in ("rgb", "tg"):
        parts = (Clips(p.rgb, None) if model.streams == "rgb" else Clips(None, p.tg) for p in parts_of(views))
        labelled, weak, strong = parts
        views = StepInputs(labelled, views.labels_B, weak, strong)
    step_terms(network, views, method, epoch=2).total.backward()
    untrained = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert untrained == []


def parts_of(views: StepInputs) -> tuple[Clips, Clips, Clips]:
    assert views.weak is not None
    assert views.strong is not None
    return views.labelled, views.weak, views.strong
