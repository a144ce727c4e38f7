"""A transformer as backbone: VideoMAE (NeurIPS 2022) with the layers of the package `transformers`, which only this network needs.

The tensors have the names of transformers' VideoMAEModel, and `fc_norm` of VideoMAEForVideoClassification. Positions are its fixed
sine-cosine table, which is no part of the state. Drop path and the maps of features are added here.

Shape letters: B clips, N tokens, C channels, T frames or tubelets, H height, W width (pixels or patches).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifests.records import InputError
from tgtrain.method.networks.backbones import Backbone
from tgtrain.method.networks.dropout import DropPath
from tgtrain.method.networks.settings import ModelSettings

_DEVIATION = 0.02  # of initial weights, as in VideoMAE
_FRAMES, _SIZE = 16, 224  # what positions are made for if the settings do not say it


class Block(nn.Module):
    """A layer of transformers' VideoMAE whose two branches have a factor for each clip: 0 leaves one out."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention, self.intermediate, self.output = layer.attention, layer.intermediate, layer.output
        self.layernorm_before, self.layernorm_after = layer.layernorm_before, layer.layernorm_after

    def forward(self, tokens_BNC: Tensor, factors_2B11: Tensor | None) -> Tensor:
        """[B, N, C] -> the same shape. factors: of attention and MLP; None for 1."""
        of_attention, of_mlp = (1, 1) if factors_2B11 is None else factors_2B11.unbind()
        tokens_BNC = tokens_BNC + of_attention * self.attention(self.layernorm_before(tokens_BNC))
        hidden = self.intermediate(self.layernorm_after(tokens_BNC))
        output: Tensor = tokens_BNC + of_mlp * self.output.dense(hidden)
        return output


class VideoMAE(Backbone):
    """Vision transformer over tubes of `tubelet` frames and `patch` x `patch` pixels, with attention among all tokens of a clip.

    Clips are normalised as for the other backbones: VideoMAE has the same mean and deviation of ImageNet. The output of a stage is
    that of a block as a map of its tokens (`ModelSettings.stage_ends`). Pooled features are the mean token of the last block after
    a LayerNorm. Clips of another size than positions are made for get interpolated ones.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        videomae = _transformers()
        config = _config(videomae, settings)
        self.settings, self.out_channels = settings, settings.hidden_size
        self.embeddings = nn.ModuleDict({"patch_embeddings": videomae.VideoMAEPatchEmbeddings(config)})
        blocks = nn.ModuleList(Block(videomae.VideoMAELayer(config)) for _ in range(settings.layers))
        self.encoder = nn.ModuleDict({"layer": blocks})
        self.fc_norm = nn.LayerNorm(settings.hidden_size)
        self.drop_path = DropPath(settings.drop_path, settings.layers)
        size = settings.position_size or _SIZE
        grid = (
            (settings.position_frames or _FRAMES) // settings.tubelet,
            size // settings.patch,
            size // settings.patch,
        )
        self.register_buffer("positions_1CTHW", sine_cosine(settings.hidden_size, grid), persistent=False)
        self.positions_1CTHW: Tensor

    def initialise(self, generator: torch.Generator) -> None:
        """Set initial weights as VideoMAE does: normal with deviation 0.02, biases 0, LayerNorm the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                nn.init.normal_(module.weight, std=_DEVIATION, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def levels(self) -> list[nn.Module]:
        """The embedding of patches and the blocks."""
        return [self.embeddings, *self._blocks()]

    def num_levels(self, stages: int) -> int:
        """Levels of the first `stages` stages (1 to 4)."""
        return 1 + self.settings.stage_ends[stages - 1]

    def pool(self, features: tuple[Tensor, ...]) -> Tensor:
        """The mean token after a LayerNorm, [B, C]."""
        pooled: Tensor = self.fc_norm(super().pool(features))
        return pooled

    def forward(self, clips_BCTHW: Tensor) -> tuple[Tensor, ...]:
        """The tokens after the blocks that end the four stages, as maps [B, C, T, H, W] of tubelets and patches.

        Raises InputError if clips are not [B, 3, T, H, W] or no whole number of tubelets and patches.
        """
        settings, shape = self.settings, self.shape_of(clips_BCTHW)
        if shape[2] % settings.tubelet or shape[3] % settings.patch or shape[4] % settings.patch:
            raise InputError(
                f"The network takes clips whose frames are a multiple of model.tubelet {settings.tubelet} and whose height and width "
                f"are multiples of model.patch {settings.patch}; got {shape[2]} frames of {shape[3]}x{shape[4]}. Set data.clip_frames "
                "and data.size to such."
            )
        patches_BCTHW = self.embeddings["patch_embeddings"].projection(clips_BCTHW)  # type: ignore[operator]
        patches_BCTHW = patches_BCTHW + self._positions(patches_BCTHW.shape[2:])
        tokens_BNC = patches_BCTHW.flatten(2).transpose(1, 2)
        factors = self.drop_path(tokens_BNC) if self.training and settings.drop_path else [None] * settings.layers
        outputs = []
        for block, factors_2B11 in zip(self._blocks(), factors, strict=True):
            tokens_BNC = block(tokens_BNC, factors_2B11 if block.training else None)
            outputs.append(tokens_BNC)
        maps = (outputs[end - 1].transpose(1, 2).unflatten(2, patches_BCTHW.shape[2:]) for end in settings.stage_ends)
        return tuple(maps)

    def _blocks(self) -> list[Block]:
        return [module for module in self.encoder.modules() if isinstance(module, Block)]

    def _positions(self, grid: torch.Size) -> Tensor:
        if self.positions_1CTHW.shape[2:] == grid:
            return self.positions_1CTHW
        return F.interpolate(self.positions_1CTHW, tuple(grid), mode="trilinear", align_corners=False)


def sine_cosine(num_channels: int, grid: tuple[int, int, int]) -> Tensor:
    """The positions of VideoMAE for a grid of T x H x W tokens: float32[1, C, T, H, W].

    Channel c of token n (t first, then rows) is the sine of n / 10000^(2 (c // 2) / C), for odd c the cosine.
    """
    channels_C = torch.arange(num_channels, dtype=torch.float64)
    rates_C = 10_000 ** (-2 * (channels_C // 2) / num_channels)
    angles_CN = rates_C[:, None] * torch.arange(grid[0] * grid[1] * grid[2], dtype=torch.float64)
    table_CN = torch.where(channels_C[:, None] % 2 == 0, angles_CN.sin(), angles_CN.cos())
    return table_CN.float().reshape(1, num_channels, *grid)


def _transformers() -> Any:
    """The module of transformers with the layers; InputError without the package, or with one from before 5.20."""
    try:
        from transformers.models.videomae import modeling_videomae
    except ImportError as error:
        raise InputError(
            f"model.backbone=videomae needs the package transformers ({error}): pip install 'tgprep[vit]'."
        ) from None
    videomae: Any = modeling_videomae
    if not hasattr(videomae.VideoMAEConfig, "qv_bias"):  # the tensors of its layers had other names before 5.20
        raise InputError("The transformers that is installed is too old: pip install -U 'tgprep[vit]'.")
    return videomae


def _config(videomae: Any, settings: ModelSettings) -> Any:
    return videomae.VideoMAEConfig(
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=settings.intermediate_size or 4 * settings.hidden_size,
        patch_size=settings.patch,
        tubelet_size=settings.tubelet,
        attn_implementation="sdpa",
    )
