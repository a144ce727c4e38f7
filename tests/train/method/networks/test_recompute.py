"""Activation checkpointing: the same gradients and statistics, bit for bit, and fewer tensors kept for the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from tests.train.method.support import PART_CASES, scaled_model, whole_batch
from tgtrain.method.networks.recompute import checkpoint_activations
from tgtrain.method.step import step_terms


def gradients(name: str, recompute: bool) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Gradients and state after one step, and the bytes that its forward pass kept."""
    method, settings = PART_CASES[name]
    model = scaled_model(settings)
    if recompute:
        checkpoint_activations(model)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    torch.manual_seed(3)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        terms = step_terms(model, whole_batch(settings), method, epoch=0)
    terms.total.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return found, model.state_dict(), sum(kept.values())


@pytest.mark.parametrize("name", ["ltg", "fixmatch", "mvpl", "strong views apart"])
def test_gradients_and_statistics_are_the_same(name: str) -> None:
    expected, state, num_kept = gradients(name, recompute=False)
    got, state_recomputed, num_recomputed = gradients(name, recompute=True)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], expected[key]) for key in expected)
    assert all(torch.equal(state_recomputed[key], state[key]) for key in state)  # running averages moved once
    assert num_recomputed < 0.6 * num_kept  # of published sizes a quarter; these pictures are of 32 pixels


def test_a_model_without_gradient_runs_as_before() -> None:
    model = scaled_model(PART_CASES["ltg"][1]).eval()
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        expected = model(rgb=clips).rgb.logits_BK
        checkpoint_activations(model)
        assert torch.equal(model(rgb=clips).rgb.logits_BK, expected)
