"""Read the frames of a stored sample, to check, show or convert it. Training has its own reader (tgtrain.data)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import av
import cv2
import numpy as np
import simplejpeg

from manifests.files import read_range
from manifests.gradient import Frame
from manifests.records import VideoRow
from manifests.sample import coded_pixels, decode_offsets
from tgprep.decode.frames import Planes

# FFmpeg options: a damaged picture is an error, not a guess from its neighbours.
STRICT = {"err_detect": "explode", "ec": "0"}


class MemberFile:
    """The bytes start:start + num_bytes of a file, presented as a file that PyAV reads."""

    def __init__(self, file: BinaryIO, start: int, num_bytes: int) -> None:
        self.file, self.start, self.num_bytes = file, start, num_bytes
        self.position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.num_bytes}[whence]
        self.position = max(0, base + offset)
        return self.position

    def tell(self) -> int:
        return self.position

    def read(self, size: int = -1) -> bytes:
        remaining = max(0, self.num_bytes - self.position)
        self.file.seek(self.start + self.position)
        content = self.file.read(remaining if size < 0 else min(size, remaining))
        self.position += len(content)
        return content


def jpeg_reader(shard: BinaryIO, row: VideoRow, kind: str) -> Callable[[int], bytes]:
    """A function that reads a frame's JPEG file by its number from 0; both raise ValueError if the shard is damaged.

    kind: "rgb", "tg" or "flow".
    """
    index_offset, index_bytes, offset, _ = row.members.place(kind)
    bounds = decode_offsets(read_range(shard, index_offset, index_bytes)).tolist()
    num_frames = row.num_frames - (kind != "rgb")
    if len(bounds) != num_frames + 1:
        raise ValueError(f"{len(bounds) - 1} {kind} frames, expected {num_frames}")

    def read(number: int) -> bytes:
        first, last = bounds[number : number + 2]
        return read_range(shard, offset + first, last - first)

    return read


def decode_jpeg(jpeg: bytes, height: int, width: int, colorspace: str, **options: Any) -> Frame:
    """Decode a stored frame; ValueError if it is damaged, or its own header names another size than the tables.

    The header is read first: a file of 600 bytes may stand for a picture of 12 GB.
    """
    found_height, found_width, *_ = simplejpeg.decode_jpeg_header(jpeg)
    if (found_height, found_width) != (height, width):
        raise ValueError(f"it is {found_width}x{found_height}, expected {width}x{height}")
    picture: Frame = simplejpeg.decode_jpeg(jpeg, colorspace=colorspace, **options)
    return picture


def stored_planes(shard: BinaryIO, row: VideoRow) -> Iterator[Planes]:
    """All frames of a video in order, as planes of the size in its row. ValueError if the member is damaged."""
    member: Any = MemberFile(shard, row.members.rgb_offset, row.members.rgb_bytes)
    # H.264 stores even sizes; the repeated last row and column are cut off again.
    height, width = row.height + row.height % 2, row.width + row.width % 2
    whole, half = np.s_[: row.height, : row.width], np.s_[: (row.height + 1) // 2, : (row.width + 1) // 2]
    try:
        limit = {"max_pixels": str(coded_pixels(row.height, row.width))}
        with av.open(member, "r", format="mp4", options=limit) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            stream.codec_context.options = STRICT | limit
            for number, frame in enumerate(container.decode(stream)):
                if number >= row.num_frames:
                    raise ValueError(f"more than {row.num_frames} frames decode")
                size = (frame.height, frame.width)
                if frame.format.name != "yuvj420p" or size != (height, width) or frame.is_corrupt:
                    what = "damaged" if frame.is_corrupt else f"{frame.width}x{frame.height} {frame.format.name}"
                    raise ValueError(f"frame {number} is {what}, expected {width}x{height} yuvj420p")
                y, cb, cr = (np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in frame.planes)
                y, cb, cr = (np.ascontiguousarray(plane) for plane in (y[whole], cb[half], cr[half]))
                yield Planes(y, cb, cr)
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"the video does not decode ({error})") from None


def stored_frames(shard: BinaryIO, row: VideoRow, numbers: Iterable[int]) -> Iterator[tuple[int, Frame]]:
    """The frames with these numbers as (number, uint8[H, W, 3] RGB), in rising order.

    ValueError if the member is damaged or a frame is missing.
    """
    remaining = set(numbers)
    for number, planes in enumerate(stored_planes(shard, row)):
        if number in remaining:
            remaining.remove(number)
            yield number, rgb_of(planes)
        if not remaining:
            return
    if remaining:
        raise ValueError(f"frame {min(remaining)} is missing")


def rgb_of(planes: Planes) -> Frame:
    """RGB of full-range BT.601 planes, chroma interpolated as JPEG decoders do."""
    height, width = planes.y.shape
    even = (width + width % 2, height + height % 2)
    cb, cr = (
        cv2.resize(plane, even, interpolation=cv2.INTER_LINEAR)[:height, :width] for plane in (planes.cb, planes.cr)
    )
    return np.asarray(cv2.cvtColor(cv2.merge((planes.y, cr, cb)), cv2.COLOR_YCrCb2RGB), np.uint8)
