"""What a run, a test or a prediction takes on this machine, before its first step: memory, and arithmetic for its time.

A process that asks for more memory than its control group allows is ended by the kernel without a word, so such work is refused
beforehand. The bytes come from the step itself, run on tensors without values (`tgtrain.method.meta_run`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from manifests.console import plural
from manifests.machine import memory_bytes, resident_mb
from manifests.records import InputError
from tgtrain.config import Config
from tgtrain.data.build import wanted_views
from tgtrain.evaluate.score import BATCH_VIEWS, Modality
from tgtrain.method.accumulate import add_gradients
from tgtrain.method.augment.apply import network_input
from tgtrain.method.meta_run import autocast, count
from tgtrain.method.networks.model import outline
from tgtrain.method.networks.recompute import checkpoint_activations
from tgtrain.method.networks.settings import View
from tgtrain.method.step import Clips, StepInputs
from tgtrain.ranks.distributed import Ranks

# Measured with benchmarks/activations.py: what the libraries of a CPU take beside the tensors, and at once.
_CPU_FACTOR, _CPU_BYTES = 1.2, 250e6
_LOADER_BYTES = 150e6  # of a loader process, without its batches
_BATCHES_AHEAD = 3  # of a loader process: two waiting, one in work
# Rates that were measured for R3D-18 in float32: an H200 (benchmarks/results/bench_gpu.json), a core of a Xeon (step.json).
GPU_FLOPS, CORE_FLOPS = 87e12, 0.11e12
_PRECISION = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one process takes. Bytes are those of tensors."""

    device_bytes: int
    """On the device: weights, what is learnt with, and all that a step or a forward pass makes."""
    batch_bytes: int
    """One batch, or one video, as a loader process hands it over."""
    flops: int
    """Of one step."""

    def host_bytes(self, workers: int) -> float:
        """Memory of this process with its loader processes, for work on a CPU."""
        loaders = workers * (_LOADER_BYTES + _BATCHES_AHEAD * self.batch_bytes)
        return resident_mb(os.getpid()) * 2**20 + loaders + _CPU_BYTES + _CPU_FACTOR * self.device_bytes


