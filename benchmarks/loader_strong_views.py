"""The strong views of the reference on the CPU, two operations on every frame, for benchmarks/loader.py."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from benchmarks.loader_way import SIDE


@cache
def strong_view() -> Callable[[list[Any]], list[Any]]:
    """Two of the fifteen operations on all frames of a clip: imgaug itself, as the reference has it; without it a stand-in."""
    return _pillow_view if imgaug_version() == "" else _imgaug_view()


@cache
def imgaug_version() -> str:
    """ "" where it is not installed. It is no longer kept up: numpy 2 lacks a table that it looks into when it is imported."""
    if importlib.util.find_spec("imgaug") is None:
        return ""
    if not hasattr(np, "sctypes"):
        kinds = {"int": "bhilq", "uint": "BHILQ", "float": "efdg", "complex": "FDG"}
        np.sctypes = {name: [np.dtype(code).type for code in codes] for name, codes in kinds.items()}  # type: ignore[attr-defined]
    return importlib.metadata.version("imgaug")


def _imgaug_view() -> Callable[[list[Any]], list[Any]]:
    import imgaug.augmenters as iaa

    def signed(value: float) -> float:
        return float(value if np.random.rand() < 0.5 else -value)  # once, as the reference draws them

    chosen = iaa.SomeOf(
        2,
        [
            iaa.ShearX(signed(15.471)), iaa.ShearY(signed(15.471)), iaa.TranslateX(percent=signed(0.18)),
            iaa.TranslateY(percent=signed(0.18)), iaa.Rotate(signed(27)), iaa.Posterize(nb_bits=3),
            iaa.Solarize(p=1.0, threshold=230), iaa.pillike.EnhanceColor(factor=1.72), iaa.pillike.EnhanceContrast(factor=1.72),
            iaa.pillike.EnhanceBrightness(factor=1.72), iaa.pillike.EnhanceSharpness(factor=1.72), iaa.pillike.Autocontrast(cutoff=0),
            iaa.pillike.Equalize(), iaa.Invert(p=1.0), iaa.Cutout(nb_iterations=1, size=0.18, squared=True),
        ],
    )  # fmt: skip

    def view(frames: list[Any]) -> list[Any]:
        same_for_all = chosen.to_deterministic()
        return [same_for_all(image=frame) for frame in frames]

    return view


def _pillow_view(frames: list[Any]) -> list[Any]:
    for number in np.random.choice(len(OPERATIONS), 2, replace=False):
        frames = [np.asarray(OPERATIONS[number](Image.fromarray(frame))) for frame in frames]
    return frames


def strong_milliseconds() -> float:
    """What the strong view of 8 frames of 224 x 224 takes, mean over 100 clips."""
    frames = list(np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8))
    view = strong_view()
    view(frames)
    began = time.process_time()
    for _ in range(100):
        view(frames)
    return (time.process_time() - began) * 10


def _affine(*matrix: float) -> Callable[[Image.Image], Image.Image]:
    # The clip is 224 x 224; imgaug moves with OpenCV, so the plain way here does too.
    moved = np.array(matrix, np.float32).reshape(2, 3)
    return lambda image: Image.fromarray(
        cv2.warpAffine(np.asarray(image), moved, (SIDE, SIDE), borderValue=(0, 0, 0))  # type: ignore[call-overload]
    )


def _cutout(image: Image.Image) -> Image.Image:
    pixels = np.array(image)
    side = int(0.18 * SIDE)
    top, left = np.random.randint(SIDE - side), np.random.randint(SIDE - side)
    pixels[top : top + side, left : left + side] = 128
    return Image.fromarray(pixels)


_TURN = math.radians(27)
# The fifteen operations of the recipe at its strength, with Pillow, one frame at a time: cheaper than imgaug's, so kinder to the reference.
OPERATIONS: tuple[Callable[[Image.Image], Image.Image], ...] = (
    _affine(1, 0.27, 0, 0, 1, 0),
    _affine(1, 0, 0, 0.27, 1, 0),
    _affine(1, 0, 40, 0, 1, 0),
    _affine(1, 0, 0, 0, 1, 40),
    _affine(math.cos(_TURN), -math.sin(_TURN), 60, math.sin(_TURN), math.cos(_TURN), -40),
    lambda image: ImageOps.posterize(image, 3),
    lambda image: ImageOps.solarize(image, 230),
    lambda image: ImageEnhance.Color(image).enhance(1.72),
    lambda image: ImageEnhance.Contrast(image).enhance(1.72),
    lambda image: ImageEnhance.Brightness(image).enhance(1.72),
    lambda image: image.filter(ImageFilter.SHARPEN),
    ImageOps.autocontrast,
    ImageOps.equalize,
    ImageOps.invert,
    _cutout,
)
