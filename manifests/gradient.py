"""The temporal gradient (TG): the one definition, for extraction and training.

`TG_k = floor((I_k - I_{k+1} + 255) / 2)` on uint8: previous minus next, no motion = 127, range 0..255
(Xiao et al., Learning from Temporal Gradient for Semi-supervised Action Recognition, CVPR 2022).

The gradient is affine and so is RGB to YCbCr. So TG of a luma plane is the same formula, TG of a Cb or Cr plane is
`floor((C_k - C_{k+1} + 256) / 2)` with chroma's neutral 128 for no motion, and the planes together are TG of the RGB frame up
to rounding.

`temporal_gradient` is the definition. Extraction has two faster ways to the same values, which tests compare with it:
`tgprep.decode.planes.gradient_of` (one weighted sum of OpenCV a plane, exact) and `tgprep.encode.fused` (the difference of
cosine transforms, without the rounding to 8 bits before the JPEG encoder).

No floats are needed: with n = 255 - I_{k+1} the value is the floor average of I_k and n, which is
`(I_k & n) + ((I_k ^ n) >> 1)` on uint8 without overflow.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]

ZERO_LEVEL = 127


def temporal_gradient(
    previous: Frame, following: Frame, out: Frame | None = None, scratch: Frame | None = None
) -> Frame:
    """TG of two uint8 arrays of one shape (any shape: frames, clips, planes), exact for all 65,536 pairs of values.

    out, scratch: optional uint8 buffers of the same shape, reused by callers that stream frames; `out` is returned.
    """
    if previous.dtype != np.uint8 or following.dtype != np.uint8 or previous.shape != following.shape:
        raise ValueError(
            f"TG needs two uint8 arrays of one shape, got {previous.dtype}{previous.shape} and {following.dtype}{following.shape}"
        )
    inverted = np.invert(following, out=scratch)
    result = np.bitwise_and(previous, inverted, out=out)
    np.bitwise_xor(previous, inverted, out=inverted)
    np.right_shift(inverted, 1, out=inverted)
    np.add(result, inverted, out=result)
    return result
