"""Batches: the same clips whoever loads them, exact shares, damage replaced by name."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from manifests.manifest_io import read_manifest
from manifests.object_store import UnreachableError
from manifests.records import InputError
from tests.train.support import assert_same_batch, dataset_of, replace_rank
from tgtrain.data.clip import plan_train
from tgtrain.data.loader import item_loader, step_loader
from tgtrain.data.memory import PixelMemory
from tgtrain.data.reader import ClipReader
from tgtrain.data.stores.video_index import StoredVideo
from tgtrain.randomness import Choice, Stream, sample_seed


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_equal_for_any_workers_and_first_step(data_set: Path, workers: int) -> None:
    dataset = dataset_of(data_set)
    expected = {step: dataset[step] for step in range(6)}
    for start in (0, 4):
        batches = list(step_loader(dataset, range(start, 6), workers, pin=False))
        assert [batch.step for batch in batches] == list(range(start, 6))
        for batch in batches:
            assert_same_batch(batch, expected[batch.step])
            assert (20 < batch.loader_mb < 100_000) if workers else batch.loader_mb == 0


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_that_share_memory_keep_their_pixels_until_the_next_is_requested(data_set: Path, workers: int) -> None:
    dataset = dataset_of(data_set)
    loader = step_loader(dataset, range(2, 14), workers, pin=False, num_in_use=1)
    for batch in loader:
        time.sleep(0.1)  # by then every process has read as far ahead as it may
        assert_same_batch(batch, dataset[batch.step])
    assert batch.step == 13


def test_memory_is_taken_in_turns_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgtrain.data.memory.get_worker_info", lambda: object())
    memory, places = PixelMemory(num_items=3), []
    for _ in range(7):
        memory.next_item()
        places.append([memory.new(name, (2, 4, 3)).data_ptr() for name in ("rgb", "tg")])
    assert places[:3] * 2 == places[:6]
    assert places[6] == places[0]
    assert len({place for pair in places for place in pair}) == 6
    assert memory.new("rgb", (2, 4, 3)).is_shared()
    assert memory.new("rgb", (2, 5, 3)).shape == (2, 5, 3)


def test_memory_is_not_kept_where_there_is_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **settings: object) -> None:
        raise RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")

    monkeypatch.setattr("tgtrain.data.memory.get_worker_info", lambda: object())
    memory = PixelMemory(num_items=2)
    memory.next_item()
    before = memory.new("rgb", (2, 4))
    before.fill_(7)
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    assert not memory.new("tg", (2, 4)).is_shared()
    for _ in range(3):
        memory.next_item()
        memory.new("rgb", (2, 4)).fill_(1)
    assert before.eq(7).all()


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_global_batch(data_set: Path, world_size: int) -> None:
    whole = dataset_of(data_set)
    for step in (0, 5):
        joined = whole[step]
        parts = [replace_rank(whole, rank, world_size)[step] for rank in range(world_size)]
        for name in ("labelled", "unlabelled"):
            batch = getattr(joined, name)
            for rank, part in enumerate(parts):
                mine = getattr(part, name)
                assert mine.keys == batch.keys[rank::world_size]
                assert torch.equal(mine.rgb, batch.rgb[rank::world_size])
                assert torch.equal(mine.tg, batch.tg[rank::world_size])
        assert [part.strong_rgb for part in parts] == [joined.strong_rgb[r::world_size] for r in range(world_size)]


def test_each_video_once_a_pass(data_set: Path) -> None:
    dataset = dataset_of(data_set, unlabelled=6)
    videos = len(dataset.unlabelled.videos) if dataset.unlabelled else 0
    assert videos == 12
    for start in (0, 2, 4):
        keys = [key for step in (start, start + 1) for key in dataset[step].unlabelled.keys]  # type: ignore[union-attr]
        assert len(set(keys)) == 12


def test_labels_match_the_videos(data_set: Path) -> None:
    batch = dataset_of(data_set)[1]
    for part in (batch.labelled, batch.unlabelled):
        assert part is not None
        assert part.labels.tolist() == [int(key[5]) for key in part.keys]


def test_passes_draw_different_clips(data_set: Path) -> None:
    dataset = dataset_of(data_set, labelled=6)
    (first, second) = (dataset[step].labelled for step in (0, 1))
    assert sorted(first.keys) == sorted(second.keys)
    assert first.rgb is not None
    assert second.rgb is not None
    row = second.keys.index(first.keys[0])
    assert not torch.equal(first.rgb[0], second.rgb[row])


def test_rows_are_clip_major_with_own_crops_and_plans(data_set: Path) -> None:
    """Against every plan read alone; the step runs on into the next pass."""
    one, many = dataset_of(data_set), dataset_of(data_set)
    many.clip = replace(many.clip, num_clips=3)
    batch, single = many[2], one[2]
    for stream, clips, alone in (
        (Stream.LABELLED, batch.labelled, single.labelled),
        (Stream.UNLABELLED, batch.unlabelled, single.unlabelled),
    ):
        assert clips is not None
        assert alone is not None
        source = many.labelled if stream is Stream.LABELLED else many.unlabelled
        assert source is not None
        assert clips.keys == alone.keys
        assert clips.labels.tolist() == alone.labels.tolist() * 3
        for number, draw in enumerate(source.order.draws(2)):
            video = int(source.videos[draw.video])
            facts = many.reader.index[video]
            rng = sample_seed(3, stream, draw.pass_index, facts.key, Choice.CLIP)
            plans = plan_train(facts.num_frames, facts.height, facts.width, many.clip, rng)
            assert len({plan.boxes for plan in plans}) == 3
            for clip, plan in enumerate(plans):
                expected = many.reader.read(video, plan)
                row = clip * len(clips.keys) + number
                assert clips.rgb is not None
                assert clips.tg is not None
                assert np.array_equal(clips.rgb[row].numpy(), expected.rgb)
                assert np.array_equal(clips.tg[row].numpy(), expected.tg)
    assert len(batch.strong_rgb) == len(batch.strong_tg) == 24
    # The first clips get what they get alone, and no clip the plan of another one of its video.
    assert (batch.strong_rgb[:8], batch.strong_tg[:8]) == (single.strong_rgb, single.strong_tg)
    assert all(len({str(batch.strong_rgb[row + 8 * clip]) for clip in range(3)}) == 3 for row in range(8))


def test_shared_frames_are_decoded_once(data_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dataset_of(data_set, labelled=1)
    dataset.unlabelled = None
    dataset.clip = replace(dataset.clip, num_clips=8, clip_spread="uniform")
    decoded: list[str] = []
    real = ClipReader._decode_jpeg

    def counted(reader: ClipReader, jpeg: bytes, video: StoredVideo, what: str, slot: int) -> object:
        decoded.append(what)
        return real(reader, jpeg, video, what, slot)

    monkeypatch.setattr(ClipReader, "_decode_jpeg", counted)
    batch = dataset[0]
    assert batch.labelled.rgb is not None
    assert len(batch.labelled.rgb) == 8
    assert 8 < len(decoded) == len(set(decoded)) < 2 * 8 * 4  # two views, eight clips of four frames


def test_damaged_video_is_replaced_with_all_its_clips(make_data_set: Callable[..., Path]) -> None:
    root = make_data_set()
    dataset = dataset_of(root)
    dataset.clip = replace(dataset.clip, num_clips=2)
    good = dataset[0]
    victim = next(row for row in read_manifest(root).videos if row.key == good.labelled.keys[1])
    with (root / victim.shard).open("r+b") as shard:
        shard.seek(victim.members.rgb_offset)
        shard.write(b"\0" * victim.members.rgb_bytes)
    other = dataset_of(root)
    other.clip = dataset.clip
    batch = other[0]
    assert len(batch.labelled.bad) == 1
    assert batch.labelled.keys[1] != victim.key
    label = int(batch.labelled.keys[1][5])
    assert (batch.labelled.labels[1], batch.labelled.labels[5]) == (label, label)
    assert batch.labelled.rgb is not None
    assert good.labelled.rgb is not None
    same_rows = [bool(torch.equal(a, b)) for a, b in zip(batch.labelled.rgb, good.labelled.rgb, strict=True)]
    assert same_rows == [True, False, True, True, True, False, True, True]


def test_damaged_video_is_replaced_and_named(make_data_set: Callable[..., Path]) -> None:
    root = make_data_set()
    good = dataset_of(root)[0]
    victim = next(row for row in read_manifest(root).videos if row.key == good.labelled.keys[1])
    shard = bytearray((root / victim.shard).read_bytes())
    shard[victim.members.rgb_offset : victim.members.rgb_offset + victim.members.rgb_bytes] = (
        b"\0" * victim.members.rgb_bytes
    )
    (root / victim.shard).write_bytes(shard)
    first, second = dataset_of(root)[0], dataset_of(root)[0]
    assert_same_batch(first, second)
    assert len(first.labelled.bad) == 1
    assert victim.key in first.labelled.bad[0]
    assert first.labelled.keys[1] != victim.key
    assert first.labelled.labels[1] == int(first.labelled.keys[1][5])
    assert first.labelled.keys[0] == good.labelled.keys[0]
    assert first.labelled.rgb is not None
    assert good.labelled.rgb is not None
    assert torch.equal(first.labelled.rgb[2:], good.labelled.rgb[2:])


def test_zeroed_shard_affects_only_its_samples(make_data_set: Callable[..., Path]) -> None:
    """20 damaged neighbours: each is replaced by a video of another shard, the same whoever reads, and counts once."""
    root = make_data_set(groups=20, num_shards=3)
    manifest = read_manifest(root)
    name = manifest.shards[0].name
    zeroed = {row.key for row in manifest.videos if row.shard == name}
    assert len(zeroed) == 20
    (root / name).write_bytes(bytes(manifest.shards[0].num_bytes))
    dataset = dataset_of(root, unlabelled=6)
    assert dataset.unlabelled is not None
    in_stream = {dataset.reader.index.key(video) for video in dataset.unlabelled.videos} & zeroed
    bad: list[str] = []
    num_steps = len(dataset.unlabelled.videos) // 6
    assert num_steps * 6 == len(dataset.unlabelled.videos)
    for step in range(num_steps):
        batch = dataset[step].unlabelled
        assert batch is not None
        assert not set(batch.keys) & zeroed
        assert batch.keys == dataset_of(root, unlabelled=6)[step].unlabelled.keys  # type: ignore[union-attr]
        assert batch.labels.tolist() == [int(key[5]) for key in batch.keys]
        bad += batch.bad
    assert sorted(reason.partition(" in ")[0] for reason in bad) == sorted(in_stream)


def test_missing_data_set_stops_the_run(make_data_set: Callable[..., Path]) -> None:
    root = make_data_set()
    dataset = dataset_of(root)
    for shard in root.glob("*.tar"):
        shard.unlink()
    with pytest.raises(InputError, match="nor any of the 5 others of its stream that were tried"):
        dataset[0]


def test_loader_pins_every_tensor(data_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.data._utils.pin_memory import pin_memory

    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *args: pinned.append(self.numel()) or self)
    batch = dataset_of(data_set)[0]
    same = pin_memory(batch)  # what a DataLoader does in its thread
    assert same.unlabelled is not None
    parts = [getattr(clips, entry.name) for clips in (same.labelled, same.unlabelled) for entry in fields(clips)]
    assert sorted(pinned) == sorted(part.numel() for part in parts if isinstance(part, torch.Tensor))
    assert (same.step, same.strong_rgb, same.unlabelled.keys) == (batch.step, batch.strong_rgb, batch.unlabelled.keys)  # type: ignore[union-attr]


@pytest.mark.gpu
def test_batches_are_pinned_for_a_gpu(data_set: Path) -> None:
    batch = next(step_loader(dataset_of(data_set), range(1), 0, pin=True))
    assert batch.labelled.rgb is not None
    assert batch.labelled.rgb.is_pinned()


class Failing(Dataset[int]):
    """Items that cannot be read; only `error` says why."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def __getitem__(self, number: int) -> int:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        PermissionError(errno.EACCES, "Permission denied", "/set/shard.tar"),
        UnreachableError(errno.EIO, "the store did not answer", "s3://bucket/shard.tar"),
    ],
)
def test_errors_keep_type_errno_and_filename(error: OSError) -> None:
    for workers in (0, 1):
        with pytest.raises(type(error)) as raised:
            next(item_loader(Failing(error), [0], workers, pin=False))
        found = raised.value
        assert type(found) is type(error)
        assert (found.errno, found.strerror, found.filename) == (error.errno, error.strerror, error.filename)


def test_pages_are_kept_without_workers(data_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[str] = []
    monkeypatch.setattr("tgtrain.data.loader.keep_pages", lambda: kept.append("pages"))
    assert len(list(item_loader(range(3), [2, 0], 0, pin=False))) == 2  # type: ignore[arg-type]
    assert kept == ["pages"]
