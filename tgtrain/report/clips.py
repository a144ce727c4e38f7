"""Clips of a report, which play: examples, and the videos with a wrong answer.

They are cut as the run cuts them for a test, at 112 or 80 pixels: slow TG and optical flow appear as the network sees them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch

from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import read_split
from manifests.table import Manifest
from tgtrain.config import Config
from tgtrain.data.clip import ClipSettings, plan_eval
from tgtrain.data.reader import BadSampleError, ClipReader, Pixels, open_reader
from tgtrain.data.setup import cache_settings, clip_settings
from tgtrain.data.stores.shard_source import ShardSource
from tgtrain.evaluate.results import TestResult, read_confidences
from tgtrain.method.augment.apply import slow_gradient
from tgtrain.report.run_data import RunData
from tgtrain.run.folder import Typed, sources_of

NUM_CLIPS = 6
NUM_FRAMES = 8
MAX_ERRORS = 200  # with pictures
MAX_LISTED = 1000  # further errors, as text
SIDE_PIXELS = 112
_ERROR_PIXELS = 80
_QUALITY, _ERROR_QUALITY = 75, 55  # of WebP
_FPS = 25.0  # at which clips play: the rate of the video is not needed to see what moves
_MOTION_NAMES = {"fast": "TG", "slow": "slow TG", "flow": "flow"}
_MOTION_TEXTS = {
    "fast": "the temporal gradients (TG) to the next frame: grey where nothing moves",
    "slow": "the slow temporal gradients, between frames spread over the clip: grey where nothing moves",
    "flow": "the optical flow to the next frame: length, y and x of the motion as red, green and blue",
}


@dataclass(frozen=True, slots=True)
class Clip:
    """The middle clip of a video: its frames beside each other in one picture, which the page plays or shows whole."""

    key: str
    class_name: str
    rgb: str  # data URI
    motion: str  # data URI of as many TG or optical flow frames
    frames: tuple[int, ...]  # indices in the video
    num_video_frames: int
    seconds: float  # that one round plays
    # Of each run its name ("" if only one is shown), the class that its test predicted, and whether that is right.
    verdicts: tuple[tuple[str, str, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Mistake:
    """A video with a wrong answer. clip: None if it has no picture."""

    key: str
    truth_name: str
    prediction_name: str
    confidence: float | None
    clip: Clip | None = None


@dataclass(frozen=True, slots=True)
class Gallery:
    """All pictures of a page."""

    clips: tuple[Clip, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    """With pictures, the surest first."""
    listed: tuple[Mistake, ...] = ()
    """Further ones, as text."""
    num_mistakes: int = 0
    num_answers: int = 0
    by_key: Mapping[str, Clip] = field(default_factory=dict)
    """Clips of further videos that were asked for."""
    part: str = "test"  # of the split that the clips are from
    motion_name: str = ""  # TG, slow TG or flow
    motion_text: str = ""
    problem: str = ""  # why pictures are missing


def make_gallery(
    runs: Sequence[RunData], results: Sequence[TestResult | None], typed: Typed, wanted: Sequence[str] = ()
) -> Gallery:
    """Pictures from the data set of the first run. If it is gone or has changed, `problem` says so.

    runs: their verdicts are shown if they have the same data set; of a single run all errors are shown.
    results: one for each run; None for a run that was not tested.
    typed: where the data of the first run is. wanted: keys of further videos to show.
    """
    run, result = runs[0], results[0]
    mistakes = _mistakes(run, result) if len(runs) == 1 and result else []
    gallery = Gallery(
        mistakes=tuple(mistakes[:MAX_ERRORS]),
        listed=tuple(mistakes[MAX_ERRORS : MAX_ERRORS + MAX_LISTED]),
        num_mistakes=len(mistakes),
        num_answers=len(result.predictions) if result else 0,
    )
    settings = clip_settings(run.facts.config)
    if settings.gradient == "none":
        settings = replace(settings, gradient="fast")  # a network of RGB alone: TG shows a reader what moves
    try:
        root, config = sources_of(run.folder, run.facts, typed)
        labels, part = _labels(run, root, result)
        keys = list(labels)
        # Spread evenly over the sorted keys, each in the middle of its share.
        count = min(NUM_CLIPS, len(keys))
        chosen = [keys[(2 * place + 1) * len(keys) // (2 * count)] for place in range(count)]
        others = dict.fromkeys([*(each.key for each in gallery.mistakes), *wanted])
        reader = _open(run, root, config, [*chosen, *others])
    except (InputError, OSError, ValueError) as error:
        reason = "There are no pictures, because the run’s data set cannot be read where it was."
        return replace(gallery, problem=f"{reason} {error}")
    clips, small, problems = {}, {}, []
    for video, stored in enumerate(reader.index):
        try:
            if stored.key in chosen:
                clips[stored.key] = _clip(reader, video, settings, SIDE_PIXELS, _QUALITY)
            if stored.key in others:
                small[stored.key] = _clip(reader, video, settings, _ERROR_PIXELS, _ERROR_QUALITY)
        except (BadSampleError, InputError) as error:
            problems.append(str(error))
        except OSError as error:  # a store that is gone: each further video would wait for it, too
            problems.append(f"{error} (the other videos were not read)")
            break
    reader.close()
    return replace(
        gallery,
        clips=tuple(
            replace(clips[key], class_name=run.class_name(labels[key]), verdicts=_verdicts(key, runs, results))
            for key in chosen
            if key in clips
        ),
        mistakes=tuple(replace(each, clip=small.get(each.key)) for each in gallery.mistakes),
        by_key={key: small[key] for key in wanted if key in small},
        part=part,
        motion_name=_MOTION_NAMES[settings.gradient],
        motion_text=_MOTION_TEXTS[settings.gradient],
        problem=f"{len(problems)} clips could not be read: {problems[0]}." if problems else "",
    )


def _mistakes(run: RunData, result: TestResult) -> list[Mistake]:
    """The wrong answers, the surest first; without stored scores in order of their keys."""
    confidences = read_confidences(result)
    wrong = [entry for entry in result.predictions if entry.prediction != entry.label]
    wrong.sort(key=lambda entry: (-confidences.get(entry.key, 0.0), entry.key))
    return [
        Mistake(e.key, run.class_name(e.label), run.class_name(e.prediction), confidences.get(e.key)) for e in wrong
    ]


def _open(run: RunData, root: str, config: Config, keys: Sequence[str]) -> ClipReader:
    """A reader of these videos in the run's data set; InputError if the data set has changed since."""
    manifest: Manifest = read_manifest(root)
    if manifest.digest != run.facts.data.digest:
        raise InputError(
            f"The data set at {root} is not the one of the run any more (digest {manifest.digest[:12]}, "
            f"then {run.facts.data.digest[:12]})."
        )
    source = ShardSource.of(manifest, config.data.shards) if config.data.reader == "stream" else None
    return open_reader(manifest, dict.fromkeys(keys), cache_settings(config), source)


