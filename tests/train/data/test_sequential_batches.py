"""Batches from sequential shards: the clips of the indexed reader, each video once a pass, in any number of processes."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.records import InputError
from manifests.splits.label_split import read_split
from tests.train.data.support import batches_of, extract_all, sequential
from tests.train.support import ALONE, setup_of
from tgtrain.data.batch import ClipBatch
from tgtrain.data.build import step_dataset
from tgtrain.data.clip import ClipSettings, plan_train
from tgtrain.data.reader import open_reader
from tgtrain.data.sequential_batches import ClipBuffer, Slot, WaitingClips, share_of
from tgtrain.data.setup import Setup
from tgtrain.data.stores.shard_source import ShardSource
from tgtrain.randomness import Choice, Stream, sample_seed
from tgtrain.ranks.distributed import Ranks
from tgtrain.train.preflight import notes

PASSES = 16


def matches(setup: Setup, batch: ClipBatch, stream: Stream) -> list[tuple[str, int]]:
    """(key, pass) of each clip: the pass for which the indexed reader cuts these very pixels."""
    assert batch.rgb is not None
    assert batch.tg is not None
    indexed = setup_of(Path(setup.manifest.root))
    dataset = step_dataset(indexed, ALONE)
    found = []
    for row, key in enumerate(batch.keys):
        video = indexed.split.key.index(key)
        facts = indexed.reader.index[video]
        for pass_index in range(PASSES):
            rng = sample_seed(dataset.seed, stream, pass_index, key, Choice.CLIP)
            (plan,) = plan_train(facts.num_frames, facts.height, facts.width, dataset.clip, rng)
            clip = indexed.reader.read(video, plan)
            if np.array_equal(clip.rgb, batch.rgb[row].numpy()) and np.array_equal(clip.tg, batch.tg[row].numpy()):  # type: ignore[arg-type]
                found.append((key, pass_index))
                break
        else:
            raise AssertionError(f"clip of {key} is none of the indexed reader")
    return found


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 12))
def test_slots_share_all_videos(shards: list[int], total: int) -> None:
    there = np.array(shards, np.int64)
    shares = [share_of(there, Slot(number, total)).tolist() for number in range(total)]
    assert all(shares)
    assert set().union(*shares) == set(range(len(shards)))
    counted = Counter(place for share in shares if len(share) < len(shards) for place in share)
    assert all(count == 1 for count in counted.values()) or total == 1
    if len(set(shards)) >= total:
        assert sorted(place for share in shares for place in share) == list(range(len(shards)))
        assert all(len({shards[place] for place in share} & {shards[p] for p in other}) == 0
                   for share in shares for other in shares if share is not other)  # fmt: skip


@pytest.mark.parametrize("way", ["folder", "pipe", "http"])
@pytest.mark.parametrize("workers", [0, 2])
def test_clips_equal_the_indexed_reader(root: Path, server: str, way: str, workers: int) -> None:
    template = {
        "folder": "",
        "pipe": f"pipe:cat {shlex.quote(str(root))}/{{shard}}",
        "http": f"{server}/set/{{shard}}",
    }[way]
    setup = sequential(root, template)
    dataset = step_dataset(setup, ALONE)
    batches = batches_of(setup, 6, workers)
    assert [batch.step for batch in batches] == list(range(6))
    for batch in batches:
        assert batch.unlabelled is not None
        for part, stream in ((batch.labelled, Stream.LABELLED), (batch.unlabelled, Stream.UNLABELLED)):
            assert len(part.keys) == 4
            assert part.bad == ()
            assert part.labels.tolist() == [int(key[5]) for key in part.keys]
            met = matches(setup, part, stream)
        # The strong view of a clip is that of its pass too.
        expected = [dataset._strong(Stream.UNLABELLED, pass_index, key) for key, pass_index in met]
        plans = [plan for pair in zip(batch.strong_rgb, batch.strong_tg, strict=True) for plan in pair]
        flat = [plan for pair in expected for plan in (pair[0] if isinstance(pair, list) else pair)]
        assert plans == flat


def buffer_of(
    setup: Setup, slot: Slot, *, num_before: int = 0, buffer_clips: int = 4, kind: type[ClipBuffer] = ClipBuffer
) -> ClipBuffer:
    dataset = step_dataset(setup, ALONE)
    assert dataset.unlabelled is not None

    def plan(facts: object, pass_index: int) -> object:
        return plan_train(20, 48, 64, dataset.clip, np.random.default_rng(pass_index))

    return kind(
        setup.reader, dataset.unlabelled.videos, plan, seed=1, stream_id=Stream.UNLABELLED,  # type: ignore[arg-type]
        slot=slot, num_before=num_before, buffer_clips=buffer_clips,
    )  # fmt: skip


@pytest.mark.parametrize("total", [1, 2, 5, 12])
def test_each_video_once_a_pass_and_shuffled(root: Path, total: int) -> None:
    setup = sequential(root)
    for number in range(0, total, 3):
        buffer = buffer_of(setup, Slot(number, total))
        videos_of_slot = len(buffer.own)
        drawn = list(islice(buffer.draws(), 4 * videos_of_slot))
        assert all(isinstance(met, WaitingClips) for met in drawn)
        seen = Counter((met.pass_index, met.row) for met in drawn if isinstance(met, WaitingClips))
        assert set(seen.values()) == {1}
        # What waits in the buffer is all that may be left out of the passes before the last.
        whole = [pair for pair in seen if pair[0] < 3]
        assert len(whole) >= 3 * videos_of_slot - 4
    one = [met.row for met in islice(buffer_of(setup, Slot(0, 1)).draws(), 24) if isinstance(met, WaitingClips)]
    stored = [met.row for met in islice(buffer_of(setup, Slot(0, 1)).passes(), 24) if isinstance(met, WaitingClips)]
    assert one != stored
    assert stored[:12] != stored[12:]


class _CountingBuffer(ClipBuffer):
    """A buffer that counts the bytes of the clips that have come in."""

    came: list[int]

    def passes(self) -> Iterator[WaitingClips | str]:
        self.came = []
        for met in super().passes():
            assert isinstance(met, WaitingClips)
            self.came.append(met.sample.num_bytes)
            yield met


@pytest.mark.parametrize(
    ("buffer_clips", "num_bytes", "fewest", "most"),
    [(5, 10**9, 4, 4), (100, 10**9, 11, 11), (100, 60_000, 2, 8)],  # of 12 videos; a clip's JPEGs take 8 to 12 kB
)
def test_buffer_is_bounded(
    root: Path, buffer_clips: int, num_bytes: int, fewest: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In clips, in clips of a pass, and in bytes: what has come in and not gone out again."""
    monkeypatch.setattr("tgtrain.data.sequential_batches.BUFFER_BYTES", num_bytes)
    buffer = buffer_of(sequential(root), Slot(0, 1), buffer_clips=buffer_clips, kind=_CountingBuffer)
    assert isinstance(buffer, _CountingBuffer)
    out = 0
    held = []
    for number, met in enumerate(islice(buffer.draws(), 60)):
        assert isinstance(met, WaitingClips)
        out += met.sample.num_bytes
        held.append(len(buffer.came) - number - 1)
        assert sum(buffer.came) - out < num_bytes
    assert fewest <= max(held) <= most
    assert held[0] == 1  # the first clip does not wait for the buffer to be full


