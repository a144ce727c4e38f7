"""The networks that are trained: one backbone, classifier and projection per view of a video.

Names in the state dict are stable (checkpoints rely on them): `rgb.*`, `tg.*` backbones (`net.*` if both views
share one), `head_rgb.fc.*`, `head_tg.fc.*` classifiers, `project_rgb.*`, `project_tg.*`, `project_shared.*`.

Shape letters: B clips, K classes, D embedding, C channels, T frames, H height, W width (pixels).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from manifests.records import InputError
from tgtrain.method.networks.backbones import R3D, Bottleneck, SlowOnly

View = Literal["rgb", "tg"]
Streams = Literal["two", "rgb", "tg", "joint"]
BackboneName = Literal["r3d", "slowonly"]
ProjectionKind = Literal["separate", "shared", "none"]

_BACKBONES: dict[str, type[R3D] | type[SlowOnly]] = {"r3d": R3D, "slowonly": SlowOnly}


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which network is built. The defaults are the published model of Learning from Temporal Gradient.

    Raises InputError naming every wrong setting.
    """

    num_classes: int
    streams: Streams = "two"
    """two: RGB and TG with separate weights; rgb or tg: one network; joint: both views in one network (MvPL)."""
    backbone: BackboneName = "r3d"
    depth: int = 18
    """10 or 18 for r3d, 50 for slowonly."""
    width: int = 64
    """Channels of the stem."""
    dropout: float = 0.5
    """Probability before the classifier, in [0, 1)."""
    projection: ProjectionKind = "separate"
    """Heads for the contrast loss: one per view, one shared by both, or none."""
    # The rest is no part of what a model is (`str` leaves it out, and checkpoints name their model so), but how it starts.
    init: str = field(default="", repr=False)
    """Weights to start from: a run, a checkpoint, or a file of another library; "": none; required: the user must name some."""
    init_tg: str = field(default="same", repr=False)
    """The same for the TG network, with streams two: same as init, scratch for none, or a path."""
    init_sha256: str = field(default="", repr=False)
    """Of that file: found by the run; in a recipe, a file with another one is refused. As is `init_tg_sha256`."""
    init_tg_sha256: str = field(default="", repr=False)
    freeze_stages: int = field(default=0, repr=False)
    """Stem and so many stages (1 to 4) of the networks that start from weights do not learn; 0: all learn."""
    freeze_batch_norm: bool = field(default=False, repr=False)
    """BatchNorm of these backbones keeps the statistics of the file; scale and shift are learnt."""

    def __post_init__(self) -> None:
        wrong = wrong_choices(self, streams=Streams, backbone=BackboneName, projection=ProjectionKind)
        depths = tuple(_BACKBONES[self.backbone].BLOCKS_PER_STAGE) if self.backbone in _BACKBONES else (self.depth,)
        wrong += wrong_values(
            self,
            ("num_classes", 1 <= self.num_classes <= 100_000, "1 to 100000"),
            ("depth", self.depth in depths, f"{' or '.join(map(str, depths))} for the backbone {self.backbone}"),
            ("width", 1 <= self.width <= 512, "1 to 512"),
            ("dropout", 0 <= self.dropout < 1, "0 <= dropout < 1"),
        )
        wrong += self._wrong_start()
        if wrong:
            raise InputError("The model cannot be built:\n  " + "\n  ".join(wrong))

    def _wrong_start(self) -> list[str]:
        """Complaints about the weights to start from, and about what is frozen."""
        from_file = bool(self.start_of("tg")[0])
        valid_path = all(0 < len(path) < 4096 and "\0" not in path for path in (self.init or "none", self.init_tg))
        complaints = wrong_values(
            self,
            ("freeze_stages", 0 <= self.freeze_stages <= 4, "0 to 4"),
            ("init_tg", self.init_tg == "same" or self.streams == "two", f"same, since streams is {self.streams}"),
            ("init_sha256", bool(self.init) or not self.init_sha256, "none without init"),
            ("init_tg_sha256", from_file or not self.init_tg_sha256, "none for a TG network from scratch"),
        )
        if not valid_path:
            complaints.append("init, init_tg: expected the path of a file or a run")
        starts = any(self.start_of(network)[0] for network in ("rgb", "tg", "net"))
        if (self.freeze_stages or self.freeze_batch_norm) and not starts:
            complaints.append(
                "freeze_stages, freeze_batch_norm: expected weights to start from (init): those of scratch must learn"
            )
        return complaints

    def start_of(self, network: str) -> tuple[str, str]:
        """The path that a network (rgb, tg, net) starts from, and its sha256 if known; "" for none."""
        if network == "tg" and self.init_tg != "same":
            return ("", "") if self.init_tg == "scratch" else (self.init_tg, self.init_tg_sha256)
        return self.init, self.init_sha256


