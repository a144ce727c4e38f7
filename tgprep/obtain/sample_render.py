"""Draws the sample data set: textured shapes that move along `motion_paths` over a drifting background, with mild noise and flicker.

Everything but the paths is drawn without looking at the class. Shapes have hard outlines and no motion blur, which would tell
how fast a thing moves from one frame.
"""

from __future__ import annotations

import colorsys
import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import cv2
import numpy as np
import numpy.typing as npt

from tgprep.obtain.sample_paths import ANGLE, SIZE, X, Y, path

Floats = npt.NDArray[np.float32]
Frame = npt.NDArray[np.uint8]


AVI, MP4 = "avi", "mp4"


# Circumscribed radius as a share of the picture's shorter side, for size coordinates 0 and 1, in between on a log scale.
# Twice the largest stays under 1, so that a shape never meets its own copy across the edge.
RADIUS_SHARE = (0.13, 0.40)
# A shape fades in and out over these shares of the size scale, so that a wrapped size neither pops up nor is cut off.
FADE_SMALL = 0.03
FADE_LARGE = 0.06


OUTLINES = ("triangle", "square", "pentagon", "hexagon", "disc", "star", "cross", "half disc")
TEXTURES = ("stripes", "checks", "halves", "dots", "rings")


TWO_SHAPES_SHARE = 0.25
DRIFT_PIXELS_PER_FRAME = (0.1, 0.7)  # at 120 lines; scaled with the picture
BACKGROUND_SATURATION, BACKGROUND_VALUE = (0.1, 0.6), (0.15, 0.5)
SHAPE_SATURATION, SHAPE_VALUE = (0.2, 1.0), (0.6, 1.0)
BACKGROUND_CONTRAST = (3.0, 9.0)  # standard deviation, in grey levels of 255
NOISE_LEVELS = (0.5, 2.5)  # standard deviation, in grey levels of 255
FLICKER = 0.02  # standard deviation of the brightness factor
NOISE_MARGIN = 32


@dataclass(frozen=True, slots=True)
class Sprite:
    """A shape at several scales: float32[S, S, 4] premultiplied RGBA (RGB 0..255, alpha 0..1), S halving from level to level."""

    levels: tuple[Floats, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """What the clips of one group share: a periodic background, float32[H, W, 3] of 0..255, and two actors."""

    background: Floats
    sprites: tuple[Sprite, Sprite]


def radius_share(size: float) -> float:
    """Radius of a shape as a share of the shorter side, for a size coordinate in [0, 1)."""
    small, large = RADIUS_SHARE
    return float(small * (large / small) ** size)


def opacity(size: float) -> float:
    """0..1, a function of the size coordinate alone: the same for every class."""
    return min(1.0, size / FADE_SMALL, (1.0 - size) / FADE_LARGE)


def _colour(generator: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Floats:
    rgb = colorsys.hsv_to_rgb(generator.random(), generator.uniform(*saturation), generator.uniform(*value))
    return np.array(rgb, np.float32) * np.float32(255)


def _far_colour(generator: np.random.Generator, others: list[Floats]) -> Floats:
    """The one of a few random bright colours that is farthest from `others`: shapes must show on their background."""
    candidates = [_colour(generator, SHAPE_SATURATION, SHAPE_VALUE) for _ in range(6)]
    return max(candidates, key=lambda colour: min(float(np.linalg.norm(colour - other)) for other in others))


def _outline(kind: str) -> npt.NDArray[np.float64]:
    """Corners of a shape inside the unit circle: float64[N, 2]."""
    corners = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6, "disc": 64, "star": 10, "half disc": 33}
    if kind == "cross":
        arm = 0.32
        long = math.sqrt(1 - arm * arm)
        angles = np.arctan2([-arm, arm, arm], [long, long, arm])[None, :] + np.arange(4)[:, None] * (math.pi / 2)
        radii = np.broadcast_to([1.0, 1.0, math.hypot(arm, arm)], (4, 3))
        return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1).reshape(-1, 2)
    num_corners = corners[kind]
    span = math.pi if kind == "half disc" else 2 * math.pi
    angles = np.arange(num_corners) * span / (num_corners - 1 if kind == "half disc" else num_corners)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if kind == "star":
        points[1::2] *= 0.45
    if kind == "half disc":
        points = (points - [0.0, 0.4]) / math.hypot(1.0, 0.4)
    return points


