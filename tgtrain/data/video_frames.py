"""Single frames of stored videos (`--store video`, docs/format.md): only the coded pictures that lead to them are decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import cv2
import numpy as np

from manifests.gradient import Frame
from manifests.sample import coded_pixels
from tgtrain.data.crop import CropBox

# Replaces the header of an .mp4: parameter sets come with the pictures, and units have lengths of four bytes.
_LENGTHS = bytes([1, 66, 0, 30, 255, 224, 0])
# A damaged picture is an error, not a guess from its neighbours.
_STRICT = {"err_detect": "explode", "ec": "0"}
_PIXEL_FORMAT = "yuvj420p"


@dataclass(frozen=True, slots=True)
class PictureRun:
    """Pictures first .. last (both included) to decode one after the other; `first` is self-contained."""

    first: int
    last: int


def runs_of(frames: Sequence[int], gop: int) -> list[PictureRun]:
    """The fewest runs of pictures that lead to these frames (rising), where every `gop`-th picture is self-contained.

    gop = 8, frames 3, 7, 8, 26:   runs 0 .. 8 and 24 .. 26
    """
    runs: list[PictureRun] = []
    for frame in frames:
        first = frame // gop * gop
        if runs and first <= runs[-1].last + 1:
            runs[-1] = PictureRun(runs[-1].first, frame)
        else:
            runs.append(PictureRun(first, frame))
    return runs


class GopDecoder:
    """Decodes coded pictures. It keeps its decoder and buffers from video to video; not for use by two threads."""

    def __init__(self) -> None:
        self.context: Any = None
        self.max_pixels = 0  # of the context
        self.canvas = _Canvas()

    def decode(
        self,
        coded: Iterable[tuple[int, bytes]],
        wanted: Iterable[int],
        height: int,
        width: int,
        part: CropBox | None = None,
    ) -> Iterator[tuple[int, Frame]]:
        """The wanted frames as uint8[H, W, 3] RGB, by rising number; each array is valid until the next but one.

        coded: numbers and bytes of the pictures of complete runs, in order. height, width: of the video, as in the tables.
        part: the part that is needed, None for all of the frame; other pixels may have any value.
        ValueError if a picture is damaged, missing or of another size.
        """
        # A power of two, so that videos of several sizes share a context.
        max_pixels = 1 << (coded_pixels(height, width) - 1).bit_length()
        if max_pixels != self.max_pixels:
            self.context, self.max_pixels = None, max_pixels
        left = sorted(set(wanted), reverse=True)
        self.canvas.prepare(height, width, part or CropBox(0, 0, height, width))
        try:
            for frame in self._frames(coded):
                if left and frame.pts == left[-1]:
                    yield left.pop(), self.canvas.rgb(frame)
        except av.FFmpegError as error:
            raise ValueError(f"frame {left[-1] if left else ''} does not decode ({error})") from None
        finally:
            if left:  # damaged, or not read to the end: the next video starts with a clean decoder
                self.context = None
        if left:
            raise ValueError(f"frame {left[-1]} does not decode")

    def _frames(self, coded: Iterable[tuple[int, bytes]]) -> Iterator[Any]:
        if self.context is None:
            self.context = av.CodecContext.create("h264", "r")
            self.context.thread_count = 1
            self.context.extradata = _LENGTHS
            self.context.options = _STRICT | {"max_pixels": str(self.max_pixels)}
        for number, content in coded:
            packet = av.Packet(content)
            packet.pts = number
            yield from self.context.decode(packet)


class _Canvas:
    """Turns planes into RGB, one part of the pictures of a video, by OpenCV.

    Its merge of three planes is many times faster if no plane has gaps between its rows. So the part is copied out first.
    """

    def __init__(self) -> None:
        self.height = self.width = self.slot = 0
        self.even = (0, 0)  # size of the pictures: H.264 stores even sides
        self.pictures: list[Frame] = []
        self.room = np.empty((6, 0), np.uint8)

    def prepare(self, height: int, width: int, part: CropBox) -> None:
        """Set the size of the next frames, and the part of them that is needed."""
        even = (height + height % 2, width + width % 2)
        if even != self.even:
            self.even, self.room = even, np.empty((6, even[0] * even[1]), np.uint8)
            self.pictures = [np.empty((*even, 3), np.uint8) for _ in range(2)]
        self.height, self.width = height, width
        box = _chroma_box(part, height, width)
        self.half = np.s_[box.top : box.top + box.height, box.left : box.left + box.width]
        rows, columns = box.height * 2, box.width * 2
        self.full = np.s_[box.top * 2 : box.top * 2 + rows, box.left * 2 : box.left * 2 + columns]
        self.luma, self.red, self.blue = (flat[: rows * columns].reshape(rows, columns) for flat in self.room[:3])
        self.packed = self.room[3:].reshape(-1)[: rows * columns * 3].reshape(rows, columns, 3)
        self.parts = [picture[self.full] for picture in self.pictures]

    def rgb(self, frame: Any) -> Frame:
        """A decoded frame as uint8[H, W, 3], valid until the next but one. ValueError if it is damaged or of another size."""
        if frame.is_corrupt or frame.format.name != _PIXEL_FORMAT or (frame.height, frame.width) != self.even:
            what = "damaged" if frame.is_corrupt else f"{frame.width}x{frame.height} {frame.format.name}"
            raise ValueError(f"frame {frame.pts} is {what}, expected {self.even[1]}x{self.even[0]} {_PIXEL_FORMAT}")
        self.slot = 1 - self.slot
        y, cb, cr = (np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in frame.planes)
        size = self.luma.shape[::-1]
        np.copyto(self.luma, y[self.full])
        cv2.resize(cr[self.half], size, dst=self.red, interpolation=cv2.INTER_LINEAR)
        cv2.resize(cb[self.half], size, dst=self.blue, interpolation=cv2.INTER_LINEAR)
        # OpenCV wants Cr before Cb; its conversion is full-range BT.601, as the planes are.
        cv2.merge((self.luma, self.red, self.blue), dst=self.packed)
        cv2.cvtColor(self.packed, cv2.COLOR_YCrCb2RGB, dst=self.parts[self.slot])
        return self.pictures[self.slot][: self.height, : self.width]


def _chroma_box(part: CropBox, height: int, width: int) -> CropBox:
    """The chroma samples of a part of the picture, with one more on each side for interpolation."""
    top, left = max(0, part.top // 2 - 1), max(0, part.left // 2 - 1)
    bottom = min((height + 1) // 2, (part.top + part.height + 1) // 2 + 1)
    right = min((width + 1) // 2, (part.left + part.width + 1) // 2 + 1)
    return CropBox(top, left, bottom - top, right - left)
