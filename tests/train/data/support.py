"""Data sets of real videos, sequential readers and web servers, for tests of the data room."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from manifests.manifest_io import read_manifest
from manifests.table import Manifest
from tests.prep.support import extract_videos
from tests.train.support import ALONE, setup_of
from tgtrain import open_dataset
from tgtrain.data.batch import SslBatch
from tgtrain.data.build import step_dataset
from tgtrain.data.loader import step_loader
from tgtrain.data.setup import Setup

CLIPS: dict[str, Any] = {"clip_frames": 4, "interval": 2, "size": 32, "area": (0.7, 1.0)}


def extract_all(videos: Path, out: Path, **options: object) -> Manifest:
    return extract_videos(videos, out, **{"videos_per_shard": 4, **options}).manifest


class Quiet(SimpleHTTPRequestHandler):
    """Python's own server of files: it sends them whole, whatever part is asked for."""

    def log_message(self, *arguments: object) -> None:
        return None


def sequential(root: Path, shards: str = "", *overrides: str) -> Setup:
    more = (f"data.shards={json.dumps(shards)}",) if shards else ()
    return setup_of(root, "data.reader=stream", *more, *overrides)


def batches_of(
    setup: Setup, num_steps: int, workers: int = 0, rank: int = 0, world_size: int = 1, first: int = 0
) -> list[SslBatch]:
    dataset = step_dataset(setup, replace(ALONE, rank=rank, world_size=world_size))
    return list(step_loader(dataset, range(first, first + num_steps), workers, pin=False))


def cut_short(root: Path) -> tuple[str, set[str]]:
    """Where shards come from that end behind their first two samples, and the keys of the third samples."""
    manifest = read_manifest(root)
    by_offset = sorted(manifest.videos, key=lambda row: row.sample_offset)
    last = {next(row.key for row in by_offset[::-1] if row.shard == shard.name) for shard in manifest.shards}
    cut = min(row.sample_offset for row in manifest.videos if row.key in last) + 700
    return f"pipe:head -c {cut} {shlex.quote(str(root))}/{{shard}}", last


def equal(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(
        bool((value == two[name]).all()) if isinstance(value, torch.Tensor) else value == two[name]
        for name, value in one.items()
    )


def read_in_processes(root: Path | str, context: str, **how: Any) -> None:
    """Read in loader processes, after this one has read; then in another epoch, which the processes that persist see."""
    clips = open_dataset(root, part="all", **how, **CLIPS)
    here = list(clips)
    options: dict[str, Any] = {"num_workers": 1, "multiprocessing_context": context, "persistent_workers": True}
    loader = DataLoader(clips, batch_size=None, **options)
    assert all(map(equal, loader, here))
    clips.set_epoch(1)
    assert not any(map(equal, loader, here))
    assert all(map(equal, loader, clips))
    loader._iterator._shutdown_workers()  # type: ignore[union-attr]
