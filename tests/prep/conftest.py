"""Small real videos with known content, made here with PyAV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

Frames = Sequence[npt.NDArray[np.uint8]]


def moving_square(num_frames: int, width: int = 64, height: int = 48, start: int = 0) -> list[npt.NDArray[np.uint8]]:
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


def write_video(
    path: Path, frames: Frames, codec: str = "mpeg4", pixel_format: str = "yuv420p", **options: str
) -> Path:
    """Encode RGB frames into a file whose container follows from the suffix, one thread, 25 fps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options=options)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], pixel_format
        stream.codec_context.thread_count = 1
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.fixture
def video_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes VIDEOS with class folders of small videos: `video_folder(num_classes=2, videos_per_class=3)`."""

    def make(num_classes: int = 2, videos_per_class: int = 3, num_frames: int = 6, name: str = "videos") -> Path:
        root = tmp_path / name
        for label in range(num_classes):
            for number in range(videos_per_class):
                frames = moving_square(num_frames + number % 3, start=7 * label + number)
                write_video(root / f"class{label}" / f"v{number:03d}.avi", frames, **{"q:v": "3"})
        return root

    return make
