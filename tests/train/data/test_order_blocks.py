"""Blocks of shards: every video once a pass, whole blocks one after the other, the full shuffle where one block holds all."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.records import InputError
from tests.train.support import could_be_even
from tgtrain.data.order import BlockOrder, Draw, StreamOrder, rank_part

PINNED_FIRST = [1524, 1994, 3299, 1446, 2712, 2239, 2005, 3291]
PINNED_LAST = [1540, 2447, 1129, 2813, 2492, 2808, 1587, 2768]

counts = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 0)
quick = settings(deadline=None, max_examples=50)


def order_of(sizes: list[int], block: int, batch: int = 4, seed: int = 3) -> BlockOrder:
    """A stream with sizes[i] videos in shard i; videos of a shard need not be neighbours in the list."""
    shards = np.repeat(np.arange(len(sizes)), sizes)
    return BlockOrder(np.random.default_rng(0).permutation(shards), block, batch, seed, 1)


def drawn(order: BlockOrder, passes: int) -> list[Draw]:
    num_steps = -(-passes * order.num_videos // order.batch_size)
    return [d for step in range(num_steps) for d in order.draws(step) if d.pass_index < passes]


@quick
@given(counts, st.integers(1, 14), st.integers(1, 40), st.integers(0, 2**64 - 1))
def test_each_video_once_a_pass_in_complete_blocks(sizes: list[int], block: int, batch: int, seed: int) -> None:
    order = order_of(sizes, block, batch, seed)
    draws = drawn(order, 3)
    assert [d.position for d in draws] == list(range(3 * order.num_videos))
    filled = [shard for shard, size in enumerate(sizes) if size]
    for which in range(3):
        videos = [d.video for d in draws if d.pass_index == which]
        assert sorted(videos) == list(range(order.num_videos))
        # Shards in order of first appearance, cut into blocks: no shard comes back once a later block has begun.
        told = order.blocks_from(which * order.num_videos, -(-len(filled) // block))
        assert sorted(shard for _, shards in told for shard in shards.tolist()) == filled
        for (start, shards), (end, _) in zip(
            told, order.blocks_from(start_of(told, 1, order, which), len(told)), strict=True
        ):
            assert len(shards) <= block
            part = videos[start - which * order.num_videos : end - which * order.num_videos]
            assert Counter(order.shards[part].tolist()) == Counter({s: sizes[s] for s in shards.tolist()})


def start_of(told: list[tuple[int, object]], number: int, order: BlockOrder, which: int) -> int:
    return told[number][0] if number < len(told) else (which + 1) * order.num_videos


@quick
@given(counts, st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 40))
def test_ranks_and_resume_change_nothing(sizes: list[int], block: int, per_rank: int, ranks: int, step: int) -> None:
    order = order_of(sizes, block, per_rank * ranks)
    for earlier in range(step):
        order.draws(earlier)
    draws = order_of(sizes, block, per_rank * ranks).draws(step)  # by one that has seen nothing before
    assert draws == order.draws(step)
    parts = [rank_part(draws, rank, ranks) for rank in range(ranks)]
    assert sorted((d for part in parts for d in part), key=lambda d: d.position) == list(draws)


@quick
@given(counts, st.integers(1, 9), st.integers(0, 30))
def test_one_block_of_all_shards_is_the_full_shuffle(sizes: list[int], batch: int, step: int) -> None:
    order = order_of(sizes, len(sizes), batch)
    assert order.draws(step) == StreamOrder(order.num_videos, batch, order.seed, order.stream_id).draws(step)


def test_shards_meet_in_every_order_and_videos_mix_within_a_block() -> None:
    order = order_of([1, 1, 1, 1], 1, 4 * 2_400)
    videos = [d.video for d in order.draws(0)]
    found = Counter(tuple(videos[i : i + 4]) for i in range(0, len(videos), 4))
    assert could_be_even([found[each] for each in permutations(range(4))])
    order = order_of([2, 2], 2, 4 * 1_200)
    videos = [d.video for d in order.draws(0)]
    found = Counter(tuple(videos[i : i + 4]) for i in range(0, len(videos), 4))
    assert could_be_even([found[each] for each in permutations(range(4))])


def test_order_is_pinned() -> None:
    """Pinned: a checkpoint that is resumed by a later version must continue the same sequence."""
    order = BlockOrder(np.repeat(np.arange(100), 64), 8, 8, 0, 1)
    assert [d.video for d in order.draws(0)] == PINNED_FIRST
    assert [d.video for d in order.draws(799)] == PINNED_LAST


def test_invalid_settings_are_rejected() -> None:
    with pytest.raises(InputError, match="block_shards: got 0"):
        order_of([3], 0)
    with pytest.raises(InputError, match="has 0 videos"):
        order_of([0], 1)
