"""The batches of a run on one rank: a pure function of (seed, step), read by loader workers, uint8 until they reach the device."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from manifests.machine import peak_memory_mb
from manifests.records import InputError
from tgtrain.data.clip import ClipSettings, plan_train
from tgtrain.data.lookahead import upcoming
from tgtrain.data.order import BlockOrder, Draw, RepeatedOrder, StreamOrder, rank_part, replayed_key, substitutes_of
from tgtrain.data.reader import BadSampleError, Clip, ClipReader
from tgtrain.method.augment.plan import StrongPlan, StrongSettings, draw_strong_plans
from tgtrain.method.augment.plan_mvpl import MvplSettings, draw_mvpl_plan
from tgtrain.randomness import Choice, Stream, sample_seed

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
        self.reader.shards.expect(lambda: upcoming(self.sources, self.reader.index, step))
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
        side = clip.size
        frames, gradients = clip.clip_frames, clip.clip_frames + (clip.gradient == "slow")
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
            keys.append(self.reader.index.key(source.videos[place]))
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
            facts = self.reader.index[video]
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


def _batch_memory(shape: tuple[int, ...]) -> Tensor:
    """uint8 of this shape: in a loader process memory that the training process maps, else plain memory."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape), device="cpu")  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def split_batch(batch: SslBatch, num_parts: int) -> list[SslBatch]:
    """The batch of one rank in equal parts, cut by videos: block k of its videos, with all their clips, is part k."""
    if num_parts == 1:
        return [batch]
    labelled = _split_clips(batch.labelled, num_parts)
    unlabelled = [None] * num_parts if batch.unlabelled is None else _split_clips(batch.unlabelled, num_parts)
    plans = [
        _split_rows(rows, source, num_parts)
        for rows, source in (
            (batch.strong_rgb, batch.unlabelled),
            (batch.strong_tg, batch.unlabelled),
            (batch.labelled_rgb, batch.labelled),
            (batch.labelled_tg, batch.labelled),
        )
    ]
    return [SslBatch(batch.step, *parts) for parts in zip(labelled, unlabelled, *plans, strict=True)]


def _split_clips(clips: ClipBatch, num_parts: int) -> list[ClipBatch]:
    size = len(clips.keys) // num_parts
    blocks = _blocks(clips, num_parts)

    def part(tensor: Tensor, block: Sequence[slice]) -> Tensor:
        return tensor[block[0]] if len(block) == 1 else torch.cat([tensor[rows] for rows in block])

    return [
        ClipBatch(
            None if clips.rgb is None else part(clips.rgb, block),
            None if clips.tg is None else part(clips.tg, block),
            part(clips.labels, block),
            clips.keys[number * size : (number + 1) * size],
            clips.bad if number == 0 else (),
        )
        for number, block in enumerate(blocks)
    ]


def _split_rows(rows: tuple[StrongPlan, ...], clips: ClipBatch | None, num_parts: int) -> list[tuple[StrongPlan, ...]]:
    if clips is None or not rows:
        return [()] * num_parts
    return [tuple(row for piece in block for row in rows[piece]) for block in _blocks(clips, num_parts)]


def _blocks(clips: ClipBatch, num_parts: int) -> list[list[slice]]:
    """Which rows make each part: of the clip-major rows one run per clip of a video."""
    num_videos, num_rows = len(clips.keys), len(clips.labels)
    if num_videos % num_parts:
        raise ValueError(f"{num_videos} videos do not make {num_parts} equal parts")
    size = num_videos // num_parts
    return [
        [slice(first + k * size, first + (k + 1) * size) for first in range(0, num_rows, num_videos)]
        for k in range(num_parts)
    ]