def of_training(config: Config, world_size: int = 1) -> Estimate:
    """Of a training run on so many processes: a step when no loss term is switched off, or an evaluation if that takes more."""
    model, method, num_parts = outline(config.model).train(), config.method, config.runtime.accumulate
    if config.runtime.checkpoint_activations:
        checkpoint_activations(model, partial(autocast, _PRECISION[config.runtime.precision]))
    teacher = None if method.teacher == "none" else outline(config.model).eval()
    labelled, unlabelled = (
        max(1, size * method.clips_per_video // world_size)
        for size in (config.batch.labelled, config.batch.unlabelled * method.uses_unlabelled)
    )
    unlabelled *= method.uses_unlabelled

    shown = min(num_parts, 2)  # micro-batches are alike: the second is the most that any of them finds in memory

    def parts() -> Iterator[StepInputs]:
        for _ in range(shown):
            num_labelled, num_unlabelled = max(1, labelled // num_parts), max(1, unlabelled // num_parts)
            labels = torch.zeros(num_labelled, dtype=torch.int64, device="meta")
            of_unlabelled = [_clips(config, num_unlabelled) for _ in range(2)] if unlabelled else [None, None]
            yield StepInputs(_clips(config, num_labelled), labels, *of_unlabelled)

    def step() -> None:
        last, over = config.optimiser.epochs - 1, config.runtime.accumulate_contrast
        add_gradients(model, parts, shown, method, last, over=over, teacher=teacher)

    counted = count(step, _PRECISION[config.runtime.precision])
    work = counted.peak_bytes
    if labelled + 2 * unlabelled < BATCH_VIEWS:  # else a step keeps more than an evaluation
        modality: Modality = "tg" if config.model.streams == "tg" else "rgb"
        work = max(work, _forward_bytes(outline(config.model).eval(), config, modality, BATCH_VIEWS, config.data.size))
    learnt = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    # Momenta, and the gradients once more in the buckets of DistributedDataParallel.
    copies = (2 if config.optimiser.name == "adamw" else 1) + (world_size > 1)
    state = _bytes_of(model) + (0 if teacher is None else _bytes_of(teacher)) + learnt * copies
    batch = (labelled + unlabelled) * _clip_bytes(config, config.data.size) * len(wanted_views(config))
    return Estimate(state + work + batch, batch, counted.flops * num_parts // shown)


def of_scoring(
    config: Config, modality: Modality, num_clips: int, num_crops: int, batch_views: int, *, precise_bn: bool = False
) -> Estimate:
    """Of a test or a prediction with these views. precise_bn: BatchNorm is measured first, as in training."""
    data = config.data
    side = data.size if num_crops == 1 else data.test_size or round(256 * data.size / 224)
    model, num_views = outline(config.model).eval(), num_clips * num_crops
    work = _forward_bytes(model, config, modality, batch_views, side)
    if precise_bn:
        rows = (config.batch.labelled + 2 * config.batch.unlabelled) * config.method.clips_per_video
        work = max(work, _forward_bytes(model.train(), config, modality, rows, data.size))
    of_video = num_views * _clip_bytes(config, side) * (2 if modality == "both" else 1)
    held = of_video * -(-batch_views // num_views)
    return Estimate(_bytes_of(model) + work + held, of_video, 0)


def require_memory(
    what: str,
    ranks: Ranks,
    workers: int,
    estimate: Callable[[], Estimate],
    ways_out: Callable[[Callable[[Estimate], bool]], list[str]],
    *,
    num_steps: int = 0,
    sharing: int = 0,
    force: bool = False,
) -> str:
    """Refuse work that takes more memory than this process may use: InputError with the figures. All ranks must call this.

    what: the work, for the message. estimate: of one process. ways_out: given whether an estimate fits, what the user can do
    instead. sharing: processes like this one on this machine; 0: those of the run. Returns the figures as a line; "" on ranks other than the first.
    """
    sharing = sharing or _sharing()
    free, needed = room(ranks, workers, sharing)
    if not ranks.is_main:
        return ""
    on_cpu = ranks.device.type == "cpu"
    own = estimate()
    time = f"; {time_text(own.flops * num_steps, ranks)}" if num_steps else ""
    takes = f"about {gigabytes(needed(own))} GB of memory{f', {sharing} processes together' if on_cpu and sharing > 1 else ''}"
    where = "this process may use" if on_cpu else f"are free on {torch.cuda.get_device_name(ranks.device)}"
    if needed(own) > free and not force:
        ways = [*ways_out(lambda other: needed(other) <= free), "--force tries it all the same."]
        raise InputError(
            f"{what} takes {takes}, and {gigabytes(free)} GB {where}{time}. What you can do:\n  " + "\n  ".join(ways)
        )
    return f"{takes} ({gigabytes(free)} GB {where}){time}"


def room(ranks: Ranks, workers: int, sharing: int = 1) -> tuple[float, Callable[[Estimate], float]]:
    """Bytes that may be used, and what gives the bytes that work takes of them. All ranks must call this, and get the same.

    On a CPU the limit of the machine or of the control group, for the processes of this machine together; else free memory of the
    fullest GPU.
    """
    if ranks.device.type == "cpu":
        return min(ranks.gather(memory_bytes())), lambda of: sharing * of.host_bytes(workers)
    return min(ranks.gather(torch.cuda.mem_get_info(ranks.device)[0])), lambda of: of.device_bytes


def _sharing() -> int:
    """Processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def time_text(flops: float, ranks: Ranks) -> str:
    """The least time of so much arithmetic: on a CPU by its threads, else as an H200 would take."""
    on_cpu = ranks.device.type == "cpu"
    seconds = flops / (CORE_FLOPS * torch.get_num_threads() if on_cpu else GPU_FLOPS)
    threads = torch.get_num_threads()
    by = f"with {plural(threads, 'thread')} of this CPU" if on_cpu else "if the GPU is as fast as an H200"
    units = (("second", 1, 120), ("minute", 60, 120), ("hour", 3600, 48), ("day", 86400, math.inf))
    unit, length, _ = next(entry for entry in units if seconds < entry[1] * entry[2])
    return f"all steps take at least {plural(math.ceil(seconds / length), unit)} {by}"


def cheaper(config: Config, world_size: int, fits: Callable[[Estimate], bool]) -> list[str]:
    """The settings with which a training run that is too large fits, each with what it changes."""
    runtime, ways = config.runtime, list[str]()

    def check(setting: str, note: str, changed: Config) -> bool:
        if not fits(of := of_training(changed, world_size)):
            return False
        ways.append(f"--set {setting} takes {gigabytes(of.device_bytes)} GB for a step: {note}.")
        return True

    unlabelled = config.batch.unlabelled if config.method.uses_unlabelled else 0
    most = math.gcd(config.batch.labelled, unlabelled) // world_size
    for parts in (parts for parts in range(runtime.accumulate + 1, most + 1) if most % parts == 0):
        changed = replace(config, runtime=replace(runtime, accumulate=parts))
        if check(f"runtime.accumulate={parts}", f"the batch in {parts} parts; BatchNorm sees one at a time", changed):
            break
    if not (runtime.checkpoint_activations or runtime.compile):
        changed = replace(config, runtime=replace(runtime, checkpoint_activations=True))
        check("runtime.checkpoint_activations=true", "the same result in about a third more time", changed)
    for size in (160, 112, 80, 48):
        if size < config.data.size and check(
            f"data.size={size}", "smaller pictures", replace(config, data=replace(config.data, size=size))
        ):
            break
    if not config.name.startswith("demo"):
        ways.append("--recipe demo takes a small network and small pictures.")
    return ways


def cheaper_scoring(
    estimate: Callable[[int, int], Estimate], num_clips: int, fits: Callable[[Estimate], bool]
) -> list[str]:
    """The options with which a test or a prediction that is too large fits. estimate: of so many views together, and clips."""
    ways = []
    if rows := next((rows for rows in (16, 8, 4, 2, 1) if fits(estimate(rows, num_clips))), 0):
        ways.append(f"--batch-views {rows}: fewer views go through the network together, with the same result.")
    elif fits(estimate(1, 1)):
        ways.append("--batch-views 1 --views 1x1: one view of each video.")
    return ways


def gigabytes(count: float) -> str:
    """Bytes as GB of 10^9: 0.3, 1.7, 41."""
    return f"{count / 1e9:.1f}" if count < 9.95e9 else f"{count / 1e9:.0f}"


def _clips(config: Config, rows: int) -> Clips:
    """So many clips without values, normalised as a step gets them."""
    of_views = {view: _input(config, view, rows, config.data.size) for view in wanted_views(config)}
    return Clips(of_views.get("rgb"), of_views.get("tg"))


def _input(config: Config, view: View, rows: int, side: int) -> torch.Tensor | None:
    slow = view == "tg" and config.data.gradient == "slow"
    shape = (rows, config.data.clip_frames + slow, side, side, 3)
    return network_input(torch.empty(shape, dtype=torch.uint8, device="meta"), slow)


def _clip_bytes(config: Config, side: int) -> int:
    """Of one clip of one view as it is read."""
    return config.data.clip_frames * side * side * 3


def _forward_bytes(model: nn.Module, config: Config, modality: Modality, rows: int, side: int) -> int:
    """Peak of a forward pass that keeps nothing for a backward pass."""
    view: View = "tg" if modality == "tg" else "rgb"

    def forward() -> None:
        with torch.no_grad():
            model(**{view: _input(config, view, rows, side)})

    return count(forward).peak_bytes


def _bytes_of(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
