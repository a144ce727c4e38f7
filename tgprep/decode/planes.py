"""Arithmetic on pictures: range, temporal gradient, chroma position, orientation, and planes from RGB frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import cv2
import numpy as np

from manifests.gradient import Frame
from tgprep.decode.frames import Picture, Planes

# The mean of TG over all pairs of levels of one difference: the floors in floor((a - b + 255) / 2) for luma and
# floor((a - b + 256) / 2) for chroma take a quarter off 127.5 and 128.
LUMA_NO_MOTION, CHROMA_NO_MOTION = 127.25, 127.75


@dataclass(frozen=True, slots=True)
class Range:
    """Levels of black and white in a plane; full range = level * scale + shift."""

    low: int
    high: int
    scale: float
    shift: float


FULL = Range(0, 255, 1.0, 0.0)
LIMITED_LUMA = Range(16, 235, 255 / 219, -16 * 255 / 219)
LIMITED_CHROMA = Range(16, 240, 255 / 224, 128 - 128 * 255 / 224)


def to_range(planes: Planes, *, limited: bool) -> Planes:
    """The picture in limited or in full range, exactly rounded; the same object if it already is.

    Limited to full range is floor((level - low) * 255 / span + neutral + 0.5), clipped. OpenCV's weighted sum does it in one
    pass of vector instructions, at half the time of a lookup table. Its floats cannot round differently on another machine:
    no luma level comes nearer than 0.006 to a tie, and the one tie of chroma (level 16) is moved off by 0.001, less than any
    other level is away from one. A test compares all 256 levels.
    """
    if planes.limited == limited:
        return planes

    def moved(plane: Frame, levels: Range, off: float) -> Frame:
        scale, shift = levels.scale, levels.shift + off
        if limited:
            scale, shift = 1 / levels.scale, -levels.shift / levels.scale
        return cast(Frame, cv2.addWeighted(plane, scale, plane, 0.0, shift))

    cb, cr = (moved(plane, LIMITED_CHROMA, 0.001) for plane in (planes.cb, planes.cr))
    return replace(planes, y=moved(planes.y, LIMITED_LUMA, 0.0), cb=cb, cr=cr, limited=limited)


def gradient_of(previous: Picture, following: Picture) -> Picture:
    """TG of two pictures of one form, as manifests.gradient defines it; each plane in one pass of vector instructions.

    Rounding to the nearest is the floor of the definition, and every term is exact as a float.
    """
    if isinstance(previous, Planes):
        following = cast(Planes, following)
        y = _half_difference(previous.y, following.y, LUMA_NO_MOTION)
        cb = _half_difference(previous.cb, following.cb, CHROMA_NO_MOTION)
        return Planes(y, cb, _half_difference(previous.cr, following.cr, CHROMA_NO_MOTION))
    return _half_difference(previous, cast(Frame, following), LUMA_NO_MOTION)


def _half_difference(previous: Frame, following: Frame, no_motion: float) -> Frame:
    return cast(Frame, cv2.addWeighted(previous, 0.5, following, -0.5, no_motion))


def to_jpeg_form(planes: Planes) -> Planes:
    """The picture as JPEG files have it: full range, chroma midway between two pixels."""
    planes = to_range(to_midway_chroma(planes), limited=False)
    y, cb, cr = (np.ascontiguousarray(plane) for plane in (planes.y, planes.cb, planes.cr))
    return Planes(y, cb, cr)


def to_midway_chroma(planes: Planes) -> Planes:
    """The picture with chroma midway between two pixels, as JPEG files have it; the same object if it already is."""
    return replace(planes, cb=midway(planes.cb), cr=midway(planes.cr), left=False) if planes.left else planes


def midway(chroma: Frame) -> Frame:
    """Move a chroma plane from the left of two pixels to midway: a quarter of the way to the next sample of the row.

    floor((3 * sample + next + 2) / 4); the last one of a row stays. Sums of quarters are exact as floats, ties are moved off.
    """
    moved = chroma.copy()
    if chroma.shape[1] > 1:
        moved[:, :-1] = cv2.addWeighted(chroma[:, :-1], 0.75, chroma[:, 1:], 0.25, 0.01)
    return moved


def planes_from_rgb(rgb: Frame) -> Planes:
    """Full-range BT.601 planes of an RGB frame; chroma is the mean of 2x2 pixels, the last row or column repeated if odd."""
    packed = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb), np.uint8)
    half = _halved(packed)
    y, cb, cr = (np.ascontiguousarray(channel) for channel in (packed[:, :, 0], half[:, :, 2], half[:, :, 1]))
    return Planes(y, cb, cr)


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a coded picture becomes upright: it is mirrored left to right if `mirrored`, then turned to the left."""

    quarter_turns: int = 0  # 0..3
    mirrored: bool = False

    def apply(self, pixels: Frame) -> Frame:
        """A view of pixels[H, W, ...], upright."""
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.quarter_turns)


