"""Build the batches of one rank from a setup: the videos and order of each stream, and the settings of strong views."""

from __future__ import annotations

import math

import numpy as np

from manifests.records import InputError
from tgtrain.config import Config
from tgtrain.data.batch import IndexedClips, StepDataset
from tgtrain.data.loader import default_workers
from tgtrain.data.lookahead import largest_need
from tgtrain.data.order import BlockOrder, RepeatedOrder, StreamOrder, StreamSource, steps_per_epoch
from tgtrain.data.sequential_batches import SequentialClips
from tgtrain.data.setup import Setup
from tgtrain.method.augment.plan import StrongSettings, draw_run_signs
from tgtrain.method.augment.plan_mvpl import MvplSettings
from tgtrain.method.networks.settings import View
from tgtrain.randomness import Stream
from tgtrain.ranks.distributed import Ranks


def step_dataset(setup: Setup, ranks: Ranks) -> StepDataset:
    """The batches of this rank, by step. InputError if the settings do not allow any."""
    config, shards = setup.config, setup.reader.shards
    views = wanted_views(config)
    fetcher = IndexedClips()
    if shards.source is not None:
        # These quirks need an order that sequential shards do not have.
        quirks = [quirk for quirk in config.compat.quirks if quirk in ("fixed_labelled_order", "replayed_operations")]
        if quirks:
            raise InputError(
                f"data.reader=stream cannot have compat.quirks {', '.join(quirks)}: its order is not fixed."
            )
        fetcher = SequentialClips(config.data.shuffle_clips)
    unlabelled = None
    if config.method.uses_unlabelled:
        unlabelled = _source(setup, "unlabelled", config.batch.unlabelled, Stream.UNLABELLED)
    dataset = StepDataset(
        reader=setup.reader,
        labelled=_source(setup, "labelled", config.batch.labelled, Stream.LABELLED),
        unlabelled=unlabelled,
        clip=setup.clip,
        strong=_strong_settings(config),
        strong_labelled=config.augment.labelled == "strong",
        replayed="replayed_operations" in config.compat.quirks,
        seed=config.runtime.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        rgb="rgb" in views,
        tg="tg" in views,
        fetcher=fetcher,
    )
    # A cache that is too small to fetch ahead is rejected now and not after hours.
    shard_bytes = {shard.name: shard.num_bytes for shard in setup.manifest.shards}
    # Nothing of a block is kept where clips are read by ranges.
    kept = [source for source in dataset.sources if not (shards.by_ranges and isinstance(source.order, BlockOrder))]
    needed = largest_need(kept, setup.reader.index, shard_bytes) if shards.cache is not None else 0
    if shards.cache is not None and shards.cache.num_bytes < needed:
        gigabytes = gigabytes_up(needed)
        raise InputError(
            f"The cache {shards.cache.folder} may hold {shards.cache.num_bytes / 1e9:.3g} GB; two blocks of data.block_shards="
            f"{config.data.block_shards} shards and a labelled batch need {gigabytes} GB. Set runtime.cache_gb={gigabytes} "
            "(--cache-gb), make room on its disk, name another folder with --cache, or lower data.block_shards."
        )
    return dataset


def training_workers(config: Config) -> int:
    """Loader processes that each training process starts on this machine."""
    return default_workers() if config.runtime.workers < 0 else config.runtime.workers


def gigabytes_up(num_bytes: int) -> str:
    """Bytes as GB (10^9 bytes) with three digits, rounded up: 0.0615, 12.4, 1340."""
    digits = max(0, 2 - math.floor(math.log10(max(num_bytes, 1) / 1e9)))
    return f"{math.ceil(num_bytes * 10**digits / 10**9) / 10**digits:.{digits}f}"


def wanted_views(config: Config) -> tuple[View, ...]:
    """The views that the model takes: rgb, tg or both."""
    streams = config.model.streams
    return (streams,) if streams in ("rgb", "tg") else ("rgb", "tg")


def measured_views(config: Config) -> tuple[View, ...]:
    """The views whose networks get statistics of their own for an evaluation; () if all keep their running averages."""
    model = config.model
    if not config.precise_bn.batches or model.is_transformer:
        return ()
    views: tuple[View, ...] = ("rgb",) if model.streams != "tg" else ()
    if config.precise_bn.tg == "joint" and model.streams in ("two", "tg"):
        views = (*views, "tg")
    # Frozen statistics are those of a file.
    return tuple(view for view in views if not (model.freeze_batch_norm and model.start_of(view)[0]))


def _source(setup: Setup, part: str, batch_size: int, stream: Stream) -> StreamSource:
    videos = np.flatnonzero(setup.split.part(part))
    config, seed = setup.config, setup.config.runtime.seed
    order: StreamOrder | BlockOrder = StreamOrder(len(videos), batch_size, seed, stream)
    if stream is Stream.UNLABELLED and config.data.block_shards and len(videos):
        order = BlockOrder(setup.reader.index.shard[videos], config.data.block_shards, batch_size, seed, stream)
    if stream is Stream.LABELLED and "fixed_labelled_order" in config.compat.quirks:
        num_unlabelled = int(setup.split.unlabelled.sum()) or len(videos)
        num_steps = steps_per_epoch(num_unlabelled, config.batch.unlabelled)
        order = RepeatedOrder(len(videos), batch_size, seed, stream, num_steps)
    return StreamSource(videos, setup.split.label[videos].astype(np.int64), order)


def _strong_settings(config: Config) -> StrongSettings | MvplSettings:
    augment = config.augment
    if augment.operations == "mvpl":
        return MvplSettings(num_ops=augment.num_ops)
    signs = signs_tg = None
    if "fixed_signs" in config.compat.quirks:  # the reference builds a pipeline for each view, and each draws its own
        rng = np.random.default_rng(config.runtime.seed)
        signs, signs_tg = draw_run_signs(rng), draw_run_signs(rng)
    return StrongSettings(
        num_ops=augment.num_ops,
        shared_geometry=augment.shared_geometry,
        fixed_signs=signs,
        fixed_signs_tg=signs_tg,
    )
