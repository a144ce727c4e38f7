"""Compare ways from decoded planes to JPEG files: time a frame, and distance of the files from the decoded planes.

    python benchmarks/jpeg.py VIDEOS [--output benchmarks/results/jpeg.json] [--frames 1500] [--repeats 5]

VIDEOS: a folder of videos in limited-range 4:2:0, such as UCF101. Frames are decoded beforehand; processor microseconds a frame are
the minimum over the repeats, in which the ways take turns. Quality 95. Distances are of luma from the decoded levels in full range
without rounding (TG: from half their differences), as peak signal-to-noise ratio in dB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import simplejpeg

from manifests.machine import processor_name
from tgprep.decode.frames import Planes
from tgprep.decode.open import open_video
from tgprep.decode.planes import gradient_of, to_jpeg_form
from tgprep.encode.fused import picture_encoder

QUALITY = 95
Jpegs = list[bytes]


def decoded(folder: Path, limit: int) -> list[Planes]:
    """The first frames of every video, as coded, copied out of the decoder's buffers."""
    frames: list[Planes] = []
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        video = open_video(path, decoder="pyav", space="ycbcr420", short_side=0, as_coded=True)
        for number, picture in enumerate(video.frames):
            assert isinstance(picture, Planes)
            assert picture.limited
            frames.append(
                Planes(picture.y.copy(), picture.cb.copy(), picture.cr.copy(), limited=True, left=picture.left)
            )
            if number + 1 >= max(2, limit // len(paths)):
                break
        video.close()
        if len(frames) >= limit:
            break
    shape = frames[0].y.shape
    return [picture for picture in frames if picture.y.shape == shape]


def planes_jpeg(picture: Planes, fast: bool = False) -> bytes:
    jpeg: bytes = simplejpeg.encode_jpeg_yuv_planes(picture.y, picture.cb, picture.cr, QUALITY, fast)
    return jpeg


def ways(frames: list[Planes]) -> dict[str, Callable[[], tuple[Jpegs, Jpegs]]]:
    """Functions that return the files of all frames and those of all gradients."""
    full = [to_jpeg_form(picture) for picture in frames]
    rgb = [as_rgb(picture) for picture in full]
    bgr = [np.ascontiguousarray(picture[..., ::-1]) for picture in rgb]
    height, width = frames[0].y.shape

    def fused(gradient: bool) -> tuple[Jpegs, Jpegs]:
        encode = picture_encoder(QUALITY, gradients=gradient)
        both = [encode(picture) for picture in frames]
        return [frame for frame, _ in both], [tg for _, tg in both if tg is not None]

    def libjpeg(gradient: bool, fast: bool = False) -> tuple[Jpegs, Jpegs]:
        files, gradients = [], []
        previous = None
        for picture in frames:
            picture = to_jpeg_form(picture)
            files.append(planes_jpeg(picture, fast))
            if gradient and previous is not None:
                tg = gradient_of(previous, picture)
                assert isinstance(tg, Planes)
                gradients.append(planes_jpeg(tg, fast))
            previous = picture
        return files, gradients

    def opencv() -> tuple[Jpegs, Jpegs]:
        return [cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes() for p in bgr], []

    def ffmpeg() -> tuple[Jpegs, Jpegs]:
        context: Any = av.CodecContext.create("mjpeg", "w")
        context.width, context.height, context.pix_fmt = width, height, "yuvj420p"
        context.time_base, context.thread_count = Fraction(1, 25), 1
        context.options = {"qmin": "1", "qmax": "1", "flags": "+qscale", "global_quality": "118", "huffman": "default"}
        files: Jpegs = []
        for number, frame in enumerate(ffmpeg_frames):
            frame.pts = number
            files += [bytes(packet) for packet in context.encode(frame)]
        return files, []

    ffmpeg_frames = [ffmpeg_frame(picture) for picture in full]
    return {
        "fused: frame and TG": lambda: fused(True),
        "range, libjpeg-turbo, TG, libjpeg-turbo": lambda: libjpeg(True),
        "fused: frame": lambda: fused(False),
        "range, libjpeg-turbo: frame": lambda: libjpeg(False),
        "the same with its fast transform": lambda: libjpeg(False, True),
        "libjpeg-turbo from RGB: frame": lambda: (
            [simplejpeg.encode_jpeg(picture, QUALITY, "RGB", "420") for picture in rgb],
            [],
        ),
        "libjpeg-turbo from BGR: frame": lambda: (
            [simplejpeg.encode_jpeg(picture, QUALITY, "BGR", "420") for picture in bgr],
            [],
        ),
        "OpenCV from BGR: frame": opencv,
        "FFmpeg's encoder, finest quantiser: frame": ffmpeg,
    }


def as_rgb(picture: Planes) -> Any:
    chroma = [
        cv2.resize(plane, picture.y.shape[::-1], interpolation=cv2.INTER_LINEAR) for plane in (picture.cr, picture.cb)
    ]
    return cv2.cvtColor(np.dstack([picture.y, *chroma]), cv2.COLOR_YCrCb2RGB)


def ffmpeg_frame(picture: Planes) -> Any:
    height, width = picture.y.shape
    frame = av.VideoFrame(width, height, "yuvj420p")
    for plane, levels in zip(frame.planes, (picture.y, picture.cb, picture.cr), strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : levels.shape[1]] = levels
        plane.update(rows.tobytes())
    return frame


def luma(jpeg: bytes) -> Any:
    (frame,) = av.CodecContext.create("mjpeg", "r").decode(av.Packet(jpeg))
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width].astype(np.float64)


def decibels(files: Jpegs, exact: list[Any]) -> float:
    """Mean over frames of the peak signal-to-noise ratio."""
    errors = [float(np.square(luma(jpeg) - levels).mean()) for jpeg, levels in zip(files, exact, strict=True)]
    return round(float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-9)))), 2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/jpeg.json"))
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    frames = decoded(arguments.videos.resolve(), arguments.frames)
    exact = [(np.clip(picture.y, 16, 235) - 16.0) * 255 / 219 for picture in frames]
    gradients = [(one - two + 255) / 2 for one, two in zip(exact, exact[1:], strict=False)]
    functions = ways(frames)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    rows: dict[str, Any] = {}
    for _ in range(arguments.repeats):
        for name, way in functions.items():
            began = time.process_time()
            files, tg = way()
            seconds[name].append(time.process_time() - began)
            rows[name] = {"bytes_per_frame": round(sum(map(len, files)) / len(files)), "decibels": 0.0}
            if len(seconds[name]) == arguments.repeats:
                rows[name]["decibels"] = decibels(files[::10], exact[::10])
                if tg:
                    rows[name] |= {
                        "tg_bytes_per_frame": round(sum(map(len, tg)) / len(tg)),
                        "tg_decibels": decibels(tg[::10], gradients[::10]),
                    }
    for name, row in rows.items():
        row["microseconds_per_frame"] = round(1e6 * min(seconds[name]) / len(frames), 1)
    result = {
        "what": "JPEG files of decoded planes, processor microseconds a frame",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cpu": processor_name(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "versions": {name: version(name) for name in ("numba", "simplejpeg", "opencv-python-headless", "av", "numpy")}
        | {"python": platform.python_version()},
        "settings": {
            "quality": QUALITY,
            "frames": len(frames),
            "size": list(frames[0].y.shape),
            "repeats": arguments.repeats,
        },
        "ways": rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    for name, row in rows.items():
        print(f"{row['microseconds_per_frame']:8.1f} us  {name}  {row}")


if __name__ == "__main__":
    main()
