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
import numpy.typing as npt

from tgtrain.data.crop import CropBox, Size

Bytes = npt.NDArray[np.uint8]
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
    found = _HEADER.match(jpegs[0])
    layout = None if found is None else _layout(found[0])
    if layout is None or layout.frame != frame or not all([jpeg.startswith(layout.header) for jpeg in jpegs]):  # noqa: C419
        return None
    data = b"".join(jpegs)
    bounds = _bounds(data, [len(jpeg) for jpeg in jpegs], layout)
    if bounds is None:
        return None
    down, across = _SQUARE, _SQUARE * layout.interval
    first_row, last_row = _covering(part.top, part.height, down, frame.height)
    first, last = _covering(part.left, part.width, across, frame.width)
    top, left = first_row * down, first * across
    box = CropBox(top, left, min(last_row * down, frame.height) - top, min(last * across, frame.width) - left)
    start = layout.header_of(box)
    # Neighbours in a row are in one piece.
    per_row = layout.per_row
    starts, ends = (
        bounds[:, first_row * per_row + column : (last_row - 1) * per_row + column + 1 : per_row].tolist()
        for column in (first, last)
    )
    view = memoryview(data)
    pieces: list[bytes | memoryview] = []
    for firsts, lasts in zip(starts, ends, strict=True):
        pieces.append(start)
        pieces += [view[begin:end] for begin, end in zip(firsts, lasts, strict=True)]
    joined = bytearray().join(pieces)
    # The second byte of each marker is its number, counted from the first interval; the last one is the end of the picture.
    sizes = np.diff(bounds).reshape(len(jpegs), -1, per_row)[:, first_row:last_row, first:last].reshape(len(jpegs), -1)
    sizes[:, 0] += len(start)
    markers = sizes.cumsum().reshape(sizes.shape)
    np.frombuffer(joined, np.uint8)[markers - 1] = _markers(sizes.shape[1])
    view, file_ends = memoryview(joined), markers[:, -1].tolist()
    return Bands([view[begin:end] for begin, end in zip([0, *file_ends], file_ends, strict=False)], box)


def _covering(start: int, length: int, step: int, end: int) -> tuple[int, int]:
    """The intervals of `step` pixels (half-open) that hold a crop's pixels and the next ones on both sides, up to `end`."""
    return max(0, start - 1) // step, -(-min(end, start + length + 1) // step)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a header says."""

    header: bytes
    frame: Size
    interval: int  # squares from one marker to the next
    per_row: int  # intervals in a row of squares
    markers: Bytes  # the second bytes of all markers of the picture, those of the header included
    num_in_header: int

    def header_of(self, box: CropBox) -> bytes:
        """The header for a part of the picture."""
        at = self.header.index(b"\xff\xc0\x00\x11\x08") + 5
        return self.header[:at] + _size_bytes(box.height, box.width) + self.header[at + 4 :]


@functools.lru_cache(maxsize=16)
def _layout(header: bytes) -> _Layout | None:
    """None if the intervals do not lie below one another."""
    found = _HEADER.match(header)
    assert found is not None
    height, width = (int.from_bytes(found["size"][at : at + 2], "big") for at in (0, 2))
    interval = int.from_bytes(found["interval"], "big")
    rows, columns = -(-height // _SQUARE), -(-width // _SQUARE)
    if 0 in (height, width, interval) or columns % interval:
        return None
    in_header = np.frombuffer(header, np.uint8)[_marker_places(header)]
    markers = np.concatenate([in_header, _markers(rows * columns // interval)])
    return _Layout(header, Size(height, width), interval, columns // interval, markers, len(in_header))


def _size_bytes(height: int, width: int) -> bytes:
    return height.to_bytes(2, "big") + width.to_bytes(2, "big")


def _bounds(data: bytes, sizes: list[int], layout: _Layout) -> npt.NDArray[np.int64] | None:
    """Where the intervals of pictures, one behind the other in `data`, begin and end: int64[pictures, intervals + 1].

    None unless each has exactly the markers of its size, in order, and ends with the last.
    """
    places = _marker_places(data)
    if len(places) != len(sizes) * len(layout.markers):
        return None
    places = places.reshape(len(sizes), -1)
    file_ends = np.array(sizes).cumsum()
    if (np.frombuffer(data, np.uint8)[places] != layout.markers).any() or (places[:, -1] + 1 != file_ends).any():
        return None
    bounds = places[:, layout.num_in_header - 1 :] + 1
    bounds[:, 0] = file_ends - sizes + len(layout.header)
    return bounds


def _marker_places(data: bytes) -> npt.NDArray[np.int64]:
    """Where the second bytes of markers lie, and others in a header that look like them: after 0xFF, and not 0."""
    levels = np.frombuffer(data, np.uint8)
    found = np.zeros(-(-len(data) // 8) * 8, np.bool_)
    inner = found[1 : len(data)]
    np.equal(levels[:-1], 0xFF, out=inner)
    inner &= levels[1:] != 0
    # Few of them: eight places at once are looked at first.
    words = found.view(np.uint64)
    eights = (words != 0).nonzero()[0]
    within = words[eights].view(np.bool_).nonzero()[0]
    places: npt.NDArray[np.int64] = 8 * eights[within >> 3] + (within & 7)
    return places


@functools.lru_cache(maxsize=64)
def _markers(count: int) -> Bytes:
    """The second bytes of the markers after `count` intervals of a picture."""
    markers = (_RST0 + np.arange(count) % 8).astype(np.uint8)
    markers[-1] = _EOI
    return markers
