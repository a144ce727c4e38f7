"""The videos in the global batch of a step, and the keys of every random choice about them.

A stream of N videos is an endless sequence of passes; each is a permutation of all N, drawn from (seed, stream, pass). The global
batch of a step is positions step * batch to (step + 1) * batch of it, across the end of a pass if need be. So it depends on
(seed, step) alone: not on ranks, loader processes, or where a run was resumed. Nothing is stored or shuffled in advance: a
permutation is a keyed Feistel network, evaluated for the positions of a batch only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from manifests.console import plural
from manifests.records import InputError
from tgtrain.randomness import Indices, Stream, permute, round_keys

MAX_VIDEOS = 1 << 40  # positions are int64: enough passes for any run
REPLAY_WORKERS, REPLAY_RANKS = 4, 8  # loader processes and GPUs in the reference's recipes
# Parts of a pass that random choices are drawn from, beside its blocks, which are counted from 0.
_SHARDS = (1 << 64) - 1
_SUBSTITUTES = (1 << 64) - 2


@dataclass(frozen=True, slots=True)
class Draw:
    """One video of a global batch."""

    video: int  # index into the stream's list of videos, 0 <= video < N
    pass_index: int  # how many passes were complete before it
    position: int  # in the endless stream: step * batch + index in the batch


@dataclass(frozen=True, slots=True)
class Coverage:
    """How far a stream has come."""

    num_passes: int  # complete ones
    num_in_pass: int  # videos of the current pass that have come
    num_seen: int  # different videos so far


@dataclass(frozen=True, slots=True)
class StreamOrder:
    """The order of one stream. InputError for a stream without videos, or for a size or seed out of range."""

    num_videos: int
    batch_size: int  # of all ranks together
    seed: int  # of the run, 0 <= seed < 2**64
    stream_id: int  # distinguishes streams of one seed, see `Stream`

    def __post_init__(self) -> None:
        name = Stream(self.stream_id).name.lower() if self.stream_id in list(Stream) else str(self.stream_id)
        if not 1 <= self.num_videos <= MAX_VIDEOS:
            raise InputError(
                f"stream {name} has {plural(self.num_videos, 'video')}, expected at least 1: "
                "choose a split whose lists are not empty (`tgprep info` counts them)"
            )
        if self.batch_size < 1:
            raise InputError(f"batch size of stream {name}: got {self.batch_size}, expected >= 1")
        if not 0 <= self.seed < 1 << 64:
            raise InputError(f"seed: got {self.seed}, expected a whole number from 0 to 2**64 - 1")

    def draws(self, step: int) -> tuple[Draw, ...]:
        """The global batch of a step (from 0): `batch_size` draws in order of position."""
        if step < 0:
            raise ValueError(f"step: got {step}, expected >= 0")
        first = step * self.batch_size
        positions = np.arange(first, first + self.batch_size, dtype=np.int64)
        passes, indices = np.divmod(positions, self.num_videos)
        # A batch may span many passes (few videos): one column of round keys per pass, one evaluation for all.
        first_pass = int(passes[0])
        keys = np.stack(
            [round_keys(self.seed, self.stream_id, p) for p in range(first_pass, int(passes[-1]) + 1)], axis=1
        )
        videos = permute(indices, self.num_videos, keys[:, passes - first_pass])
        return tuple(map(Draw, videos.tolist(), passes.tolist(), positions.tolist()))

    def coverage(self, num_steps: int) -> Coverage:
        """How far the stream has come after `num_steps`."""
        num_passes, num_in_pass = divmod(num_steps * self.batch_size, self.num_videos)
        return Coverage(num_passes, num_in_pass, min(num_steps * self.batch_size, self.num_videos))


@dataclass(frozen=True, slots=True)
class RepeatedOrder(StreamOrder):
    """The labelled order of the reference code, for comparisons: one permutation for the run, cut into complete batches.

    It starts again when it is exhausted and at the start of every epoch; videos after its last complete batch are never
    seen. Clips are still drawn for each time round. InputError if the stream has fewer videos than a batch.
    """

    steps_per_epoch: int

    def __post_init__(self) -> None:
        StreamOrder.__post_init__(self)
        if self.num_videos < self.batch_size:
            raise InputError(
                f"compat.quirks fixed_labelled_order: {self.num_videos} labelled videos do not fill a batch of "
                f"{self.batch_size}. Lower batch.labelled, or drop the quirk."
            )

    def draws(self, step: int) -> tuple[Draw, ...]:
        """See `StreamOrder.draws`."""
        pass_index, batch = self._pass_and_batch(step)
        first = step * self.batch_size
        draws = StreamOrder.draws(self, batch)  # of the first pass
        return tuple(Draw(draw.video, pass_index, first + number) for number, draw in enumerate(draws))

    def coverage(self, num_steps: int) -> Coverage:
        """How far the stream has come; a pass is one time through the batches, cut off at the end of an epoch."""
        pass_index, batch = self._pass_and_batch(num_steps)
        num_seen = min(self.num_videos // self.batch_size, self.steps_per_epoch, num_steps) * self.batch_size
        return Coverage(pass_index, batch * self.batch_size, num_seen)

    def _pass_and_batch(self, step: int) -> tuple[int, int]:
        num_batches = self.num_videos // self.batch_size
        passes_per_epoch = -(-self.steps_per_epoch // num_batches)
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        pass_in_epoch, batch = divmod(step_in_epoch, num_batches)
        return epoch * passes_per_epoch + pass_in_epoch, batch


@dataclass(frozen=True, eq=False)
class BlockOrder:
    """The order of one stream in blocks of shards: shards are shuffled, then the videos within each block of them."""

    shards: Indices  # int64[N], the shard of each video of the stream
    block_shards: int  # shards of a block
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
        """See `StreamOrder.draws`."""
        if step < 0:
            raise ValueError(f"step: got {step}, expected >= 0")
        position, end = step * self.batch_size, (step + 1) * self.batch_size
        draws: list[Draw] = []
        while position < end:  # one round for each block that the batch touches
            pass_index, block, start, stop = self._block_at(position)
            count = min(end, stop) - position
            videos = _videos_of_block(self, pass_index, block)[position - start : position - start + count]
            draws += [Draw(video, pass_index, position + number) for number, video in enumerate(videos.tolist())]
            position += count
        return tuple(draws)

    def coverage(self, num_steps: int) -> Coverage:
        """How far the stream has come after `num_steps`."""
        return StreamOrder(self.num_videos, self.batch_size, self.seed, self.stream_id).coverage(num_steps)

    def blocks_from(self, position: int, num_blocks: int) -> list[tuple[int, Indices]]:
        """(first position, int64 shards) of the block that holds a position and of those after it, in order."""
        blocks: list[tuple[int, Indices]] = []
        while len(blocks) < num_blocks:
            pass_index, block, start, position = self._block_at(position)
            _, shards = _blocks_of_pass(self, pass_index)
            blocks.append((start, shards[block * self.block_shards : (block + 1) * self.block_shards]))
        return blocks

    def _block_at(self, position: int) -> tuple[int, int, int, int]:
        """Pass, number, first position and end (the first of the next block) of the block that holds a position."""
        pass_index, place = divmod(position, self.num_videos)
        ends, _ = _blocks_of_pass(self, pass_index)
        block = int(np.searchsorted(ends, place, side="right"))
        start = int(ends[block - 1]) if block else 0
        first = pass_index * self.num_videos
        return pass_index, block, first + start, first + int(ends[block])

    @cached_property
    def by_shard(self) -> tuple[Indices, Indices, Indices]:
        """Shards that occur, int64[S]; videos sorted by shard, int64[N]; where those of each shard begin, int64[S + 1]."""
        used, counts = np.unique(self.shards, return_counts=True)
        return used, np.argsort(self.shards, kind="stable"), np.concatenate(([0], np.cumsum(counts)))


@dataclass(frozen=True, slots=True)
class StreamSource:
    """The videos of a stream."""

    videos: Indices  # int64[N], numbers in the video index
    labels: Indices  # int64[N], -1 if unknown
    order: StreamOrder | BlockOrder


@lru_cache(maxsize=8)
def _blocks_of_pass(order: BlockOrder, pass_index: int) -> tuple[Indices, Indices]:
    """The end of each block, counted in videos from the start of the pass; and the shards in order."""
    used, _, starts = order.by_shard
    keys = round_keys(order.seed, order.stream_id, pass_index, _SHARDS)
    turns = permute(np.arange(len(used)), len(used), np.repeat(keys[:, None], len(used), axis=1))
    ends = np.cumsum(np.diff(starts)[turns])
    last = np.arange(order.block_shards, len(used) + order.block_shards, order.block_shards)
    return ends[np.minimum(last, len(used)) - 1], used[turns]


@lru_cache(maxsize=8)
def _videos_of_block(order: BlockOrder, pass_index: int, block: int) -> Indices:
    """The videos of a block in order."""
    used, videos, starts = order.by_shard
    ends, shards = _blocks_of_pass(order, pass_index)
    rows = np.searchsorted(used, shards[block * order.block_shards : (block + 1) * order.block_shards])
    inside = np.sort(np.concatenate([videos[starts[row] : starts[row + 1]] for row in rows]))
    # With a single block the order is that of StreamOrder.
    part = () if len(ends) == 1 else (block,)
    keys = round_keys(order.seed, order.stream_id, pass_index, *part)
    return inside[permute(np.arange(len(inside)), len(inside), np.repeat(keys[:, None], len(inside), axis=1))]


def rank_part(draws: tuple[Draw, ...], rank: int, world_size: int) -> tuple[Draw, ...]:
    """The draws of one rank: every `world_size`-th, from `rank` on, so all ranks together are the global batch.

    InputError if the global batch cannot be cut into equal parts: every rank must do the same work.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: got {rank} of {world_size} ranks")
    if len(draws) % world_size:
        raise InputError(
            f"global batch of {len(draws)} videos on {world_size} ranks: got a remainder of {len(draws) % world_size}, "
            "expected equal parts: change the batch size or the number of processes"
        )
    return draws[rank::world_size]


