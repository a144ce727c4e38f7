"""TG against the formula in floats, over every pair of levels, and against the reference's own frames."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from manifests.gradient import temporal_gradient

PREVIOUS, FOLLOWING = (levels.astype(np.uint8) for levels in np.meshgrid(np.arange(256), np.arange(256)))


def test_every_pair_of_levels_equals_the_published_formula() -> None:
    published = ((PREVIOUS.astype(np.float32) - FOLLOWING.astype(np.float32) + 255) / 2).astype(np.uint8)
    np.testing.assert_array_equal(temporal_gradient(PREVIOUS, FOLLOWING), published)


def test_no_motion_is_grey() -> None:
    frame = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert np.unique(temporal_gradient(frame, frame)).tolist() == [127]


def test_buffers_are_used_and_inputs_left_alone() -> None:
    previous, following = PREVIOUS.copy(), FOLLOWING.copy()
    out, scratch = np.empty_like(previous), np.empty_like(previous)
    assert temporal_gradient(previous, following, out, scratch) is out
    np.testing.assert_array_equal(out, temporal_gradient(PREVIOUS, FOLLOWING))
    np.testing.assert_array_equal(previous, PREVIOUS)
    np.testing.assert_array_equal(following, FOLLOWING)


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        temporal_gradient(PREVIOUS.astype(np.float32), FOLLOWING)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one shape"):
        temporal_gradient(PREVIOUS, FOLLOWING[:3])


def test_reference_frames(shared: Path) -> None:
    golden = json.loads((shared / "golden" / "pipeline.json").read_text())["temporal_gradient"]
    previous, following = (np.array(golden[name], np.uint8) for name in ("previous", "next"))
    np.testing.assert_array_equal(temporal_gradient(previous, following), np.array(golden["stored"], np.uint8))
