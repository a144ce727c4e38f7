"""Encode the frames of a video and their temporal gradients: JPEG files or one video, one frame in memory at a time."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import cv2
import numpy as np
import simplejpeg

from manifests.gradient import Frame
from manifests.records import MAX_PICTURE_PIXELS, WRITTEN, SourceVideo, VideoRow
from manifests.sample import MAX_MEMBER_BYTES, EncodedVideo, FrameSpool, MemberTooLargeError, sample_facts
from tgprep.config import ExtractSettings
from tgprep.decode.frames import DecodedVideo, DecodeError, Picture, Planes
from tgprep.decode.open import open_video
from tgprep.decode.planes import gradient_of, to_range
from tgprep.encode.flow import flow_estimator, flow_picture
from tgprep.encode.jpeg_tables import MAX_SIDE

if TYPE_CHECKING:
    from tgprep.encode.h264 import Mp4Writer

_BYTES_IN_MEMORY = 32 * 1024 * 1024  # of a spool, before it becomes a temporary file


def encode_video(
    source: SourceVideo,
    path: Path,
    settings: ExtractSettings,
    scratch: Path,
    stack: ExitStack,
    on_frame: Callable[[int], None] = lambda num_frames: None,
) -> tuple[EncodedVideo, VideoRow]:
    """Decode a video and encode its frames and gradients; the row has no shard yet.

    scratch: folder for the spools of long videos. stack: owns the spools; close it once the sample is packed.
    on_frame is called with the number of frames so far. Raises DecodeError with the reason for the user.
    """
    # A file that changes while it is read would not be the file of the digest.
    state = file_state(path)
    source_sha256 = file_sha256(path, on_piece=lambda: on_frame(0))
    video = open_video(
        path,
        decoder=settings.decoder,
        space=settings.space,
        short_side=settings.short_side,
        as_coded=settings.encoder == "fused",
    )
    try:
        # One pass: every picture is encoded as it comes, so that memory does not grow with the video.
        encoder = SampleEncoder(settings, scratch, stack, video.fps)
        for picture in video.frames:
            encoder.add(picture)
            on_frame(encoder.num_frames)
    finally:
        video.close()
    refuse_change(path, state)
    note = _note(video, encoder.num_frames, settings)
    return encoder.finish(source, video, source_sha256, note)


class SampleEncoder:
    """Encodes the pictures of one sample as they come."""

    def __init__(
        self, settings: ExtractSettings, scratch: Path, stack: ExitStack, fps: float, *, num_at_once: int = 1
    ) -> None:
        """num_at_once: samples that are encoded at the same time, and share the memory for spools."""
        self._settings = settings

        def spool() -> BinaryIO:
            return _spool_file(scratch, stack, _BYTES_IN_MEMORY // num_at_once)

        self._flow = _FlowWriter(settings, FrameSpool(spool())) if settings.flow != "none" else None
        self._writer = _frame_writer(settings, spool, stack, fps, own=num_at_once > 1)
        self.num_frames = self._height = self._width = 0

    def add(self, picture: Picture) -> None:
        """Encode one picture. DecodeError with the reason for the user, MemberTooLargeError."""
        # All pictures must have the size of the first one, and JPEG files have a largest size.
        height, width = (picture.y if isinstance(picture, Planes) else picture).shape[:2]
        if not self._height:
            self._height, self._width = height, width
            if self._settings.store == "frames" and max(height, width) > MAX_SIDE:
                raise DecodeError(
                    f"its picture of {width}x{height} is larger than a JPEG file holds ({MAX_SIDE} a side); --short-side makes it fit"
                )
            if height * width > MAX_PICTURE_PIXELS:
                raise DecodeError(
                    f"its picture of {width}x{height} has more than {MAX_PICTURE_PIXELS} pixels; --short-side makes it fit"
                )
        elif (self._height, self._width) != (height, width):
            raise DecodeError(
                f"the picture size changes from {self._width}x{self._height} to {width}x{height} at frame {self.num_frames}"
            )
        self._writer.add(picture)
        if self._flow is not None:
            self._flow.add(picture)
        self.num_frames += 1
        # Checked at every frame, before a video without end fills the disk.
        if max(self._writer.num_bytes, self._flow.spool.num_bytes if self._flow else 0) > MAX_MEMBER_BYTES:
            raise MemberTooLargeError(f"its frames take over {MAX_MEMBER_BYTES} bytes after {self.num_frames}")

    def finish(
        self, source: SourceVideo, video: DecodedVideo, source_sha256: str, note: str
    ) -> tuple[EncodedVideo, VideoRow]:
        """The sample and its row, which has no shard yet."""
        rgb, tg = self._writer.finish()
        row = source.row(
            WRITTEN,
            num_frames=self.num_frames,
            num_frames_header=-1 if source.is_segment else video.num_frames_header,
            fps=video.fps,
            height=self._height,
            width=self._width,
            codec=video.codec,
            pixel_format=video.pixel_format,
            rotation_degrees=video.rotation_degrees,
            source_sha256=source_sha256,
            note=note,
        )
        meta = sample_facts(row, self._settings.model_dump(), self._settings.coding)
        flow = self._flow.spool if self._flow else None
        return EncodedVideo(key=source.key, meta=meta, rgb=rgb, tg=tg, flow=flow), row


def _frame_writer(
    settings: ExtractSettings, spool: Callable[[], BinaryIO], stack: ExitStack, fps: float, *, own: bool
) -> _JpegWriter | Mp4Writer:
    # PyAV and numba are imported by the settings that need them only.
    if settings.store == "video":
        from tgprep.encode.h264 import Mp4Writer

        mp4 = Mp4Writer(spool(), settings.crf, settings.gop, fps, settings.tune)
        stack.callback(mp4.close)
        return mp4
    rgb = FrameSpool(spool())
    tg = FrameSpool(spool()) if settings.gradient == "stored" else None
    if settings.encoder == "libjpeg":
        return _JpegWriter(_LibjpegEncoder(settings, gradients=tg is not None), rgb, tg)

    from tgprep.encode.fused import picture_encoder

    return _JpegWriter(picture_encoder(settings.quality, gradients=tg is not None, own=own), rgb, tg)


@dataclass(frozen=True, slots=True)
class _JpegWriter:
    """Appends to two spools what `encode` returns for each picture: its JPEG file, and that of its gradient if there is one."""

    encode: Callable[[Picture], tuple[bytes, bytes | None]]
    rgb: FrameSpool
    tg: FrameSpool | None

    @property
    def num_bytes(self) -> int:
        return max(self.rgb.num_bytes, self.tg.num_bytes if self.tg else 0)

    def add(self, picture: Picture) -> None:
        jpeg, gradient = self.encode(picture)
        self.rgb.append(jpeg)
        if self.tg is not None and gradient is not None:
            self.tg.append(gradient)

    def finish(self) -> tuple[FrameSpool, FrameSpool | None]:
        return self.rgb, self.tg


class _LibjpegEncoder:
    """Encodes the pictures of a video with libjpeg-turbo; keeps the previous one for the gradient."""

    def __init__(self, settings: ExtractSettings, *, gradients: bool) -> None:
        self.settings = settings
        self.by_opencv = "opencv_frames" in settings.compat.split(",")
        self.gradients = gradients
        self.previous: Picture | None = None

    def __call__(self, picture: Picture) -> tuple[bytes, bytes | None]:
        jpeg = self._jpeg(picture)
        if not self.gradients:
            return jpeg, None
        if self.settings.gradient_source == "jpeg":
            picture = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
        previous, self.previous = self.previous, picture
        return jpeg, None if previous is None else self._jpeg(gradient_of(previous, picture))

    def _jpeg(self, picture: Picture) -> bytes:
        quality = self.settings.quality
        if isinstance(picture, Planes):
            y, (height, width) = picture.y, picture.y.shape
            if height % 2 or width % 2:
                # libjpeg-turbo reads an even number of rows and columns, so there must be memory behind odd ones.
                even = cv2.copyMakeBorder(y, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
                y = cast(Frame, even)[:height, :width]
            return cast(bytes, simplejpeg.encode_jpeg_yuv_planes(y, picture.cb, picture.cr, quality))
        if self.by_opencv:
            done, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
            assert done
            return jpeg.tobytes()
        return cast(bytes, simplejpeg.encode_jpeg(picture, quality, "RGB", self.settings.subsampling))


class _FlowWriter:
    """Encodes the optical flow between neighbouring pictures, in 4:4:4: its channels are no colours, so none may be halved."""

    def __init__(self, settings: ExtractSettings, spool: FrameSpool) -> None:
        assert settings.flow != "none"
        self.spool = spool
        self.quality = settings.quality
        self.uncentred = "flow_magnitude" in settings.compat.split(",")
        self.estimate = flow_estimator(settings.flow)
        self.previous: Frame | None = None

    def add(self, picture: Picture) -> None:
        luma = (
            np.ascontiguousarray(to_range(picture, limited=False).y)  # the decoder's own rows may have a stride
            if isinstance(picture, Planes)
            else cast(Frame, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
        )
        if self.previous is not None:
            flow = flow_picture(self.estimate(self.previous, luma), uncentred=self.uncentred)
            self.spool.append(simplejpeg.encode_jpeg(flow, self.quality, "RGB", "444"))
        self.previous = luma


def _spool_file(scratch: Path, stack: ExitStack, num_bytes: int) -> BinaryIO:
    """A file in memory, or in `scratch` if the video is long; it has no name and disappears with the process."""
    file = tempfile.SpooledTemporaryFile(num_bytes, dir=str(scratch))  # noqa: SIM115 - the stack closes it
    return cast(BinaryIO, stack.enter_context(file))


def file_sha256(path: Path, on_piece: Callable[[], None]) -> str:
    """The file's digest. on_piece shows the supervisor that reading goes on, for files that take minutes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(4 * 1024 * 1024):
            digest.update(piece)
            on_piece()
    return digest.hexdigest()