def test_resume_starts_at_the_last_shard(root: Path) -> None:
    """12 unlabelled videos, 3 in each of 4 shards: 12 before is the second pass, 18 and 20 are the third shard in it."""
    setup = sequential(root)

    def met(num_before: int, count: int) -> list[tuple[int, int]]:
        buffer = buffer_of(setup, Slot(0, 1), num_before=num_before)
        return [
            (clip.pass_index, clip.row) for clip in islice(buffer.passes(), count) if isinstance(clip, WaitingClips)
        ]

    whole = met(0, 36)
    assert met(12, 24) == whole[12:]
    assert met(18, 12) == met(20, 12) == whole[18:30]
    for one, other in zip(batches_of(setup, 2, first=7), batches_of(setup, 2, first=7), strict=True):
        assert one.labelled.keys == other.labelled.keys


@pytest.mark.parametrize("form", ["stored", "derived", "slow", "flow", "video", "rgb"])
def test_buffered_bytes_suffice_in_every_form(videos: Path, tmp_path: Path, form: str) -> None:
    options = {"derived": {"gradient": "derived"}, "flow": {"flow": "dis"}, "video": {"store": "video"}}.get(form, {})
    manifest = extract_all(videos, tmp_path / "set", **options)
    keys = manifest.videos.column("key")
    indexed = open_reader(manifest, keys)
    reader = open_reader(manifest, keys, source=ShardSource(manifest.root))
    gradient = {"slow": "slow", "flow": "flow", "rgb": "none"}.get(form, "fast")
    clip = ClipSettings(clip_frames=4, interval=3, size=32, num_clips=2, gradient=gradient)  # type: ignore[arg-type]
    tg = form != "rgb"

    def plan(facts: object, pass_index: int) -> object:
        rng = sample_seed(0, 0, pass_index, facts.key, Choice.CLIP)  # type: ignore[attr-defined]
        return plan_train(facts.num_frames, facts.height, facts.width, clip, rng)  # type: ignore[attr-defined]

    buffer = ClipBuffer(
        reader, np.arange(len(keys)), plan, seed=0, stream_id=0, slot=Slot(0, 1), num_before=0,  # type: ignore[arg-type]
        buffer_clips=3, tg=tg,
    )  # fmt: skip
    _, sizes = reader.index.extents()
    for met in islice(buffer.draws(), 2 * len(keys)):
        assert isinstance(met, WaitingClips), met
        assert met.sample.num_bytes < int(sizes[met.row])
        clips = buffer.read(met)
        expected = indexed.read_views(met.row, met.plans, tg=tg)
        for one, other in zip(clips, expected, strict=True):
            assert np.array_equal(one.rgb, other.rgb)
            assert (one.tg is None and other.tg is None) or np.array_equal(one.tg, other.tg)  # type: ignore[arg-type]


