"""Compare stored videos (`--store video`) with stored JPEGs: bytes, time to write, time to read training clips, in one run.

    python benchmarks/store_video.py VIDEOS [--output benchmarks/results/store_video.json] [--repeats 3] [--clips 24]

VIDEOS: any folder of videos, such as short-side-256 clips of Kinetics. All times are processor time of one thread, which a busy
machine disturbs less than wall time; the ways take turns and medians are reported: trust the ratios. A clip is that of the main
recipe: 8 RGB frames 8 apart with their TG, a random crop resized to 224, read through `tgtrain.data.reader` as in training. The grid
varies the distance of self-contained pictures, quality and coding on decoded frames; then the complete commands are compared.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import imageio_ffmpeg
import numpy as np
import simplejpeg

from manifests.gradient import temporal_gradient
from manifests.manifest_io import read_manifest
from tgprep.config import VIDEO_CRF, VIDEO_GOP
from tgprep.decode.frames import Planes
from tgprep.decode.open import open_video
from tgprep.decode.stored import rgb_of
from tgprep.encode import h264 as encode_h264
from tgprep.encode.h264 import Mp4Writer, picture_offsets
from tgtrain.data.clip import ClipSettings, plan_train
from tgtrain.data.reader import open_reader
from tgtrain.data.video_frames import GopDecoder, runs_of
from tgtrain.randomness import sample_seed

SPAN = 65  # frames from the first to the last of a clip of 8, 8 apart, with its TG
CODING = encode_h264._X264


@dataclass(frozen=True, slots=True)
class Way:
    """A way to code the frames. extra: further x264 settings; preset: of x264."""

    gop: int
    crf: int
    extra: str = ""
    preset: str = encode_h264.PRESET

    @property
    def name(self) -> str:
        words = [f"gop {self.gop}", f"crf {self.crf}"]
        words += [self.preset] if self.preset != encode_h264.PRESET else []
        return ", ".join([*words, *([self.extra] if self.extra else [])])


CABAC = "no-cabac=0:no-deblock=0"
GRID = [
    *(Way(gop, VIDEO_CRF) for gop in (1, 4, 8, 12, 16, 32)),
    *(Way(VIDEO_GOP, crf) for crf in (15, 17, 21, 23)),
    Way(VIDEO_GOP, VIDEO_CRF, CABAC),
    Way(VIDEO_GOP, VIDEO_CRF, "", "superfast"),
    Way(VIDEO_GOP, VIDEO_CRF, "", "medium"),
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/store_video.json"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--max-frames", type=int, default=300, help="of each video, for the grid")
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
        | {"x264": encode_h264.x264_version()},
        "videos": [path.name for path in paths],
        "repeats": arguments.repeats,
        "clips": arguments.clips,
        "copies": arguments.copies,
        "max_frames": arguments.max_frames,
    }
    if not arguments.no_grid:
        result["grid"] = grid(paths, arguments)
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


def grid(paths: list[Path], arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Figures of every way, and of JPEG: bytes and processor milliseconds a frame, milliseconds a clip, dB of RGB and TG."""
    videos = []
    for path in paths:
        frames: list[Any] = []
        for picture in open_video(path, decoder="pyav", space="ycbcr420", short_side=256).frames:
            frames.append(picture)
            if len(frames) == arguments.max_frames:
                break
        if len(frames) > SPAN:
            videos.append(frames)
    generator = np.random.default_rng(0)
    clips = []
    for number in range(arguments.clips):
        video = number % len(videos)
        start = int(generator.integers(0, len(videos[video]) - SPAN + 1))
        clips.append((video, sorted({start + 8 * k + d for k in range(8) for d in (0, 1)})))
    ways: dict[str, Way | None] = {"JPEG of quality 95": None, **{way.name: way for way in GRID}}
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            figures[name].append(as_jpeg(videos, clips) if way is None else as_video(videos, clips, way))
    medians = {
        name: {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        for name, runs in figures.items()
    }
    medians["ffmpeg program through a pipe, default way"] = {
        "encode_ms_a_frame": round(statistics.median(through_pipe(videos) for _ in range(arguments.repeats)), 3)
    }
    return medians


def as_jpeg(videos: list[list[Planes]], clips: list[tuple[int, list[int]]]) -> dict[str, float]:
    began = cpu()
    stored = [[simplejpeg.encode_jpeg_yuv_planes(p.y, p.cb, p.cr, 95) for p in frames] for frames in videos]
    encoded = cpu() - began
    began = cpu()
    for video, numbers in clips:
        for k in numbers:
            simplejpeg.decode_jpeg(stored[video][k], colorspace="RGB")
    read = cpu() - began
    count = sum(map(len, videos))
    near = faithful(videos, lambda v, k: simplejpeg.decode_jpeg(stored[v][k], colorspace="RGB"))
    size = sum(len(jpeg) for frames in stored for jpeg in frames) / count
    needed = sum(len(stored[video][k]) for video, numbers in clips for k in numbers)
    return row(size, encoded / count, read / len(clips), needed / len(clips), len(clips[0][1]), near)


def as_video(videos: list[list[Planes]], clips: list[tuple[int, list[int]]], way: Way) -> dict[str, float]:
    encode_h264._X264 = f"{CODING}:{way.extra}" if way.extra else CODING
    preset, encode_h264.PRESET = encode_h264.PRESET, way.preset
    stored = []
    began = cpu()
    for frames in videos:
        writer = Mp4Writer(io.BytesIO(), way.crf, way.gop, 30.0)
        for picture in frames:
            writer.add(picture)
        stored.append(writer.finish()[0])
    encoded = cpu() - began
    encode_h264._X264, encode_h264.PRESET = CODING, preset
    contents = [spool.file.getvalue() for spool in stored]  # type: ignore[attr-defined]
    decoder = GopDecoder()
    num_pictures = num_bytes = 0

    def cut(video: int, wanted: list[int]) -> Any:
        nonlocal num_pictures, num_bytes
        offsets, content = stored[video].offsets, contents[video]
        numbers = [k for run in runs_of(wanted, way.gop) for k in range(run.first, run.last + 1)]
        num_pictures += len(numbers)
        num_bytes += sum(offsets[k + 1] - offsets[k] for k in numbers)
        coded = ((k, content[offsets[k] : offsets[k + 1]]) for k in numbers)
        return decoder.decode(coded, wanted, *videos[video][0].y.shape)

    began = cpu()
    for video, wanted in clips:
        for _ in cut(video, wanted):
            pass
    read = cpu() - began
    pictures, needed = num_pictures / len(clips), num_bytes / len(clips)
    near = faithful(videos, lambda v, k: next(np.array(frame) for _, frame in cut(v, [k])))
    count = sum(map(len, videos))
    return row(sum(map(len, contents)) / count, encoded / count, read / len(clips), needed, pictures, near)


def row(
    size: float, encode: float, read: float, needed: float, pictures: float, near: tuple[float, float]
) -> dict[str, float]:
    return {
        "kB_a_frame": size / 1e3,
        "encode_ms_a_frame": encode * 1e3,
        "decode_ms_a_clip": read * 1e3,
        "kB_read_a_clip": needed / 1e3,
        "pictures_decoded_a_clip": pictures,
        "rgb_dB": near[0],
        "tg_dB": near[1],
    }


def faithful(videos: list[list[Planes]], frame_of: Callable[[int, int], Any]) -> tuple[float, float]:
    """Mean PSNR of RGB frames and of their TG against those of the source, some pairs of each video."""
    rgb, tg = [], []
    for number, frames in enumerate(videos):
        for k in range(3, len(frames) - 1, max(1, len(frames) // 8)):
            exact = [rgb_of(frames[at]) for at in (k, k + 1)]
            found = [np.asarray(frame_of(number, at)) for at in (k, k + 1)]
            rgb.append(psnr(exact[0], found[0]))
            tg.append(psnr(temporal_gradient(*exact), temporal_gradient(*found)))
    return statistics.mean(rgb), statistics.mean(tg)


def through_pipe(videos: list[list[Planes]]) -> float:
    """Milliseconds a frame that the ffmpeg program of imageio-ffmpeg takes for the same coding, fed through a pipe."""
    began = cpu()
    for frames in videos:
        height, width = frames[0].y.shape
        with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
            words = f"-v error -y -f rawvideo -pix_fmt yuvj420p -s {width}x{height} -r 30 -i - -c:v libx264 -threads 1 -preset {encode_h264.PRESET} -crf {VIDEO_CRF}"
            command = [
                imageio_ffmpeg.get_ffmpeg_exe(),
                *words.split(),
                "-x264-params",
                f"keyint={VIDEO_GOP}:{CODING}",
                file.name,
            ]
            with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
                assert process.stdin is not None
                for picture in frames:
                    for plane in (picture.y, picture.cb, picture.cr):
                        process.stdin.write(plane.tobytes())
                process.stdin.close()
                assert process.wait() == 0
            file.seek(0)
            picture_offsets(file, len(frames), VIDEO_GOP)  # type: ignore[arg-type]
    return (cpu() - began) / sum(map(len, videos)) * 1e3


STORES = {
    "JPEG, TG stored": ["--short-side", "256"],
    "JPEG, TG derived": ["--short-side", "256", "--gradient", "derived"],
    "video": ["--store", "video"],
}


def commands(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """`tgprep extract` with each store, and clips read from it as in training."""
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in STORES}
    for _ in range(arguments.repeats):
        for name, options in STORES.items():
            with tempfile.TemporaryDirectory() as folder:
                videos, out = Path(folder) / "videos", Path(folder) / "out"
                for path in sorted(path for path in arguments.videos.rglob("*") if path.is_file()):
                    for number in range(arguments.copies):
                        target = videos / "class" / f"{number}_{path.name}"
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.symlink_to(path.resolve())
                began = cpu()
                words = [str(videos), str(out), "--dataset", "folder", "--threads", "1", *options]
                done = subprocess.run(
                    [sys.executable, "-m", "tgprep", "extract", *words], capture_output=True, text=True
                )
                if done.returncode != 0:
                    raise SystemExit(done.stderr)
                written = cpu() - began
                figures[name].append(training(out, written, arguments.clips))
    return {
        name: {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        for name, runs in figures.items()
    }


def training(out: Path, written: float, num_clips: int) -> dict[str, float]:
    """Clips of a data set by the training reader, 8 + 8 at 224."""
    manifest = read_manifest(out)
    long = [row for row in manifest.videos if row.num_frames > SPAN]
    reader = open_reader(manifest, [row.key for row in long])
    settings = ClipSettings()

    def read(number: int) -> None:
        row = long[number % len(long)]
        (plan,) = plan_train(row.num_frames, row.height, row.width, settings, sample_seed(0, 0, number, row.key, 0))
        reader.read(number % len(long), plan)

    for number in range(len(long)):
        read(number)  # buffers, decoders and the page cache
    began = cpu()
    for number in range(num_clips):
        read(number)
    seconds = cpu() - began
    num_frames = sum(manifest.videos.column("num_frames"))
    return {
        "clips_per_core_second": num_clips / seconds,
        "frames_written_per_core_second": num_frames / written,
        "kB_a_video": sum(shard.num_bytes for shard in manifest.shards) / len(manifest.videos) / 1e3,
    }


if __name__ == "__main__":
    main()
