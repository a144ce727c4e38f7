"""The transformer: its numbers are those of transformers, its stages are blocks, and its settings are judged at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import VideoMAEConfig, VideoMAEForVideoClassification
from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table

from manifests.records import InputError
from tgtrain.config import load_recipe
from tgtrain.method.networks.dropout import DropPath, share_dropout
from tgtrain.method.networks.model import build_model, count_macs, count_parameters, last_shape
from tgtrain.method.networks.recompute import checkpoint_activations
from tgtrain.method.networks.settings import ModelSettings
from tgtrain.method.networks.videomae import VideoMAE, sine_cosine
from tgtrain.method.optimiser import OptimiserSettings, make_optimiser, parameter_groups

TINY = ModelSettings(
    num_classes=5, streams="rgb", backbone="videomae", projection="none", dropout=0.0, hidden_size=32, layers=4, heads=4,
    patch=8, position_frames=4, position_size=32,
)  # fmt: skip


def clips(number: int = 2, frames: int = 4, size: int = 32, seed: int = 0) -> Tensor:
    return torch.randn((number, 3, frames, size, size), generator=torch.Generator().manual_seed(seed))


def theirs(settings: ModelSettings, frames: int = 4, size: int = 32) -> VideoMAEForVideoClassification:
    """The network of transformers with random weights that are none of an initialisation."""
    torch.manual_seed(3)
    network = VideoMAEForVideoClassification(
        VideoMAEConfig(
            hidden_size=settings.hidden_size, num_hidden_layers=settings.layers, num_attention_heads=settings.heads,
            intermediate_size=settings.intermediate_size or 4 * settings.hidden_size, patch_size=settings.patch,
            image_size=size, num_frames=frames, tubelet_size=settings.tubelet, num_labels=settings.num_classes,
        )
    ).eval()  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.2)
    return network


def with_weights_of(network: VideoMAEForVideoClassification, settings: ModelSettings) -> Any:
    model = build_model(settings).eval()
    state = {f"rgb.{name.removeprefix('videomae.')}": value for name, value in network.state_dict().items()}
    state |= {f"head_rgb.fc.{part}": state.pop(f"rgb.classifier.{part}") for part in ("weight", "bias")}
    model.load_state_dict(state)  # strictly: the names are theirs
    return model


@pytest.mark.parametrize(
    "settings", [TINY, replace(TINY, layers=1, heads=2, intermediate_size=37, patch=16), replace(TINY, tubelet=4)]
)
def test_numbers_are_those_of_transformers(settings: ModelSettings) -> None:
    network = theirs(settings)
    model, frames = with_weights_of(network, settings), clips()
    with torch.no_grad():
        expected = network(frames.transpose(1, 2), output_hidden_states=True)
        got = model(rgb=frames).rgb
    torch.testing.assert_close(got.logits_BK, expected.logits, rtol=1e-5, atol=1e-5)
    for stage, end in zip(got.features, settings.stage_ends, strict=True):
        tokens = stage.flatten(2).transpose(1, 2)
        torch.testing.assert_close(tokens, expected.hidden_states[end], rtol=1e-5, atol=1e-5)


def test_positions_are_the_fixed_table_and_fit_other_sizes() -> None:
    table = get_sinusoid_encoding_table(2 * 4 * 4, 33)[0].T.reshape(1, 33, 2, 4, 4)
    torch.testing.assert_close(sine_cosine(33, (2, 4, 4)), table, rtol=0, atol=1e-6)
    model = build_model(TINY).eval()
    assert not [name for name in model.state_dict() if "position" in name]
    # Made for another size they are the table of that size, as transformers has it.
    larger = replace(TINY, position_size=40)
    network, frames = theirs(TINY, size=40), clips(size=40)
    with torch.no_grad():
        torch.testing.assert_close(
            with_weights_of(network, larger)(rgb=frames).rgb.logits_BK, network(frames.transpose(1, 2)).logits,
            rtol=1e-5, atol=1e-5,
        )  # fmt: skip
        assert model(rgb=clips(frames=8, size=48)).rgb.features[3].shape == (2, 32, 4, 6, 6)
        # A clip of twice the size sees, in each patch, the position between those of the patches around it.
        doubled = model.rgb._positions(torch.Size((2, 8, 8)))
    assert torch.allclose(doubled[..., 1, 1], model.rgb.positions_1CTHW[..., :2, :2].mul(
        torch.tensor([[0.5625, 0.1875], [0.1875, 0.0625]])).sum((-2, -1)), atol=1e-6)  # fmt: skip


def test_stages_are_the_quarters_or_the_chosen_blocks() -> None:
    assert replace(TINY, layers=12).stage_ends == (3, 6, 9, 12)
    assert replace(TINY, layers=2).stage_ends == (1, 1, 2, 2)
    assert replace(TINY, layers=1).stage_ends == (1, 1, 1, 1)
    assert replace(TINY, stage_layers=(1, 1, 2, 4)).stage_ends == (1, 1, 2, 4)
    for wrong in ((1, 2, 4), (1, 2, 3, 3), (2, 1, 3, 4), (0, 1, 2, 4)):
        with pytest.raises(InputError, match="four blocks in rising order, of which the last is 4"):
            replace(TINY, stage_layers=wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 30}, "heads: got 4, expected a divisor of hidden_size 30"),
        ({"patch": 0, "layers": 65}, "layers: got 65, expected 1 to 64\n  patch: got 0"),
        ({"drop_path": 1.0}, "0 <= drop_path < 1"),
        ({"position_size": 30}, "a multiple of patch 8"),
        ({"position_frames": 1024, "position_size": 1024, "patch": 1}, "at most 32768 patches"),
        ({"freeze_batch_norm": True, "init": "x"}, "videomae has no BatchNorm"),
    ],
)
def test_wrong_settings_are_one_message(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        replace(TINY, **change)
    assert message in str(caught.value)


def test_other_backbones_have_the_name_they_had() -> None:
    """Checkpoints name their model by it."""
    assert str(ModelSettings(3)) == (
        "ModelSettings(num_classes=3, streams='two', backbone='r3d', depth=18, width=64, dropout=0.5, projection='separate')"
    )
    assert str(ModelSettings(3)) == str(ModelSettings(3, hidden_size=32, init="x"))
    assert str(TINY) != str(replace(TINY, heads=2))
    assert "init" not in str(TINY)


def test_clips_that_are_no_whole_patches_are_refused() -> None:
    model = build_model(TINY)
    for wrong in (clips(frames=5), clips(size=36)):
        with pytest.raises(InputError, match=r"model.tubelet 2 .* model.patch 8; got [45] frames of 3[26]x3[26]"):
            model(rgb=wrong)
    with pytest.raises(InputError) as caught:
        load_recipe("demo-supervised", ["model.backbone=videomae", "data.clip_frames=5", "data.size=50"])
    assert "data.clip_frames: got 5, expected a multiple of model.tubelet 2, such as 4" in str(caught.value)
    assert "data.size: got 50, expected a multiple of model.patch 16, such as 48" in str(caught.value)
    config = load_recipe("ucf101-10-supervised", ["model.backbone=videomae", "data.clip_frames=16"])
    assert (config.data.test_size, config.model.position_frames, config.model.position_size) == (224, 16, 224)


def test_cost_of_the_base_network_is_the_published_one() -> None:
    """VideoMAE's README gives 180 GFLOPs a clip for ViT-B, 87 M parameters (its table counts multiply-accumulates)."""
    base = ModelSettings(num_classes=400, streams="rgb", backbone="videomae", projection="none")
    assert round(count_macs(base, 16, 224, 224) / 1e9) == 180
    assert last_shape(base, 16, 224, 224) == (8, 14, 14)
    with torch.device("meta"):
        assert round(count_parameters(build_model(base)) / 1e6) == 87


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = build_model(TINY, seed=4).state_dict()
    torch.manual_seed(2)
    two = build_model(TINY, seed=4).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    weight = one["rgb.encoder.layer.0.intermediate.dense.weight"]
    assert 0.018 < weight.std() < 0.022
    assert not one["rgb.embeddings.patch_embeddings.projection.bias"].any()


