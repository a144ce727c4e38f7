"""Small pictures of a video for the preview page: a film strip over its whole length, and a short clip as it moves."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from manifests.files import open_location
from manifests.gradient import Frame, temporal_gradient
from manifests.manifest_io import join
from manifests.records import VideoRow
from manifests.sample import decode_offsets, video_gop
from manifests.table import Manifest
from tgprep.decode.stored import stored_frames

_CLIP_SECONDS = 2.0
_MAX_ASPECT = 2.4


@dataclass(frozen=True, slots=True)
class PictureSize:
    """height: of a tile, pixels. strip, clip: number of tiles. quality: of WebP."""

    height: int
    strip: int
    clip: int
    quality: int


def size_for(num_videos: int) -> PictureSize:
    """Smaller pictures for more videos, so that a page stays within some 25 MB."""
    if num_videos <= 60:
        return PictureSize(96, 6, 16, 60)
    if num_videos <= 400:
        return PictureSize(72, 6, 12, 50)
    return PictureSize(56, 5, 8, 45)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Sheets of tiles in a row, RGB and TG, as base64 WebP. clip_seconds: how long the clip lasts as filmed.

    strip_frames, clip_frames: numbers (from 0) of the frames shown.
    """

    strip: tuple[str, str]
    clip: tuple[str, str]
    strip_frames: tuple[int, ...]
    clip_frames: tuple[int, ...]
    clip_seconds: float


def make_pictures(manifest: Manifest, row: VideoRow, size: PictureSize) -> Pictures:
    """Read the frames of a written video that are shown, and no others. OSError, ValueError where the shard is damaged."""
    last = row.num_frames - 2  # the last frame that has a gradient
    strip_frames = _spread(0, last, size.strip)
    fps = row.fps if row.fps > 0 else 25.0
    step = max(1, round(fps * _CLIP_SECONDS / size.clip))
    length = min(size.clip, last // step + 1)
    start = (last - (length - 1) * step) // 2
    clip_frames = tuple(start + step * number for number in range(length))
    shown = sorted({*strip_frames, *clip_frames})
    with open_location(join(manifest.root, row.shard)) as shard:
        if video_gop(manifest.header):
            tiles = _tiles_of_video(shard, row, shown, size)
        else:
            tiles = _tiles_of_jpegs(shard, row, shown, size, manifest.header.gradient.stored)
    return Pictures(
        _sheets([tiles[number] for number in strip_frames], size.quality),
        _sheets([tiles[number] for number in clip_frames], size.quality),
        strip_frames,
        clip_frames,
        length * step / fps,
    )


def _tiles_of_jpegs(
    shard: BinaryIO, row: VideoRow, shown: list[int], size: PictureSize, stored_tg: bool
) -> dict[int, tuple[Frame, Frame]]:
    """RGB and TG of each frame shown, small, in BGR; TG is stored or the difference to the frame after."""

    def index(kind: str) -> npt.NDArray[np.int64]:
        shard.seek(getattr(row.members, f"{kind}_index_offset"))
        return decode_offsets(shard.read(getattr(row.members, f"{kind}_index_bytes"))).astype(np.int64)

    offsets = {kind: index(kind) for kind in ("rgb", "tg")[: 1 + stored_tg]}

    def jpeg(kind: str, number: int) -> bytes:
        shard.seek(getattr(row.members, f"{kind}_offset") + int(offsets[kind][number]))
        return shard.read(int(offsets[kind][number + 1] - offsets[kind][number]))

    tiles: dict[int, tuple[Frame, Frame]] = {}
    for number in shown:
        if stored_tg:
            tiles[number] = _small(jpeg("rgb", number), size), _small(jpeg("tg", number), size)
        else:
            frames = [simplejpeg.decode_jpeg(jpeg("rgb", at), colorspace="BGR") for at in (number, number + 1)]
            tiles[number] = _shrunk(frames[0], size), _shrunk(temporal_gradient(*frames), size)
    return tiles


def _tiles_of_video(
    shard: BinaryIO, row: VideoRow, shown: list[int], size: PictureSize
) -> dict[int, tuple[Frame, Frame]]:
    """The same from a stored video, decoded up to the last frame shown."""
    tiles: dict[int, tuple[Frame, Frame]] = {}
    before = -2, np.empty(0, np.uint8)
    for number, rgb in stored_frames(shard, row, {*shown, *(number + 1 for number in shown)}):
        frame = np.ascontiguousarray(rgb[..., ::-1])
        if before[0] == number - 1 and before[0] in shown:
            tiles[before[0]] = _shrunk(before[1], size), _shrunk(temporal_gradient(before[1], frame), size)
        before = number, frame
    return tiles


def _spread(first: int, last: int, count: int) -> tuple[int, ...]:
    count = min(count, last - first + 1)
    return tuple(first + (2 * place + 1) * (last - first + 1) // (2 * count) for place in range(count))


def _small(jpeg: bytes, size: PictureSize) -> Frame:
    """A decoded frame of the tile's height; libjpeg does the coarse part of the scaling."""
    frame: Frame = simplejpeg.decode_jpeg(jpeg, colorspace="BGR", min_height=size.height, min_width=1, min_factor=1)
    return _shrunk(frame, size)


def _shrunk(frame: Frame, size: PictureSize) -> Frame:
    height, width = frame.shape[:2]
    wanted = max(8, min(round(size.height * width / height), round(size.height * _MAX_ASPECT)))
    return np.asarray(cv2.resize(frame, (wanted, size.height), interpolation=cv2.INTER_AREA), np.uint8)


def _sheets(pairs: list[tuple[Frame, Frame]], quality: int) -> tuple[str, str]:
    rgb, tg = (_webp(np.hstack([pair[kind] for pair in pairs]), quality) for kind in (0, 1))
    return rgb, tg


def _webp(sheet: Frame, quality: int) -> str:
    done, data = cv2.imencode(".webp", sheet, [cv2.IMWRITE_WEBP_QUALITY, quality])
    assert done, sheet.shape
    return base64.b64encode(data.tobytes()).decode()
