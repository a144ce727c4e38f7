"""Encode frames as one H.264 video that is cheap to cut clips out of (`--store video`).

A self-contained picture (with its parameter sets) every `gop` frames, every other picture predicted from the previous one
only, all in the order of display: frame k needs the pictures k // gop * gop .. k and nothing else. No B-frames: they save
bytes but cost as many decoded pictures as they skip. CAVLC and no loop filter, as CABAC and the filter take long to decode.
Planes are those of the JPEG store, 4:2:0 in full range BT.601. x264 runs in this process, through PyAV, under the deadline
and the memory limit of the worker. benchmarks/store_video.py compares the choices.
"""

from __future__ import annotations

import contextlib
import io
import math
from fractions import Fraction
from typing import Any, BinaryIO, Literal

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.video.reformatter import ColorRange, Colorspace

from manifests.records import MAX_PICTURE_PIXELS, InputError
from manifests.sample import Mp4Spool
from tgprep.decode.frames import DecodeError, Picture, Planes
from tgprep.decode.planes import planes_from_rgb

PRESET = "veryfast"
_FALLBACK_FPS = 25
_MAX_FPS = 1000
_MIN_FPS = 1 / 86_400
_SEI = 6  # unit type into which x264 writes its name and options: 700 bytes a video

# One thread, no lookahead, nothing that depends on the processor: the same frames give the same bytes.
_X264 = (
    "min-keyint=1:scenecut=0:open-gop=0:bframes=0:weightp=0:ref=1:rc-lookahead=0:sync-lookahead=0:mbtree=0:"
    "repeat-headers=1:force-cfr=1:threads=1:lookahead-threads=1:cpu-independent=1:no-cabac=1:no-deblock=1"
)

# Of `--tune`. The time to decode goes with the bytes, and a clip needs many self-contained pictures: x264's own way makes
# these better than the others, and gives bytes to flat areas for the eye's sake.
_TUNES = {"none": "", "reading": ":aq-mode=0:ipratio=1.0"}


class Mp4Writer:
    """Encodes pictures in order into an .mp4 in `file`, which must be seekable.

    crf, gop, tune: see `tgprep.config.ExtractSettings`.
    fps: frames per second for the container; 0.0 (unknown) and rates above 1000 or below one frame a day become 25.
    """

    def __init__(
        self, file: BinaryIO, crf: int, gop: int, fps: float, tune: Literal["none", "reading"] = "reading"
    ) -> None:
        self.file = file
        self.gop = gop
        self.num_frames = 0
        self.num_bytes = 0
        self.rate = Fraction(_FALLBACK_FPS)
        if 1 <= fps <= _MAX_FPS:
            self.rate = Fraction(fps).limit_denominator(1001)
        elif _MIN_FPS <= fps < 1:  # time lapses
            self.rate = 1 / Fraction(1 / fps).limit_denominator(1001)
        self.container = av.open(file, "w", format="mp4", options={"fflags": "+bitexact"})
        stream: Any = self.container.add_stream("libx264", rate=self.rate)
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": PRESET, "crf": str(crf), "x264-params": f"keyint={gop}:{_X264}{_TUNES[tune]}"}
        context = stream.codec_context
        context.thread_count = 1
        context.color_range = ColorRange.JPEG
        context.colorspace = Colorspace.ITU601
        self.stream = stream
        # Made after the first picture, as it needs the stream's header.
        self.without_sei: BitStreamFilterContext | None = None

    def add(self, picture: Picture) -> None:
        """Encode a picture. DecodeError with the reason for the user if the encoder rejects it."""
        planes = picture if isinstance(picture, Planes) else planes_from_rgb(picture)
        height, width = (side + side % 2 for side in planes.y.shape)
        if not self.num_frames:
            self.stream.width, self.stream.height = width, height
        frame: Any = av.VideoFrame(width, height, "yuv420p")
        # H.264 stores even sizes: the last row and column are repeated.
        for plane, source in zip(frame.planes, (planes.y, planes.cb, planes.cr), strict=True):
            target = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : plane.width]
            rows, columns = source.shape
            target[:rows, :columns] = source
            target[:rows, columns:] = source[:, -1:]
            target[rows:] = target[rows - 1]
        frame.pts, frame.time_base = self.num_frames, 1 / self.rate
        frame.color_range, frame.colorspace = ColorRange.JPEG, Colorspace.ITU601
        try:
            self._mux(self.stream.encode(frame))
        except (av.FFmpegError, ValueError) as error:
            raise DecodeError(f"the H.264 encoder refuses {width}x{height} pictures: {error}") from None
        self.num_frames += 1

    def finish(self) -> tuple[Mp4Spool, None]:
        """Complete the file; return it with the offsets of the pictures, as read back from it, and no gradients."""
        self._mux(self.stream.encode(None))
        self.container.close()
        self.num_bytes = self.file.seek(0, io.SEEK_END)
        return Mp4Spool(self.file, picture_offsets(self.file, self.num_frames, self.gop), self.num_bytes), None

    def close(self) -> None:
        """Release the encoder, finished or not; earlier errors have been raised already."""
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):
            self.container.close()

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            if self.without_sei is None:
                self.without_sei = BitStreamFilterContext(f"filter_units=remove_types={_SEI}", self.stream)
            for unit in self.without_sei.filter(packet):
                unit.stream = self.stream
                self.num_bytes += unit.size
                self.container.mux(unit)


