"""The batch of a step on one rank: a pure function of (seed, step); pixels stay uint8 until they reach the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from manifests.machine import peak_memory_mb
from manifests.records import InputError
from tgtrain.data import memory
from tgtrain.data.clip import ClipPlan, ClipSettings, plan_train
from tgtrain.data.lookahead import upcoming
from tgtrain.data.order import Draw, StreamSource, rank_part, replayed_key, substitutes_of
from tgtrain.data.reader import BadSampleError, Clip, ClipReader
from tgtrain.data.stores.video_index import StoredVideo
from tgtrain.method.augment.plan import StrongPlan, StrongSettings, draw_strong_plans
from tgtrain.method.augment.plan_mvpl import MvplSettings, draw_mvpl_plan
from tgtrain.randomness import Choice, Stream, sample_seed

_MAX_SUBSTITUTES = 16  # tried for a damaged sample before reading gives up
Plans = tuple[StrongPlan, ...]
_NO_PLANS: tuple[Plans, Plans] = ((), ())


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Clips of one stream.

    With more than one clip a video the rows are clip-major: the first clips of all videos, then the second ones; B is then a
    multiple of the number of keys.
    """

    rgb: Tensor | None  # uint8[B, T, S, S, 3]; None if the model does not use this view
    tg: Tensor | None  # as rgb
    labels: Tensor  # int64[B]
    keys: tuple[str, ...]  # of the videos
    bad: tuple[str, ...] = ()  # one message for each sample that could not be read and was replaced
    videos: Tensor | None = None  # int64[B], number of each row's video in the stream's list

    def pin_memory(self) -> ClipBatch:
        """A copy in pinned memory, from which a GPU copies while it computes."""
        rgb, tg, videos = (None if part is None else part.pin_memory() for part in (self.rgb, self.tg, self.videos))
        return replace(self, rgb=rgb, tg=tg, labels=self.labels.pin_memory(), videos=videos)


@dataclass(frozen=True, slots=True)
class SslBatch:
    """The clips of one step on one rank."""

    step: int
    labelled: ClipBatch
    unlabelled: ClipBatch | None  # None for supervised training; its labels are for diagnostics only
    strong_rgb: Plans = ()  # what the strong view does to each unlabelled clip, drawn on the host
    strong_tg: Plans = ()
    labelled_rgb: Plans = ()  # the same for labelled clips; () if these have no strong views
    labelled_tg: Plans = ()
    loader_mb: float = 0.0  # peak memory of the loader process that read the batch; 0 if the training process read it

    @property
    def num_clips(self) -> int:
        """Clips of both streams."""
        return sum(len(clips.labels) for clips in (self.labelled, self.unlabelled) if clips is not None)

    def pin_memory(self) -> SslBatch:
        """A copy in pinned memory. The DataLoader calls this: by itself it knows tensors and containers only."""
        unlabelled = None if self.unlabelled is None else self.unlabelled.pin_memory()
        return replace(self, labelled=self.labelled.pin_memory(), unlabelled=unlabelled)


class FilledClips(NamedTuple):
    """What was read for one draw."""

    row: int  # of the video in its StreamSource
    pass_index: int  # the pass that its clips were drawn for
    bad: list[str]  # what is wrong with the samples that it replaces


class IndexedClips:
    """How the clips of a draw are found in shards that are read by index: those of the drawn video, or of a substitute."""

    follows_order = True  # whether step s brings the videos that the stream's order names for it

    def from_step(self, step: int) -> IndexedClips:
        """The fetcher for the steps from this one on."""
        return self

    def fill(
        self, dataset: StepDataset, source: StreamSource, stream: Stream, draw: Draw, into: list[Clip]
    ) -> FilledClips:
        """Decode the clips of a draw into the memory of a batch. InputError if nothing can be read."""
        bad: list[str] = []

        def rows() -> Iterator[int]:
            yield draw.video
            # Only for a damaged sample: they cost as much as decoding two frames.
            yield from substitutes_of(draw, len(source.videos), dataset.seed, stream, _MAX_SUBSTITUTES)

        for row in rows():
            number = int(source.videos[row])
            plans = dataset.plan_clips(stream, dataset.reader.index[number], draw.pass_index)
            try:
                # All clips in one call: frames that they share are decoded once.
                dataset.reader.read_views(number, plans, rgb=dataset.rgb, tg=dataset.tg, into=into)
            except BadSampleError as error:
                bad.append(str(error))
            else:
                return FilledClips(row, draw.pass_index, bad[:1])  # damaged substitutes count when they are drawn
        raise InputError(
            f"A sample cannot be read, nor any of the {len(bad) - 1} others of its stream that were tried in its place: "
            f"{bad[0]}. `tgprep check` finds what is damaged and explains how to repair it."
        )


