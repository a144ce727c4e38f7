"""Draw the sample data set: textured shapes that move along `sample_paths` over a drifting background, with noise and flicker.

Everything but the paths is drawn without knowing the class. Shapes have hard outlines and no motion blur, which would show in one
frame how fast a thing moves.
"""

from __future__ import annotations

import colorsys
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
# A shape at several scales: float32[S, S, 4] premultiplied RGBA (RGB 0..255, alpha 0..1), S halving from level to level.
Sprite = tuple[Floats, ...]

# Radius as a share of the picture's shorter side, for size coordinates 0 and 1, on a log scale in between.
# Twice the largest stays under 1, so that a shape never meets its own copy across the edge.
RADIUS_SHARE = (0.13, 0.40)
# A shape fades in and out over these shares of the size scale, so that a wrapped size is not visible as a jump.
FADE_SMALL, FADE_LARGE = 0.03, 0.06
OUTLINES = ("triangle", "square", "pentagon", "hexagon", "disc", "star", "cross", "half disc")
TEXTURES = ("stripes", "checks", "halves", "dots", "rings")
TWO_SHAPES_SHARE = 0.25  # of the clips
DRIFT_PIXELS_PER_FRAME = (0.1, 0.7)  # at 120 lines; scaled with the picture
BACKGROUND_SATURATION, BACKGROUND_VALUE = (0.1, 0.6), (0.15, 0.5)
SHAPE_SATURATION, SHAPE_VALUE = (0.2, 1.0), (0.6, 1.0)
BACKGROUND_CONTRAST = (3.0, 9.0)  # standard deviation, in grey levels of 255
NOISE_LEVELS = (0.5, 2.5)  # standard deviation, in grey levels of 255
FLICKER = 0.02  # standard deviation of the brightness factor
NOISE_MARGIN = 32


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
    """Of six random bright colours, the one farthest from `others`: shapes must show on their background."""
    candidates = [_colour(generator, SHAPE_SATURATION, SHAPE_VALUE) for _ in range(6)]
    return max(candidates, key=lambda colour: min(float(np.linalg.norm(colour - other)) for other in others))


def _outline(kind: str) -> npt.NDArray[np.float64]:
    """Corners of a shape inside the unit circle: float64[N, 2]."""
    num_corners = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6, "disc": 64, "star": 10}.get(kind, 0)
    angles = np.arange(num_corners) * (2 * math.pi) / max(num_corners, 1)
    radii = np.ones(num_corners)
    if kind == "star":
        radii[1::2] = 0.45
    elif kind == "half disc":
        angles, radii = np.arange(33) * math.pi / 32, np.ones(33)
    elif kind == "cross":
        arm = 0.32
        long = math.sqrt(1 - arm * arm)
        arms = np.arctan2([-arm, arm, arm], [long, long, arm])[None, :] + np.arange(4)[:, None] * (math.pi / 2)
        angles, radii = arms.ravel(), np.tile([1.0, 1.0, math.hypot(arm, arm)], 4)
    points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    return (points - [0.0, 0.4]) / math.hypot(1.0, 0.4) if kind == "half disc" else points


