"""DecodedVideo -> EncodedVideo: frames and their temporal gradients as JPEG spools, or one video; one frame in memory at a time."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

import cv2
import numpy as np
import simplejpeg

from manifests.gradient import Frame
from manifests.records import WRITTEN, SourceVideo, VideoRow
from manifests.sample import (
    MAX_MEMBER_BYTES,
    EncodedVideo,
    FrameSpool,
    MemberTooLargeError,
    Mp4Spool,
    sample_facts,
)
from tgprep.config import ExtractSettings
from tgprep.decode.frames import DecodedVideo, DecodeError, Picture, Planes
from tgprep.decode.open import open_video
from tgprep.decode.planes import in_range
from tgprep.encode.flow import flow_estimator, flow_picture
from tgprep.encode.jpeg_tables import MAX_SIDE
from tgprep.encode.spool import BYTES_IN_MEMORY, Spool

if TYPE_CHECKING:
    from tgprep.encode.fused import PlaneEncoder


# (a - b + 255) / 2 and (a - b + 256) / 2 less a quarter: rounding to the nearest is then the floor, and every term is exact in a float.
_GRADIENT_SHIFT = 127.25
_CHROMA_SHIFT = 127.75


SPOOL_BYTES_IN_MEMORY = BYTES_IN_MEMORY


def encode_video(
    source: SourceVideo,
    path: Path,
    settings: ExtractSettings,
    scratch: Path,
    stack: ExitStack,
    on_frame: Callable[[int], None] = lambda count: None,
) -> tuple[EncodedVideo, VideoRow]:
    """Decode a video and encode its frames and gradients; the row has no shard yet.

    scratch: folder for the spools of long videos. stack: owns the spools; close it once the sample is packed.
    on_frame is called with the number of frames so far. Raises DecodeError with the reason for the user.
    """
    before = _state(path)
    source_sha256 = _sha256(path, lambda: on_frame(0))
    video = open_video(
        path,
        decoder=settings.decoder,
        space=settings.space,
        short_side=settings.short_side,
        as_coded=settings.encoder == "fused",
    )
    height = width = 0
    flow = _FlowWriter(settings, FrameSpool(_spool_file(scratch, stack))) if settings.flow != "none" else None
    try:
        writer = _writer(settings, scratch, stack, video.fps)
        for picture in video.frames:
            shape = (picture.y if isinstance(picture, Planes) else picture).shape
            if not height:
                height, width = shape[:2]
                _refuse_large(height, width, settings)
            elif (height, width) != shape[:2]:
                raise DecodeError(
                    f"the picture size changes from {width}x{height} to {shape[1]}x{shape[0]} at frame {writer.num_frames}"
                )
            writer.add(picture)
            if flow is not None:
                flow.add(picture)
            if (
                max(writer.num_bytes, flow.spool.num_bytes if flow else 0) > MAX_MEMBER_BYTES
            ):  # before it fills the disk
                raise MemberTooLargeError(f"its frames take over {MAX_MEMBER_BYTES} bytes after {writer.num_frames}")
            on_frame(writer.num_frames)
    finally:
        video.close()
    if _state(path) != before:
        raise DecodeError("the file was changed while it was read")
    _judge(video, writer.num_frames, settings)
    rgb, tg = writer.finish()
    row = source.row(
        WRITTEN,
        num_frames=writer.num_frames,
        num_frames_header=video.num_frames_header,
        fps=video.fps,
        height=height,
        width=width,
        codec=video.codec,
        pixel_format=video.pixel_format,
        rotation_degrees=video.rotation_degrees,
        source_sha256=source_sha256,
        note="; ".join(_notes(video, writer.num_frames)),
    )
    meta = sample_facts(row, settings.model_dump(), settings.coding)
    return EncodedVideo(key=source.key, meta=meta, rgb=rgb, tg=tg, flow=flow.spool if flow else None), row


def _refuse_large(height: int, width: int, settings: ExtractSettings) -> None:
    if settings.store == "frames" and max(height, width) > MAX_SIDE:
        raise DecodeError(
            f"its picture of {width}x{height} is larger than a JPEG file holds ({MAX_SIDE} a side); --short-side makes it fit"
        )


class _Writer(Protocol):
    """Takes one picture after the other. num_bytes: of the largest member so far."""

    @property
    def num_frames(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    def add(self, picture: Picture) -> None: ...
    def finish(self) -> tuple[FrameSpool | Mp4Spool, FrameSpool | None]:
        """The spools of frames and gradients."""


def _writer(settings: ExtractSettings, scratch: Path, stack: ExitStack, fps: float) -> _Writer:
    if settings.store == "video":
        from tgprep.encode.h264 import Mp4Writer  # PyAV: the extraction of frames by another decoder does without

        mp4 = Mp4Writer(_seekable_file(scratch, stack), settings.crf, settings.gop, fps)
        stack.callback(mp4.close)
        return mp4
    rgb = FrameSpool(_spool_file(scratch, stack))
    tg = FrameSpool(_spool_file(scratch, stack)) if settings.gradient == "stored" else None
    if settings.encoder == "fused":
        return _FusedWriter(settings.quality, rgb, tg)
    return _FrameWriter(settings, rgb, tg)


class _JpegWriter:
    """The two spools of JPEG files, and what is told of them."""

    rgb: FrameSpool
    tg: FrameSpool | None

    @property
    def num_frames(self) -> int:
        return self.rgb.num_frames

    @property
    def num_bytes(self) -> int:
        return max(self.rgb.num_bytes, self.tg.num_bytes if self.tg else 0)

    def finish(self) -> tuple[FrameSpool, FrameSpool | None]:
        return self.rgb, self.tg


class _FusedWriter(_JpegWriter):
    """Encodes planes and their gradients together."""

    def __init__(self, quality: int, rgb: FrameSpool, tg: FrameSpool | None) -> None:
        self.quality = quality
        self.rgb = rgb
        self.tg = tg
        self.encoder: PlaneEncoder | None = None
        self.limited = False

    def add(self, picture: Picture) -> None:
        if not isinstance(picture, Planes):
            raise DecodeError("the decoder gives RGB frames: --space rgb takes them")
        if self.encoder is None:
            from tgprep.encode.fused import plane_encoder  # numba: what stores no planes does without

            self.limited = picture.limited
            height, width = picture.y.shape
            wanted = self.tg is not None
            self.encoder = plane_encoder(height, width, self.quality, limited=self.limited, gradients=wanted)
        picture = in_range(picture, limited=self.limited)
        frame, gradient = self.encoder.encode(picture.y, picture.cb, picture.cr, left=picture.left)
        self.rgb.append(frame)
        if self.tg is not None and gradient is not None:
            self.tg.append(gradient)


class _FrameWriter(_JpegWriter):
    """Encodes pictures as JPEG files by libjpeg-turbo; keeps the one before for the gradient."""

    def __init__(self, settings: ExtractSettings, rgb: FrameSpool, tg: FrameSpool | None) -> None:
        self.quality = settings.quality
        self.subsampling = settings.subsampling
        self.from_jpeg = settings.gradient_source == "jpeg"
        self.by_opencv = "opencv_frames" in settings.compat.split(",")
        self.rgb = rgb
        self.tg = tg
        self.previous: Picture | None = None

    def add(self, picture: Picture) -> None:
        jpeg = self._jpeg(picture)
        self.rgb.append(jpeg)
        if self.tg is None:
            return
        if self.from_jpeg:
            picture = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
        if self.previous is not None:
            self.tg.append(self._jpeg(gradient_of(self.previous, picture)))
        self.previous = picture

    def _jpeg(self, picture: Picture) -> bytes:
        if isinstance(picture, Planes):
            planar: bytes = simplejpeg.encode_jpeg_yuv_planes(picture.y, picture.cb, picture.cr, self.quality)
            return planar
        if self.by_opencv:
            done, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self.quality])
            assert done
            return jpeg.tobytes()
        packed: bytes = simplejpeg.encode_jpeg(picture, self.quality, "RGB", self.subsampling)
        return packed


class _FlowWriter:
    """Encodes the flow between neighbours. Its three channels mean different things: no chroma is left out."""

    def __init__(self, settings: ExtractSettings, spool: FrameSpool) -> None:
        assert settings.flow != "none"
        self.spool = spool
        self.quality = settings.quality
        self.uncentred = "flow_magnitude" in settings.compat.split(",")
        self.estimate = flow_estimator(settings.flow)
        self.previous: Frame | None = None

    def add(self, picture: Picture) -> None:
        luma = (
            np.ascontiguousarray(in_range(picture, limited=False).y)  # the decoder's own rows may lie apart
            if isinstance(picture, Planes)
            else cast(Frame, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
        )
        if self.previous is not None:
            flow = flow_picture(self.estimate(self.previous, luma), uncentred=self.uncentred)
            self.spool.append(simplejpeg.encode_jpeg(flow, self.quality, "RGB", "444"))
        self.previous = luma


def gradient_of(previous: Picture, following: Picture) -> Picture:
    """TG of two pictures of one form: what `manifests.gradient` defines, each plane in one pass of vector instructions.

    RGB frames: `temporal_gradient`. Planes: the same for luma, `temporal_gradient_chroma` for both chroma planes.
    """
    if isinstance(previous, Planes):
        following = cast(Planes, following)
        return Planes(
            _half_difference(previous.y, following.y, _GRADIENT_SHIFT),
            _half_difference(previous.cb, following.cb, _CHROMA_SHIFT),
            _half_difference(previous.cr, following.cr, _CHROMA_SHIFT),
        )
    return _half_difference(previous, cast(Frame, following), _GRADIENT_SHIFT)


def _half_difference(previous: Frame, following: Frame, shift: float) -> Frame:
    return cast(Frame, cv2.addWeighted(previous, 0.5, following, -0.5, shift))


def _spool_file(scratch: Path, stack: ExitStack) -> BinaryIO:
    return cast(BinaryIO, stack.enter_context(Spool(scratch, SPOOL_BYTES_IN_MEMORY)))


def _seekable_file(scratch: Path, stack: ExitStack) -> BinaryIO:
    spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES_IN_MEMORY, dir=str(scratch))  # noqa: SIM115
    return cast(BinaryIO, stack.enter_context(spool))


def _sha256(path: Path, alive: Callable[[], None]) -> str:
    """The file's digest; says now and then that reading goes on, for files that take minutes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(4 * 1024 * 1024):
            digest.update(piece)
            alive()
    return digest.hexdigest()


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror}") from None
    return found.st_size, found.st_mtime_ns


def _judge(video: DecodedVideo, num_frames: int, settings: ExtractSettings) -> None:
    damage = "; ".join(_damage(video))
    if num_frames == 0:
        raise DecodeError(f"no frame could be decoded{': ' + damage if damage else ''}")
    if num_frames == 1:
        raise DecodeError("only 1 frame: a temporal gradient needs two")
    if damage and settings.on_damage == "fail":
        raise DecodeError(f"damaged ({damage}); {num_frames} frames decode")


def _damage(video: DecodedVideo) -> list[str]:
    packets = [f"{video.num_damaged_packets} damaged packets"] if video.num_damaged_packets else []
    return packets + [note for note in video.notes if note.startswith("the file breaks off")]


def _notes(video: DecodedVideo, num_frames: int) -> list[str]:
    notes = [f"{video.num_damaged_packets} damaged packets"] if video.num_damaged_packets else []
    if video.num_frames_header not in (-1, num_frames):
        notes.append(f"the header says {video.num_frames_header} frames, {num_frames} decode")
    return notes + video.notes
