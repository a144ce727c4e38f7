"""What tests of several rooms share: videos with known content, data sets made of them, and measures of pictures."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from manifests.manifest_io import read_manifest, write_manifest
from manifests.table import Manifest
from tgprep.check.check import CheckReport, check
from tgprep.config import ExtractSettings, WorkerSettings
from tgprep.decode.frames import Planes
from tgprep.decode.open import open_video
from tgprep.extract.pipeline import Outcome, extract
from tgprep.extract.plan import Update
from tgprep.extract.workers.shards import Progress, Request
from tgprep.scan.scan import Scan, scan

Rgb = npt.NDArray[np.uint8]

_CELL = 8  # pixels of a side of a cell of `numbered`
_EXACT = "bilinear+accurate_rnd+full_chroma_int+bitexact"


def moving_square(num_frames: int, width: int = 64, height: int = 48, start: int = 0) -> list[Rgb]:
    """A bright square that moves 2 pixels a frame over a smooth gradient."""
    rows, columns = np.mgrid[0:height, 0:width]
    background = np.stack([columns * 120 // width, rows * 120 // height, np.full_like(rows, 60)], axis=2)
    frames = []
    for index in range(num_frames):
        frame = background.astype(np.uint8)
        left = (start + 2 * index) % max(1, width - 12)
        frame[height // 4 : height // 4 + 12, left : left + 12] = (230, 200, 40)
        frames.append(frame)
    return frames


def numbered(number: int, height: int = 40, width: int = 72) -> Rgb:
    """A picture that shows its number: the bits as eight black or white cells, on a slope of colours."""
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.stack([columns % 256, rows % 256, (rows + columns) % 256], axis=2).astype(np.uint8)
    for bit in range(8):
        picture[:_CELL, bit * _CELL : (bit + 1) * _CELL] = 235 if number >> bit & 1 else 20
    return picture


def number_of(picture: Rgb) -> int:
    """The number that a picture of `numbered` shows."""
    centres = picture[_CELL // 2, _CELL // 2 : 8 * _CELL : _CELL].mean(axis=-1)
    return int(sum(1 << bit for bit, level in enumerate(centres) if level > 128))


def write_video(
    path: Path,
    frames: Sequence[Rgb],
    codec: str = "mpeg4",
    pixel_format: str = "yuv420p",
    rate: int = 25,
    **options: str,
) -> Path:
    """Encode RGB frames into a file whose container follows from the suffix, one thread, `rate` frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=options)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], pixel_format
        stream.codec_context.thread_count = 1
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def extract_videos(
    videos: Path,
    out: Path,
    found: Scan | None = None,
    *,
    workers: WorkerSettings | None = None,
    update: Update | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **settings: Any,
) -> Outcome:
    """Extract the videos below `videos` (class folders, unless `found` gives a scan) into `out` with one worker process."""
    request = Request(
        videos,
        out,
        ExtractSettings(**settings),
        workers or WorkerSettings(threads=1),
        stop=stop or threading.Event(),
        on_progress=on_progress,
    )
    return extract(request, found or scan(videos, dataset="folder"), update)


def check_after(root: Path, change: Callable[[Manifest], Manifest]) -> CheckReport:
    """The report after rows are changed and all digests are made to fit: only the rules themselves can find the change."""
    manifest = change(read_manifest(root))
    shards = [
        dataclasses.replace(shard, sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))
        for shard in manifest.shards
        if (data := (root / shard.name).read_bytes())
    ]
    shutil.rmtree(root / "splits", ignore_errors=True)
    write_manifest(root, manifest.header, manifest.videos, shards)
    return check(str(root), deep=True)


def ffmpeg_frames(path: Path, rgb: bool, limit: int = 1000) -> tuple[int, int, int, bytes]:
    """Number of frames, width, height and, with `rgb`, the packed frames, as the ffmpeg program decodes its default stream."""
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", f"file:{path}", "-an", "-frames:v", str(limit)]
    listing = subprocess.run(
        [*program, "-fps_mode", "passthrough", "-f", "framecrc", "-"], capture_output=True, check=False
    )
    lines = listing.stdout.decode().splitlines()
    width, height = next(line.split()[-1].split("x") for line in lines if line.startswith("#dimensions"))
    count = sum(not line.startswith("#") for line in lines)
    if not rgb:
        return count, int(width), int(height), b""
    raw = [*program, "-fps_mode", "passthrough", "-sws_flags", _EXACT, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    return count, int(width), int(height), subprocess.run(raw, capture_output=True, check=False).stdout


def decoded(path: Path, space: str, short_side: int = 0) -> list[Rgb | Planes]:
    """The frames of a video as the default decoder gives them."""
    video = open_video(path, decoder="pyav", space=space, short_side=short_side)
    try:
        return list(video.frames)  # type: ignore[arg-type]
    finally:
        video.close()


def to_rgb(picture: Rgb | Planes) -> Rgb:
    """RGB of a picture by the formulas of JPEG (JFIF), chroma repeated."""
    if not isinstance(picture, Planes):
        return picture
    height, width = picture.y.shape
    cb, cr = (
        np.repeat(np.repeat(plane.astype(np.float64) - 128, 2, 0), 2, 1)[:height, :width]
        for plane in (picture.cb, picture.cr)
    )
    y = picture.y.astype(np.float64)
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2)
    return np.clip(np.round(rgb), 0, 255).astype(np.uint8)


def psnr(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Peak signal-to-noise ratio in dB."""
    error = np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
