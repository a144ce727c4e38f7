"""The folder of a run and its config.json: data, split, settings. Shared by training, testing and reports."""

from __future__ import annotations

import os
import platform
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.compute as pc
import torch
from pydantic import AfterValidator, Field, PlainValidator, TypeAdapter, ValidationError, ValidationInfo

from manifests.disk import made_folder
from manifests.files import MAX_JSON_BYTES, atomic_write, parse_json, read_bytes, require_own_folder
from manifests.locks import lock_file
from manifests.machine import processor_name, usable_cores
from manifests.manifest_io import json_bytes, read_manifest
from manifests.records import NO_LABEL, InputError
from manifests.splits.label_split import read_split, split_digest
from tgtrain.config import Config, config_from_dict, differences
from tgtrain.data.setup import _REMOTE_BLOCK_SHARDS, Identity, Setup, prepare
from tgtrain.data.stores.cache import CacheSettings, is_cache
from tgtrain.data.stores.shard_source import PIPE
from tgtrain.data.targets import RunTargets
from tgtrain.ranks.distributed import Ranks
from tgtrain.run.places import CONFIG_NAME as CONFIG_NAME
from tgtrain.run.places import require_run

MAX_SIZES, OTHER_SIZES = 8, "other sizes"
METRICS_NAME = "metrics.jsonl"
_LOCK = ".lock"
_MAX_SIDE = 65_535  # pixels
_SCHEMES = ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")  # of URLs that a run may name
# Settings that change how a run is carried out, not what it computes: a resumed run may change them.
_FREE = (
    "runtime.workers",
    "runtime.device",
    "runtime.log_every",
    "runtime.checkpoint_activations",
    "runtime.max_bad_fraction",
    "runtime.max_loss_factor",
    "runtime.cache",
    "data.shards",
    "log.",
    "model.init:",  # where the file lies; its sha256 must be the same
    "model.init_tg:",
    "evaluate.keep",
    "evaluate.average",
    "description",
    "reproduces",
    "published",
)


def is_free(setting: str) -> bool:
    """Whether a setting changes only how a run is carried out. setting: a text that begins with `section.key:`."""
    return setting.startswith(_FREE)


Whole = Annotated[int, Field(ge=0, le=2**53)]
Count = Annotated[int, Field(ge=1, le=2**53)]


