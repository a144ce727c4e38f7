"""The part of JPEG pictures that a crop needs, cut out of their bytes: less is decoded, and its pixels are the same.

`tgprep extract` ends every few squares of 16x16 pixels with a restart marker (docs/format.md). What lies between two markers
decodes by itself, and the intervals divide a row of squares, so those of a rectangle are a JPEG picture of its own: the same header
with another size, and its markers counted from 0 again. Upsampling of chroma looks at one sample further on each side, so the rectangle
is larger by one interval where the crop ends at its edge.

Only pictures of the one form that we write are cut; any others, and damaged ones, are left to be decoded completely.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tgtrain.data.crop import CropBox, Size

_SQUARE = 16  # pixels that two chroma samples of 4:2:0, and a block of 8x8 of them, cover
# Baseline, 8 bits, Y with 2x2 samples for one of Cb and Cr, two quantisers, four Huffman tables, restart interval, one scan.
_HEADER = re.compile(
    rb"\xff\xd8\xff\xe0\x00\x10JFIF\x00.{9}(?:\xff\xdb\x00\x43[\x00\x01].{64}){2}"
    rb"\xff\xc0\x00\x11\x08(?P<size>.{4})\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    rb"(?:\xff\xc4\x00\x1f.{29}\xff\xc4\x00\xb5.{179}){2}"
    rb"\xff\xdd\x00\x04(?P<interval>..)\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00",
    re.DOTALL,
)
_RST0, _EOI = 0xD0, 0xD9


@dataclass(frozen=True, slots=True)
class Bands:
    """Pictures of one part of some frames."""

    jpegs: list[memoryview]
    box: CropBox  # what they show


def cut_bands(jpegs: Sequence[bytes], part: CropBox, frame: Size) -> Bands | None:
    """The pictures of a part of frames of one video, at least `part` large, that decode to the same pixels within it.

    None if they must be decoded completely: they have no restart markers, or another form, size or number of markers than expected.
    Markers are checked for all of a picture; damage between them is found only within the part, when it is decoded.
    """
    header = _HEADER.match(jpegs[0])
    if header is None or header["size"] != frame.height.to_bytes(2, "big") + frame.width.to_bytes(2, "big"):
        return None
    rows, columns = -(-frame.height // _SQUARE), -(-frame.width // _SQUARE)
    interval = int.from_bytes(header["interval"], "big")
    if interval == 0 or columns % interval or not all(jpeg.startswith(header[0]) for jpeg in jpegs):
        return None
    segments = _segments(jpegs, header.end(), rows, columns // interval)
    if segments is None:
        return None
    down, across = _SQUARE, _SQUARE * interval
    first_row, last_row = _covering(part.top, part.height, down, frame.height)
    first, last = _covering(part.left, part.width, across, frame.width)
    top, left = first_row * down, first * across
    box = CropBox(top, left, min(last_row * down, frame.height) - top, min(last * across, frame.width) - left)
    size = box.height.to_bytes(2, "big") + box.width.to_bytes(2, "big")
    start = header[0][: header.start("size")] + size + header[0][header.end("size") :]
    return Bands(segments.rectangle(start, slice(first_row, last_row), slice(first, last)), box)


def _covering(start: int, length: int, step: int, end: int) -> tuple[int, int]:
    """The intervals of `step` pixels (half-open) that hold a crop's pixels and the next ones on both sides, up to `end`."""
    return max(0, start - 1) // step, -(-min(end, start + length + 1) // step)


@dataclass(frozen=True, slots=True)
class _Segments:
    """The entropy-coded data of pictures, and where each interval, its marker included, lies in it: [picture, row, column]."""

    data: memoryview
    starts: np.ndarray[tuple[int, int, int], np.dtype[np.int64]]
    ends: np.ndarray[tuple[int, int, int], np.dtype[np.int64]]

    def rectangle(self, start: bytes, rows: slice, columns: slice) -> list[memoryview]:
        """JPEG files of the intervals in these rows and columns, with `start` before them."""
        starts, ends = self.starts[:, rows, columns], self.ends[:, rows, columns]
        pieces: list[bytes | memoryview] = []
        for of_picture in np.stack([starts[:, :, 0], ends[:, :, -1]], axis=2).tolist():
            pieces.append(start)
            pieces += [self.data[first:last] for first, last in of_picture]
        joined = bytearray().join(pieces)
        # The second byte of each marker is its number, counted from the first interval; the last one is the end of the picture.
        sizes = (ends - starts).reshape(len(starts), -1)
        sizes[:, 0] += len(start)
        markers = (np.cumsum(sizes) - 1).reshape(sizes.shape)
        np.frombuffer(joined, np.uint8)[markers] = _markers(sizes.shape[1])
        files, last = memoryview(joined), [0, *(markers[:, -1] + 1).tolist()]
        return [files[first:end] for first, end in zip(last[:-1], last[1:], strict=True)]


def _segments(jpegs: Sequence[bytes], header_bytes: int, rows: int, per_row: int) -> _Segments | None:
    """The intervals of pictures; None unless each has exactly the markers of its size, in order, and ends with the last."""
    data = b"".join(memoryview(jpeg)[header_bytes:] for jpeg in jpegs)
    levels = np.frombuffer(data, np.uint8)
    at = np.flatnonzero((levels[:-1] == 0xFF) & (levels[1:] != 0)) + 1
    if len(at) != len(jpegs) * rows * per_row:
        return None
    ends = at.reshape(len(jpegs), -1) + 1
    file_ends = np.cumsum([len(jpeg) - header_bytes for jpeg in jpegs])
    if (levels[at].reshape(ends.shape) != _markers(rows * per_row)).any() or (ends[:, -1] != file_ends).any():
        return None
    shape = (len(jpegs), rows, per_row)
    return _Segments(memoryview(data), np.concatenate([[0], ends.ravel()[:-1]]).reshape(shape), ends.reshape(shape))


@functools.lru_cache(maxsize=64)
def _markers(count: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The second bytes of the markers after `count` intervals of a picture."""
    markers = (_RST0 + np.arange(count) % 8).astype(np.uint8)
    markers[-1] = _EOI
    return markers