UPRIGHT = Orientation()
_AXES = {(1, 0): 0, (0, -1): 1, (-1, 0): 2, (0, 1): 3}  # where the x axis points after a number of quarter turns
_ALMOST = math.sin(math.radians(0.5))  # the ffmpeg program rounds to degrees


def orientation_of(matrix: Sequence[int]) -> Orientation | None:
    """The orientation of a display matrix as MP4 files store it (ISO/IEC 14496-12, 6.2.2); None if it is no such one.

    The pixel (x, y) is shown at (a * x + c * y, b * x + d * y), for a, b, _, c, d of the nine numbers; y grows downwards.
    """
    a, b, _, c, d = matrix[:5]
    sizes = math.hypot(a, b), math.hypot(c, d)
    if not all(sizes):
        return None
    exact = (a / sizes[0], b / sizes[0], c / sizes[1], d / sizes[1])
    near = tuple(round(number) for number in exact)
    determinant = near[0] * near[3] - near[1] * near[2]
    if not determinant or max(abs(e - n) for e, n in zip(exact, near, strict=True)) > _ALMOST:
        return None
    # Mirroring turns the x axis round before the picture is turned.
    return Orientation(_AXES[determinant * near[0], determinant * near[1]], determinant < 0)


def rotation_of(matrix: Sequence[int]) -> float | None:
    """Degrees that a display matrix turns a picture to the left, -180 to 180 (av_display_rotation_get); None if it is none."""
    a, b, _, c, d = matrix[:5]
    scale_x, scale_y = math.hypot(a, c), math.hypot(b, d)
    return -math.degrees(math.atan2(b / scale_y, a / scale_x)) if scale_x and scale_y else None


def upright(planes: Planes, orientation: Orientation) -> Planes:
    """Bring a picture with chroma midway upright."""
    height, width = planes.y.shape
    # The last chroma row or column of an odd size covers one pixel, not two. If it came first, all chroma would be a pixel
    # off: it is then brought to the size of luma, turned and halved again.
    first = orientation.apply(np.array([[0, 1], [2, 3]], np.uint8))[0, 0]  # the corner that comes to the top left
    resample = (first % 2 and width % 2) or (first // 2 and height % 2)
    cb, cr = (
        _halved(orientation.apply(np.repeat(np.repeat(plane, 2, 0), 2, 1)[:height, :width]))
        if resample
        else np.ascontiguousarray(orientation.apply(plane))
        for plane in (planes.cb, planes.cr)
    )
    return Planes(np.ascontiguousarray(orientation.apply(planes.y)), cb, cr, limited=planes.limited)


def _halved(pixels: Frame) -> Frame:
    """The mean of 2x2 pixels each, the last row or column repeated if odd."""
    height, width = pixels.shape[:2]
    even = cv2.copyMakeBorder(pixels, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return cast(Frame, cv2.resize(even, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA))
