"""Measure how many clips a second the loader reads with N processes and the training step takes, and which waits for the other.

Loader and step are those of training: the loader is read as fast as possible, the step repeats one batch. A clip is one of a
batch, labelled or unlabelled: its RGB and TG frames as the recipe cuts them. An unlabelled one is decoded once for both views.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal

import torch

from manifests.machine import usable_cores
from manifests.records import InputError
from tgtrain.config import BatchSettings, Config
from tgtrain.data.batch import SslBatch
from tgtrain.data.build import step_dataset, training_workers
from tgtrain.data.device import batches_on
from tgtrain.data.loader import step_loader
from tgtrain.data.setup import Setup
from tgtrain.method.networks.model import last_shape
from tgtrain.ranks.distributed import Ranks
from tgtrain.train.estimate import of_training, require_memory, room
from tgtrain.train.preflight import has_variance, require_settings
from tgtrain.train.trainer import training_step

# A loader hardly faster than the step is too slow when both work at once and clips differ.
_HEADROOM = 1.2
_APART_STEPS = 10_000  # between the first steps of two measurements, so that they read different clips


@dataclass(frozen=True, slots=True)
class LoaderFigure:
    """The speed of the loader with some number of processes."""

    workers: int  # 0: the training process reads by itself
    num_clips: int  # read in `seconds`, after the first batch of every process
    seconds: float
    first_batch_seconds: float  # since the start of the processes

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
    """The speed of the training step: num_steps of num_clips each in `seconds`."""

    num_clips: int
    batch_clips: int  # of a full batch on this process
    num_steps: int
    seconds: float

    @property
    def clips_per_second(self) -> float:
        """Clips a second that the step works through."""
        return self.num_clips * self.num_steps / self.seconds


@dataclass(frozen=True, slots=True)
class Balance:
    """Loader and step compared. loaders: by rising number of processes. workers: the number that training uses."""

    loaders: tuple[LoaderFigure, ...]
    step: StepFigure
    workers: int

    def __post_init__(self) -> None:
        if self.workers not in [figure.workers for figure in self.loaders]:
            raise ValueError(f"workers {self.workers} were not measured, only {[f.workers for f in self.loaders]}")

    @property
    def loader(self) -> LoaderFigure:
        """The figure for the number of processes that training uses."""
        return next(figure for figure in self.loaders if figure.workers == self.workers)

    @property
    def bottleneck(self) -> Literal["loader", "step"]:
        """Which of the two is the slower one."""
        return "loader" if self.loader.clips_per_second < self.step.clips_per_second else "step"

    @property
    def workers_needed(self) -> int:
        """About how many processes feed the step with `_HEADROOM`, at least 1.

        Estimated from the smallest number that was measured to be enough, else from the fastest single process; always more
        than any number that was measured to be too small.
        """
        needed = _HEADROOM * self.step.clips_per_second
        enough = [figure for figure in self.loaders if figure.workers and figure.clips_per_second >= needed]
        share = enough[0].per_process if enough else max(figure.per_process for figure in self.loaders)
        too_few = [figure.workers for figure in self.loaders if not enough or figure.workers < enough[0].workers]
        return max(1, math.ceil(needed / share), *(workers + 1 for workers in too_few))

    def waiting_share(self, figure: LoaderFigure) -> float:
        """Share of the time that the step would wait for a loader of this speed, 0..1; without processes they take turns."""
        load, step = 1 / figure.clips_per_second, 1 / self.step.clips_per_second
        return load / (load + step) if not figure.workers else max(0.0, 1 - step / load)


def workers_to_try(config: Config) -> tuple[int, ...]:
    """0, 1, 2, 4 and so on up to the cores of this process, and the number that training uses."""
    cores = usable_cores()
    doubled = [1 << power for power in range(cores.bit_length()) if 1 << power <= cores]
    return tuple(sorted({0, *doubled, training_workers(config)}))


def measure(
    setup: Setup,
    ranks: Ranks,
    workers: tuple[int, ...],
    seconds: float,
    log: Callable[[str], None] = lambda text: None,
    *,
    force: bool = False,
) -> Balance:
    """Measure the step for about `seconds`, then the loader for about `seconds` with each of these numbers of processes.

    At least one batch of each is measured, however long it takes. InputError if settings and data do not allow a batch, or the
    device has too little memory for one. force: try it if the memory does not suffice by the estimate.
    """
    log(f"the training step on {ranks.device.type} ...")
    step = measure_step(setup, ranks, seconds, max(workers), force=force)
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
        num_in_use=1,
    )
    # Processes deliver their batches in turn, so only complete rounds count.
    round_size = max(1, workers)
    num_clips, first, started, now = 0, 0.0, began, began
    try:
        for number, batch in enumerate(batches):
            now = perf_counter()
            if number == 0:
                first = now - began
            if number < round_size:
                started = now
                continue
            num_clips += batch.num_clips
            if (number + 1) % round_size == 0 and now - started >= seconds:
                break
    finally:
        batches.close()  # type: ignore[attr-defined]  # ends its processes
        setup.reader.close()
    return LoaderFigure(workers, num_clips, now - started, first)


def measure_step(setup: Setup, ranks: Ranks, seconds: float, workers: int = 0, *, force: bool = False) -> StepFigure:
    """Train on one batch again and again for about `seconds`, as in the recipe's last epoch, when no loss term is switched off.

    If a step on a full batch takes longer than that, or more memory than there is beside so many loader processes, a smaller
    batch of the same proportions is measured. No file is written.
    """
    config = setup.config
    require_settings(config, ranks)
    features = last_shape(config.model, config.data.clip_frames, config.data.size, config.data.size)
    labelled, unlabelled = _batch_sizes(config)
    batch_clips = (labelled + unlabelled) * config.method.clips_per_video
    # The batch is measured in n of `parts` equal parts, each of which still divides by runtime.accumulate.
    parts = math.gcd(labelled, unlabelled) // config.runtime.accumulate
    least = next(part for part in range(1, parts + 1) if has_variance(_smaller(config, part, parts), features))
    most = parts if force else _most_parts(config, ranks, workers, least, parts)
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
        fitting = max(least, min(most, int(seconds / 2 / one)))
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


def _most_parts(config: Config, ranks: Ranks, workers: int, least: int, parts: int) -> int:
    """How much of the batch, in parts of it, fits into memory; the loader reads all of it. InputError if `least` does not."""
    full = of_training(config)
    small = replace(of_training(_smaller(config, least, parts)), batch_bytes=full.batch_bytes)
    require_memory(
        f"The smallest step of {config.name}, with {workers} loader processes,",
        ranks,
        workers,
        lambda: small,
        lambda fits: ["--workers 0 reads without loader processes."] if workers else [],
    )
    free, needed = room(ranks, workers)
    if needed(full) <= free:
        return parts
    # What a step takes grows with its clips alone.
    return least + int((free - needed(small)) / (needed(full) - needed(small)) * (parts - least))


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
