"""The default decoder, PyAV (FFmpeg inside the wheel): the video's own planes, or RGB converted exactly by swscale."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from manifests.gradient import Frame
from tgprep.decode.frames import DecodedVideo, DecodeError, Picture, Planes, scaled_size
from tgprep.decode.planes import (
    UPRIGHT,
    Orientation,
    orientation_of,
    planes_from_rgb,
    rotation_of,
    to_jpeg_form,
    to_midway_chroma,
    upright,
)

# Exact and the same on every CPU: swscale's default takes shortcuts that darken RGB by about one level.
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
# AVColorSpace numbers to matrices; anything else is BT.601, as every player of these data sets assumes.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_BT601 = (2, 5, 6)
# Codecs that sample chroma at the left of two pixels, also after swscale has made 4:2:0 of it; hevc does so for 4:2:0 only.
# FFmpeg knows the position of every frame (chroma_location), but PyAV does not show it. All others have it midway.
_LEFT_SITED = frozenset(("h264", "mpeg2video", "mpeg4"))


# A file is read through its descriptor, so that its name is no URL or pattern. A file that names others (playlists, sequences
# of pictures) gets none of them, as FFmpeg may open nothing itself.
_NOTHING_ELSE = {"protocol_whitelist": "none"}
_LISTS = (b"#EXTM3U", b"ffconcat", b"v=0", b"[playlist]")  # how such a file begins
# 16K videos have 133 million pixels. A damaged or hostile header claims more, and would cost gigabytes.
MAX_PIXELS = 1 << 27


def open_pyav(path: Path, *, space: str, short_side: int, as_coded: bool = False) -> DecodedVideo:
    """Open a file's default video stream: space "ycbcr420" gives `Planes`, "rgb" gives uint8[H, W, 3].

    as_coded: leave planes in the video's own range and chroma position, which saves a pass over every pixel.
    """
    opened = open_stream(path, space, short_side, as_coded)
    opened.video.frames = _frames(opened)
    return opened.video


@dataclass(frozen=True, slots=True)
class FirstLook:
    """What another decoder cannot find out by itself."""

    video: DecodedVideo  # closed: facts and notes
    orientation: Orientation
    degrees: float  # as the display matrix turns pictures to the left, applied or not
    luma: Frame | None  # of the first picture, upright


def look_at(path: Path) -> FirstLook:
    """Open a file for a decoder that takes names only. DecodeError as `open_pyav`."""
    opened = open_stream(path, "ycbcr420", 0, True)
    converter = opened.converter
    with contextlib.closing(opened.video):
        picture = next(_frames(opened), None)
        luma = picture.y.copy() if isinstance(picture, Planes) else None
    return FirstLook(opened.video, converter.orientation, converter.degrees, luma)


@dataclass(frozen=True, slots=True)
class OpenStream:
    """The video stream of an open file."""

    container: Any
    stream: Any
    video: DecodedVideo  # without frames
    converter: Converter


def open_stream(path: Path, space: str, short_side: int, as_coded: bool) -> OpenStream:
    """Open a file's default video stream; close it with `video.close`. DecodeError if it has none that can be decoded."""
    with contextlib.ExitStack() as stack:
        container = _container(path, stack)
        # The best stream, but not a cover picture.
        cover = av.stream.Disposition.attached_pic
        streams = [each for each in container.streams.video if not each.disposition & cover]
        if not streams:
            if container.streams.video:
                raise DecodeError("holds only a cover picture, no video")
            kinds = ", ".join(sorted({s.type for s in container.streams}))
            raise DecodeError(f"holds no video stream (only: {kinds or 'nothing'})")
        best = container.streams.best("video")
        stream: Any = best if best in streams else streams[0]
        # The end or damage of another stream is not that of the video.
        for each in container.streams:
            each.discard = av.stream.Discard.default if each == stream else av.stream.Discard.all
        context = stream.codec_context
        if context is None:
            raise DecodeError("no decoder for its video codec")
        if context.width * context.height > MAX_PIXELS:
            raise DecodeError(f"its picture of {context.width}x{context.height} has more than {MAX_PIXELS:,} pixels")
        context.thread_count = 1
        context.options = {"max_pixels": str(MAX_PIXELS)}
        video = DecodedVideo(
            frames=iter(()),
            num_frames_header=stream.frames or -1,
            fps=float(stream.average_rate or stream.guessed_rate or 0.0),
            codec=context.codec.name,
            pixel_format=context.pix_fmt or "",
            close=stack.pop_all().close,
        )
    ratio = stream.sample_aspect_ratio
    if ratio and ratio != 1:
        video.notes.append(f"pixels are not square ({ratio.numerator}:{ratio.denominator}); stored as coded")
    return OpenStream(container, stream, video, Converter(video, space, short_side, as_coded))