def steps_per_epoch(num_unlabelled: int, batch_size: int) -> int:
    """Steps of one epoch of the schedule: complete unlabelled batches in one pass, at least 1 (UCF101, batch 40: 238)."""
    return max(1, num_unlabelled // batch_size)


def substitutes_of(draw: Draw, num_videos: int, seed: int, stream_id: int, most: int) -> list[int]:
    """Videos of the stream that may replace a damaged one, in order of preference: up to `most`, all different.

    They are spread over the stream, as neighbours are in the same shard, which may be damaged as a whole. Drawn from (seed, stream,
    pass, video), so that they are the same for any number of ranks and loader processes and after a resume.
    """
    keys = round_keys(seed, stream_id, draw.pass_index, _SUBSTITUTES, draw.video)
    turns = np.arange(min(num_videos, most + 1), dtype=np.int64)
    videos = permute(turns, num_videos, np.repeat(keys[:, None], len(turns), axis=1))
    return [video for video in videos.tolist() if video != draw.video][:most]


def replayed_key(draw: Draw, batch_size: int) -> tuple[int, str]:
    """(turn, slot) that replace (pass, key) in `sample_seed` if operations are replayed as in the reference.

    There every loader process of every GPU (4 of each of 8) replays one sequence of operations: batches s, s + 1, s + 2
    and s + 3 of a GPU get the same ones, and so do the slots of all GPUs. The result depends on step and slot alone.
    """
    step, index = divmod(draw.position, batch_size)
    return step // REPLAY_WORKERS, f"slot {index % max(1, batch_size // REPLAY_RANKS)}"
