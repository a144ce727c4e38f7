"""`open_streams`: the trainer's batches and their order, resumed with any number of ranks and loader processes."""

from __future__ import annotations

import doctest
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.data.support import CLIPS, batches_of
from tests.train.support import setup_of
from tgtrain import InputError, open_streams
from tgtrain.data import streams as module
from tgtrain.data.batch import SslBatch

OVERRIDES = ("data.area=[0.7, 1.0]", "runtime.seed=5", "batch.labelled=4", "batch.unlabelled=8")
SIZES: dict[str, Any] = {"labelled": 4, "unlabelled": 8, "seed": 5}


def keys(batch: SslBatch) -> tuple[tuple[str, ...], tuple[str, ...]]:
    assert batch.unlabelled is not None
    return batch.labelled.keys, batch.unlabelled.keys


def test_examples_in_the_documentation_hold(data_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_set.parent)
    data_set.rename("dataset")
    try:
        assert doctest.testmod(module, raise_on_error=True).attempted == 5
    finally:
        Path("dataset").rename(data_set)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_of_the_trainer(data_set: Path, num_workers: int) -> None:
    streams = open_streams(data_set, num_workers=num_workers, **SIZES, **CLIPS)
    batches = list(itertools.islice(streams, 5))
    for mine, its in zip(batches, batches_of(setup_of(data_set, *OVERRIDES), 5), strict=True):
        assert keys(mine) == keys(its)
        assert mine.unlabelled is not None
        assert its.unlabelled is not None
        for one, two in ((mine.labelled, its.labelled), (mine.unlabelled, its.unlabelled)):
            assert one.rgb is not None
            assert one.tg is not None
            assert two.rgb is not None
            assert two.tg is not None
            assert torch.equal(one.rgb, two.rgb)
            assert torch.equal(one.tg, two.tg)
            assert torch.equal(one.labels, two.labels)
    assert streams.steps_per_epoch == 12 // 8
    assert streams.step == 5


@pytest.mark.parametrize(("ranks_before", "ranks_after", "workers_after"), [(1, 4, 0), (4, 2, 0), (2, 1, 2)])
def test_a_state_continues_with_other_ranks_and_workers(
    data_set: Path, ranks_before: int, ranks_after: int, workers_after: int
) -> None:
    def parts(world_size: int, state: dict[str, Any] | None, num_steps: int, workers: int = 0) -> tuple[Any, Any]:
        opened = [
            open_streams(data_set, rank=rank, world_size=world_size, num_workers=workers, **SIZES, **CLIPS)
            for rank in range(world_size)
        ]
        for streams in opened:
            if state is not None:
                streams.load_state_dict(state)
        steps = list(zip(*(itertools.islice(streams, num_steps) for streams in opened), strict=True))
        # Rank r has every world_size-th video of the global batch.
        joined = [
            tuple(
                tuple(itertools.chain(*zip(*of_ranks, strict=True))) for of_ranks in zip(*map(keys, step), strict=True)
            )
            for step in steps
        ]
        return joined, [streams.state_dict() for streams in opened]

    whole, _ = parts(1, None, 7)
    first, states = parts(ranks_before, None, 3)
    assert all(state == states[0] for state in states)
    assert json.loads(json.dumps(states[0])) == states[0]
    content = io.BytesIO()
    torch.save(states[0], content)
    state = torch.load(io.BytesIO(content.getvalue()), weights_only=True)
    second, _ = parts(ranks_after, state, 4, workers_after)
    assert first + second == whole


def test_a_state_counts_what_was_given_and_not_what_was_read_ahead(data_set: Path) -> None:
    streams = open_streams(data_set, num_workers=1, **SIZES, **CLIPS)
    for batch in streams:
        assert streams.state_dict()["step"] == batch.step + 1
        if batch.step == 2:
            break
    assert next(iter(streams)).step == 3


def test_one_view_and_labels_alone(data_set: Path) -> None:
    batch = next(iter(open_streams(data_set, labelled=3, unlabelled=0, num_clips=2, streams="tg", **CLIPS)))
    assert batch.unlabelled is None
    assert batch.labelled.rgb is None
    assert batch.labelled.tg is not None
    assert batch.labelled.tg.shape == (6, 4, 32, 32, 3)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"root": "nowhere"}, "No data set at nowhere"),
        ({"split": "p1"}, "No split p1"),
        ({"labelled": 0}, "batch.labelled .*got 0"),
        ({"labelled": 3, "world_size": 2}, "global batch of 3 videos on 2 ranks"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of 2, expected 0 to 1"),
        ({"clip_frames": -1}, "data.clip_frames .*got -1"),
        ({"num_workers": 10**6}, "runtime.workers"),
        ({"streams": "flow"}, "streams: got 'flow'"),
    ],
)
def test_mistakes_are_one_kind_of_error(data_set: Path, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_streams(**{"root": data_set, **keywords})


def test_a_state_of_other_streams_is_refused(data_set: Path) -> None:
    state = open_streams(data_set, **SIZES).state_dict()
    for other in ({"seed": 6}, {"labelled": 2}, {"unlabelled": 0}):
        streams = open_streams(data_set, **{**SIZES, **other})
        with pytest.raises(InputError, match=f"other streams: {next(iter(other))} "):
            streams.load_state_dict(state)
    for broken in ({}, {**state, "step": -1}, {**state, "step": "3"}):
        with pytest.raises(InputError, match="load_state_dict"):
            open_streams(data_set, **SIZES).load_state_dict(broken)
