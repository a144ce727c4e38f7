"""Views of a video that is in no data set, cut as a test cuts them, and what the scores say of it. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests.gradient import Frame, temporal_gradient
from manifests.records import InputError
from tgtrain.data.clip import ClipSettings, plan_eval
from tgtrain.data.reader import Clip, OfPair, cut_video

_TRIES = (
    3  # a first pass by the header's count, one by the true one; a third would mean that decoding is not repeatable
)


class UnreadableError(Exception):
    """The video has no views; the message says why."""


@dataclass(frozen=True, slots=True)
class OpenedVideo:
    """A video at its first frame. frames: uint8[H, W, 3] RGB, from the first on. num_frames: as the header claims, -1 unknown."""

    frames: Iterator[Frame]
    num_frames: int


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class of a prediction. score: mean over the views (logit or probability); probability: 0..1."""

    label: int
    class_name: str
    score: float
    probability: float


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
    """The test views of a video, as `ClipReader.read_views` gives them of a stored one, and its number of frames.

    open_frames: opens the video anew for a pass over it; a second one is needed where its header is wrong or silent.
    of_pair: what stands for TG, of a frame and the one after it.
    Raises UnreadableError for a video without frames, or with too few.
    """
    known = -1
    for _ in range(_TRIES):
        opened = open_frames()
        first = next(opened.frames, None)
        if first is None:
            raise UnreadableError("no frame can be decoded")
        height, width = first.shape[:2]
        known = known if known > 0 else opened.num_frames
        try:
            plans, refused = plan_eval(max(1, known), height, width, settings, num_clips, num_crops), ""
        except InputError:
            plans, refused = (), f"it has {known} frame(s), too few for a clip"
        clips, counted = cut_video(_from(first, opened.frames), plans, rgb=rgb, tg=tg, of_pair=of_pair)
        if counted == known and refused:
            raise UnreadableError(refused)
        if counted == known and known > 0:
            return clips, counted
        known = counted
    raise UnreadableError(f"every pass over it gives another number of frames (now {known})")


def best_classes(
    scores_K: npt.NDArray[np.float32], classes: Sequence[str], average: str, most: int
) -> tuple[ClassScore, ...]:
    """The `most` likeliest classes, best first; equal scores by label. average: what the scores are means of."""
    probabilities = scores_K.astype(np.float64)
    if average == "logits":
        powers = np.exp(probabilities - probabilities.max())
        probabilities = powers / powers.sum()
    order = np.argsort(-scores_K, kind="stable")[:most]
    return tuple(ClassScore(int(k), classes[k], float(scores_K[k]), float(probabilities[k])) for k in order)


def _from(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    shape = first.shape
    yield first
    for number, frame in enumerate(rest, start=1):
        if frame.shape != shape:
            raise UnreadableError(
                f"frame {number} is {frame.shape[1]}x{frame.shape[0]}, the first is {shape[1]}x{shape[0]}"
            )
        yield frame
