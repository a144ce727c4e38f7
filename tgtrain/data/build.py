"""From a setup to the batches of one rank: which videos make each stream, and how their strong views are drawn."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from manifests.records import InputError
from tgtrain.config import Config
from tgtrain.data.batch import StepDataset, StreamSource
from tgtrain.data.loader import default_workers
from tgtrain.data.lookahead import largest_need
from tgtrain.data.order import BlockOrder, RepeatedOrder, StreamOrder, steps_per_epoch
from tgtrain.data.sequential_batches import StreamedDataset
from tgtrain.data.setup import Setup
from tgtrain.data.stores.remote import RemoteShards
from tgtrain.data.stores.sequential import StreamedShards
from tgtrain.method.augment.plan import StrongSettings, draw_run_signs
from tgtrain.method.augment.plan_mvpl import MvplSettings
from tgtrain.randomness import Stream
from tgtrain.ranks.distributed import Ranks


def step_dataset(setup: Setup, ranks: Ranks) -> StepDataset:
    """The batches of this rank, by step (with data.reader=stream in order alone). InputError where the settings do not allow any."""
    config = setup.config
    views = wanted_views(config)
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
    )
    if config.data.reader == "stream":
        return _streamed(setup, dataset)
    _check_cache(setup, dataset)
    return dataset


def _streamed(setup: Setup, dataset: StepDataset) -> StreamedDataset:
    """The same batches from streams. InputError where a setting asks for an order that streams do not have."""
    kept = [quirk for quirk in setup.config.compat.quirks if quirk in ("fixed_labelled_order", "replayed_operations")]
    if kept:
        raise InputError(f"data.reader=stream cannot have compat.quirks {', '.join(kept)}: it has no order of its own.")
    assert isinstance(setup.reader.shards, StreamedShards)
    fields = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}
    return StreamedDataset(**fields, source=setup.reader.shards.source, buffer_clips=setup.config.data.shuffle_clips)


def _check_cache(setup: Setup, dataset: StepDataset) -> None:
    """Refuse a cache that is too small to work ahead."""
    if not isinstance(setup.reader.shards, RemoteShards):
        return
    cache = setup.reader.shards.cache
    needed = largest_need(
        dataset.sources, setup.reader.index, {shard.name: shard.num_bytes for shard in setup.manifest.shards}
    )
    if cache.num_bytes < needed:
        gigabytes = gigabytes_up(needed)
        raise InputError(
            f"The cache {cache.folder} may hold {cache.num_bytes / 1e9:.3g} GB; two blocks of data.block_shards="
            f"{setup.config.data.block_shards} shards and a labelled batch need {gigabytes} GB. Set runtime.cache_gb={gigabytes} "
            "(--cache-gb), make room on its disk, name another folder with --cache, or lower data.block_shards."
        )


def training_workers(config: Config) -> int:
    """Loader processes that a training process starts here with this config."""
    return default_workers() if config.runtime.workers < 0 else config.runtime.workers


def gigabytes_up(num_bytes: int) -> str:
    """So many GB (10^9 bytes) as three digits say, never less: 0.0615, 12.4, 1340."""
    digits = max(0, 2 - math.floor(math.log10(max(num_bytes, 1) / 1e9)))
    return f"{math.ceil(num_bytes * 10**digits / 10**9) / 10**digits:.{digits}f}"


def wanted_views(config: Config) -> tuple[str, ...]:
    """The views that the model takes: rgb, tg or both."""
    streams = config.model.streams
    return (streams,) if streams in ("rgb", "tg") else ("rgb", "tg")


def _source(setup: Setup, part: str, batch_size: int, stream: Stream) -> StreamSource:
    places = np.flatnonzero(setup.split.part(part))
    seed = setup.config.runtime.seed
    order: StreamOrder | RepeatedOrder | BlockOrder = StreamOrder(len(places), batch_size, seed, stream)
    if stream is Stream.UNLABELLED and setup.config.data.block_shards and len(places):
        order = BlockOrder(setup.reader.index.shard[places], setup.config.data.block_shards, batch_size, seed, stream)
    if stream is Stream.LABELLED and "fixed_labelled_order" in setup.config.compat.quirks:
        num_unlabelled = int(setup.split.unlabelled.sum()) or len(places)
        order = RepeatedOrder(
            len(places), batch_size, seed, stream, steps_per_epoch(num_unlabelled, setup.config.batch.unlabelled)
        )
    return StreamSource(places, setup.split.label[places].astype(np.int64), order)


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
