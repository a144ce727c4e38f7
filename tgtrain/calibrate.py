"""Precise BatchNorm of a run: which networks are measured, and over which clips (tgtrain.precise_bn does the measuring)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile

import torch
from torch import Tensor

from tgtrain.augment import network_input
from tgtrain.clip import plan_eval, plan_train
from tgtrain.distributed import Ranks
from tgtrain.model import Model
from tgtrain.order import Choice, StreamOrder, sample_seed
from tgtrain.precise_bn import recompute_statistics
from tgtrain.reader import BadSampleError
from tgtrain.run import Setup
from tgtrain.sources import wanted_views

_AHEAD = 4  # batches that a cache of a remote data set fetches before they are read
_STREAM = 2  # beside the labelled and the unlabelled stream, see tgtrain.order


def measure_batch_norm(
    model: Model, setup: Setup, ranks: Ranks, should_stop: Callable[[], bool] = lambda: False
) -> None:
    """Replace the BatchNorm statistics of every network by those of centre clips of the train list, as the recipe asks.

    should_stop: asked before every batch; once it says so the statistics are of fewer batches, good for nothing.
    """
    wanted = setup.config.precise_bn.batches
    if not wanted:
        return
    # A network that both views share keeps the statistics of what is tested: RGB.
    views = ("rgb",) if setup.config.model.streams == "joint" else wanted_views(setup.config)
    if "precise_bn_rgb_only" in setup.config.compat.quirks and "rgb" in views:
        views = ("rgb",)
    for view in views:
        batches = takewhile(lambda _: not should_stop(), _batches(setup, ranks, view, wanted))
        recompute_statistics(model.backbone(view), batches, wanted)  # type: ignore[arg-type]


def _batches(setup: Setup, ranks: Ranks, view: str, wanted: int) -> Iterator[Tensor]:
    """Batches of clips of the train list (centre clips and crops, unless the recipe asks for others): those of this rank.

    In all as many as the list gives, up to `wanted`; rank r takes every W-th of them whole, from the r-th on.
    """
    config = setup.config
    train_places = setup.places("train")
    size = min(config.batch.labelled, len(train_places))
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
                (plan,) = plan_train(place.num_frames, place.height, place.width, setup.clip, rng)
            else:
                (plan,) = plan_eval(place.num_frames, place.height, place.width, setup.clip)
            try:
                clip = setup.reader.read(video, plan, rgb=view == "rgb", tg=view == "tg")
            except BadSampleError:
                continue
            clips.append(torch.from_numpy(clip.rgb if view == "rgb" else clip.tg))
        if len(clips) > 1:
            slow = view == "tg" and config.data.gradient == "slow"
            inputs = network_input(torch.stack(clips).to(ranks.device), slow)
            assert inputs is not None
            yield inputs
