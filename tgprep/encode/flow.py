"""Optical flow between neighbouring frames as pictures: magnitude, y and x in the three channels (`tgprep extract --flow`).

For the ablation "fast is better" of Xiao et al. (CVPR 2022), which trains on such pictures instead of TG:

1. dense flow (x, y) in pixels from one frame to the next, on their luma;
2. each of x and y as 8 bits, -20..20 pixels to 0..255 (`quantise`), as tools for flow data sets store them;
3. x, y and the length of the vector, each stretched to 0..255 over the picture (`_stretch`).

The authors took the length of the 8-bit values, in which no motion is long; `uncentred` does the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import cv2
import numpy as np
import numpy.typing as npt

from manifests.gradient import Frame

FlowMethod = Literal["dis", "farneback"]
Vectors = npt.NDArray[np.float32]  # [H, W, 2]: (x, y) in pixels

BOUND_PIXELS = 20.0
_NO_MOTION = 127.5
_MIN_SIDE = 16  # pixels, for DIS
_MAX_ASPECT = 4  # long side to short side, for DIS


def flow_estimator(method: FlowMethod) -> Callable[[Frame, Frame], Vectors]:
    """Return a function of two luma planes (uint8[H, W]) that estimates the motion from the first to the second.

    dis: Dense Inverse Search (Kroeger et al., ECCV 2016), OpenCV's medium preset. farneback: Farneback (SCIA 2003) with the
    authors' parameters. Results do not depend on earlier calls.
    """
    none = cast(Vectors, None)
    if method == "farneback":
        return lambda previous, following: cast(
            Vectors, cv2.calcOpticalFlowFarneback(previous, following, none, 0.5, 3, 15, 3, 5, 1.2, 0)
        )
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def dis(previous: Frame, following: Frame) -> Vectors:
        # Small and very long pictures are padded, or the coarsest scale would be empty.
        height, width = previous.shape
        min_side = max(_MIN_SIDE, -(-max(height, width) // _MAX_ASPECT))
        below, right = max(0, min_side - height), max(0, min_side - width)
        if below or right:
            previous, following = (
                cast(Frame, cv2.copyMakeBorder(plane, 0, below, 0, right, cv2.BORDER_REPLICATE))
                for plane in (previous, following)
            )
        return cast(Vectors, search.calc(previous, following, none))[:height, :width]

    return dis


def quantise(flow: Vectors) -> Frame:
    """Motion in pixels to 8 bits: floor((clip(flow, -20, 20) + 20) * 255 / 40); no motion is 127. Any shape."""
    clipped = np.clip(flow, -BOUND_PIXELS, BOUND_PIXELS)
    return ((clipped + np.float32(BOUND_PIXELS)) * np.float32(255 / (2 * BOUND_PIXELS))).astype(np.uint8)


def flow_picture(flow: Vectors, *, uncentred: bool = False) -> Frame:
    """The picture of a flow, uint8[H, W, 3]: magnitude, y and x as R, G and B, each stretched to 0..255.

    uncentred: take the magnitude of the 8-bit values, not of their distance from no motion, as the authors did by mistake.
    """
    x, y = (plane.astype(np.float32) for plane in cv2.split(quantise(flow)))
    centre = np.float32(0.0 if uncentred else _NO_MOTION)
    magnitude = np.sqrt(np.square(x - centre) + np.square(y - centre))
    return np.stack([_stretch(magnitude), _stretch(y), _stretch(x)], axis=-1)


def _stretch(plane: Vectors) -> Frame:
    """Stretch a plane to 0..255: (plane - min) * 255 / (max - min + 1e-8), rounded down; a flat plane is 0."""
    low, high = float(plane.min()), float(plane.max())
    stretched = (plane - np.float32(low)) * np.float32(255.0) / np.float32(high - low + 1e-8)
    return cast(Frame, stretched.astype(np.uint8))
