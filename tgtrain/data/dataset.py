"""Clips for a trainer of your own: a map-style dataset over any part of a split (docs/python.md), cut and read as the trainer does."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, cast, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from manifests.files import parse_location
from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.spelling import british
from manifests.splits.label_split import LabelSplit, read_split
from manifests.splits.settings import PARTS
from tgtrain.config import config_from_dict
from tgtrain.data.clip import ClipPlan, ClipSettings, plan_eval, plan_train
from tgtrain.data.crop import CropBox, Size, short_side_size
from tgtrain.data.loader import keep_pages
from tgtrain.data.memory import rows_as_clips
from tgtrain.data.reader import BadSampleError, ClipReader
from tgtrain.data.setup import Setup, prepare
from tgtrain.randomness import Choice, Stream, sample_seed

View = Literal["rgb", "tg"]
Part = Literal["labelled", "unlabelled", "train", "validation", "test", "all"]
Sampling = Literal["random", "uniform", "full"]
Crop = Literal["random", "centre", "three", "none"]
_ROLES = ("labelled", "validation", "test", "unlabelled")  # of a video in several parts the first one counts


class ClipItem(TypedDict, total=False):
    """One video of a `ClipDataset`, as torch's default collate takes it. N > 1 clips of a video have an axis of their own."""

    rgb: Tensor  # uint8[T, H, W, 3] or uint8[N, T, H, W, 3]; missing if it is not in `streams`
    tg: Tensor  # as rgb: TG_k of each frame k, 127 is no motion
    label: int  # as in the split; -1: unknown. That of an unlabelled video is for diagnostics only
    frames: Tensor  # int64[T] or int64[N, T]: numbers of the RGB frames
    key: str
    role: str  # labelled, unlabelled, validation or test


@dataclass(frozen=True, slots=True)
class Sampler:
    """How the clips of one video are chosen and cut."""

    clip: ClipSettings
    sampling: Sampling
    crop: Crop
    size: int | None  # of the pictures; None: as stored

    def __post_init__(self) -> None:
        _one_of("sampling", self.sampling, Sampling)
        _one_of("crop", self.crop, Crop)
        if self.crop == "random" != self.sampling:
            raise InputError(
                f"crop: got 'random', which draws as in training; sampling {self.sampling!r} takes another."
            )
        if self.size is None and self.crop != "none":
            raise InputError(f"size: got None, crop {self.crop!r} expects pixels; None goes with crop='none'.")
        if self.sampling == "full" and self.clip.num_clips != 1:
            raise InputError(f"num_clips: got {self.clip.num_clips}, sampling 'full' has one clip.")

    @property
    def is_single(self) -> bool:
        """Whether one clip is taken of a video, which is a small part of it."""
        return self.clip.num_clips == 1 and self.sampling != "full"

    def plans(self, num_frames: int, height: int, width: int, rng: np.random.Generator) -> tuple[ClipPlan, ...]:
        """The plans of a stored video. rng: of this video in this epoch."""
        if self.sampling == "random":
            plans = plan_train(num_frames, height, width, self.clip, rng)
            if self.crop == "random":
                return plans
        stored = num_frames, height, width, self.clip
        num_clips = self.clip.num_clips if self.sampling == "uniform" else 1
        centred = plan_eval(*stored, num_clips, 3 if self.crop == "three" else 1)
        if self.sampling == "uniform":
            plans = centred
        elif self.sampling == "full":
            frames = tuple(range(0, num_frames if self.clip.rgb else num_frames - 1, self.clip.interval))
            gradients = tuple(min(frame, num_frames - 2) for frame in frames) if centred[0].tg_frames else ()
            plans = (replace(centred[0], frames=frames, tg_frames=gradients),)
        boxes, resized = centred[0].boxes, centred[0].resized
        if self.crop == "none":
            boxes, resized = (CropBox(0, 0, height, width),), None
        cut: dict[str, Any] = {"boxes": boxes, "tg_boxes": boxes, "resized": resized, "flip": False, "tg_flip": False}
        return tuple(replace(plan, **cut) for plan in plans)

    def output(self, height: int, width: int) -> Size:
        """The size of the pictures of a video."""
        if self.crop != "none":
            assert self.size is not None
            return Size(self.size, self.size)
        return Size(height, width) if self.size is None else short_side_size(height, width, self.size)


