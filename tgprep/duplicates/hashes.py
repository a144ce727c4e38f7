"""Perceptual hashes of a few frames a video: the signs of the low cosine frequencies of the grey picture, and of parts of it.

A mirror turns the signs of the odd horizontal frequencies, so a hash gives that of the mirrored picture. A cropped copy shows about
one of the parts of its original. Re-encoding and scaling hardly change low frequencies.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from manifests.files import open_location
from manifests.manifest_io import join
from manifests.records import VideoRow
from manifests.sample import video_gop
from manifests.table import Manifest
from tgprep.decode.stored import decode_jpeg, jpeg_reader, stored_planes

Grey = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]

SIDE = 64  # of the grey pictures that are compared, whatever the shape of the video
# Parts of a picture, as left, top and side in fractions: all of it, and what a crop may have left.
WINDOWS = (
    (0.0, 0.0, 1.0),
    *((x * 0.15, y * 0.15, 0.85) for x, y in ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5))),
    (0.15, 0.15, 0.7),
)
_SECONDS = 0.6  # from one frame to the next
_MIN_FRAMES, _MAX_FRAMES = 5, 16  # of a video
_MIN_CONTRAST = 4.0  # grey levels; a flatter picture has no shapes to compare
# The 64 lowest frequencies (row, column), lowest first, without the constant one.
FREQUENCIES = sorted(itertools.product(range(12), range(12)), key=lambda f: (f[0] + f[1], f[0]))[1:65]
MIRROR = np.uint64(sum(1 << bit for bit, (_, column) in enumerate(FREQUENCIES) if column % 2))
_ROWS, _COLUMNS = np.array(FREQUENCIES).T
_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class VideoHashes:
    """The hashes of a video. frames: int32[F], numbers of the frames. hashes: uint64[F, W], one for each of WINDOWS."""

    frames: npt.NDArray[np.int32]
    hashes: Hashes


def hash_video(manifest: Manifest, row: VideoRow) -> VideoHashes:
    """Hash some frames of a written video. Raises OSError or ValueError if its shard is damaged."""
    step = max(1, round((row.fps if row.fps > 0 else 25.0) * _SECONDS))
    count = min(row.num_frames, max(_MIN_FRAMES, min(_MAX_FRAMES, row.num_frames // step)))
    numbers = ((2 * np.arange(count) + 1) * row.num_frames // (2 * count)).tolist()
    pictures = read_grey(manifest, row, numbers)
    kept = [place for place, picture in enumerate(pictures) if picture.std() >= _MIN_CONTRAST]
    hashes = np.array([[hash_of(picture, window) for window in WINDOWS] for picture in pictures[kept]], np.uint64)
    return VideoHashes(np.array(numbers, np.int32)[kept], hashes.reshape(-1, len(WINDOWS)))


def hash_of(picture: Grey, window: tuple[float, float, float] = WINDOWS[0]) -> np.uint64:
    """The hash of a part of a grey picture [SIDE, SIDE]."""
    left, top, side = (round(SIDE * part) for part in window)
    part = cv2.resize(picture[top : top + side, left : left + side], (32, 32), interpolation=cv2.INTER_AREA)
    levels = cv2.dct(part.astype(np.float32))[_ROWS, _COLUMNS]
    return np.uint64(_BITS[levels > 0].sum(dtype=np.uint64))


def read_grey(manifest: Manifest, row: VideoRow, numbers: list[int]) -> Grey:
    """Frames as grey pictures uint8[F, SIDE, SIDE]. numbers: rising."""
    with open_location(join(manifest.root, row.shard)) as shard:
        if video_gop(manifest.header):
            last, wanted = numbers[-1], set(numbers)
            planes = zip(range(last + 1), stored_planes(shard, row), strict=False)
            pictures = [_small(frame.y) for number, frame in planes if number in wanted]
        else:
            read, size = jpeg_reader(shard, row, "rgb"), (row.height, row.width)
            # libjpeg does the coarse part of the scaling.
            how = {"min_height": SIDE, "min_width": SIDE, "min_factor": 1}
            pictures = [_small(decode_jpeg(read(number), *size, "GRAY", **how)) for number in numbers]
    if len(pictures) != len(numbers):
        raise ValueError(f"{len(pictures)} of {len(numbers)} frames decode")
    return np.array(pictures, np.uint8).reshape(-1, SIDE, SIDE)


def _small(picture: npt.NDArray[np.uint8]) -> Grey:
    flat = picture[..., 0] if picture.ndim == 3 else picture
    return np.asarray(cv2.resize(flat, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)
