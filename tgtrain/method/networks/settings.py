"""The settings of a model: which networks it has, and the weights they start from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from manifests.records import InputError

View = Literal["rgb", "tg"]
Streams = Literal["two", "rgb", "tg", "joint"]
BackboneName = Literal["r3d", "slowonly", "videomae"]
ProjectionKind = Literal["separate", "shared", "none"]

RESNET_BLOCKS = {"r3d": {10: (1, 1, 1, 1), 18: (2, 2, 2, 2)}, "slowonly": {50: (3, 4, 6, 3)}}
"""Of the stages of the residual networks, by depth."""
_DEPTHS = {name: tuple(blocks) for name, blocks in RESNET_BLOCKS.items()}
_MOST_PATCHES = 32_768  # of a clip: the positions of a run from a stranger take little memory


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which network is built. The defaults are the published model of Learning from Temporal Gradient.

    Raises InputError naming every wrong setting.
    """

    num_classes: int
    """Outputs of the classifier."""
    streams: Streams = "two"
    """two: RGB and TG with separate weights; rgb or tg: one network; joint: both views in one network (MvPL)."""
    backbone: BackboneName = "r3d"
    """R3D of the paper, SlowOnly of MvPL, or VideoMAE, a transformer."""
    depth: int = 18
    """10 or 18 for r3d, 50 for slowonly; videomae has `layers`."""
    width: int = 64
    """Channels of the stem; for videomae of no effect but on the projection heads, which have 8 times as many."""
    dropout: float = 0.5
    """Probability before the classifier, in [0, 1)."""
    projection: ProjectionKind = "separate"
    """Heads for the contrast loss: one per view, one shared by both, or none."""
    # Of the transformer (backbone videomae) alone; the defaults are VideoMAE-Base. `str` leaves them out for other backbones.
    hidden_size: int = field(default=768, repr=False)
    """Channels of a token."""
    layers: int = field(default=12, repr=False)
    """Blocks of attention and MLP."""
    heads: int = field(default=12, repr=False)
    """Of attention; they share hidden_size evenly."""
    intermediate_size: int = field(default=0, repr=False)
    """Hidden channels of each MLP; 0: 4 * hidden_size."""
    patch: int = field(default=16, repr=False)
    """Height and width of what a token sees, in pixels; they divide those of a clip."""
    tubelet: int = field(default=2, repr=False)
    """Frames of what a token sees; they divide those of a clip."""
    drop_path: float = field(default=0.0, repr=False)
    """Probability, in [0, 1), with which the last block leaves out each of its branches for a clip; in the first 0, evenly between."""
    stage_layers: tuple[int, ...] = field(default=(), repr=False)
    """The four blocks, counted from 1 and the last one among them, whose tokens are the features of stages 1 to 4; (): the quarters."""
    position_frames: int = field(default=0, repr=False)
    """Frames of the clips that the fixed sine-cosine positions are made for; for clips of another size they are interpolated. 0: those
    of the recipe's clips, data.clip_frames."""
    position_size: int = field(default=0, repr=False)
    """The same for height and width; 0: data.size."""
    # The rest is no part of what a model is (`str` leaves it out, and checkpoints name their model so), but how it starts.
    init: str = field(default="", repr=False)
    """Weights to start from: a run, a checkpoint, or a file of another library; "": none; required: the user must name some."""
    init_tg: str = field(default="same", repr=False)
    """The same for the TG network, with streams two: same as init, scratch for none, or a path."""
    init_sha256: str = field(default="", repr=False)
    """Of that file: found by the run; in a recipe, a file with another one is refused."""
    init_tg_sha256: str = field(default="", repr=False)
    """The same for the file of the TG network."""
    freeze_stages: int = field(default=0, repr=False)
    """Stem and so many stages (1 to 4) of the networks that start from weights do not learn; 0: all learn."""
    freeze_batch_norm: bool = field(default=False, repr=False)
    """BatchNorm of these backbones keeps the statistics of the file; scale and shift are learnt."""

    def __post_init__(self) -> None:
        wrong = wrong_choices(self, streams=Streams, backbone=BackboneName, projection=ProjectionKind)
        depths = _DEPTHS.get(self.backbone, (self.depth,))
        wrong += wrong_values(
            self,
            ("num_classes", 1 <= self.num_classes <= 100_000, "1 to 100000"),
            ("depth", self.depth in depths, f"{' or '.join(map(str, depths))} for the backbone {self.backbone}"),
            ("width", 1 <= self.width <= 512, "1 to 512"),
            ("dropout", 0 <= self.dropout < 1, "0 <= dropout < 1"),
        )
        wrong += self._wrong_transformer() + self._wrong_start()
        if wrong:
            raise InputError("The model cannot be built:\n  " + "\n  ".join(wrong))

    def __repr__(self) -> str:
        """What the model is, by which checkpoints name it: without how it starts, and without the settings of other backbones."""
        shown = [each.name for each in fields(self) if each.repr or (self.is_transformer and each.name in TRANSFORMER)]
        return f"ModelSettings({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    @property
    def is_transformer(self) -> bool:
        """Whether the backbone is made of tokens and blocks: it has no BatchNorm, and takes clips of whole patches."""
        return self.backbone == "videomae"

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """The blocks of a transformer, counted from 1, after which the four stages end."""
        return self.stage_layers or tuple(-(-self.layers * quarter // 4) for quarter in (1, 2, 3, 4))

    @property
    def size(self) -> str:
        """The size of the backbone in words."""
        names = ("hidden_size", "layers", "heads", "patch", "tubelet") if self.is_transformer else ("depth", "width")
        return ", ".join(f"{name} {getattr(self, name)}" for name in names)

    def for_clips(self, clip_frames: int, size: int, test_size: int) -> ModelSettings:
        """The settings of a transformer with positions for a recipe's clips; InputError unless these are whole patches."""
        rules = (
            ("clip_frames", clip_frames, "tubelet", self.tubelet),
            ("size", size, "patch", self.patch),
            ("test_size", test_size, "patch", self.patch),
        )
        wrong = [
            f"data.{name}: got {value}, expected a multiple of model.{unit} {step}, such as {max(1, round(value / step)) * step}"
            for name, value, unit, step in rules
            if value % step
        ]
        if wrong:
            raise InputError("The backbone videomae takes whole patches:\n  " + "\n  ".join(wrong))
        frames, side = self.position_frames or clip_frames, self.position_size or size
        return replace(self, position_frames=frames, position_size=side)

    def _wrong_transformer(self) -> list[str]:
        """Complaints about the settings of the transformer."""
        ends, last = self.stage_ends, self.stage_ends[-1:]
        four = len(ends) == 4 and list(ends) == sorted(ends) and ends[0] >= 1 and last == (self.layers,)
        complaints = wrong_values(
            self,
            ("hidden_size", 1 <= self.hidden_size <= 4096, "1 to 4096"),
            ("layers", 1 <= self.layers <= 64, "1 to 64"),
            ("heads", 1 <= self.heads <= 64, "1 to 64"),
            ("intermediate_size", 0 <= self.intermediate_size <= 16_384, "0 to 16384"),
            ("patch", 1 <= self.patch <= 256, "1 to 256"),
            ("tubelet", 1 <= self.tubelet <= 64, "1 to 64"),
            ("drop_path", 0 <= self.drop_path < 1, "0 <= drop_path < 1"),
            ("stage_layers", four, f"four blocks in rising order, of which the last is {self.layers}, or []"),
        )
        if complaints or not self.is_transformer:
            return complaints
        complaints += wrong_values(
            self,
            ("heads", self.hidden_size % self.heads == 0, f"a divisor of hidden_size {self.hidden_size}"),
            ("position_frames", self.position_frames % self.tubelet == 0, f"a multiple of tubelet {self.tubelet}"),
            ("position_size", self.position_size % self.patch == 0, f"a multiple of patch {self.patch}"),
        )
        patches = self.position_frames // self.tubelet * (self.position_size // self.patch) ** 2
        if not (self.position_frames >= 0 <= self.position_size and patches <= _MOST_PATCHES):
            complaints.append(f"position_frames, position_size: expected a clip of at most {_MOST_PATCHES} patches")
        return complaints

    def _wrong_start(self) -> list[str]:
        """Complaints about the weights to start from, and about what is frozen."""
        from_file = bool(self.start_of("tg")[0])
        valid_path = all(0 < len(path) < 4096 and "\0" not in path for path in (self.init or "none", self.init_tg))
        complaints = wrong_values(
            self,
            ("freeze_stages", 0 <= self.freeze_stages <= 4, "0 to 4"),
            ("init_tg", self.init_tg == "same" or self.streams == "two", f"same, since streams is {self.streams}"),
            ("init_sha256", bool(self.init) or not self.init_sha256, "none without init"),
            (
                "freeze_batch_norm",
                not (self.freeze_batch_norm and self.is_transformer),
                "false: videomae has no BatchNorm",
            ),
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


TRANSFORMER = frozenset(
    {
        *("hidden_size", "layers", "heads", "intermediate_size", "patch", "tubelet"),
        *("drop_path", "stage_layers", "position_frames", "position_size"),
    }
)


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