def _container(path: Path, stack: contextlib.ExitStack) -> Any:
    """Open a local file, whatever its name; `stack` closes it."""
    try:
        file = stack.enter_context(path.open("rb", buffering=0))
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror}") from None
    start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(_LISTS) or (start.startswith(b"<") and b"<MPD" in start):
        raise DecodeError("is a list of other files, which are not opened: name the videos themselves")
    file.seek(0)
    # FFmpeg looks at the extension if the content is not clear.
    file.name = f"video{path.suffix if path.suffix[1:].isalnum() else ''}"
    options = _NOTHING_ELSE | {"max_pixels": str(MAX_PIXELS)}
    try:
        return stack.enter_context(av.open(file, mode="r", options=options, metadata_errors="replace"))
    except (av.FFmpegError, ValueError) as error:
        raise DecodeError(f"cannot be opened as a video: {_reason(error)}") from None


def _frames(opened: OpenStream) -> Iterator[Picture]:
    video, convert = opened.video, opened.converter
    try:
        for frame in decoded_frames(opened):
            yield convert(frame)
    finally:
        video.close()
    video.notes += notes_on_frames(convert.num_concealed, convert.num_resized, convert.num_turned)


def notes_on_frames(num_concealed: int, num_resized: int, num_turned: int) -> list[str]:
    """Notes on what a converter has counted."""
    notes = [
        (num_concealed, "frames concealed by the decoder"),
        (num_resized, "frames scaled to the first"),
        (num_turned, "frames turned as the first"),
    ]
    what = {1: "the picture size changes within the video; ", 2: "the rotation changes within the video; "}
    return [f"{what.get(kind, '')}{count} {note}" for kind, (count, note) in enumerate(notes) if count]


def decoded_frames(opened: OpenStream) -> Iterator[Any]:
    """FFmpeg's frames from where the container is read, in the order of display."""
    for packet in _packets(opened.container, opened.stream, opened.video):
        if packet.has_sidedata("encryption_info"):
            raise DecodeError("its video is encrypted")
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except av.FFmpegError:  # as the ffmpeg program: only the file's end ends a video
            opened.video.num_damaged_packets += 1
            continue
        yield from frames