def test_two_ranks_read_disjoint_videos(root: Path) -> None:
    setup = sequential(root)
    keys: list[set[str]] = []
    for rank in range(2):
        batches = batches_of(setup, 9, workers=1, rank=rank, world_size=2)
        assert [batch.step for batch in batches] == list(range(9))
        assert all(len(batch.labelled.keys) == len(batch.unlabelled.keys) == 2 for batch in batches)  # type: ignore[union-attr]
        keys.append({key for batch in batches for key in batch.unlabelled.keys})  # type: ignore[union-attr]
    assert not keys[0] & keys[1]
    split = read_split(root)
    assert keys[0] | keys[1] == {key for key, flag in zip(split.key, split.unlabelled, strict=True) if flag}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("data.reader=stream", "data.shards=/elsewhere"), r"expected \{shard\} in it"),
        (("data.shards=/elsewhere/{shard}",), "data.shards is set, which only data.reader=stream uses"),
        (("data.reader=stream", "data.block_shards=2"), "set data.shuffle_clips instead"),
        (("data.reader=streams",), "data.reader"),
    ],
)
def test_conflicting_settings_are_rejected(root: Path, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        setup_of(root, *overrides)


def test_fewer_shards_than_workers_are_noted(root: Path) -> None:
    assert not any("fewer than" in note for note in notes(sequential(root, "", "runtime.workers=6")))
    assert "6 shards are fewer than 7 loader processes: some read the same shard, each a part of it" in notes(
        sequential(root, "", "runtime.workers=7")
    )


def test_quirks_of_order_are_rejected(root: Path) -> None:
    setup = sequential(root, "", 'compat.quirks=["fixed_labelled_order"]')
    with pytest.raises(InputError, match=r"data.reader=stream cannot have compat.quirks fixed_labelled_order"):
        step_dataset(setup, Ranks(0, 1, torch.device("cpu")))
