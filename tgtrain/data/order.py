"""Which videos make the global batch of a step, and where every random choice about them comes from.

A stream (labelled or unlabelled) of N videos is an endless sequence of passes; each pass is a permutation of all N
videos, drawn from (seed, stream, pass). The global batch of a step is the slice

    position   0 ........ N-1 | N ........ 2N-1 | 2N ...
    pass       0              | 1               | 2
    batch      [step * batch, (step + 1) * batch)          half-open, runs on across the end of a pass

so it depends on (seed, step) alone: not on ranks, loader workers, or where a run was resumed; every video comes
exactly once a pass and none is dropped. Nothing is stored and nothing is shuffled in advance: a permutation is a keyed
Feistel network, evaluated for the asked positions only, so a stream of any length costs the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from manifests.records import InputError
from tgtrain.randomness import Indices, Stream, permute, round_keys

_SHARDS = (1 << 64) - 1  # the part of a pass that its order of shards is drawn from; blocks are counted from 0


MAX_VIDEOS = 1 << 40  # positions are int64: more passes over this many videos than any run makes
_SUBSTITUTES = (1 << 64) - 2  # the part of a pass that substitutes are drawn from, beside blocks and their order


REPLAY_WORKERS, REPLAY_RANKS = 4, 8  # loader processes of the reference's recipes, and their GPUs


@dataclass(frozen=True, slots=True)
class Draw:
    """One place in a global batch.

    video: index into the stream's list of videos, 0 <= video < N.
    pass_index: how many times the stream has been gone through before, from 0.
    position: place in the endless stream, from 0: step * batch + place in the batch.
    """

    video: int
    pass_index: int
    position: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """How far a stream has come. num_passes: done. num_in_pass: videos of the one under way that have come. num_seen: different
    videos so far.
    """

    num_passes: int
    num_in_pass: int
    num_seen: int


@dataclass(frozen=True, slots=True)
class StreamOrder:
    """The order of one stream: `num_videos` videos in global batches of `batch_size` (all ranks together).

    seed: of the run, 0 <= seed < 2**64. stream_id: tells streams of one seed apart, see `Stream`.
    Raises InputError for a stream without videos or with a size or seed out of range.
    """

    num_videos: int
    batch_size: int
    seed: int
    stream_id: int

    def __post_init__(self) -> None:
        if not 1 <= self.num_videos <= MAX_VIDEOS:
            raise InputError(
                f"stream {_stream_name(self.stream_id)} has {self.num_videos} videos, expected at least 1: "
                "choose a split whose lists are not empty (`tgprep info` counts them)"
            )
        if self.batch_size < 1:
            raise InputError(
                f"batch size of stream {_stream_name(self.stream_id)}: got {self.batch_size}, expected >= 1"
            )
        if not 0 <= self.seed < 1 << 64:
            raise InputError(f"seed: got {self.seed}, expected a whole number from 0 to 2**64 - 1")

    def draws(self, step: int) -> tuple[Draw, ...]:
        """The global batch of a step (from 0): `batch_size` draws in order of position."""
        if step < 0:
            raise ValueError(f"step: got {step}, expected >= 0")
        first = step * self.batch_size
        positions = np.arange(first, first + self.batch_size, dtype=np.int64)
        passes, places = np.divmod(positions, self.num_videos)
        # A batch may span many passes (few videos): one column of round keys per pass, one evaluation for all.
        first_pass = int(passes[0])
        keys = np.stack(
            [round_keys(self.seed, self.stream_id, p) for p in range(first_pass, int(passes[-1]) + 1)], axis=1
        )
        videos = permute(places, self.num_videos, keys[:, passes - first_pass])
        return tuple(map(Draw, videos.tolist(), passes.tolist(), positions.tolist()))

    def coverage(self, num_steps: int) -> Coverage:
        """After so many steps."""
        return passed(num_steps * self.batch_size, self.num_videos)


@dataclass(frozen=True, slots=True)
class RepeatedOrder:
    """The labelled order of the reference code, for comparisons: one permutation for the whole run, cut into whole batches.

    It is gone through again whenever it is exhausted and from the start of every epoch; videos after its last whole
    batch are never seen. Clips are still drawn anew each time round. A stream of fewer videos than a batch cannot be
    gone through so: InputError.
    """

    num_videos: int
    batch_size: int
    seed: int
    stream_id: int
    steps_per_epoch: int

    def __post_init__(self) -> None:
        StreamOrder(self.num_videos, self.batch_size, self.seed, self.stream_id)
        if self.num_videos < self.batch_size:
            raise InputError(
                f"compat.quirks fixed_labelled_order: {self.num_videos} labelled videos are no whole batch of "
                f"{self.batch_size}. Lower batch.labelled, or drop the quirk."
            )

    def draws(self, step: int) -> tuple[Draw, ...]:
        """The global batch of a step (from 0): `batch_size` draws in order of position."""
        num_batches = self.num_videos // self.batch_size
        epoch, within = divmod(step, self.steps_per_epoch)
        turn, batch = divmod(within, num_batches)
        turns_per_epoch = -(-self.steps_per_epoch // num_batches)
        first_pass = StreamOrder(self.num_videos, self.batch_size, self.seed, self.stream_id)
        return tuple(
            Draw(draw.video, epoch * turns_per_epoch + turn, step * self.batch_size + place)
            for place, draw in enumerate(first_pass.draws(batch))
        )

    def coverage(self, num_steps: int) -> Coverage:
        """After so many steps; a pass is one time through the whole batches, cut off at the end of an epoch."""
        num_batches = self.num_videos // self.batch_size
        epoch, within = divmod(num_steps, self.steps_per_epoch)
        turns_per_epoch = -(-self.steps_per_epoch // num_batches)
        turn, batches = divmod(within, num_batches)
        most = min(num_batches, self.steps_per_epoch if epoch else within)
        return Coverage(epoch * turns_per_epoch + turn, batches * self.batch_size, most * self.batch_size)


def passed(position: int, num_videos: int) -> Coverage:
    """Of a stream that goes through all its videos again and again: after the first `position` draws."""
    num_passes, num_in_pass = divmod(position, num_videos)
    return Coverage(num_passes, num_in_pass, min(position, num_videos))


def rank_part(draws: tuple[Draw, ...], rank: int, world_size: int) -> tuple[Draw, ...]:
    """The draws of one rank: every `world_size`-th, from `rank` on, so all ranks together are the global batch.

    Raises InputError if the global batch cannot be cut into equal parts: every rank must do the same work.
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
    """Steps of one epoch of the schedule: whole unlabelled batches in one pass, at least 1 (UCF101, batch 40: 238)."""
    return max(1, num_unlabelled // batch_size)


def substitutes_of(draw: Draw, num_videos: int, seed: int, stream_id: int, most: int) -> list[int]:
    """Videos of the stream that may stand in for a damaged one, best first: up to `most`, all different, spread over the stream.

    Neighbours would not do: they lie in the same shard, which may be damaged as a whole. Drawn from (seed, stream, pass, video), so
    that they are the same for any number of ranks and workers and after a resume.
    """
    keys = round_keys(seed, stream_id, draw.pass_index, _SUBSTITUTES, draw.video)
    places = np.arange(min(num_videos, most + 1), dtype=np.int64)
    images = permute(places, num_videos, np.repeat(keys[:, None], len(places), axis=1))
    return [video for video in images.tolist() if video != draw.video][:most]


def replayed_key(draw: Draw, batch_size: int) -> tuple[int, str]:
    """(turn, slot) that stand for (pass, key) in `sample_seed` where operations are replayed as in the reference.

    There every loader process of every GPU (4 of each of 8) replays one sequence of operations: batches s, s + 1, s + 2
    and s + 3 of a GPU get the same ones, and so do the slots of all GPUs. The result depends on step and slot alone.
    """
    step, place = divmod(draw.position, batch_size)
    return step // REPLAY_WORKERS, f"slot {place % max(1, batch_size // REPLAY_RANKS)}"


def _stream_name(stream_id: int) -> str:
    return Stream(stream_id).name.lower() if stream_id in list(Stream) else str(stream_id)


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
