"""Crop geometry: boxes in images, pure arithmetic, no pixels (MMAction2 0.16 and mmcv conventions).

Random boxes come from `.random()` doubles alone, so they are the same with every numpy version.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tgtrain.randomness import below

REFERENCE_INPUT_SIZE = 224
CROP_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Size:
    """Height and width in pixels."""

    height: int
    width: int


@dataclass(frozen=True, slots=True)
class CropBox:
    """Rows top .. top + height and columns left .. left + width of an image, in pixels, half-open, never empty."""

    top: int
    left: int
    height: int
    width: int

    def __post_init__(self) -> None:
        assert min(self.top, self.left) >= 0, self
        assert min(self.height, self.width) > 0, self


def reference_pixels(pixels: int, input_size: int) -> int:
    """A length of the reference's pipeline (input 224) for another input size: round(pixels * input_size / 224)."""
    return round(pixels * input_size / REFERENCE_INPUT_SIZE)


def short_side_size(height: int, width: int, short_side: int) -> Size:
    """Size of an image resized to a short side, its shape kept (a half rounds up, as in mmcv)."""
    scale = short_side / min(height, width)
    return Size(int(height * scale + 0.5), int(width * scale + 0.5))


def centre_crop(image: Size, side: int) -> CropBox:
    """The square of `side` in the middle of an image at least that large."""
    return CropBox((image.height - side) // 2, (image.width - side) // 2, side, side)


def three_crops(image: Size, side: int) -> tuple[CropBox, CropBox, CropBox]:
    """Squares of `side` = the short side at the start, the end and the middle of the long side, in this order.

    The end square starts at twice the middle one's start, so one column may be left over (as in the reference).
    """
    down, right = (image.height - side) // 2, (image.width - side) // 2
    return (
        CropBox(0, 0, side, side),
        CropBox(2 * down, 2 * right, side, side),
        CropBox(down, right, side, side),
    )


def random_resized_crop(
    image: Size,
    rng: np.random.Generator,
    area_range: tuple[float, float] = (0.08, 1.0),
    aspect_range: tuple[float, float] = (3 / 4, 4 / 3),
) -> CropBox:
    """A box of random area (uniform) and aspect (log-uniform) at a random place; the centre square after 10 misfits."""
    low_aspect, high_aspect = math.log(aspect_range[0]), math.log(aspect_range[1])
    for _ in range(CROP_ATTEMPTS):
        aspect = math.exp(low_aspect + rng.random() * (high_aspect - low_aspect))
        area = (area_range[0] + rng.random() * (area_range[1] - area_range[0])) * image.height * image.width
        width, height = max(1, round(math.sqrt(area * aspect))), max(1, round(math.sqrt(area / aspect)))
        if height <= image.height and width <= image.width:
            left, top = below(rng, image.width - width + 1), below(rng, image.height - height + 1)
            return CropBox(top, left, height, width)
    return centre_crop(image, min(image.height, image.width))


def random_square(image: Size, side: int, rng: np.random.Generator) -> CropBox:
    """A square of `side` at a random place in an image at least that large."""
    left, top = below(rng, image.width - side + 1), below(rng, image.height - side + 1)
    return CropBox(top, left, side, side)


def to_stored_frame(box: CropBox, resized: Size, stored: Size) -> CropBox:
    """A box of the resized frame in pixels of the stored frame: each edge scaled and rounded (a half to even)."""
    down, right = stored.height / resized.height, stored.width / resized.width
    top, left = round(box.top * down), round(box.left * right)
    bottom, end = round((box.top + box.height) * down), round((box.left + box.width) * right)
    # Only a box smaller than a pixel could be empty: it becomes one pixel inside the frame.
    top, left = min(top, stored.height - 1), min(left, stored.width - 1)
    return CropBox(top, left, max(1, bottom - top), max(1, end - left))