def wrong_choices(settings: object, **kinds: Any) -> list[str]:
    """Complaints about the fields of settings whose value is none of those of their Literal."""
    return [
        f"{name}: got {getattr(settings, name)!r}, expected one of {', '.join(get_args(kind))}"
        for name, kind in kinds.items()
        if getattr(settings, name) not in get_args(kind)
    ]


def wrong_values(settings: object, *rules: tuple[str, bool, str]) -> list[str]:
    """Complaints about the fields whose rule (name, whether the value is valid, what is expected) is broken."""
    return [
        f"{name}: got {getattr(settings, name)}, expected {expected}" for name, valid, expected in rules if not valid
    ]


@dataclass(frozen=True, slots=True)
class StreamOutput:
    """The outputs of one network for B clips of one view."""

    logits_BK: Tensor
    """Class scores before softmax."""
    features: tuple[Tensor, ...]
    """The four stage outputs [B, C, T, H, W], stage 1 first."""
    embedding_BD: Tensor | None
    """For the contrast loss, not normalised; None in eval mode and if the model has no projection."""


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """The outputs for the views that were given to the model; None for the other one."""

    rgb: StreamOutput | None = None
    tg: StreamOutput | None = None


class SharedDropout(nn.Module):
    """Dropout of rows [B, C] with a mask drawn for the joined batch, of which they are every `stride`-th row from `first` on.

    So ranks that start from the same state of the generator drop what one process with the joined batch drops. With the
    initial first 0 and stride 1 it equals `nn.Dropout`, on CPU bit for bit.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.first, self.stride = 0, 1

    def forward(self, rows_BC: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return rows_BC
        keep_probability = 1 - self.probability
        mask = rows_BC.new_empty((rows_BC.shape[0] * self.stride, rows_BC.shape[1])).bernoulli_(keep_probability)
        return rows_BC * mask.div_(keep_probability)[self.first :: self.stride]


def share_dropout(model: nn.Module, first: int, stride: int) -> None:
    """Set for every dropout of the model which rows of the joined batch this rank has, see `SharedDropout`."""
    for module in model.modules():
        if isinstance(module, SharedDropout):
            module.first, module.stride = first, stride


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

    def backbone(self, view: View) -> R3D | SlowOnly:
        """The network that the clips of a view go through. Raises InputError if there is none."""
        if view not in self.views:
            raise InputError(f"This model has only a {self.views[0]} network; got a request for {view}.")
        network: R3D | SlowOnly = getattr(self, view)
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

    def backbone(self, view: View) -> R3D | SlowOnly:
        """The network that the clips of a view go through: the same one for both."""
        return self.net


Model = SeparateStreams | JointStream


def build_model(settings: ModelSettings, seed: int = 0) -> Model:
    """Build a model with initial weights that depend only on settings and seed, not on the global generators.

    Convolutions: Kaiming normal, fan out. BatchNorm: weight 1, bias 0 (weight 0 for the last of every SlowOnly block).
    Linear layers: normal with deviation 0.01, bias 0.
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


def _backbone(settings: ModelSettings, network: str) -> R3D | SlowOnly:
    backbone = _BACKBONES[settings.backbone](settings.depth, settings.width)
    if settings.start_of(network)[0]:
        backbone.freeze(settings.freeze_stages, settings.freeze_batch_norm)
    return backbone


def _run(backbone: nn.Module, head: nn.Module, project: nn.Module | None, clips_BCTHW: Tensor) -> StreamOutput:
    """Backbone, pooling, classifier and, in training, the projection."""
    features = backbone(clips_BCTHW)
    pooled_BC = features[-1].mean(dim=(2, 3, 4))
    embedding_BD = project(pooled_BC) if project is not None and project.training else None
    return StreamOutput(head(pooled_BC), features, embedding_BD)


def _rows(output: StreamOutput, rows: slice) -> StreamOutput:
    embedding_BD = None if output.embedding_BD is None else output.embedding_BD[rows]
    return StreamOutput(output.logits_BK[rows], tuple(f[rows] for f in output.features), embedding_BD)
