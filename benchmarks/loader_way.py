"""What all ways of benchmarks/loader_ways.py share: random clips, their decoding, and the bare loop."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from torch.utils.data import DataLoader

from manifests.manifest_io import read_manifest
from manifests.sample import decode_offsets
from manifests.splits.label_split import read_split
from tgtrain.config import load_recipe
from tgtrain.data.clip import ClipPlan, ClipSettings, plan_train
from tgtrain.data.loader import start_worker
from tgtrain.data.reader import ClipReader, open_reader
from tgtrain.data.setup import Setup, prepare
from tgtrain.randomness import Choice, sample_seed

BATCH = 8
SIDE = 224
SETTINGS = ClipSettings()
MEAN, STD = np.array([[123.675, 116.28, 103.53]]), np.array([[58.395, 57.12, 57.375]])
Batches = Iterator[Any]


def plan(num_frames: int, height: int, width: int) -> ClipPlan:
    """A random training clip, drawn as ours are."""
    return plan_train(num_frames, height, width, SETTINGS, np.random.default_rng(np.random.randint(2**31)))[0]


def cut(jpegs: tuple[list[bytes], list[bytes]], drawn: ClipPlan, out: Any, scratch: Any) -> None:
    """Decode and crop the 8 + 8 frames of a clip into out, uint8[2, 8, S, S, 3]: the work that every way must do."""
    box = drawn.boxes[0]
    for view, frames in enumerate(jpegs):
        for row, jpeg in enumerate(frames):
            picture = simplejpeg.decode_jpeg(jpeg, colorspace="RGB", buffer=scratch)
            part = picture[box.top : box.top + box.height, box.left : box.left + box.width]
            cv2.resize(part, (SIDE, SIDE), dst=out[view, row], interpolation=cv2.INTER_LINEAR)
            if drawn.flip:
                cv2.flip(out[view, row], 1, dst=out[view, row])


def finished(jpegs: tuple[list[bytes], list[bytes]], drawn: ClipPlan, height: int, width: int) -> torch.Tensor:
    """A clip as uint8[2, 8, S, S, 3]."""
    out = np.empty((2, 8, SIDE, SIDE, 3), np.uint8)
    cut(jpegs, drawn, out, np.empty((height, width, 3), np.uint8))
    return torch.from_numpy(out)


def some(spool: bytes, index: bytes, frames: tuple[int, ...]) -> list[bytes]:
    """These JPEG files of a spool with its index (an npy member)."""
    offsets = decode_offsets(index)
    return [spool[offsets[frame] : offsets[frame + 1]] for frame in frames]


def of_sample(sample: dict[str, Any]) -> torch.Tensor:
    """A clip of a complete sample: rgb, rgb_index, tg, tg_index, height, width."""
    num_frames = len(decode_offsets(sample["rgb_index"])) - 1
    drawn = plan(num_frames, int(sample["height"]), int(sample["width"]))
    rgb = some(sample["rgb"], sample["rgb_index"], drawn.frames)
    tg = some(sample["tg"], sample["tg_index"], drawn.tg_frames)
    return finished((rgb, tg), drawn, int(sample["height"]), int(sample["width"]))


def sample_of(reader: ClipReader, number: int) -> dict[str, Any]:
    """A video of our data set with its bytes, for the builders of the other stores."""
    video = reader.index[number]
    m = video.members
    ranges = [
        (m.rgb_index_offset, m.rgb_index_bytes),
        (m.rgb_offset, m.rgb_bytes),
        (m.tg_index_offset, m.tg_index_bytes),
        (m.tg_offset, m.tg_bytes),
    ]
    names = ("rgb_index", "rgb", "tg_index", "tg")
    content: dict[str, Any] = dict(zip(names, reader.shards.read(video.shard, ranges), strict=True))
    return {**content, "height": video.height, "width": video.width}


def complete_reader(data: str) -> ClipReader:
    """A reader of all stored videos."""
    manifest = read_manifest(data)
    keys = [row.key for row in manifest.videos if row.status == "written"]
    return open_reader(manifest, keys)


def loader(dataset: Any, workers: int, shuffle: bool) -> Batches:
    """Endless batches of a torch DataLoader whose workers are set up like ours."""
    while True:
        yield from DataLoader(
            dataset, BATCH, shuffle=shuffle or None, num_workers=workers, drop_last=True,
            prefetch_factor=2 if workers else None, worker_init_fn=start_worker if workers else None,
        )  # fmt: skip


def our_setup(data: str, workers_recipe: tuple[str, ...] = ()) -> Setup:
    """The main recipe on this data set."""
    settings = (f"batch.labelled={BATCH // 2}", f"batch.unlabelled={BATCH // 2}", *workers_recipe)
    return prepare(data, read_split(data), read_manifest(data), load_recipe("ucf101-20", settings, num_classes=101))


class Way:
    """The bare loop: decode complete pictures whose bytes are in memory already, and crop them, into the same memory."""

    needs: str = ""  # module that must be installed
    pairs = False  # a clip is a weak and a strong view
    worker_counts: tuple[int, ...] = (0,)

    def __init__(self, data: str, store: Path, videos: str) -> None:
        self.data, self.store, self.videos = data, store, videos

    def build(self) -> None:
        """Write the store."""

    def open(self, workers: int, skip: int) -> Batches:
        """Endless batches."""
        setup = our_setup(self.data)
        reader = setup.reader
        clips = []
        for number in range(0, len(reader.index), max(1, len(reader.index) // 96)):
            video, sample = reader.index[number], sample_of(reader, number)
            rng = sample_seed(0, 1, 0, video.key, Choice.CLIP)
            (drawn,) = plan_train(video.num_frames, video.height, video.width, setup.clip, rng)
            rgb = some(sample["rgb"], sample["rgb_index"], drawn.frames)
            tg = some(sample["tg"], sample["tg_index"], drawn.tg_frames)
            clips.append(((rgb, tg), drawn, np.empty((video.height, video.width, 3), np.uint8)))
        out = np.empty((BATCH, 2, 8, SIDE, SIDE, 3), np.uint8)
        turn = itertools.cycle(clips)
        while True:
            for into in out:
                jpegs, drawn, scratch = next(turn)
                cut(jpegs, drawn, into, scratch)
            yield out
