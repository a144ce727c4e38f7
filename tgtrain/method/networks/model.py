"""The networks that are trained: one backbone, classifier and projection per view of a video.

Names in the state dict are stable (checkpoints rely on them): `rgb.*`, `tg.*` backbones (`net.*` if both views
share one), `head_rgb.fc.*`, `head_tg.fc.*` classifiers, `project_rgb.*`, `project_tg.*`, `project_shared.*`.

Shape letters: B clips, K classes, D embedding, C channels, T frames, H height, W width (pixels).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from manifests.records import InputError
from tgtrain.method.networks.backbones import R3D, Backbone, Bottleneck, SlowOnly
from tgtrain.method.networks.dropout import SharedDropout
from tgtrain.method.networks.settings import ModelSettings, View
from tgtrain.method.networks.videomae import VideoMAE


@dataclass(frozen=True, slots=True)
class StreamOutput:
    """The outputs of one network for B clips of one view."""

    logits_BK: Tensor
    """Class scores before softmax."""
    features: tuple[Tensor, ...]
    """The outputs of the four stages [B, C, T, H, W], stage 1 first."""
    embedding_BD: Tensor | None
    """For the contrast loss, not normalised; None in eval mode and if the model has no projection."""


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """The outputs for the views that were given to the model; None for the other one."""

    rgb: StreamOutput | None = None
    tg: StreamOutput | None = None


class Classifier(nn.Module):
    """Dropout and a linear layer on pooled features [B, C] -> [B, K]."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = SharedDropout(dropout)
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, pooled_BC: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.dropout(pooled_BC))
        return logits


class Projection(nn.Module):
    """Three-layer MLP of the contrast loss, pooled features [B, C] -> [B, D]; no biases, no affine in the last BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels, out_channels, bias=False)
        self.bn1 = nn.BatchNorm1d(out_channels)
        self.fc2 = nn.Linear(out_channels, out_channels, bias=False)
        self.bn2 = nn.BatchNorm1d(out_channels)
        self.fc3 = nn.Linear(out_channels, out_channels, bias=False)
        self.bn3 = nn.BatchNorm1d(out_channels, affine=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, pooled_BC: Tensor) -> Tensor:
        hidden = self.relu(self.bn1(self.fc1(pooled_BC)))
        hidden = self.relu(self.bn2(self.fc2(hidden)))
        embedding: Tensor = self.bn3(self.fc3(hidden))
        return embedding


class SeparateStreams(nn.Module):
    """A network for RGB, TG or each of the two, in submodules that bear the names of the views.

    At inference `model(rgb=clips)` runs only the RGB network.
    """

    def __init__(self, settings: ModelSettings, views: tuple[View, ...]) -> None:
        super().__init__()
        self.views = views
        for view in views:
            backbone = _backbone(settings, view)
            self.add_module(view, backbone)
            self.add_module(f"head_{view}", Classifier(backbone.out_channels, settings.num_classes, settings.dropout))
        # One network alone shares its projection with none: it is named after the view.
        shared = settings.projection == "shared" and len(views) == 2
        for name in ("shared",) if shared else views:
            if settings.projection != "none":
                self.add_module(f"project_{name}", Projection(backbone.out_channels, 8 * settings.width))

    def forward(self, rgb: Tensor | None = None, tg: Tensor | None = None) -> ModelOutput:
        """rgb, tg: normalised clips [B, 3, T, H, W] of the model's views, with two either or both. InputError for others."""
        given = {view: clips for view, clips in (("rgb", rgb), ("tg", tg)) if clips is not None}
        if len(self.views) == 1 and tuple(given) != self.views:
            (view,) = self.views
            raise InputError(f"This model has only a {view} network: give it {view} clips and no others.")
        shared = getattr(self, "project_shared", None)
        outputs = {
            view: _run(
                getattr(self, view), getattr(self, f"head_{view}"), getattr(self, f"project_{view}", shared), clips
            )
            for view, clips in given.items()
        }
        return ModelOutput(**outputs)

    def backbone(self, view: View) -> Backbone:
        """The network that the clips of a view go through. Raises InputError if there is none."""
        if view not in self.views:
            raise InputError(f"This model has only a {self.views[0]} network; got a request for {view}.")
        network: Backbone = getattr(self, view)
        return network


