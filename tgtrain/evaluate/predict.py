"""Views of a video that is in no data set, cut as a test cuts them, and the classes that its scores name. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests.console import plural
from manifests.gradient import Frame, temporal_gradient
from manifests.records import InputError
from tgtrain.data.clip import ClipSettings, plan_eval
from tgtrain.data.reader import Clip, OfPair, cut_video

_MAX_PASSES = 3  # one by the header's count, one by the true count; a third finds that decoding is not repeatable


class UnreadableError(Exception):
    """The video has no views; the message says why."""


@dataclass(frozen=True, slots=True)
class OpenedVideo:
    """A video at its first frame."""

    frames: Iterator[Frame]
    """uint8[H, W, 3] RGB, from the first on."""
    num_frames: int
    """As the header claims, -1 if unknown."""


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class of a prediction."""

    label: int
    class_name: str
    score: float
    """Mean over the views: logit or probability."""
    probability: float
    """0..1."""


def read_views(
    open_frames: Callable[[], OpenedVideo],
    settings: ClipSettings,
    num_clips: int,
    num_crops: int,
    *,
    rgb: bool = True,
    tg: bool = False,
    of_pair: OfPair = temporal_gradient,
) -> tuple[list[Clip], int]:
    """Read the test views of a video, as `ClipReader.read_views` gives them of a stored one, and its number of frames.

    open_frames: opens the video for one pass; there is a second pass if its header is wrong or gives no count.
    of_pair: gives what stands for TG, of a frame and the one after it.
    Raises UnreadableError for a video without frames, or with too few.
    """
    num_frames = -1
    for _ in range(_MAX_PASSES):
        opened = open_frames()
        first = next(opened.frames, None)
        if first is None:
            raise UnreadableError("no frame can be decoded")
        if num_frames <= 0:
            num_frames = opened.num_frames
        height, width = first.shape[:2]
        # The count may be wrong: only a pass that confirms it can say that the video is too short.
        try:
            plans, refusal = plan_eval(max(1, num_frames), height, width, settings, num_clips, num_crops), ""
        except InputError:
            plans, refusal = (), f"it has {plural(num_frames, 'frame')}, too few for a clip"
        clips, num_decoded = cut_video(_same_size(first, opened.frames), plans, rgb=rgb, tg=tg, of_pair=of_pair)
        # A pass that decodes another number of frames has cut its clips in the wrong places: repeat it.
        if num_decoded == num_frames and refusal:
            raise UnreadableError(refusal)
        if num_decoded == num_frames > 0:
            return clips, num_decoded
        num_frames = num_decoded
    raise UnreadableError(f"every pass over it gives another number of frames (now {num_frames})")


def best_classes(
    scores_K: npt.NDArray[np.float32], classes: Sequence[str], average: str, most: int
) -> tuple[ClassScore, ...]:
    """The `most` likely classes, best first; equal scores by label. average: what the scores are means of."""
    probabilities = scores_K.astype(np.float64)
    if average == "logits":
        powers = np.exp(probabilities - probabilities.max())
        probabilities = powers / powers.sum()
    order = np.argsort(-scores_K, kind="stable")[:most]
    return tuple(ClassScore(int(k), classes[k], float(scores_K[k]), float(probabilities[k])) for k in order)


def _same_size(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    """Yield the frames; UnreadableError if one has another size than the first."""
    shape = first.shape
    yield first
    for number, frame in enumerate(rest, start=1):
        if frame.shape != shape:
            raise UnreadableError(
                f"frame {number} is {frame.shape[1]}x{frame.shape[0]}, the first is {shape[1]}x{shape[0]}"
            )
        yield frame
