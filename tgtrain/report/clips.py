"""Pictures for a report: example test clips as film strips of RGB and TG, and one example of each frequent confusion."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import simplejpeg

from manifests.gradient import ZERO_LEVEL
from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import read_split
from tgtrain.data.clip import ClipPlan, ClipSettings, plan_eval
from tgtrain.data.reader import BadSampleError, ClipReader, Pixels, open_reader
from tgtrain.data.stores.cache import CacheSettings
from tgtrain.data.stores.shard_source import ShardSource
from tgtrain.evaluate.results import TestResult
from tgtrain.report.classes import Pair
from tgtrain.report.run_data import RunData

NUM_CLIPS = 6
NUM_FRAMES = 8
_SIDE_PIXELS = 112
_JPEG_QUALITY = 82


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run's test said about a clip. who: the run's name, "" where there is only one."""

    who: str
    class_name: str
    right: bool


@dataclass(frozen=True, slots=True)
class FilmStrip:
    """A test clip. rgb, tg: JPEG data URIs, one a frame, in order of time; frames: their indices in the video."""

    key: str
    class_name: str
    rgb: tuple[str, ...]
    tg: tuple[str, ...]
    frames: tuple[int, ...]
    num_video_frames: int
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class ConfusionPicture:
    """One video behind a confusion: the frame of its middle clip in which most moves, as RGB and TG."""

    pair: Pair
    key: str
    rgb: str
    tg: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """problem: why pictures are missing, "" where none are. part: of the split that the strips are from."""

    strips: tuple[FilmStrip, ...] = ()
    confusions: tuple[ConfusionPicture, ...] = ()
    part: str = "test"
    problem: str = ""


def make_gallery(runs: Sequence[RunData], results: Sequence[TestResult | None], pairs: Sequence[Pair]) -> Gallery:
    """Pictures from the data set of the first run; a data set that is gone or changed is told in `problem`.

    runs: those whose verdicts are shown; only runs on the same data set count. results: one a run, None untested.
    pairs: confusions of the first run's result. Strips are spread evenly over the sorted test keys.
    """
    run = runs[0]
    try:
        manifest = read_manifest(run.data.root)
        if manifest.digest != run.data.digest:
            raise InputError(
                f"The data set at {run.data.root} is not the one of the run any more (digest {manifest.digest[:12]}, "
                f"then {run.data.digest[:12]})."
            )
        labels, part = _labels(run, results[0])
        keys = list(labels)
        chosen = [keys[(2 * place + 1) * len(keys) // (2 * NUM_CLIPS)] for place in range(min(NUM_CLIPS, len(keys)))]
        if len(keys) <= NUM_CLIPS:
            chosen = keys
        examples = _examples(results[0], pairs)
        settings = run.settings
        cache = CacheSettings(settings.get("runtime.cache", ""), int(settings.get("runtime.cache_gb", 0) * 1e9))
        streamed = settings.get("data.reader") == "stream"
        stream = ShardSource(run.data.root, settings.get("data.shards", "")) if streamed else None
        reader = open_reader(manifest, dict.fromkeys([*chosen, *examples.values()]), cache, stream)
    except (InputError, OSError, ValueError) as error:
        return Gallery(
            problem=f"There are no pictures, because the run’s data set cannot be read where it was. {error}"
        )
    at = {place.key: number for number, place in enumerate(reader.index)}
    problems: list[str] = []
    verdicts = {key: _verdicts(key, runs, results) for key in chosen}
    strips = []
    for key in chosen:
        pictures = _pictures(reader, at[key], run, problems)
        if pictures is not None:
            plan, rgb, tg, _ = pictures
            name = _class_name(run, labels[key])
            num_frames = reader.index[at[key]].num_frames
            strips.append(FilmStrip(key, name, rgb, tg, _thinned(plan.frames), num_frames, verdicts[key]))
    confusions = []
    for pair, key in examples.items():
        pictures = _pictures(reader, at[key], run, problems)
        if pictures is not None:
            _, rgb, tg, liveliest = pictures
            confusions.append(ConfusionPicture(pair, key, rgb[liveliest], tg[liveliest]))
    reader.close()
    problem = f"{len(problems)} clips could not be read: {problems[0]}." if problems else ""
    return Gallery(tuple(strips), tuple(confusions), part, problem)


def _labels(run: RunData, result: TestResult | None) -> tuple[dict[str, int], str]:
    """Label by key of the videos to choose from, sorted by key, and the part that they are: the test part if there is one.

    Where the split is gone, what was tested stands in for it.
    """
    try:
        split = read_split(run.data.root, run.split.name)
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


def _examples(result: TestResult | None, pairs: Sequence[Pair]) -> dict[Pair, str]:
    """For each confusion the first key that shows it."""
    first: dict[tuple[int, int], str] = {}
    for entry in sorted(result.predictions if result else (), key=lambda e: e.key):
        first.setdefault((entry.label, entry.prediction), entry.key)
    return {pair: first[pair.truth, pair.prediction] for pair in pairs if (pair.truth, pair.prediction) in first}


def _verdicts(key: str, runs: Sequence[RunData], results: Sequence[TestResult | None]) -> tuple[Verdict, ...]:
    found = []
    for run, result in zip(runs, results, strict=True):
        if result is None or run.data.digest != runs[0].data.digest:
            continue
        for entry in result.predictions:
            if entry.key == key:
                who = run.name if len(runs) > 1 else ""
                found.append(Verdict(who, _class_name(run, entry.prediction), entry.prediction == entry.label))
    return tuple(found)


def _class_name(run: RunData, label: int) -> str:
    return run.data.classes[label] if 0 <= label < len(run.data.classes) else f"class {label}"


def _pictures(
    reader: ClipReader, video: int, run: RunData, problems: list[str]
) -> tuple[ClipPlan, tuple[str, ...], tuple[str, ...], int] | None:
    """The centre clip as a test cuts it, 112 pixels a side: plan, RGB, TG, and the place of the frame in which most moves.

    None, with the reason in `problems`, where it cannot be read.
    """
    place = reader.index[video]
    try:
        settings = ClipSettings(
            clip_frames=int(run.settings.get("data.clip_frames", 8)),
            interval=int(run.settings.get("data.interval", 8)),
            size=_SIDE_PIXELS,
        )
        (plan,) = plan_eval(place.num_frames, place.height, place.width, settings)
        clip = reader.read(video, plan)
    except (BadSampleError, InputError) as error:
        problems.append(str(error))
        return None
    assert clip.tg is not None
    rgb, tg = np.stack(_thinned(tuple(clip.rgb))), np.stack(_thinned(tuple(clip.tg)))
    liveliest = int(np.abs(tg.astype(np.int16) - ZERO_LEVEL).mean(axis=(1, 2, 3)).argmax())
    return plan, _jpegs(rgb), _jpegs(tg), liveliest


def _jpegs(frames: Pixels) -> tuple[str, ...]:
    pictures = (simplejpeg.encode_jpeg(frame, quality=_JPEG_QUALITY, colorspace="RGB") for frame in frames)
    return tuple(f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" for picture in pictures)


def _thinned(frames: tuple[T, ...]) -> tuple[T, ...]:
    """At most 8, evenly spread, first and last among them."""
    if len(frames) <= NUM_FRAMES:
        return frames
    return tuple(frames[round(place * (len(frames) - 1) / (NUM_FRAMES - 1))] for place in range(NUM_FRAMES))
