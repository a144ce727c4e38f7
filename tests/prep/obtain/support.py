"""Decoding of sample videos for the tests."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import numpy.typing as npt


def decode(file: Path) -> list[npt.NDArray[np.uint8]]:
    """The frames of a video file, RGB."""
    with av.open(str(file)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