def gradients(model: Any, autocast: bool) -> dict[str, Tensor]:
    torch.manual_seed(7)
    model.train().zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = model(rgb=clips(6)).rgb
    (output.logits_BK.float().square().sum() + output.features[1].float().square().mean()).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("autocast", [False, True])
def test_checkpointed_activations_give_equal_gradients(autocast: bool) -> None:
    """With drop path, which leaves out the same branches in both forward passes."""
    settings = replace(TINY, drop_path=0.5, dropout=0.3)
    plain, saving = build_model(settings), build_model(settings)
    checkpoint_activations(saving)
    expected, got = gradients(plain, autocast), gradients(saving, autocast)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert any(value.abs().sum() for value in expected.values())


def test_drop_path_leaves_out_branches_of_whole_clips() -> None:
    drop, rows = DropPath(0.6, 4), torch.zeros(4000, 2, 3)
    torch.manual_seed(0)
    factors = drop(rows)
    assert factors.shape == (4, 2, 4000, 1, 1)
    left_out = (factors == 0).float().mean(dim=(2, 3, 4))
    np.testing.assert_allclose(left_out, np.array([[0, 0], [0.2, 0.2], [0.4, 0.4], [0.6, 0.6]]), atol=0.03)
    torch.testing.assert_close(factors.mean(dim=(2, 3, 4)), torch.ones(4, 2), rtol=0, atol=0.05)
    # Ranks that have every second row of the joined batch drop what one process drops.
    for first in (0, 1):
        torch.manual_seed(0)
        share_dropout(drop, first, 2)
        assert torch.equal(drop(rows[:2000]), factors[:, :, first::2])
    assert torch.equal(drop.eval()(rows), torch.ones(4, 2, 4000, 1, 1))
    # In the network: a clip whose branches are all left out passes unchanged.
    model = build_model(replace(TINY, drop_path=0.9)).train()
    block = model.rgb._blocks()[0]
    tokens = torch.randn(2, 5, 32)
    out = block(tokens, torch.tensor([[0.0, 1], [0, 1]])[..., None, None])
    assert torch.equal(out[0], tokens[0])
    assert not torch.equal(out[1], tokens[1])


