"""Clips from shards against plain decoding, cutting and resizing of the same frames."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg

from manifests.manifest_io import read_manifest
from manifests.records import InputError
from tests.train.support import frame
from tgtrain.data.clip import ClipSettings, plan_eval, plan_train
from tgtrain.data.reader import BadSampleError, Clip, ClipReader, open_reader
from tgtrain.randomness import sample_seed

SETTINGS = ClipSettings(clip_frames=4, interval=3, size=32)


def reader_of(root: Path, keys: list[str] | None = None) -> ClipReader:
    manifest = read_manifest(root)
    return open_reader(manifest, keys or manifest.videos.column("key"))


def stored(label: int, number: int, index: int) -> npt.NDArray[np.uint8]:
    """The frame as the shard holds it."""
    decoded: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
        simplejpeg.encode_jpeg(frame(label, number, index), 95, "RGB", "444")
    )
    return decoded


def test_training_clip_follows_its_plan(data_set: Path) -> None:
    reader = reader_of(data_set)
    video = [stored.key for stored in reader.index].index("class1/v_03")
    for number in range(20):
        (plan,) = plan_train(20, 48, 64, SETTINGS, sample_seed(0, 0, number, "k", 0))
        clip = reader.read(video, plan)
        assert clip.rgb.shape == (4, 32, 32, 3)
        assert clip.rgb.dtype == np.uint8
        for index, got in zip(plan.frames, clip.rgb, strict=True):
            (box,) = plan.boxes
            part = stored(1, 3, index)[box.top : box.top + box.height, box.left : box.left + box.width]
            expected = cv2.resize(part, (32, 32), interpolation=cv2.INTER_LINEAR)
            np.testing.assert_array_equal(got, expected[:, ::-1] if plan.flip else expected)


def test_gradient_frames_belong_to_the_frames_of_the_clip(data_set: Path) -> None:
    reader = reader_of(data_set)
    video = [stored.key for stored in reader.index].index("class0/v_02")
    (plan,) = plan_eval(20, 48, 64, ClipSettings(clip_frames=4, interval=3, size=42))
    clip = reader.read(video, plan)
    assert clip.tg is not None
    for index, got in zip(plan.tg_frames, clip.tg, strict=True):
        previous, following = (frame(0, 2, k).astype(np.float32) for k in (index, index + 1))
        expected = ((previous - following + 255) / 2).astype(np.uint8)
        top, left = plan.boxes[0].top, plan.boxes[0].left
        assert np.abs(got.astype(int) - expected[top : top + 42, left : left + 42]).mean() < 3


def test_derived_gradients_equal_those_of_stored_frames(make_data_set: Callable[..., Path]) -> None:
    reader = reader_of(make_data_set(stored_tg=False))
    (plan,) = plan_eval(20, 48, 64, ClipSettings(clip_frames=4, interval=3, size=42))
    clip = reader.read(0, plan)
    assert clip.tg is not None
    box = plan.boxes[0]
    for index, got in zip(plan.tg_frames, clip.tg, strict=True):
        previous, following = (stored(0, 0, k).astype(np.float32) for k in (index, index + 1))
        expected = ((previous - following + 255) / 2).astype(np.uint8)
        expected = expected[box.top : box.top + box.height, box.left : box.left + box.width]
        np.testing.assert_array_equal(got, expected)


def test_eval_views_are_plan_major(data_set: Path) -> None:
    reader = reader_of(data_set)
    plans = plan_eval(20, 48, 64, SETTINGS, num_clips=3, num_crops=3)
    together = reader.read_views(0, plans)
    assert len(together) == 9
    apart = [clip for plan in plans for clip in reader.read_views(0, [plan])]
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(one.rgb, other.rgb)


def test_only_requested_views_are_read(data_set: Path) -> None:
    reader = reader_of(data_set)
    (plan,) = plan_eval(20, 48, 64, SETTINGS)
    assert reader.read(0, plan, tg=False).tg is None
    only_tg = reader.read(0, plan, rgb=False)
    assert only_tg.rgb.size == 0
    assert only_tg.tg is not None


def test_reader_can_be_pickled(data_set: Path) -> None:
    reader = reader_of(data_set)
    (plan,) = plan_eval(20, 48, 64, SETTINGS)
    before = reader.read(0, plan).rgb
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again.read(0, plan).rgb, before)


def test_damage_is_named(make_data_set: Callable[..., Path]) -> None:
    root = make_data_set()
    row = read_manifest(root).videos[0]
    shard = bytearray((root / row.shard).read_bytes())
    shard[row.members.rgb_offset : row.members.rgb_offset + 400] = b"\0" * 400
    (root / row.shard).write_bytes(shard)
    (plan,) = plan_eval(20, 48, 64, SETTINGS)
    with pytest.raises(BadSampleError, match=rf"{row.key} in {row.shard}: RGB frame \d+ is damaged"):
        for start in range(9):
            reader_of(root).read(
                0, plan if start else plan_eval(20, 48, 64, ClipSettings(clip_frames=20, interval=1))[0]
            )
    (root / row.shard).unlink()
    with pytest.raises(BadSampleError, match="No such file"):
        reader_of(root).read(0, plan)


def test_damaged_index_is_named(make_data_set: Callable[..., Path]) -> None:
    root = make_data_set()
    row = read_manifest(root).videos[0]
    shard = bytearray((root / row.shard).read_bytes())
    shard[row.members.tg_index_offset + 130] ^= 0xFF
    (root / row.shard).write_bytes(shard)
    (plan,) = plan_eval(20, 48, 64, SETTINGS)
    with pytest.raises(BadSampleError, match=row.key):
        reader_of(root).read(0, plan)


def test_missing_videos_are_rejected(data_set: Path) -> None:
    with pytest.raises(InputError, match="1 video of the split is not in the data set"):
        reader_of(data_set, ["class0/v_00", "class9/none"])


def test_truncated_shard_is_a_bad_sample(make_data_set: Callable[..., Path]) -> None:
    root = make_data_set()
    row = read_manifest(root).videos[0]
    reader = reader_of(root)
    (plan,) = plan_eval(20, 48, 64, SETTINGS)
    reader.read(0, plan)
    with (root / row.shard).open("r+b") as file:  # while it is open
        file.truncate(row.members.rgb_offset + 100)
    with pytest.raises(BadSampleError, match="the shard ends at byte"):
        reader.read(0, plan)


def test_clips_are_read_into_given_memory(data_set: Path) -> None:
    reader = reader_of(data_set)
    (plan,) = plan_train(20, 48, 64, SETTINGS, sample_seed(0, 0, 1, "k", 0))
    expected = reader.read(3, plan)
    into = Clip(np.zeros((4, 32, 32, 3), np.uint8), np.zeros((4, 32, 32, 3), np.uint8))
    assert reader.read_views(3, [plan], into=[into]) == [into]
    np.testing.assert_array_equal(into.rgb, expected.rgb)
    assert into.tg is not None
    assert expected.tg is not None
    np.testing.assert_array_equal(into.tg, expected.tg)


def test_frame_of_several_views_is_decoded_once(data_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **kw: decoded.append(1) or decode(*args, **kw))
    reader = reader_of(data_set)
    plans = plan_eval(20, 48, 64, SETTINGS, num_clips=10, num_crops=3)
    reader.read_views(0, plans, tg=False)
    assert len(decoded) == len({frame for plan in plans for frame in plan.frames}) < 4 * 10
