"""Ranks (gloo processes) with a share of the batch each are one process with the joined batch, up to rounding.

Every number of ranks is started once, computes all there is to compare and leaves it in files; the tests compare it with
plain PyTorch in this process: BatchNorm layers of torch, one forward over the joined batch, no collectives.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.train.method.support import (
    METHOD_CASES,
    ONE_VIEW,
    SMALL_MODEL,
    close,
    randn,
    scaled_model,
    thresholds_of,
    whole_batch,
)
from tgtrain.data.loader import worker_context
from tgtrain.method.networks.dropout import share_dropout
from tgtrain.method.networks.model import Model, build_model
from tgtrain.method.networks.precise_bn import recompute_statistics
from tgtrain.method.networks.sync_bn import CrossRankBatchNorm, synchronised
from tgtrain.method.step import Clips, StepInputs, step_terms
from tgtrain.method.terms import CLASS_COUNTS, COUNTS, named_values

CPU = torch.device("cpu")
SHAPES = [(12, 6), (12, 6, 2, 3, 5), (8, 1)]


def share_of(views: StepInputs, rank: int, num_ranks: int) -> StepInputs:
    def own(part: Clips | None) -> Clips:
        assert part is not None
        return Clips(*(None if view is None else view[rank::num_ranks] for view in (part.rgb, part.tg)))

    assert views.true_labels_U is not None
    assert views.videos_U is not None
    assert views.soft_UK is not None
    return StepInputs(
        own(views.labelled),
        views.labels_B[rank::num_ranks],
        own(views.weak),
        own(views.strong),
        views.true_labels_U[rank::num_ranks],
        views.videos_U[rank::num_ranks],
        views.soft_UK[rank::num_ranks],
    )


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items() if "running_" in name}


def step_of(network: nn.Module, model: Model, views: StepInputs, case: str) -> dict[str, Any]:
    method, settings = METHOD_CASES[case]
    thresholds = thresholds_of(method, settings)
    torch.manual_seed(11)  # what dropout draws from
    terms = step_terms(network, views, method, epoch=0, thresholds=thresholds)
    terms.total.backward()
    return {
        "values": dict(named_values(terms, method)),
        "gradients": {name: parameter.grad for name, parameter in model.named_parameters()},
        "statistics": statistics(model),
        "thresholds": {} if thresholds is None else thresholds.state_dict(),
    }


def norm_inputs(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Values far from 0, where a variance from plain sums of squares would be wrong, and the gradient of the output."""
    return randn(*shape, seed=5) * torch.linspace(0.1, 30, shape[1]).view(-1, *[1] * (len(shape) - 2)) + 100, randn(
        *shape, seed=6
    )


def uneven(num_rows: int, rank: int, num_ranks: int) -> slice:
    """Every rank one row but the last, which has the rest."""
    return slice(rank, rank + 1 if rank < num_ranks - 1 else num_rows)


def norm_step(layer: nn.Module, rows: Tensor, grad: Tensor) -> dict[str, Any]:
    rows = rows.clone().requires_grad_()
    for _ in range(2):  # running statistics of more than one step
        output = layer(rows)
    output.backward(grad)
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"output": output.detach(), "input": rows.grad, "gradients": gradients, "statistics": statistics(layer)}


def precise_batches(place: int) -> Tensor:
    return 3 * randn(3, 3, 4, 32, 32, seed=place) + place


