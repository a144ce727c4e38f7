"""The frames and crop boxes of a clip: pure arithmetic, no pixels.

Frame indices count from 0. A clip of `clip_frames` frames at `interval` spans S = clip_frames * interval frames of n usable
ones; a start is any of 0 .. n - S, and a video shorter than S is repeated (index modulo n).
TG_k belongs to frames k and k + 1, so a video of N frames has n = N - 1 usable ones if the clip needs "fast" TG.
Training geometry is drawn on the frame resized to a short side of 256 (for input 224; in proportion for others) and
mapped back to the stored frame, so pixels are interpolated once. All numbers follow the reference pipeline
(MMAction2 0.16: SampleFrames, Resize, RandomResizedCrop, Flip, CenterCrop, ThreeCrop); what is drawn comes from
`.random()` doubles alone (see tgtrain.randomness.sample_seed).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from manifests.console import plural
from manifests.records import InputError
from tgtrain.data.crop import (
    REFERENCE_INPUT_SIZE,
    CropBox,
    Size,
    centre_crop,
    random_resized_crop,
    random_square,
    reference_pixels,
    short_side_size,
    three_crops,
    to_stored_frame,
)
from tgtrain.randomness import below

REFERENCE_SHORT_SIDE = 256
REFERENCE_JITTER = (256, 320)
_OF_PAIRS = ("fast", "flow")  # gradients of a frame and the next one: the last frame of a video has none

Gradient = Literal["fast", "slow", "flow", "none"]


@dataclass(frozen=True, slots=True)
class ClipSettings:
    """How clips are cut out of videos; the defaults are the main recipe."""

    clip_frames: int = 8  # frames of a clip
    interval: int = 8  # frames from one to the next
    num_clips: int = 1  # training clips a video
    # "segments": one from each of num_clips equal parts of the starts; "uniform": each from all starts.
    clip_spread: Literal["segments", "uniform"] = "segments"
    # "fast": TG_k of each frame k of the clip. "slow": differences of clip_frames + 1 frames spread over the clip; the plan names
    # the raw frames. "flow": the stored flow picture of each frame in place of TG. "none": RGB alone, which may use the last frame.
    gradient: Gradient = "fast"
    # Whether a network sees RGB: if none does, a test uses only frames that have a gradient, as in training.
    rgb: bool = True
    size: int = REFERENCE_INPUT_SIZE  # side in pixels of the square that the network gets in training
    # The same in a test with three crops; 0: 256 for a size of 224 (published), in proportion for others.
    test_size: int = 0
    crop: Literal["resized", "jitter"] = "resized"  # random area and aspect, or random short side and square (MvPL)
    area: tuple[float, float] = (0.08, 1.0)  # range of the part of the resized frame that a "resized" crop covers
    aspect_range: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of a "resized" crop
    flip_probability: float = 0.5
    shared_crop: bool = True  # whether crop and flip are the same for RGB and TG (MvPL draws them independently)
    # Whether flow of a mirrored clip keeps its horizontal direction (a mistake of the reference).
    flow_flip_keeps_x: bool = False

    def __post_init__(self) -> None:
        for name in ("clip_frames", "interval", "num_clips", "size"):
            if getattr(self, name) < 1:
                raise InputError(f"setting {name}: got {getattr(self, name)}, expected a whole number >= 1")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise InputError(f"setting area: got {self.area}, expected 0 < smallest <= largest <= 1")
        if not 0 < self.aspect_range[0] <= self.aspect_range[1]:
            raise InputError(f"setting aspect_range: got {self.aspect_range}, expected 0 < smallest <= largest")
        if not 0 <= self.flip_probability <= 1:
            raise InputError(f"setting flip_probability: got {self.flip_probability}, expected 0 to 1")


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """What to read and cut for one clip: everything that a reader needs, with no random choice left."""

    frames: tuple[int, ...]  # indices of the RGB frames, in clip order
    # "fast" and "flow": the k of each TG_k or flow picture. "slow": the clip_frames + 1 RGB frames to subtract. "none": ().
    tg_frames: tuple[int, ...]
    gradient: Gradient
    # None: boxes are cut from the stored frame and each is resized to output_size. Else (a test with three crops): the frame is
    # resized to this first, as in the reference, and one resize serves all three crops.
    resized: Size | None
    boxes: tuple[CropBox, ...]  # one for each view (one in training)
    flip: bool  # whether to mirror left to right
    tg_boxes: tuple[CropBox, ...]
    # TG is mirrored, never negated; of mirrored flow the horizontal motion is reversed, unless flow_keeps_x.
    tg_flip: bool
    output_size: int  # side of the square output in pixels
    flow_keeps_x: bool = False


def plan_train(
    num_frames: int, height: int, width: int, settings: ClipSettings, rng: np.random.Generator
) -> tuple[ClipPlan, ...]:
    """`num_clips` training clips of a video, each with its own crop and flip.

    num_frames, height, width: of the video as stored. rng: of this video in this pass, for Choice.CLIP.
    InputError if the video has too few frames for a clip.
    """
    num_usable = _num_usable_frames(num_frames, settings.gradient)
    frame = Size(height, width)
    plans = []
    for start in train_starts(num_usable, settings, rng):
        box, flip = _draw_geometry(frame, settings, rng)
        tg_box, tg_flip = (box, flip) if settings.shared_crop else _draw_geometry(frame, settings, rng)
        frames = clip_indices(start, num_usable, settings)
        plans.append(
            ClipPlan(
                frames=frames,
                tg_frames=_gradient_indices(frames, num_frames, settings),
                gradient=settings.gradient,
                resized=None,
                boxes=(box,),
                flip=flip,
                tg_boxes=(tg_box,),
                tg_flip=tg_flip,
                output_size=settings.size,
                flow_keeps_x=settings.flow_flip_keeps_x,
            )
        )
    return tuple(plans)


def plan_eval(
    num_frames: int, height: int, width: int, settings: ClipSettings, num_clips: int = 1, num_crops: int = 1
) -> tuple[ClipPlan, ...]:
    """The `num_clips` x `num_crops` views of a video for a test, clip-major; nothing is random.

    num_crops 1: centre square of `size` from a short side of 256 (for input 224), cut from the stored frame and resized once; 3:
    squares of that short side at the start, end and middle of the long side, cut from the resized frame. RGB uses all frames,
    so its score does not depend on whether TG is requested; TG_k of the last frame, which does not exist, is replaced by the
    one before.
    InputError for another number of crops, and if the video has too few frames.
    """
    if num_clips < 1 or num_crops not in (1, 3):
        raise InputError(f"views: got {num_clips} clips x {num_crops} crops, expected at least 1 clip and 1 or 3 crops")
    num_usable = _num_usable_frames(num_frames, settings.gradient)
    num_usable = num_frames if settings.rgb else num_usable
    short_side = reference_pixels(REFERENCE_SHORT_SIDE, settings.size)
    if num_crops == 3 and settings.test_size:
        short_side = settings.test_size
    resized = short_side_size(height, width, short_side)
    boxes: tuple[CropBox, ...]
    if num_crops == 1:
        boxes = (to_stored_frame(centre_crop(resized, settings.size), resized, Size(height, width)),)
    else:
        boxes = three_crops(resized, short_side)
    plans = []
    for start in eval_starts(num_usable, settings, num_clips):
        frames = clip_indices(start, num_usable, settings)
        plans.append(
            ClipPlan(
                frames=frames,
                tg_frames=_gradient_indices(frames, num_frames, settings),
                gradient=settings.gradient,
                resized=None if num_crops == 1 else resized,
                boxes=boxes,
                flip=False,
                tg_boxes=boxes,
                tg_flip=False,
                output_size=settings.size if num_crops == 1 else short_side,
            )
        )
    return tuple(plans)


def clip_indices(start: int, num_frames: int, settings: ClipSettings) -> tuple[int, ...]:
    """clip_frames indices from `start` on, `interval` apart, modulo the number of frames."""
    return tuple((start + settings.interval * number) % num_frames for number in range(settings.clip_frames))


def slow_indices(frames: Sequence[int]) -> tuple[int, ...]:
    """One index more than the clip has frames, evenly from its first to its last (8 frames at 8: 9 frames at 7).

    Their differences are the slow TG. In a clip that wraps, the last frame may come before the first: the indices then run
    backwards, as in the reference.
    """
    return tuple(int(index) for index in np.linspace(frames[0], frames[-1], len(frames) + 1).round())


def train_starts(num_frames_usable: int, settings: ClipSettings, rng: np.random.Generator) -> tuple[int, ...]:
    """First frames of `num_clips` random clips; 0 for each if the video is not longer than a clip's span."""
    num_starts = num_frames_usable - settings.clip_frames * settings.interval + 1
    if num_starts < 1:
        return (0,) * settings.num_clips
    if settings.clip_spread == "uniform":
        return tuple(below(rng, num_starts) for _ in range(settings.num_clips))
    part = num_starts // settings.num_clips
    if part == 0:  # fewer starts than clips: any of them, in order of time
        return tuple(sorted(below(rng, num_starts) for _ in range(settings.num_clips)))
    return tuple(number * part + below(rng, part) for number in range(settings.num_clips))


