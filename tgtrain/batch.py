"""The batches of a run on one rank: a pure function of (seed, step), read by loader workers, uint8 until they reach the device."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import math
import multiprocessing
import os
import re
import resource
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from manifests.records import InputError
from manifests.stores import UnreachableError
from tgtrain.ahead import upcoming
from tgtrain.block_order import BlockOrder
from tgtrain.clip import ClipSettings, plan_train
from tgtrain.mvpl_plan import MvplSettings, draw_mvpl_plan
from tgtrain.order import (
    Choice,
    Draw,
    RepeatedOrder,
    Stream,
    StreamOrder,
    rank_part,
    replayed_key,
    sample_seed,
    substitutes_of,
)
from tgtrain.reader import BadSampleError, Clip, ClipReader
from tgtrain.signals import end_later, start_helpers
from tgtrain.strong_plan import StrongPlan, StrongSettings, draw_strong_plans

Item = TypeVar("Item")
_NOTHING = np.empty((0, 0, 0, 3), np.uint8)
_SUBSTITUTES = 16  # tried for a damaged sample before reading gives up


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Clips of one stream: rgb, tg uint8[B, T, S, S, 3] (None for a view not asked for), labels int64[B].

    keys: the videos. With more than one clip a video the rows are clip-major: the first clips of all videos, then the second
    ones; B is then a multiple of the number of keys. bad: what could not be read and was replaced, one message each.
    """

    rgb: Tensor | None
    tg: Tensor | None
    labels: Tensor
    keys: tuple[str, ...]
    bad: tuple[str, ...] = ()

    def pin_memory(self) -> ClipBatch:
        """The same in pinned memory, from which a GPU copies while it computes."""
        rgb, tg = (None if clips is None else clips.pin_memory() for clips in (self.rgb, self.tg))
        return replace(self, rgb=rgb, tg=tg, labels=self.labels.pin_memory())


@dataclass(frozen=True, slots=True)
class SslBatch:
    """One step's clips on one rank. unlabelled is None for supervised training; its labels are for diagnostics alone.

    strong_rgb, strong_tg: what the strong view does to each unlabelled clip, drawn on the host.
    labelled_rgb, labelled_tg: the same for labelled clips, () where those are learnt from as they are.
    loader_mb: peak memory of the loader process that read it; 0 where none did.
    """

    step: int
    labelled: ClipBatch
    unlabelled: ClipBatch | None
    strong_rgb: tuple[StrongPlan, ...] = ()
    strong_tg: tuple[StrongPlan, ...] = ()
    labelled_rgb: tuple[StrongPlan, ...] = ()
    labelled_tg: tuple[StrongPlan, ...] = ()
    loader_mb: float = 0.0

    @property
    def num_clips(self) -> int:
        """Clips of both streams."""
        return sum(len(clips.labels) for clips in (self.labelled, self.unlabelled) if clips is not None)

    def pin_memory(self) -> SslBatch:
        """The same in pinned memory (called by the DataLoader, which knows tensors and containers by itself, not this)."""
        unlabelled = None if self.unlabelled is None else self.unlabelled.pin_memory()
        return replace(self, labelled=self.labelled.pin_memory(), unlabelled=unlabelled)


@dataclass(frozen=True, slots=True)
class StreamSource:
    """The videos of a stream, int64[N]: their numbers in the reader, and their labels (-1 unknown)."""

    videos: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    order: StreamOrder | RepeatedOrder | BlockOrder


