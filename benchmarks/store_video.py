"""Compare stored videos (`--store video`) with stored JPEGs: bytes, time to write, time to read clips, how near the frames are.

    python benchmarks/store_video.py VIDEOS [--output benchmarks/results/store_video.json] [--repeats 3] [--clips 48]

VIDEOS: any folder of videos, such as short-side-256 clips of Kinetics. All times are processor time of one thread, which a busy
machine disturbs less than wall time; the ways take turns and medians are reported: trust the ratios. Clips are read through
`tgtrain.data.reader` as in training (8 RGB frames 8 apart with their TG, a random crop resized to 224) and as in a test (10 x 3
views of a video, RGB and TG). The grid varies the coding of decoded frames; then the complete commands are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from manifests.gradient import temporal_gradient
from manifests.manifest_io import read_manifest
from manifests.sample import EncodedVideo, write_sample
from manifests.table import Manifest
from tgprep.config import ExtractSettings
from tgprep.decode.frames import Planes
from tgprep.decode.open import open_video
from tgprep.decode.stored import rgb_of
from tgprep.encode import encode, h264
from tgtrain.data.clip import ClipPlan, ClipSettings, plan_eval, plan_train
from tgtrain.data.reader import ClipReader, open_reader
from tgtrain.data.stores import Shards
from tgtrain.data.stores.video_index import StoredVideo
from tgtrain.randomness import sample_seed

SPAN = 65  # frames from the first to the last of a clip of 8, 8 apart, with its TG
CODING, PRESET = h264._X264, h264.PRESET


@dataclass(frozen=True, slots=True)
class Way:
    """A way to store the frames: settings of `tgprep extract`, further settings of x264, its preset."""

    settings: dict[str, Any]
    extra: str = ""
    preset: str = PRESET


def video(crf: int, gop: int, tune: str = "reading", **others: str) -> Way:
    return Way({"store": "video", "crf": crf, "gop": gop, "tune": tune}, **others)


BEFORE, NOW = "crf 19, gop 8, tune none", "crf 20, gop 3, tune reading"
GRID = {
    "JPEG of quality 95, TG stored": Way({}),
    "JPEG of quality 95, TG derived": Way({"gradient": "derived"}),
    BEFORE: video(19, 8, "none"),
    NOW: video(20, 3),
    **{f"crf 20, gop {gop}, tune reading": video(20, gop) for gop in (1, 2, 4, 8)},
    **{f"crf {crf}, gop 3, tune reading": video(crf, 3) for crf in (19, 23)},
    "crf 19, gop 4, tune reading": video(19, 4),
    "crf 19, gop 4, tune none": video(19, 4, "none"),
    "crf 23, gop 8, tune none": video(23, 8, "none"),
    f"{NOW}, CABAC": video(20, 3, extra="no-cabac=0"),
    f"{NOW}, loop filter": video(20, 3, extra="no-deblock=0"),
    f"{NOW}, no partitions": video(20, 3, extra="partitions=none"),
    f"{NOW}, whole-pixel motion": video(20, 3, extra="subme=0"),
    f"{NOW}, medium": video(20, 3, preset="medium"),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/store_video.json"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--max-frames", type=int, default=300, help="of each video, for the grid")
    parser.add_argument("--max-videos", type=int, default=24, help="for the grid, spread over VIDEOS")
    parser.add_argument(
        "--copies", type=int, default=4, help="of every video, so that the corpus outweighs the start of a process"
    )
    parser.add_argument("--no-grid", action="store_true", help="compare the complete commands only")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    paths = [path for path in sorted(arguments.videos.rglob("*")) if path.is_file()]
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("av", "simplejpeg", "opencv-python-headless", "numpy")}
        | {"x264": h264.x264_version()},
        "videos": [path.name for path in paths],
        "repeats": arguments.repeats,
        "clips": arguments.clips,
        "copies": arguments.copies,
        "max_frames": arguments.max_frames,
    }
    if not arguments.no_grid:
        result["grid"] = grid(paths[:: -(-len(paths) // arguments.max_videos)], arguments)
    result["commands"] = commands(arguments)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: result[name] for name in ("grid", "commands") if name in result}, indent=2))


def cpu() -> float:
    """Processor seconds of this process and the children that have ended."""
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def psnr(first: Any, second: Any) -> float:
    error = float(np.mean(np.square(np.subtract(first, second, dtype=np.float32))))
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))


class MemoryShards(Shards):
    """One shard in memory."""

    def __init__(self, tar: io.BytesIO) -> None:
        self.tar, self.num_bytes = tar, 0

    def read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self.num_bytes += sum(size for _, size in ranges)
        content = self.tar.getbuffer()
        return [bytes(content[offset : offset + size]) for offset, size in ranges]


class Stored:
    """Videos in one way of storing them, and what was measured of it, in processor seconds."""

    def __init__(self, way: Way) -> None:
        self.way, self.settings = way, ExtractSettings(**way.settings)
        self.shards, self.videos = MemoryShards(io.BytesIO()), list[StoredVideo]()
        self.reader = ClipReader(self.videos, self.shards, self.settings.gop)  # type: ignore[arg-type]
        self.encode_seconds: list[float] = []
        self.clip_seconds: list[float] = []
        self.test_seconds: list[float] = []

    def add(self, frames: list[Planes]) -> None:
        """Encode a video as extraction does, and append it to the shard."""
        h264._X264, h264.PRESET = f"{CODING}:{self.way.extra}" if self.way.extra else CODING, self.way.preset
        key, (height, width), began = f"v{len(self.videos)}", frames[0].y.shape, cpu()
        with contextlib.ExitStack() as stack:
            writer = encode._frame_writer(self.settings, io.BytesIO, stack, 30.0, own=True)
            for picture in frames:
                writer.add(picture)
            rgb, tg = writer.finish()
            self.encode_seconds.append(cpu() - began)
            _, _, members = write_sample(self.shards.tar, EncodedVideo(key, {}, rgb, tg))
        self.videos.append(StoredVideo(key, "", len(frames), height, width, members))
        h264._X264, h264.PRESET = CODING, PRESET

    def read(self, number: int, plans: Sequence[ClipPlan]) -> float:
        """Processor seconds that the views of the plans take."""
        began = cpu()
        self.reader.read_views(number, plans)
        return cpu() - began


def grid(paths: list[Path], arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Figures of every way: bytes, processor milliseconds, dB of RGB and TG. The ways take turns at each video and clip."""
    videos = []
    for path in paths:
        frames: list[Any] = []
        for picture in open_video(path, decoder="pyav", space="ycbcr420", short_side=256).frames:
            frames.append(picture)
            if len(frames) == arguments.max_frames:
                break
        if len(frames) > SPAN:
            videos.append(frames)
    Stored(GRID["JPEG of quality 95, TG stored"]).add(videos[0][:2])  # compiles
    stores = {name: Stored(way) for name, way in GRID.items()}
    for frames in videos:
        for stored in stores.values():
            stored.add(frames)
    num_bytes: dict[str, float] = {}
    for turn in range(1 + arguments.repeats):  # the first fills caches
        for number in range(arguments.clips):
            place = number % len(videos)
            (height, width), num_frames = videos[place][0].y.shape, len(videos[place])
            seed = sample_seed(0, 0, number, str(place), 0)
            plans = plan_train(num_frames, height, width, ClipSettings(), seed)
            for stored in stores.values():
                stored.clip_seconds.append(stored.read(place, plans))
        if not turn:
            num_bytes = {name: stored.shards.num_bytes / arguments.clips for name, stored in stores.items()}
        for place, frames in enumerate(videos if turn else ()):
            height, width = frames[0].y.shape
            plans = plan_eval(len(frames), height, width, ClipSettings(), 10, 3)
            for stored in stores.values():
                stored.test_seconds.append(stored.read(place, plans))
    return {
        name: row(videos, stored, stores[BEFORE], num_bytes[name], arguments.clips) for name, stored in stores.items()
    }


