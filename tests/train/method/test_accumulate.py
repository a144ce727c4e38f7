"""A batch in parts: with BatchNorm frozen it is the batch in one piece; what BatchNorm changes is what the docs say, no more."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from manifests.records import InputError
from tests.train.method.support import (
    PART_CASES,
    TWO_CLIPS,
    batch_of,
    blocks,
    close,
    model_of,
    thresholds_of,
    whole_batch,
)
from tests.train.support import dataset_of, equal, replace_rank, run, setup_of, weights
from tgtrain.data.batch import SslBatch, split_batch
from tgtrain.method import losses
from tgtrain.method.accumulate import add_gradients, clip_gradients, rescale_bn_momentum
from tgtrain.method.networks.model import Model
from tgtrain.method.step import forward_views, step_terms
from tgtrain.method.terms import named_values
from tgtrain.method.thresholds import Thresholds
from tgtrain.ranks.distributed import Ranks
from tgtrain.train.trainer import train


def parts_step(
    model: Model, case: str, num_parts: int, **options: str | Thresholds | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Values and gradients of the batch in parts."""
    method, _ = PART_CASES[case]
    parts = blocks(batch_of(case), num_parts, method.clips_per_video)
    values = add_gradients(model, lambda: parts, num_parts, method, epoch=0, **options)  # type: ignore[arg-type]
    return dict(values), {name: parameter.grad for name, parameter in model.named_parameters()}  # type: ignore[misc]


@pytest.mark.parametrize("case", PART_CASES)
@pytest.mark.parametrize("num_parts", [2, 4])
def test_with_frozen_statistics_the_parts_are_the_batch(case: str, num_parts: int) -> None:
    method, settings = PART_CASES[case]
    joined = model_of(case, frozen=True)
    whole, in_parts = thresholds_of(method, settings), thresholds_of(method, settings)
    terms = step_terms(joined, batch_of(case), method, epoch=0, thresholds=whole)
    terms.total.backward()
    expected = dict(named_values(terms, method))
    if method.uses_pseudo_labels:
        assert 0 < float(expected["train/num_selected"]) < 8, "the threshold must trust some rows and not all"
    model = model_of(case, frozen=True)
    values, gradients = parts_step(model, case, num_parts, thresholds=in_parts)
    assert list(values) == list(expected)
    for name, value in whole.state_dict().items() if whole else ():
        assert in_parts is not None
        close(in_parts.state_dict()[name], value, name)
    for name, value in expected.items():
        close(values[name], value, name, rtol=1e-4)
    for name, parameter in joined.named_parameters():
        assert parameter.grad is not None
        close(gradients[name], parameter.grad, name, atol=1e-4 * float(parameter.grad.abs().max()))


def test_trusted_clips_of_uda_are_counted_over_all_parts() -> None:
    """Dividing each part by its own count would give another loss: the parts trust different numbers."""
    method, settings = PART_CASES["uda"]
    model = model_of("uda", frozen=True)
    parts = blocks(whole_batch(settings), 4, 1)
    own = [step_terms(model, part, method, epoch=0) for part in parts]
    assert len({float(terms.diagnostics["train/num_selected"]) for terms in own}) > 1
    values, _ = parts_step(model, "uda", 4)
    mean_of_means = sum(float(terms.pseudo["rgb"]) for terms in own) / 4
    assert abs(float(values["loss/pseudo_rgb"]) - mean_of_means) > 1e-3


def test_contrast_over_a_part_has_the_negatives_of_that_part_alone() -> None:
    method, settings = PART_CASES["ltg"]
    model = model_of("ltg", frozen=True)
    parts = blocks(whole_batch(settings), 2, 1)
    own = [step_terms(model, part, method, epoch=0).contrast[0] for part in parts]
    over_part, _ = parts_step(model, "ltg", 2, over="part")
    over_batch, _ = parts_step(model, "ltg", 2)
    name = "loss/contrast_crossview_sameclip"
    close(over_part[name], torch.stack(own).mean().detach(), name)
    assert float(over_batch[name]) > float(over_part[name]) + 0.3  # twice the rows: about log 2 more to tell apart


def test_batch_norm_sees_each_part_and_its_averages_reach_as_far_as_before() -> None:
    """The statistics of the first layer by hand: the parts one after the other, the step weighing 0.1 as it does in one piece."""
    case, num_parts = "ltg", 4
    model = model_of(case, frozen=False)
    plain = copy.deepcopy(model)
    rescale_bn_momentum(model, num_parts)
    first = next(m for m in model.modules() if isinstance(m, _BatchNorm))
    seen: list[Tensor] = []
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    values, _ = parts_step(model, case, num_parts)
    assert len(seen) == 2 * num_parts  # once to survey, once to learn
    assert first.momentum is not None
    assert (1 - first.momentum) ** num_parts == pytest.approx(0.9)
    assert first.running_mean is not None
    mean = torch.zeros_like(first.running_mean)
    for rows in seen[num_parts:]:
        mean = (1 - first.momentum) * mean + first.momentum * rows.mean(dim=(0, 2, 3, 4))
    close(first.running_mean, mean, "running mean")
    assert first.num_batches_tracked is not None
    assert int(first.num_batches_tracked) == num_parts
    # The survey and the pass that learns see the same, and the contrast is that of the embeddings of all parts.
    for surveyed, learnt in zip(seen[:num_parts], seen[num_parts:], strict=True):
        assert torch.equal(surveyed, learnt)
    method, settings = PART_CASES[case]
    outputs = [forward_views(plain, part) for part in blocks(whole_batch(settings), num_parts, 1)]
    rows = len(whole_batch(settings).labels_B) // num_parts * 2
    rgb, tg = (torch.cat([getattr(output, view).embedding_BD[:rows] for output in outputs]) for view in ("rgb", "tg"))
    expected = losses.contrast_loss(rgb, tg, method.temperature)
    close(values["loss/contrast_crossview_sameclip"], expected.detach(), "contrast")


