"""The backbones: residual networks of 3-D convolutions that return the outputs of their four stages.

R3D is the network of Learning from Temporal Gradient (CVPR 2022, section 4.1), SlowOnly that of the MvPL baseline
(Multiview Pseudo-Labeling, ICCV 2021; the slow pathway of SlowFast).

Shape letters: B clips, C channels, T frames, H height, W width (pixels).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from manifests.records import InputError

BATCH_NORM_EPS = 1e-3
Triple = tuple[int, int, int]


class ConvNorm(nn.Module):
    """Convolution without bias, then BatchNorm; no activation. `kernel` and `stride` are (time, height, width)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.conv = _conv(in_channels, out_channels, kernel, stride)
        self.bn = _norm(out_channels)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x_BCTHW))
        return out


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
    """1x1x1 (or 3x1x1), 1x3x3 with the spatial stride, 1x1x1 to four times the channels; ReLU after the addition."""

    EXPANSION = 4

    def __init__(self, in_channels: int, channels: int, stride: int, temporal_kernel: int) -> None:
        super().__init__()
        out_channels = channels * self.EXPANSION
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


class R3D(nn.Module):
    """3-D ResNet of basic blocks, whose strides halve time and space in stages 2 to 4, with a temporal max-pool after stage 1.

    depth: 18 (two blocks a stage, the published network) or 10 (one). width: channels of stage 1 (64 published); the
    stages have width x 1, 2, 4, 8. Any height and width of at least 1 pixel works; clips need 2 frames or more.
    """

    BLOCKS_PER_STAGE: ClassVar[dict[int, int]] = {10: 1, 18: 2}
    MIN_FRAMES = 2

    def __init__(self, depth: int = 18, width: int = 64) -> None:
        super().__init__()
        num_blocks = self.BLOCKS_PER_STAGE[depth]
        self.out_channels = 8 * width
        self.stem = ConvNorm(3, width, (3, 7, 7), (1, 2, 2))
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.stage1 = self._stage(num_blocks, width, width, stride=1)
        self.temporal_pool = nn.MaxPool3d((2, 1, 1), stride=(2, 1, 1))
        self.stage2 = self._stage(num_blocks, width, 2 * width, stride=2)
        self.stage3 = self._stage(num_blocks, 2 * width, 4 * width, stride=2)
        self.stage4 = self._stage(num_blocks, 4 * width, 8 * width, stride=2)

    def forward(self, clips_BCTHW: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the four stages, after ReLU; that of stage 1 after the temporal pool.

        For 3x8x224x224 and width 64: 64x4x56x56, 128x2x28x28, 256x1x14x14, 512x1x7x7.
        Raises InputError if clips are not [B, 3, T, H, W] or have fewer than 2 frames.
        """
        _check_clips(clips_BCTHW, self.MIN_FRAMES)
        stage1 = self.temporal_pool(self.stage1(self.pool(self.relu(self.stem(clips_BCTHW)))))
        stage2 = self.stage2(stage1)
        stage3 = self.stage3(stage2)
        stage4 = self.stage4(stage3)
        return stage1, stage2, stage3, stage4

    def _stage(self, num_blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, out_channels, stride)
        return _stack([first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1))])


class SlowOnly(nn.Module):
    """3-D ResNet of bottleneck blocks that keeps every frame: no temporal stride and no temporal pool.

    Only the first convolution of each block in stages 3 and 4 looks along time (3x1x1).
    depth: 50 (3, 4, 6, 3 blocks). width: channels of the stem (64 published); the stages have width x 4, 8, 16, 32.
    Any number of frames works, and any height and width of at least 1 pixel.
    """

    BLOCKS_PER_STAGE: ClassVar[dict[int, tuple[int, int, int, int]]] = {50: (3, 4, 6, 3)}
    MIN_FRAMES = 1

    def __init__(self, depth: int = 50, width: int = 64) -> None:
        super().__init__()
        num_blocks = self.BLOCKS_PER_STAGE[depth]
        self.out_channels = 32 * width
        self.stem = ConvNorm(3, width, (1, 7, 7), (1, 2, 2))
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.stage1 = self._stage(num_blocks[0], width, width, stride=1, temporal_kernel=1)
        self.stage2 = self._stage(num_blocks[1], 4 * width, 2 * width, stride=2, temporal_kernel=1)
        self.stage3 = self._stage(num_blocks[2], 8 * width, 4 * width, stride=2, temporal_kernel=3)
        self.stage4 = self._stage(num_blocks[3], 16 * width, 8 * width, stride=2, temporal_kernel=3)

    def forward(self, clips_BCTHW: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the four stages, after ReLU.

        For 3x8x224x224 and width 64: 256x8x56x56, 512x8x28x28, 1024x8x14x14, 2048x8x7x7.
        Raises InputError if clips are not [B, 3, T, H, W].
        """
        _check_clips(clips_BCTHW, self.MIN_FRAMES)
        stage1 = self.stage1(self.pool(self.relu(self.stem(clips_BCTHW))))
        stage2 = self.stage2(stage1)
        stage3 = self.stage3(stage2)
        stage4 = self.stage4(stage3)
        return stage1, stage2, stage3, stage4

    def _stage(
        self, num_blocks: int, in_channels: int, channels: int, stride: int, temporal_kernel: int
    ) -> nn.Sequential:
        first = Bottleneck(in_channels, channels, stride, temporal_kernel)
        wide = channels * Bottleneck.EXPANSION
        return _stack([first, *(Bottleneck(wide, channels, 1, temporal_kernel) for _ in range(num_blocks - 1))])


def _conv(in_channels: int, out_channels: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> nn.Conv3d:
    """A convolution that keeps sizes up to its stride: padding is half the kernel; no bias, as BatchNorm follows."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False)


def _norm(channels: int) -> nn.BatchNorm3d:
    return nn.BatchNorm3d(channels, eps=BATCH_NORM_EPS, momentum=0.1)


def _shortcut(in_channels: int, out_channels: int, stride: Triple) -> nn.Module:
    if stride == (1, 1, 1) and in_channels == out_channels:
        return nn.Identity()
    return ConvNorm(in_channels, out_channels, (1, 1, 1), stride)


def _stack(blocks: Sequence[nn.Module]) -> nn.Sequential:
    """The blocks of one stage, named block0, block1, ..."""
    return nn.Sequential(OrderedDict((f"block{i}", block) for i, block in enumerate(blocks)))


def _check_clips(clips_BCTHW: Tensor, min_frames: int) -> None:
    """Reject anything but [B, 3, T, H, W] with T of at least `min_frames`."""
    shape = tuple(clips_BCTHW.shape)
    if len(shape) != 5 or shape[1] != 3:
        raise InputError(
            f"The network takes clips [B, 3, frames, height, width]; got a tensor of shape {list(shape)}. "
            "Put the channels second."
        )
    if shape[2] < min_frames:
        raise InputError(
            f"The clip is too short for the network: got {shape[2]} frame(s), expected at least {min_frames}, "
            "because it halves time. Use a longer clip (the published recipes use 8 frames)."
        )
