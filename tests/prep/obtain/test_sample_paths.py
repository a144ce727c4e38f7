"""Paths of the sample's shapes: the class is in the order of the frames alone."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from tgprep.obtain.sample_paths import ANGLE, MOTIONS, SIZE, X, Y, displacement, path

Features = npt.NDArray[np.float64]
COORDINATES = ("x", "y", "size", "angle")
NUM_PATHS = 1500
CHECKED_FRAMES = (0, 9, 30, 63)


@pytest.fixture(scope="module")
def paths_by_motion() -> dict[str, Features]:
    """float64[NUM_PATHS, 64, 4] for every motion."""
    return {
        motion: np.stack([path(motion, 64, np.random.default_rng([5, number, k])) for k in range(NUM_PATHS)])
        for number, motion in enumerate(MOTIONS)
    }


def ks_distance(first: Features, second: Features) -> float:
    """Two-sample Kolmogorov-Smirnov statistic: the greatest difference of the two empirical distributions."""
    both = np.sort(np.concatenate([first, second]))
    shares = [np.searchsorted(np.sort(part), both, side="right") / len(part) for part in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def ks_bound(num_first: int, num_second: int, level: float) -> float:
    """The statistic that two samples of one distribution exceed with probability `level` (asymptotic)."""
    return math.sqrt(-math.log(level / 2) / 2 * (num_first + num_second) / (num_first * num_second))


def test_coordinates_of_a_frame_do_not_depend_on_the_class(
    paths_by_motion: dict[str, Features],
) -> None:
    level = 0.001 / (28 * len(CHECKED_FRAMES) * 4)  # shared by all comparisons
    bound = ks_bound(NUM_PATHS, NUM_PATHS, level)
    for a, first in enumerate(MOTIONS):
        for second in MOTIONS[a + 1 :]:
            for frame in CHECKED_FRAMES:
                for axis, name in enumerate(COORDINATES):
                    distance = ks_distance(*(paths_by_motion[m][:, frame, axis] for m in (first, second)))
                    assert distance < bound, (first, second, frame, name)


def test_coordinates_are_uniform_and_independent(paths_by_motion: dict[str, Features]) -> None:
    """Pairs of coordinates fall evenly into a 4 x 4 grid; chi-square with 15 degrees of freedom, 192 comparisons."""
    for motion, paths in paths_by_motion.items():
        assert 0 <= paths.min() <= paths.max() < 1
        for frame in CHECKED_FRAMES:
            for a in range(4):
                for b in range(a + 1, 4):
                    counts = np.histogram2d(paths[:, frame, a], paths[:, frame, b], 4, [[0, 1], [0, 1]])[0]
                    chi_square = ((counts - NUM_PATHS / 16) ** 2 / (NUM_PATHS / 16)).sum()
                    assert chi_square < 56, (motion, frame, COORDINATES[a], COORDINATES[b])  # exceeded once in 900,000


def test_comparison_of_classes_can_fail() -> None:
    """Paths that all begin at one place, which is what the uniform start is for, are distinguished easily."""
    up, down = (
        np.stack([displacement(m, 64, np.random.default_rng(k)) for k in range(200)]) % 1
        for m in ("MoveUp", "MoveDown")
    )
    assert ks_distance(up[:, 9, Y], down[:, 9, Y]) > ks_bound(200, 200, 1e-9)


def steps(paths: Features) -> Features:
    """Change from frame to frame on the circle: float64[..., T-1, 4] in [-0.5, 0.5)."""
    return (np.diff(paths, axis=-2) + 0.5) % 1 - 0.5


def test_each_class_moves_as_its_name_says(paths_by_motion: dict[str, Features]) -> None:
    change = {motion: steps(paths) for motion, paths in paths_by_motion.items()}
    moving = {
        "MoveUp": {Y}, "MoveDown": {Y}, "Grow": {SIZE}, "Shrink": {SIZE}, "Spin": {ANGLE},
        "SwingSideways": {X}, "SwingUpDown": {Y}, "Jitter": {X, Y},
    }  # fmt: skip
    for motion, axes in moving.items():
        still = [axis for axis in range(4) if axis not in axes]
        assert np.abs(change[motion][..., still]).max() < 1e-9
        assert np.all(np.abs(change[motion][..., sorted(axes)]).max(axis=1) > 0.005)
    for motion, axis, sign in (("MoveUp", Y, -1), ("MoveDown", Y, 1), ("Grow", SIZE, 1), ("Shrink", SIZE, -1)):
        assert np.all(sign * change[motion][..., axis] > 0)
    # Under a quarter of a round in 8 frames: the direction survives a clip at interval 8.
    for motion in ("MoveUp", "MoveDown", "Grow", "Shrink", "Spin"):
        assert np.abs(change[motion]).max() * 8 < 0.25
    # A swing comes back within the shortest clip.
    for motion, axis in (("SwingSideways", X), ("SwingUpDown", Y)):
        signs = np.sign(change[motion][..., axis])
        assert np.all(signs.min(axis=1) < 0)
        assert np.all(signs.max(axis=1) > 0)


def test_horizontal_flip_keeps_the_class(paths_by_motion: dict[str, Features]) -> None:
    """Mirrored, x and angle change sign: their steps must be as often and as far to the left as to the right."""
    for motion, paths in paths_by_motion.items():
        for axis in (X, ANGLE):
            for frame in (0, 31, 62):
                change = steps(paths)[:, frame, axis]
                if np.abs(change).max() > 1e-9:
                    assert ks_distance(change, -change) < ks_bound(NUM_PATHS, NUM_PATHS, 1e-5), (motion, axis, frame)
    up = steps(paths_by_motion["MoveUp"])[:, 0, Y]
    assert ks_distance(up, -up) == 1, "an upside-down flip is no symmetry: the check can fail"
