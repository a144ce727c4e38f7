"""Recipes: TOML files that say how a run is trained. `load_recipe` resolves `extends` and `--set`, checks, reports all mistakes at once."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from manifests.records import InputError
from tgtrain.method.networks.model import ModelSettings
from tgtrain.method.settings import MethodSettings, check_method

# Upper ends are far beyond use: they turn a slip of the finger into a message instead of a machine without memory.
Positive = Annotated[int, Field(ge=1, le=1_000_000)]
NotNegative = Annotated[int, Field(ge=0, le=1_000_000)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Frames = Annotated[int, Field(ge=1, le=1024)]
BatchSize = Annotated[int, Field(ge=1, le=65_536)]
Quirk = Literal[
    "fixed_signs",
    "replayed_operations",
    "fixed_labelled_order",
    "uda_gradient",
    "hmdb51_101_classes",
    "flow_flip_keeps_x",
    "precise_bn_rgb_only",
    "running_statistics",
]


@dataclass(frozen=True, slots=True)
class DataSettings:
    """What the recipe was made for, and how clips are cut.

    dataset, percent: what the published figure belongs to; percent picks the split where several exist. 0: any.
    clip_frames, interval: T frames, `interval` apart. size: input height and width in pixels.
    clip_spread: where method.clips_per_video asks for more than one clip: one from each equal part of the video ("segments"),
    or each from anywhere ("uniform").
    gradient: TG of neighbouring frames ("fast") or of frames spread over the clip ("slow"), or stored optical flow in its
    place ("flow").
    crop: of training clips: random area and aspect ("resized"), or random scale and place ("jitter", MvPL).
    shared_crop: RGB and TG of a clip are cut and flipped alike. area: share of the picture that a resized crop covers.
    test_clips x test_crops: views of a test video. test_size: side of each of three crops; 0: 256 for size 224 and in
    proportion. A small network on small pictures needs its training size.
    reader: how shards are read: what a clip needs and no more ("indexed"), or from their beginning, for pipes and web servers that give
    no parts of files ("stream", see tgtrain.data.sequential_batches: weaker promises). shards: where "stream" finds them: a path, a URL or
    `pipe:COMMAND` in which {shard} stands for the name; "": with the tables. shuffle_clips: clips that wait in a loader process of "stream"
    to be shuffled.
    block_shards: the unlabelled videos come block after block of so many shards (tgtrain.data.order); 0: shuffled as a whole;
    -1: 0 on local disk, 32 for a data set at a URL.
    """

    dataset: str = ""
    percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    clip_frames: Frames = 8
    interval: Frames = 8
    clip_spread: Literal["segments", "uniform"] = "segments"
    size: Annotated[int, Field(ge=16, le=1024)] = 224
    gradient: Literal["fast", "slow", "flow"] = "fast"
    crop: Literal["resized", "jitter"] = "resized"
    shared_crop: bool = True
    area: tuple[float, float] = (0.08, 1.0)
    test_size: Annotated[int, Field(ge=0, le=2048)] = 0
    test_clips: Frames = 10
    test_crops: Literal[1, 3] = 3
    block_shards: Annotated[int, Field(ge=-1)] = -1
    reader: Literal["indexed", "stream"] = "indexed"
    shards: str = ""
    shuffle_clips: Positive = 256


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """Videos in a global batch (all ranks together). The labelled : unlabelled ratio is exact in every step."""

    labelled: BatchSize = 40
    unlabelled: BatchSize = 40


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """The strong view: `num_ops` operations drawn from a list.

    operations: the 15 of the paper (exactly num_ops of them, 0.9 strong), or those of MvPL (half of them left out, random
    strength, then a large cutout).
    shared_geometry: RGB and TG get the same operations and magnitudes instead of independent ones.
    labelled: which view of the labelled clips the network learns from; "strong" for a supervised baseline.
    """

    operations: Literal["paper", "mvpl"] = "paper"
    num_ops: NotNegative = 2
    shared_geometry: bool = False
    labelled: Literal["weak", "strong"] = "weak"


@dataclass(frozen=True, slots=True)
class OptimiserSettings:
    """SGD with momentum; cosine per epoch to 0, times a linear warm-up per step from 0.1 of the rate.

    learning_rate: for the recipe's global batch. warmup_epochs: of the rate. clip_norm: L2 norm of all gradients, 0 none.
    """

    epochs: Positive = 180
    learning_rate: PositiveFloat = 0.2
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegativeFloat = 1e-4
    warmup_epochs: NotNegative = 30
    clip_norm: NotNegativeFloat = 40.0


@dataclass(frozen=True, slots=True)
class PreciseBnSettings:
    """Before an evaluation, BatchNorm statistics of the tested network are measured anew over training clips.

    batches: of the labelled batch size; 0 switches it off. Fewer are used where the train list is smaller.
    clips: of the middle of each video ("centre"), or cut as in training ("training").
    """

    batches: NotNegative = 200
    clips: Literal["centre", "training"] = "centre"


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """When to measure accuracy while training (one centre clip and crop), and when to save.

    every_epochs: 0 only at the end. keep: checkpoints kept besides the best, at least 2.
    average: what `tgtrain test` averages over views unless told otherwise.
    """

    every_epochs: NotNegative = 5
    keep: Annotated[int, Field(ge=2)] = 3
    average: Literal["logits", "probabilities"] = "logits"


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """How the run is carried out. device auto: a GPU where there is one. workers -1: from the number of cores.

    precision: of the forward pass (autocast). log_every: steps between two lines of the log.
    accumulate: parts in which each process takes its share of the batch, one after the other, before the weights change; for
    a batch that does not fit (tgtrain.method.accumulate says what stays the same). accumulate_contrast: whether the contrast loss
    compares rows of the whole batch (an extra forward pass without gradient), or of one part alone.
    compile: the networks by torch.compile, with compile_backend ("inductor" makes code for the device; "aot_eager" and "eager" only trace,
    to look for what goes wrong). max_bad_fraction: stop once more of the clips read were damaged than this share, of 1,000 clips where
    fewer were read; 0: at the first. max_loss_factor: stop once the loss is over this many times the usual one (see tgtrain.train.health); 0: never.
    cache: folder for shards of a data set at a URL; "": ~/.cache/tgtrain. cache_gb: what it may hold in GB (10^9 bytes); 0: 80 %
    of what its disk has free.
    """

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    workers: Annotated[int, Field(ge=-1, le=512)] = -1
    log_every: Positive = 20
    compile: bool = False
    compile_backend: Literal["inductor", "aot_eager", "eager"] = "inductor"
    accumulate: Annotated[int, Field(ge=1, le=4096)] = 1
    accumulate_contrast: Literal["batch", "part"] = "batch"
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    max_loss_factor: NotNegativeFloat = 100.0
    cache: str = ""
    cache_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


@dataclass(frozen=True, slots=True)
class CompatSettings:
    """Quirks of the reference code to reproduce, each by its name; none by default. docs/recipes.md tells what each does."""

    quirks: tuple[Quirk, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """A resolved recipe: everything that a run depends on besides data set, split and code.

    reproduces: the authors' configuration that it stands for. published: the figure for it, with its source.
    """

    name: str = ""
    description: str = ""
    reproduces: str = ""
    published: str = ""
    data: DataSettings = field(default_factory=DataSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    model: ModelSettings = field(default_factory=lambda: ModelSettings(num_classes=101))
    method: MethodSettings = field(default_factory=MethodSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    precise_bn: PreciseBnSettings = field(default_factory=PreciseBnSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    compat: CompatSettings = field(default_factory=CompatSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in a recipe and in a run's config.json."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


def recipe_names() -> tuple[str, ...]:
    """The recipes that ship with the package, sorted."""
    return tuple(
        sorted(path.name.removesuffix(".toml") for path in _recipes().iterdir() if path.name.endswith(".toml"))
    )


def load_recipe(name: str, overrides: Iterable[str] = (), num_classes: int | None = None) -> Config:
    """A shipped recipe by name, or one by path (`.toml`), with `--set` overrides (`section.key=value`).

    num_classes: of the data set; used unless the recipe sets `model.num_classes` itself.
    Raises InputError that names every wrong key or value, where it stands, and the nearest valid key.
    """
    values, origins = _read(name, ())
    problems: list[str] = []
    for text in overrides:
        _override(values, origins, text, problems)
    return _checked(values, origins, problems, num_classes)


def config_from_dict(values: dict[str, Any], origin: str) -> Config:
    """The Config that `to_dict` wrote; InputError naming `origin` where it does not fit this version."""
    origins = dict.fromkeys(_flat(values), origin)
    return _checked(values, origins, [], None)


def differences(before: Config, now: Config) -> list[str]:
    """`section.key: value there, value asked` for everything that differs."""
    old, new = _flat(before.to_dict()), _flat(now.to_dict())
    return [f"{key}: {old.get(key)} there, {value} asked" for key, value in new.items() if old.get(key) != value]


def flat_settings(config: Config) -> dict[str, Any]:
    """`section.key` -> value, in the order of the sections."""
    return _flat(config.to_dict())


def parent_of(name: str) -> str:
    """The recipe that a recipe (shipped, or a path) extends; "" for none. A relative path is told from its own folder."""
    return _parent(_toml(_place(name), name), name)


def _recipes() -> Any:
    return resources.files("tgtrain") / "recipes"


def _read(name: str, seen: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """The merged values of a recipe and its ancestors, and for each key the file that set it."""
    path = _place(name)
    place = str(path.resolve()) if isinstance(path, Path) else name  # one file has one name, however it is written
    if place in seen:
        raise InputError(f"Recipe {seen[0]}: `extends` goes in a circle ({' -> '.join((*seen, place))}).")
    own = _toml(path, name)
    parent = _parent(own, name)
    own.pop("extends", None)
    values, origins = _read(parent, (*seen, place)) if parent else ({}, {})
    for key in ("description", "reproduces", "published"):
        values.pop(key, None)  # they speak of the parent
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            values[key] = {**values[key], **value}
        else:
            values[key] = value
    origins.update({key: f"{name}.toml" if not name.endswith(".toml") else name for key in _flat(own)})
    values["name"] = Path(name).stem if name.endswith(".toml") else name
    return values, origins


def _toml(path: Any, name: str) -> dict[str, Any]:
    """The values of a recipe's file; InputError where it is missing or no TOML."""
    if not path.is_file():
        near = difflib.get_close_matches(name, recipe_names(), n=3, cutoff=0.5)
        hint = f" Nearest: {', '.join(near)}." if near else ""
        raise InputError(f"No recipe {name!r}.{hint} `tgtrain recipes` lists them; a path must end in .toml.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of tomllib, UTF-8, numbers of thousands of digits
        raise InputError(f"{path} is not valid TOML: {error}.") from None


def _parent(values: dict[str, Any], name: str) -> str:
    """What a recipe extends, see `parent_of`."""
    parent = values.get("extends", "")
    if not isinstance(parent, str):
        raise InputError(f"Recipe {name}: extends is {parent!r}, expected the name or path of one recipe, in quotes.")
    if parent.endswith(".toml") and name.endswith(".toml"):
        return str(Path(name).parent / parent)
    return parent


def _place(name: str) -> Any:
    return Path(name) if name.endswith(".toml") else _recipes() / f"{name}.toml"


def _override(values: dict[str, Any], origins: dict[str, str], text: str, problems: list[str]) -> None:
    key, equals, raw = text.partition("=")
    section, dot, name = key.strip().partition(".")
    if not equals or not dot:
        problems.append(f"--set {text}: expected section.key=value, for example optimiser.epochs=90")
        return
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except (ValueError, RecursionError):
        value = raw.strip()
    target = values.setdefault(section, {})
    if not isinstance(target, dict):
        problems.append(f"--set {text}: {section} is no section")
        return
    target[name] = value
    origins[key.strip()] = "--set"


def _checked(values: dict[str, Any], origins: dict[str, str], problems: list[str], num_classes: int | None) -> Config:
    kinds = get_type_hints(Config)
    sections_of = {name: dataclasses.is_dataclass(kind) for name, kind in kinds.items()}
    known: dict[str, Any] = {}
    for name, value in values.items():
        if name not in sections_of:
            inner = [f"{name}.{key}" for key in value] if isinstance(value, dict) and value else [name]
            problems += [_no_such(key, origins) for key in inner]
        elif sections_of[name] and not isinstance(value, dict):
            problems.append(f"{name} ({origins.get(name, 'recipe')}): it is a section: write [{name}] and its settings")
        elif sections_of[name]:
            valid = {key: inner for key, inner in value.items() if f"{name}.{key}" in _valid_keys()}
            problems += [_no_such(f"{name}.{key}", origins) for key in value if key not in valid]
            hints = get_type_hints(kinds[name])
            for key in [key for key, inner in valid.items() if isinstance(inner, bool) and hints[key] is not bool]:
                problems.append(
                    f"{name}.{key} ({origins.get(f'{name}.{key}', 'recipe')}): got {str(valid.pop(key)).lower()}, which is no value for it"
                )
            known[name] = valid
        else:
            known[name] = value
    values = known
    values.setdefault("model", {}).setdefault("num_classes", num_classes or 101)
    sections: dict[str, Any] = {}
    for name, kind in get_type_hints(Config).items():
        if name not in values:
            continue
        try:
            sections[name] = _adapter(kind).validate_python(values[name])
        except ValidationError as error:
            for problem in error.errors():
                key = ".".join([name, *(str(part) for part in problem["loc"][:1])])
                problems.append(f"{key} ({origins.get(key, 'recipe')}): {problem['msg']}, got {problem['input']!r}")
        except InputError as error:  # a section that judges itself
            problems.append(f"{name}: {error}")
    config = Config(**sections) if not problems else None
    if config is not None:
        try:
            config = _with_quirks(config)
            check_method(config.method, config.model)
        except InputError as error:
            problems.append(str(error))
    if problems or config is None:
        raise InputError("The settings do not hold:\n  " + "\n  ".join(problems))
    return config


def _no_such(key: str, origins: dict[str, str]) -> str:
    near = difflib.get_close_matches(key, _valid_keys(), n=1, cutoff=0.4)
    hint = f"; nearest valid key: {near[0]}" if near else ""
    return f"{key} ({origins.get(key, 'recipe')}): no such setting{hint}"


def _with_quirks(config: Config) -> Config:
    """The config with those quirks carried out that are no more than another setting."""
    quirks = config.compat.quirks
    if "uda_gradient" in quirks:
        config = replace(config, method=replace(config.method, uda_detach=False))
    if "hmdb51_101_classes" in quirks:
        if config.data.dataset not in ("", "hmdb51"):
            raise InputError(f"compat.quirks: hmdb51_101_classes fits HMDB51, the recipe is for {config.data.dataset}")
        config = replace(config, model=replace(config.model, num_classes=101))
    return config


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def _valid_keys() -> tuple[str, ...]:
    keys = []
    for name, kind in get_type_hints(Config).items():
        if dataclasses.is_dataclass(kind):
            keys += [f"{name}.{inner.name}" for inner in dataclasses.fields(kind)]
        else:
            keys.append(name)
    return tuple(keys)


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": content for inner, content in value.items()})
        else:
            flat[key] = value
    return flat