def _packets(container: Any, stream: Any, video: DecodedVideo) -> Iterator[Any]:
    """Packets in the order of the file; the last one is empty and makes the decoder give what it holds."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        # The container itself breaks off here. What was decoded is kept; the caller decides what to make of it.
        video.num_damaged_packets += 1
        video.notes.append(f"the file breaks off: {_reason(error)}")
        last = av.Packet()
        last.stream = stream
        yield last


@dataclass(slots=True)
class Converter:
    """Converts FFmpeg frames to pictures of one form and one size; keeps its scaler between frames."""

    video: DecodedVideo
    space: str
    short_side: int
    as_coded: bool
    scaler: VideoReformatter = field(default_factory=VideoReformatter)
    source_size: tuple[int, int] | None = None  # of the first frame
    source_rotation: int = 0  # likewise
    size: tuple[int, int] | None = None  # of the pictures before they are brought upright
    orientation: Orientation = UPRIGHT  # of the first frame
    degrees: float = 0.0  # as its display matrix says, applied or not
    num_resized: int = 0
    num_turned: int = 0
    num_concealed: int = 0

    def __call__(self, frame: Any) -> Picture:
        """The picture of a frame. DecodeError if its form cannot be converted."""
        try:
            return self._convert(frame)
        except av.FFmpegError as error:
            raise DecodeError(f"{frame.format.name} cannot be converted: {_reason(error)}") from None

    def _convert(self, frame: Any) -> Picture:
        if frame.is_corrupt:
            self.num_concealed += 1
        if self.size is None:
            # The first frame decides the size and the orientation of all pictures.
            self.source_size, self.source_rotation = (frame.width, frame.height), frame.rotation
            self.size = scaled_size(frame.width, frame.height, self.short_side)
            self.video.pixel_format = self.video.pixel_format or frame.format.name
            self._orient(frame)
        if (frame.width, frame.height) != self.source_size:
            self.num_resized += 1
        if frame.rotation != self.source_rotation:
            self.num_turned += 1
        # Turned last: scaled and converted pictures are smaller.
        if self.space != "ycbcr420":
            return np.ascontiguousarray(self.orientation.apply(self._rgb(frame)))
        planes = self._planes(frame)
        return planes if self.orientation is UPRIGHT else upright(planes, self.orientation)

    def follow(self, other: Converter) -> None:
        """Give pictures the form that `other` gives them."""
        self.source_size, self.source_rotation, self.size = other.source_size, other.source_rotation, other.size
        self.orientation, self.degrees = other.orientation, other.degrees
        self.video.pixel_format, self.video.rotation_degrees = other.video.pixel_format, other.video.rotation_degrees

    def _orient(self, frame: Any) -> None:
        stored = frame.side_data.get("DISPLAYMATRIX")
        if stored is None:
            return
        matrix = struct.unpack_from("=9i", stored)
        degrees, orientation = rotation_of(matrix), orientation_of(matrix)
        self.degrees = degrees or 0.0
        self.video.rotation_degrees = round(self.degrees)
        if orientation is not None and orientation != UPRIGHT:
            self.orientation = orientation
        if orientation is None:
            what = (
                "its display matrix, which is no rotation," if degrees is None else f"rotation of {degrees:.0f} degrees"
            )
            self.video.notes.append(f"{what} is not applied")
        elif orientation.mirrored:
            self.video.notes.append("mirrored, as its display matrix says")

    def _planes(self, frame: Any) -> Planes:
        name = frame.format.name
        if frame.colorspace not in _BT601 or not name.startswith("yuv"):
            # swscale rounds down when it converts between matrices; the detour over exact RGB costs nothing but time.
            return planes_from_rgb(self._rgb(frame))
        full = _is_full_range(frame)
        codec = self.video.codec
        left = codec in _LEFT_SITED or (codec == "hevc" and name.startswith(("yuv420p", "yuvj420p")))
        if (frame.width, frame.height) != self.size or name not in ("yuv420p", "yuvj420p"):
            levels = ColorRange.JPEG if full else ColorRange.MPEG
            frame = self._scaled(frame, "yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=levels)
        y, cb, cr = (
            np.ndarray((plane.height, plane.width), np.uint8, plane, 0, (plane.line_size, 1))
            for plane in frame.planes[:3]
        )
        planes = Planes(y, cb, cr, limited=not full, left=left)
        if not self.as_coded:
            return to_jpeg_form(planes)
        return planes if self.orientation is UPRIGHT else to_midway_chroma(planes)

    def _rgb(self, frame: Any) -> Frame:
        scaled = self._scaled(frame, "rgb24")
        packed = np.frombuffer(scaled.planes[0], np.uint8).reshape(scaled.height, scaled.planes[0].line_size)
        return packed[:, : scaled.width * 3].reshape(scaled.height, scaled.width, 3)

    def _scaled(self, frame: Any, pixel_format: str, **target: Any) -> Any:
        assert self.size is not None
        source: dict[str, Any] = {"src_colorspace": _MATRICES.get(frame.colorspace, Colorspace.ITU601)}
        if not (frame.format.is_rgb or frame.format.has_palette):
            source["src_color_range"] = ColorRange.JPEG if _is_full_range(frame) else ColorRange.MPEG
        width, height = self.size
        return self.scaler.reformat(
            frame, width, height, pixel_format, interpolation=_EXACT, threads=1, **source, **target
        )


def _is_full_range(frame: Any) -> bool:
    return bool(frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj"))


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or str(error) or type(error).__name__)
