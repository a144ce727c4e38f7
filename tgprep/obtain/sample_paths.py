"""How the shapes of the sample data set move: pure functions from a random generator to a path.

A shape has four coordinates, x, y, size and angle, each a number in [0, 1) on a circle (1 is 0 again): the picture wraps at its
edges, a size that passes the largest value begins again at the smallest, an angle is periodic. A path is
`(start + displacement) mod 1`. Only the displacement depends on the class; `start` is uniform. A uniform start plus anything
independent of it, modulo 1, is uniform: at every frame index the four coordinates are independent and uniform **for every class**,
so one frame holds nothing about the class.

A horizontal flip maps x to 1 - x and angle to -angle. Every class is symmetric under that map (sideways motion and spin begin
with a random sign or phase, nothing else depends on x), so flipping is a valid augmentation for all of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Path4 = npt.NDArray[np.float64]
X, Y, SIZE, ANGLE = range(4)

# In the order in which `num_classes` takes them; class ids follow the sorted names instead.
MOTIONS = ("MoveUp", "MoveDown", "Grow", "Shrink", "Spin", "SwingSideways", "SwingUpDown", "Jitter")

# Frames for one round. A clip of 8 frames at interval 8 moves less than a quarter of a round between its frames, well below
# the half at which the direction would be lost.
MOVE_FRAMES = (44.0, 76.0)
SIZE_FRAMES = (44.0, 72.0)
SPIN_FRAMES = (44.0, 80.0)
SWING_FRAMES = (30.0, 44.0)
# Half of the way from one end to the other, as a share of the picture's width or height.
SWING_REACH = (0.17, 0.26)
JITTER_REACH = (0.05, 0.09)
JITTER_HOLD_FRAMES = (2, 3)


def displacement(motion: str, num_frames: int, generator: np.random.Generator) -> Path4:
    """What `motion` (one of MOTIONS) adds to the start: float64[num_frames, 4] in rounds, not wrapped."""
    frames = np.arange(num_frames, dtype=np.float64)
    moved = np.zeros((num_frames, 4))
    if motion in ("MoveUp", "MoveDown"):
        sign = -1.0 if motion == "MoveUp" else 1.0  # rows count downwards
        moved[:, Y] = sign * frames / generator.uniform(*MOVE_FRAMES)
    elif motion in ("Grow", "Shrink"):
        sign = 1.0 if motion == "Grow" else -1.0
        moved[:, SIZE] = sign * frames / generator.uniform(*SIZE_FRAMES)
    elif motion == "Spin":
        moved[:, ANGLE] = generator.choice([-1.0, 1.0]) * frames / generator.uniform(*SPIN_FRAMES)
    elif motion in ("SwingSideways", "SwingUpDown"):
        phase = frames / generator.uniform(*SWING_FRAMES) + generator.random()
        axis = X if motion == "SwingSideways" else Y
        moved[:, axis] = generator.uniform(*SWING_REACH) * np.sin(2 * np.pi * phase)
    else:
        assert motion == "Jitter", motion
        hold = int(generator.integers(JITTER_HOLD_FRAMES[0], JITTER_HOLD_FRAMES[1] + 1))
        knots = np.arange(0, num_frames + hold, hold)
        reach = generator.uniform(*JITTER_REACH)
        for axis in (X, Y):
            moved[:, axis] = np.interp(frames, knots, generator.uniform(-reach, reach, len(knots)))
    return moved


def path(motion: str, num_frames: int, generator: np.random.Generator) -> Path4:
    """Coordinates (x, y, size, angle) of one shape at every frame: float64[num_frames, 4], each in [0, 1)."""
    start = generator.random(4)
    wrapped: Path4 = (start + displacement(motion, num_frames, generator)) % 1.0
    wrapped[wrapped >= 1.0] = 0.0  # a tiny negative number modulo 1 rounds to 1.0
    return wrapped