def _extraction(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of an extraction whose values are used as they stand; the decoder is checked by those who call it."""
    side = settings.get("short_side", 0)
    if type(side) is not int or not 0 <= side <= _MAX_SIDE:
        raise ValueError(f"short_side is {side!r:.50}, expected 0 to {_MAX_SIDE}")
    if settings.get("flow", "none") not in ("none", "dis", "farneback"):
        raise ValueError(f"flow is {settings['flow']!r:.50}, expected none, dis or farneback")
    return settings


@dataclass(frozen=True, slots=True)
class DataFacts:
    """The data set of a run, as config.json describes it."""

    root: Annotated[str, Field(pattern=r"^[^\x00]+$")]  # path or URL
    dataset: str
    digest: str
    num_videos: Whole
    classes: tuple[str, ...]
    num_frames: Whole = 0
    pictures: dict[str, int] = field(default_factory=dict)
    """`320x240` -> number of videos, most frequent first: MAX_SIZES of them, and OTHER_SIZES for all others together."""
    extraction: Annotated[dict[str, Any], AfterValidator(_extraction)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """The split of a run and the number of videos in each part."""

    name: str
    digest: str
    labelled: Whole
    unlabelled: Whole
    validation: Whole
    test: Whole
    provenance: dict[str, str]
    without_label: Whole = (
        0  # of the unlabelled videos; of the others the class is known, and used for diagnostics only
    )


@dataclass(frozen=True, slots=True)
class Matched:
    """What a network of a run started from, and which tensors of its backbone were found there."""

    network: str  # rgb, tg, or net for both views
    path: str
    sha256: str
    naming: str  # the library whose names the file has
    prefix: str  # of the network in the file
    num_matched: Whole
    num_tensors: Whole
    num_missing: Whole
    missing: tuple[str, ...]  # the first ones, as in `left_over`
    misshapen: tuple[str, ...]
    classifier: str  # kept or new, and why
    num_left_over: Whole = 0
    left_over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """The soft targets that a run learns from."""

    name: str
    digest: str
    num_used: Whole  # unlabelled videos that have one
    num_held_out: Whole  # targets of validation and test videos, which are ignored
    num_other: Whole
    provenance: dict[str, str]


def _config(values: Any, info: ValidationInfo) -> Config:
    if not isinstance(values, dict):
        raise ValueError("expected sections of settings")
    return config_from_dict(values, str(info.context))


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The content of config.json: what a run is made from and where it began."""

    data: DataFacts
    split: SplitFacts
    num_steps: Count
    steps_per_epoch: Count
    config: Annotated[Config, PlainValidator(_config)]
    weights: tuple[Matched, ...] = ()  # that the run started from; of scratch there are none
    targets: TargetFacts | None = None
    world_size: Count = 1
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    started: str = ""

    @property
    def identity(self) -> Identity:
        """What checkpoints of the run belong to."""
        targets_digest = self.targets.digest if self.targets else ""
        return Identity(self.data.digest, self.split.digest, str(self.config.model), targets_digest)


_FACTS = TypeAdapter(RunFacts)


def check_folder(run: Path, setup: Setup) -> None:
    """Refuse a folder that holds something else, or a run with other settings. Writes nothing."""
    try:
        if (run / CONFIG_NAME).exists():
            facts = read_facts(run)
            require_same(
                setup, facts.identity, facts.config, f"{run} holds a run with other settings",
                "Name another folder with --out, or use the same settings.",
            )  # fmt: skip
        else:
            require_own_folder(run, (), "run", "Name another folder with --out.", ignored=(_LOCK,))
    except OSError as error:
        raise InputError(f"{run} cannot be the folder of a run: {error.strerror}. Name another with --out.") from None


def begin_folder(
    run: Path, setup: Setup, ranks: Ranks, weights: tuple[Matched, ...] = (), *, num_steps: int, steps_per_epoch: int
) -> None:
    """Write config.json of a new run; that of an existing one must be of the same run. To be called with the folder held."""
    check_folder(run, setup)  # another process may have written there since it was checked without the lock
    if (run / CONFIG_NAME).exists():
        return
    facts = replace(_facts_of(setup, ranks, num_steps, steps_per_epoch), weights=weights)
    with atomic_write(run / CONFIG_NAME) as file:
        file.write(json_bytes(asdict(facts)))


@contextmanager
def owned(run: Path) -> Iterator[None]:
    """Hold the folder of a run (made where it is not there), so that no other process trains in it; the lock vanishes with the process."""
    with ExitStack() as stack:
        try:
            stack.enter_context(made_folder(run))
            stack.enter_context(lock_file(run / _LOCK, str(run), advice="name another folder with --out"))
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"Cannot write to {run}: {reason}. Name another folder with --out.") from None
        for name in ("checkpoints", "tensorboard", "wandb"):
            if (run / name).is_symlink():
                raise InputError(
                    f"{run / name} is a link to {(run / name).resolve()}. A run writes into its own folder alone: move the folder "
                    "there in place of the link, or begin a run on that disk with --out."
                )
        try:
            yield
        finally:
            if not (run / CONFIG_NAME).exists():  # it was not begun
                (run / _LOCK).unlink(missing_ok=True)


def read_facts(run: Path) -> RunFacts:
    """Read config.json of a run; InputError if the folder is not a run or the file does not fit this version."""
    path = require_run(run) / CONFIG_NAME
    try:
        content = read_bytes(path, MAX_JSON_BYTES)
        parse_json(content)
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}).") from None
    try:
        return _FACTS.validate_json(content, strict=True, context=path)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{path} is not what this version writes ({where}: {first['msg']}). "
            "Use the version of tgtrain that made the run, restore the file from a copy, or train again."
        ) from None


@dataclass(frozen=True, slots=True)
class Typed:
    """What the user typed in place of what a run names; "" and 0 for nothing."""

    data: str = ""  # --data: the data set
    shards: str = ""  # --shards: see DataSettings.shards
    cache: CacheSettings = field(default_factory=CacheSettings)


NOTHING_TYPED = Typed()


def sources_of(run: Path, facts: RunFacts, typed: Typed) -> tuple[str, Config]:
    """Where the data set of a run is, and the run's settings with the shards and the cache that are used.

    A run may come from a stranger. What it names is read, and never started: folders, and plain URLs. InputError for a command
    or another URL, which the user must type. A cache is written to: that of a run is used only if it is one already.
    """
    config = facts.config
    shards = typed.shards or ("" if typed.data else config.data.shards)  # shards are below the data set that was typed
    for text, option, own in ((facts.data.root, "--data", typed.data), (shards, "--shards", typed.shards)):
        if not own and (what := _not_plain(text)):
            raise InputError(
                f"{run / CONFIG_NAME} names {what} for its data: {text!r}. It is not used, since a run cannot say what is started "
                f"here. If you know and trust it, add {option} {shlex.quote(text)}; or name another place with --data."
            )
    cache = typed.cache
    if not cache.folder and is_cache(config.runtime.cache):
        cache = CacheSettings(config.runtime.cache, cache.num_bytes or round(config.runtime.cache_gb * 1e9))
    workers = config.runtime.workers if config.runtime.workers <= usable_cores() else -1
    runtime = replace(config.runtime, workers=workers, cache=cache.folder, cache_gb=cache.num_bytes / 1e9)
    return typed.data or facts.data.root, replace(config, data=replace(config.data, shards=shards), runtime=runtime)


