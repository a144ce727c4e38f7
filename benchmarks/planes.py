"""Would decoding to planes save time? Crops of training frames by way of RGB, as `tgtrain` reads them, and by way of YCbCr planes.

    python benchmarks/planes.py DATA LIBRARY [--clips 60] [--repeats 9] [--output benchmarks/results/planes.json]

DATA: a data set of `tgprep extract` with a split. LIBRARY: libturbojpeg.so, for the package PyTurboJPEG, which brings none; simplejpeg decodes to RGB only. Ways
take turns on the 8 RGB + 8 TG frames of a clip, whose bytes are in memory; processor time, medians of the ratios within a turn. By way of planes, Y becomes 224x224 and
Cb and Cr 112x112; the conversion to RGB, which the device would do, is not counted.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.loader_way import SIDE, our_setup, sample_of, some
from manifests.machine import processor_name
from tgtrain.data.clip import plan_train
from tgtrain.data.crop import CropBox, Size
from tgtrain.data.jpeg_bands import cut_bands
from tgtrain.data.loader import start_worker
from tgtrain.randomness import Choice, sample_seed

Job = tuple[tuple[list[bytes], ...], CropBox, Size]  # JPEG files of RGB and TG, the crop, the size of a frame
RGB = np.empty((SIDE, SIDE, 3), np.uint8)
PLANES = [np.empty((side, side), np.uint8) for side in (SIDE, SIDE // 2, SIDE // 2)]


def jobs(data: str, num_clips: int) -> list[Job]:
    """Random training clips."""
    setup = our_setup(data)
    found: list[Job] = []
    for number in range(0, len(setup.reader.index), max(1, len(setup.reader.index) // num_clips)):
        video, sample = setup.reader.index[number], sample_of(setup.reader, number)
        rng = sample_seed(0, 1, 0, video.key, Choice.CLIP)
        (plan,) = plan_train(video.num_frames, video.height, video.width, setup.clip, rng)
        files = (
            some(sample["rgb"], sample["rgb_index"], plan.frames),
            some(sample["tg"], sample["tg_index"], plan.tg_frames),
        )
        found.append((files, plan.boxes[0], Size(video.height, video.width)))
    return found


def fit(picture: Any, top: int, left: int, height: int, width: int, target: Any) -> None:
    part = picture[top : top + height, left : left + width]
    cv2.resize(part, target.shape[1::-1], dst=target, interpolation=cv2.INTER_LINEAR)


def complete(job: Job, buffer: Any) -> None:
    files, box, _ = job
    for jpegs in files:
        for jpeg in jpegs:
            picture = simplejpeg.decode_jpeg(jpeg, colorspace="RGB", buffer=buffer)
            fit(picture, box.top, box.left, box.height, box.width, RGB)


def parts(job: Job, buffer: Any, turbo: Any = None) -> None:
    """turbo: decodes to planes; None: to RGB."""
    files, box, size = job
    for jpegs in files:
        bands = cut_bands(jpegs, box, size)
        assert bands is not None
        top, left = box.top - bands.box.top, box.left - bands.box.left
        for jpeg in bands.jpegs:
            if turbo is None:
                picture = simplejpeg.decode_jpeg(jpeg, colorspace="RGB", buffer=buffer)
                fit(picture, top, left, box.height, box.width, RGB)
                continue
            for plane, target, factor in zip(turbo.decode_to_yuv_planes(jpeg), PLANES, (1, 2, 2), strict=True):
                height, width = -(-box.height // factor), -(-box.width // factor)
                fit(plane, top // factor, left // factor, height, width, target)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("library")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/planes.json"))
    arguments = parser.parse_args()
    library: Any = importlib.import_module("turbojpeg")

    start_worker(0)
    found, turbo = jobs(arguments.data, arguments.clips), library.TurboJPEG(arguments.library)
    buffer = np.empty(max(size.height * size.width * 3 for *_, size in found), np.uint8)
    ways: dict[str, Callable[[Job], None]] = {
        "complete pictures, RGB": functools.partial(complete, buffer=buffer),
        "parts, RGB": functools.partial(parts, buffer=buffer),
        "parts, planes": functools.partial(parts, buffer=buffer, turbo=turbo),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for job in found:
            for name, way in ways.items():
                began = time.process_time()
                way(job)
                seconds[name].append(time.process_time() - began)
    base = seconds["parts, RGB"]
    result = {
        "what": "16 crops of a training clip (8 RGB + 8 TG frames to 224) from JPEG files in memory, processor time",
        "date": datetime.date.today().isoformat(),
        "machine": {"cpu": processor_name(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "versions": {name: importlib.metadata.version(name) for name in ("simplejpeg", "opencv-python-headless", "numpy", "PyTurboJPEG")}
        | {"python": platform.python_version(), "library": Path(arguments.library).resolve().name},
        "settings": {"clips": len(found), "repeats": arguments.repeats},
        "milliseconds a clip": {name: round(1e3 * statistics.median(found), 2) for name, found in seconds.items()},
        "time / parts, RGB": {
            name: round(statistics.median(one / two for one, two in zip(each, base, strict=True)), 3)
            for name, each in seconds.items()
        },
    }  # fmt: skip
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
