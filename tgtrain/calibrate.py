"""Precise BatchNorm of a run: which networks are measured, and over which clips (tgtrain.precise_bn does the measuring)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice, takewhile

import numpy as np
import torch
from torch import Tensor

from tgtrain.augment import network_input
from tgtrain.clip import ClipPlan, plan_eval, plan_train
from tgtrain.distributed import Ranks
from tgtrain.model import Model
from tgtrain.order import Choice, StreamOrder, sample_seed
from tgtrain.places import VideoPlace
from tgtrain.precise_bn import recompute_statistics
from tgtrain.reader import BadSampleError
from tgtrain.run import Setup
from tgtrain.sequential import StreamedShards
from tgtrain.sources import wanted_views
from tgtrain.stream import Flow, Slot

_AHEAD = 4  # batches that a cache of a remote data set fetches before they are read
_STREAM = 2  # beside the labelled and the unlabelled stream, see tgtrain.order


def measure_batch_norm(
    model: Model, setup: Setup, ranks: Ranks, should_stop: Callable[[], bool] = lambda: False
) -> list[str]:
    """Replace the BatchNorm statistics of every network by those of centre clips of the train list, as the recipe asks.

    Gives, on every rank, what is wrong with each video that had to be left out. All ranks must call this.
    should_stop: asked before every batch; once it says so the statistics are of fewer batches, good for nothing.
    """
    wanted = setup.config.precise_bn.batches
    if not wanted:
        return []
    # A network that both views share keeps the statistics of what is tested: RGB.
    views = ("rgb",) if setup.config.model.streams == "joint" else wanted_views(setup.config)
    if "precise_bn_rgb_only" in setup.config.compat.quirks and "rgb" in views:
        views = ("rgb",)
    bad: dict[str, None] = {}  # in order; a video that both views meet counts once where the same is wrong with it
    for view in views:
        batches = takewhile(lambda _: not should_stop(), _batches(setup, ranks, view, wanted, bad))
        recompute_statistics(model.backbone(view), batches, wanted)  # type: ignore[arg-type]
    return list(dict.fromkeys(reason for part in ranks.gather(list(bad)) for reason in part))


def _batches(setup: Setup, ranks: Ranks, view: str, wanted: int, bad: dict[str, None]) -> Iterator[Tensor]:
    """Batches of clips of the train list (centre clips and crops, unless the recipe asks for others): those of this rank.

    In all as many as the list gives, up to `wanted`; rank r takes every W-th of them whole, from the r-th on.
    bad: gets what is wrong with videos that cannot be read.
    """
    if isinstance(setup.reader.shards, StreamedShards):
        yield from _streamed_batches(setup, ranks, view, wanted, bad)
        return
    config = setup.config
    train_places = setup.places("train")
    size = min(config.batch.labelled, len(train_places))
    one_clip = replace(setup.clip, num_clips=1)
    order = StreamOrder(len(train_places), size, config.runtime.seed, _STREAM)
    for number in range(ranks.rank, min(wanted, max(1, len(train_places) // size)), ranks.world_size):
        upcoming = range(number, number + _AHEAD * ranks.world_size, ranks.world_size)
        setup.reader.shards.expect(lambda: [train_places[d.video] for n in upcoming for d in order.draws(n)])  # noqa: B023 - called while this batch is read
        clips = []
        for draw in order.draws(number):
            video = train_places[draw.video]
            place = setup.reader.places[video]
            if config.precise_bn.clips == "training":
                rng = sample_seed(config.runtime.seed, _STREAM, draw.pass_index, place.key, Choice.CLIP)
                (plan,) = plan_train(place.num_frames, place.height, place.width, one_clip, rng)
            else:
                (plan,) = plan_eval(place.num_frames, place.height, place.width, setup.clip)
            try:
                clip = setup.reader.read(video, plan, rgb=view == "rgb", tg=view == "tg")
            except BadSampleError as error:
                bad[str(error)] = None
                continue
            clips.append(torch.from_numpy(clip.rgb if view == "rgb" else clip.tg))
        if len(clips) > 1:
            yield _network_input(setup, ranks, view, clips)


def _streamed_batches(setup: Setup, ranks: Ranks, view: str, wanted: int, bad: dict[str, None]) -> Iterator[Tensor]:
    """As many batches from a stream of this rank, see tgtrain.stream: of shards that cannot be read but from their beginning."""
    assert isinstance(setup.reader.shards, StreamedShards)
    config = setup.config
    train_places = np.array(setup.places("train"), np.int64)
    size = min(config.batch.labelled, len(train_places))
    one_clip = replace(setup.clip, num_clips=1)

    def planned(place: VideoPlace, pass_index: int) -> tuple[ClipPlan, ...]:
        if config.precise_bn.clips == "training":
            rng = sample_seed(config.runtime.seed, _STREAM, pass_index, place.key, Choice.CLIP)
            return plan_train(place.num_frames, place.height, place.width, one_clip, rng)
        return plan_eval(place.num_frames, place.height, place.width, setup.clip)

    flow = Flow(
        setup.reader, setup.reader.shards.source, train_places, planned,
        seed=config.runtime.seed, stream_id=_STREAM, slot=Slot(ranks.rank, ranks.world_size), num_before=0,
        buffer_clips=config.data.shuffle_clips, rgb=view == "rgb", tg=view == "tg",
    )  # fmt: skip
    with closing(flow.draws()) as draws:
        for _ in range(ranks.rank, min(wanted, max(1, len(train_places) // size)), ranks.world_size):
            clips = []
            for met in islice(draws, size):
                try:
                    if isinstance(met, str):
                        raise BadSampleError(met)
                    (clip,) = flow.read(met)
                except BadSampleError as error:
                    bad[str(error)] = None
                    continue
                clips.append(torch.from_numpy(clip.rgb if view == "rgb" else clip.tg))
            if len(clips) > 1:
                yield _network_input(setup, ranks, view, clips)


def _network_input(setup: Setup, ranks: Ranks, view: str, clips: list[Tensor]) -> Tensor:
    slow = view == "tg" and setup.config.data.gradient == "slow"
    inputs = network_input(torch.stack(clips).to(ranks.device), slow)
    assert inputs is not None
    return inputs
