"""How many clips a second the loader gives by its number of processes, how many the training step takes, and who waits for whom.

Both are those of training itself: the loader is read as fast as it gives, the step works on one batch again and again. A clip is
one of a batch, labelled or unlabelled: its RGB and TG frames as the recipe cuts them. An unlabelled one is decoded once, and the
step makes its weak and its strong view.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal

import torch

from manifests.records import InputError
from tgtrain.config import BatchSettings, Config
from tgtrain.data.batch import SslBatch
from tgtrain.data.build import step_dataset, training_workers
from tgtrain.data.loader import step_loader
from tgtrain.data.setup import Setup
from tgtrain.method.networks.model import last_shape
from tgtrain.ranks.distributed import Ranks
from tgtrain.train.device import batches_on
from tgtrain.train.preflight import has_variance, require_settings
from tgtrain.train.trainer import training_step

# A loader hardly faster than the step feeds it on an idle machine, and not while both work and clips differ.
_HEADROOM = 1.2
_APART_STEPS = 10_000  # from the first step of one measurement to that of the next: none reads what another has read


@dataclass(frozen=True, slots=True)
class LoaderFigure:
    """What the loader gave with `workers` processes (0: the training process reads by itself).

    num_clips came in `seconds`, once every process had given its first batch. first_batch_seconds: from the start of the
    processes on.
    """

    workers: int
    num_clips: int
    seconds: float
    first_batch_seconds: float

    @property
    def clips_per_second(self) -> float:
        """Of all processes together."""
        return self.num_clips / self.seconds

    @property
    def per_process(self) -> float:
        """Clips a second of one process."""
        return self.clips_per_second / max(1, self.workers)


@dataclass(frozen=True, slots=True)
class StepFigure:
    """What the step took: num_steps of num_clips each in `seconds`. batch_clips: of a whole batch on this process."""

    num_clips: int
    batch_clips: int
    num_steps: int
    seconds: float

    @property
    def clips_per_second(self) -> float:
        """Clips a second that the step works through."""
        return self.num_clips * self.num_steps / self.seconds


@dataclass(frozen=True, slots=True)
class Balance:
    """Loader and step side by side. loaders: by rising number of processes. workers: that which training takes."""

    loaders: tuple[LoaderFigure, ...]
    step: StepFigure
    workers: int

    def __post_init__(self) -> None:
        if self.workers not in [figure.workers for figure in self.loaders]:
            raise ValueError(f"workers {self.workers} were not measured, only {[f.workers for f in self.loaders]}")

    @property
    def loader(self) -> LoaderFigure:
        """The figure of the number of processes that training takes."""
        return next(figure for figure in self.loaders if figure.workers == self.workers)

    @property
    def bottleneck(self) -> Literal["loader", "step"]:
        """Which of the two is the slower one."""
        return "loader" if self.loader.clips_per_second < self.step.clips_per_second else "step"

    @property
    def workers_needed(self) -> int:
        """About how many processes give what the step takes with `_HEADROOM` to spare, at least 1: told from the fewest that were seen
        to give it, else from the largest share of one process; more than any smaller number that was seen not to.
        """
        wanted = _HEADROOM * self.step.clips_per_second
        enough = [figure for figure in self.loaders if figure.workers and figure.clips_per_second >= wanted]
        share = enough[0].per_process if enough else max(figure.per_process for figure in self.loaders)
        too_few = [figure.workers for figure in self.loaders if not enough or figure.workers < enough[0].workers]
        return max(1, math.ceil(wanted / share), *(workers + 1 for workers in too_few))

    def waiting_share(self, figure: LoaderFigure) -> float:
        """Share of the time that the step would wait for a loader of this speed, 0..1; without processes they take turns."""
        load, step = 1 / figure.clips_per_second, 1 / self.step.clips_per_second
        return load / (load + step) if not figure.workers else max(0.0, 1 - step / load)


def workers_to_try(config: Config) -> tuple[int, ...]:
    """0, 1, 2, 4 and so on up to the cores of this process, and the number that training takes."""
    cores = len(os.sched_getaffinity(0))
    doubled = [1 << power for power in range(cores.bit_length()) if 1 << power <= cores]
    return tuple(sorted({0, *doubled, training_workers(config)}))


def measure(
    setup: Setup,
    ranks: Ranks,
    workers: tuple[int, ...],
    seconds: float,
    log: Callable[[str], None] = lambda text: None,
) -> Balance:
    """The step for about `seconds`, then the loader for about `seconds` with each of these numbers of processes.

    One batch of each is measured, however long it takes. Raises InputError where settings and data do not allow a batch, or the
    device has too little memory for one.
    """
    log(f"the training step on {ranks.device.type} ...")
    step = measure_step(setup, ranks, seconds)
    loaders = []
    for number, count in enumerate(workers):
        log(f"the loader with {count or 'no'} process{'es' * (count != 1)} ...")
        loaders.append(measure_loader(setup, ranks, count, seconds, number * _APART_STEPS))
    own = training_workers(setup.config)
    return Balance(tuple(loaders), step, own if own in workers else workers[-1])


def measure_loader(setup: Setup, ranks: Ranks, workers: int, seconds: float, first_step: int = 0) -> LoaderFigure:
    """Read batches from `first_step` on for about `seconds`, as fast as they come."""
    began = perf_counter()
    batches = step_loader(
        step_dataset(setup, ranks),
        range(first_step, first_step + _APART_STEPS),
        workers,
        pin=ranks.device.type == "cuda",
    )
    # Processes give their batches in turn: whole rounds alone tell their speed.
    a_round = max(1, workers)
    num_clips, first, started, now = 0, 0.0, began, began
    try:
        for number, batch in enumerate(batches):
            now = perf_counter()
            if number == 0:
                first = now - began
            if number < a_round:
                started = now
                continue
            num_clips += batch.num_clips
            if (number + 1) % a_round == 0 and now - started >= seconds:
                break
    finally:
        batches.close()  # type: ignore[attr-defined]  # ends its processes
        setup.reader.close()
    return LoaderFigure(workers, num_clips, now - started, first)


def measure_step(setup: Setup, ranks: Ranks, seconds: float) -> StepFigure:
    """Train on one batch again and again for about `seconds`.

    Where a step on a whole batch takes longer than that, a smaller batch of the same shares is measured. The recipe's last epoch
    is the one that is trained, in which no term of the loss is switched off any more. No file is written.
    """
    config = setup.config
    require_settings(config, ranks)
    features = last_shape(config.model, config.data.clip_frames, config.data.size, config.data.size)
    labelled, unlabelled = _batch_sizes(config)
    batch_clips = (labelled + unlabelled) * config.method.clips_per_video
    # Of both sizes whole parts are taken, each of which can be cut again into those of runtime.accumulate.
    parts = math.gcd(labelled, unlabelled) // config.runtime.accumulate
    least = next(part for part in range(1, parts + 1) if has_variance(_smaller(config, part, parts), features))
    step = training_step(setup, ranks)

    def timed(batch: SslBatch) -> float:
        began = perf_counter()
        step(batch)
        if ranks.device.type == "cuda":
            torch.cuda.synchronize(ranks.device)
        return perf_counter() - began

    try:
        batch = _batch_of(setup, ranks, least, parts)
        took = timed(batch)
        if took >= seconds:
            return StepFigure(batch.num_clips, batch_clips, 1, took)
        one = timed(batch) / least
        fitting = max(least, min(parts, int(seconds / 2 / one)))
        if fitting > least:
            batch = _batch_of(setup, ranks, fitting, parts)
            timed(batch)
        took, num_steps = 0.0, 0
        while took < seconds:
            took += timed(batch)
            num_steps += 1
    except torch.OutOfMemoryError:
        raise InputError(
            f"{ranks.device}: its memory does not hold a step on {labelled} labelled and {unlabelled} unlabelled videos. Lower "
            "batch.labelled and batch.unlabelled (they are shared by all processes of a run), or set runtime.precision=bfloat16."
        ) from None
    return StepFigure(batch.num_clips, batch_clips, num_steps, took)


def _batch_sizes(config: Config) -> tuple[int, int]:
    """Videos of a batch: labelled and unlabelled."""
    return config.batch.labelled, config.batch.unlabelled if config.method.uses_unlabelled else 0


def _smaller(config: Config, part: int, parts: int) -> Config:
    """The config with part / parts of its batch."""
    labelled, unlabelled = (size * part // parts for size in _batch_sizes(config))
    return replace(config, batch=BatchSettings(labelled, max(1, unlabelled)))


def _batch_of(setup: Setup, ranks: Ranks, part: int, parts: int) -> SslBatch:
    """A batch of part / parts of the recipe's size, on the device."""
    smaller = replace(setup, config=_smaller(setup.config, part, parts))
    pin = ranks.device.type == "cuda"
    read = step_loader(step_dataset(smaller, ranks), range(1), 0, pin=pin)
    return next(batches_on(ranks.device, read))
