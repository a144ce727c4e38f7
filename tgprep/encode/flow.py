"""Optical flow between neighbouring frames as pictures: magnitude, y and x in the three channels (`tgprep extract --flow`).

The ablation "fast is better" of Xiao et al. (CVPR 2022) trains on such pictures in place of TG. Each is made in three steps:

1. dense flow (x, y) in pixels from one frame to the next, on their luma;
2. each of x and y as 8 bits, -20..20 pixels -> 0..255 (`quantised`), as the tools for flow datasets store them;
3. x, y and the length of the vector, each stretched to 0..255 over the picture (`stretched`).

The authors took the length of the 8-bit values as they stand, so that no motion is long; `uncentred` does the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import cv2
import numpy as np
import numpy.typing as npt

from manifests.gradient import Frame

FlowMethod = Literal["dis", "farneback"]
Vectors = npt.NDArray[np.float32]


BOUND_PIXELS = 20.0
_NO_MOTION = 127.5
_TINY = 1e-8
_FEWEST_PIXELS = 16
_LONGEST = 4  # times as long as wide


def flow_estimator(method: FlowMethod) -> Callable[[Frame, Frame], Vectors]:
    """A function of two luma planes (uint8[H, W]) that gives the motion from the first to the second: float32[H, W, 2], (x, y) in pixels.

    dis: Dense Inverse Search (Kroeger et al., ECCV 2016), OpenCV's medium preset. farneback: Farneback (SCIA 2003) with the
    authors' parameters. The same bits each time, whatever came before. Small and very long pictures are enlarged for DIS, their
    edges repeated: its coarsest scale would be empty.
    """
    if method == "farneback":
        return lambda previous, following: cast(
            Vectors,
            cv2.calcOpticalFlowFarneback(previous, following, cast(Vectors, None), 0.5, 3, 15, 3, 5, 1.2, 0),
        )
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def dis(previous: Frame, following: Frame) -> Vectors:
        height, width = previous.shape
        fewest = max(_FEWEST_PIXELS, -(-max(height, width) // _LONGEST))
        below, right = max(0, fewest - height), max(0, fewest - width)
        if below or right:
            previous, following = (
                cast(Frame, cv2.copyMakeBorder(plane, 0, below, 0, right, cv2.BORDER_REPLICATE))
                for plane in (previous, following)
            )
        return cast(Vectors, search.calc(previous, following, cast(Vectors, None)))[:height, :width]

    return dis


def quantised(flow: Vectors) -> Frame:
    """Pixels of motion -> 8 bits: floor((clip(flow, -20, 20) + 20) * 255 / 40); no motion is 127. Any shape."""
    clipped = np.clip(flow, -BOUND_PIXELS, BOUND_PIXELS)
    return ((clipped + np.float32(BOUND_PIXELS)) * np.float32(255 / (2 * BOUND_PIXELS))).astype(np.uint8)


def flow_picture(flow: Vectors, *, uncentred: bool = False) -> Frame:
    """float32[H, W, 2] (x, y) in pixels -> uint8[H, W, 3]: magnitude, y and x (in the places of R, G and B), each stretched to 0..255.

    uncentred: the magnitude is that of the 8-bit values, not of their distance from no motion: the authors' slip.
    """
    x, y = (plane.astype(np.float32) for plane in cv2.split(quantised(flow)))
    centre = np.float32(0.0 if uncentred else _NO_MOTION)
    magnitude = np.sqrt(np.square(x - centre) + np.square(y - centre))
    return np.stack([stretched(magnitude), stretched(y), stretched(x)], axis=-1)


def stretched(plane: Vectors) -> Frame:
    """float32[H, W] -> uint8[H, W]: (plane - min) * 255 / (max - min + 1e-8), cut to whole numbers; a flat plane is 0."""
    low, high = float(plane.min()), float(plane.max())
    return cast(
        Frame, ((plane - np.float32(low)) * np.float32(255.0) / np.float32(high - low + _TINY)).astype(np.uint8)
    )