class ClipDataset(Dataset[Any]):
    """The videos of one part of a split in the order of their keys; item i holds the clips of video i (see `open_dataset`).

    An item is a function of (seed, epoch, index) alone, whatever process reads it.
    """

    def __init__(
        self,
        setup: Setup,
        part: Part,
        sampler: Sampler,
        streams: Sequence[View],
        transform: Callable[[ClipItem], Any] | None,
    ) -> None:
        if transform is not None and not callable(transform):
            raise InputError(f"transform: got {transform!r:.200}, expected a function that takes an item.")
        part = cast("Part", british(part))
        self.part, self.sampler, self.streams, self.transform = part, sampler, tuple(streams), transform
        self.classes = setup.manifest.header.classes
        self.seed = setup.config.runtime.seed
        self.videos = _videos_of(setup.split, part)
        self.labels: npt.NDArray[np.int64] = setup.split.label[self.videos].astype(np.int64)
        """int64[N], one for each video; -1: unknown."""
        flags = np.stack([setup.split.part(role)[self.videos] for role in _ROLES])
        self._roles = flags.argmax(axis=0)
        self._reader, self._pid = setup.reader, 0  # opened again where it is used
        self._epoch = torch.zeros((), dtype=torch.int64)
        # Without shared memory loader processes that persist do not see `set_epoch`.
        with contextlib.suppress(RuntimeError):
            self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """The epoch, from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw other clips: those of this epoch, in loader processes, too. Call it before the loader's next iteration."""
        if not isinstance(epoch, int) or epoch < 0:
            raise InputError(f"set_epoch: got {epoch!r}, expected a whole number from 0 on.")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.videos)

    def key(self, index: int) -> str:
        """The key of a video."""
        return self._reader.index.key(int(self.videos[index]))

    def role(self, index: int) -> str:
        """The part of the split that a video counts for."""
        return self.part if self.part in PARTS else _ROLES[self._roles[index]]

    def __getitem__(self, index: int) -> Any:
        number = int(self.videos[index])  # IndexError behind the last one, as loops expect
        item = self._read(number, index)
        if self.transform is None:
            return item
        result: Any = self.transform(item)
        if not isinstance(result, Mapping | Sequence | Tensor | np.ndarray) or isinstance(result, str | bytes):
            raise InputError(
                f"open_dataset: transform returned {'None' if result is None else f'a {type(result).__name__}'} for "
                f"{item['key']}, expected a dict (or a tuple, list, tensor) for the batch: it takes the item and must return it."
            )
        return result

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The items of a batch; a cache of a data set at a URL fetches them together."""
        self._own_reader().shards.expect(
            lambda: [int(self.videos[index]) for index in indices], one_clip=self.sampler.is_single
        )
        return [self[index] for index in indices]

    def _read(self, number: int, index: int) -> ClipItem:
        reader = self._own_reader()
        video = reader.index[number]
        # Labelled and unlabelled videos get the clips of the trainer's pass of this number.
        stream = Stream.LABELLED if self.part == "labelled" else Stream.UNLABELLED
        rng = sample_seed(self.seed, stream, self.epoch, video.key, Choice.CLIP)
        try:
            plans = self.sampler.plans(video.num_frames, video.height, video.width, rng)
        except InputError as error:
            raise InputError(f"{video.key}: {error}") from None
        size, num_views = self.sampler.output(video.height, video.width), len(plans) * len(plans[0].boxes)
        shape = num_views, len(plans[0].frames), size.height, size.width, 3
        views = {name: torch.empty(shape, dtype=torch.uint8) for name in self.streams}
        rgb, tg = views.get("rgb"), views.get("tg")
        into = rows_as_clips(rgb, tg, range(num_views))
        try:
            reader.read_views(number, plans, rgb=rgb is not None, tg=tg is not None, into=into)
        except BadSampleError as error:
            raise InputError(f"{error}. `tgprep check` finds what is damaged and explains how to repair it.") from None
        frames = torch.tensor([plan.frames for plan in plans for _ in plan.boxes])
        if num_views == 1:
            views, frames = {name: view[0] for name, view in views.items()}, frames[0]
        # Tensors come first: some libraries look at the first entry for the size of a batch.
        return {**views, "label": int(self.labels[index]), "frames": frames, "key": video.key, "role": self.role(index)}  # type: ignore[typeddict-item]

    def _own_reader(self) -> ClipReader:
        """The reader of this process: threads and connections of the one that this was forked from are not here."""
        if self._pid != os.getpid():
            before = self._reader
            self._reader, self._pid = ClipReader(before.index, copy.copy(before.shards), before.gop), os.getpid()
            keep_pages()
            if get_worker_info() is not None:
                cv2.setNumThreads(0)  # and not 1, which waits for threads that a fork has left behind
        return self._reader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pid": 0}


def open_dataset(
    root: str | Path,
    split: str | None = None,
    part: Part = "train",
    *,
    clip_frames: int = 8,
    interval: int | None = None,
    num_clips: int = 1,
    sampling: Sampling = "random",
    size: int | None = 224,
    crop: Crop | None = None,
    flip: bool = True,
    area: tuple[float, float] = (0.08, 1.0),
    streams: View | Sequence[View] = ("rgb", "tg"),
    transform: Callable[[ClipItem], Any] | None = None,
    seed: int = 0,
    cache: str = "",
    cache_gb: float = 0.0,
) -> ClipDataset:
    """Open the clips of a part of a split as a `torch.utils.data.Dataset`: item i is a dict with the clips of video i.

    >>> from torch.utils.data import DataLoader
    >>> clips = open_dataset("dataset", part="labelled", clip_frames=4, interval=2, size=32)
    >>> item = clips[0]
    >>> item["key"], item["label"], item["role"], tuple(item["rgb"].shape), tuple(item["tg"].shape)
    ('class0/v_00', 0, 'labelled', (4, 32, 32, 3), (4, 32, 32, 3))
    >>> batch = next(iter(DataLoader(clips, batch_size=2)))
    >>> tuple(batch["rgb"].shape), batch["rgb"].dtype, batch["label"].dtype
    ((2, 4, 32, 32, 3), torch.uint8, torch.int64)

    Args:
        root: folder or URL of a data set of `tgprep extract` (shards of both `--store` forms).
        split: name of a split; None: the newest.
        part: labelled, unlabelled, train (both), validation, test, or all of them.
        clip_frames, interval: frames of a clip, and from one to the next (None: 8; with `full` 1). A clip that is longer than its
            video wraps around: frame numbers are taken modulo those that the video has, as the trainer does.
        num_clips: clips of a video; with more than one, pixels and frames have an axis for them.
        sampling: random: drawn anew each epoch, one in each of num_clips equal parts of the video, as in training. uniform: the
            middle of each part, as in a test. full: the whole video, one clip of as many frames as it has at this interval.
        size: side of the pictures in pixels; with crop none their short side (None: as stored).
        crop: random: area and aspect drawn, half of the clips mirrored, as in training (the default of random sampling). centre:
            the centre square as in a test (the default of the others). three: squares at the start, end and middle, each a
            clip of its own. none: the whole picture, in its shape.
        flip, area: of random crops: whether half are mirrored, and the range of the part of the picture.
        streams: rgb, tg or both. Without tg a clip may use the last frame, which has no TG.
        transform: takes the item, a dict (`ClipItem`), and returns what goes into the batch.
        seed: the clips of a part equal those that the trainer draws with this seed: those of epoch e are its pass e.
        cache, cache_gb: for a data set at a URL: local folder, and the most that it holds (as `tgtrain run --cache`).

    Raises:
        InputError: for each mistake, and for a sample that cannot be read. UnreachableError: a store does not answer.
    """
    views = views_of(streams)
    step = (1 if sampling == "full" else 8) if interval is None else interval
    data = {"clip_frames": clip_frames, "interval": step, "flip": flip, "area": area}
    data |= {} if size is None else {"size": size, "test_size": size}
    runtime = {"seed": seed, "cache": cache, "cache_gb": cache_gb}
    setup = setup_of(root, split, views, num_clips, False, "open_dataset", data=data, runtime=runtime)
    sampler = Sampler(setup.clip, sampling, crop or ("random" if sampling == "random" else "centre"), size)
    return ClipDataset(setup, part, sampler, views, transform)


def setup_of(
    root: str | Path,
    split: str | None,
    views: Sequence[View],
    num_clips: int,
    uses_unlabelled: bool,
    caller: str,
    **sections: dict[str, Any],
) -> Setup:
    """The trainer's setup for these settings; InputError with all that do not hold. caller: for messages."""
    place = str(parse_location(str(root)))
    manifest = read_manifest(place)
    labels = read_split(place, split)
    num_classes = max(len(manifest.header.classes), 1 + int(labels.label.max(initial=0)))
    streams = "two" if len(views) == 2 else views[0]
    method: dict[str, Any] = {
        "method": "fixmatch" if uses_unlabelled else "supervised",
        "align_stages": [],
        "contrast": [],
    }
    sections["method"] = {**method, "clips_per_video": num_clips}
    sections["model"] = {"num_classes": num_classes, "streams": streams, "projection": "none"}
    return prepare(place, labels, manifest, config_from_dict(sections, caller), learns=False)


