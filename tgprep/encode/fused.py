"""JPEG files of pictures and of their temporal gradients from one cosine transform (`--encoder fused`).

The gradient (manifests.gradient) is affine, and so are the step from limited to full range and the cosine transform: the
transform of TG is half the difference of the transforms of two pictures, and the range is a factor in the quantiser. So
neither full-range planes nor gradient planes are ever computed. The files are baseline JPEG, 4:2:0, with libjpeg's tables.

The rest of the program uses `picture_encoder`, and `compile_kernels` to pay for the compilation beforehand.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manifests.console import say
from manifests.gradient import Frame
from manifests.locks import wait_for_lock
from tgprep.decode.frames import DecodeError, Picture, Planes
from tgprep.decode.planes import CHROMA_NO_MOTION, FULL, LIMITED_CHROMA, LIMITED_LUMA, LUMA_NO_MOTION, Range, to_range
from tgprep.encode import fused_kernels as kernels
from tgprep.encode import jpeg_tables as tables
from tgprep.encode.fused_kernels import LANES, QUICK, STEPS

_UINT8 = np.dtype(np.uint8)
_COMPILE_SECONDS = 60.0
_BYTES_PER_BLOCK = 256  # 64 numbers of at most 26 bits, and the eight bytes written at once


class PlaneEncoder:
    """Encodes pictures of one size, quality and range in order; keeps the transform of the previous one.

    height, width: 1 to 65,500 pixels. quality: 1 to 100. gradients: whether they will be used.
    limited: luma 16..235 and chroma 16..240 stand for 0..255 (levels outside are clipped); else planes are full range as in JPEG.
    """

    def __init__(self, height: int, width: int, quality: int, *, limited: bool, gradients: bool = True) -> None:
        start = tables.header(height, width, quality)
        # Geometry: rows and columns of squares of 16x16 pixels.
        rows, columns = -(-height // 16), -(-width // 16)
        half = (-(-height // 2), -(-width // 2))
        self._shapes = ((height, width), half, half)
        self._rows, (self._size, row_blocks) = rows, _sizes(self._shapes, rows, columns)
        self._order, self._interval = _order(self._size, columns), 6 * tables.restart_interval(columns)
        # Quantisation, with the range folded in; axes: plane, then picture and gradient.
        ranges = (LIMITED_LUMA, LIMITED_CHROMA, LIMITED_CHROMA) if limited else (FULL, FULL, FULL)
        factors = [_quantisation(levels, quality, chroma=number > 0) for number, levels in enumerate(ranges)]
        self._clip = np.array([[levels.low, levels.high] for levels in ranges], np.uint8)
        self._shifts = np.array([shifts for shifts, _ in factors], np.float32).reshape(3, 16)
        self._scales = np.array([scales for _, scales in factors], np.float32).reshape(3, 128)
        # Output: twice the room, as every byte could be 0xFF and have a zero put behind it. Untouched pages take no memory.
        room = 6 * rows * columns * _BYTES_PER_BLOCK + 64
        self._start, self._out = len(start), np.empty((2, len(start) + 2 * room), np.uint8)
        self._out[:, : len(start)] = np.frombuffer(start, np.uint8)
        self._raw = np.empty(self._interval * _BYTES_PER_BLOCK + 64, np.uint8)
        # Scratch space, and the coefficients of the previous picture.
        self._padded = np.empty(64 * int((self._size[:, 2] * self._size[:, 3]).max()), np.uint8)
        self._work = np.zeros(64 * LANES, np.float32)
        self._coefficients = np.zeros(64 * rows * row_blocks * gradients, np.float32)
        self._gradients = gradients
        self._levels, self._marks = np.zeros((2, 64 * row_blocks), np.int16), np.zeros((2, 4 * row_blocks), np.uint16)
        self._where = np.zeros((3, 2), np.int64)
        self._num_pictures = 0

    def restart(self) -> None:
        """Begin a new video: the next picture has no gradient."""
        self._num_pictures = 0

    def encode(self, y: Frame, cb: Frame, cr: Frame, *, left: bool = False) -> tuple[bytes, bytes | None]:
        """Return the JPEG files of a picture and of TG from the previous picture (None for the first, or without gradients).

        y uint8[height, width], cb and cr half the size, rounded up; rows may have a stride, pixels within a row may not.
        left: chroma is sampled at the left of two pixels, and is moved midway (`planes.midway`).
        """
        for number, (plane, shape) in enumerate(zip((y, cb, cr), self._shapes, strict=True)):
            if plane.dtype != _UINT8 or plane.shape != shape or (shape[1] > 1 and plane.strides[1] != 1):
                raise ValueError(
                    f"expected rows of uint8{shape}, got {plane.dtype}{plane.shape}, strides {plane.strides}"
                )
            self._where[number, 0] = plane.__array_interface__["data"][0]
            self._where[number, 1] = plane.strides[0]
        gradient = self._gradients and self._num_pictures > 0
        self._num_pictures += 1
        end, gradient_end = kernels.encode(
            self._where, self._rows, self._size, self._clip, self._shifts, self._scales, kernels.PLACES, self._padded, self._work, self._coefficients,
            self._levels, self._marks, self._order, self._interval, _CODES, _STEPS, _QUICK, self._raw, self._out, self._start, gradient, left,
        )  # fmt: skip
        return self._out[0, :end].tobytes(), self._out[1, :gradient_end].tobytes() if gradient else None


_encoder_of_size = functools.lru_cache(maxsize=1)(PlaneEncoder)  # most videos of a data set have one size


def picture_encoder(
    quality: int, *, gradients: bool, own: bool = False
) -> Callable[[Picture], tuple[bytes, bytes | None]]:
    """Return the encoder of a video: a function that takes its pictures, which must be planes, in order.

    It returns the JPEG file of a picture, and that of TG from the picture before (None for the first, or without `gradients`).
    Encode one video at a time, or make an `own` encoder for each: else two of one size would share the previous picture.
    """
    compile_kernels()
    encoder: PlaneEncoder | None = None
    limited = False

    def encode(planes: Picture) -> tuple[bytes, bytes | None]:
        nonlocal encoder, limited
        if not isinstance(planes, Planes):
            raise DecodeError("the decoder gives RGB frames: --space rgb takes them")
        if encoder is None:
            # The range of the first picture is that of the video, as it decides the quantiser.
            limited = planes.limited
            make = PlaneEncoder if own else _encoder_of_size
            height, width = planes.y.shape
            encoder = make(height, width, quality, limited=limited, gradients=gradients)
            encoder.restart()
        planes = to_range(planes, limited=limited)
        return encoder.encode(planes.y, planes.cb, planes.cr, left=planes.left)

    return encode


@functools.cache
def compile_kernels() -> None:
    """Compile the kernels (seconds, once on a machine) or load them from numba's cache.

    Of several processes one compiles and the others wait for it. A damaged cache is replaced; without a place for a cache
    every process compiles for itself.
    """
    with contextlib.ExitStack() as stack:
        # One process compiles; the lock is only a courtesy, and its failure is no reason to stop.
        if not kernels.has_cached_code():  # loading needs no lock
            with contextlib.suppress(OSError):
                place = Path(tempfile.gettempdir()) / f"tgprep-compile-{os.getuid()}.lock"
                lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
                stack.callback(os.close, lock)
                # Not for ever: the process that compiles may hang.
                wait_for_lock(lock, timeout_seconds=_COMPILE_SECONDS, give_up=kernels.has_cached_code)
        try:
            _encode_test_picture()
        except Exception as error:  # raised by numba's cache: a full disk, a torn file
            say(f"compiled again, as the cached code cannot be used ({type(error).__name__}: {error})")
            kernels.renew_code(cached=True)
            try:
                _encode_test_picture()
            except Exception:  # the new code cannot be written either
                kernels.renew_code(cached=False)
                _encode_test_picture()


def _encode_test_picture() -> None:
    grey = np.full((16, 16), 128, np.uint8)
    PlaneEncoder(16, 16, 95, limited=False).encode(grey, grey[::2, :8], grey[::2, :8])


def _sizes(shapes: Sequence[tuple[int, int]], rows: int, columns: int) -> tuple[npt.NDArray[np.int64], int]:
    """`size` of the kernels for rows x columns squares, and the number of blocks of a row of squares, filled up to chunks."""
    sizes, row_blocks = [], 0
    for (height, width), factor in zip(shapes, (2, 1, 1), strict=True):
        wide = -(-factor * columns // 8) * 8
        sizes.append((height, width, factor, wide, 64 * row_blocks, 64 * rows * row_blocks))
        row_blocks += factor * -(-wide // LANES) * LANES
    return np.array(sizes), row_blocks


def _order(size: npt.NDArray[np.int64], columns: int) -> npt.NDArray[np.int64]:
    """`order` of the kernels: four blocks of Y, one of Cb, one of Cr, square by square."""
    column = np.arange(columns)
    order = np.empty((columns, 6, 3), np.int64)
    parts = [(0, down, 2 * column + right) for down in (0, 1) for right in (0, 1)]
    for place, (plane, block_row, block_column) in enumerate([*parts, (1, 0, column), (2, 0, column)]):
        chunks = -(-int(size[plane, 3]) // LANES)
        chunk, lane = block_row * chunks + block_column // LANES, block_column % LANES
        base = size[plane, 4] + chunk * 64 * LANES
        order[:, place] = np.stack([base + lane, np.full_like(lane, plane), base // 16 + lane], axis=1)
    return order.reshape(-1, 3)


def _quantisation(
    levels: Range, quality: int, *, chroma: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """`shifts` [2, 8] and `scales` [2, 64] of a plane, for picture and gradient."""
    # Only the coefficient of both frequencies 0 is shifted.
    shifts, no_motion = np.zeros((2, 8)), CHROMA_NO_MOTION if chroma else LUMA_NO_MOTION
    shifts[:, 0] = 64 * (levels.shift - 128) / levels.scale, 128 * (no_motion - 128) / levels.scale
    # The kernels' transform leaves these factors out.
    omitted = np.where(np.arange(8) == 0, 1.0, np.sqrt(2) * np.cos(np.arange(8) * np.pi / 16))
    steps = tables.quantiser(quality, chroma=chroma).reshape(8, 8)
    scales = levels.scale / (8 * steps * omitted[:, None] * omitted[None, :])
    # A chunk's order is 8 * u + v; TG is half a difference.
    return shifts, np.stack([scales.T, scales.T / 2]).reshape(2, 64)


def _codes(ac: bool) -> npt.NDArray[np.uint32]:
    """`codes` of the kernels: code * 32 + bits by symbol, with room below the code for the bits of its value."""
    codes = np.zeros((2, 256), np.uint32)
    chosen = (tables.LUMA_AC, tables.CHROMA_AC) if ac else (tables.LUMA_DC, tables.CHROMA_DC)
    for row, table in enumerate(chosen):
        for symbol, (code, bits) in table.codes().items():
            size = symbol & 15  # bits of the value that follows
            codes[row, symbol] = (code << size) << 5 | (bits + size)
    return codes


def _with_values(codes: npt.NDArray[np.uint32], levels: range) -> npt.NDArray[np.uint32]:
    """Codes by the size of a level [..., 16] -> codes with the level's bits [..., levels]."""
    sizes = np.array([abs(level).bit_length() for level in levels])
    values = np.array([level if level > 0 else level + (1 << abs(level).bit_length()) - 1 for level in levels])
    return codes[..., sizes] | np.asarray(values << 5, np.uint32)


_CODES = _codes(ac=True).reshape(-1)
_STEPS = _with_values(_codes(ac=False), range(-STEPS, STEPS)).reshape(-1)
_QUICK = _with_values(_codes(ac=True).reshape(2, 16, 16), range(-QUICK, QUICK)).reshape(-1)
