"""Decoding with OpenCV: RGB frames only. Rotation is applied by OpenCV itself; damage inside a file is not reported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from tgprep.decode.frames import DecodedVideo, DecodeError, Picture


def open_opencv(path: Path) -> DecodedVideo:
    """Open a file with cv2.VideoCapture (FFmpeg), one thread."""
    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise DecodeError("OpenCV cannot open it as a video")
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    header = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return DecodedVideo(
        frames=_frames(capture),
        num_frames_header=header if header > 0 else -1,
        fps=float(capture.get(cv2.CAP_PROP_FPS)),
        codec=code.to_bytes(4, "little").decode("ascii", "replace").strip("\0 ") if code > 0 else "",
        rotation_degrees=int(capture.get(cv2.CAP_PROP_ORIENTATION_META)),
        close=capture.release,
    )


def _frames(capture: Any) -> Iterator[Picture]:
    while True:
        ok, bgr = capture.read()
        if not ok:
            return
        yield cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