def eval_starts(num_frames: int, settings: ClipSettings, num_clips: int) -> tuple[int, ...]:
    """First frames of `num_clips` evenly spread clips, each at the middle of its part of the starts; 0 for each if the video is too short."""
    num_starts = num_frames - settings.clip_frames * settings.interval + 1
    if num_starts < 1:
        return (0,) * num_clips
    part = num_starts / num_clips
    return tuple(int(number * part + part / 2) for number in range(num_clips))


def _draw_geometry(stored: Size, settings: ClipSettings, rng: np.random.Generator) -> tuple[CropBox, bool]:
    """Crop in pixels of the stored frame, and flip, of one training clip."""
    if settings.crop == "jitter":
        low, high = (reference_pixels(side, settings.size) for side in REFERENCE_JITTER)
        resized = short_side_size(stored.height, stored.width, low + below(rng, high - low + 1))
        box = random_square(resized, settings.size, rng)
    else:
        short_side = reference_pixels(REFERENCE_SHORT_SIDE, settings.size)
        resized = short_side_size(stored.height, stored.width, short_side)
        box = random_resized_crop(resized, rng, settings.area, settings.aspect_range)
    return to_stored_frame(box, resized, stored), rng.random() < settings.flip_probability


def _gradient_indices(frames: tuple[int, ...], num_frames: int, settings: ClipSettings) -> tuple[int, ...]:
    if settings.gradient == "slow":
        return slow_indices(frames)
    if settings.gradient in _OF_PAIRS:
        return tuple(min(frame, num_frames - 2) for frame in frames)
    return ()


def _num_usable_frames(num_frames: int, gradient: Gradient) -> int:
    """Frames that a training clip may use: all, or all but the last if each must have a TG."""
    fewest = 2 if gradient in _OF_PAIRS else 1
    if num_frames < fewest:
        raise InputError(
            f"video has {plural(num_frames, 'frame')}, a clip with gradient '{gradient}' needs at least {fewest}: "
            "leave the video out of the split (`tgprep check` names such videos)"
        )
    return num_frames - 1 if gradient in _OF_PAIRS else num_frames
