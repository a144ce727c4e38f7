"""From a setup to the batches of one rank: which videos make each stream, and how their strong views are drawn."""

from __future__ import annotations

import numpy as np

from tgtrain.batch import StepDataset, StreamSource
from tgtrain.config import Config
from tgtrain.distributed import Ranks
from tgtrain.mvpl_plan import MvplSettings
from tgtrain.order import Stream, StreamOrder
from tgtrain.run import Setup
from tgtrain.strong_plan import StrongSettings, draw_run_signs


def step_dataset(setup: Setup, ranks: Ranks) -> StepDataset:
    """The batches of this rank, by step. InputError where the settings do not allow any."""
    config = setup.config
    views = wanted_views(config)
    unlabelled = None
    if config.method.uses_unlabelled:
        unlabelled = _source(setup, "unlabelled", config.batch.unlabelled, Stream.UNLABELLED)
    return StepDataset(
        reader=setup.reader,
        labelled=_source(setup, "labelled", config.batch.labelled, Stream.LABELLED),
        unlabelled=unlabelled,
        clip=setup.clip,
        strong=_strong_settings(config),
        seed=config.runtime.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        rgb="rgb" in views,
        tg="tg" in views,
    )


def wanted_views(config: Config) -> tuple[str, ...]:
    """The views that the model takes: rgb, tg or both."""
    streams = config.model.streams
    return (streams,) if streams in ("rgb", "tg") else ("rgb", "tg")


def _source(setup: Setup, part: str, batch_size: int, stream: Stream) -> StreamSource:
    places = np.flatnonzero(setup.split.part(part))
    order = StreamOrder(len(places), batch_size, setup.config.runtime.seed, stream)
    return StreamSource(places, setup.split.label[places].astype(np.int64), order)


def _strong_settings(config: Config) -> StrongSettings | MvplSettings:
    augment = config.augment
    if augment.operations == "mvpl":
        return MvplSettings(num_ops=augment.num_ops)
    signs = draw_run_signs(np.random.default_rng(config.runtime.seed)) if "fixed_signs" in augment.compat else None
    return StrongSettings(num_ops=augment.num_ops, share_geometry=augment.shared_geometry, fixed_signs=signs)