def _texture(kind: str, size: int, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which of two colours a pixel has: bool[size, size]. Every texture changes when turned, so that Spin shows."""
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
    inner = filled(0.82)
    rgba[filled(0.97)] = [*rim, 1.0]
    rgba[inner & texture, :3] = first
    rgba[inner & ~texture, :3] = second
    sizes = [size >> level for level in range(size.bit_length() - 4)]  # down to 16
    return tuple(np.asarray(cv2.resize(rgba, (s, s), interpolation=cv2.INTER_AREA), np.float32) for s in sizes)


def make_scene(generator: np.random.Generator, height: int, width: int) -> Scene:
    """The background and the actors of one group."""
    # The background is coloured noise, made in the frequency domain so that it repeats without a seam.
    colour = _colour(generator, BACKGROUND_SATURATION, BACKGROUND_VALUE)
    rows, columns = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None, :] * width
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(generator.standard_normal((height, width))) * frequency ** -generator.uniform(1.0, 1.8)
    grey = np.fft.irfft2(spectrum, s=(height, width))
    grey /= grey.std()
    if generator.random() < 0.5:  # an integer number of waves has no seam either
        waves_y, waves_x = generator.integers(-6, 7, size=2)
        y, x = np.mgrid[0:height, 0:width]
        grey += generator.uniform(0.5, 1.2) * np.sin(2 * np.pi * (waves_y * y / height + waves_x * x / width))
    tint = 1.0 + 0.4 * generator.standard_normal(3)
    contrast = generator.uniform(*BACKGROUND_CONTRAST)
    tile = colour + (contrast * grey[..., None] * tint).astype(np.float32)
    background = np.clip(tile, 0, 255).astype(np.float32)

    largest = math.ceil(2 * RADIUS_SHARE[1] * min(height, width))
    return Scene(background, (make_sprite(generator, colour, largest), make_sprite(generator, colour, largest)))


def draw_sprite(canvas: Floats, sprite: Sprite, coordinates: npt.NDArray[np.float64]) -> None:
    """Draw a shape at (x, y, size, angle), each in [0, 1), into float32[H, W, 3], which wraps at its edges."""
    height, width = canvas.shape[:2]
    size = float(coordinates[SIZE])
    radius = radius_share(size) * min(height, width)
    # The smallest level that is at least as large as the shape: bilinear sampling then neither skips nor magnifies pixels.
    level = next((level for level in reversed(sprite) if level.shape[0] >= 2 * radius), sprite[0])
    centre_x, centre_y = float(coordinates[X]) * width, float(coordinates[Y]) * height
    half = math.ceil(radius) + 1
    left, top = math.floor(centre_x) - half, math.floor(centre_y) - half
    side = 2 * half + 2

    # Turn and scale the sprite about its middle into a square patch around the centre.
    scale = 2 * radius / level.shape[0]
    cosine, sine = (scale * f(2 * math.pi * float(coordinates[ANGLE])) for f in (math.cos, math.sin))
    middle = (level.shape[0] - 1) / 2
    shift_x = centre_x - left - cosine * middle + sine * middle
    shift_y = centre_y - top - sine * middle - cosine * middle
    matrix = np.array([[cosine, -sine, shift_x], [sine, cosine, shift_y]])
    patch = np.asarray(cv2.warpAffine(level, matrix, (side, side), flags=cv2.INTER_LINEAR), np.float32)
    patch *= np.float32(opacity(size))

    # The patch is smaller than the canvas, so that no pixel of the canvas comes twice.
    region = np.ix_((top + np.arange(side)) % height, (left + np.arange(side)) % width)
    canvas[region] = canvas[region] * (1 - patch[..., 3:]) + patch[..., :3]


def render_frames(motion: str, scene: Scene, num_frames: int, generator: np.random.Generator) -> Iterator[Frame]:
    """The frames of one clip, uint8[H, W, 3] RGB, in the size of the scene. `motion`: one of MOTIONS."""
    height, width = scene.background.shape[:2]
    num_shapes = 2 if generator.random() < TWO_SHAPES_SHARE else 1
    shapes = [(scene.sprites[k], path(motion, num_frames, generator)) for k in generator.permutation(2)[:num_shapes]]

    speed = generator.uniform(*DRIFT_PIXELS_PER_FRAME) * min(height, width) / 120
    heading = generator.uniform(0, 2 * math.pi)
    start_x, start_y = generator.random(2) * (width, height)
    # One noise picture, larger than a frame: each frame shows another random corner of it.
    noise_level = np.float32(generator.uniform(*NOISE_LEVELS))
    noise = generator.standard_normal((height + NOISE_MARGIN, width + NOISE_MARGIN, 3), np.float32) * noise_level
    noise_corners = generator.integers(0, NOISE_MARGIN, size=(num_frames, 2))
    brightness = 1 + FLICKER * generator.standard_normal(num_frames)

    for index in range(num_frames):
        shift_x = (start_x + index * speed * math.cos(heading)) % width
        shift_y = (start_y + index * speed * math.sin(heading)) % height
        drift = np.array([[1, 0, shift_x], [0, 1, shift_y]])
        moved = cv2.warpAffine(scene.background, drift, (width, height), borderMode=cv2.BORDER_WRAP)  # bilinear
        canvas = np.asarray(moved, np.float32)
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
    # With its macroblock tree in vector code, x264 gave the same narrow frames other bytes now and then, as if it read memory beside them.
    x264 = "threads=1:lookahead-threads=1:mbtree=0:cpu-independent=1"
    codec, options = {
        "avi": ("mpeg4", {"flags": "+qscale", "global_quality": str(2 * 118)}),  # 118: FF_QP2LAMBDA, scale 1..31
        "mp4": ("libx264", {"preset": "veryfast", "crf": "16", "x264-params": x264}),
    }[container]
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for rgb in frames:
            planes = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        output.mux(stream.encode(None))
