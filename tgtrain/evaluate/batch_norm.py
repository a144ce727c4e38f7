"""Precise BatchNorm of a run: over which clips the statistics of its networks are recomputed before an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tgtrain.data import memory
from tgtrain.data.batch import split_batch
from tgtrain.data.build import measured_views, step_dataset
from tgtrain.data.clip import ClipPlan, plan_eval, plan_train
from tgtrain.data.device import batches_on, views_of
from tgtrain.data.loader import item_loader, step_loader
from tgtrain.data.order import StreamOrder, steps_per_epoch
from tgtrain.data.reader import BadSampleError, Clip
from tgtrain.data.sequential_batches import ClipBuffer, Slot
from tgtrain.data.setup import Setup
from tgtrain.data.stores.video_index import StoredVideo
from tgtrain.method.augment.apply import network_input
from tgtrain.method.networks.model import Model
from tgtrain.method.networks.precise_bn import recompute_statistics
from tgtrain.method.step import Clips
from tgtrain.randomness import Choice, sample_seed
from tgtrain.ranks.distributed import Ranks

_AHEAD = 4  # batches that a cache of a remote data set fetches before they are read
_STREAM = 2  # beside the labelled and the unlabelled stream, see tgtrain.data.order


@dataclass(frozen=True, slots=True)
class BatchNormMeasured:
    """What BatchNorm statistics were computed over, the same on every rank."""

    num_batches: int
    """Of all ranks together, for the network with the fewest; 0: the statistics of one did not change."""
    bad: tuple[str, ...]
    """What is wrong with each video that was left out."""


def recompute_batch_norm(
    model: Model, setup: Setup, ranks: Ranks, should_stop: Callable[[], bool] = lambda: False, workers: int = 0
) -> BatchNormMeasured:
    """Replace BatchNorm statistics by those over the train list, as the recipe says.

    The RGB network, or one that both views share, gets those over single clips of the train list; the TG network those over joint
    batches (precise_bn.tg). Clips are read by `workers` processes (0: by this one). All ranks must call this.
    should_stop: called before every batch; once it returns True the statistics are incomplete and must not be used.
    """
    bad: dict[str, None] = {}  # an ordered set
    num_used = []
    for view in measured_views(setup.config):
        read = _joint_batches if view == "tg" else _batches
        batches = takewhile(lambda _: not should_stop(), read(setup, ranks, workers, bad))
        num_used.append(recompute_statistics(model.backbone(view), batches))
    of_ranks = ranks.gather((num_used, list(bad)))
    reasons = dict.fromkeys(reason for _, reasons in of_ranks for reason in reasons)
    totals = [sum(of_view) for of_view in zip(*(used for used, _ in of_ranks), strict=True)]
    return BatchNormMeasured(min(totals, default=0), tuple(reasons))


def _joint_batches(setup: Setup, ranks: Ranks, workers: int, bad: dict[str, None]) -> Iterator[Tensor]:
    """Yield joint batches of TG: labelled, weak and strong views of the first steps of the run, at most of an epoch.

    A rank takes complete batches, every W-th step from the r-th on, so that the result does not depend on their number. Shards
    that are read from the beginning give each rank its own rows of every step.
    """
    config = setup.config
    dataset = replace(step_dataset(setup, ranks), rgb=False)
    num_unlabelled = int(setup.split.unlabelled.sum()) or int(setup.split.labelled.sum())
    num_steps = min(config.precise_bn.batches, steps_per_epoch(num_unlabelled, config.batch.unlabelled))
    steps = range(num_steps)
    if setup.reader.shards.source is None:
        dataset, steps = replace(dataset, rank=0, world_size=1), range(ranks.rank, num_steps, ranks.world_size)
    loader = step_loader(dataset, steps, workers, ranks.device.type == "cuda", num_in_use=1)
    for batch in batches_on(ranks.device, loader):
        bad.update(
            dict.fromkeys(reason for clips in (batch.labelled, batch.unlabelled) if clips for reason in clips.bad)
        )
        for part in split_batch(batch, config.runtime.accumulate):
            views = views_of(part, slow=config.data.gradient == "slow")
            strong = (views.strong,) if config.method.strong_forward == "joined" else ()
            forwards: list[tuple[Clips | None, ...]] = [(views.labelled, views.weak, *strong)]
            if not config.method.joins_weak:
                of_weak = [(views.weak,)] if config.method.teacher == "none" else []
                forwards = [*of_weak, (views.labelled, *strong)]
            for forward in forwards:
                rows = [clips.tg for clips in forward if clips is not None and clips.tg is not None]
                if sum(map(len, rows)) > 1:  # BatchNorm needs more than one row
                    yield torch.cat(rows)


_ReadClip = Tensor | str  # a clip as read: uint8[T, S, S, 3]; or why it cannot be read


class _TrainClips(Dataset[_ReadClip]):
    """Clips of the train list, centre clips and crops unless the recipe says otherwise; each `size` of them form a batch.

    Items are single clips, so that loader processes hold a few clips each: a batch is that of all ranks.
    """

    def __init__(self, setup: Setup, stride: int) -> None:
        config = setup.config
        self.reader, self.clip = setup.reader, replace(setup.clip, num_clips=1)
        self.videos = setup.videos("train")
        self.seed, self.as_in_training, self.stride = config.runtime.seed, config.precise_bn.clips == "training", stride
        self.size = min(config.precise_bn.batch_clips or config.batch.labelled, len(self.videos))
        self.order = StreamOrder(len(self.videos), self.size, self.seed, _STREAM)
        self.num_batches = max(1, len(self.videos) // self.size)
        self.expected = -1

    def __getitem__(self, position: int) -> _ReadClip:
        number, row = divmod(position, self.size)
        # The first clip of a batch announces the batches after it to the cache.
        if number != self.expected:
            self.expected = number
            upcoming = range(number, number + _AHEAD * self.stride, self.stride)
            self.reader.shards.expect(
                lambda: [self.videos[d.video] for n in upcoming for d in self.order.draws(n)], one_clip=True
            )
        draw = self.order.draws(number)[row]
        video = self.videos[draw.video]
        (plan,) = self.plan(self.reader.index[video], draw.pass_index)
        try:
            shape = (len(plan.frames), plan.output_size, plan.output_size, 3)
            rgb = memory.of_process.new("rgb", shape)
            self.reader.read_views(video, [plan], tg=False, into=[Clip(rgb.numpy(), None)])
            return rgb
        except BadSampleError as error:
            return str(error)

    def plan(self, video: StoredVideo, pass_index: int) -> tuple[ClipPlan, ...]:
        """Plan the one clip of a video: cut as in training, or the centre clip and crop."""
        if self.as_in_training:
            rng = sample_seed(self.seed, _STREAM, pass_index, video.key, Choice.CLIP)
            return plan_train(video.num_frames, video.height, video.width, self.clip, rng)
        return plan_eval(video.num_frames, video.height, video.width, self.clip)


def _batches(setup: Setup, ranks: Ranks, workers: int, bad: dict[str, None]) -> Iterator[Tensor]:
    """Yield this rank's batches of RGB.

    All ranks together take as many batches as the train list gives, up to `precise_bn.batches`; rank r takes every W-th from the
    r-th on. bad: receives what is wrong with videos that cannot be read.
    """
    dataset = _TrainClips(setup, ranks.world_size)
    numbers = range(ranks.rank, min(setup.config.precise_bn.batches, dataset.num_batches), ranks.world_size)
    if setup.reader.shards.source is not None:
        items = _sequential_clips(setup, ranks, dataset)
    else:
        size = dataset.size
        positions = [position for number in numbers for position in range(number * size, (number + 1) * size)]
        pin = ranks.device.type == "cuda"
        items = item_loader(dataset, positions, min(workers, len(positions)), pin, num_in_use=1)
    for _ in numbers:
        clips: list[Tensor] = []
        for item in islice(items, dataset.size):
            if isinstance(item, str):
                bad[item] = None
            else:
                # Copied, because the next clips take the memory it came in.
                clips.append(item.to(ranks.device, non_blocking=True, copy=True))
        if len(clips) > 1:  # BatchNorm needs more than one row
            yield cast("Tensor", network_input(torch.stack(clips)))  # None comes of None only


def _sequential_clips(setup: Setup, ranks: Ranks, dataset: _TrainClips) -> Iterator[_ReadClip]:
    """Yield clips of this rank without end, from shards that can only be read from their beginning."""
    buffer = ClipBuffer(
        setup.reader, np.array(dataset.videos, np.int64), dataset.plan, seed=dataset.seed, stream_id=_STREAM,
        slot=Slot(ranks.rank, ranks.world_size), num_before=0, buffer_clips=setup.config.data.shuffle_clips,
        rgb=True, tg=False,
    )  # fmt: skip
    with closing(buffer.draws()) as draws:
        for item in draws:
            try:
                yield item if isinstance(item, str) else torch.from_numpy(buffer.read(item)[0].rgb)
            except BadSampleError as error:
                yield str(error)
