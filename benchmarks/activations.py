"""Memory that a training step takes: by the estimate of `tgtrain run`, for several recipes, and measured for small steps.

    python benchmarks/activations.py [--output FILE]

The estimate counts the tensors of a step (tgtrain.train.estimate): weights, momentum, gradients, batch, and all that forward and
backward pass hold at their peak. The measured steps run on the CPU in a process each; the growth of that process is its figure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manifests.machine import peak_memory_mb, processor_name
from tgtrain.config import Config, load_recipe
from tgtrain.data.batch import ClipBatch, SslBatch
from tgtrain.ranks.distributed import Ranks
from tgtrain.train.estimate import of_training
from tgtrain.train.learner import Learner

OUTPUT = Path("benchmarks/results/activations.json")
RECIPES = ("ucf101-20", "ucf101-20-fixmatch", "hmdb51-40", "k400-10", "ucf101-10-mvpl")
MEASURED = (
    ("demo",),
    ("ucf101-20", "data.size=112", "batch.labelled=2", "batch.unlabelled=2"),
    ("ucf101-20", "data.size=112", "batch.labelled=4", "batch.unlabelled=4"),
    ("ucf101-20", "data.size=112", "batch.labelled=4", "batch.unlabelled=4", "runtime.precision=bfloat16"),
    ("ucf101-20", "data.size=112", "batch.labelled=4", "batch.unlabelled=4", "runtime.checkpoint_activations=true"),
    ("ucf101-20", "data.size=112", "batch.labelled=4", "batch.unlabelled=4", "runtime.accumulate=2"),
    ("ucf101-10-mvpl", "data.size=112", "batch.labelled=1", "batch.unlabelled=2"),
)


def with_runtime(config: Config, **runtime: Any) -> Config:
    """The config with other settings of the section `runtime`."""
    return replace(config, runtime=replace(config.runtime, **runtime))


def batch_of(config: Config) -> SslBatch:
    """A batch of noise."""

    def clips(videos: int) -> ClipBatch:
        rows, data = videos * config.method.clips_per_video, config.data
        shape = (rows, data.clip_frames, data.size, data.size, 3)
        rgb, tg = (torch.randint(0, 255, shape, dtype=torch.uint8) for _ in range(2))
        views = (None if config.model.streams == "tg" else rgb, None if config.model.streams == "rgb" else tg)
        return ClipBatch(*views, torch.zeros(rows, dtype=torch.int64), tuple(map(str, range(videos))))

    unlabelled = clips(config.batch.unlabelled) if config.method.uses_unlabelled else None
    return SslBatch(0, clips(config.batch.labelled), unlabelled)


def measured_mb(config: Config) -> float:
    """MiB by which this process grows while it makes two steps."""
    batch = batch_of(config)
    before = peak_memory_mb()
    learner = Learner(config, Ranks(0, 1, torch.device("cpu")), 1)
    learner.update(batch)
    learner.update(batch)
    return peak_memory_mb() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(measured_mb(load_recipe(arguments.measure[0], arguments.measure[1:])))
        return
    results, measured = {}, []
    for name in RECIPES:
        config = load_recipe(name)
        began = time.perf_counter()
        gib = {
            "gib": of_training(config).device_bytes / 2**30,
            "gib_checkpointed": of_training(with_runtime(config, checkpoint_activations=True)).device_bytes / 2**30,
            "gib_checkpointed_accumulate_2": of_training(
                with_runtime(config, checkpoint_activations=True, accumulate=2)
            ).device_bytes
            / 2**30,
            "gib_bfloat16": of_training(with_runtime(config, precision="bfloat16")).device_bytes / 2**30,
        }
        batch = f"{config.batch.labelled} + {config.batch.unlabelled}"
        results[name] = {"batch": batch, **{key: round(value, 1) for key, value in gib.items()}}
        print(name, results[name], f"{time.perf_counter() - began:.1f} s for all four", flush=True)
    for words in MEASURED:
        command = [sys.executable, __file__, "--measure", *words]
        found = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        estimated = of_training(load_recipe(words[0], words[1:])).device_bytes / 2**20
        measured.append({"settings": " ".join(words), "estimated_mb": round(estimated), "measured_mb": round(found)})
        print(measured[-1], flush=True)
    ratio = np.polyfit(*zip(*((row["estimated_mb"], row["measured_mb"]) for row in measured), strict=True), 1)
    facts = {"processor": processor_name(), "torch": torch.__version__, "results": results, "measured": measured}
    facts["fit"] = {"factor": round(float(ratio[0]), 2), "mb": round(float(ratio[1]))}
    arguments.output.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
