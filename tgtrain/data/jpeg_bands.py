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

from tgtrain.data.crop import CropBox, Size

_SQUARE = 16  # pixels that two chroma samples of 4:2:0, and a block of 8x8 of them, cover
# Baseline, 8 bits, Y with 2x2 samples for one of Cb and Cr, two quantisers, four Huffman tables, restart interval, one scan.
_HEADER = re.compile(
    rb"\xff\xd8\xff\xe0\x00\x10JFIF\x00.{9}(?:\xff\xdb\x00\x43[\x00\x01].{64}){2}"
    rb"\xff\xc0\x00\x11\x08(?P<height>..)(?P<width>..)\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    rb"(?:\xff\xc4\x00\x1f.{29}\xff\xc4\x00\xb5.{179}){2}"
    rb"\xff\xdd\x00\x04(?P<interval>..)\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00",
    re.DOTALL,
)
_MARKER = re.compile(rb"\xff([^\x00])", re.DOTALL)  # in entropy-coded data
_EOI = b"\xd9"


@dataclass(frozen=True, slots=True)
class Bands:
    """Pictures of one part of some frames."""

    jpegs: list[bytes]
    box: CropBox  # what they show


def cut_bands(jpegs: Sequence[bytes], part: CropBox, frame: Size) -> Bands | None:
    """The pictures of a part of frames of one video, at least `part` large, that decode to the same pixels within it.

    None if they must be decoded completely: they have no restart markers, or another form, size or number of markers than expected.
    Markers are checked for all of a picture; damage between them is found only within the part, when it is decoded.
    """
    found = _HEADER.match(jpegs[0])
    layout = None if found is None else _layout(found[0])
    if layout is None or layout.frame != frame:
        return None
    down, across = _SQUARE, _SQUARE * layout.interval
    first_row, last_row = _covering(part.top, part.height, down, frame.height)
    first, last = _covering(part.left, part.width, across, frame.width)
    top, left = first_row * down, first * across
    box = CropBox(top, left, min(last_row * down, frame.height) - top, min(last * across, frame.width) - left)
    # Data and markers take turns, in a picture that is split as in one that is made. No numpy: its many small steps
    # cost more than this, most of all where the code is not in the processor's cache.
    chosen = [
        2 * (row * layout.per_row + column) for row in range(first_row, last_row) for column in range(first, last)
    ]
    made = [layout.header_of(box), *[b""] * (2 * len(chosen))]
    made[2::2] = [b"\xff" + number for number in _markers(len(chosen))]
    files = []
    for jpeg in jpegs:
        if not jpeg.startswith(layout.header):
            return None
        pieces = _MARKER.split(jpeg[len(layout.header) :])
        if pieces[1::2] != layout.markers or pieces[-1]:
            return None
        made[1::2] = [pieces[at] for at in chosen]
        files.append(b"".join(made))
    return Bands(files, box)


def _covering(start: int, length: int, step: int, end: int) -> tuple[int, int]:
    """The intervals of `step` pixels (half-open) that hold a crop's pixels and the next ones on both sides, up to `end`."""
    return max(0, start - 1) // step, -(-min(end, start + length + 1) // step)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a header says."""

    header: bytes
    size_at: int  # where height and width are
    frame: Size
    interval: int  # squares from one marker to the next
    per_row: int  # intervals in a row of squares
    markers: list[bytes]  # the second bytes of all markers that must follow

    def header_of(self, box: CropBox) -> bytes:
        """The header for a part of the picture."""
        size = box.height.to_bytes(2, "big") + box.width.to_bytes(2, "big")
        return self.header[: self.size_at] + size + self.header[self.size_at + 4 :]


@functools.lru_cache(maxsize=16)
def _layout(header: bytes) -> _Layout | None:
    """None if the intervals do not lie below one another."""
    found = _HEADER.fullmatch(header)
    assert found is not None
    height, width, interval = (int.from_bytes(number, "big") for number in found.groups())
    rows, columns = -(-height // _SQUARE), -(-width // _SQUARE)
    if 0 in (height, width, interval) or columns % interval:
        return None
    markers = _markers(rows * columns // interval)
    return _Layout(header, found.start("height"), Size(height, width), interval, columns // interval, markers)


def _markers(count: int) -> list[bytes]:
    """The second bytes of the markers after `count` intervals: restarts are counted from 0 to 7, the last ends the picture."""
    return [bytes([0xD0 + number % 8]) for number in range(count - 1)] + [_EOI]
