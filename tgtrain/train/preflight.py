"""Pre-run checks: `notes` lists warnings, `require_*` refuse what would fail later."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from manifests.console import plural
from manifests.records import NO_LABEL, InputError
from tgtrain.config import Config
from tgtrain.data.build import training_workers
from tgtrain.data.sequential_batches import weaker_promises
from tgtrain.data.setup import Setup
from tgtrain.data.targets import RunTargets
from tgtrain.method.networks.model import count_parameters, last_shape, outline
from tgtrain.method.settings import MethodSettings
from tgtrain.ranks.distributed import Ranks
from tgtrain.run.checkpoint import every_checkpoint
from tgtrain.run.trackers import require_trackers

_MAX_NAMES = 5


def notes(setup: Setup) -> list[str]:
    """Warnings about a small data set or odd settings. The run handles each of them; none is an error."""
    config, split = setup.config, setup.split
    lines = _notes_on_recipe(setup)
    if config.data.reader == "stream":
        lines += weaker_promises(
            training_workers(config), config.data.shuffle_clips, len(set(setup.reader.index.shard.tolist()))
        )
    for name, size, num_videos in (
        ("labelled", config.batch.labelled, int(split.labelled.sum())),
        ("unlabelled", config.batch.unlabelled, int(split.unlabelled.sum())),
    ):
        if num_videos < size and (name == "labelled" or config.method.uses_unlabelled):
            lines.append(
                f"{plural(num_videos, f'{name} video')} {'is' if num_videos == 1 else 'are'} fewer than batch.{name} {size}: videos come more than once in a step"
                + ("; an epoch is one step" if name == "unlabelled" else "")
            )
    trained = set(split.label[split.labelled].tolist())
    known = set(split.label[split.unlabelled | split.test | split.validation].tolist()) - {NO_LABEL}
    unlabelled = sorted(known - trained)
    if unlabelled:
        names = ", ".join(setup.classes[label] for label in unlabelled[:_MAX_NAMES])
        more = f" and {len(unlabelled) - _MAX_NAMES} more" if len(unlabelled) > _MAX_NAMES else ""
        lines.append(
            f"no labelled video of {plural(len(unlabelled), 'class', 'classes')}: {names}{more}, which cannot be learnt"
        )
    epochs, optimiser = config.optimiser.epochs, config.optimiser
    for section, warmup_epochs, effect in (
        ("optimiser", optimiser.warmup_epochs, f"the rate never reaches {optimiser.learning_rate:g}"),
        (
            "method",
            config.method.warmup_epochs * config.method.uses_pseudo_labels,
            "nothing is learnt from pseudo-labels",
        ),
        (
            "method.soft_",
            config.method.soft_warmup_epochs * bool(config.method.targets),
            "nothing is learnt from the targets",
        ),
    ):
        if warmup_epochs >= epochs:
            prefix = section if section.endswith("_") else f"{section}."
            lines.append(f"{prefix}warmup_epochs {warmup_epochs} are not fewer than the {epochs} epochs: {effect}")
    if setup.targets is not None:
        lines += _target_notes(setup.targets, config.method, len(setup.targets.rows))
    if config.model.is_transformer and not config.model.init:
        lines.append(
            "the transformer starts from scratch, which needs much data: --init FOLDER names weights of VideoMAE"
        )
    if not (split.validation.any() or split.test.any()):
        lines.append("the split has no validation or test part: no accuracy is measured")
    return lines


def _notes_on_recipe(setup: Setup) -> list[str]:
    """That a recipe was made for another data set or percentage, or the classes are those of a list."""
    config, header, split = setup.config, setup.manifest.header, setup.split
    percent, lines = split.provenance.get("percent", ""), []
    if config.data.dataset and config.data.dataset != header.dataset:
        lines.append(f"recipe {config.name} is that of {config.data.dataset}, and this data set is {header.dataset}")
    if config.data.percent and percent and float(percent) != config.data.percent:
        lines.append(
            f"recipe {config.name} is for {config.data.percent:g} % of labels, and split {split.name} has {percent} %: its figure is another one"
        )
    num_present = len(set(split.label.tolist()) - {NO_LABEL})
    if num_present < len(header.classes) / 2:
        lines.append(
            f"{num_present} of {len(header.classes)} classes have videos, and the network has an output for each of the {config.model.num_classes}: "
            "`tgprep extract --classes present` into another folder keeps those with videos alone"
        )
    return lines


def _target_notes(targets: RunTargets, method: MethodSettings, num_unlabelled: int) -> list[str]:
    """What is used of soft targets."""
    ignored = f"; {targets.num_held_out} of test and validation videos are ignored" if targets.num_held_out else ""
    ignored += f"; {targets.num_other} are of other videos" if targets.num_other else ""
    without = num_unlabelled - targets.num_used
    way = "learn from hard pseudo-labels" if method.uses_pseudo_labels else "are not learnt from"
    rest = f"; the {without} others {way}" if without else ""
    lines = [
        f"soft targets {targets.name}: for {targets.num_used} of {num_unlabelled} unlabelled videos{rest}{ignored}"
    ]
    return [*lines, *targets.doubts]


def require_settings(config: Config, ranks: Ranks) -> None:
    """Refuse settings with which no step can be made on these ranks, and trackers that are not there."""
    require_trackers(config.log)
    num_parts, frames, size = config.runtime.accumulate, config.data.clip_frames, config.data.size
    names = ("labelled", "unlabelled") if config.method.uses_unlabelled else ("labelled",)
    # Ranks and micro-batches share a batch evenly.
    shares = ranks.world_size * num_parts
    for name in names:
        num_videos = getattr(config.batch, name)
        if num_videos % shares:
            parts = f", each in runtime.accumulate={num_parts} parts," if num_parts > 1 else ""
            raise InputError(
                f"batch.{name} is {num_videos}, which {ranks.world_size} processes{parts} cannot share evenly. "
                f"Set it to a multiple of {shares}, or use another number of processes"
                f"{' or parts' if num_parts > 1 else ''}."
            )

    if config.runtime.checkpoint_activations and config.runtime.compile:
        raise InputError(
            "runtime.checkpoint_activations and runtime.compile are both on, and torch.compile decides by itself what it keeps: "
            "switch one of them off."
        )

    # From shapes alone; a network that cannot take such clips fails here.
    features = last_shape(config.model, frames, size, size)
    if not has_variance(config, features):
        name, averaged = names[-1], config.model.projection != "none"
        raise InputError(
            f"batch.{name}={getattr(config.batch, name)}{f' in {num_parts} parts' if num_parts > 1 else ''} leaves one clip in a "
            f"forward pass, whose last features are {'x'.join(map(str, features))} (T x H x W) for {frames} frames of {size}x{size}"
            f"{', averaged before the projection' if averaged else ''}: BatchNorm has a single value per channel, and no "
            f"variance. Set batch.{name} to {2 * num_parts} or more{'' if averaged else ', or data.size higher'}."
        )

    # The strides of maps of a single position fit two memory layouts: torch.compile takes gradients of the weights for one, cuDNN
    # gives the other, and the first step stops with an error that names neither.
    compiled = config.runtime.compile and config.runtime.compile_backend == "inductor" and ranks.device.type == "cuda"
    if compiled and math.prod(features) == 1:
        raise InputError(
            f"runtime.compile is on, and the last features of clips of {frames} frames of {size}x{size} are 1x1x1 (T x H x W): "
            "torch.compile makes no code for a GPU that trains on such. Set data.size above 32, or runtime.compile=false."
        )


def has_variance(config: Config, features: tuple[int, int, int]) -> bool:
    """Whether BatchNorm gets more than one value per channel. features: T, H, W of the last stage.

    It does not for a single row whose last features are one position, or are averaged to one before the projection. Without
    BatchNorm there is no such need.
    """
    if config.model.is_transformer and config.model.projection == "none":
        return True
    clips, parts = config.method.clips_per_video, config.runtime.accumulate
    labelled, unlabelled = (size * clips // parts for size in (config.batch.labelled, config.batch.unlabelled))
    # Rows of every forward pass, of all ranks together.
    forwards = [labelled]
    if config.method.uses_unlabelled:
        if config.method.joins_weak:
            forwards = [labelled + unlabelled]
        elif config.method.teacher == "none":
            forwards = [labelled, unlabelled]
        if config.method.strong_forward == "apart":
            forwards.append(unlabelled)
        else:
            forwards[0] += unlabelled
    if config.model.streams == "joint":
        forwards = [2 * rows for rows in forwards]
    return min(forwards) > 1 or (config.model.projection == "none" and math.prod(features) > 1)


def require_room(run: Path, config: Config) -> None:
    """Refuse a disk without room for the checkpoints of the run: `keep`, the best, one to be measured, one being written."""
    free = shutil.disk_usage(next(path for path in (run, *run.absolute().parents) if path.is_dir())).free
    copies = (
        2 + (config.optimiser.name == "adamw") + (config.method.teacher != "none")
    )  # weights, momenta, teacher, in float32
    size = 4 * copies * count_parameters(outline(config.model))
    every = config.evaluate.every_epochs or config.optimiser.epochs
    most = min(config.evaluate.keep + 3, math.ceil(config.optimiser.epochs / every) + 1)
    present = sum(path.stat().st_size for path in every_checkpoint(run))
    if free < most * size - present:
        raise InputError(
            f"{run}: {free // 1_000_000} MB are free, and the run needs {(most * size - present) // 1_000_000} MB: at most {most} "
            f"checkpoints of {size // 1_000_000} MB lie there at once (evaluate.keep={config.evaluate.keep}). Make room, lower "
            "evaluate.keep, or name another disk with --out."
        )