def _labels(run: RunData, root: str, result: TestResult | None) -> tuple[dict[str, int], str]:
    """Label by key of the videos to choose from, sorted by key, and their part: test, else validation, else labelled.

    If the split is gone, the tested videos are used.
    """
    try:
        split = read_split(root, run.facts.split.name)
    except InputError:
        if result is None or not result.predictions:
            raise
        return {entry.key: entry.label for entry in sorted(result.predictions, key=lambda e: e.key)}, result.part
    for part in ("test", "validation", "labelled"):
        keys = split.keys_of(part)
        if keys:
            labels = dict(zip(split.key, split.label.tolist(), strict=True))
            return {key: int(labels[key]) for key in keys}, part
    raise InputError(f"Split {split.name} has no videos to show.")


def _verdicts(
    key: str, runs: Sequence[RunData], results: Sequence[TestResult | None]
) -> tuple[tuple[str, str, bool], ...]:
    return tuple(
        (run.name if len(runs) > 1 else "", run.class_name(entry.prediction), entry.prediction == entry.label)
        for run, result in zip(runs, results, strict=True)
        if result is not None and run.facts.data.digest == runs[0].facts.data.digest
        for entry in result.predictions
        if entry.key == key
    )


def _clip(reader: ClipReader, video: int, settings: ClipSettings, side: int, quality: int) -> Clip:
    """The middle clip of a video, at most 8 frames of it, as the run cuts it. Raises BadSampleError if it cannot be read."""
    stored = reader.index[video]
    settings = replace(settings, size=side)  # the same part of the picture, smaller
    (plan,) = plan_eval(stored.num_frames, stored.height, stored.width, settings)
    clip = reader.read(video, plan)
    motion = clip.tg
    assert motion is not None
    if plan.gradient == "slow":  # the reader gives the raw frames, and the network their differences
        motion = slow_gradient(torch.from_numpy(motion)[None])[0].to(torch.uint8).numpy()
    shown = np.linspace(0, len(plan.frames) - 1, min(NUM_FRAMES, len(plan.frames))).round().astype(int)
    return Clip(
        key=stored.key,
        class_name="",
        rgb=_sheet(clip.rgb[shown], quality),
        motion=_sheet(motion[shown], quality),
        frames=tuple(plan.frames[place] for place in shown),
        num_video_frames=stored.num_frames,
        seconds=round(min(3.0, max(0.6, settings.clip_frames * settings.interval / _FPS)), 2),
    )


def _sheet(frames: Pixels, quality: int) -> str:
    """Frames in a row as one WebP picture."""
    done, content = cv2.imencode(".webp", np.hstack(list(frames))[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])
    assert done
    return f"data:image/webp;base64,{base64.b64encode(content.tobytes()).decode()}"
