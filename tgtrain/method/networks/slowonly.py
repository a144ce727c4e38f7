"""SlowOnly-50: the network of the MvPL baseline (Multiview Pseudo-Labeling, ICCV 2021; slow pathway of SlowFast).

A 3-D ResNet-50 that keeps every frame: no temporal stride and no temporal pool; only the first convolution of each
block in stages 3 and 4 looks along time (3x1x1).

Shape letters: B clips, C channels, T frames, H height, W width (pixels).
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from tgtrain.method.networks.r3d import ConvNorm, check_clips, conv, norm, stack


class Bottleneck(nn.Module):
    """1x1x1 (or 3x1x1), 1x3x3 with the spatial stride, 1x1x1 to four times the channels; ReLU after the addition."""

    EXPANSION = 4

    def __init__(self, in_channels: int, channels: int, stride: int, temporal_kernel: int) -> None:
        super().__init__()
        out_channels = channels * self.EXPANSION
        self.conv1 = conv(in_channels, channels, (temporal_kernel, 1, 1))
        self.bn1 = norm(channels)
        self.conv2 = conv(channels, channels, (1, 3, 3), (1, stride, stride))
        self.bn2 = norm(channels)
        self.conv3 = conv(channels, out_channels, (1, 1, 1))
        self.bn3 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvNorm(in_channels, out_channels, (1, 1, 1), (1, stride, stride))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn1(self.conv1(x_BCTHW)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out)) + self.shortcut(x_BCTHW)
        return F.relu(out, inplace=True)


class SlowOnly(nn.Module):
    """SlowOnly of bottleneck blocks.

    depth: 50 (3, 4, 6, 3 blocks). width: channels of the stem (64 published); the stages put out width x 4, 8, 16, 32.
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
        self.stage1 = _stage(num_blocks[0], width, width, stride=1, temporal_kernel=1)
        self.stage2 = _stage(num_blocks[1], 4 * width, 2 * width, stride=2, temporal_kernel=1)
        self.stage3 = _stage(num_blocks[2], 8 * width, 4 * width, stride=2, temporal_kernel=3)
        self.stage4 = _stage(num_blocks[3], 16 * width, 8 * width, stride=2, temporal_kernel=3)

    def forward(self, clips_BCTHW: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the four stages, after ReLU.

        For 3x8x224x224 and width 64: 256x8x56x56, 512x8x28x28, 1024x8x14x14, 2048x8x7x7.
        Raises InputError where clips are not [B, 3, T, H, W].
        """
        check_clips(clips_BCTHW, self.MIN_FRAMES)
        stage1 = self.stage1(self.pool(self.relu(self.stem(clips_BCTHW))))
        stage2 = self.stage2(stage1)
        stage3 = self.stage3(stage2)
        stage4 = self.stage4(stage3)
        return stage1, stage2, stage3, stage4


def _stage(num_blocks: int, in_channels: int, channels: int, stride: int, temporal_kernel: int) -> nn.Sequential:
    first = Bottleneck(in_channels, channels, stride, temporal_kernel)
    rest = (Bottleneck(channels * Bottleneck.EXPANSION, channels, 1, temporal_kernel) for _ in range(num_blocks - 1))
    return stack([first, *rest])
