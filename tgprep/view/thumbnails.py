"""Make small pictures of a video for the preview page: a film strip over its length, and a short clip that moves."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

import cv2
import numpy as np

from manifests.files import open_location
from manifests.gradient import ZERO_LEVEL, Frame, temporal_gradient
from manifests.manifest_io import join
from manifests.records import VideoRow
from manifests.sample import video_gop
from manifests.table import Manifest
from tgprep.decode.stored import decode_jpeg, jpeg_reader, stored_frames

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
    return PictureSize(72, 6, 12, 50) if num_videos <= 400 else PictureSize(56, 5, 8, 45)


def make_pictures(manifest: Manifest, row: VideoRow, size: PictureSize) -> dict[str, Any]:
    """Film strip and clip of a written video, and which frames they show, as the page's script expects them.

    Only the frames that are shown are read. Raises OSError or ValueError if the shard is damaged.
    """
    num_pairs = row.num_frames - 1  # the last frame has no gradient
    # The strip: the middle frames of equal parts of the video.
    num_tiles = min(size.strip, num_pairs)
    strip_frames = [(2 * tile + 1) * num_pairs // (2 * num_tiles) for tile in range(num_tiles)]
    # The clip: two seconds as filmed, in the middle of the video.
    fps = row.fps if row.fps > 0 else 25.0
    step = max(1, round(fps * _CLIP_SECONDS / size.clip))
    length = min(size.clip, (num_pairs - 1) // step + 1)
    start = (num_pairs - 1 - (length - 1) * step) // 2
    clip_frames = [start + step * tile for tile in range(length)]
    with open_location(join(manifest.root, row.shard)) as shard:
        tiles = _tiles(shard, manifest, row, {*strip_frames, *clip_frames}, size.height)
    return {
        "strip": _sheets([tiles[number] for number in strip_frames], size.quality),
        "clip": _sheets([tiles[number] for number in clip_frames], size.quality),
        "tiles": len(strip_frames),
        "frames": strip_frames,
        "clipTiles": length,
        "clipFrames": [clip_frames[0], clip_frames[-1]],
        "clipSeconds": round(length * step / fps, 3),
        "motion": round(float(np.mean([_motion(tg) for _, tg in tiles.values()])), 2),
    }


def _tiles(
    shard: BinaryIO, manifest: Manifest, row: VideoRow, numbers: set[int], height: int
) -> dict[int, tuple[Frame, Frame]]:
    """RGB and TG tiles of the frames with these numbers, in BGR; TG is stored, or the gradient to the next frame."""
    if manifest.header.gradient.stored:
        readers = jpeg_reader(shard, row, "rgb"), jpeg_reader(shard, row, "tg")
        tiles = {}
        for number in sorted(numbers):
            # libjpeg does the coarse part of the scaling.
            rgb, tg = (
                decode_jpeg(read(number), row.height, row.width, "BGR", min_height=height, min_width=1, min_factor=1)
                for read in readers
            )
            tiles[number] = _shrink(rgb, height), _shrink(tg, height)
        return tiles
    needed = sorted(numbers | {number + 1 for number in numbers})
    if video_gop(manifest.header):  # decoded up to the last frame shown
        decoded = stored_frames(shard, row, needed)
        frames = ((number, np.ascontiguousarray(rgb[..., ::-1])) for number, rgb in decoded)
    else:
        read = jpeg_reader(shard, row, "rgb")
        frames = ((number, decode_jpeg(read(number), row.height, row.width, "BGR")) for number in needed)
    return {
        number: (_shrink(frame, height), _shrink(temporal_gradient(frame, following), height))
        for (number, frame), (next_number, following) in pairwise(frames)
        if number in numbers and next_number == number + 1
    }


def _motion(tile: Frame) -> float:
    """Motion energy of a gradient: its mean distance from the grey of no motion, 0..128 levels."""
    return float(np.abs(tile.astype(np.int16) - ZERO_LEVEL).mean())


def _shrink(frame: Frame, height: int) -> Frame:
    width = round(height * frame.shape[1] / frame.shape[0])
    tile_width = max(8, min(width, round(height * _MAX_ASPECT)))
    return np.asarray(cv2.resize(frame, (tile_width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _sheets(pairs: list[tuple[Frame, Frame]], quality: int) -> list[str]:
    """A sheet of RGB tiles in a row and one of TG tiles, as base64 WebP."""
    sheets = []
    for tiles in zip(*pairs, strict=True):
        done, data = cv2.imencode(".webp", np.hstack(tiles), [cv2.IMWRITE_WEBP_QUALITY, quality])
        assert done
        sheets.append(base64.b64encode(data.tobytes()).decode())
    return sheets
