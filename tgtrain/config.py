"""Recipes: TOML files with the settings of a run. `load_recipe` resolves `extends` and `--set`, and reports all mistakes at once."""

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
from typing import Annotated, Any, Literal, cast, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from manifests.lists.text import read_text
from manifests.records import InputError
from manifests.spelling import british, british_keys
from tgtrain.log_settings import LogSettings
from tgtrain.method.networks.settings import ModelSettings
from tgtrain.method.settings import MethodSettings, OptimiserSettings, check_method

# Upper limits are far beyond use: they turn a typing mistake into a message instead of a machine without memory.
Positive = Annotated[int, Field(ge=1, le=1_000_000)]
NotNegative = Annotated[int, Field(ge=0, le=1_000_000)]
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
    "running_statistics",
]


@dataclass(frozen=True, slots=True)
class DataSettings:
    """What the recipe was made for, how clips are cut, and how shards are read."""

    dataset: str = ""  # data set that the published figure belongs to; "": any
    percent: Annotated[float, Field(ge=0, le=100)] = 0.0  # labelled share of that figure, which picks the split; 0: any
    clip_frames: Frames = 8  # frames of a clip (T)
    interval: Frames = 8  # from one frame of a clip to the next
    clip_spread: Literal["segments", "uniform"] = "segments"
    """With method.clips_per_video above 1: one clip from each equal part of the video, or each from anywhere."""
    size: Annotated[int, Field(ge=16, le=1024)] = 224  # height and width of the input, in pixels
    gradient: Literal["fast", "slow", "flow"] = "fast"
    """TG of neighbouring frames, TG of frames spread over the clip, or stored optical flow in its place."""
    crop: Literal["resized", "jitter"] = "resized"
    """Training crop: random area and aspect ratio, or random scale and position (MvPL)."""
    shared_crop: bool = True  # RGB and TG of a clip are cut and flipped alike
    area: tuple[float, float] = (0.08, 1.0)  # share of the picture that a resized crop covers
    flip: bool = True  # mirror half of the training clips; off if left and right are different classes
    test_size: Annotated[int, Field(ge=0, le=2048)] = 0
    """Side of each of three test crops; 0: 256 for size 224 and in proportion, for videomae `size`. Small networks need theirs."""
    test_clips: Frames = 10  # views of a test video: test_clips x test_crops
    test_crops: Literal[1, 3] = 3  # the centre, or start, middle and end of the long side
    block_shards: Annotated[int, Field(ge=-1)] = -1
    """Unlabelled videos are shuffled in blocks of so many shards (tgtrain.data.order); 0: all together; -1: 0 on local disk, 32
    for a data set at a URL."""
    reader: Literal["indexed", "stream"] = "indexed"
    """Read what a clip needs, or shards from their beginning (for pipes and web servers without byte ranges;
    tgtrain.data.sequential_batches says which promises are weaker)."""
    shards: str = ""
    """Location of the shards for reader "stream": a path, a URL or `pipe:COMMAND` with {shard} for the name; "": with the tables."""
    shuffle_clips: Positive = 256  # clips in the shuffle buffer of a loader process, for reader "stream"


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """Videos in a global batch (all ranks together). The labelled : unlabelled ratio is exact in every step."""

    labelled: BatchSize = 40  # labelled videos of a step
    unlabelled: BatchSize = 40  # unlabelled videos of a step


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """The strong view: operations drawn from a list."""

    operations: Literal["paper", "mvpl"] = "paper"
    """15 operations of the paper (exactly num_ops of them, 0.9 strong), or those of MvPL (each left out half of the time, random
    strength, then a large cutout)."""
    num_ops: NotNegative = 2  # operations of a strong view, for `paper`
    shared_geometry: bool = False  # RGB and TG get the same operations and magnitudes
    labelled: Literal["weak", "strong"] = "weak"  # view of labelled clips; "strong" for a supervised baseline


