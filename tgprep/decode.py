"""Video file -> DecodedVideo: a stream of frames in decoder output order, one decoder thread, nothing trusted from the header.

A frame is `Planes` (Y, Cb, Cr as uint8 arrays: 4:2:0, BT.601, what a JPEG file holds) or an RGB array
uint8[H, W, 3]. Rotation stored in the container is applied. Buffers belong to the reader of the stream.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from manifests.gradient import Frame

PLANES_VERSION = 2  # of what decoders' planes become: 1 left chroma where the video has it


class DecodeError(Exception):
    """The video cannot be decoded; the message is the reason shown to the user."""


@dataclass(frozen=True, slots=True)
class Planes:
    """A 4:2:0 picture in BT.601: y uint8[H, W], cb and cr uint8[ceil(H/2), ceil(W/2)], rows possibly apart.

    limited: levels 16..235 (chroma 16..240) stand for 0..255, as most videos are coded; else full range, as JPEG has it.
    left: chroma is that of the left of two pixels, as most videos are coded; else of their middle, as JPEG has it.
    """

    y: Frame
    cb: Frame
    cr: Frame
    limited: bool = False
    left: bool = False


Picture = Planes | Frame


@dataclass(slots=True)
class DecodedVideo:
    """A video opened for one sequential pass.

    frames: the stream; `num_damaged_packets` and `notes` are complete once it has ended.
    num_frames_header: what the container claims, -1 unknown. fps: frames per second as the container says, 0.0 unknown.
    """

    frames: Iterator[Picture]
    num_frames_header: int = -1
    fps: float = 0.0
    codec: str = ""
    pixel_format: str = ""
    rotation_degrees: int = 0
    num_damaged_packets: int = 0
    notes: list[str] = field(default_factory=list)
    close: Callable[[], None] = lambda: None


def open_video(path: Path, *, decoder: str, space: str, short_side: int, as_coded: bool = False) -> DecodedVideo:
    """Open a video with the named decoder; DecodeError says why it cannot be read.

    as_coded: planes may be limited and left, see `Planes`; else they are as a JPEG file has them.
    """
    if not path.is_file():
        raise DecodeError("the file is gone" if not path.exists() else "not a regular file")
    if path.stat().st_size == 0:
        raise DecodeError("the file is empty (0 bytes)")
    if decoder == "pyav":
        from tgprep.decode_pyav import open_pyav

        return open_pyav(path, space=space, short_side=short_side, as_coded=as_coded)
    if decoder in ("opencv", "decord"):
        module = importlib.import_module(f"tgprep.decode_{decoder}")
        return _scaled(getattr(module, f"open_{decoder}")(path), short_side)
    module_name, _, function = decoder.partition(":")
    opened: DecodedVideo = getattr(importlib.import_module(module_name), function)(path)
    return _scaled(opened, short_side)


def decoder_versions(decoder: str) -> dict[str, str]:
    """Names and versions of what decodes, for dataset.json."""
    if decoder == "pyav":
        import av

        libraries = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
        return {
            "av": av.__version__,
            "libavcodec": libraries.get("libavcodec", ""),
            "libswscale": libraries.get("libswscale", ""),
        }
    if decoder == "opencv":
        import cv2

        return {"cv2": cv2.__version__}
    module_name, colon, function = decoder.partition(":")
    module = importlib.import_module(module_name)
    if colon and not callable(getattr(module, function, None)):
        raise ImportError(f"{module_name} has no function {function or 'named behind the colon'}")
    return {module.__name__: str(getattr(module, "__version__", ""))}


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height after scaling the shorter side down to `short_side` (0, or already smaller: unchanged)."""
    short = min(width, height)
    if not short_side or short <= short_side:
        return width, height
    return (short_side, height * short_side // short) if width <= height else (width * short_side // short, short_side)


def _scaled(video: DecodedVideo, short_side: int) -> DecodedVideo:
    if not short_side:
        return video
    source = video.frames

    def frames() -> Iterator[Picture]:
        import cv2

        for frame in source:
            assert isinstance(frame, np.ndarray)
            size = scaled_size(frame.shape[1], frame.shape[0], short_side)
            resized: Any = frame if size == (frame.shape[1], frame.shape[0]) else cv2.resize(frame, size)
            yield resized

    video.frames = frames()
    return video