@dataclass(slots=True)
class StepDataset(Dataset[SslBatch]):
    """Item s is the batch of step s on this rank. Any process can read any step, unless the fetcher is sequential."""

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
    strong_labelled: bool = False  # whether labelled clips get strong views too
    replayed: bool = False  # see `order.replayed_key`
    fetcher: IndexedClips = field(default_factory=IndexedClips)

    @property
    def sources(self) -> list[StreamSource]:
        """The streams."""
        return [source for source in (self.unlabelled, self.labelled) if source is not None]

    def coverage(self, num_steps: int) -> dict[str, int]:
        """How far each stream has come after `num_steps`, by names for the log; {} if it does not follow from the order."""
        figures: dict[str, int] = {}
        for name, source in (("labelled", self.labelled), ("unlabelled", self.unlabelled)):
            if source is not None and self.fetcher.follows_order:
                covered = dataclasses.asdict(source.order.coverage(num_steps))
                figures |= {f"{name}_{key}": value for key, value in covered.items()}
                figures[f"{name}_num_videos"] = len(source.videos)
        return figures

    def from_step(self, step: int) -> StepDataset:
        """The dataset for a loader that reads the steps from this one on."""
        return replace(self, fetcher=self.fetcher.from_step(step))

    def plan_clips(self, stream: Stream, video: StoredVideo, pass_index: int) -> tuple[ClipPlan, ...]:
        """The clips that a pass draws for a video."""
        rng = sample_seed(self.seed, stream, pass_index, video.key, Choice.CLIP)
        return plan_train(video.num_frames, video.height, video.width, self.clip, rng)

    def __getitem__(self, step: int) -> SslBatch:
        self.reader.shards.expect(lambda: upcoming(self.sources, self.reader.index, step))
        labelled, labelled_plans = self._read(self.labelled, Stream.LABELLED, step, self.strong_labelled)
        unlabelled, plans = None, _NO_PLANS
        if self.unlabelled is not None:
            unlabelled, plans = self._read(self.unlabelled, Stream.UNLABELLED, step, True)
        loader_mb = peak_memory_mb() if get_worker_info() is not None else 0.0
        return SslBatch(step, labelled, unlabelled, *plans, *labelled_plans, loader_mb)

    def _read(
        self, source: StreamSource, stream: Stream, step: int, strong: bool
    ) -> tuple[ClipBatch, tuple[Plans, Plans]]:
        """The clips of a stream, and what the strong views do to each (for RGB, for TG), in the order of its rows."""
        draws = rank_part(source.order.draws(step), self.rank, self.world_size)
        clip = self.clip
        # Clips are decoded straight into the memory that travels to the training process: no copy on the way.
        num_rows = len(draws) * clip.num_clips
        num_gradients = clip.clip_frames + (clip.gradient == "slow")
        new = memory.of_process.new
        rgb = new((stream, "rgb"), (num_rows, clip.clip_frames, clip.size, clip.size, 3)) if self.rgb else None
        tg = new((stream, "tg"), (num_rows, num_gradients, clip.size, clip.size, 3)) if self.tg else None
        labels, videos, keys, bad, by_video = [], [], [], [], []
        for number, draw in enumerate(draws):
            into = memory.rows_as_clips(rgb, tg, range(number, num_rows, len(draws)))
            filled = self.fetcher.fill(self, source, stream, draw, into)
            key = self.reader.index.key(source.videos[filled.row])
            labels.append(int(source.labels[filled.row]))
            videos.append(filled.row)
            keys.append(key)
            bad += filled.bad
            if strong:
                origin = replayed_key(draw, source.order.batch_size) if self.replayed else (filled.pass_index, key)
                by_video.append(self._strong(stream, *origin))
        numbers = (torch.tensor(column * clip.num_clips, dtype=torch.int64) for column in (labels, videos))
        batch = ClipBatch(rgb, tg, next(numbers), tuple(keys), tuple(bad), next(numbers))
        pairs = [pair for clips in zip(*by_video, strict=True) for pair in clips]
        return batch, (tuple(rgb_plan for rgb_plan, _ in pairs), tuple(tg_plan for _, tg_plan in pairs))

    def _strong(self, stream: Stream, pass_index: int, key: str) -> list[tuple[StrongPlan, StrongPlan]]:
        """The strong views (RGB, TG) of the clips of one video, drawn one after the other."""
        rgb, tg = (
            sample_seed(self.seed, stream, pass_index, key, choice) for choice in (Choice.STRONG_RGB, Choice.STRONG_TG)
        )
        strong, clips = self.strong, range(self.clip.num_clips)
        if isinstance(strong, MvplSettings):
            return [(draw_mvpl_plan(rgb, strong), draw_mvpl_plan(tg, strong)) for _ in clips]
        return [draw_strong_plans(rgb, tg, strong) for _ in clips]


def split_batch(batch: SslBatch, num_parts: int) -> list[SslBatch]:
    """The batch of one rank in equal micro-batches: number k is block k of its videos, with all their clips."""
    if num_parts == 1:
        return [batch]
    parts = []
    for number in range(num_parts):
        labelled, labelled_rows = _part(batch.labelled, number, num_parts)
        unlabelled, rows = (None, []) if batch.unlabelled is None else _part(batch.unlabelled, number, num_parts)
        plans: dict[str, Any] = {
            name: tuple(chain.from_iterable(getattr(batch, name)[block] for block in blocks))
            for names, blocks in ((("strong_rgb", "strong_tg"), rows), (("labelled_rgb", "labelled_tg"), labelled_rows))
            for name in names
        }
        parts.append(SslBatch(batch.step, labelled, unlabelled, **plans))
    return parts


def _part(clips: ClipBatch, number: int, num_parts: int) -> tuple[ClipBatch, list[slice]]:
    """A micro-batch and its rows: of the clip-major rows one block for each clip of a video."""
    num_videos = len(clips.keys)
    if num_videos % num_parts:
        raise ValueError(f"{num_videos} videos cannot be cut into {num_parts} equal parts")
    size = num_videos // num_parts
    blocks = [slice(start, start + size) for start in range(number * size, len(clips.labels), num_videos)]

    def chosen(tensor: Tensor) -> Tensor:
        return tensor[blocks[0]] if len(blocks) == 1 else torch.cat([tensor[block] for block in blocks])

    rgb, tg = (None if view is None else chosen(view) for view in (clips.rgb, clips.tg))
    # Messages about damaged samples are reported once.
    bad = clips.bad if number == 0 else ()
    videos = None if clips.videos is None else chosen(clips.videos)
    return ClipBatch(rgb, tg, chosen(clips.labels), clips.keys[blocks[0]], bad, videos), blocks
