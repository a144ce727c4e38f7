"""Precise BatchNorm of a run: over which clips the statistics of its networks are recomputed before an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tgtrain.data.build import wanted_views
from tgtrain.data.clip import ClipPlan, plan_eval, plan_train
from tgtrain.data.loader import item_loader
from tgtrain.data.order import StreamOrder
from tgtrain.data.reader import BadSampleError, Clip
from tgtrain.data.sequential_batches import ClipBuffer, Slot
from tgtrain.data.setup import Setup
from tgtrain.data.stores.video_index import StoredVideo
from tgtrain.method.augment.apply import network_input
from tgtrain.method.networks.model import Model
from tgtrain.method.networks.precise_bn import recompute_statistics
from tgtrain.randomness import Choice, sample_seed
from tgtrain.ranks.distributed import Ranks

_AHEAD = 4  # batches that a cache of a remote data set fetches before they are read
_STREAM = 2  # beside the labelled and the unlabelled stream, see tgtrain.data.order


@dataclass(frozen=True, slots=True)
class BatchNormMeasured:
    """What BatchNorm statistics were computed over, the same on every rank."""

    num_batches: int
    """Of all ranks together; 0: the statistics did not change."""
    bad: tuple[str, ...]
    """What is wrong with each video that was left out."""


def recompute_batch_norm(
    model: Model, setup: Setup, ranks: Ranks, should_stop: Callable[[], bool] = lambda: False, workers: int = 0
) -> BatchNormMeasured:
    """Replace the BatchNorm statistics of every network by those over clips of the train list, as the recipe says.

    The clips are read once for all networks, by `workers` processes (0: by this one). All ranks must call this.
    should_stop: called before every batch; once it returns True the statistics are incomplete and must not be used.
    """
    max_batches = setup.config.precise_bn.batches
    if not max_batches:
        return BatchNormMeasured(0, ())
    # A network that both views share keeps the statistics of what is tested: RGB.
    views = ("rgb",) if setup.config.model.streams == "joint" else wanted_views(setup.config)
    if "precise_bn_rgb_only" in setup.config.compat.quirks and "rgb" in views:
        views = ("rgb",)
    bad: dict[str, None] = {}  # an ordered set
    networks = _Networks([model.backbone(view) for view in views])  # type: ignore[arg-type]
    batches = _batches(setup, ranks, views, max_batches, workers, bad)
    num_used = recompute_statistics(networks, takewhile(lambda _: not should_stop(), batches), max_batches)
    of_ranks = ranks.gather((num_used, list(bad)))
    reasons = dict.fromkeys(reason for _, reasons in of_ranks for reason in reasons)
    return BatchNormMeasured(sum(used for used, _ in of_ranks), tuple(reasons))


class _Networks(nn.Module):
    """The networks of several views as one module, called on one input for each."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, inputs: Sequence[Tensor]) -> None:
        """inputs: [B, 3, T, H, W], one a network. The outputs are not needed."""
        for network, clips in zip(self.networks, inputs, strict=True):
            network(clips)


_ReadClip = list[Tensor] | str  # a clip as read: uint8[T, S, S, 3] for each view; or why it cannot be read