def _texture(kind: str, size: int, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which of two colours a pixel has: bool[size, size]. No texture looks the same after every turn, so that Spin shows."""
    y, x = np.mgrid[0:size, 0:size] * (2.0 / size) - 1.0
    turn = generator.uniform(0, 2 * math.pi)
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    waves, phase = generator.uniform(1.2, 2.2), generator.uniform(0, 2 * math.pi)
    first = np.sin(math.pi * waves * along + phase)
    if kind == "stripes":
        mask = first > 0
    elif kind == "checks":
        mask = first * np.sin(math.pi * waves * across + phase) > 0
    elif kind == "halves":
        mask = along > generator.uniform(-0.2, 0.2)
    elif kind == "dots":
        mask = first + np.sin(math.pi * waves * across + phase) > 0.7
    else:
        mask = np.sin(2 * math.pi * waves * np.hypot(along - 0.6, across) + phase) > 0
    return np.asarray(mask, dtype=np.bool_)


def make_sprite(generator: np.random.Generator, background: Floats, largest_pixels: int) -> Sprite:
    """A random shape that shows on `background` (a colour, float32[3]), sharp up to a diameter of `largest_pixels`."""
    size = 1 << max(5, math.ceil(math.log2(largest_pixels)))
    drawn = 2 * size
    first = _far_colour(generator, [background])
    second = _far_colour(generator, [background, first])
    rim = _colour(generator, (0.0, 0.2), (0.9, 1.0))
    corners = _outline(str(generator.choice(OUTLINES)))
    texture = _texture(str(generator.choice(TEXTURES)), drawn, generator)

    def filled(scale: float) -> npt.NDArray[np.bool_]:
        mask = np.zeros((drawn, drawn), np.uint8)
        points = np.round((corners * scale + 1.0) * (drawn / 2) * 16).astype(np.int32)
        cv2.fillPoly(mask, [points], 1, shift=4)
        return mask.astype(np.bool_)

    rgba = np.zeros((drawn, drawn, 4), np.float32)
    outer, inner = filled(0.97), filled(0.82)
    rgba[outer] = [*rim, 1.0]
    rgba[inner & texture, :3] = first
    rgba[inner & ~texture, :3] = second
    levels: list[Floats] = []
    while size >= 16:
        levels.append(np.asarray(cv2.resize(rgba, (size, size), interpolation=cv2.INTER_AREA), np.float32))
        size //= 2
    return Sprite(tuple(levels))


def make_background(generator: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """(tile, colour): a texture that repeats without a seam, float32[height, width, 3], and its mean colour, float32[3]."""
    colour = _colour(generator, BACKGROUND_SATURATION, BACKGROUND_VALUE)
    rows, columns = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None, :] * width
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(generator.standard_normal((height, width))) * frequency ** -generator.uniform(1.0, 1.8)
    grey = np.fft.irfft2(spectrum, s=(height, width))
    grey /= grey.std()
    if generator.random() < 0.5:
        # Whole numbers of waves, so that the pattern has no seam either.
        waves_y, waves_x = generator.integers(-6, 7, size=2)
        y, x = np.mgrid[0:height, 0:width]
        grey += generator.uniform(0.5, 1.2) * np.sin(2 * np.pi * (waves_y * y / height + waves_x * x / width))
    tint = 1.0 + 0.4 * generator.standard_normal(3)
    contrast = generator.uniform(*BACKGROUND_CONTRAST)
    tile = colour + (contrast * grey[..., None] * tint).astype(np.float32)
    return np.clip(tile, 0, 255).astype(np.float32), colour


def make_scene(generator: np.random.Generator, height: int, width: int) -> Scene:
    """The background and the actors of one group."""
    background, colour = make_background(generator, height, width)
    largest = math.ceil(2 * RADIUS_SHARE[1] * min(height, width))
    return Scene(background, (make_sprite(generator, colour, largest), make_sprite(generator, colour, largest)))


def draw_sprite(canvas: Floats, sprite: Sprite, coordinates: npt.NDArray[np.float64]) -> None:
    """Draw a shape at (x, y, size, angle), each in [0, 1), into float32[H, W, 3]; what leaves at one edge enters at the other."""
    height, width = canvas.shape[:2]
    size = float(coordinates[SIZE])
    radius = radius_share(size) * min(height, width)
    # The smallest level that is at least as large as what is drawn: bilinear reading then neither skips nor magnifies pixels.
    level = next(
        level for level in reversed(sprite.levels) if level.shape[0] >= 2 * radius or level is sprite.levels[0]
    )
    centre_x, centre_y = float(coordinates[X]) * width, float(coordinates[Y]) * height
    half = math.ceil(radius) + 1
    left, top = math.floor(centre_x) - half, math.floor(centre_y) - half
    side = 2 * half + 2

    scale = 2 * radius / level.shape[0]
    cosine, sine = (scale * f(2 * math.pi * float(coordinates[ANGLE])) for f in (math.cos, math.sin))
    middle = (level.shape[0] - 1) / 2
    shift_x = centre_x - left - cosine * middle + sine * middle
    shift_y = centre_y - top - sine * middle - cosine * middle
    matrix = np.array([[cosine, -sine, shift_x], [sine, cosine, shift_y]])
    patch = np.asarray(cv2.warpAffine(level, matrix, (side, side), flags=cv2.INTER_LINEAR), np.float32)
    patch *= np.float32(opacity(size))
    paint, keep = patch[..., :3], 1 - patch[..., 3:]

    for offset_y in (-height, 0, height):
        rows = slice(max(0, top + offset_y), min(height, top + offset_y + side))
        if rows.start >= rows.stop:
            continue
        patch_rows = slice(rows.start - top - offset_y, rows.stop - top - offset_y)
        for offset_x in (-width, 0, width):
            columns = slice(max(0, left + offset_x), min(width, left + offset_x + side))
            if columns.start >= columns.stop:
                continue
            patch_columns = slice(columns.start - left - offset_x, columns.stop - left - offset_x)
            region = canvas[rows, columns]
            region *= keep[patch_rows, patch_columns]
            region += paint[patch_rows, patch_columns]


def render_frames(motion: str, scene: Scene, num_frames: int, generator: np.random.Generator) -> Iterator[Frame]:
    """The frames of one clip, uint8[H, W, 3] RGB, in the size of the scene. `motion`: one of MOTIONS."""
    height, width = scene.background.shape[:2]
    num_shapes = 2 if generator.random() < TWO_SHAPES_SHARE else 1
    order = generator.permutation(2)[:num_shapes]
    shapes = [(scene.sprites[k], path(motion, num_frames, generator)) for k in order]

    speed = generator.uniform(*DRIFT_PIXELS_PER_FRAME) * min(height, width) / 120
    heading = generator.uniform(0, 2 * math.pi)
    start_x, start_y = generator.random(2) * (width, height)
    noise_level = generator.uniform(*NOISE_LEVELS)
    noise = generator.standard_normal((height + NOISE_MARGIN, width + NOISE_MARGIN, 3), np.float32) * np.float32(
        noise_level
    )
    noise_corners = generator.integers(0, NOISE_MARGIN, size=(num_frames, 2))
    brightness = 1 + FLICKER * generator.standard_normal(num_frames)

    for index in range(num_frames):
        drift = np.array(
            [
                [1, 0, (start_x + index * speed * math.cos(heading)) % width],
                [0, 1, (start_y + index * speed * math.sin(heading)) % height],
            ]
        )
        canvas = np.asarray(
            cv2.warpAffine(
                scene.background, drift, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
            ),
            np.float32,
        )
        for sprite, coordinates in shapes:
            draw_sprite(canvas, sprite, coordinates[index])
        canvas *= np.float32(brightness[index])
        row, column = noise_corners[index]
        canvas += noise[row : row + height, column : column + width]
        yield np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def encode_video(frames: Iterable[Frame], file: BinaryIO, container: str, fps: int, width: int, height: int) -> None:
    """Write uint8[height, width, 3] RGB frames into an open, seekable file: "avi" gives MPEG-4, "mp4" H.264; 4:2:0, one thread.

    Quality is high, so that what a codec does to moving things does not show in a single frame.
    """
    codec, options = {
        # 118 quantiser units (FF_QP2LAMBDA) make one step of MPEG-4's scale 1..31.
        AVI: ("mpeg4", {"flags": "+qscale", "global_quality": str(2 * 118)}),
        MP4: ("libx264", {"preset": "veryfast", "crf": "16", "x264-params": "threads=1:lookahead-threads=1"}),
    }[container]
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for rgb in frames:
            planes = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        output.mux(stream.encode(None))


@contextlib.contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Pictures this small are drawn faster by one thread, and the workers are the parallel part."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
