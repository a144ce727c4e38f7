"""`tgtrain.open_dataset` in a torch DataLoader against the trainer's own loader: the same clips, in the same batches.

    python benchmarks/library.py DATA [--repeats 9] [--workers 0 2] [--batches 12] [--output benchmarks/results/library.json]

DATA: a data set of `tgprep extract` with a split. Both ways take turns in short repeats, so that a slow minute of the machine meets both; the ratio of each
pair counts, and their median is reported. Processor time, of all processes of a way, is compared: other work on the machine disturbs it less than wall time.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from manifests.machine import processor_name
from tgtrain import open_dataset, open_streams
from tgtrain.data.loader import step_loader
from tgtrain.data.order import StreamOrder
from tgtrain.randomness import Stream

BATCH = 8
SEED = 1
PACKAGES = ("torch", "numpy", "simplejpeg", "opencv-python-headless")


def trainer(data: str, num_batches: int, workers: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of the labelled stream as `tgtrain run` reads them."""
    dataset = open_streams(data, labelled=BATCH, unlabelled=0, seed=SEED)._dataset
    for batch in step_loader(dataset, range(num_batches), workers, pin=False, num_in_use=1):
        assert batch.labelled.rgb is not None
        assert batch.labelled.tg is not None
        yield batch.labelled.rgb, batch.labelled.tg


def library(data: str, num_batches: int, workers: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same batches from a DataLoader."""
    clips = open_dataset(data, part="labelled", seed=SEED)
    order = StreamOrder(len(clips), BATCH, SEED, Stream.LABELLED)
    indices = [[draw.video for draw in order.draws(step)] for step in range(num_batches)]
    assert num_batches * BATCH <= len(clips), "the labelled part is too small: lower --batches"
    for batch in DataLoader(clips, batch_sampler=indices, num_workers=workers):
        yield batch["rgb"], batch["tg"]


def processor_seconds() -> float:
    """Of this process and its loader processes."""
    seconds = time.process_time()
    for process in multiprocessing.active_children():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        seconds += sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return seconds


def measure(way: Any, data: str, num_batches: int, workers: int) -> tuple[float, float]:
    """Clips a second, and a second of processor time, after the first two batches and up to the last one."""
    gc.collect()
    batches = way(data, num_batches + 2, workers)
    next(batches), next(batches)
    began, used = time.perf_counter(), processor_seconds()
    for _ in range(num_batches):
        next(batches)
    speeds = num_batches * BATCH / (time.perf_counter() - began), num_batches * BATCH / (processor_seconds() - used)
    batches.close()
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--batches", type=int, default=12, help="of 8 clips, in a repeat")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/library.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pairs = zip(trainer(arguments.data, 2, 0), library(arguments.data, 2, 0), strict=True)
    assert all(torch.equal(one, two) for pair in pairs for one, two in zip(*pair, strict=True)), "other clips"
    rows = {}
    for workers in arguments.workers:
        speeds: dict[str, list[tuple[float, float]]] = {"trainer": [], "open_dataset": []}
        for repeat in range(arguments.repeats):
            for name in sorted(speeds, reverse=bool(repeat % 2)):
                way = trainer if name == "trainer" else library
                speeds[name].append(measure(way, arguments.data, arguments.batches, workers))
        row: dict[str, Any] = {}
        for place, clock in enumerate(("clips_per_second", "clips_per_core_second")):
            row[clock] = {
                name: round(statistics.median(pair[place] for pair in found), 1) for name, found in speeds.items()
            }
            ratios = [
                two[place] / one[place] for one, two in zip(speeds["trainer"], speeds["open_dataset"], strict=True)
            ]
            row[clock]["open_dataset / trainer"] = round(statistics.median(ratios), 3)
            row[clock]["ratios"] = [round(ratio, 3) for ratio in sorted(ratios)]
        rows[f"{workers} workers"] = row
        print(workers, rows[f"{workers} workers"], file=sys.stderr)
    result = {
        "what": "training clips (8 RGB + 8 TG at 224) in batches of 8, the same clips by both ways",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"cpu": processor_name(), "cores": len(os.sched_getaffinity(0)), "load at the end": round(os.getloadavg()[0], 2)},
        "versions": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}},
        "settings": {"data": Path(arguments.data).name, "repeats": arguments.repeats, "batches": arguments.batches},
        "ways": rows,
    }  # fmt: skip
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