@dataclass(frozen=True, slots=True)
class PreciseBnSettings:
    """Recompute BatchNorm statistics over training videos before each evaluation."""

    batches: NotNegative = 200  # at most those of the train list, and steps of an epoch for TG; 0: off
    batch_clips: NotNegative = 0  # clips of a batch of RGB, all ranks together; 0: batch.labelled
    clips: Literal["centre", "training"] = "centre"  # clips of RGB: the middle of each video, or cut as in training
    tg: Literal["running", "joint"] = "joint"
    """Statistics of the TG network: those of joint batches of labelled, weak and strong views, or the running averages of training,
    as in the reference. Clips without strong views are no measure for it: these have four times their standard deviation."""


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """When to measure accuracy while training (one centre clip and crop), and which checkpoints to keep."""

    every_epochs: NotNegative = 5  # 0: only at the end
    keep: Annotated[int, Field(ge=2)] = 3  # newest checkpoints to keep besides the best
    average: Literal["logits", "probabilities"] = "logits"  # over the views of a video, default of `tgtrain test`


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """How the run is carried out."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # of weights, order, crops, augmentation and dropout
    device: str = "auto"  # auto: a GPU if there is one; cpu, cuda, cuda:N
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the forward pass (autocast)
    workers: Annotated[int, Field(ge=-1, le=512)] = -1  # loader processes; -1: from the number of cores
    log_every: Positive = 20  # steps between two lines of the log
    compile: bool = False  # the networks by torch.compile
    compile_backend: Literal["inductor", "aot_eager", "eager"] = "inductor"
    """"inductor" generates code for the device; "aot_eager" and "eager" only trace, to find what goes wrong."""
    accumulate: Annotated[int, Field(ge=1, le=4096)] = 1
    """Micro-batches of each rank before the weights change, for a batch that does not fit; see tgtrain.method.accumulate."""
    checkpoint_activations: bool = False
    """Keep the input of every block alone, and compute the rest again in the backward pass: less memory, a third more time."""
    accumulate_contrast: Literal["batch", "part"] = "batch"
    """Rows that the contrast loss compares: of the batch (an extra forward pass without gradient), or of one micro-batch."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Stop once more than this share of the clips read (at least of 1,000) was damaged; 0: at the first."""
    max_loss_factor: NotNegativeFloat = 100.0  # of the usual loss stops the run (see tgtrain.train.health); 0: never
    cache: str = ""  # folder for shards of a data set at a URL; "": ~/.cache/tgtrain
    cache_gb: NotNegativeFloat = 0.0  # what the cache may hold, in GB (10^9 bytes); 0: 80 % of what its disk has free


@dataclass(frozen=True, slots=True)
class CompatSettings:
    """Quirks of the reference code to reproduce; docs/recipes.md describes each."""

    quirks: tuple[Quirk, ...] = ()  # their names; none by default


