"""Arithmetic on `Planes`: from one range of levels to the other, turned, and from RGB frames."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import cv2
import numpy as np

from manifests.gradient import Frame
from tgprep.decode.frames import Planes

# Limited to full range is floor((level - low) * 255 / span + neutral + 0.5), clipped. OpenCV's weighted sum does it in one pass of vector
# instructions; its floats cannot round another way on another machine: no luma level comes nearer than 0.006 to a tie, and the one
# tie of chroma (level 16) is moved off by 0.001, less than any other level is away from one. A test compares all 256 levels.
_LUMA_SCALE, _LUMA_SHIFT = 255 / 219, -16 * 255 / 219
_CHROMA_SCALE, _CHROMA_SHIFT = 255 / 224, 128 - 128 * 255 / 224 + 0.001


def full_range(y: Frame, cb: Frame, cr: Frame) -> Planes:
    """Planes in limited range (luma 16..235, chroma 16..240) -> Planes in full range, as JPEG files hold them; exactly rounded."""
    return Planes(
        _weighted(y, _LUMA_SCALE, _LUMA_SHIFT),
        _weighted(cb, _CHROMA_SCALE, _CHROMA_SHIFT),
        _weighted(cr, _CHROMA_SCALE, _CHROMA_SHIFT),
    )


def in_range(planes: Planes, *, limited: bool) -> Planes:
    """The same picture in limited or in full range; unchanged where it is."""
    if planes.limited == limited:
        return planes
    if not limited:
        return replace(full_range(planes.y, planes.cb, planes.cr), left=planes.left)
    return Planes(
        _weighted(planes.y, 1 / _LUMA_SCALE, 16.0),
        _weighted(planes.cb, 1 / _CHROMA_SCALE, 128 - 128 / _CHROMA_SCALE),
        _weighted(planes.cr, 1 / _CHROMA_SCALE, 128 - 128 / _CHROMA_SCALE),
        limited=True,
        left=planes.left,
    )


def as_jpeg(planes: Planes) -> Planes:
    """The same picture as JPEG files have it: full range, chroma in the middle of two pixels."""
    if planes.left:
        planes = replace(planes, cb=centred(planes.cb), cr=centred(planes.cr), left=False)
    return in_range(planes, limited=False)


def _weighted(plane: Frame, scale: float, shift: float) -> Frame:
    return cast(Frame, cv2.addWeighted(plane, scale, plane, 0.0, shift))


def centred(chroma: Frame) -> Frame:
    """Chroma in the middle of two pixels, as JPEG files have it, from that of the left one: a quarter of the way to the next.

    floor((3 * sample + next + 2) / 4); the last one of a row stays. Sums of quarters are exact as floats, ties are moved off.
    """
    moved = chroma.copy()
    if chroma.shape[1] > 1:
        moved[:, :-1] = cv2.addWeighted(chroma[:, :-1], 0.75, chroma[:, 1:], 0.25, 0.01)
    return moved


def planes_of_rgb(rgb: Frame) -> Planes:
    """RGB to full-range BT.601 planes; chroma is the mean of 2x2 pixels, the last row or column repeated where odd."""
    packed = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)
    half = _halved(np.asarray(packed, np.uint8))
    y, cr, cb = (np.ascontiguousarray(channel) for channel in (packed[:, :, 0], half[:, :, 1], half[:, :, 2]))
    return Planes(np.asarray(y, np.uint8), np.asarray(cb, np.uint8), np.asarray(cr, np.uint8))


def turned(planes: Planes, turns: int) -> Planes:
    """A picture turned by so many quarters to the left.

    The last chroma row or column of an odd size covers one pixel, not two. Where turning would put it first, all chroma
    would lie a pixel off: it is then taken to the size of luma, turned and halved anew.
    """
    height, width = planes.y.shape
    anew = (turns != 3 and width % 2) or (turns != 1 and height % 2)
    cb, cr = (
        _halved(np.rot90(np.repeat(np.repeat(plane, 2, 0), 2, 1)[:height, :width], turns))
        if anew
        else np.ascontiguousarray(np.rot90(plane, turns))
        for plane in (planes.cb, planes.cr)
    )
    return Planes(np.ascontiguousarray(np.rot90(planes.y, turns)), cb, cr, limited=planes.limited)


def _halved(pixels: Frame) -> Frame:
    """The mean of 2x2 pixels each, the last row or column repeated where odd."""
    height, width = pixels.shape[:2]
    even = cv2.copyMakeBorder(pixels, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    half = cv2.resize(even, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    return cast(Frame, half)
