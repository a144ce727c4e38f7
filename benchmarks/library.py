"""`tgtrain.open_dataset` in a torch DataLoader against the trainer's own loader: the same clips, in the same batches.

    python benchmarks/library.py DATA [--part unlabelled] [--repeats 9] [--workers 0 2] [--batches 12] [--output benchmarks/results/library.json]

DATA: a data set of `tgprep extract` with a split. Both ways take turns in short repeats, so that a slow minute of the machine meets both; the ratio of each
pair counts, and their median is reported. Without loader processes it is the processor time of this process that is compared, else wall time.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.metadata
import json
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

BATCH = 8
SEED = 1
PACKAGES = ("torch", "numpy", "simplejpeg", "opencv-python-headless")


def trainer(data: str, num_batches: int, workers: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of the labelled stream as `tgtrain run` reads them: `open_streams` is its own loader."""
    streams = iter(open_streams(data, labelled=BATCH, unlabelled=0, seed=SEED, num_workers=workers))
    for batch in (next(streams) for _ in range(num_batches)):
        assert batch.labelled.rgb is not None
        assert batch.labelled.tg is not None
        yield batch.labelled.rgb, batch.labelled.tg


def library(data: str, num_batches: int, workers: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same batches from a DataLoader."""
    clips = open_dataset(data, part="labelled", seed=SEED)
    setup = open_streams(data, labelled=BATCH, unlabelled=0, seed=SEED)
    order = [[draw.video for draw in setup.draws(step)] for step in range(num_batches)]
    for batch in DataLoader(clips, batch_sampler=order, num_workers=workers):
        yield batch["rgb"], batch["tg"]


def measure(way: Any, data: str, num_batches: int, workers: int) -> float:
    """Clips a second (of processor time without loader processes), after the first two batches."""
    gc.collect()
    batches, clock = way(data, num_batches + 2, workers), time.perf_counter if workers else time.process_time
    next(batches), next(batches)
    began = clock()
    for _ in batches:
        pass
    return num_batches * BATCH / (clock() - began)