@dataclass(frozen=True, slots=True)
class Config:
    """A resolved recipe: everything that a run depends on besides data set, split and code."""

    name: str = ""
    description: str = ""
    reproduces: str = ""  # the authors' configuration that it stands for
    published: str = ""  # the published figure, with its source
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
    log: LogSettings = field(default_factory=LogSettings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in a recipe and in a run's config.json."""
        return cast("dict[str, Any]", json.loads(json.dumps(dataclasses.asdict(self))))


def recipe_names() -> tuple[str, ...]:
    """The recipes that ship with the package, sorted."""
    return tuple(sorted(path.name.removesuffix(".toml") for path in _RECIPES.iterdir() if path.name.endswith(".toml")))


def load_recipe(name: str, overrides: Iterable[str] = (), num_classes: int | None = None) -> Config:
    """A shipped recipe by name, or one by path (`.toml`), with `--set` overrides (`section.key=value`).

    num_classes: of the data set; used unless the recipe sets `model.num_classes` itself.
    Raises InputError that names every wrong key or value, where it stands, and the nearest valid key.
    """
    values, origins = _read(name, ())
    problems: list[str] = []
    for text in overrides:
        _override(values, origins, text, problems)
    return _validate(values, origins, problems, num_classes)


def config_from_dict(values: dict[str, Any], origin: str) -> Config:
    """The Config that `to_dict` wrote; InputError naming `origin` if it does not fit this version."""
    match values.get("compat"):
        case {"quirks": list(quirks)} if "precise_bn_rgb_only" in quirks:  # of an earlier version: now a setting
            values = {**values, "compat": {"quirks": [quirk for quirk in quirks if quirk != "precise_bn_rgb_only"]}}
            if isinstance(settings := values.get("precise_bn"), dict):
                values["precise_bn"] = {**settings, "tg": "running"}
    return _validate(values, dict.fromkeys(_flat(values), origin), [], None)


def differences(before: Config, now: Config) -> list[str]:
    """`section.key: value there, value asked` for everything that differs."""
    old, new = flat_settings(before), flat_settings(now)
    return [f"{key}: {old[key]} there, {value} asked" for key, value in new.items() if old[key] != value]


def flat_settings(config: Config) -> dict[str, Any]:
    """`section.key` -> value, in the order of the sections."""
    return _flat(config.to_dict())


def setting_names() -> tuple[str, ...]:
    """`section.key` of every setting."""
    return tuple(key for key in _kinds() if "." in key)


def parent_of(name: str) -> str:
    """The recipe that a recipe (shipped, or a path) extends; "" for none. A relative path starts at the recipe's folder."""
    return _read_file(name)[1]


def _read(name: str, seen: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """The merged values of a recipe and its ancestors, and for each key the file that set it."""
    own, parent = _read_file(name)
    identity = str(Path(name).resolve()) if name.endswith(".toml") else name  # one for all spellings of a path
    if len(seen) >= _MOST_PARENTS:
        raise InputError(f"Recipe {seen[0]}: more than {_MOST_PARENTS} recipes extend one another.")
    if identity in seen:
        raise InputError(f"Recipe {seen[0]}: `extends` goes in a circle ({' -> '.join((*seen, identity))}).")
    values, origins = _read(parent, (*seen, identity)) if parent else ({}, {})
    for key in ("description", "reproduces", "published"):  # texts about the parent
        values.pop(key, None)
    for key, value in own.items():
        inherited = values.get(key)
        values[key] = {**inherited, **value} if isinstance(value, dict) and isinstance(inherited, dict) else value
    origins |= dict.fromkeys(_flat(own), name if name.endswith(".toml") else f"{name}.toml")
    values["name"] = Path(name).stem if name.endswith(".toml") else name
    return values, origins


def _read_file(name: str) -> tuple[dict[str, Any], str]:
    """The values of a recipe's own file, and its parent; InputError if the file is missing or not TOML."""
    path = Path(name) if name.endswith(".toml") else _RECIPES / f"{name}.toml"
    if not (_is_file(name) if name.endswith(".toml") else name in recipe_names()):
        near = difflib.get_close_matches(name, recipe_names(), n=3, cutoff=0.5)
        hint = f" Nearest: {', '.join(near)}." if near else ""
        raise InputError(f"No recipe {_shown(name)}.{hint} `tgtrain recipes` lists them; a path must end in .toml.")
    text = read_text(path) if isinstance(path, Path) else path.read_text(encoding="utf-8")
    try:
        values = british_keys(_parse(text))
    except (ValueError, RecursionError) as error:  # of tomllib, numbers of thousands of digits
        raise InputError(f"{path} is not valid TOML: {error}.") from None
    parent = values.pop("extends", "")
    if not isinstance(parent, str):
        raise InputError(
            f"Recipe {name}: extends is {_shown(parent)}, expected the name or path of one recipe, in quotes."
        )
    if parent.endswith(".toml") and name.endswith(".toml"):
        parent = str(Path(name).parent / parent)
    return values, parent


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # a name that is too long
        return False


def _parse(text: str) -> dict[str, Any]:
    """The values of a TOML text; ValueError or RecursionError if it is none, or so long that it is no recipe."""
    # The memory that tomllib takes for a key grows with the square of its parts: 100,000 of them are 40 GB.
    if len(text) > _MOST_CHARACTERS or max(line.count(".") for line in text.split("\n")) > _MOST_DOTS:
        raise ValueError(f"it has more than {_MOST_CHARACTERS} characters, or {_MOST_DOTS} dots in one line")
    return tomllib.loads(text)


def _override(values: dict[str, Any], origins: dict[str, str], text: str, problems: list[str]) -> None:
    """Apply one `--set section.key=value`; the value is TOML, or text if it is not."""
    key, equals, raw = text.partition("=")
    key = british(key.strip())
    section, dot, name = key.partition(".")
    if not equals or not dot:
        problems.append(f"--set {text}: expected section.key=value, for example optimiser.epochs=90")
        return
    try:
        value = _parse(f"value = {raw}")["value"]
    except (ValueError, RecursionError):
        value = raw.strip()
    target = values.setdefault(section, {})
    if isinstance(target, dict):
        target[name], origins[key] = value, "--set"
    else:
        problems.append(f"--set {text}: {section} is no section")


def _validate(values: dict[str, Any], origins: dict[str, str], problems: list[str], num_classes: int | None) -> Config:
    """The Config of merged values. origins: the file of each key, for messages. problems: those found before."""

    def report(key: str, problem: str) -> None:
        if len(problems) < _MOST_PROBLEMS:
            problems.append(f"{key:.200} ({origins.get(key, 'recipe')}){problem}")

    # Keys first: what is left has valid names, so that pydantic judges values alone.
    accepted: dict[str, Any] = {"model": {"num_classes": num_classes or 101}}
    kinds = _kinds()
    for key, value in _flat(values).items():
        section, dot, name = key.partition(".")
        if key in _SECTIONS:
            if value != {}:
                report(key, f": it is a section: write [{key}] and its settings")
        elif key not in kinds:
            if len(problems) >= _MOST_PROBLEMS:  # the search for the nearest takes its time
                break
            near = difflib.get_close_matches(key, kinds, n=1, cutoff=0.4)
            report(key, f": no such setting{f'; nearest valid key: {near[0]}' if near else ''}")
        elif isinstance(value, bool) and kinds[key] is not bool:  # which pydantic would take for a number
            report(key, f": got {str(value).lower()}, which is no value for it")
        elif dot:
            accepted.setdefault(section, {})[name] = value
        else:
            accepted[key] = value

    # Each section, then what holds between sections.
    sections, hints = dict[str, Any](), get_type_hints(Config)
    for name, content in accepted.items():
        try:
            sections[name] = _adapter(hints[name]).validate_python(content)
        except ValidationError as error:
            for problem in error.errors():
                key = ".".join([name, *(str(part) for part in problem["loc"][:1])])
                report(key, f": {problem['msg']}, got {_shown(problem['input'])}")
        except InputError as error:  # of a section that validates itself
            problems.append(f"{name}: {error}")
    if not problems:
        try:
            return _with_quirks(Config(**sections))
        except InputError as error:
            problems.append(str(error))
    raise InputError("The settings do not hold:\n  " + "\n  ".join(problems))


def _with_quirks(config: Config) -> Config:
    """The config with those quirks applied that are no more than another setting, and its method checked against the model."""
    quirks = config.compat.quirks
    if "uda_gradient" in quirks:
        config = replace(config, method=replace(config.method, uda_detach=False))
    if "hmdb51_101_classes" in quirks:
        if config.data.dataset not in ("", "hmdb51"):
            raise InputError(f"compat.quirks: hmdb51_101_classes fits HMDB51, the recipe is for {config.data.dataset}")
        config = replace(config, model=replace(config.model, num_classes=101))
    check_method(config.method, config.model)
    if config.model.is_transformer:
        data = replace(config.data, test_size=config.data.test_size or config.data.size)
        model = config.model.for_clips(data.clip_frames, data.size, data.test_size)
        config = replace(config, data=data, model=model)
    return config


def _shown(value: object) -> str:
    """The start of a value as text."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested deeply, or a number of thousands of digits
        text = f"a {type(value).__name__} without end"
    return text if len(text) <= 200 else f"{text[:200]}…"


_MOST_PARENTS = 16  # that a recipe extends, one after the other
_MOST_CHARACTERS = 256 * 1024  # of a recipe
_MOST_DOTS = 128  # in one line of it
_MOST_PROBLEMS = 20  # that are reported
_RECIPES = resources.files("tgtrain") / "recipes"
_SECTIONS = frozenset(entry.name for entry in dataclasses.fields(Config) if entry.type.endswith("Settings"))
_adapter = cache(TypeAdapter)


@cache
def _kinds() -> dict[str, Any]:
    """The type of every setting, by `section.key`."""
    kinds: dict[str, Any] = {}
    for name, kind in get_type_hints(Config).items():
        if name in _SECTIONS:
            kinds |= {f"{name}.{inner}": hint for inner, hint in get_type_hints(kind).items()}
        else:
            kinds[name] = kind
    return kinds


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """`section.key` -> value; an empty section stays."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= {f"{key}.{inner}": content for inner, content in value.items()}
        else:
            flat[key] = value
    return flat
