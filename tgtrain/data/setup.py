"""A run's data: the data set, the split and the config, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from manifests.files import is_url, list_files
from manifests.records import InputError
from manifests.sample import flow_method
from manifests.splits.check import ERROR, WARNING, check_split
from manifests.splits.label_split import LabelSplit, split_digest
from manifests.table import Manifest
from tgtrain.config import Config
from tgtrain.data.clip import ClipSettings
from tgtrain.data.reader import ClipReader, open_reader
from tgtrain.data.stores.cache import CacheSettings
from tgtrain.data.stores.shard_source import ShardSource
from tgtrain.data.targets import RunTargets, read_run_targets

_REMOTE_BLOCK_SHARDS = 32  # about 2,000 videos are shuffled together


@dataclass(frozen=True, slots=True)
class Identity:
    """What a checkpoint belongs to; loading it for anything else is rejected with the difference."""

    data_digest: str
    split_digest: str
    model: str
    targets_digest: str = ""  # of soft targets; "" without

    def differences(self, other: Identity) -> list[str]:
        """What differs, in words."""
        named = (
            ("data set", self.data_digest[:12], other.data_digest[:12]),
            ("split", self.split_digest[:12], other.split_digest[:12]),
            ("model", self.model, other.model),
            ("soft targets", self.targets_digest[:12] or "none", other.targets_digest[:12] or "none"),
        )
        different = [(name, before, now) for name, before, now in named if before != now]
        # Another data set often has other classes: of the models the fields that differ, not all of them twice.
        fields = [text.partition("(")[2].rstrip(")").split(", ") for text in (self.model, other.model)]
        if len(fields[0]) == len(fields[1]) > 1:
            pairs = [pair for pair in zip(*fields, strict=True) if pair[0] != pair[1]]
            different = [entry for entry in different if entry[0] != "model"]
            different += [(f"model.{a.partition('=')[0]}", a.partition("=")[2], b.partition("=")[2]) for a, b in pairs]
        return [f"{name} {before} there, {now} now" for name, before, now in different]


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that a run is made from."""

    config: Config
    manifest: Manifest
    split: LabelSplit
    reader: ClipReader  # its video index has the videos of the split, in the order of the split
    warnings: tuple[str, ...] = ()  # about the split
    targets: RunTargets | None = None  # soft targets, for training
    targets_digest: str = ""  # of those; known for an existing run that only scores videos, too

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; padded if the model has more outputs than the data set has classes."""
        return padded_classes(self.manifest.header.classes, self.config.model.num_classes)

    @property
    def identity(self) -> Identity:
        """What checkpoints of this run belong to."""
        return Identity(self.manifest.digest, split_digest(self.split), str(self.config.model), self.targets_digest)

    @property
    def clip(self) -> ClipSettings:
        """How clips are cut."""
        return clip_settings(self.config)

    def videos(self, part: str) -> list[int]:
        """Numbers in the video index of a part of the split: labelled, unlabelled, validation, test or train."""
        flags = self.split.train if part == "train" else self.split.part(part)
        return [int(number) for number in np.flatnonzero(flags)]

    def labels(self, videos: list[int]) -> list[int]:
        """Labels of these videos, as used in training."""
        return [int(self.split.label[number]) for number in videos]

    @property
    def evaluated_part(self) -> str:
        """The part that accuracy is measured on during training: validation if there is one, else test."""
        return "validation" if self.split.validation.any() else "test"


def clip_settings(config: Config) -> ClipSettings:
    """How clips of a recipe are cut."""
    data = config.data
    return ClipSettings(
        clip_frames=data.clip_frames,
        interval=data.interval,
        num_clips=config.method.clips_per_video,
        clip_spread=data.clip_spread,
        # A network of RGB alone may use the last frame, which has no TG.
        gradient="none" if config.model.streams == "rgb" else data.gradient,
        rgb=config.model.streams != "tg",
        size=data.size,
        test_size=data.test_size,
        crop=data.crop,
        area=data.area,
        flip_probability=0.5 if data.flip else 0.0,
        shared_crop=data.shared_crop,
        flow_flip_keeps_x="flow_flip_keeps_x" in config.compat.quirks,
    )


def padded_classes(known: tuple[str, ...], num_outputs: int) -> tuple[str, ...]:
    """Class names for all outputs of a model that may have more of them than the data set has classes."""
    return known + tuple(f"unused-{number}" for number in range(len(known), num_outputs))


def prepare(root: str, split: LabelSplit, manifest: Manifest, config: Config, *, learns: bool = True) -> Setup:
    """Combine data set, split and config; InputError with all problems if they do not fit, before any time is spent.

    learns: read what only training needs, too: soft targets.
    """
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
            f"data.gradient is flow, and {root} holds none: extract it again with `--flow dis` into another folder"
        )
    stream = ShardSource.of(manifest, config.data.shards) if config.data.reader == "stream" else None
    if config.data.block_shards > 0 and stream is not None:
        problems.append(
            "data.block_shards is set, which data.reader=stream does not use: set data.shuffle_clips instead"
        )
    if config.data.shards and stream is None:
        problems.append("data.shards is set, which only data.reader=stream uses")
    if stream is None or not (stream.template or is_url(manifest.root)):
        problems += _missing_shards(manifest)
    targets = None
    if learns and config.method.targets and not problems:
        try:
            targets = read_run_targets(root, config.method.targets, manifest, split, config.model.num_classes)
        except InputError as error:
            problems.append(str(error).removesuffix("."))
    if problems:
        raise InputError("This run cannot start: " + "; ".join(problems) + ".")
    reader = open_reader(manifest, split.key, cache_settings(config), stream)
    doubts = tuple(problem.message for problem in checked if problem.level == WARNING)
    # Undecided blocks: one shuffle of everything on local disk, blocks for a data set at a URL.
    if config.data.block_shards < 0:
        in_blocks = is_url(manifest.root) and config.data.reader == "indexed"
        blocks = _REMOTE_BLOCK_SHARDS if in_blocks else 0
        config = replace(config, data=replace(config.data, block_shards=blocks))
    return Setup(config, manifest, split, reader, doubts, targets, targets.digest if targets else "")


def cache_settings(config: Config) -> CacheSettings:
    """The cache for shards of a data set at a URL."""
    return CacheSettings(config.runtime.cache, round(config.runtime.cache_gb * 1e9))


def _missing_shards(manifest: Manifest) -> list[str]:
    """A problem if shards are missing, or not of the size that the manifest says."""
    sizes = list_files(manifest.root)
    if is_url(manifest.root):
        if not sizes:
            return []  # a web server without listings: missing shards are reported when they are read
        if not any(sizes.values()):  # a listing without sizes
            sizes = {row.name: row.num_bytes for row in manifest.shards if row.name in sizes}
    wrong = []
    for shard in manifest.shards:
        size = sizes.get(shard.name, -1)
        if size != shard.num_bytes:
            got = "missing" if size < 0 else f"{size} bytes"
            wrong.append(f"{shard.name} ({got}, expected {shard.num_bytes} bytes)")
    if not wrong:
        return []
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return [
        f"shards of {manifest.root} are damaged: {', '.join(wrong[:3])}{more}; `tgprep check {manifest.root}` explains how to repair them"
    ]
