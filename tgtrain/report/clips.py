"""Pictures of a report: example clips as film strips, and an example of each frequent confusion.

Clips are cut as the run cuts them for a test, at 112 pixels: slow TG and optical flow appear as the network sees them.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import simplejpeg
import torch

from manifests.gradient import ZERO_LEVEL
from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import read_split
from manifests.table import Manifest
from tgtrain.config import Config
from tgtrain.data.clip import ClipSettings, plan_eval
from tgtrain.data.reader import BadSampleError, ClipReader, Pixels, open_reader
from tgtrain.data.setup import cache_settings, clip_settings
from tgtrain.data.stores.shard_source import ShardSource
from tgtrain.evaluate.results import TestResult
from tgtrain.method.augment.apply import slow_gradient
from tgtrain.report.classes import Pair
from tgtrain.report.run_data import RunData
from tgtrain.run.folder import Typed, sources_of

NUM_CLIPS = 6
NUM_FRAMES = 8
SIDE_PIXELS = 112
_JPEG_QUALITY = 82
_MOTION_NAMES = {"fast": "TG", "slow": "slow TG", "flow": "flow"}
_MOTION_TEXTS = {
    "fast": "the temporal gradients (TG) to the next frame: grey where nothing moves",
    "slow": "the slow temporal gradients, between frames spread over the clip: grey where nothing moves",
    "flow": "the optical flow to the next frame: length, y and x of the motion as red, green and blue",
}


@dataclass(frozen=True, slots=True)
class FilmStrip:
    """The middle clip of a video. Pictures are JPEG data URIs in order of time."""

    key: str
    class_name: str
    rgb: tuple[str, ...]
    motion: tuple[str, ...]  # TG or optical flow
    frames: tuple[int, ...]  # indices in the video
    num_video_frames: int
    # Of each run its name ("" if only one is shown), the class that its test predicted, and whether that is right.
    verdicts: tuple[tuple[str, str, bool], ...] = ()
    liveliest: int = 0  # the picture in which most moves


@dataclass(frozen=True, slots=True)
class Gallery:
    """All pictures of a page."""

    strips: tuple[FilmStrip, ...] = ()
    confusions: tuple[tuple[Pair, FilmStrip], ...] = ()
    part: str = "test"  # of the split that the strips are from
    motion_name: str = ""  # TG, slow TG or flow
    motion_text: str = ""
    problem: str = ""  # why pictures are missing


def make_gallery(
    runs: Sequence[RunData], results: Sequence[TestResult | None], pairs: Sequence[Pair], typed: Typed
) -> Gallery:
    """Pictures from the data set of the first run. If it is gone or has changed, `problem` says so.

    runs: their verdicts are shown if they have the same data set.
    results: one for each run; None for a run that was not tested.
    pairs: confusions of the first run's result.
    typed: where the data of the first run is.
    """
    run = runs[0]
    settings = clip_settings(run.facts.config)
    if settings.gradient == "none":
        settings = replace(settings, gradient="fast")  # a network of RGB alone: TG shows a reader what moves
    settings = replace(settings, size=SIDE_PIXELS)  # the same part of the picture, smaller
    try:
        root, config = sources_of(run.folder, run.facts, typed)
        labels, part = _labels(run, root, results[0])
        keys = list(labels)
        # Spread evenly over the sorted keys, each in the middle of its share.
        count = min(NUM_CLIPS, len(keys))
        chosen = [keys[(2 * place + 1) * len(keys) // (2 * count)] for place in range(count)]
        # For each confusion the first video that shows it.
        first: dict[tuple[int, int], str] = {}
        for entry in sorted(results[0].predictions if results[0] else (), key=lambda e: e.key):
            first.setdefault((entry.label, entry.prediction), entry.key)
        shown = {pair: first.get((pair.truth, pair.prediction)) for pair in pairs}
        examples = {pair: key for pair, key in shown.items() if key}
        reader = _open(run, root, config, [*chosen, *examples.values()])
    except (InputError, OSError, ValueError) as error:
        reason = "There are no pictures, because the run’s data set cannot be read where it was."
        return Gallery(problem=f"{reason} {error}")
    strips, problems = {}, []
    for video, stored in enumerate(reader.index):
        try:
            strips[stored.key] = _strip(reader, video, settings)
        except (BadSampleError, InputError) as error:
            problems.append(str(error))
    reader.close()
    return Gallery(
        strips=tuple(
            replace(strips[key], class_name=run.class_name(labels[key]), verdicts=_verdicts(key, runs, results))
            for key in chosen
            if key in strips
        ),
        confusions=tuple((pair, strips[key]) for pair, key in examples.items() if key in strips),
        part=part,
        motion_name=_MOTION_NAMES[settings.gradient],
        motion_text=_MOTION_TEXTS[settings.gradient],
        problem=f"{len(problems)} clips could not be read: {problems[0]}." if problems else "",
    )


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


def _strip(reader: ClipReader, video: int, settings: ClipSettings) -> FilmStrip:
    """The middle clip of a video, at most 8 frames of it. Raises BadSampleError if it cannot be read."""
    stored = reader.index[video]
    (plan,) = plan_eval(stored.num_frames, stored.height, stored.width, settings)
    clip = reader.read(video, plan)
    motion = clip.tg
    assert motion is not None
    if plan.gradient == "slow":  # the reader gives the raw frames, and the network their differences
        motion = slow_gradient(torch.from_numpy(motion)[None])[0].to(torch.uint8).numpy()
    shown = np.linspace(0, len(plan.frames) - 1, min(NUM_FRAMES, len(plan.frames))).round().astype(int)
    change = np.abs(motion[shown].astype(np.int16) - ZERO_LEVEL).mean(axis=(1, 2, 3))
    return FilmStrip(
        key=stored.key,
        class_name="",
        rgb=_jpegs(clip.rgb[shown]),
        motion=_jpegs(motion[shown]),
        frames=tuple(plan.frames[place] for place in shown),
        num_video_frames=stored.num_frames,
        liveliest=int(change.argmax()),
    )


def _jpegs(frames: Pixels) -> tuple[str, ...]:
    pictures = (simplejpeg.encode_jpeg(frame, quality=_JPEG_QUALITY, colorspace="RGB") for frame in frames)
    return tuple(f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" for picture in pictures)
