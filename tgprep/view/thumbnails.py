"""Make small pictures of a video for the preview page: a film strip over its length, and a short clip that moves."""

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
    """The tiles of a video."""

    height: int  # of a tile, pixels
    strip: int  # number of tiles
    clip: int  # number of tiles
    quality: int  # of WebP


def size_for(num_videos: int) -> PictureSize:
    """Choose smaller pictures for more videos, so that a page stays within about 25 MB."""
    if num_videos <= 60:
        return PictureSize(96, 6, 16, 60)
    if num_videos <= 400:
        return PictureSize(72, 6, 12, 50)
    return PictureSize(56, 5, 8, 45)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Sheets of tiles in a row, as base64 WebP."""

    strip: tuple[str, str]  # RGB and TG
    clip: tuple[str, str]  # RGB and TG
    strip_frames: tuple[int, ...]  # frame numbers, from 0
    clip_frames: tuple[int, ...]
    clip_seconds: float  # as filmed


def make_pictures(manifest: Manifest, row: VideoRow, size: PictureSize) -> Pictures:
    """Read only the frames of a written video that are shown. Raises OSError or ValueError if the shard is damaged."""
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
    """RGB and TG tiles of each frame shown, in BGR; TG is stored or the gradient to the next frame."""

    offsets: dict[str, tuple[int, npt.NDArray[np.int64]]] = {}
    for kind in ("rgb", "tg")[: 1 + stored_tg]:
        index_offset, index_bytes, frames_offset, _ = row.members.place(kind)
        shard.seek(index_offset)
        offsets[kind] = frames_offset, decode_offsets(shard.read(index_bytes)).astype(np.int64)

    def jpeg(kind: str, number: int) -> bytes:
        start, index = offsets[kind]
        shard.seek(start + int(index[number]))
        return shard.read(int(index[number + 1] - index[number]))

    tiles: dict[int, tuple[Frame, Frame]] = {}
    for number in shown:
        if stored_tg:
            tiles[number] = _small(jpeg("rgb", number), size), _small(jpeg("tg", number), size)
        else:
            frames = [simplejpeg.decode_jpeg(jpeg("rgb", at), colorspace="BGR") for at in (number, number + 1)]
            tiles[number] = _shrink(frames[0], size), _shrink(temporal_gradient(*frames), size)
    return tiles


def _tiles_of_video(
    shard: BinaryIO, row: VideoRow, shown: list[int], size: PictureSize
) -> dict[int, tuple[Frame, Frame]]:
    """Like `_tiles_of_jpegs`, from a stored video that is decoded up to the last frame shown."""
    tiles: dict[int, tuple[Frame, Frame]] = {}
    previous_number, previous = -2, np.empty(0, np.uint8)
    for number, rgb in stored_frames(shard, row, {*shown, *(number + 1 for number in shown)}):
        frame = np.ascontiguousarray(rgb[..., ::-1])
        if previous_number == number - 1 and previous_number in shown:
            tiles[previous_number] = _shrink(previous, size), _shrink(temporal_gradient(previous, frame), size)
        previous_number, previous = number, frame
    return tiles


def _spread(first: int, last: int, count: int) -> tuple[int, ...]:
    """Middles of `count` equal parts of first..last, or all numbers if there are fewer."""
    count = min(count, last - first + 1)
    return tuple(first + (2 * tile + 1) * (last - first + 1) // (2 * count) for tile in range(count))


def _small(jpeg: bytes, size: PictureSize) -> Frame:
    """Decode a frame at the tile's height; libjpeg does the coarse part of the scaling."""
    frame: Frame = simplejpeg.decode_jpeg(jpeg, colorspace="BGR", min_height=size.height, min_width=1, min_factor=1)
    return _shrink(frame, size)


def _shrink(frame: Frame, size: PictureSize) -> Frame:
    height, width = frame.shape[:2]
    tile_width = max(8, min(round(size.height * width / height), round(size.height * _MAX_ASPECT)))
    return np.asarray(cv2.resize(frame, (tile_width, size.height), interpolation=cv2.INTER_AREA), np.uint8)


def _sheets(pairs: list[tuple[Frame, Frame]], quality: int) -> tuple[str, str]:
    rgb, tg = (_webp(np.hstack([pair[kind] for pair in pairs]), quality) for kind in (0, 1))
    return rgb, tg


def _webp(sheet: Frame, quality: int) -> str:
    done, data = cv2.imencode(".webp", sheet, [cv2.IMWRITE_WEBP_QUALITY, quality])
    assert done, sheet.shape
    return base64.b64encode(data.tobytes()).decode()
