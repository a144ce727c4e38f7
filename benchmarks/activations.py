"""Memory that the activations of a training step take, with and without activation checkpointing.

    python benchmarks/activations.py [--output FILE]

Counts the tensors that autograd keeps for the backward pass (each storage once, weights left out) of a step of one labelled and
one unlabelled video in float32 on the CPU, and scales to the recipe's batch: activations grow in proportion to its clips.
Layers keep the same tensors on a GPU, where cuDNN needs some room besides.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from manifests.machine import processor_name
from tgtrain.config import Config, load_recipe
from tgtrain.method.networks.model import build_model
from tgtrain.method.networks.recompute import checkpoint_activations
from tgtrain.method.step import Clips, StepInputs, step_terms

OUTPUT = Path("benchmarks/results/activations.json")
RECIPES = ("ucf101-20", "ucf101-20-fixmatch", "k400-10", "ucf101-10-mvpl")


def gigabytes(config: Config, recompute: bool) -> float:
    """GiB of the activations of the recipe's batch."""
    model = build_model(config.model).train()
    if recompute:
        checkpoint_activations(model)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no storage takes the address of another

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    def clips() -> Clips:
        size, frames = config.data.size, config.data.clip_frames
        rgb, tg = (torch.randn(1, 3, frames, size, size).to(memory_format=torch.channels_last_3d) for _ in range(2))
        return Clips(rgb, None if config.model.streams == "rgb" else tg)

    views = StepInputs(clips(), torch.zeros(1, dtype=torch.int64), clips(), clips())
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        step_terms(model, views, config.method, epoch=0)
    num_rows = config.batch.labelled + 2 * config.batch.unlabelled
    return sum(kept.values()) / 3 * num_rows / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args().output
    results = {}
    for name in RECIPES:
        config = load_recipe(name)
        results[name] = {
            "batch": f"{config.batch.labelled} + {config.batch.unlabelled}",
            "gib": round(gigabytes(config, recompute=False), 1),
            "gib_checkpointed": round(gigabytes(config, recompute=True), 1),
        }
        print(name, results[name], flush=True)
    facts = {"processor": processor_name(), "torch": torch.__version__, "precision": "float32", "results": results}
    output.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