def picture_offsets(file: BinaryIO, num_frames: int, gop: int) -> list[int]:
    """Byte offsets of the coded pictures in an .mp4 of ours, T + 1: picture k is offsets[k]:offsets[k + 1].

    ValueError if the layout is not that of the format: T pictures back to back in the order of display, of which those at
    multiples of `gop` and no others are self-contained.
    """
    file.seek(0)
    offsets: list[int] = []
    try:
        with av.open(file, "r", format="mp4", options={"max_pixels": str(MAX_PICTURE_PIXELS)}) as container:
            stream = container.streams.video[0]
            if stream.codec_context.name != "h264":
                raise ValueError(f"its codec is {stream.codec_context.name}, expected h264")
            packets = (packet for packet in container.demux(stream) if packet.size)
            before = -math.inf
            # Each is looked at as it comes: a table of an .mp4 may name the same bytes a million times.
            for number, packet in enumerate(packets):
                if number >= num_frames:
                    raise ValueError(f"it holds more than {num_frames} pictures")
                offsets = offsets or [packet.pos or 0]
                # Back to back and in the order of display, or an offset would cut a picture.
                if packet.pos != offsets[-1] or packet.pts is None or packet.pts <= before:
                    raise ValueError(f"picture {number} is not where the format says")
                if bool(packet.is_keyframe) != (number % gop == 0):
                    is_not = "" if packet.is_keyframe else " not"
                    raise ValueError(f"picture {number} is{is_not} self-contained, every {gop}th is")
                offsets.append(packet.pos + packet.size)
                before = packet.pts
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"it is not an .mp4 with a video ({error})") from None
    if len(offsets) - 1 != num_frames:
        raise ValueError(f"it holds {max(0, len(offsets) - 1)} pictures, expected {num_frames}")
    return offsets


def x264_version() -> str:
    """The build number of x264, as it writes it into its streams. InputError if PyAV has no x264."""
    if "libx264" not in av.codecs_available:
        raise InputError(
            "--store video needs the encoder libx264, which the installed PyAV lacks: install its wheel (pip install av)."
        )
    context: Any = av.CodecContext.create("libx264", "w")
    context.width = context.height = 16
    context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 25)
    context.options = {"preset": "ultrafast"}
    packets = [*context.encode(av.VideoFrame(16, 16, "yuv420p")), *context.encode(None)]
    text = b"".join(map(bytes, packets)).partition(b"x264 - core ")[2]
    return text.partition(b" ")[0].decode("ascii", "replace")
