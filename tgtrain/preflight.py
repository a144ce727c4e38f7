"""What is worth knowing, or stops a run, before its first step: told or refused at the start instead of hours later."""

from __future__ import annotations

import shutil
from pathlib import Path

from manifests.records import InputError
from tgtrain.config import Config
from tgtrain.model import build_model, count_parameters
from tgtrain.run import Setup

_NAMED = 5


def notes(setup: Setup) -> list[str]:
    """What a run does with a small data set or odd settings, in words: each is defined, none is an error."""
    config, split = setup.config, setup.split
    told = []
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