class JointStream(nn.Module):
    """One network and one classifier for both views (MvPL): both go through it in one batch, RGB rows first."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.net = _backbone(settings, "net")
        channels = self.net.out_channels
        self.head_rgb = Classifier(channels, settings.num_classes, settings.dropout)
        self.project_shared = None if settings.projection == "none" else Projection(channels, 8 * settings.width)

    def forward(self, rgb: Tensor | None = None, tg: Tensor | None = None) -> ModelOutput:
        """rgb, tg: normalised clips [B, 3, T, H, W] of one size, either or both. Raises InputError if their shape is wrong."""
        given = [clips for clips in (rgb, tg) if clips is not None]
        joined = _run(self.net, self.head_rgb, self.project_shared, torch.cat(given))
        num_rgb = 0 if rgb is None else rgb.shape[0]
        return ModelOutput(
            None if rgb is None else _rows(joined, slice(0, num_rgb)),
            None if tg is None else _rows(joined, slice(num_rgb, None)),
        )

    def backbone(self, view: View) -> Backbone:
        """The network that the clips of a view go through: the same one for both."""
        return self.net


Model = SeparateStreams | JointStream


def build_model(settings: ModelSettings, seed: int = 0) -> Model:
    """Build a model with initial weights that depend only on settings and seed, not on the global generators.

    Convolutions: Kaiming normal, fan out. BatchNorm: weight 1, bias 0 (weight 0 for the last of every SlowOnly block).
    Linear layers: normal with deviation 0.01, bias 0. A transformer has its own, see `VideoMAE.initialise`.
    """
    with torch.random.fork_rng(devices=[]):
        model = _construct(settings)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Bottleneck):
            # The block starts as the identity; elsewhere the defaults of BatchNorm are right.
            nn.init.zeros_(module.bn3.weight)
    for module in model.modules():
        if isinstance(module, VideoMAE):
            module.initialise(generator)
    return model


def outline(settings: ModelSettings) -> Model:
    """The model without values, which takes no memory: for its shapes."""
    with torch.device("meta"):
        return _construct(settings)


def state_shapes(settings: ModelSettings) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the model's state, by name."""
    return {name: tuple(value.shape) for name, value in outline(settings).state_dict().items()}


def count_parameters(module: nn.Module) -> int:
    """Number of weights, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(settings: ModelSettings, num_frames: int = 8, height: int = 224, width: int = 224) -> int:
    """Multiply-accumulates of one clip at inference (one view; backbone and classifier), computed from shapes."""
    with FlopCounterMode(display=False) as counter:
        _meta_forward(settings, num_frames, height, width)
    return int(counter.get_total_flops()) // 2


@cache
def last_shape(settings: ModelSettings, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
    """T, H, W of the features of the last stage for clips of this size."""
    t, h, w = _meta_forward(settings, num_frames, height, width).features[-1].shape[2:]
    return t, h, w


def _meta_forward(settings: ModelSettings, num_frames: int, height: int, width: int) -> StreamOutput:
    """Run one clip without values, for its shapes."""
    view: View = "tg" if settings.streams == "tg" else "rgb"
    with torch.device("meta"), torch.no_grad():
        output = outline(settings).eval()(**{view: torch.empty(1, 3, num_frames, height, width)})
    stream: StreamOutput = getattr(output, view)
    return stream


def _construct(settings: ModelSettings) -> Model:
    if settings.streams == "joint":
        return JointStream(settings)
    return SeparateStreams(settings, ("rgb", "tg") if settings.streams == "two" else (settings.streams,))


def _backbone(settings: ModelSettings, network: str) -> Backbone:
    backbone: Backbone
    match settings.backbone:
        case "r3d":
            backbone = R3D(settings.depth, settings.width)
        case "slowonly":
            backbone = SlowOnly(settings.depth, settings.width)
        case "videomae":
            backbone = VideoMAE(settings)
    if settings.start_of(network)[0]:
        backbone.freeze(settings.freeze_stages, settings.freeze_batch_norm)
    return backbone


def _run(backbone: Backbone, head: nn.Module, project: nn.Module | None, clips_BCTHW: Tensor) -> StreamOutput:
    """Backbone, pooling, classifier and, in training, the projection."""
    features = backbone(clips_BCTHW)
    pooled_BC = backbone.pool(features)
    embedding_BD = project(pooled_BC) if project is not None and project.training else None
    return StreamOutput(head(pooled_BC), features, embedding_BD)


def _rows(output: StreamOutput, rows: slice) -> StreamOutput:
    embedding_BD = None if output.embedding_BD is None else output.embedding_BD[rows]
    return StreamOutput(output.logits_BK[rows], tuple(f[rows] for f in output.features), embedding_BD)
