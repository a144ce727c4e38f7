"""Render the sample data set: a folder of small real video files whose classes differ only in how things move.

`sample_paths` defines the classes, `sample_render` draws them.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import joblib
import numpy as np

from manifests.disk import held_folder, remove_leftovers
from manifests.files import atomic_write, require_own_folder
from manifests.manifest_io import json_bytes
from manifests.records import InputError
from tgprep.obtain.sample_paths import MOTIONS
from tgprep.obtain.sample_render import Frame, encode_video, make_scene, render_frames

# Says which settings made a folder. The dot keeps it out of a scan for videos.
SETTINGS_NAME = ".tgprep-sample.json"
# Counts up whenever the same settings would draw other pictures, so that an unfinished folder never gets videos of two styles.
GENERATOR_VERSION = 2
MIXED = "mixed"
NUM_FOLDS = 3
TEST_GROUP_SHARE = 7 / 25  # UCF101 tests on 7 of its 25 groups in every fold


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """What to render. Raises InputError, which names all mistakes."""

    num_classes: int = 8  # the first of MOTIONS
    num_groups: int = 10  # per class
    clips_per_group: int = 2
    seed: int = 0
    width: int = 160  # pixels
    height: int = 120
    fps: int = 25  # of the files; motion is set per frame
    min_frames: int = 64  # the length of every clip is drawn from min_frames to max_frames, both included
    max_frames: int = 90
    container: str = MIXED  # "avi" (MPEG-4), "mp4" (H.264) or "mixed" (in turn, the same for every class)

    def __post_init__(self) -> None:
        pixels = "an even number of pixels, at least 32"
        rules = {
            "num_classes": (2 <= self.num_classes <= len(MOTIONS), f"2 to {len(MOTIONS)}"),
            "num_groups": (self.num_groups >= 1, "1 or more"),
            "clips_per_group": (self.clips_per_group >= 1, "1 or more"),
            "seed": (self.seed >= 0, "0 or greater"),
            "width": (self.width >= 32 and self.width % 2 == 0, pixels),
            "height": (self.height >= 32 and self.height % 2 == 0, pixels),
            "fps": (1 <= self.fps <= 240, "1 to 240 frames per second"),
            "min_frames": (self.min_frames >= 2, "2 or more"),
            "max_frames": (self.max_frames >= self.min_frames, f"min_frames ({self.min_frames}) or more"),
            "container": (self.container in (MIXED, "avi", "mp4"), "mixed or avi or mp4"),
        }
        broken = {name: text for name, (valid, text) in rules.items() if not valid}
        if problems := [f"{name} = {getattr(self, name)!r}: expected {text}" for name, text in broken.items()]:
            raise InputError("settings of the sample data set: " + "; ".join(problems))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels: sorted, as UCF101's are."""
        return tuple(sorted(MOTIONS[: self.num_classes]))


@dataclass(frozen=True, slots=True)
class SampleVideo:
    """One video of the sample."""

    class_name: str
    group: int  # from 1
    clip: int  # from 1
    container: str  # "avi" or "mp4"

    @property
    def name(self) -> str:
        """Path below OUT, as UCF101's lists write it: `MoveUp/v_MoveUp_g01_c01.avi`."""
        return f"{self.class_name}/v_{self.class_name}_g{self.group:02d}_c{self.clip:02d}.{self.container}"


def groups_and_clips(videos_per_class: int) -> tuple[int, int]:
    """Choose num_groups and clips_per_group for a number of videos: two clips if that leaves 4 groups or more."""
    if videos_per_class < 1:
        raise InputError(f"videos per class: got {videos_per_class}, expected 1 or more")
    # Many groups matter more than many clips: splits set whole groups aside.
    clips_per_group = 2 if videos_per_class % 2 == 0 and videos_per_class >= 8 else 1
    return videos_per_class // clips_per_group, clips_per_group


def sample_videos(settings: SampleSettings) -> tuple[SampleVideo, ...]:
    """Every video of the sample, in the order of UCF101's lists: class, group, clip."""
    containers = ("avi", "mp4") if settings.container == MIXED else (settings.container,) * 2
    return tuple(
        SampleVideo(class_name, group, clip, containers[(group + clip) % 2])
        for class_name in settings.class_names
        for group in range(1, settings.num_groups + 1)
        for clip in range(1, settings.clips_per_group + 1)
    )


def video_frames(video: SampleVideo, settings: SampleSettings) -> Iterator[Frame]:
    """The frames of one video before encoding, uint8[height, width, 3] RGB: a function of the seed and the video's own numbers.

    Scene and actors are drawn per class and group; motion, drift and noise per clip. The videos of a class do not depend on
    num_classes, num_groups and clips_per_group: a larger sample contains the smaller one.
    """
    numbers = (settings.seed, MOTIONS.index(video.class_name), video.group)
    # Clips count from 1: 0 is free for what all clips of a group share.
    shared, generator = (np.random.default_rng(np.random.SeedSequence((*numbers, clip))) for clip in (0, video.clip))
    scene = make_scene(shared, settings.height, settings.width)
    num_frames = int(generator.integers(settings.min_frames, settings.max_frames + 1))
    return render_frames(video.class_name, scene, num_frames, generator)