@dataclass(slots=True)
class StepDataset(Dataset[SslBatch]):
    """Item s is the batch of step s on this rank. Any step can be asked for, in any process.

    strong_labelled: labelled clips get strong views too. replayed: see `order.replayed_key`.
    """

    reader: ClipReader
    labelled: StreamSource
    unlabelled: StreamSource | None
    clip: ClipSettings
    strong: StrongSettings | MvplSettings
    seed: int
    rank: int = 0
    world_size: int = 1
    rgb: bool = True
    tg: bool = True
    strong_labelled: bool = False
    replayed: bool = False

    @property
    def sources(self) -> list[StreamSource]:
        """The streams."""
        return [source for source in (self.unlabelled, self.labelled) if source is not None]

    def coverage(self, num_steps: int) -> dict[str, int]:
        """How far each stream has come after so many steps, by names for the log; nothing where the order does not tell."""
        told: dict[str, int] = {}
        for name, source in (("labelled", self.labelled), ("unlabelled", self.unlabelled)):
            if source is not None:
                there = source.order.coverage(num_steps)
                told |= {f"{name}_{key}": value for key, value in dataclasses.asdict(there).items()}
                told[f"{name}_num_videos"] = len(source.videos)
        return told

    def in_order(self, steps: Sequence[int]) -> Dataset[SslBatch] | None:
        """What iterates over the batches of these steps where they cannot be asked for one by one, else None."""
        return None

    def __getitem__(self, step: int) -> SslBatch:
        batch = self._batch(step)
        return replace(batch, loader_mb=peak_memory_mb()) if get_worker_info() is not None else batch

    def _batch(self, step: int) -> SslBatch:
        self.reader.shards.expect(lambda: upcoming(self.sources, self.reader.places, step))
        labelled, draws = self._read(self.labelled, Stream.LABELLED, step)
        labelled_plans = (
            self._plans(self.labelled, Stream.LABELLED, draws, labelled) if self.strong_labelled else ((), ())
        )
        if self.unlabelled is None:
            return SslBatch(step, labelled, None, (), (), *labelled_plans)
        unlabelled, draws = self._read(self.unlabelled, Stream.UNLABELLED, step)
        plans = self._plans(self.unlabelled, Stream.UNLABELLED, draws, unlabelled)
        return SslBatch(step, labelled, unlabelled, *plans, *labelled_plans)

    def _plans(
        self, source: StreamSource, stream: Stream, draws: tuple[Draw, ...], batch: ClipBatch
    ) -> tuple[tuple[StrongPlan, ...], tuple[StrongPlan, ...]]:
        """What the strong views do to each clip of a batch, in the order of its rows: for RGB, for TG."""
        by_video = []
        for draw, key in zip(draws, batch.keys, strict=True):
            where = replayed_key(draw, source.order.batch_size) if self.replayed else (draw.pass_index, key)
            by_video.append(self._strong(stream, *where))
        pairs = [pair for clip in zip(*by_video, strict=True) for pair in clip]
        return tuple(rgb for rgb, _ in pairs), tuple(tg for _, tg in pairs)

    def _strong(self, stream: Stream, pass_index: int, key: str) -> list[tuple[StrongPlan, StrongPlan]]:
        """The plans of the clips of one video, each its own, drawn one after the other."""
        rgb, tg = (
            sample_seed(self.seed, stream, pass_index, key, choice) for choice in (Choice.STRONG_RGB, Choice.STRONG_TG)
        )
        if isinstance(self.strong, MvplSettings):
            return [
                (draw_mvpl_plan(rgb, self.strong), draw_mvpl_plan(tg, self.strong)) for _ in range(self.clip.num_clips)
            ]
        return [draw_strong_plans(rgb, tg, self.strong) for _ in range(self.clip.num_clips)]

    def _read(self, source: StreamSource, stream: Stream, step: int) -> tuple[ClipBatch, tuple[Draw, ...]]:
        draws = rank_part(source.order.draws(step), self.rank, self.world_size)
        clip = self.clip
        side = clip.input_size
        frames, gradients = clip.clip_len, clip.clip_len + (clip.gradient == "slow")
        # Decoded straight into what travels to the training process: a clip is copied nowhere on its way.
        num_rows = len(draws) * clip.num_clips
        rgb = _batch_memory((num_rows, frames, side, side, 3)) if self.rgb else None
        tg = _batch_memory((num_rows, gradients, side, side, 3)) if self.tg else None
        labels, keys, bad = [], [], []
        for number, draw in enumerate(draws):
            into = [
                Clip(_NOTHING if rgb is None else rgb[row].numpy(), None if tg is None else tg[row].numpy())
                for row in range(number, num_rows, len(draws))
            ]
            place, problems = self._read_one(source, stream, draw, into)
            labels.append(int(source.labels[place]))
            keys.append(self.reader.places.key(source.videos[place]))
            bad += problems
        labels_B = torch.tensor(labels * clip.num_clips, dtype=torch.int64)
        return ClipBatch(rgb, tg, labels_B, tuple(keys), tuple(bad)), draws

    def _read_one(self, source: StreamSource, stream: Stream, draw: Draw, into: list[Clip]) -> tuple[int, list[str]]:
        """Fill in the clips of a draw; where its sample is damaged, those of a substitute. Gives its place in the stream, and what is
        wrong with the damaged sample.
        """
        problems: list[str] = []
        substitutes = substitutes_of(draw, len(source.videos), self.seed, stream, _SUBSTITUTES)
        for place in (draw.video, *substitutes):
            video = int(source.videos[place])
            facts = self.reader.places[video]
            rng = sample_seed(self.seed, stream, draw.pass_index, facts.key, Choice.CLIP)
            try:
                plans = plan_train(facts.num_frames, facts.height, facts.width, self.clip, rng)
                # In one go: frames that clips share are decoded once.
                self.reader.read_views(video, plans, rgb=self.rgb, tg=self.tg, into=into)
                return place, problems[:1]  # substitutes that are damaged count when it is their turn
            except BadSampleError as error:
                problems.append(str(error))
        raise InputError(
            f"A sample cannot be read, nor any of the {len(problems) - 1} others of its stream that were tried in its place: "
            f"{problems[0]}. `tgprep check` finds what is damaged and tells how to mend it."
        )


