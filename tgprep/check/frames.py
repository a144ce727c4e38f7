"""Are the frames of a sample what they should be: every JPEG whole and of the right size, TG the gradient of the RGB frames.

TG cannot be equal to the bit: both it and the frames it is computed from went through JPEG. But a JPEG encoder errs by half a
quantisation step in each DCT coefficient at most, so the distance of two blocks has a bound that holds for any picture:
with R = rms of the luma steps / 2, |TG - TG(I_k, I_k+1)| <= R_TG + (R_k + R_k+1) / 2 + rounding, as rms over each 8x8 block.
The same holds for the mean of a block, with the step of the first coefficient alone, where no pixel was clipped at 0 or 255.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from manifests.gradient import Frame, temporal_gradient
from manifests.records import GradientCoding

# Rounding of the decoded luma, the two floors of the gradient, and the encoder's own integer DCT.
ROUNDING = 3.0
ROUNDING_OF_MEAN = 2.0
_BLOCK = 8


@dataclass(frozen=True, slots=True)
class JpegError:
    """The largest errors over an 8x8 luma block that quantisation makes, in grey levels: rms, and of the mean."""

    rms: float
    mean: float


@dataclass(frozen=True, slots=True)
class Decoded:
    """A frame, the error that its JPEG file may have, and bool[H/8,W/8]: blocks in which no pixel is 0 or 255 (not clipped)."""

    frame: Frame
    error: JpegError
    unclipped: npt.NDArray[np.bool_]


class FrameError(Exception):
    """A frame is not what it should be; the message says how."""


def luma_error(jpeg: bytes) -> JpegError:
    """The largest errors over an 8x8 luma block that quantisation makes in this JPEG file.

    FrameError where its tables cannot be read (ITU-T T.81: DQT and SOF segments come before the first scan).
    """
    tables: dict[int, JpegError] = {}
    used = -1
    place = 2
    while place + 4 <= len(jpeg) and jpeg[place] == 0xFF:
        marker, length = jpeg[place + 1], struct.unpack_from(">H", jpeg, place + 2)[0]
        segment = jpeg[place + 4 : place + 2 + length]
        if marker == 0xDB:
            while segment:
                size = 128 if segment[0] >> 4 else 64
                kind = ">u2" if segment[0] >> 4 else "u1"
                steps = np.frombuffer(segment[1 : 1 + size], kind).astype(np.float64)
                tables[segment[0] & 15] = JpegError(float(np.sqrt(np.mean(steps**2)) / 2), float(steps[0]) / 2 / _BLOCK)
                segment = segment[1 + size :]
        elif marker in (0xC0, 0xC1, 0xC2) and len(segment) >= 9:
            used = segment[8]  # the first component is luma
        elif marker == 0xDA:
            break
        place += 2 + length
    if used not in tables:
        raise FrameError("its quantisation tables cannot be read")
    return tables[used]


def decode(jpeg: bytes, height: int, width: int, colorspace: str = "GRAY") -> Frame:
    """A whole JPEG file of the given size, decoded strictly: uint8[H,W] luma or uint8[H,W,3]. FrameError where it is not one."""
    if jpeg[:2] != b"\xff\xd8" or jpeg[-2:] != b"\xff\xd9":
        raise FrameError("it does not begin and end as a JPEG file does")
    try:
        frame: Frame = simplejpeg.decode_jpeg(jpeg, colorspace=colorspace, strict=True)
    except ValueError as error:
        raise FrameError(f"it does not decode ({error})") from None
    if frame.shape[:2] != (height, width):
        raise FrameError(f"it is {frame.shape[1]}x{frame.shape[0]}, expected {width}x{height}")
    return frame[..., 0] if colorspace == "GRAY" else frame


def blocks(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The whole 8x8 blocks of [H,W] as [H/8,8,W/8,8]; a rest at the right and the bottom is left out."""
    rows, columns = values.shape[0] // _BLOCK, values.shape[1] // _BLOCK
    return values[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)


def _unclipped(frame: Frame) -> npt.NDArray[np.bool_]:
    luma = frame if frame.ndim == 2 else frame[..., 0]
    return np.logical_not(blocks((luma == 0) | (luma == 255)).any(axis=(1, 3)))


def check_frames(
    rgb: Iterator[bytes], tg: Iterator[bytes] | None, coding: GradientCoding, height: int, width: int
) -> tuple[int, list[str]]:
    """Decode all frames of a sample; gives their number and what is wrong, frame by frame (frames count from 0).

    rgb, tg: the JPEG files in order; tg None where the data set stores no gradient.
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
            current = Decoded(frame, luma_error(jpeg), _unclipped(frame))
        except FrameError as error:
            problems.append(f"rgb frame {index}: {error}")
        if tg is not None and index:
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
    stored, own = decode(jpeg, height, width), luma_error(jpeg)
    if previous is None or following is None:
        return  # what it would be compared with is damaged, and said to be
    expected = temporal_gradient(previous.frame, following.frame)
    if from_jpeg:  # computed from these very pixels: only TG's own JPEG lies between
        expected = np.asarray(cv2.cvtColor(expected, cv2.COLOR_RGB2YCrCb)[..., 0], np.uint8)
        bound, bound_of_mean = own.rms + ROUNDING, np.inf
    else:
        bound = own.rms + (previous.error.rms + following.error.rms) / 2 + ROUNDING
        bound_of_mean = own.mean + (previous.error.mean + following.error.mean) / 2 + ROUNDING_OF_MEAN
    differences = blocks(np.subtract(stored, expected, dtype=np.float32))
    if not differences.size:
        return
    found = float(np.sqrt(np.square(differences).mean(axis=(1, 3)).max()))
    if found > bound:
        raise FrameError(_NOT_TG.format(found=found, bound=bound, what="rms"))
    if np.isfinite(bound_of_mean):
        means = np.abs(differences.mean(axis=(1, 3)))[previous.unclipped & following.unclipped]
        if means.size and (found := float(means.max())) > bound_of_mean:
            raise FrameError(_NOT_TG.format(found=found, bound=bound_of_mean, what="mean"))


_NOT_TG = (
    "it is not the temporal gradient of its two frames: an 8x8 block differs by {found:.1f} grey levels ({what}), "
    "JPEG explains {bound:.1f} at most"
)