def render_sample(
    out: Path, settings: SampleSettings, num_workers: int = 1, on_video: Callable[[Path], None] = lambda path: None
) -> list[Path]:
    """Write the sample's videos below `out` and return their paths, in the order of `sample_videos`.

    The same settings and library versions give the same bytes for any `num_workers` (processes). A video appears under its name
    only when it is complete, so the same call again finishes an interrupted one. on_video: called with every video written.
    Raises InputError if `out` is no folder, or holds other things or a sample of other settings.
    """
    if num_workers < 1:
        raise InputError(f"number of workers: got {num_workers}, expected 1 or more")
    videos = sample_videos(settings)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: expected a folder for the sample data set, got a file; name another place")
    paths = [out / video.name for video in videos]
    with held_folder(out):
        _claim(out, settings, videos)
        _render_missing(list(zip(videos, paths, strict=True)), settings, num_workers, on_video)
    return paths


def _render_missing(
    videos: Sequence[tuple[SampleVideo, Path]],
    settings: SampleSettings,
    num_workers: int,
    on_video: Callable[[Path], None],
) -> None:
    """Write the videos that are not there, and remove what killed runs have left of them."""
    folders = sorted({path.parent for _, path in videos})
    for folder in folders:
        folder.mkdir(exist_ok=True)
        remove_leftovers(folder)
    missing = [(video, path) for video, path in videos if not path.exists()]
    results = joblib.Parallel(n_jobs=min(num_workers, len(missing) or 1), return_as="generator")(
        # Absolute: the processes may be older than a change of the working directory.
        joblib.delayed(_render_video)(path.absolute(), video, settings)
        for video, path in missing
    )
    try:
        for _, (_, path) in zip(results, missing, strict=True):
            on_video(path)
    except BaseException:
        results.close()  # which ends the processes
        for folder in folders:
            remove_leftovers(folder)
            with contextlib.suppress(OSError):
                folder.rmdir()  # if it is empty
        raise


def write_annotations(folder: Path, settings: SampleSettings) -> None:
    """Write classInd.txt, trainlist01..03.txt and testlist01..03.txt into `folder`, in UCF101's own form.

    Class ids from 1, no ids in the test lists, lines end with CR LF as in the published files.
    """
    if settings.num_groups < 2:
        expected = "expected 2 or more: train and test share no group"
        raise InputError(f"annotations of the sample data set: got 1 group, {expected}")
    class_ids = {name: number for number, name in enumerate(settings.class_names, start=1)}
    lists = {"classInd": [f"{number} {name}" for name, number in class_ids.items()]}
    videos = sample_videos(settings)
    for fold in range(1, NUM_FOLDS + 1):
        tested = groups_tested(settings.num_groups, fold)
        train = [f"{video.name} {class_ids[video.class_name]}" for video in videos if video.group not in tested]
        lists[f"trainlist{fold:02d}"] = train
        lists[f"testlist{fold:02d}"] = [video.name for video in videos if video.group in tested]
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in lists.items():
        with atomic_write(folder / f"{name}.txt") as file:
            file.write("".join(f"{line}\r\n" for line in lines).encode("ascii"))


def groups_tested(num_groups: int, fold: int) -> frozenset[int]:
    """The groups (from 1) that `fold` (1..3) tests: 28 % of them, at least one; each fold the next ones, starting over at the end."""
    num_tested = max(1, round(TEST_GROUP_SHARE * num_groups))
    return frozenset(k % num_groups + 1 for k in range((fold - 1) * num_tested, fold * num_tested))


def _render_video(path: Path, video: SampleVideo, settings: SampleSettings) -> None:
    # Pictures this small are drawn faster by one thread, and the processes are the parallel part.
    num_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        encoded = io.BytesIO()  # PyAV prints a traceback if a disk is full
        frames = video_frames(video, settings)
        encode_video(frames, encoded, video.container, settings.fps, settings.width, settings.height)
        with atomic_write(path) as file:
            file.write(encoded.getbuffer())
    finally:
        cv2.setNumThreads(num_threads)


def _claim(out: Path, settings: SampleSettings, videos: tuple[SampleVideo, ...]) -> None:
    """Create `out`, or check that it holds this very sample and nothing else, and write the settings into it."""
    requested = {"generator_version": GENERATOR_VERSION, **asdict(settings)}
    record = out / SETTINGS_NAME
    hidden = {path.name for path in out.glob(".*")} - {SETTINGS_NAME}
    advice = "Name another folder, or move these away."
    if not require_own_folder(out, (SETTINGS_NAME,), "sample data set", advice, ignored=hidden):
        out.mkdir(parents=True, exist_ok=True)
        with atomic_write(record) as file:
            file.write(json_bytes(requested))
        return
    try:
        found: dict[str, Any] = dict(json.loads(record.read_bytes()).items())
    except (ValueError, AttributeError):
        expected = "expected the settings of a sample data set (JSON), found something else"
        raise InputError(f"{record}: {expected}; name another folder") from None
    changed = "; ".join(
        f"{name} = {found.get(name)!r} there, {requested.get(name)!r} requested"
        for name in sorted(requested.keys() | found.keys())
        if found.get(name) != requested.get(name)
    )
    if changed:
        advice = "request the same settings, or name a new or empty folder"
        raise InputError(f"{out}: holds a sample data set of other settings ({changed}); {advice}")
    # Other files would become videos of the data set.
    present = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    visible = {str(path) for path in present if not any(part.startswith(".") for part in path.parts)}
    if foreign := sorted(visible - {video.name for video in videos}):
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise InputError(f"{out}: holds files that are not of its sample data set, found {shown}. {advice}")
