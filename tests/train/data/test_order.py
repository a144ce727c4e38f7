"""Order: which videos make which batch, for any number of videos, ranks and points of resumption."""

from __future__ import annotations

import time
from collections import Counter
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.records import InputError
from tests.train.support import could_be_even
from tgtrain.data.order import (
    BlockOrder,
    Coverage,
    Draw,
    RepeatedOrder,
    StreamOrder,
    rank_part,
    steps_per_epoch,
    substitutes_of,
)
from tgtrain.randomness import Choice, Stream, sample_seed

PINNED_FIRST = [6191, 7147, 1979, 3991, 8517, 559, 1853, 8681]
PINNED_SMALL = [4, 5, 1, 6, 0, 2, 3, 4]
PINNED_NUMBERS = [0.3652817858605062, 0.7867017069166788, 0.6066311725290594]
PINNED_OTHER_NUMBERS = [0.1099935735841463, 0.5570552273117939, 0.5138042995132193]

sizes = st.integers(1, 70)
batches = st.integers(1, 40)
seeds = st.integers(0, 2**64 - 1)
quick = settings(deadline=None, max_examples=50)  # a busy machine may stall any one example


def videos_of_pass(order: StreamOrder, pass_index: int) -> list[int]:
    """All videos of one pass, in order, gathered from the batches that touch it."""
    first, last = pass_index * order.num_videos, (pass_index + 1) * order.num_videos - 1
    steps = range(first // order.batch_size, last // order.batch_size + 1)
    return [draw.video for step in steps for draw in order.draws(step) if draw.pass_index == pass_index]


@quick
@given(sizes, batches, seeds, st.sampled_from(list(Stream)), st.integers(0, 50))
def test_each_video_exactly_once_a_pass(num_videos: int, batch: int, seed: int, stream: int, which: int) -> None:
    order = StreamOrder(num_videos, batch, seed, stream)
    assert sorted(videos_of_pass(order, which)) == list(range(num_videos))


@pytest.mark.parametrize("num_videos", [*range(1, 40), 63, 64, 65, 477, 1000, 9537])
def test_a_pass_is_a_permutation_at_every_size(num_videos: int) -> None:
    order = StreamOrder(num_videos, num_videos, 7, 1)
    assert {draw.video for draw in order.draws(3)} == set(range(num_videos))


@quick
@given(sizes, batches, seeds, st.integers(0, 200))
def test_positions_continue_across_passes(num_videos: int, batch: int, seed: int, step: int) -> None:
    draws = StreamOrder(num_videos, batch, seed, 0).draws(step)
    assert [draw.position for draw in draws] == list(range(step * batch, (step + 1) * batch))
    assert all(draw.pass_index == draw.position // num_videos for draw in draws)


@quick
@given(sizes, st.integers(1, 8), st.integers(1, 8), seeds, st.integers(0, 30))
def test_ranks_make_the_global_batch(num_videos: int, per_rank: int, world_size: int, seed: int, step: int) -> None:
    draws = StreamOrder(num_videos, per_rank * world_size, seed, 1).draws(step)
    parts = [rank_part(draws, rank, world_size) for rank in range(world_size)]
    assert {len(part) for part in parts} == {per_rank}
    assert sorted((draw for part in parts for draw in part), key=lambda draw: draw.position) == list(draws)


@quick
@given(sizes, batches, batches, seeds)
def test_sequence_is_independent_of_batch_size(num_videos: int, batch: int, other: int, seed: int) -> None:
    def sequence(batch_size: int) -> list[int]:
        order = StreamOrder(num_videos, batch_size, seed, 0)
        return [draw.video for step in range(batch * other // batch_size) for draw in order.draws(step)]

    assert sequence(batch) == sequence(other)


@quick
@given(sizes, batches, seeds, st.integers(1, 20))
def test_resume_continues_the_sequence(num_videos: int, batch: int, seed: int, killed_at: int) -> None:
    undisturbed = [StreamOrder(num_videos, batch, seed, 1).draws(step) for step in range(25)]
    resumed = StreamOrder(num_videos, batch, seed, 1)
    assert [resumed.draws(step) for step in range(killed_at, 25)] == undisturbed[killed_at:]


def test_seeds_streams_and_passes_give_different_orders() -> None:
    orders = {
        (seed, stream, which): tuple(videos_of_pass(StreamOrder(50, 50, seed, stream), which))
        for seed, stream, which in product((0, 1, 2, 2**40), (0, 1), range(4))
    }
    assert len(set(orders.values())) == len(orders)


@pytest.mark.parametrize("num_videos", [2, 3, 4, 5])
def test_all_orders_of_few_videos_are_equally_likely(num_videos: int) -> None:
    passes = 12_000
    videos = [draw.video for draw in StreamOrder(num_videos, num_videos * passes, 11, 0).draws(0)]
    counts = Counter(tuple(videos[i : i + num_videos]) for i in range(0, len(videos), num_videos))
    assert could_be_even([counts[order] for order in permutations(range(num_videos))])


@pytest.mark.parametrize(("place", "num_videos"), [(0, 60), (1, 60), (59, 60), (30, 101)])
def test_all_videos_are_equally_likely_at_a_position(place: int, num_videos: int) -> None:
    passes = 6_000
    videos = [draw.video for draw in StreamOrder(num_videos, num_videos * passes, 5, 1).draws(0)]
    assert could_be_even(np.bincount(videos[place::num_videos], minlength=num_videos))


def test_list_neighbours_are_separated() -> None:
    """Lists are sorted by class: a weak shuffle would leave runs of one class. Expected: 2 in 9,537 places."""
    videos = np.array(videos_of_pass(StreamOrder(9537, 80, 0, 1), 0))
    assert np.sum(np.abs(np.diff(videos)) == 1) < 12
    assert abs(np.corrcoef(videos, np.arange(len(videos)))[0, 1]) < 0.04


def test_order_is_pinned() -> None:
    """Pinned: a checkpoint that is resumed by a later version must continue the same sequence."""
    assert [draw.video for draw in StreamOrder(9537, 8, 0, Stream.UNLABELLED).draws(0)] == PINNED_FIRST
    assert [draw.video for draw in StreamOrder(7, 8, 2**64 - 1, Stream.LABELLED).draws(5)] == PINNED_SMALL


def test_random_numbers_are_pinned() -> None:
    first = sample_seed(0, Stream.UNLABELLED, 0, "Diving/v_Diving_g01_c03", Choice.CLIP).random(3)
    other = sample_seed(2**64 - 1, Stream.LABELLED, 10**6, "Punch/käse", Choice.STRONG_TG).random(3)
    assert first.tolist() == PINNED_NUMBERS
    assert other.tolist() == PINNED_OTHER_NUMBERS


def test_random_numbers_depend_on_every_argument() -> None:
    base = (1, 0, 2, "a/b", 0)
    variants = [
        base,
        (2, 0, 2, "a/b", 0),
        (1, 1, 2, "a/b", 0),
        (1, 0, 3, "a/b", 0),
        (1, 0, 2, "a/c", 0),
        (1, 0, 2, "a/b", 1),
    ]
    # Words of one argument must not be taken for words of the next.
    variants += [(2**32, 0, 2, "a/b", 0), (0, 2**32, 2, "a/b", 0), (0, 1, 2, "a/b", 0)]
    assert len({sample_seed(*variant).random() for variant in variants}) == len(variants)


def test_steps_of_an_epoch() -> None:
    assert steps_per_epoch(9537, 40) == 238
    assert steps_per_epoch(40, 40) == 1
    assert steps_per_epoch(3, 40) == 1


@quick
@given(st.integers(1, 9), st.integers(2, 8))
def test_batch_that_ranks_cannot_share_is_rejected(batch: int, world_size: int) -> None:
    draws = StreamOrder(5, batch, 0, 0).draws(0)
    if batch % world_size:
        with pytest.raises(InputError, match="equal parts"):
            rank_part(draws, 0, world_size)
    else:
        assert len(rank_part(draws, world_size - 1, world_size)) == batch // world_size


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(InputError, match="stream labelled has 0 videos"):
        StreamOrder(0, 8, 0, Stream.LABELLED)
    with pytest.raises(InputError, match="batch size"):
        StreamOrder(1, 0, 0, 0)
    with pytest.raises(InputError, match="seed"):
        StreamOrder(1, 1, -1, 0)
    with pytest.raises(ValueError, match="step"):
        StreamOrder(1, 1, 0, 0).draws(-1)
    with pytest.raises(ValueError, match="rank"):
        rank_part((), 2, 2)


def test_long_streams_cost_no_more() -> None:
    """Nothing is shuffled in advance: the first batch of 650,000 videos comes at once, and so does one far on."""
    order = StreamOrder(650_000, 80, 0, 1)
    order.draws(0)
    start = time.perf_counter()
    for step in range(40):
        order.draws(step * 9_000)
    assert (time.perf_counter() - start) / 40 < 0.02


@quick
@given(sizes, st.integers(0, 1000), st.integers(0, 5), seeds, st.integers(0, 20))
def test_substitutes_are_other_videos_of_the_stream(
    num_videos: int, video: int, pass_index: int, seed: int, most: int
) -> None:
    draw = Draw(video % num_videos, pass_index, position=0)
    found = substitutes_of(draw, num_videos, seed, Stream.UNLABELLED, most)
    assert len(found) == len(set(found)) == min(most, num_videos - 1)
    assert set(found) <= set(range(num_videos)) - {draw.video}
    assert found == substitutes_of(draw, num_videos, seed, Stream.UNLABELLED, most)


def test_substitutes_are_spread_evenly_over_the_stream() -> None:
    num_videos = 50
    chosen = np.array([substitutes_of(Draw(7, p, 0), num_videos, 1, Stream.LABELLED, 16) for p in range(2500)])
    for place in (0, 3):  # the first that is tried, and a later one
        counts = np.bincount(chosen[:, place], minlength=num_videos)
        assert counts[7] == 0
        assert could_be_even(np.delete(counts, 7))


@quick
@given(sizes, batches, st.integers(0, 12), st.integers(1, 9), st.sampled_from(["stream", "blocks", "repeated"]))
def test_coverage_counts_draws(
    num_videos: int, batch_size: int, num_steps: int, steps_per_epoch: int, kind: str
) -> None:
    order: StreamOrder | BlockOrder | RepeatedOrder = StreamOrder(num_videos, batch_size, 3, Stream.LABELLED)
    if kind == "blocks":
        order = BlockOrder(np.arange(num_videos) // 4, 2, batch_size, 3, Stream.LABELLED)
    elif kind == "repeated":
        batch_size = min(batch_size, num_videos)
        order = RepeatedOrder(num_videos, batch_size, 3, Stream.LABELLED, steps_per_epoch)
    drawn = [draw for step in range(num_steps) for draw in order.draws(step)]
    next_pass = order.draws(num_steps)[0].pass_index
    assert order.coverage(num_steps) == Coverage(
        num_passes=next_pass,
        num_in_pass=sum(draw.pass_index == next_pass for draw in drawn),
        num_seen=len({draw.video for draw in drawn}),
    )
