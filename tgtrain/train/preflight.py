"""What is worth knowing, or stops a run, before its first step: told or refused at the start instead of hours later."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch

from manifests.records import InputError
from tgtrain.config import Config
from tgtrain.data.build import training_workers
from tgtrain.data.sequential_batches import weaker_promises
from tgtrain.data.setup import Setup
from tgtrain.method.networks.model import build_model, count_parameters, last_shape
from tgtrain.ranks.distributed import Ranks

_NAMED = 5


def notes(setup: Setup) -> list[str]:
    """What a run does with a small data set or odd settings, in words: each is defined, none is an error."""
    config, split = setup.config, setup.split
    told = []
    if config.data.reader == "stream":
        told += weaker_promises(
            training_workers(config), config.data.shuffle_clips, len(set(setup.reader.index.shard.tolist()))
        )
    for name, size, here in (
        ("labelled", config.batch.labelled, int(split.labelled.sum())),
        ("unlabelled", config.batch.unlabelled, int(split.unlabelled.sum())),
    ):
        if here < size and (name == "labelled" or config.method.uses_unlabelled):
            told.append(
                f"{here} {name} videos are fewer than batch.{name} {size}: videos come more than once in a step"
                + ("; an epoch is one step" if name == "unlabelled" else "")
            )
    trained = set(split.label[split.labelled].tolist())
    unlabelled = sorted(set(split.label[split.unlabelled | split.test | split.validation].tolist()) - trained)
    if unlabelled:
        names = ", ".join(setup.classes[label] for label in unlabelled[:_NAMED])
        more = f" and {len(unlabelled) - _NAMED} more" if len(unlabelled) > _NAMED else ""
        told.append(f"no labelled video of {len(unlabelled)} classes: {names}{more}; they cannot be learnt")
    epochs = config.optimiser.epochs
    if config.optimiser.warmup_epochs >= epochs and config.optimiser.warmup_epochs:
        told.append(
            f"optimiser.warmup_epochs {config.optimiser.warmup_epochs} are not fewer than the {epochs} epochs: the rate "
            f"never reaches {config.optimiser.learning_rate:g}"
        )
    if config.method.uses_unlabelled and config.method.warmup_epochs >= epochs:
        told.append(
            f"method.warmup_epochs {config.method.warmup_epochs} are not fewer than the {epochs} epochs: nothing is learnt "
            f"from pseudo-labels"
        )
    if not (split.validation.any() or split.test.any()):
        told.append("the split has no validation or test part: no accuracy is measured")
    return told


def require_shares(config: Config, ranks: Ranks) -> None:
    """Refuse a batch that processes, and the parts in which each takes its share, cannot share evenly."""
    num_parts = config.runtime.accumulate
    shares = ranks.world_size * num_parts
    for name, size in (("labelled", config.batch.labelled), ("unlabelled", config.batch.unlabelled)):
        if name == "unlabelled" and not config.method.uses_unlabelled:
            continue
        if size % shares:
            parts = f", each in runtime.accumulate={num_parts} parts," if num_parts > 1 else ""
            raise InputError(
                f"batch.{name} is {size}, which {ranks.world_size} processes{parts} cannot share evenly. "
                f"Set it to a multiple of {shares}, or use another number of processes"
                f"{' or parts' if num_parts > 1 else ''}."
            )


def has_variance(config: Config) -> bool:
    """Whether a batch leaves BatchNorm more than one value per channel: not a single row whose last features are a single position."""
    clips, parts = config.method.clips_per_video, config.runtime.accumulate
    labelled, unlabelled = (size * clips // parts for size in (config.batch.labelled, config.batch.unlabelled))
    # The rows of every forward pass, of all ranks together.
    forwards = [labelled + 2 * unlabelled]
    if not config.method.uses_unlabelled:
        forwards = [labelled]
    elif config.method.weak_forward == "apart":
        forwards = [unlabelled, labelled + unlabelled]
    if config.model.streams == "joint":
        forwards = [2 * rows for rows in forwards]
    return min(forwards) > 1 or (config.model.projection == "none" and math.prod(_last_features(config)) > 1)


def _last_features(config: Config) -> tuple[int, ...]:
    return last_shape(config.model, config.data.clip_frames, config.data.size, config.data.size)


def require_variance(config: Config) -> None:
    """Refuse a batch without it, see `has_variance`."""
    if has_variance(config):
        return
    parts, frames, size = config.runtime.accumulate, config.data.clip_frames, config.data.size
    shape = _last_features(config)
    name = "unlabelled" if config.method.uses_unlabelled else "labelled"
    part = f" in {parts} parts" if parts > 1 else ""
    raise InputError(
        f"batch.{name}={getattr(config.batch, name)}{part} leaves one clip in a forward pass, whose last features are "
        f"{'x'.join(map(str, shape))} (T x H x W) for {frames} frames of {size}x{size}"
        f"{', averaged before the projection' if config.model.projection != 'none' else ''}: BatchNorm has a single value per channel, and no "
        f"variance. Set batch.{name} to {2 * parts} or more{', or data.size higher' if config.model.projection == 'none' else ''}."
    )


def require_compilable(config: Config, device: torch.device) -> None:
    """Refuse to compile for a GPU a network whose last features are a single position.

    The strides of such maps fit two memory layouts: torch.compile takes gradients of the weights for one, cuDNN gives the other,
    and the first step stops with an error that names neither.
    """
    runtime, frames, size = config.runtime, config.data.clip_frames, config.data.size
    if not runtime.compile or runtime.compile_backend != "inductor" or device.type != "cuda":
        return
    if math.prod(_last_features(config)) == 1:
        raise InputError(
            f"runtime.compile is on, and the last features of clips of {frames} frames of {size}x{size} are 1x1x1 (T x H x W): "
            "torch.compile makes no code for a GPU that trains on such. Set data.size above 32, or runtime.compile=false."
        )


def require_room(run: Path, config: Config) -> None:
    """Refuse a disk without room for two checkpoints: `keep` and the best are kept, one waits to be measured, one is written."""
    free = shutil.disk_usage(next(place for place in (run, *run.absolute().parents) if place.is_dir())).free
    # Weights and their momentum, in float32.
    size = 8 * count_parameters(build_model(config.model))
    if free < 2 * size:
        raise InputError(
            f"{run}: {free // 1_000_000} MB are free, and a checkpoint takes {size // 1_000_000}. Make room for "
            f"{config.evaluate.keep + 3} of them, or name another disk with --out."
        )