def refuse_change(path: Path, state: tuple[int, int]) -> None:
    """DecodeError if a file is not as `file_state` gave it before it was read."""
    if file_state(path) != state:
        raise DecodeError("the file was changed while it was read")


def file_state(path: Path) -> tuple[int, int]:
    """Size and time of change of a file. DecodeError if it cannot be read."""
    try:
        status = path.stat()
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror}") from None
    return status.st_size, status.st_mtime_ns


def _note(video: DecodedVideo, num_frames: int, settings: ExtractSettings) -> str:
    """What the row says about a video that has been read; DecodeError if it is unusable."""
    notes = [f"{video.num_damaged_packets} damaged packets"] if video.num_damaged_packets else []
    damage = "; ".join(notes + [note for note in video.notes if note.startswith("the file breaks off")])
    if num_frames == 0:
        raise DecodeError(f"no frame could be decoded{': ' + damage if damage else ''}")
    if num_frames == 1:
        raise DecodeError("only 1 frame: a temporal gradient needs two")
    if damage and settings.on_damage == "fail":
        raise DecodeError(f"damaged ({damage}); {num_frames} frames decode")
    if video.num_frames_header not in (-1, num_frames):
        notes.append(f"the header says {video.num_frames_header} frames, {num_frames} decode")
    return "; ".join(notes + video.notes)
