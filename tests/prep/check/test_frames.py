"""Checking frames: the bound on the error of TG holds, and damaged frames are reported."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg

from manifests.gradient import temporal_gradient
from manifests.records import GradientCoding
from tgprep.check.frames import FrameError, check_frames, decode, luma_error


def jpeg(frame: np.ndarray, quality: int = 95) -> bytes:  # type: ignore[type-arg]
    encoded: bytes = simplejpeg.encode_jpeg(frame, quality, "RGB", "420")
    return encoded


@pytest.mark.parametrize("quality", [30, 75, 95, 100])
def test_valid_gradients_stay_within_the_bound(quality: int) -> None:
    """Noise is the worst case for JPEG; the bound must hold for it too, with pixels at both ends of the range."""
    generator = np.random.default_rng(quality)
    frames = [generator.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(3)]
    frames += [np.zeros((48, 64, 3), np.uint8), np.full((48, 64, 3), 255, np.uint8)]
    tg = [jpeg(temporal_gradient(a, b), quality) for a, b in zip(frames, frames[1:], strict=False)]
    rgb = [jpeg(frame, quality) for frame in frames]
    assert check_frames(iter(rgb), iter(tg), GradientCoding(space="rgb"), 48, 64) == (9, [])
    tg[0], tg[2] = tg[2], tg[0]
    assert check_frames(iter(rgb), iter(tg), GradientCoding(space="rgb"), 48, 64)[1]


def test_luma_error_is_read_from_the_file() -> None:
    flat = np.full((16, 16, 3), 90, np.uint8)
    # Quality 100 has steps of 1 everywhere; quality 50 the table of ITU-T T.81, annex K.1, whose first step is 16.
    assert luma_error(jpeg(flat, 100)).rms == 0.5
    assert luma_error(jpeg(flat, 100)).mean == 1 / 16
    assert luma_error(jpeg(flat, 50)).mean == 1.0
    with pytest.raises(FrameError, match="tables"):
        luma_error(b"\xff\xd8\xff\xd9")


def test_frames_of_another_size_or_truncated_are_rejected() -> None:
    good = jpeg(np.full((16, 24, 3), 90, np.uint8))
    assert decode(good, 16, 24).shape == (16, 24)
    with pytest.raises(FrameError, match="24x16, expected 16x24"):
        decode(good, 24, 16)
    with pytest.raises(FrameError, match="begin and end"):
        decode(good[:-1], 16, 24)
    with pytest.raises(FrameError, match="decode"):
        decode(good[:-12] + b"\xff\xd9", 16, 24)