def _not_plain(place: str) -> str:
    """What a place is that a run may not name, in words; "" for a path and a plain URL."""
    scheme, mark, _ = place.partition("://")
    if place.startswith(PIPE):
        return "a command"
    if mark and "::" in place:
        return "a chain of file systems"
    return "a file system of another kind than object stores and web servers" if mark and scheme not in _SCHEMES else ""


def read_setup(run: Path, typed: Typed = NOTHING_TYPED) -> Setup:
    """The setup of an existing run, with its data set where the run used it, if the user types no other place."""
    facts = read_facts(run)
    root, config = sources_of(run, facts, typed)
    try:
        manifest = read_manifest(root)
    except InputError as error:
        raise InputError(f"{error} The run names this location; `--data` names another.") from None
    setup = prepare(root, read_split(root, facts.split.name), manifest, config, learns=False)
    setup = replace(setup, targets_digest=facts.identity.targets_digest)
    require_same(setup, facts.identity, None, f"{run} was trained on other data", "Restore it, or name it with --data.")
    return setup


def _facts_of(setup: Setup, ranks: Ranks, num_steps: int, steps_per_epoch: int) -> RunFacts:
    manifest, split, root = setup.manifest, setup.split, setup.manifest.root
    sizes = {f"{width}x{height}": count for (height, width), count in setup.reader.index.sizes().items()}
    ranked = sorted(sizes.items(), key=lambda item: -item[1])
    if rest := sum(count for _, count in ranked[MAX_SIZES:]):
        ranked[MAX_SIZES:] = [(OTHER_SIZES, rest)]
    data = DataFacts(
        root=root if "://" in root else str(Path(root).resolve()),
        dataset=manifest.header.dataset,
        digest=manifest.digest,
        num_videos=manifest.header.num_written,
        classes=tuple(manifest.header.classes),
        num_frames=int(pc.sum(manifest.videos.arrow["num_frames"]).as_py() or 0),
        pictures=dict(ranked),
        extraction=dict(manifest.header.settings),
    )
    device = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else ""
    return RunFacts(
        data=data,
        split=SplitFacts(
            name=split.name,
            digest=split_digest(split),
            **{part: int(split.part(part).sum()) for part in ("labelled", "unlabelled", "validation", "test")},
            provenance=dict(split.provenance),
            without_label=int((split.label == NO_LABEL).sum()),
        ),
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        config=setup.config,
        targets=_target_facts(setup.targets),
        world_size=ranks.world_size,
        machine={
            "host": platform.node(), "cpu": processor_name(), "cores": os.cpu_count() or 1, "device": device,
        },
        versions={"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )  # fmt: skip


def _target_facts(targets: RunTargets | None) -> TargetFacts | None:
    if targets is None:
        return None
    return TargetFacts(**{each.name: getattr(targets, each.name) for each in fields(TargetFacts)})


def require_same(setup: Setup, identity: Identity, before: Config | None, intro: str, advice: str = "") -> None:
    """InputError if data, split, model or a setting that changes what a run computes differ. before: its settings, if known."""
    different = identity.differences(setup.identity)
    hint = ""
    if before is not None:
        settings = [text for text in differences(before, setup.config) if not is_free(text)]
        named = {text.partition(":")[0] for text in settings}
        different = settings + [text for text in different if text.partition(" ")[0] not in named]
        block_shards = before.data.block_shards
        # A run may be begun on a URL and resume from a local copy, or the other way round.
        if block_shards != setup.config.data.block_shards:
            hint = (
                " data.block_shards, the order of the unlabelled videos, is decided when a run begins: "
                f"{_REMOTE_BLOCK_SHARDS} for a data set at a URL, 0 for a local folder. To resume from either: "
                f"--set data.block_shards={block_shards}."
            )
    if different:
        raise InputError(f"{intro}: {'; '.join(different)}.{advice and ' '}{advice}{hint}")
