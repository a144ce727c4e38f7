"""SGD with steps that a scaler skips, with checkpoints of other devices, and fused on the CPU as on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.train.support import ALONE, run, setup_of, weights
from tgtrain.config import OptimiserSettings
from tgtrain.run.checkpoint import list_checkpoints, load
from tgtrain.train.learner import Learner, make_optimiser, restore

SETTINGS = OptimiserSettings(learning_rate=0.1, momentum=0.9, weight_decay=0.01)
FLOAT16 = ("runtime.precision=float16", "model.width=2", "evaluate.every_epochs=0")


@pytest.fixture
def no_values() -> Iterator[None]:
    """Memory that is taken without values holds NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def stepped(factors: list[float], *, fused: bool, settings: OptimiserSettings = SETTINGS) -> torch.Tensor:
    """A weight after a step of a scaled loss for each factor of it; a step of inf is skipped."""
    weight = nn.Parameter(torch.linspace(-1, 1, 24).reshape(4, 6))
    optimiser, scaler = make_optimiser([weight], settings, fused=fused), torch.amp.GradScaler("cpu")
    for factor in factors:
        optimiser.zero_grad()
        scaler.scale((factor * weight.square()).sum()).backward()
        scaler.unscale_(optimiser)
        scaler.step(optimiser)
        scaler.update()
    return weight.detach()


def always_fused(parameters: Any, settings: OptimiserSettings, *, fused: bool) -> torch.optim.SGD:
    return make_optimiser(parameters, settings, fused=True)


@pytest.mark.parametrize("factors", [[1.0, 2.0], [torch.inf, 1.0, 2.0], [torch.inf, torch.inf, 1.0, torch.inf, 2.0]])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_skipped_step_leaves_no_trace(factors: list[float], momentum: float, no_values: None) -> None:
    settings = OptimiserSettings(learning_rate=0.1, momentum=momentum, weight_decay=0.01)
    expected = stepped([1.0, 2.0], fused=False, settings=settings)
    torch.testing.assert_close(stepped(factors, fused=True, settings=settings), expected)
    assert torch.equal(stepped(factors, fused=False, settings=settings), expected)


def test_weight_with_a_late_first_gradient_is_updated() -> None:
    """As if a checkpoint had no momentum of it."""
    one, other = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimiser = make_optimiser([one, other], SETTINGS, fused=True)
    one.sum().backward()
    optimiser.step()
    state = optimiser.state_dict()
    del state["state"][1]
    restore(optimiser, state)
    (one + other).sum().backward()
    optimiser.step()
    torch.testing.assert_close(other.detach(), torch.full((3,), 1 - 0.1 * (1 + 0.01)))


@pytest.mark.parametrize("fused", [False, True])
def test_momentum_of_another_memory_layout_is_converted(fused: bool) -> None:
    """As in a checkpoint whose weights were not channels last."""
    convolution = nn.Conv3d(3, 4, (1, 2, 3))
    gradient = torch.randn_like(convolution.weight)

    def after_two_steps(other: torch.memory_format) -> torch.Tensor:
        weight = nn.Parameter(convolution.weight.detach().clone())
        optimiser = make_optimiser([weight], SETTINGS, fused=fused)
        weight.grad = gradient.clone()
        optimiser.step()
        state = optimiser.state_dict()
        weight = nn.Parameter(weight.detach().contiguous(memory_format=other))
        optimiser = make_optimiser([weight], SETTINGS, fused=fused)
        restore(optimiser, state)
        weight.grad = 2 * gradient.contiguous(memory_format=other)
        optimiser.step()
        return weight.detach()

    torch.testing.assert_close(after_two_steps(torch.channels_last_3d), after_two_steps(torch.contiguous_format))


@pytest.mark.long
def test_float16_with_fused_kernel_equals_the_plain_one(
    data_set: Path, tmp_path: Path, no_values: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data_set, tmp_path / "plain", *FLOAT16)
    monkeypatch.setattr("tgtrain.train.learner.make_optimiser", always_fused)
    run(data_set, tmp_path / "fused", *FLOAT16)
    plain, fused = weights(tmp_path / "plain"), weights(tmp_path / "fused")
    assert 0 < load(list_checkpoints(tmp_path / "fused")[-1]).extra["num_skipped"] < 12
    assert plain.keys() <= fused.keys()
    for name, value in plain.items():
        torch.testing.assert_close(
            fused[name], value, rtol=0.02, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("saved_fused", [False, True])
def test_checkpoint_of_another_device_keeps_this_kernel(
    data_set: Path, tmp_path: Path, saved_fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = setup_of(data_set, *FLOAT16)
    with monkeypatch.context() as patched:
        if saved_fused:
            patched.setattr("tgtrain.train.learner.make_optimiser", always_fused)
        run(data_set, tmp_path / "run", *FLOAT16, max_steps=2)
    found = load(list_checkpoints(tmp_path / "run")[-1])
    assert found.optimiser["param_groups"][0]["fused"] == (saved_fused or None)
    if not saved_fused:
        monkeypatch.setattr("tgtrain.train.learner.make_optimiser", always_fused)
    learner = Learner(setup.config, ALONE, steps_per_epoch=3)
    learner.load(found)
    assert learner.optimiser.param_groups[0]["fused"] == (None if saved_fused else True)
    momentum = learner.optimiser.state_dict()["state"]
    for number, state in found.optimiser["state"].items():
        assert torch.equal(momentum[number]["momentum_buffer"], state["momentum_buffer"])
    run(data_set, tmp_path / "run", *FLOAT16, max_steps=4)
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())
