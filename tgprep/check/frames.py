"""Check the frames of a sample: every JPEG is complete and of the right size, and TG is the gradient of the RGB frames.

TG cannot be compared bit by bit: both it and the frames it is computed from went through JPEG. But a JPEG encoder errs by at
most half a quantisation step in each DCT coefficient, so the distance of two blocks has a bound that holds for any picture:
with R = rms of the luma steps / 2, |TG - TG(I_k, I_k+1)| <= R_TG + (R_k + R_k+1) / 2 + rounding, as rms over each 8x8 block.
The same holds for the mean of a block, with the step of the first coefficient alone, if no pixel was clipped at 0 or 255.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from manifests.gradient import Frame, temporal_gradient
from manifests.records import GradientCoding
from tgprep.decode.stored import decode_jpeg

# Rounding of the decoded luma, the two floors of the gradient, and the encoder's own integer DCT.
ROUNDING = 3.0
ROUNDING_OF_MEAN = 2.0
_BLOCK = 8


@dataclass(frozen=True, slots=True)
class JpegError:
    """The largest errors over an 8x8 luma block that quantisation can cause, in grey levels."""

    rms: float
    mean: float  # of the block's mean


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded frame and what is known of its errors."""

    frame: Frame
    error: JpegError
    unclipped: npt.NDArray[np.bool_]  # bool[H/8,W/8]: blocks in which no pixel is 0 or 255


class FrameError(Exception):
    """A frame is not what it should be; the message says how."""


def luma_error(jpeg: bytes) -> JpegError:
    """Read from a JPEG file the largest errors over an 8x8 luma block that its quantisation can cause.

    Raises FrameError if its tables cannot be read (ITU-T T.81: DQT and SOF segments come before the first scan).
    """
    tables: dict[int, JpegError] = {}
    luma_table = -1
    offset = 2
    while offset + 4 <= len(jpeg) and jpeg[offset] == 0xFF:
        marker, length = jpeg[offset + 1], struct.unpack_from(">H", jpeg, offset + 2)[0]
        segment = jpeg[offset + 4 : offset + 2 + length]
        if marker == 0xDB:  # DQT: one or more tables, of 8 or 16 bits a step
            while segment:
                size = 128 if segment[0] >> 4 else 64
                dtype = ">u2" if segment[0] >> 4 else "u1"
                steps = np.frombuffer(segment[1 : 1 + size], dtype).astype(np.float64)
                tables[segment[0] & 15] = JpegError(float(np.sqrt(np.mean(steps**2)) / 2), float(steps[0]) / 2 / _BLOCK)
                segment = segment[1 + size :]
        elif marker in (0xC0, 0xC1, 0xC2) and len(segment) >= 9:  # SOF: the first component is luma
            luma_table = segment[8]
        elif marker == 0xDA:
            break
        offset += 2 + length
    if luma_table not in tables:
        raise FrameError("its quantisation tables cannot be read")
    return tables[luma_table]


def decode(jpeg: bytes, height: int, width: int, colorspace: str = "GRAY") -> Frame:
    """Decode a complete JPEG file of the given size strictly: uint8[H,W] luma or uint8[H,W,3]. Raises FrameError otherwise."""
    if jpeg[:2] != b"\xff\xd8" or jpeg[-2:] != b"\xff\xd9":
        raise FrameError("it does not begin and end as a JPEG file does")
    try:
        frame = decode_jpeg(jpeg, height, width, colorspace, strict=True)
    except ValueError as error:
        raise FrameError(f"it does not decode ({error})") from None
    return frame[..., 0] if colorspace == "GRAY" else frame


def blocks(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The complete 8x8 blocks of [H,W] as [H/8,8,W/8,8]; partial blocks at the right and the bottom are left out."""
    rows, columns = values.shape[0] // _BLOCK, values.shape[1] // _BLOCK
    return values[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)


def check_frames(
    rgb: Iterator[bytes], tg: Iterator[bytes], coding: GradientCoding, height: int, width: int
) -> tuple[int, list[str]]:
    """Decode all frames of a sample; return the number of frames and what is wrong with each (frames count from 0).

    rgb, tg: the JPEG files in order; tg is not read if the data set stores no gradient.
    """
    problems: list[str] = []
    count = 0
    previous: Decoded | None = None
    from_jpeg = coding.source == "jpeg"
    for index, jpeg in enumerate(rgb):
        count += 1
        current: Decoded | None = None
        try:
            frame = decode(jpeg, height, width, "RGB" if from_jpeg else "GRAY")
            luma = frame[..., 0] if from_jpeg else frame
            unclipped = np.logical_not(blocks((luma == 0) | (luma == 255)).any(axis=(1, 3)))
            current = Decoded(frame, luma_error(jpeg), unclipped)
        except FrameError as error:
            problems.append(f"rgb frame {index}: {error}")
        # TG frame k-1 belongs to the RGB frames k-1 and k: it can be checked once both are decoded.
        if coding.stored and index:
            count += 1
            try:
                _compare(next(tg, b""), previous, current, from_jpeg, height, width)
            except FrameError as error:
                problems.append(f"tg frame {index - 1}: {error}")
        previous = current
    return count, problems


def _compare(
    jpeg: bytes, previous: Decoded | None, following: Decoded | None, from_jpeg: bool, height: int, width: int
) -> None:
    """Raise FrameError unless a stored TG frame is the gradient of its two frames; None is a frame that did not decode."""
    stored, own = decode(jpeg, height, width), luma_error(jpeg)
    if previous is None or following is None:
        return  # there is nothing to compare with, which is reported already
    expected = temporal_gradient(previous.frame, following.frame)
    if from_jpeg:
        expected = np.asarray(cv2.cvtColor(expected, cv2.COLOR_RGB2YCrCb)[..., 0], np.uint8)
    differences = blocks(np.subtract(stored, expected, dtype=np.float32))
    rms = float(np.sqrt(np.square(differences).mean(axis=(1, 3)).max(initial=0)))
    # Computed from these very pixels, only TG's own JPEG coding adds an error.
    limits = [("rms", rms, own.rms + ROUNDING)]
    if not from_jpeg:
        # Clipping moves the mean of a block further than quantisation alone can.
        means = np.abs(differences.mean(axis=(1, 3)))[previous.unclipped & following.unclipped]
        first, second = previous.error, following.error
        limits = [
            ("rms", rms, own.rms + (first.rms + second.rms) / 2 + ROUNDING),
            ("mean", float(means.max(initial=0)), own.mean + (first.mean + second.mean) / 2 + ROUNDING_OF_MEAN),
        ]
    for what, found, bound in limits:
        if found > bound:
            raise FrameError(
                f"it is not the temporal gradient of its two frames: an 8x8 block differs by {found:.1f} grey levels ({what}), "
                f"JPEG explains {bound:.1f} at most"
            )
