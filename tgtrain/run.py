"""A run's folder and what it was made from: data, split, settings. Shared by training, testing and reports."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import pyarrow.compute as pc
import torch
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # of typing only from Python 3.12 on what pydantic takes

from manifests.machine import processor_name
from manifests.places import is_url, list_files
from manifests.records import InputError, Manifest
from manifests.sample import flow_method
from manifests.split_check import ERROR, WARNING, check_split
from manifests.splits import LabelSplit, split_digest
from manifests.store import TEMPORARY_PREFIX, atomic_write, json_bytes, read_manifest
from tgtrain.cache import CacheSettings
from tgtrain.checkpoint import Identity
from tgtrain.clip import ClipSettings
from tgtrain.config import Config, config_from_dict, differences
from tgtrain.reader import ClipReader, open_reader
from tgtrain.sequential import ShardSource

CONFIG_NAME = "config.json"
METRICS_NAME = "metrics.jsonl"
_LOCK = ".lock"
_REMOTE_BLOCK_SHARDS = 32  # about 2,000 videos are shuffled together
# Settings that change how a run is carried out, never what it computes: a resumed run may change them.
_FREE = (
    "runtime.workers",
    "runtime.device",
    "runtime.log_every",
    "runtime.max_bad_fraction",
    "runtime.max_loss_factor",
    "runtime.cache",
    "data.shards",
    "evaluate.keep",
    "evaluate.average",
    "description",
    "reproduces",
    "published",
)


class _DataFacts(TypedDict):
    root: str
    dataset: str
    digest: str
    num_videos: int
    classes: list[str]
    extraction: NotRequired[dict[str, Any]]
    num_frames: NotRequired[int]
    pictures: NotRequired[dict[str, int]]


class _SplitFacts(TypedDict):
    name: str
    digest: str
    labelled: int
    unlabelled: int
    validation: int
    test: int
    provenance: dict[str, str]


class _Facts(TypedDict):
    """What commands rely on in config.json."""

    config: dict[str, Any]
    data: _DataFacts
    split: _SplitFacts
    num_steps: Annotated[int, Field(ge=1)]
    steps_per_epoch: Annotated[int, Field(ge=1)]
    world_size: NotRequired[Annotated[int, Field(ge=1)]]
    machine: NotRequired[dict[str, Any]]
    versions: NotRequired[dict[str, str]]


_FACTS = TypeAdapter(_Facts)


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything a run is made from.

    reader: numbers the videos of the split in its order, so that places in the split are numbers in the reader.
    warnings: what is doubtful in the split.
    """

    config: Config
    manifest: Manifest
    split: LabelSplit
    reader: ClipReader
    warnings: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; padded where the model has more outputs than the data set has classes."""
        return padded_classes(self.manifest.header.classes, self.config.model.num_classes)

    @property
    def identity(self) -> Identity:
        """What checkpoints of this run belong to."""
        return Identity(self.manifest.digest, split_digest(self.split), str(self.config.model))

    @property
    def clip(self) -> ClipSettings:
        """How clips are cut."""
        return clip_settings(self.config)

    def places(self, part: str) -> list[int]:
        """Numbers of the videos of a part of the split: labelled, unlabelled, validation, test or train."""
        flags = self.split.train if part == "train" else self.split.part(part)
        return [int(place) for place in np.flatnonzero(flags)]

    def labels(self, places: list[int]) -> list[int]:
        """Labels of these videos, as trained with."""
        return [int(self.split.label[place]) for place in places]

    @property
    def evaluated_part(self) -> str:
        """What accuracy is measured on while training: the validation part where there is one, else the test part."""
        return "validation" if self.split.validation.any() else "test"


def clip_settings(config: Config) -> ClipSettings:
    """How clips of a recipe are cut."""
    data = config.data
    return ClipSettings(
        clip_len=data.clip_frames,
        interval=data.interval,
        num_clips=config.method.clips_per_video,
        clip_spread=data.clip_spread,
        # A network of RGB alone may use the last frame, which has no TG.
        gradient="none" if config.model.streams == "rgb" else data.gradient,
        input_size=data.size,
        test_size=data.test_size,
        crop=data.crop,
        area_range=data.area,
        share_geometry=data.shared_crop,
        flow_flip_keeps_x="flow_flip_keeps_x" in config.compat.quirks,
    )


def padded_classes(known: tuple[str, ...], num_outputs: int) -> tuple[str, ...]:
    """Class names for every output of a model that has more of them than the data set has classes."""
    return known + tuple(f"unused-{place}" for place in range(len(known), num_outputs))


def prepare(root: str, split: LabelSplit, manifest: Manifest, config: Config) -> Setup:
    """Bring data, split and settings together; InputError where they do not fit, before any time is spent."""
    digest = split.provenance.get("dataset_digest", "")
    problems = []
    if digest != manifest.digest:
        problems.append(
            f"split {split.name} was made for another state of the data set (digest {digest[:12] or 'none'}, now {manifest.digest[:12]}): "
            f"make it again with `tgprep split {root} ... --overwrite`"
        )
    checked = check_split(split, manifest)
    problems += [
        f"split {split.name}: {problem.message} ({', '.join(problem.examples[:3])})"
        for problem in checked
        if problem.level == ERROR and problem.kind != "other-data-set"
    ]
    if config.method.uses_unlabelled and not split.unlabelled.any():
        problems.append(f"split {split.name} has no unlabelled video, which method {config.method.method} needs")
    highest = int(split.label.max()) if len(split) else 0
    if highest >= config.model.num_classes:
        problems.append(f"model.num_classes is {config.model.num_classes}, but the split holds label {highest}")
    if clip_settings(config).gradient == "flow" and not flow_method(manifest.header.settings):
        problems.append(
            f"data.gradient is flow, and {root} holds none: extract it anew with `--flow dis` into another folder"
        )
    stream = ShardSource(manifest.root, config.data.shards) if config.data.reader == "stream" else None
    if config.data.block_shards > 0 and stream is not None:
        problems.append(
            "data.block_shards is set, which data.reader=stream does not read: data.shuffle_clips is its like"
        )
    if config.data.shards and stream is None:
        problems.append("data.shards is set, which data.reader=stream alone reads")
    if stream is None or not (stream.template or is_url(manifest.root)):
        problems += _missing_shards(manifest)
    if problems:
        raise InputError("This run cannot start: " + "; ".join(problems) + ".")
    reader = open_reader(manifest, split.key, cache_settings(config), stream)
    doubts = tuple(problem.message for problem in checked if problem.level == WARNING)
    return Setup(with_blocks(config, manifest.root), manifest, split, reader, doubts)


def with_blocks(config: Config, root: str) -> Config:
    """The config with its order of shards decided: as a whole on local disk, in blocks for a data set at a URL."""
    if config.data.block_shards >= 0:
        return config
    in_blocks = is_url(root) and config.data.reader == "indexed"
    return replace(config, data=replace(config.data, block_shards=_REMOTE_BLOCK_SHARDS if in_blocks else 0))


def cache_settings(config: Config) -> CacheSettings:
    """Where shards of a data set at a URL are kept."""
    return CacheSettings(config.runtime.cache, round(config.runtime.cache_gb * 1e9))


def _missing_shards(manifest: Manifest) -> list[str]:
    """Shards that are not there, or not of the size that the manifest says."""
    there = list_files(manifest.root)
    if is_url(manifest.root) and not there:
        return []  # a web server without listings: what is missing shows when it is read
    if is_url(manifest.root) and not any(there.values()):
        there = {row.name: row.num_bytes for row in manifest.shards if row.name in there}  # a listing without sizes
    wrong = []
    for shard in manifest.shards:
        found = there.get(shard.name, -1)
        if found != shard.num_bytes:
            wrong.append(
                f"{shard.name} ({'missing' if found < 0 else f'{found} bytes'}, expected {shard.num_bytes} bytes)"
            )
    if not wrong:
        return []
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return [
        f"shards of {manifest.root} are damaged: {', '.join(wrong[:3])}{more}; `tgprep check {manifest.root}` tells how to mend them"
    ]


def check_folder(run: Path, setup: Setup) -> None:
    """Refuse a folder that holds something else or a run with other settings; writes nothing."""
    try:
        if (run / CONFIG_NAME).exists():
            _same_run(run, setup)
        elif run.exists() and (others := sorted(entry.name for entry in run.iterdir() if not _left_over(entry.name))):
            raise InputError(
                f"{run} is not empty ({', '.join(others[:3])}) and holds no run. Name another folder with --out."
            )
    except OSError as error:
        raise InputError(f"{run} cannot be the folder of a run: {error.strerror}. Name another with --out.") from None


def _left_over(name: str) -> bool:
    """Whether a file is what a start that was killed before it wrote config.json leaves."""
    return name == _LOCK or name.startswith(TEMPORARY_PREFIX)


def begin_folder(run: Path, setup: Setup, facts: dict[str, Any]) -> None:
    """Make the folder of a new run, with its config.json; an existing one stays as it is."""
    if (run / CONFIG_NAME).exists():
        return
    try:
        run.mkdir(parents=True, exist_ok=True)
        with atomic_write(run / CONFIG_NAME) as file:
            file.write(json_bytes({**describe(setup), **facts}))
    except OSError as error:
        raise InputError(f"Cannot write to {run}: {error.strerror}. Name another folder with --out.") from None


@contextmanager
def owned(run: Path) -> Iterator[None]:
    """Hold the folder of a run (made where it is not there), so that no other process trains in it; the lock vanishes with the process."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = (run / _LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot write to {run}: {error.strerror}. Name another folder with --out.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "another process"
            raise InputError(f"{run} is in use by {owner}. Wait for it, or name another folder with --out.") from None
        except OSError:
            pass  # a file system without locks: nothing tells of a second run
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        yield


