"""What the batches after a step will need: which shards whole, which samples alone, soonest first. A pure function of the order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tgtrain.data.order import BlockOrder, RepeatedOrder, StreamOrder
from tgtrain.data.stores.video_index import Need, VideoIndex

_BLOCKS = 2  # the one that is read, and the next
_STEPS = 64  # looked ahead where no stream has blocks


class Source(Protocol):
    """A stream: numbers of its videos in the reader, int64[N], and their order."""

    @property
    def videos(self) -> npt.NDArray[np.int64]: ...
    @property
    def order(self) -> StreamOrder | RepeatedOrder | BlockOrder: ...


def upcoming(sources: Sequence[Source], index: VideoIndex, step: int) -> list[Need]:
    """What the steps from `step` on need, as far ahead as two blocks of shards reach: of a stream in blocks the shards, of another
    the samples.
    """
    num_steps = _STEPS
    for source in sources:
        if isinstance(source.order, BlockOrder):
            position = step * source.order.batch_size
            end = source.order.blocks_from(position, _BLOCKS + 1)[-1][0]
            num_steps = -(-(end - position) // source.order.batch_size)
    needs = heapq.merge(*(_needs(source, index, step, num_steps) for source in sources), key=lambda need: need[0])
    return list(dict.fromkeys(need for _, need in needs))


def _needs(source: Source, index: VideoIndex, step: int, num_steps: int) -> Iterator[tuple[int, Need]]:
    order = source.order
    if isinstance(order, BlockOrder):
        for first, shards in order.blocks_from(step * order.batch_size, _BLOCKS):
            for shard in shards.tolist():
                yield max(step, first // order.batch_size), index.shards[shard]
        return
    for later in range(step, step + num_steps):
        for draw in order.draws(later):
            yield later, int(source.videos[draw.video])


def largest_need(sources: Sequence[Source], index: VideoIndex, shard_bytes: dict[str, int]) -> int:
    """Bytes that a cache must hold for these streams to be read ahead: of a stream in blocks its two largest blocks, of another the
    samples of a batch.
    """
    _, sizes = index.extents()
    total = 0
    for source in sources:
        order = source.order
        if isinstance(order, BlockOrder):
            largest = sorted((shard_bytes[index.shards[s]] for s in np.unique(order.shards)), reverse=True)
            total += sum(largest[: _BLOCKS * order.block_shards])
        else:
            total += int(np.sort(sizes[source.videos])[::-1][: order.batch_size].sum())
    return total
