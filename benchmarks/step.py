"""One training step: what each lever gives against the plainest correct implementation, and where the time of the trainer's own step goes.

    python benchmarks/step.py [--device cpu] [--rows 2] [--size 112] [--steps 2] [--rounds 3] [--only NAME ... --output FILE]

What is timed is `Learner.update` and the sums for its log, over clips of random bytes, with the networks of the recipe: all
of a step but the loading of data. --rows: labelled and unlabelled videos each (published: 40). Every way runs in a process of its own,
whose peak memory counts; ways take turns, medians are reported. Processor time of one thread on a CPU, wall time on a GPU. Until all are
measured, what there is lies beside the output, as FILE.partial.

Parts are timed in steps of their own, from inside: forward (with the losses), backward, optimiser; views (strong operations and
normalisation, on the device), clip (norm of the gradients), log (sums of the values), and other: what is left of the step. On a GPU these steps
wait for the device after each part, which the steps that are compared do not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import tgtrain.method.accumulate
import tgtrain.method.step
import tgtrain.train.learner
from manifests.machine import processor_name
from tgtrain.config import Config, load_recipe
from tgtrain.data.batch import ClipBatch, SslBatch
from tgtrain.data.order import steps_per_epoch
from tgtrain.method.augment.plan import StrongSettings, draw_strong_plans
from tgtrain.method.step import Clips, StepInputs
from tgtrain.ranks.distributed import Ranks
from tgtrain.run.journal import Interval
from tgtrain.train.learner import Learner

MAIN, ONE_VIEW = "ucf101-20", "ucf101-20-fixmatch"
OUTPUT = Path("benchmarks/results/step.json")
CORE = ("forward", "backward", "optimiser")
NUM_VIDEOS = 9537  # unlabelled videos of UCF101 at 20 %


@dataclass(frozen=True, slots=True)
class Way:
    """How a step is carried out. against: the way that it is compared with. fused: None as the trainer chooses."""

    recipe: str = MAIN
    against: str = "plain"
    joined: bool = True
    channels_last: bool = True
    precision: str = "float32"
    compiled: bool = False
    fused: bool | None = None
    weak_forward: str = "joined"
    accumulate: int = 1
    checkpointed: bool = False


PLAIN = Way(joined=False, channels_last=False, fused=False)
WAYS = {
    "plain": PLAIN,
    "plain + one joined forward": replace(PLAIN, joined=True),
    "plain + channels last": replace(PLAIN, channels_last=True),
    "plain + fused SGD": replace(PLAIN, fused=True),
    "plain + bfloat16": replace(PLAIN, precision="bfloat16"),
    "plain + compile": replace(PLAIN, compiled=True),
    "trainer": Way(),
    "trainer + bfloat16": Way(precision="bfloat16"),
    "trainer + compile": Way(compiled=True),
    "trainer + bfloat16 + compile": Way(precision="bfloat16", compiled=True),
    **{f"trainer, accumulate {parts}": Way(against="trainer", accumulate=parts) for parts in (2, 4, 8)},
    "trainer, activation checkpointing": Way(against="trainer", checkpointed=True),
    "trainer + bfloat16, activation checkpointing": Way(against="trainer", precision="bfloat16", checkpointed=True),
    "fixmatch": Way(ONE_VIEW, "fixmatch"),
    "fixmatch + bfloat16 + compile": Way(ONE_VIEW, "fixmatch", precision="bfloat16", compiled=True),
    "fixmatch + bfloat16 + compile + weak views apart": Way(
        ONE_VIEW, "fixmatch", precision="bfloat16", compiled=True, weak_forward="apart"
    ),
    "fixmatch + weak views apart, without gradient": Way(ONE_VIEW, "fixmatch", weak_forward="apart"),
}


def left_out(way: Way, device: torch.device, asked: bool) -> str:
    """Why a way is not run on this machine; "" where it is."""
    if device.type != "cpu":
        return ""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if way.precision == "bfloat16" and not any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16")):
        return "this processor has no instructions for bfloat16: it would take many times as long"
    if way.compiled and not asked:
        return "compiling takes minutes on a CPU and needs a C++ compiler: name it with --only"
    return ""


def settings_of(way: Way, device: torch.device, rows: int, size: int) -> Config:
    """The recipe's config with what the way changes."""
    overrides = [
        f"batch.labelled={rows}", f"batch.unlabelled={rows}", f"data.size={size}", f"method.weak_forward={way.weak_forward}",
        f"runtime.precision={way.precision}", f"runtime.compile={str(way.compiled).lower()}", f"runtime.device={device.type}",
        "method.warmup_epochs=0", f"runtime.accumulate={min(way.accumulate, rows)}",
        f"runtime.checkpoint_activations={str(way.checkpointed).lower()}",
    ]  # fmt: skip
    return load_recipe(way.recipe, overrides)


