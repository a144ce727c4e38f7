"""Precise BatchNorm of a run: which networks are measured, and over which clips (tgtrain.method.networks.precise_bn does the measuring)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import NamedTuple

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
    """What BatchNorm statistics were measured over, the same on every rank.

    num_batches: of all ranks together, for the network that had the fewest; 0: the statistics are what they were before.
    bad: what is wrong with each video that had to be left out.
    """

    num_batches: int
    bad: tuple[str, ...]


def recompute_batch_norm(
    model: Model, setup: Setup, ranks: Ranks, should_stop: Callable[[], bool] = lambda: False, workers: int = 0
) -> BatchNormMeasured:
    """Replace the BatchNorm statistics of every network by those of centre clips of the train list, as the recipe asks.

    The clips are read once for all networks, by `workers` processes (0: by this one). All ranks must call this.
    should_stop: asked before every batch; once it says so the statistics are of fewer batches, good for nothing.
    """
    wanted = setup.config.precise_bn.batches
    if not wanted:
        return BatchNormMeasured(0, ())
    # A network that both views share keeps the statistics of what is tested: RGB.
    views = ("rgb",) if setup.config.model.streams == "joint" else wanted_views(setup.config)
    if "precise_bn_rgb_only" in setup.config.compat.quirks and "rgb" in views:
        views = ("rgb",)
    bad: dict[str, None] = {}  # in order
    networks = _Together([model.backbone(view) for view in views])  # type: ignore[arg-type]
    batches = _batches(setup, ranks, views, wanted, workers, bad)
    num_used = recompute_statistics(networks, takewhile(lambda _: not should_stop(), batches), wanted)
    everyone = ranks.gather((num_used, list(bad)))
    reasons = dict.fromkeys(reason for _, reasons in everyone for reason in reasons)
    return BatchNormMeasured(sum(used for used, _ in everyone), tuple(reasons))


class _Together(nn.Module):
    """The networks of the views as one, called on the inputs of each."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, inputs: Sequence[Tensor]) -> None:
        """Inputs [B, 3, T, H, W], one a network; what comes out is of no interest."""
        for network, clips in zip(self.networks, inputs, strict=True):
            network(clips)


class _Read(NamedTuple):
    """A clip as read: uint8[T, S, S, 3] of each view; None for one that is not measured. bad: why there is none, "" where there is."""

    rgb: Tensor | None
    tg: Tensor | None
    bad: str


class _TrainList(Dataset[_Read]):
    """Clip n of the train list: a centre clip and crop, unless the recipe asks for others; `batch` says which clips a batch has.

    One by one, so that what processes have read ahead are a few clips each: a batch is that of all ranks.
    """

    def __init__(self, setup: Setup, views: Sequence[str], stride: int) -> None:
        config = setup.config
        self.reader, self.clip = setup.reader, replace(setup.clip, num_clips=1)
        self.videos = setup.videos("train")
        self.rgb, self.tg = "rgb" in views, "tg" in views
        self.seed, self.drawn_anew, self.stride = config.runtime.seed, config.precise_bn.clips == "training", stride
        self.size = min(config.batch.labelled, len(self.videos))
        self.order = StreamOrder(len(self.videos), self.size, self.seed, _STREAM)
        self.num_batches = max(1, len(self.videos) // self.size)
        self.expected = -1

    def batch(self, number: int) -> range:
        """The clips of a batch."""
        return range(number * self.size, (number + 1) * self.size)

    def __getitem__(self, position: int) -> _Read:
        number, row = divmod(position, self.size)
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
            return _Read(None, None, str(error))
        return self.as_read(clip)

    def plan(self, video: StoredVideo, pass_index: int) -> tuple[ClipPlan, ...]:
        """The one clip of a video."""
        if self.drawn_anew:
            rng = sample_seed(self.seed, _STREAM, pass_index, video.key, Choice.CLIP)
            return plan_train(video.num_frames, video.height, video.width, self.clip, rng)
        return plan_eval(video.num_frames, video.height, video.width, self.clip)

    def as_read(self, clip: Clip) -> _Read:
        """The views of a clip as tensors."""
        rgb = torch.from_numpy(clip.rgb) if self.rgb else None
        return _Read(rgb, None if clip.tg is None else torch.from_numpy(clip.tg), "")


def _batches(
    setup: Setup, ranks: Ranks, views: Sequence[str], wanted: int, workers: int, bad: dict[str, None]
) -> Iterator[list[Tensor]]:
    """Network inputs of the views: in all as many batches as the train list gives, up to `wanted`; rank r takes every W-th of them
    whole, from the r-th on. bad: gets what is wrong with videos that cannot be read.
    """
    dataset = _TrainList(setup, views, ranks.world_size)
    numbers = range(ranks.rank, min(wanted, dataset.num_batches), ranks.world_size)
    if setup.reader.shards.source is not None:
        read = _sequential_clips(setup, ranks, dataset)
    else:
        positions = [position for number in numbers for position in dataset.batch(number)]
        read = item_loader(dataset, positions, min(workers, len(positions)), ranks.device.type == "cuda")
    for _ in numbers:
        clips: list[list[Tensor]] = []
        for item in islice(read, dataset.size):
            if item.bad:
                bad[item.bad] = None
                continue
            # A copy of its own: the memory that it came in, and the file that stands for it, are free again.
            found = [item.rgb if view == "rgb" else item.tg for view in views]
            clips.append([part.to(ranks.device, non_blocking=True, copy=True) for part in found if part is not None])
        if len(clips) > 1:
            yield [
                _network_input(setup, ranks, view, torch.stack(part))
                for view, part in zip(views, zip(*clips, strict=True), strict=True)
            ]


def _sequential_clips(setup: Setup, ranks: Ranks, dataset: _TrainList) -> Iterator[_Read]:
    """The endless clips of this rank, from shards that can only be read from their beginning."""
    buffer = ClipBuffer(
        setup.reader, np.array(dataset.videos, np.int64), dataset.plan, seed=dataset.seed, stream_id=_STREAM,
        slot=Slot(ranks.rank, ranks.world_size), num_before=0, buffer_clips=setup.config.data.shuffle_clips,
        rgb=dataset.rgb, tg=dataset.tg,
    )  # fmt: skip
    with closing(buffer.draws()) as draws:
        for item in draws:
            if isinstance(item, str):
                yield _Read(None, None, item)
                continue
            try:
                (clip,) = buffer.read(item)
            except BadSampleError as error:
                yield _Read(None, None, str(error))
            else:
                yield dataset.as_read(clip)


def _network_input(setup: Setup, ranks: Ranks, view: str, clips: Tensor) -> Tensor:
    slow = view == "tg" and setup.config.data.gradient == "slow"
    inputs = network_input(clips.to(ranks.device, non_blocking=True), slow)
    assert inputs is not None
    return inputs