def views_of(streams: View | Sequence[View]) -> tuple[View, ...]:
    """The views that a user names; InputError for others."""
    given = (streams,) if isinstance(streams, str) else tuple(streams)
    if not given or len(set(given)) < len(given):
        raise InputError(f"streams: got {streams!r}, expected 'rgb', 'tg' or both.")
    return tuple(_one_of("streams", name, View) for name in given)


def _one_of(name: str, value: Any, choices: Any) -> Any:
    if value not in get_args(choices):
        raise InputError(f"{name}: got {value!r}, expected one of {', '.join(get_args(choices))}.")
    return value


def _videos_of(split: LabelSplit, part: Part) -> npt.NDArray[np.int64]:
    """Numbers of the videos of a part; InputError if it is unknown or empty."""
    parts = {name: split.part(name) for name in ("labelled", "unlabelled", "train", "validation", "test")}
    parts["all"] = np.ones(len(split), bool)
    if part not in parts or not parts[part].any():
        there = ", ".join(f"{name} ({flags.sum()})" for name, flags in parts.items() if flags.any())
        what = "has no videos in it" if part in parts else "is unknown"
        raise InputError(f"part {part!r} {what}; split {split.name} has {there}. `tgprep split` makes others.")
    return np.flatnonzero(parts[part])
