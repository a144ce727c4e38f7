"""The backbones that are residual networks of 3-D convolutions, and what all backbones share.

R3D is the network of Learning from Temporal Gradient (CVPR 2022, section 4.1), SlowOnly that of the MvPL baseline
(Multiview Pseudo-Labeling, ICCV 2021; the slow pathway of SlowFast).

Shape letters: B clips, C channels, T frames, H height, W width (pixels).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from manifests.console import plural
from manifests.records import InputError
from tgtrain.method.networks.settings import RESNET_BLOCKS

BATCH_NORM_EPS = 1e-3
Triple = tuple[int, int, int]


class Backbone(nn.Module):
    """What all backbones share: they return the features of four stages, pool the last of them, and may be frozen in part."""

    out_channels: int
    """Of the last stage."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen_stages, self.frozen_batch_norm = 0, False

    def levels(self) -> list[nn.Module]:
        """The parts that weights of different rates belong to, from the input to the output."""
        raise NotImplementedError

    def num_levels(self, stages: int) -> int:
        """Levels that the first `stages` stages (1 to 4) are made of."""
        raise NotImplementedError

    def pool(self, features: tuple[Tensor, ...]) -> Tensor:
        """What classifier and projection get of the features of a forward pass: [B, C]."""
        return features[-1].mean(dim=(2, 3, 4))

    def freeze(self, stages: int, batch_norm: bool) -> None:
        """Stop so many stages (0: none) and what is before them from learning, and BatchNorm everywhere from following its batches.

        Frozen layers stay in eval mode when the network is set to train.
        """
        self.frozen_stages, self.frozen_batch_norm = stages, batch_norm
        for part in self._frozen_parts():
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all that is not frozen."""
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        if self.frozen_batch_norm:
            for layer in self.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()
        return self

    def shape_of(self, clips_BCTHW: Tensor) -> tuple[int, ...]:
        """The shape of clips; InputError if they are not [B, 3, T, H, W]."""
        shape = tuple(clips_BCTHW.shape)
        if len(shape) != 5 or shape[1] != 3:
            raise InputError(
                f"The network takes clips [B, 3, frames, height, width]; got a tensor of shape {list(shape)}. "
                "Put the channels second."
            )
        return shape

    def _frozen_parts(self) -> list[nn.Module]:
        return self.levels()[: self.num_levels(self.frozen_stages)] if self.frozen_stages else []


class Stem(nn.Module):
    """The first convolution, which halves height and width, and a spatial max-pool, which halves them again."""

    def __init__(self, out_channels: int, num_frames: int) -> None:
        super().__init__()
        self.conv = _conv(3, out_channels, (num_frames, 7, 7), (1, 2, 2))
        self.bn = _norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        pooled: Tensor = self.pool(self.relu(self.bn(self.conv(clips_BCTHW))))
        return pooled


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions and a shortcut; the first convolution has the stride, ReLU follows the addition."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        strides = (stride, stride, stride)
        self.conv1 = _conv(in_channels, out_channels, (3, 3, 3), strides)
        self.bn1 = _norm(out_channels)
        self.conv2 = _conv(out_channels, out_channels, (3, 3, 3))
        self.bn2 = _norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = _shortcut(in_channels, out_channels, strides)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn1(self.conv1(x_BCTHW)))
        out = self.bn2(self.conv2(out)) + self.shortcut(x_BCTHW)
        return F.relu(out, inplace=True)


class Bottleneck(nn.Module):
    """1x1x1 (or 3x1x1) to a quarter of the channels, 1x3x3 with the spatial stride, 1x1x1; ReLU after the addition."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, temporal_kernel: int) -> None:
        super().__init__()
        channels = out_channels // 4
        self.conv1 = _conv(in_channels, channels, (temporal_kernel, 1, 1))
        self.bn1 = _norm(channels)
        self.conv2 = _conv(channels, channels, (1, 3, 3), (1, stride, stride))
        self.bn2 = _norm(channels)
        self.conv3 = _conv(channels, out_channels, (1, 1, 1))
        self.bn3 = _norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = _shortcut(in_channels, out_channels, (1, stride, stride))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn1(self.conv1(x_BCTHW)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out)) + self.shortcut(x_BCTHW)
        return F.relu(out, inplace=True)