class _TrainClips(Dataset[_ReadClip]):
    """Clips of the train list, centre clips and crops unless the recipe says otherwise; each `size` of them form a batch.

    Items are single clips, so that loader processes hold a few clips each: a batch is that of all ranks.
    """

    def __init__(self, setup: Setup, views: Sequence[str], stride: int) -> None:
        config = setup.config
        self.reader, self.clip = setup.reader, replace(setup.clip, num_clips=1)
        self.videos = setup.videos("train")
        self.views, self.rgb, self.tg = views, "rgb" in views, "tg" in views
        self.seed, self.as_in_training, self.stride = config.runtime.seed, config.precise_bn.clips == "training", stride
        self.size = min(config.batch.labelled, len(self.videos))
        self.order = StreamOrder(len(self.videos), self.size, self.seed, _STREAM)
        self.num_batches = max(1, len(self.videos) // self.size)
        self.expected = -1

    def __getitem__(self, position: int) -> _ReadClip:
        number, row = divmod(position, self.size)
        # The first clip of a batch announces the batches after it to the cache.
        if number != self.expected:
            self.expected = number
            upcoming = range(number, number + _AHEAD * self.stride, self.stride)
            self.reader.shards.expect(lambda: [self.videos[d.video] for n in upcoming for d in self.order.draws(n)])
        draw = self.order.draws(number)[row]
        video = self.videos[draw.video]
        (plan,) = self.plan(self.reader.index[video], draw.pass_index)
        try:
            clip = self.reader.read(video, plan, rgb=self.rgb, tg=self.tg)
        except BadSampleError as error:
            return str(error)
        return self.as_read(clip)

    def plan(self, video: StoredVideo, pass_index: int) -> tuple[ClipPlan, ...]:
        """Plan the one clip of a video: cut as in training, or the centre clip and crop."""
        if self.as_in_training:
            rng = sample_seed(self.seed, _STREAM, pass_index, video.key, Choice.CLIP)
            return plan_train(video.num_frames, video.height, video.width, self.clip, rng)
        return plan_eval(video.num_frames, video.height, video.width, self.clip)

    def as_read(self, clip: Clip) -> _ReadClip:
        """Turn the views of a clip into tensors."""
        return [torch.from_numpy(getattr(clip, view)) for view in self.views]


def _batches(
    setup: Setup, ranks: Ranks, views: Sequence[str], max_batches: int, workers: int, bad: dict[str, None]
) -> Iterator[list[Tensor]]:
    """Yield this rank's batches: one network input a view.

    All ranks together take as many batches as the train list gives, up to `max_batches`; rank r takes every W-th from the
    r-th on. bad: receives what is wrong with videos that cannot be read.
    """
    dataset = _TrainClips(setup, views, ranks.world_size)
    numbers = range(ranks.rank, min(max_batches, dataset.num_batches), ranks.world_size)
    if setup.reader.shards.source is not None:
        items = _sequential_clips(setup, ranks, dataset)
    else:
        size = dataset.size
        positions = [position for number in numbers for position in range(number * size, (number + 1) * size)]
        items = item_loader(dataset, positions, min(workers, len(positions)), ranks.device.type == "cuda")
    for _ in numbers:
        clips: list[list[Tensor]] = []
        for item in islice(items, dataset.size):
            if isinstance(item, str):
                bad[item] = None
            else:
                # Copied, so that the shared memory it came in, and its file descriptor, are freed.
                clips.append([part.to(ranks.device, non_blocking=True, copy=True) for part in item])
        if len(clips) > 1:  # BatchNorm needs more than one row
            slow = setup.config.data.gradient == "slow"
            by_view = zip(views, zip(*clips, strict=True), strict=True)
            inputs = [network_input(torch.stack(part), slow and view == "tg") for view, part in by_view]
            yield cast("list[Tensor]", inputs)  # None comes of None only


def _sequential_clips(setup: Setup, ranks: Ranks, dataset: _TrainClips) -> Iterator[_ReadClip]:
    """Yield clips of this rank without end, from shards that can only be read from their beginning."""
    buffer = ClipBuffer(
        setup.reader, np.array(dataset.videos, np.int64), dataset.plan, seed=dataset.seed, stream_id=_STREAM,
        slot=Slot(ranks.rank, ranks.world_size), num_before=0, buffer_clips=setup.config.data.shuffle_clips,
        rgb=dataset.rgb, tg=dataset.tg,
    )  # fmt: skip
    with closing(buffer.draws()) as draws:
        for item in draws:
            try:
                yield item if isinstance(item, str) else dataset.as_read(*buffer.read(item))
            except BadSampleError as error:
                yield str(error)
