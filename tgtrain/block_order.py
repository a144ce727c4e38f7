"""The order of a stream whose shards come over a network: block after block of shards, so that a cache can work ahead.

A pass goes through all shards in an order drawn from (seed, stream, pass), `block_shards` of them at a time; within a block all
videos of its shards are shuffled together. Passes, positions and batches are those of `tgtrain.order`: every video comes exactly
once a pass, for any number of ranks and workers. One block that holds all shards gives the order of `StreamOrder` itself.

    shards of a pass   7 2 | 0 5 | 1 ...          block_shards = 2
    videos             those of 7 and 2, shuffled | those of 0 and 5, shuffled | ...
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from manifests.records import InputError
from tgtrain.order import Coverage, Draw, Indices, StreamOrder, passed, permute, round_keys

_SHARDS = (1 << 64) - 1  # the part of a pass that its order of shards is drawn from; blocks are counted from 0


@dataclass(frozen=True, eq=False)
class BlockOrder:
    """The order of one stream in blocks of shards.

    shards: int64[N], the shard of each video of the stream. The other fields are those of `StreamOrder`.
    """

    shards: Indices
    block_shards: int
    batch_size: int
    seed: int
    stream_id: int

    def __post_init__(self) -> None:
        StreamOrder(self.num_videos, self.batch_size, self.seed, self.stream_id)
        if self.block_shards < 1:
            raise InputError(f"data.block_shards: got {self.block_shards}, expected at least 1")

    @property
    def num_videos(self) -> int:
        """N."""
        return len(self.shards)

    def draws(self, step: int) -> tuple[Draw, ...]:
        """The global batch of a step (from 0): `batch_size` draws in order of position."""
        if step < 0:
            raise ValueError(f"step: got {step}, expected >= 0")
        position, end = step * self.batch_size, (step + 1) * self.batch_size
        found: list[Draw] = []
        while position < end:
            pass_index, place = divmod(position, self.num_videos)
            ends, _ = self._blocks(pass_index)
            block = int(np.searchsorted(ends, place, side="right"))
            start = int(ends[block - 1]) if block else 0
            count = min(end - position, int(ends[block]) - place)
            videos = self._videos(pass_index, block)[place - start : place - start + count]
            found += [Draw(video, pass_index, position + number) for number, video in enumerate(videos.tolist())]
            position += count
        return tuple(found)

    def coverage(self, num_steps: int) -> Coverage:
        """After so many steps."""
        return passed(num_steps * self.batch_size, self.num_videos)

    def blocks_from(self, position: int, num_blocks: int) -> list[tuple[int, Indices]]:
        """(first position, int64 shards) of the block that holds a position and of those after it, in order."""
        pass_index, place = divmod(position, self.num_videos)
        ends, shards = self._blocks(pass_index)
        block = int(np.searchsorted(ends, place, side="right"))
        found: list[tuple[int, Indices]] = []
        while len(found) < num_blocks:
            start = pass_index * self.num_videos + (int(ends[block - 1]) if block else 0)
            found.append((start, shards[block * self.block_shards : (block + 1) * self.block_shards]))
            block += 1
            if block == len(ends):
                block, pass_index = 0, pass_index + 1
                ends, shards = self._blocks(pass_index)
        return found

    def _blocks(self, pass_index: int) -> tuple[Indices, Indices]:
        return _blocks(self, pass_index)

    def _videos(self, pass_index: int, block: int) -> Indices:
        return _videos(self, pass_index, block)

    @cached_property
    def by_shard(self) -> tuple[Indices, Indices, Indices]:
        """The shards that occur, int64[S]; the videos sorted by shard, int64[N]; where each shard's begin there, int64[S + 1]."""
        found, counts = np.unique(self.shards, return_counts=True)
        return found, np.argsort(self.shards, kind="stable"), np.concatenate(([0], np.cumsum(counts)))


@lru_cache(maxsize=8)
def _blocks(order: BlockOrder, pass_index: int) -> tuple[Indices, Indices]:
    """Where the blocks of a pass end, in places of the pass; and its shards in order."""
    found, _, starts = order.by_shard
    keys = round_keys(order.seed, order.stream_id, pass_index, _SHARDS)
    places = np.arange(len(found))
    turns = permute(places, len(found), np.repeat(keys[:, None], len(found), axis=1))
    ends = np.cumsum(np.diff(starts)[turns])
    last = (
        np.minimum(np.arange(order.block_shards, len(found) + order.block_shards, order.block_shards), len(found)) - 1
    )
    return ends[last], found[turns]


@lru_cache(maxsize=8)
def _videos(order: BlockOrder, pass_index: int, block: int) -> Indices:
    """The videos of a block in order."""
    found, videos, starts = order.by_shard
    ends, shards = _blocks(order, pass_index)
    names = np.searchsorted(found, shards[block * order.block_shards : (block + 1) * order.block_shards])
    inside = np.sort(np.concatenate([videos[starts[name] : starts[name + 1]] for name in names]))
    part = () if len(ends) == 1 else (block,)
    keys = round_keys(order.seed, order.stream_id, pass_index, *part)
    return inside[permute(np.arange(len(inside)), len(inside), np.repeat(keys[:, None], len(inside), axis=1))]