def on_one_rank(rank: int, num_ranks: int, folder: str) -> None:
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=num_ranks)
    found: dict[str, Any] = {}
    for name, (_, settings) in METHOD_CASES.items():
        model = synchronised(scaled_model(settings), CPU)
        share_dropout(model, rank, num_ranks)
        network = DistributedDataParallel(model, broadcast_buffers=False)
        found[name] = step_of(network, model, share_of(whole_batch(settings), rank, num_ranks), name)
    for number, shape in enumerate(SHAPES):
        for affine, momentum in ((True, 0.1), (False, None)):
            layer = CrossRankBatchNorm(shape[1], eps=1e-3, momentum=momentum, affine=affine).train()
            rows, grad = (part[uneven(shape[0], rank, num_ranks)] for part in norm_inputs(shape))
            found[f"norm {number} {affine}"] = norm_step(layer, rows, grad)
    network = synchronised(scaled_model(ONE_VIEW), CPU).backbone("rgb")
    mine = [precise_batches(place) for place in range(rank, 3, num_ranks)]  # of four ranks the last has none
    used = recompute_statistics(network, mine)
    found["precise"] = {"statistics": statistics(network), "used": used}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of 2 and of 4 ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    worker_context()  # a server that has imported torch once makes all processes
    mp.start_processes(on_one_rank, args=(request.param, str(folder)), nprocs=request.param, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


@pytest.mark.parametrize("case", METHOD_CASES)
def test_step_of_several_ranks_equals_the_joined_batch(ranks: list[dict[str, Any]], case: str) -> None:
    _, settings = METHOD_CASES[case]
    model = scaled_model(settings)
    expected = step_of(model, model, whole_batch(settings), case)
    found = [rank[case] for rank in ranks]
    selected = float(expected["values"]["train/num_selected"])
    assert 0 < selected < 8, "the threshold must trust some rows and not all"
    for name, value in expected["values"].items():
        over_ranks = torch.stack([each["values"][name] for each in found])
        together = over_ranks.sum(0) if name in (*COUNTS, CLASS_COUNTS) else over_ranks.mean(0)
        close(together, value, name, rtol=1e-4)
    for name, gradient in expected["gradients"].items():
        scale = float(gradient.abs().max())
        for each in found:
            assert torch.equal(each["gradients"][name], found[0]["gradients"][name]), name
        close(found[0]["gradients"][name], gradient, name, atol=1e-4 * scale)
    for name, value in expected["thresholds"].items():
        for each in found:
            assert torch.equal(each["thresholds"][name], found[0]["thresholds"][name]), name
        close(found[0]["thresholds"][name], value, name)
    for name, value in expected["statistics"].items():
        for each in found:
            assert torch.equal(each["statistics"][name], found[0]["statistics"][name]), name
        close(found[0]["statistics"][name], value, name, rtol=1e-4)


@pytest.mark.parametrize("number", range(len(SHAPES)))
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_over_uneven_ranks_equals_all_rows(ranks: list[dict[str, Any]], number: int, affine: bool) -> None:
    shape = SHAPES[number]
    kind = nn.BatchNorm3d if len(shape) == 5 else nn.BatchNorm1d
    layer = kind(shape[1], eps=1e-3, momentum=0.1 if affine else None, affine=affine).double().train()
    rows, grad = norm_inputs(shape)
    expected = norm_step(layer, rows.double(), grad.double())
    found = [rank[f"norm {number} {affine}"] for rank in ranks]
    for name in ("output", "input"):
        got = torch.cat([each[name] for each in found])
        close(got.double(), expected[name], name, atol=1e-3)
    for name, gradient in expected["gradients"].items():
        got = torch.stack([each["gradients"][name] for each in found]).sum(0)
        close(got.double(), gradient, name, atol=2e-3)
    for name, value in expected["statistics"].items():
        assert all(torch.equal(each["statistics"][name], found[0]["statistics"][name]) for each in found)
        close(found[0]["statistics"][name].double(), value, name, rtol=1e-5)


def test_precise_statistics_of_uneven_ranks_equal_all_batches(ranks: list[dict[str, Any]]) -> None:
    network = scaled_model(ONE_VIEW).backbone("rgb")
    assert recompute_statistics(network, map(precise_batches, range(3))) == 3
    assert sum(rank["precise"]["used"] for rank in ranks) == 3
    for name, value in statistics(network).items():
        assert all(
            torch.equal(rank["precise"]["statistics"][name], ranks[0]["precise"]["statistics"][name]) for rank in ranks
        )
        close(ranks[0]["precise"]["statistics"][name], value, name, rtol=1e-4)


def test_one_rank_is_plain_batch_norm() -> None:
    model = scaled_model(ONE_VIEW)
    joined = synchronised(copy.deepcopy(model), CPU)
    assert list(joined.state_dict()) == list(model.state_dict())
    layers = [m for m in joined.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert layers
    assert all(isinstance(layer, CrossRankBatchNorm) for layer in layers)
    views = whole_batch(METHOD_CASES["fixmatch"][1])
    one, other = (step_of(each, each, views, "fixmatch") for each in (model, joined))
    for part in ("values", "gradients", "statistics"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])


def test_dropout_of_a_rank_equals_that_of_its_rows() -> None:
    model = build_model(SMALL_MODEL).train()
    plain, rows = nn.Dropout(0.5), randn(12, 7, seed=1)
    torch.manual_seed(2)
    expected = plain(rows)
    for stride in (1, 2, 3, 4):
        for first in range(stride):
            share_dropout(model, first, stride)
            torch.manual_seed(2)
            assert torch.equal(model.head_rgb.dropout(rows[first::stride]), expected[first::stride])
    model.eval()
    assert torch.equal(model.head_rgb.dropout(rows), rows)