def random_batch(config: Config, device: torch.device) -> SslBatch:
    """Clips of random bytes with drawn strong operations, on the device."""
    rng = np.random.default_rng(0)
    shape = (config.batch.labelled, config.data.clip_frames, config.data.size, config.data.size, 3)

    def clips() -> ClipBatch:
        wanted = (True, config.model.streams != "rgb")
        views = (torch.from_numpy(rng.integers(0, 256, shape, np.uint8)).to(device) if w else None for w in wanted)
        return ClipBatch(*views, (torch.arange(shape[0]) % 101).to(device), tuple(map(str, range(shape[0]))))

    plans = [draw_strong_plans(rng, rng, StrongSettings()) for _ in range(shape[0])]
    return SslBatch(0, clips(), clips(), tuple(rgb for rgb, _ in plans), tuple(tg for _, tg in plans))


def learner_of(way: Way, config: Config, device: torch.device) -> Any:
    """The learner of `tgtrain run`, changed where the way differs from it."""
    learner: Any = Learner(config, Ranks(0, 1, device), steps_per_epoch(NUM_VIDEOS, config.batch.unlabelled))
    if not way.channels_last:
        learner.model.to(memory_format=torch.contiguous_format)
        own_parts = learner.micro_batches
        learner.micro_batches = lambda batch: map(contiguous, own_parts(batch))
    if not way.joined:
        tgtrain.method.step.forward_views = separate_forwards
    if way.fused is not None:
        groups = [{**group, "fused": way.fused} for group in learner.optimiser.param_groups]
        learner.optimiser = torch.optim.SGD(groups, fused=way.fused)
    return learner


def separate_forwards(network: nn.Module, views: StepInputs, joins_weak: bool = True, teacher: object = None) -> Any:
    """The way without joining: each part of the batch through the networks on its own, outputs joined."""
    outputs = [network(part.rgb, part.tg) for part in (views.labelled, views.weak, views.strong) if part is not None]

    def joined(parts: list[Any]) -> Any:
        first = parts[0]
        if first is None:
            return None
        if isinstance(first, Tensor):
            return torch.cat(parts)
        if isinstance(first, (tuple, list)):
            return tuple(joined(list(entry)) for entry in zip(*parts, strict=True))
        return type(first)(*(joined([getattr(part, name) for part in parts]) for name in first.__dataclass_fields__))

    return joined(outputs)


def contiguous(views: StepInputs) -> StepInputs:
    """The same views in the default memory format."""

    def plain(clips: Clips | None) -> Clips | None:
        return clips and Clips(*(None if view is None else view.contiguous() for view in (clips.rgb, clips.tg)))

    return replace(views, labelled=plain(views.labelled), weak=plain(views.weak), strong=plain(views.strong))


def run_way(way: Way, device: torch.device, rows: int, size: int, steps: int) -> dict[str, Any]:
    """Seconds of whole steps and of their parts, and the peak memory of this process."""
    config = settings_of(way, device, rows, size)
    learner, batch, interval = learner_of(way, config, device), random_batch(config, device), Interval()
    on_gpu = device.type == "cuda"

    def now() -> float:
        if on_gpu:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def seconds_per_step(steps: int) -> float:
        began = now()
        for _ in range(steps):
            values = learner.update(batch)
            interval.add(values, 4 * rows, 0.0)
            learner.step += 1
        return (now() - began) / steps

    seconds_per_step(2 if way.compiled or on_gpu else 1)
    whole = seconds_per_step(steps)
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    parts = dict.fromkeys((*CORE, "views", "clip", "log"), 0.0)
    watch_parts(learner, interval, parts, now)
    watched = seconds_per_step(steps)
    parts = {name: seconds / steps for name, seconds in parts.items()}
    parts["other"] = watched - sum(parts.values())
    return {"seconds": whole, "watched_seconds": watched, "parts": parts, "peak_mb": round(peak / 2**20, 1)}


