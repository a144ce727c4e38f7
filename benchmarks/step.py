"""One training step of the main method: what each lever gives against the plainest correct implementation, and where the time goes.

    python benchmarks/step.py [--device cpu] [--rows 2] [--size 112] [--steps 3] [--rounds 3] [--output benchmarks/results/step.json]

The networks are those of the main recipe (two R3D-18), the clips random bytes. --rows: labelled and unlabelled videos each (published: 40). Every
way runs in a process of its own, whose peak memory counts; ways take turns, medians are reported. Processor time on a CPU, wall time on a GPU.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tgtrain.batch import ClipBatch, SslBatch
from tgtrain.config import load_recipe
from tgtrain.model import build_model
from tgtrain.step import Clips, Views, forward_views, loss_terms
from tgtrain.strong_plan import StrongSettings, draw_strong_plans
from tgtrain.views import views_of

RECIPE = "ucf101-20"
# name -> (one forward over the joined batch, channels_last_3d, autocast, compile, fused optimiser)
WAYS: dict[str, tuple[bool, bool, str, bool, bool]] = {
    "plain: float32, contiguous, a forward per view": (False, False, "float32", False, False),
    "one joined forward": (True, False, "float32", False, False),
    "joined, channels last (the default)": (True, True, "float32", False, False),
    "joined, channels last, fused SGD": (True, True, "float32", False, True),
    "joined, channels last, bfloat16": (True, True, "bfloat16", False, False),
    "joined, channels last, bfloat16, compile": (True, True, "bfloat16", True, True),
}
DEFAULT = "joined, channels last (the default)"
CPU_WAYS = (
    4  # half precision on a CPU without instructions for it takes forty times as long, compiling needs a C++ compiler
)


def random_batch(rows: int, frames: int, size: int) -> SslBatch:
    """Clips of random bytes with drawn strong operations."""
    generator = np.random.default_rng(0)

    def clips() -> ClipBatch:
        views = (
            torch.from_numpy(generator.integers(0, 256, (rows, frames, size, size, 3), np.uint8)) for _ in range(2)
        )
        return ClipBatch(*views, torch.arange(rows) % 101, tuple(map(str, range(rows))))

    plans = [draw_strong_plans(generator, generator, StrongSettings()) for _ in range(rows)]
    return SslBatch(0, clips(), clips(), tuple(rgb for rgb, _ in plans), tuple(tg for _, tg in plans))


def separate_forwards(network: nn.Module, views: Views) -> Any:
    """The way without joining: each part of the batch through the networks on its own, outputs joined."""
    assert views.weak is not None
    assert views.strong is not None
    outputs = [network(part.rgb, part.tg) for part in (views.labelled, views.weak, views.strong)]

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


def contiguous(views: Views) -> Views:
    """The same views in the default memory format."""

    def plain(clips: Clips | None) -> Clips | None:
        return clips and Clips(*(None if view is None else view.contiguous() for view in (clips.rgb, clips.tg)))

    labelled = plain(views.labelled)
    assert labelled is not None
    return Views(labelled, views.labels_B, plain(views.weak), plain(views.strong), views.true_labels_U)


def run_way(name: str, device: torch.device, rows: int, size: int, steps: int) -> dict[str, Any]:
    """Times of whole steps and of their parts, and the peak memory of this process."""
    join, channels_last, precision, compiled, fused = WAYS[name]
    config = load_recipe(RECIPE)
    memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
    model: Any = build_model(config.model, seed=0).to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    model.train()
    network = torch.compile(model) if compiled else model
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=fused or None)
    batch = random_batch(rows, config.data.clip_frames, size)
    on_gpu = device.type == "cuda"
    dtype = getattr(torch, precision)

    def now() -> float:
        if on_gpu:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    parts: dict[str, float] = {}

    def timed(part: str, work: Callable[[], Any]) -> Any:
        began = now()
        result = work()
        parts[part] = parts.get(part, 0.0) + now() - began
        return result

    def forward(views: Views) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
            output = forward_views(network, views) if join else separate_forwards(network, views)
            return loss_terms(output, views.labels_B, config.method, epoch=100, true_labels_U=views.true_labels_U).total

    def step() -> None:
        views = timed("views", lambda: views_of(batch, device, slow=False))
        if not channels_last:
            views = timed("views", lambda: contiguous(views))
        total = timed("forward", lambda: forward(views))
        optimiser.zero_grad(set_to_none=True)
        timed("backward", lambda: total.backward())
        timed("clip", lambda: nn.utils.clip_grad_norm_(model.parameters(), config.optimiser.clip_norm))
        timed("optimiser", optimiser.step)

    step()
    if compiled:
        step()
    parts.clear()
    began = now()
    for _ in range(steps):
        step()
    whole = (now() - began) / steps
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": whole,
        "parts": {part: seconds / steps for part, seconds in parts.items()},
        "peak_mb": round(peak / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, default=2, help="2 at least: BatchNorm of one row has no variance")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/step.json"))
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.way:
        if device.type == "cpu":
            torch.set_num_threads(1)
        print(json.dumps(run_way(arguments.way, device, arguments.rows, arguments.size, arguments.steps)))
        return
    names = list(WAYS)[: None if device.type == "cuda" else CPU_WAYS]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name in names:
            words = [sys.executable, __file__, "--way", name, "--device", arguments.device]
            words += ["--rows", str(arguments.rows), "--size", str(arguments.size), "--steps", str(arguments.steps)]
            runs[name].append(json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True).stdout))
    plain = statistics.median(run["seconds"] for run in runs[names[0]])
    rows = {}
    for name, found in runs.items():
        seconds = statistics.median(run["seconds"] for run in found)
        parts = {part: round(statistics.median(run["parts"][part] for run in found), 4) for part in found[0]["parts"]}
        rows[name] = {
            "seconds": round(seconds, 4),
            "speed against plain": round(plain / seconds, 3),
            "peak_mb": max(run["peak_mb"] for run in found),
            "parts": parts,
        }
    default = rows[DEFAULT]["parts"]
    core = sum(default[part] for part in ("forward", "backward", "optimiser"))
    result = {
        "what": "one training step of the main recipe",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu, 1 thread",
            "cores": os.cpu_count(),
        },
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "settings": {
            "recipe": RECIPE,
            "rows": f"{arguments.rows} + {arguments.rows}",
            "size": arguments.size,
            "steps": arguments.steps,
            "rounds": arguments.rounds,
        },
        "ways": rows,
        "whole step / (forward + backward + optimiser), default": round(rows[DEFAULT]["seconds"] / core, 4),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