def test_the_survey_leaves_running_statistics_as_they_are() -> None:
    surveyed, unsurveyed = (model_of("ltg", frozen=False) for _ in range(2))
    parts_step(surveyed, "ltg", 2)
    parts_step(unsurveyed, "ltg", 2, over="part")
    found, expected = surveyed.state_dict(), unsurveyed.state_dict()
    for name in (name for name in found if "running_" in name or "num_batches" in name):
        assert torch.equal(found[name], expected[name]), name
    assert all(layer.track_running_stats for layer in surveyed.modules() if isinstance(layer, nn.BatchNorm3d))


@pytest.mark.parametrize("may_ask", [True, False])
@pytest.mark.parametrize(("limit", "factor"), [(0.0, 1.0), (100.0, 1.0), (10.0, 1.0), (2.5, 0.5)])
def test_gradients_are_scaled_to_the_limit_and_no_further(may_ask: bool, limit: float, factor: float) -> None:
    layer = nn.Linear(2, 2)
    layer.weight.grad = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    layer.bias.grad = torch.tensor([0.0, 4.0])
    norm = clip_gradients(layer, limit, may_ask)
    assert float(norm) == 5.0
    torch.testing.assert_close(layer.weight.grad, factor * torch.tensor([[3.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(layer.bias.grad, factor * torch.tensor([0.0, 4.0]))
    layer.bias.grad = torch.tensor([0.0, float("inf")])
    assert not torch.isfinite(clip_gradients(layer, 2.5, may_ask))


@pytest.mark.parametrize("num_clips", [1, 2])
def test_parts_of_all_ranks_are_the_blocks_of_the_global_batch(data_set: Path, num_clips: int) -> None:
    dataset = dataset_of(data_set, labelled=4, unlabelled=8)
    dataset.clip = replace(dataset.clip, num_clips=num_clips)
    dataset.strong_labelled = True
    whole = dataset[3]
    for world_size, num_parts in ((1, 2), (1, 4), (2, 2)):
        shares = [split_batch(replace_rank(dataset, rank, world_size)[3], num_parts) for rank in range(world_size)]
        for k in range(num_parts):
            for name, size in (("labelled", 4), ("unlabelled", 8)):
                check_block([share[k] for share in shares], whole, name, slice(k * size // num_parts, (k + 1) * size // num_parts))  # fmt: skip
    assert split_batch(whole, 1) == [whole]


def check_block(mine: list[SslBatch], whole: SslBatch, name: str, block: slice) -> None:
    """The parts of all ranks, dealt out in turn, are the videos of the block with all their clips and plans."""
    everything = getattr(whole, name)
    plans = whole.strong_rgb if name == "unlabelled" else whole.labelled_rgb
    num_videos = len(everything.keys)
    for rank, part in enumerate(mine):
        clips = getattr(part, name)
        videos = range(num_videos)[block][rank :: len(mine)]
        rows = [clip * num_videos + video for clip in range(len(everything.labels) // num_videos) for video in videos]
        assert clips.keys == tuple(everything.keys[video] for video in videos)
        for tensor in ("rgb", "tg", "labels"):
            assert torch.equal(getattr(clips, tensor), getattr(everything, tensor)[rows])
        own_plans = part.strong_rgb if name == "unlabelled" else part.labelled_rgb
        assert own_plans == tuple(plans[row] for row in rows)


@pytest.mark.parametrize("changes", [(), TWO_CLIPS, ("method.method=uda", "runtime.accumulate_contrast=part")])
def test_a_run_in_parts_stops_and_resumes_to_the_same_end(
    data_set: Path, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    changes = (*changes, "runtime.accumulate=2", "optimiser.epochs=2", "method.warmup_epochs=0")
    run(data_set, tmp_path / "whole", *changes)
    run(data_set, tmp_path / "parts", *changes, max_steps=4)
    assert not equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    run(data_set, tmp_path / "parts", *changes)
    assert equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("ranks", "override", "said"),
    [
        (1, "runtime.accumulate=3", "batch.labelled is 4, which 1 processes, each in runtime.accumulate=3 parts, cannot share evenly. Set it to a multiple of 3"),
        (2, "runtime.accumulate=4", "Set it to a multiple of 8, or use another number of processes or parts"),
    ],
)  # fmt: skip
def test_parts_that_are_not_equal_are_refused(
    data_set: Path, tmp_path: Path, ranks: int, override: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        train(setup_of(data_set, override), tmp_path / "run", Ranks(0, ranks, torch.device("cpu")), log=print)
    assert not (tmp_path / "run").exists()


def test_another_number_of_parts_is_another_run(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "run", max_steps=1)
    with pytest.raises(InputError, match="runtime.accumulate: 1 there, 2 asked"):
        run(data_set, tmp_path / "run", "runtime.accumulate=2")


def test_the_unlabelled_batch_of_a_supervised_run_need_not_be_shared(data_set: Path, tmp_path: Path) -> None:
    outcome = run(
        data_set, tmp_path / "run", "batch.unlabelled=5", "runtime.accumulate=2", recipe="demo-supervised", max_steps=1
    )
    assert outcome.step == 1