def step_loader(dataset: StepDataset, steps: Sequence[int], workers: int, pin: bool) -> Iterator[SslBatch]:
    """The batches of the given steps, in order, prepared ahead by `workers` processes (0: by this one)."""
    streamed = dataset.in_order(steps)
    loader: DataLoader[SslBatch] = DataLoader(
        dataset if streamed is None else streamed,
        batch_size=None,
        sampler=steps if streamed is None else None,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=pin,
        worker_init_fn=start_worker if workers else None,
        collate_fn=_same,
        multiprocessing_context=worker_context() if workers else None,
    )
    with _plain_errors(workers):
        yield from loader


def item_loader(dataset: Dataset[Item], order: Sequence[int], workers: int, pin: bool) -> Iterator[Item]:
    """The items of any data set in this order, prepared ahead by `workers` processes (0: by this one)."""
    loader: DataLoader[Item] = DataLoader(
        dataset,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=start_worker if workers else None,
        collate_fn=_same,
        multiprocessing_context=worker_context() if workers else None,
    )
    with _plain_errors(workers):
        yield from loader


@contextmanager
def _plain_errors(workers: int) -> Iterator[None]:
    """Within, errors of loader processes are raised as the user needs them: without the traceback that torch puts in front."""
    if not workers:
        keep_pages()  # the frames are decoded here
    try:
        yield
    except InputError as error:
        raise InputError(str(error).rsplit("InputError: ", 1)[-1].strip()) from None
    except OSError as error:  # an UnreachableError, too
        if error.errno is not None:
            raise
        # What is left of one of a loader process is its text alone, as Python prints an OSError.
        found = re.search(r"\[Errno (\d+)\] ([^\n]*?)(?:: '([^\n]*)')?\s*$", str(error))
        if found:
            raise type(error)(int(found[1]), found[2], found[3]) from None
        if isinstance(error, UnreachableError):
            raise UnreachableError(errno.EIO, str(error), "the data set") from None
        raise


def worker_context() -> BaseContext:
    """How loader processes start: from a clean server process that has done its imports.

    Forking this process would copy the locks of threads that torch and OpenCV have started in it: such workers hang.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tgtrain.batch", "tgtrain.evaluate"])
    start_helpers()
    return context


def default_workers() -> int:
    """One less than the cores this process may use (its share of them, under `--devices` or torchrun), at least 1, at most 16."""
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return max(1, min(16, len(os.sched_getaffinity(0)) // sharing - 1))


def _same(batch: Any) -> Any:
    return batch


def start_worker(number: int) -> None:
    """Set up a loader process: one thread of work, memory that is kept, and an end when the training process ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    end_later()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    keep_pages()


def _end_with_parent() -> None:
    """Wait for the end of the training process, then end this one.

    torch looks whether the parent has changed, but the parent of a process that the server started is the server, and the
    server lives while the worker holds its pipe: after kill -9 of the training process both would stay for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def peak_memory_mb() -> float:
    """Peak memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def keep_pages() -> None:
    """Tell glibc not to give frame-sized buffers back after every frame: measured, up to 48 % more clips a second."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-1, 256 * 1024**2)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 64 * 1024**2)  # M_MMAP_THRESHOLD
    except (OSError, AttributeError):
        pass  # not glibc: nothing to tell


def _batch_memory(shape: tuple[int, ...]) -> Tensor:
    """uint8 of this shape: in a loader process memory that the training process maps, else plain memory."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape), device="cpu")  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