class _ResNet(Backbone):
    """Stem and four stages, with or without a temporal max-pool after stage 1.

    depth: a key of BLOCKS_PER_STAGE. width: channels of the stem, 64 published. Any height and width of at least 1 pixel works.
    """

    BLOCKS_PER_STAGE: ClassVar[dict[int, tuple[int, int, int, int]]]
    MIN_FRAMES: int
    STEM_FRAMES: int
    """Temporal size of the first convolution."""
    EXPANSION: int
    """Channels of stage 1, in multiples of `width`; each further stage doubles them."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.out_channels = 8 * self.EXPANSION * width
        self.stem = Stem(width, self.STEM_FRAMES)
        self.temporal_pool = nn.MaxPool3d((2, 1, 1), stride=(2, 1, 1)) if self.MIN_FRAMES == 2 else nn.Identity()
        stages, in_channels = [], width
        for stage, num_blocks in enumerate(self.BLOCKS_PER_STAGE[depth]):
            out_channels = self.EXPANSION * width << stage
            # The first block of a stage changes size and channels, the others keep both.
            blocks = [self._block(stage, in_channels, out_channels, stride=2 if stage else 1)]
            blocks += [self._block(stage, out_channels, out_channels, stride=1) for _ in range(num_blocks - 1)]
            named = OrderedDict((f"block{number}", block) for number, block in enumerate(blocks))
            stages.append(nn.Sequential(named))
            in_channels = out_channels
        self.stage1, self.stage2, self.stage3, self.stage4 = stages

    def levels(self) -> list[nn.Module]:
        """The stem and the stages."""
        return [self.stem, self.stage1, self.stage2, self.stage3, self.stage4]

    def num_levels(self, stages: int) -> int:
        """The stem and so many stages."""
        return 1 + stages

    def forward(self, clips_BCTHW: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the four stages, after ReLU; that of stage 1 after the temporal pool, if there is one.

        Raises InputError if clips are not [B, 3, T, H, W] or have fewer than MIN_FRAMES frames.
        """
        shape = self.shape_of(clips_BCTHW)
        if shape[2] < self.MIN_FRAMES:
            raise InputError(
                f"The clip is too short for the network: got {plural(shape[2], 'frame')}, expected at least {self.MIN_FRAMES}, "
                "because it halves time. Use a longer clip (the published recipes use 8 frames)."
            )
        stage1 = self.temporal_pool(self.stage1(self.stem(clips_BCTHW)))
        stage2 = self.stage2(stage1)
        stage3 = self.stage3(stage2)
        return stage1, stage2, stage3, self.stage4(stage3)

    def _block(self, stage: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        raise NotImplementedError


class R3D(_ResNet):
    """3-D ResNet of basic blocks, whose strides halve time and space in stages 2 to 4, with a temporal max-pool after stage 1.

    depth: 18 (the published network) or 10. Clips need 2 frames or more. Outputs for 3x8x224x224 and width 64:
    64x4x56x56, 128x2x28x28, 256x1x14x14, 512x1x7x7.
    """

    BLOCKS_PER_STAGE: ClassVar = RESNET_BLOCKS["r3d"]
    MIN_FRAMES = 2
    STEM_FRAMES = 3
    EXPANSION = 1

    def _block(self, stage: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        return BasicBlock(in_channels, out_channels, stride)


class SlowOnly(_ResNet):
    """3-D ResNet of bottleneck blocks that keeps every frame: no temporal stride and no temporal pool.

    Only the first convolution of each block in stages 3 and 4 looks along time (3x1x1). depth: 50. Outputs for
    3x8x224x224 and width 64: 256x8x56x56, 512x8x28x28, 1024x8x14x14, 2048x8x7x7.
    """

    BLOCKS_PER_STAGE: ClassVar = RESNET_BLOCKS["slowonly"]
    MIN_FRAMES = 1
    STEM_FRAMES = 1
    EXPANSION = 4

    def _block(self, stage: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        return Bottleneck(in_channels, out_channels, stride, temporal_kernel=3 if stage >= 2 else 1)


def _conv(in_channels: int, out_channels: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> nn.Conv3d:
    """A convolution that keeps sizes up to its stride: padding is half the kernel; no bias, as BatchNorm follows."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False)


def _norm(channels: int) -> nn.BatchNorm3d:
    return nn.BatchNorm3d(channels, eps=BATCH_NORM_EPS, momentum=0.1)


def _conv_norm(in_channels: int, out_channels: int, kernel: Triple, stride: Triple) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=_conv(in_channels, out_channels, kernel, stride), bn=_norm(out_channels)))


def _shortcut(in_channels: int, out_channels: int, stride: Triple) -> nn.Module:
    if stride == (1, 1, 1) and in_channels == out_channels:
        return nn.Identity()
    return _conv_norm(in_channels, out_channels, (1, 1, 1), stride)