def row(
    videos: list[list[Planes]], stored: Stored, before: Stored, num_bytes: float, num_clips: int
) -> dict[str, float]:
    rgb_db, tg_db = faithful(videos, stored.reader)

    def speed(ours: list[float], theirs: list[float]) -> float:
        return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))

    figures = {
        "kB_a_video": len(stored.shards.tar.getbuffer()) / len(videos) / 1e3,
        "kB_read_a_training_clip": num_bytes / 1e3,
        "rgb_dB": rgb_db,
        "tg_dB": tg_db,
        "ms_a_training_clip": statistics.median(stored.clip_seconds[num_clips:]) * 1e3,
        "ms_a_test_video": statistics.median(stored.test_seconds) * 1e3,
        # Medians of ratios of neighbours in time.
        "times_as_fast_training_clips": speed(stored.clip_seconds[num_clips:], before.clip_seconds[num_clips:]),
        "times_as_fast_test_videos": speed(stored.test_seconds, before.test_seconds),
        "times_as_fast_encoding": speed(stored.encode_seconds, before.encode_seconds),
    }
    return {name: round(figure, 3) for name, figure in figures.items()}


def faithful(videos: list[list[Planes]], reader: ClipReader) -> tuple[float, float]:
    """Mean PSNR of RGB frames, and of TG computed from them, against those of the source: some pairs of each video."""
    rgb, tg = [], []
    for number, frames in enumerate(videos):
        for k in range(3, len(frames) - 1, max(1, len(frames) // 8)):
            exact = [rgb_of(frames[at]) for at in (k, k + 1)]
            pair = reader._pictures(reader.index[number], "rgb", [k, k + 1])
            found = [np.array(picture.pixels) for picture in pair]
            rgb.append(psnr(exact[0], found[0]))
            tg.append(psnr(temporal_gradient(*exact), temporal_gradient(*found)))
    return statistics.mean(rgb), statistics.mean(tg)


STORES = {
    "JPEG, TG stored": ["--short-side", "256"],
    "JPEG, TG derived": ["--short-side", "256", "--gradient", "derived"],
    "video": ["--store", "video"],
    "video, as before": ["--store", "video", "--crf", "19", "--gop", "8", "--tune", "none"],
}


def commands(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """`tgprep extract` with each store, and clips read from all of them in turn as in training."""
    written: dict[str, list[float]] = {name: [] for name in STORES}
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder) / "videos"
        for path in sorted(path for path in arguments.videos.rglob("*") if path.is_file()):
            for number in range(arguments.copies):
                target = videos / "class" / f"{number}_{path.name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path.resolve())
        for turn in range(arguments.repeats):
            for name, options in STORES.items():
                began = cpu()
                words = [str(videos), f"{folder}/{name}-{turn}", "--dataset", "folder", "--threads", "1", *options]
                done = subprocess.run(
                    [sys.executable, "-m", "tgprep", "extract", *words], capture_output=True, text=True
                )
                if done.returncode != 0:
                    raise SystemExit(done.stderr)
                written[name].append(cpu() - began)
        manifests = {name: read_manifest(f"{folder}/{name}-0") for name in STORES}
        seconds = training(manifests, arguments.clips * arguments.repeats)
    before = seconds["video, as before"]
    return {
        name: {
            "kB_a_video": round(sum(shard.num_bytes for shard in manifest.shards) / len(manifest.videos) / 1e3, 1),
            "frames_written_per_core_second": round(
                sum(manifest.videos.column("num_frames")) / statistics.median(written[name])
            ),
            "clips_per_core_second": round(1 / statistics.median(seconds[name]), 1),
            "times_as_fast": round(statistics.median(b / a for a, b in zip(seconds[name], before, strict=True)), 3),
        }
        for name, manifest in manifests.items()
    }


def training(manifests: dict[str, Manifest], num_clips: int) -> dict[str, list[float]]:
    """Processor seconds of each clip, 8 + 8 at 224, by the training reader: the same clips of every data set."""
    rows = [row for row in next(iter(manifests.values())).videos if row.num_frames > SPAN]
    readers = {name: open_reader(manifest, [row.key for row in rows]) for name, manifest in manifests.items()}
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    num_first = min(num_clips, len(rows))  # they fill buffers, decoders and the page cache
    for number in range(num_first + num_clips):
        row = rows[number % len(rows)]
        seed = sample_seed(0, 0, number, row.key, 0)
        plans = plan_train(row.num_frames, row.height, row.width, ClipSettings(), seed)
        for name, reader in readers.items():
            began = cpu()
            reader.read_views(number % len(rows), plans)
            seconds[name].append(cpu() - began)
    return {name: each[num_first:] for name, each in seconds.items()}


if __name__ == "__main__":
    main()