def read_facts(run: Path) -> dict[str, Any]:
    """config.json of a run; InputError where the folder is no run."""
    try:
        facts: dict[str, Any] = json.loads((run / CONFIG_NAME).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{run} is no run (no {CONFIG_NAME}). `tgtrain run` makes one below ./runs.") from None
    except ValueError as error:
        raise InputError(f"{run / CONFIG_NAME} is damaged ({error}).") from None
    try:
        _FACTS.validate_python(facts, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise InputError(
            f"{run / CONFIG_NAME} is not what this version writes ({where}: {first['msg']}). "
            "Use the version of tgtrain that made the run, restore the file from a copy, or train anew."
        ) from None
    return facts


def read_setup(run: Path, data: str | None = None, cache: CacheSettings | None = None) -> Setup:
    """The setup of an existing run, with its data set at `data` or where the run found it.

    cache: where shards of a URL are kept, in place of the run's settings; what it leaves open stays as the run has it.
    """
    facts = read_facts(run)
    config = config_from_dict(facts["config"], str(run / CONFIG_NAME))
    if cache is not None:
        folder = cache.folder or config.runtime.cache
        gigabytes = cache.num_bytes / 1e9 or config.runtime.cache_gb
        config = replace(config, runtime=replace(config.runtime, cache=folder, cache_gb=gigabytes))
    if data is not None:  # shards are read there, whatever the run read them with
        config = replace(config, data=replace(config.data, shards=""))
    root = data or facts["data"]["root"]
    from manifests.splits import read_split

    try:
        manifest = read_manifest(root)
    except InputError as error:
        raise InputError(f"{error} The run names this place; `--data` names another.") from None
    setup = prepare(root, read_split(root, facts["split"]["name"]), manifest, config)
    wanted = Identity(facts["data"]["digest"], facts["split"]["digest"], str(config.model))
    different = wanted.differences(setup.identity)
    if different:
        raise InputError(
            f"{run} was trained on other data: {'; '.join(different)}. Restore it, or name it with --data."
        )
    return setup


def describe(setup: Setup) -> dict[str, Any]:
    """The facts of a run as config.json holds them."""
    header = setup.manifest.header
    written = setup.manifest.videos.arrow
    sizes = {f"{width}x{height}": count for (height, width), count in setup.reader.places.sizes().items()}
    root = setup.manifest.root
    return {
        "config": setup.config.to_dict(),
        "data": {
            "root": root if "://" in root else str(Path(root).resolve()),
            "dataset": header.dataset,
            "digest": setup.manifest.digest,
            "num_videos": header.num_written,
            "extraction": dict(header.settings),
            "num_frames": int(pc.sum(written["num_frames"]).as_py() or 0),
            "classes": list(header.classes),
            "pictures": dict(sorted(sizes.items(), key=lambda item: -item[1])[:8]),
        },
        "split": {
            "name": setup.split.name,
            "digest": split_digest(setup.split),
            **{part: int(setup.split.part(part).sum()) for part in ("labelled", "unlabelled", "validation", "test")},
            "provenance": dict(setup.split.provenance),
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def machine(device: str) -> dict[str, Any]:
    """Where a run is carried out; device: name of the GPU, "" without one."""
    return {"host": platform.node(), "cpu": processor_name(), "cores": os.cpu_count() or 1, "device": device}


def newest_run(folder: Path = Path("runs")) -> Path:
    """The run below `folder` that was begun last. InputError where there is none."""
    found = sorted((path.stat().st_mtime, path.parent) for path in folder.glob(f"**/{CONFIG_NAME}"))
    if not found:
        raise InputError(f"No run below {folder}/. `tgtrain run` makes one, or name its folder.")
    return found[-1][1]


def settings_changed(before: Config, now: Config) -> list[str]:
    """`section.key: value there, value asked` for every setting that changes what a run computes."""
    return [text for text in differences(before, now) if not text.startswith(_FREE)]


def decided_blocks(before: Config, now: Config) -> str:
    """What to add where a run that was begun on a URL goes on from a local copy, or the other way round; "" elsewhere."""
    wanted = before.data.block_shards
    if wanted == now.data.block_shards:
        return ""
    return (
        " data.block_shards, the order of the unlabelled videos, is decided when a run begins: "
        f"{_REMOTE_BLOCK_SHARDS} for a data set at a URL, 0 for a local folder. To go on wherever the data set lies: --set data.block_shards={wanted}."
    )


def _same_run(run: Path, setup: Setup) -> None:
    facts = read_facts(run)
    before = config_from_dict(facts["config"], str(run / CONFIG_NAME))
    different = settings_changed(before, setup.config)
    there = Identity(facts["data"]["digest"], facts["split"]["digest"], str(before.model))
    different += there.differences(setup.identity)
    if different:
        raise InputError(
            f"{run} holds a run with other settings: {'; '.join(different)}. Name another folder with --out, or use the same settings."
            f"{decided_blocks(before, setup.config)}"
        )
