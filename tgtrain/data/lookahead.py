"""Prefetch plan for the next steps: complete shards and single samples, ordered by first use. A pure function of the order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np

from tgtrain.data.order import BlockOrder, StreamSource
from tgtrain.data.stores.video_index import Need, VideoIndex

_NUM_BLOCKS = 2  # the one that is being read, and the next
_NUM_STEPS = 64  # of the plan if no stream has blocks


def upcoming(sources: Sequence[StreamSource], index: VideoIndex, step: int) -> list[Need]:
    """What the steps from `step` on need, as far ahead as two blocks reach: shards of a stream in blocks, samples of others."""
    num_steps = _NUM_STEPS
    for source in sources:
        if isinstance(source.order, BlockOrder):
            position = step * source.order.batch_size
            end = source.order.blocks_from(position, _NUM_BLOCKS + 1)[-1][0]
            num_steps = -(-(end - position) // source.order.batch_size)
    needs = heapq.merge(*(_needs(source, index, step, num_steps) for source in sources), key=lambda need: need[0])
    return list(dict.fromkeys(need for _, need in needs))


def _needs(source: StreamSource, index: VideoIndex, step: int, num_steps: int) -> Iterator[tuple[int, Need]]:
    """(step of first use, need) of one stream."""
    order = source.order
    if isinstance(order, BlockOrder):
        for first, shards in order.blocks_from(step * order.batch_size, _NUM_BLOCKS):
            for shard in shards.tolist():
                yield max(step, first // order.batch_size), index.shards[shard]
        return
    for later in range(step, step + num_steps):
        for draw in order.draws(later):
            yield later, int(source.videos[draw.video])


def largest_need(sources: Sequence[StreamSource], index: VideoIndex, shard_bytes: dict[str, int]) -> int:
    """Bytes that a cache must hold to fetch ahead: the two largest blocks of a stream in blocks, one batch of samples of others."""
    _, sizes = index.extents()
    total = 0
    for source in sources:
        order = source.order
        if isinstance(order, BlockOrder):
            largest = sorted((shard_bytes[index.shards[s]] for s in np.unique(order.shards)), reverse=True)
            total += sum(largest[: _NUM_BLOCKS * order.block_shards])
        else:
            total += int(np.sort(sizes[source.videos])[::-1][: order.batch_size].sum())
    return total
