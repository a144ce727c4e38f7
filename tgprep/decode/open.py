"""Video file -> DecodedVideo: a stream of frames in decoder output order, one decoder thread, nothing trusted from the header.

A frame is `Planes` (Y, Cb, Cr as uint8 arrays: 4:2:0, BT.601, what a JPEG file holds) or an RGB array
uint8[H, W, 3]. Rotation stored in the container is applied. Buffers belong to the reader of the stream.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tgprep.decode.frames import DecodedVideo, DecodeError, Picture, scaled_size


def open_video(path: Path, *, decoder: str, space: str, short_side: int, as_coded: bool = False) -> DecodedVideo:
    """Open a video with the named decoder; DecodeError says why it cannot be read.

    as_coded: planes may be limited and left, see `Planes`; else they are as a JPEG file has them.
    """
    if not path.is_file():
        raise DecodeError("the file is gone" if not path.exists() else "not a regular file")
    if path.stat().st_size == 0:
        raise DecodeError("the file is empty (0 bytes)")
    if decoder == "pyav":
        from tgprep.decode.pyav import open_pyav

        return open_pyav(path, space=space, short_side=short_side, as_coded=as_coded)
    if decoder in ("opencv", "decord"):
        module = importlib.import_module(f"tgprep.decode.{decoder}")
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
