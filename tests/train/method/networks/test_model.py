"""The networks: sizes and costs of the published ones, names, initial weights, small inputs and refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manifests.records import InputError
from tgtrain.method.networks.model import ModelSettings, build_model, count_macs, count_parameters
from tgtrain.method.networks.sync_bn import synchronised

MVPL = ModelSettings(101, streams="joint", backbone="slowonly", depth=50, projection="none")


def small(**changes: Any) -> ModelSettings:
    return ModelSettings(**{"num_classes": 5, "depth": 10, "width": 4, "dropout": 0.0, **changes})


def clips(rows: int, frames: int = 4, size: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(rows, 3, frames, size, size, generator=torch.Generator().manual_seed(seed))


def test_published_parameter_counts() -> None:
    model = build_model(ModelSettings(101))
    assert count_parameters(model) == 68_013_130
    assert count_parameters(model.backbone("rgb")) == count_parameters(model.backbone("tg")) == 33_166_272
    assert count_parameters(model.get_submodule("head_rgb")) == 51_813
    assert count_parameters(model.get_submodule("project_tg")) == 788_480
    joint = build_model(MVPL)
    assert count_parameters(joint.backbone("rgb")) == 31_634_496
    assert count_parameters(joint) == 31_634_496 + 206_949


def test_published_costs() -> None:
    assert count_macs(ModelSettings(101)) / 1e9 == pytest.approx(18.8, abs=0.05)
    assert count_macs(MVPL) / 1e9 == pytest.approx(41.7, abs=0.05)


def test_cost_by_hand() -> None:
    """Multiply-accumulates of a tiny network, convolution by convolution: outputs x inputs x kernel."""
    settings = small(streams="rgb", width=2, projection="none")
    stem = 2 * 3 * 147 * (4 * 16 * 16)
    stage1 = 2 * (2 * 2 * 27) * (4 * 8 * 8)
    stage2 = (4 * 2 * (27 + 1) + 4 * 4 * 27) * (1 * 4 * 4)
    stage3 = (8 * 4 * (27 + 1) + 8 * 8 * 27) * (1 * 2 * 2)
    stage4 = (16 * 8 * (27 + 1) + 16 * 16 * 27) * 1
    assert count_macs(settings, num_frames=4, height=32, width=32) == stem + stage1 + stage2 + stage3 + stage4 + 16 * 5


def test_slowonly_shapes_and_inflation() -> None:
    model = build_model(MVPL).to("meta").eval()
    output = model(rgb=torch.empty(1, 3, 8, 224, 224, device="meta"))
    shapes = [tuple(feature.shape[1:]) for feature in output.rgb.features]
    assert shapes == [(256, 8, 56, 56), (512, 8, 28, 28), (1024, 8, 14, 14), (2048, 8, 7, 7)]
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv3d):
            looks_along_time = name.endswith("conv1") and name.split(".")[1] in ("stage3", "stage4")
            assert module.kernel_size[0] == (3 if looks_along_time else 1), name
            assert module.stride[0] == 1, name


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (small(), {"rgb", "tg", "head_rgb", "head_tg", "project_rgb", "project_tg"}),
        (small(projection="shared"), {"rgb", "tg", "head_rgb", "head_tg", "project_shared"}),
        (small(projection="none"), {"rgb", "tg", "head_rgb", "head_tg"}),
        (small(streams="rgb", projection="none"), {"rgb", "head_rgb"}),
        (small(streams="tg", projection="none"), {"tg", "head_tg"}),
        (small(streams="rgb", backbone="slowonly", depth=50, projection="none"), {"rgb", "head_rgb"}),
        (small(streams="joint", backbone="slowonly", depth=50, projection="none"), {"net", "head_rgb"}),
        (small(streams="joint", projection="shared"), {"net", "head_rgb", "project_shared"}),
    ],
)
def test_top_level_names(settings: ModelSettings, parts: set[str]) -> None:
    assert {name.split(".")[0] for name in build_model(settings).state_dict()} == parts


def test_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    first = build_model(small(), seed=5).state_dict()
    state = torch.get_rng_state()
    again = build_model(small(), seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    other = build_model(small(), seed=6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["rgb.stem.conv.weight"], other["rgb.stem.conv.weight"])
    assert not torch.equal(first["rgb.stem.conv.weight"], first["tg.stem.conv.weight"])


@pytest.mark.parametrize("settings", [small(width=16), small(width=8, backbone="slowonly", depth=50)])
def test_initial_weights(settings: ModelSettings) -> None:
    for name, module in build_model(settings).named_modules():
        if isinstance(module, nn.Conv3d) and module.weight.numel() > 4000:
            fan_out = module.out_channels * math.prod(module.kernel_size)
            assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.1), name
        elif isinstance(module, nn.Linear):
            assert float(module.weight.detach().std()) == pytest.approx(0.01, rel=0.1), name
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm3d):
            assert module.eps == 1e-3
            ends_a_bottleneck = settings.backbone == "slowonly" and name.endswith("bn3")
            assert torch.all(module.weight == (0 if ends_a_bottleneck else 1)), name
        elif isinstance(module, nn.BatchNorm1d):
            assert module.eps == 1e-5


def test_rgb_alone_at_inference() -> None:
    model = build_model(small()).eval()
    ran: list[str] = []
    for name, module in model.named_children():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    with torch.no_grad():
        output = model(rgb=clips(2))
    assert ran == ["rgb", "head_rgb"]
    assert output.tg is None
    assert output.rgb.logits_BK.shape == (2, 5)
    assert output.rgb.embedding_BD is None


def test_two_streams_are_apart_and_joint_ones_are_one() -> None:
    rgb, tg = clips(3), clips(3, seed=1)
    two = build_model(small()).train()
    output = two(rgb, tg)
    assert output.rgb.embedding_BD.shape == (3, 32)
    torch.testing.assert_close(two(rgb=rgb).rgb.logits_BK, output.rgb.logits_BK)
    joint = build_model(small(streams="joint", projection="none")).train()
    output = joint(rgb, tg)
    # In train mode BatchNorm sees both views at once: RGB alone gives something else.
    assert not torch.allclose(joint(rgb=rgb).rgb.logits_BK, output.rgb.logits_BK)
    joint.eval()
    both = joint(rgb, tg)
    torch.testing.assert_close(joint(tg=tg).tg.logits_BK, both.tg.logits_BK)
    torch.testing.assert_close(joint(rgb=rgb).rgb.features[3], both.rgb.features[3])


@pytest.mark.parametrize("frames", [2, 3, 5, 8, 16])
@pytest.mark.parametrize("size", [1, 17, 32])
def test_small_and_odd_clips(frames: int, size: int) -> None:
    model = build_model(small()).eval()
    features = model(rgb=clips(2, frames, size)).rgb.features
    expected_frames, expected_size = frames // 2, math.ceil(math.ceil(size / 2) / 2)
    for feature in features:
        assert feature.shape[2:] == (expected_frames, expected_size, expected_size)
        expected_frames, expected_size = math.ceil(expected_frames / 2), math.ceil(expected_size / 2)


def test_clips_that_do_not_fit_are_refused() -> None:
    model = build_model(small())
    with pytest.raises(InputError, match=r"too short.*got 1 frame.*at least 2"):
        model(rgb=clips(2, frames=1))
    with pytest.raises(InputError, match=r"\[B, 3, frames, height, width\].*\[2, 4, 3, 32, 32\]"):
        model(rgb=clips(2).swapaxes(1, 2))
    single = build_model(small(streams="rgb", projection="none"))
    with pytest.raises(InputError, match="only a rgb network"):
        single(tg=clips(2))
    with pytest.raises(InputError, match="only a rgb network"):
        single(clips(2), clips(2))
    with pytest.raises(InputError, match="request for tg"):
        single.backbone("tg")
    slow = build_model(small(streams="rgb", backbone="slowonly", depth=50, projection="none")).eval()
    assert slow(rgb=clips(2, frames=1)).rgb.logits_BK.shape == (2, 5)


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        ModelSettings(0, streams="three", depth=50, width=0, dropout=1.0, projection="both")
    for name in ("num_classes", "streams", "depth", "width", "dropout", "projection"):
        assert f"\n  {name}: got" in str(caught.value)


def test_channels_last_gives_the_same() -> None:
    model = build_model(small()).train()
    rgb, tg = clips(4), clips(4, seed=1)
    expected = model(rgb, tg)
    model = model.to(memory_format=torch.channels_last_3d)
    got = model(*(view.to(memory_format=torch.channels_last_3d) for view in (rgb, tg)))
    torch.testing.assert_close(got.tg.logits_BK, expected.tg.logits_BK, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.rgb.embedding_BD, expected.rgb.embedding_BD, rtol=1e-3, atol=1e-3)


def test_synchronised_batch_norm_keeps_names_and_settings() -> None:
    model = build_model(small())
    before = model.state_dict()
    model = synchronised(model, torch.device("cuda"))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in after)
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(layer, nn.SyncBatchNorm) for layer in layers)
    assert {layer.eps for layer in layers} == {1e-3, 1e-5}