def test_frozen_stages_keep_embedding_and_blocks() -> None:
    model = build_model(replace(TINY, init="x", freeze_stages=2, drop_path=0.5)).train()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(name.startswith(("rgb.embeddings", "rgb.encoder.layer.0.", "rgb.encoder.layer.1.")) for name in frozen)
    assert all(
        name.startswith(("rgb.encoder.layer.2.", "rgb.encoder.layer.3.", "rgb.fc_norm", "head_rgb")) for name in learnt
    )
    model(rgb=clips()).rgb.logits_BK.sum().backward()
    assert all((parameter.grad is None) == (name in frozen) for name, parameter in model.named_parameters())


ADAMW = OptimiserSettings(name="adamw", learning_rate=1e-3, weight_decay=0.05, layer_decay=0.5)


def test_layer_decay_and_weight_decay_by_parameter() -> None:
    model = build_model(TINY)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {
        names[weight]: (group["scale"], group["weight_decay"])
        for group in parameter_groups(model, ADAMW)
        for weight in group["params"]
    }
    assert groups.keys() == set(names.values())
    assert groups["rgb.embeddings.patch_embeddings.projection.weight"] == (0.5**5, 0.05)
    assert groups["rgb.encoder.layer.0.attention.attention.query.weight"] == (0.5**4, 0.05)
    assert groups["rgb.encoder.layer.3.output.dense.bias"] == (0.5, 0)
    assert groups["rgb.encoder.layer.3.layernorm_after.weight"] == (0.5, 0)
    assert groups["rgb.fc_norm.weight"] == (1, 0)
    assert groups["head_rgb.fc.weight"] == (1, 0.05)
    # The levels of a network of convolutions are its stem and its stages.
    r3d = build_model(ModelSettings(5, "rgb", depth=10, width=4, projection="none"))
    scales = {id(weight): group["scale"] for group in parameter_groups(r3d, ADAMW) for weight in group["params"]}
    assert [scales[id(next(level.parameters()))] for level in r3d.rgb.levels()] == [0.5**n for n in (5, 4, 3, 2, 1)]
    assert scales[id(r3d.head_rgb.fc.bias)] == 1
    # SGD as published has one group, with weight decay for all.
    (group,) = make_optimiser(parameter_groups(r3d, OptimiserSettings()), OptimiserSettings(), fused=False).param_groups
    assert group["weight_decay"] == 1e-4
    assert len(group["params"]) == len(list(r3d.parameters()))


def test_adamw_is_that_of_the_paper() -> None:
    """Loshchilov and Hutter, 2019, algorithm 2, in float64 by hand."""
    weight = torch.nn.Parameter(torch.tensor([[0.5, -1.0], [2.0, 0.25]]))
    settings = OptimiserSettings(name="adamw", learning_rate=0.1, weight_decay=0.3, betas=(0.8, 0.9))
    optimiser = make_optimiser([weight], settings, fused=False)
    value, first, second = weight.detach().double().numpy().copy(), 0.0, 0.0
    for step in (1, 2, 3):
        gradient = step * value
        first, second = 0.8 * first + 0.2 * gradient, 0.9 * second + 0.1 * gradient**2
        moved = (first / (1 - 0.8**step)) / (np.sqrt(second / (1 - 0.9**step)) + 1e-8)
        value = value - 0.1 * 0.3 * value - 0.1 * moved
        optimiser.zero_grad()
        (step * weight.square() / 2).sum().backward()
        optimiser.step()
    np.testing.assert_allclose(weight.detach().numpy(), value, rtol=1e-5)


def test_it_fits_what_it_sees() -> None:
    model, frames, labels = build_model(replace(TINY, layers=2)), clips(6), torch.tensor([0, 1, 2, 3, 4, 0])
    optimiser = make_optimiser(parameter_groups(model, ADAMW), ADAMW, fused=False)
    for group in optimiser.param_groups:
        group["lr"] = 0.01 * group["scale"]
    for _ in range(40):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(rgb=frames).rgb.logits_BK, labels)
        loss.backward()
        optimiser.step()
    assert loss < 0.1


def test_backbone_is_what_a_model_of_two_views_has_twice() -> None:
    model = build_model(replace(TINY, streams="two", projection="separate", width=2)).train()
    output = model(rgb=clips(4), tg=clips(4, seed=1))
    assert isinstance(model.backbone("tg"), VideoMAE)
    assert output.rgb.embedding_BD.shape == (4, 16)
    assert [tuple(stage.shape) for stage in output.tg.features] == [(4, 32, 2, 4, 4)] * 4
    joint = build_model(replace(TINY, streams="joint")).eval()
    assert joint(rgb=clips(3), tg=clips(2)).tg.logits_BK.shape == (2, 5)