def watch_parts(learner: Any, interval: Any, parts: dict[str, float], now: Callable[[], float]) -> None:
    """Put a clock around the parts of the step."""

    def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            began = now()
            try:
                return work(*args, **named)
            finally:
                parts[part] += now() - began

        return run

    own_parts = learner.micro_batches

    def views(batch: SslBatch) -> Iterator[StepInputs]:
        coming = iter(own_parts(batch))
        following = timed("views", lambda: next(coming, None))
        while (found := following()) is not None:
            yield found

    learner.micro_batches = views
    tgtrain.method.accumulate.step_terms = timed("forward", tgtrain.method.accumulate.step_terms)
    torch.Tensor.backward = timed("backward", torch.Tensor.backward)  # type: ignore[method-assign]
    tgtrain.train.learner.clip_gradients = timed("clip", tgtrain.train.learner.clip_gradients)
    learner.optimiser.step = timed("optimiser", learner.optimiser.step)
    interval.add = timed("log", interval.add)


def row_of(found: list[dict[str, Any]], reference: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians of one way over the rounds."""

    def median(name: str, runs: list[dict[str, Any]]) -> float:
        return statistics.median(run[name] for run in runs)

    parts = {part: statistics.median(run["parts"][part] for run in found) for part in found[0]["parts"]}
    core = sum(parts[part] for part in CORE)
    return {
        "seconds": round(median("seconds", found), 4),
        "times as fast": round(statistics.median(a["seconds"] / b["seconds"] for a, b in zip(reference, found, strict=False)), 3),
        "peak_mb": max(run["peak_mb"] for run in found),
        "memory against it": round(max(run["peak_mb"] for run in found) / max(run["peak_mb"] for run in reference), 3),
        "parts": {part: round(seconds, 5) for part, seconds in parts.items()},
        "whole / (forward + backward + optimiser)": round(median("watched_seconds", found) / core, 4),
        "the same without views": round((median("watched_seconds", found) - parts["views"]) / core, 4),
    }  # fmt: skip


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"got {number}, expected 1 or more")
    return number


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=positive, default=2)
    parser.add_argument("--size", type=positive, default=112)
    parser.add_argument("--steps", type=positive, default=2)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--only", nargs="*", choices=tuple(WAYS), help="these ways and what they are compared with")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.way:
        if device.type == "cpu":
            torch.set_num_threads(1)
        way = WAYS[arguments.way]
        print(json.dumps(run_way(way, device, arguments.rows, arguments.size, arguments.steps)))
        return
    if arguments.only and arguments.output == OUTPUT:
        parser.error(f"{OUTPUT} holds all ways: name another --output for those of --only")
    partial = arguments.output.with_name(arguments.output.name + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    asked = set(arguments.only or WAYS)
    while missing := {WAYS[name].against for name in asked} - asked:
        asked |= missing
    reasons = {name: left_out(WAYS[name], device, name in (arguments.only or ())) for name in WAYS if name in asked}
    names = [name for name, reason in reasons.items() if not reason]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        for name in (
            name for name in names if not (WAYS[name].compiled and number)
        ):  # compiled ones in the first alone
            words = [sys.executable, __file__, "--way", name, "--device", arguments.device]
            words += ["--rows", str(arguments.rows), "--size", str(arguments.size), "--steps", str(arguments.steps)]
            runs[name].append(json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True).stdout))
            print(f"{name}: {runs[name][-1]['seconds']:.3f} s", file=sys.stderr)
            text = json.dumps(result_of(runs, reasons, device, arguments), indent=2)
            partial.write_text(text + "\n")  # whatever ends the run, what it has measured is there
    partial.replace(arguments.output)
    print(text)


def result_of(
    runs: dict[str, list[dict[str, Any]]], reasons: dict[str, str], device: torch.device, arguments: argparse.Namespace
) -> dict[str, Any]:
    """What the ways measured so far came to."""
    return {
        "what": "one training step of the trainer, without the loading of data",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor_name()}, 1 thread",
            "cores": os.cpu_count(),
        },
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "settings": {
            "rows": f"{arguments.rows} + {arguments.rows}",
            "size": arguments.size,
            "steps": arguments.steps,
            "rounds": arguments.rounds,
        },
        "ways": {
            name: {**asdict(WAYS[name]), **row_of(found, runs[WAYS[name].against])}
            for name, found in runs.items()
            if found
        },
        "left out": {name: reason for name, reason in reasons.items() if reason},
    }


if __name__ == "__main__":
    main()
