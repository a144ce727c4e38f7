"""Precise BatchNorm against averages computed by plain numpy from the inputs that each layer saw."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tgtrain.method.networks.backbones import R3D
from tgtrain.method.networks.model import ModelSettings, build_model
from tgtrain.method.networks.precise_bn import recompute_statistics


def small_network() -> R3D:
    model = build_model(ModelSettings(4, streams="rgb", depth=10, width=4, projection="none"), seed=3)
    network = model.backbone("rgb")
    assert isinstance(network, R3D)
    return network


def make_batches(num_batches: int, rows: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [3 * torch.randn(rows, 3, 4, 32, 32, generator=generator) + i for i in range(num_batches)]


def norms(network: nn.Module) -> dict[str, nn.BatchNorm3d]:
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm3d)}


def plain_averages(network: nn.Module, batches: list[Tensor]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean over batches of each layer's batch mean and unbiased batch variance, in float64."""
    network = copy.deepcopy(network).train()
    means: dict[str, list[np.ndarray]] = {name: [] for name in norms(network)}
    variances: dict[str, list[np.ndarray]] = {name: [] for name in means}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].numpy().astype(np.float64)
            means[name].append(x.mean(axis=(0, 2, 3, 4)))
            variances[name].append(x.var(axis=(0, 2, 3, 4), ddof=1))

        return hook

    for name, layer in norms(network).items():
        layer.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        for batch in batches:
            network(batch)
    return {name: (np.mean(means[name], axis=0), np.mean(variances[name], axis=0)) for name in means}


@pytest.mark.parametrize("num_batches", [1, 2, 5])
def test_statistics_are_plain_averages(num_batches: int) -> None:
    network, batches = small_network(), make_batches(num_batches)
    expected = plain_averages(network, batches)
    for layer in norms(network).values():  # whatever the statistics were, they must not shine through
        assert layer.running_mean is not None
        layer.running_mean.fill_(1e6)
    assert recompute_statistics(network, iter(batches)) == num_batches
    for name, layer in norms(network).items():
        mean, variance = expected[name]
        np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-4, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(layer.running_var, variance, rtol=1e-4, err_msg=name)


def test_only_the_statistics_change() -> None:
    network = small_network()
    network.train()
    network.stage3.eval()
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    recompute_statistics(network, make_batches(3))
    assert [module.training for module in network.modules()] == modes
    assert {layer.momentum for layer in norms(network).values()} == {0.1}
    for name, value in network.state_dict().items():
        changed = not torch.equal(value, before[name])
        assert changed == name.endswith(("running_mean", "running_var")), name


def test_no_batches_leave_the_statistics() -> None:
    network = small_network()
    before = copy.deepcopy(network.state_dict())
    assert recompute_statistics(network, []) == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_modes_come_back_when_reading_fails() -> None:
    network = small_network().train()

    def broken() -> Any:
        yield from make_batches(1)
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        recompute_statistics(network, broken())
    assert all(module.training for module in network.modules())
    assert {layer.momentum for layer in norms(network).values()} == {0.1}


def test_only_the_given_network_of_a_model_is_touched() -> None:
    model = build_model(ModelSettings(4, depth=10, width=4))
    before = copy.deepcopy(model.state_dict())
    recompute_statistics(model.backbone("rgb"), make_batches(2))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("rgb.") for name in changed)


def test_statistics_steady_the_evaluation() -> None:
    """With statistics from its own training batch, eval mode gives what train mode gives, up to the variance's n - 1."""
    network, (batch,) = small_network(), make_batches(1, rows=8)
    recompute_statistics(network, [batch])
    with torch.no_grad():
        trained, evaluated = network.train()(batch)[0], network.eval()(batch)[0]
    torch.testing.assert_close(evaluated, trained, rtol=0.02, atol=0.02)
