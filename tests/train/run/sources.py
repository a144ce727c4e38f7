"""Files of weights as other programs write them, and their networks in a few lines, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
Rename = Callable[[str, str, str], str]  # part of the network, kind (conv, bn), number -> name

STATISTICS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def torchvision_name(part: str, kind: str, number: str) -> str:
    """`BasicStem`, `BasicBlock` and `_make_layer` of torchvision/models/video/resnet.py: Sequential(conv, BatchNorm, ReLU)."""
    index = "0" if kind == "conv" else "1"
    return {"stem": f"stem.{index}", "shortcut": f"downsample.{index}"}.get(part, f"conv{number}.{index}")


def mmaction_name(part: str, kind: str, number: str) -> str:
    """`ConvModule` of mmcv holds `conv` and `bn`; ResNet3d of MMAction2 names them conv1, layerN.M.convI, downsample."""
    return {"stem": f"conv1.{kind}", "shortcut": f"downsample.{kind}"}.get(part, f"conv{number}.{kind}")


def plain_name(part: str, kind: str, number: str) -> str:
    """ResNet of torchvision/models/resnet.py and 3D-ResNets-PyTorch."""
    return {"stem": f"{kind}1", "shortcut": f"downsample.{'0' if kind == 'conv' else '1'}"}.get(part, f"{kind}{number}")


def r3d_shapes(rename: Rename, width: int, blocks: int = 2) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors of an R3D-18 (blocks 2) of a library."""

    def layer(where: str, part: str, number: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{where}{rename(part, 'conv', number)}.weight", shape
        for name in STATISTICS:
            yield f"{where}{rename(part, 'bn', number)}.{name}", () if name == STATISTICS[-1] else shape[:1]

    yield from layer("", "stem", "1", (width, 3, 3, 7, 7))
    before = width
    for stage in range(4):
        channels = width << stage
        for block in range(blocks):
            where = f"layer{stage + 1}.{block}."
            yield from layer(where, "block", "1", (channels, before, 3, 3, 3))
            yield from layer(where, "block", "2", (channels, channels, 3, 3, 3))
            if before != channels:
                yield from layer(where, "shortcut", "1", (channels, before, 1, 1, 1))
            before = channels


def r3d_state(
    rename: Rename, width: int = 4, classes: int = 400, fc: str = "fc", seed: int = 0, blocks: int = 2
) -> State:
    """The state dict of an R3D-18 with random values that are none of an initialisation."""
    generator = torch.Generator().manual_seed(seed)

    def values(name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(seed + 7)
        drawn = torch.randn(shape, generator=generator)
        if len(shape) == 5:
            return drawn * (2 / drawn[0].numel()) ** 0.5
        return 1 + 0.2 * drawn.clamp(-3, 3) if name.endswith(("running_var", "weight")) else 0.1 * drawn

    state = {name: values(name, shape) for name, shape in r3d_shapes(rename, width, blocks)}
    return {
        **state,
        f"{fc}.weight": torch.randn((classes, 8 * width), generator=generator),
        f"{fc}.bias": torch.ones(classes),
    }


def torchvision_features(
    state: State, clips_BCTHW: Tensor, *, strides: str = "ours", eps: float = 1e-3
) -> list[Tensor]:
    """The outputs of layer1 to layer4 of torchvision's VideoResNet with BasicStem and BasicBlock, in eval mode.

    strides "ours" adds what our network has besides: a spatial max-pool after the stem, a temporal one after layer1. "theirs":
    none of the two.
    """

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=eps)

    x = F.conv3d(clips_BCTHW, state["stem.0.weight"], stride=(1, 2, 2), padding=(1, 3, 3))
    x = norm(x, "stem.1").relu()
    if strides == "ours":
        x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    outputs = []
    for layer in range(1, 5):
        for block in range(2):
            where, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = norm(F.conv3d(x, state[f"{where}.conv1.0.weight"], stride=stride, padding=1), f"{where}.conv1.1").relu()
            y = norm(F.conv3d(y, state[f"{where}.conv2.0.weight"], padding=1), f"{where}.conv2.1")
            if f"{where}.downsample.0.weight" in state:
                x = norm(F.conv3d(x, state[f"{where}.downsample.0.weight"], stride=stride), f"{where}.downsample.1")
            x = (x + y).relu()
        if layer == 1 and strides == "ours":
            x = F.max_pool3d(x, (2, 1, 1))
        outputs.append(x)
    return outputs


def below(prefix: str, state: State) -> State:
    """The state dict with a prefix before every name."""
    return {f"{prefix}{name}": value for name, value in state.items()}


def reference_state(width: int = 4, classes: int = 101, blocks: int = 2) -> State:
    """The state dict of the reference's recogniser (base_semi_apppearance_temporal_simclr.py): backbones, classifiers, and contrast
    heads whose BatchNorm layers have two names each."""
    generator = torch.Generator().manual_seed(3)
    state: State = {}
    for number, (backbone, head, view) in enumerate(
        (("backbone", "cls_head", "rgb"), ("temp_backbone", "temp_sup_head", "tg"))
    ):
        own = r3d_state(mmaction_name, width, classes, seed=number + 1, blocks=blocks)
        weight, bias = own.pop("fc.weight"), own.pop("fc.bias")
        state |= {**below(f"{backbone}.", own), f"{head}.fc_cls.weight": weight, f"{head}.fc_cls.bias": bias}
        size = 8 * width
        for index, alias in (("1", "norm1"), ("4", "norm2"), ("8", "norm_final")):
            drawn = {"running_mean": torch.randn(size, generator=generator), "running_var": torch.ones(size),
                     "num_batches_tracked": torch.tensor(9)}  # fmt: skip
            if alias != "norm_final":
                drawn |= {"weight": torch.randn(size, generator=generator), "bias": torch.zeros(size)}
            state |= below(f"contrast_head_{view}.{alias}.", drawn) | below(f"contrast_head_{view}.fcs.{index}.", drawn)
        for index in ("0", "3", "6"):
            state[f"contrast_head_{view}.fcs.{index}.weight"] = torch.randn((size, size), generator=generator)
    return state


def reference_file(path: Path, width: int = 4, classes: int = 101, blocks: int = 2) -> State:
    """Write a checkpoint as mmcv does (`meta`, `state_dict`, `optimizer`); returns its state dict."""
    state = reference_state(width, classes, blocks)
    momenta = {number: {"momentum_buffer": torch.ones(3)} for number in range(4)}
    meta = {"epoch": 180, "iter": 42840, "mmcv_version": "1.3.8", "config": "model = dict()", "hook_msgs": {}}
    torch.save(
        {"meta": meta, "state_dict": state, "optimizer": {"state": momenta, "param_groups": [{"lr": 0.2}]}}, path
    )
    return state
