"""Arithmetic on pictures: range, temporal gradient, chroma position, rotation, and planes from RGB frames."""

from __future__ import annotations

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


def rotate(planes: Planes, quarter_turns: int) -> Planes:
    """Turn a picture with chroma midway to the left by a number of quarter turns."""
    height, width = planes.y.shape
    # The last chroma row or column of an odd size covers one pixel, not two. If turning would put it first, all chroma would
    # be a pixel off: it is then brought to the size of luma, turned and halved again.
    resample = (quarter_turns != 3 and width % 2) or (quarter_turns != 1 and height % 2)
    cb, cr = (
        _halved(np.rot90(np.repeat(np.repeat(plane, 2, 0), 2, 1)[:height, :width], quarter_turns))
        if resample
        else np.ascontiguousarray(np.rot90(plane, quarter_turns))
        for plane in (planes.cb, planes.cr)
    )
    return Planes(np.ascontiguousarray(np.rot90(planes.y, quarter_turns)), cb, cr, limited=planes.limited)


def _halved(pixels: Frame) -> Frame:
    """The mean of 2x2 pixels each, the last row or column repeated if odd."""
    height, width = pixels.shape[:2]
    even = cv2.copyMakeBorder(pixels, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return cast(Frame, cv2.resize(even, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA))
