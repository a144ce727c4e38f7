"""Frames and clips out of stored videos: the right ones, whatever is asked for, as near as promised, and damage is told."""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.records import Members, VideoRow
from manifests.splits.label_split import make_split
from manifests.splits.settings import SplitSettings
from manifests.table import Manifest
from tests.prep.support import number_of, psnr
from tests.train.data.support import extract_all
from tgprep.decode.stored import stored_frames, stored_planes
from tgprep.encode.h264 import Mp4Writer
from tgtrain.data.batch import StepDataset
from tgtrain.data.clip import ClipSettings, plan_eval, plan_train
from tgtrain.data.crop import CropBox
from tgtrain.data.loader import step_loader
from tgtrain.data.order import StreamOrder, StreamSource
from tgtrain.data.reader import BadSampleError, ClipReader, cut_video, open_reader
from tgtrain.data.video_frames import GopDecoder, PictureRun, runs_of
from tgtrain.method.augment.plan import StrongSettings
from tgtrain.randomness import Stream, sample_seed

Rgb = npt.NDArray[np.uint8]
SETTINGS = ClipSettings(clip_frames=4, interval=3, size=32)


@pytest.fixture(scope="module")
def manifest(videos: Path) -> Manifest:
    return extract_all(videos, videos.parent / "dataset", store="video", gop=8)


def all_frames(manifest: Manifest, row: VideoRow) -> list[Rgb]:
    with (Path(manifest.root) / row.shard).open("rb") as shard:
        return [frame for _, frame in stored_frames(shard, row, range(row.num_frames))]


def reader_of(manifest: Manifest) -> ClipReader:
    return open_reader(manifest, manifest.videos.column("key"))


@settings(max_examples=300, deadline=None)
@given(frames=st.sets(st.integers(0, 99), min_size=1, max_size=20), gop=st.integers(1, 20))
def test_runs_are_minimal(frames: set[int], gop: int) -> None:
    runs = runs_of(sorted(frames), gop)
    needed = {k for frame in frames for k in range(frame - frame % gop, frame + 1)}
    assert [k for run in runs for k in range(run.first, run.last + 1)] == sorted(needed)
    assert all(run.first % gop == 0 for run in runs)
    assert all(a.last + 1 < b.first for a, b in zip(runs, runs[1:], strict=False))


def test_runs_of_the_docstring() -> None:
    assert runs_of([3, 7, 8, 26], 8) == [PictureRun(0, 8), PictureRun(24, 26)]


def test_requested_frames_are_decoded(manifest: Manifest) -> None:
    """One decoder for all, from video to video of other sizes; the pixels are those of a pass over the whole video."""
    reader, generator = reader_of(manifest), random.Random(3)
    whole = [all_frames(manifest, row) for row in manifest.videos]
    for _ in range(60):
        video = generator.randrange(len(whole))
        wanted = sorted(generator.sample(range(len(whole[video])), generator.randint(1, 9)))
        pictures = reader._pictures(reader.index[video], "rgb", wanted)
        got = [(picture.frame, np.array(picture.pixels)) for picture in pictures]
        assert [k for k, _ in got] == wanted
        assert [number_of(frame) for _, frame in got] == wanted
        for k, frame in got:
            np.testing.assert_array_equal(frame, whole[video][k])


def test_part_equals_the_full_frame(manifest: Manifest) -> None:
    reader, generator = reader_of(manifest), random.Random(5)
    whole = [all_frames(manifest, row) for row in manifest.videos]
    for _ in range(80):
        video = generator.randrange(len(whole))
        row = manifest.videos[video]
        top, left = generator.randrange(row.height), generator.randrange(row.width)
        box = CropBox(top, left, generator.randint(1, row.height - top), generator.randint(1, row.width - left))
        wanted = sorted(generator.sample(range(row.num_frames), 3))
        for picture in reader._pictures(reader.index[video], "rgb", wanted, box):
            part = np.s_[top : top + box.height, left : left + box.width]
            np.testing.assert_array_equal(picture.part(box), whole[video][picture.frame][part], err_msg=str(box))


def test_training_clips_equal_a_full_decode(manifest: Manifest) -> None:
    reader = reader_of(manifest)
    for number in range(24):
        video = number % len(manifest.videos)
        row = manifest.videos[video]
        clip = replace(SETTINGS, gradient=("fast", "slow")[number // 4 % 2], shared_crop=number % 3 > 0)
        (plan,) = plan_train(row.num_frames, row.height, row.width, clip, sample_seed(0, 0, number, "k", 0))
        (expected,), _ = cut_video(iter(all_frames(manifest, row)), [plan])
        got = reader.read(video, plan)
        np.testing.assert_array_equal(got.rgb, expected.rgb)
        np.testing.assert_array_equal(got.tg, expected.tg)  # type: ignore[arg-type]


def test_frame_is_valid_until_the_next_but_one(manifest: Manifest) -> None:
    reader = reader_of(manifest)
    before = None
    for picture in reader._pictures(reader.index[0], "rgb", range(20)):
        if before is not None:
            np.testing.assert_array_equal(*before)
        before = picture.pixels, np.array(picture.pixels)


def test_clips_hold_the_planned_frames_and_their_gradients(manifest: Manifest) -> None:
    reader = reader_of(manifest)
    for video, row in enumerate(manifest.videos):
        frames = all_frames(manifest, row)
        (plan,) = plan_eval(row.num_frames, row.height, row.width, ClipSettings(clip_frames=4, interval=5, size=35))
        (expected,), count = cut_video(iter(frames), [plan])
        assert count == row.num_frames
        clip = reader.read(video, plan)
        np.testing.assert_array_equal(clip.rgb, expected.rgb)
        assert clip.tg is not None
        assert expected.tg is not None
        np.testing.assert_array_equal(clip.tg, expected.tg)
        slow = ClipSettings(clip_frames=4, interval=5, size=35, gradient="slow")
        (plan,) = plan_eval(row.num_frames, row.height, row.width, slow)
        (expected,), _ = cut_video(iter(frames), [plan])
        np.testing.assert_array_equal(reader.read(video, plan).tg, expected.tg)  # type: ignore[arg-type]


def test_eval_views_and_odd_sizes(manifest: Manifest) -> None:
    reader = reader_of(manifest)
    video = next(k for k, row in enumerate(manifest.videos) if row.width == 73)
    row = manifest.videos[video]
    plans = plan_eval(row.num_frames, row.height, row.width, ClipSettings(clip_frames=4, interval=3, size=35), 3, 3)
    expected, _ = cut_video(iter(all_frames(manifest, row)), plans)
    got = reader.read_views(video, plans)
    assert len(got) == len(expected) == 9
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a.rgb, b.rgb)
        np.testing.assert_array_equal(a.tg, b.tg)  # type: ignore[arg-type]


def test_clips_are_close_to_the_jpeg_store(shared: Path, tmp_path: Path) -> None:
    """The same plans on both stores of real clips: the same crops of the same frames."""
    (tmp_path / "videos" / "c").mkdir(parents=True)
    for name in ("Punch/v_Punch_g01_c03.avi", "BabyCrawling/v_BabyCrawling_g04_c01.avi"):
        (tmp_path / "videos" / "c" / Path(name).name).symlink_to(shared / "videos" / "ucf101" / name)
    stores = [
        extract_all(tmp_path / "videos", tmp_path / "jpeg"),
        extract_all(tmp_path / "videos", tmp_path / "mp4", store="video"),
    ]
    assert stores[0].videos.column("num_frames") == stores[1].videos.column("num_frames")
    readers = [reader_of(store) for store in stores]
    clip = ClipSettings(clip_frames=8, interval=4, size=112)
    near, near_tg, off = [], [], []
    for number in range(12):
        video = number % 2
        row = stores[0].videos[video]
        (plan,) = plan_train(row.num_frames, row.height, row.width, clip, sample_seed(0, 0, number, "k", 0))
        jpeg, mp4 = (reader.read(video, plan) for reader in readers)
        assert jpeg.tg is not None
        assert mp4.tg is not None
        near.append(psnr(jpeg.rgb, mp4.rgb))
        near_tg.append(psnr(jpeg.tg, mp4.tg))
        assert abs(np.mean(jpeg.rgb, dtype=float) - np.mean(mp4.rgb, dtype=float)) < 1
        assert abs(np.mean(jpeg.tg, dtype=float) - np.mean(mp4.tg, dtype=float)) < 1
        off.append(psnr(jpeg.tg[:-1], mp4.tg[1:]))
    assert np.mean(near) > 36
    assert np.mean(near_tg) > 36
    assert np.mean(near_tg) > np.mean(off) + 6


class Counting:
    """Shards that note what is read of them."""

    def __init__(self, shards: object) -> None:
        self.shards, self.ranges = shards, []  # type: ignore[var-annotated]

    def read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self.ranges += ranges
        content: list[bytes] = self.shards.read(name, ranges)  # type: ignore[attr-defined]
        return content

    def close(self) -> None:
        self.shards.close()  # type: ignore[attr-defined]


def test_only_needed_pictures_are_read(manifest: Manifest) -> None:
    plain = reader_of(manifest)
    counting = Counting(plain.shards)
    reader = ClipReader(plain.index, counting, plain.gop)
    video = reader.index[0]
    list(reader._pictures(video, "rgb", [9, 25]))
    with (Path(manifest.root) / video.shard).open("rb") as shard:
        shard.seek(video.members.rgb_index_offset)
        offsets = np.frombuffer(shard.read(video.members.rgb_index_bytes)[128:], "<u8").tolist()
    index, *pictures = counting.ranges
    assert index == (video.members.rgb_index_offset, video.members.rgb_index_bytes)
    start = video.members.rgb_offset
    assert pictures == [
        (start + offsets[8], offsets[10] - offsets[8]),
        (start + offsets[24], offsets[26] - offsets[24]),
    ]


def test_loader_processes_give_the_same_batches(manifest: Manifest) -> None:
    split = make_split(manifest, SplitSettings(percent=50))
    source = StreamSource(np.arange(4), np.zeros(4, np.int64), StreamOrder(4, 2, 0, Stream.LABELLED))
    reader = open_reader(manifest, split.key)
    assert pickle.loads(pickle.dumps(reader)).gop == reader.gop == 8
    data = StepDataset(reader, source, None, SETTINGS, StrongSettings(), seed=5)
    here, there = (list(step_loader(data, [0, 1, 2], workers, pin=False)) for workers in (0, 1))
    for a, b in zip(here, there, strict=True):
        assert a.labelled.keys == b.labelled.keys
        for x, y in ((a.labelled.rgb, b.labelled.rgb), (a.labelled.tg, b.labelled.tg)):
            assert x is not None
            assert y is not None
            np.testing.assert_array_equal(x.numpy(), y.numpy())


def test_damage_is_reported_and_affects_no_other_video(videos: Path, tmp_path: Path) -> None:
    manifest = extract_all(videos, tmp_path / "dataset", store="video")
    row, other = manifest.videos[0], manifest.videos[1]
    path = Path(manifest.root) / row.shard
    good, generator = path.read_bytes(), np.random.default_rng(2)
    (plan,) = plan_eval(row.num_frames, row.height, row.width, SETTINGS)
    (other_plan,) = plan_eval(other.num_frames, other.height, other.width, SETTINGS)
    reader = reader_of(manifest)
    first, second = reader.read(0, plan), reader.read(1, other_plan)
    told = 0
    for _ in range(40):
        content = bytearray(good)
        positions = row.members.rgb_offset + generator.integers(0, row.members.rgb_bytes, 40)
        for position in positions.tolist():
            content[position] ^= int(generator.integers(1, 256))
        path.write_bytes(content)
        try:
            reader.read(0, plan)
        except BadSampleError as error:
            told += 1
            assert row.key in str(error)
        np.testing.assert_array_equal(reader.read(1, other_plan).rgb, second.rgb)
    assert told > 30
    for damage in (bytes(row.members.rgb_index_bytes), good[row.members.rgb_offset :][: row.members.rgb_index_bytes]):
        at = row.members.rgb_index_offset
        path.write_bytes(good[:at] + damage + good[at + len(damage) :])
        with pytest.raises(BadSampleError, match=row.key):
            reader.read(0, plan)
    path.write_bytes(good[: row.members.rgb_offset + 2000])
    with pytest.raises(BadSampleError, match=row.key):
        reader.read(0, plan)
    path.write_bytes(good)
    np.testing.assert_array_equal(reader.read(0, plan).rgb, first.rgb)


def test_video_of_wrong_size_is_rejected(manifest: Manifest) -> None:
    reader = reader_of(manifest)
    video = reader.index[0]
    decoder = GopDecoder()
    offsets_of = reader.shards.read(video.shard, [(video.members.rgb_index_offset, video.members.rgb_index_bytes)])[0]
    offsets = np.frombuffer(offsets_of[128:], "<u8").tolist()
    (content,) = reader.shards.read(video.shard, [(video.members.rgb_offset + offsets[0], offsets[1] - offsets[0])])
    assert len(list(decoder.decode([(0, content)], [0], video.height, video.width))) == 1
    with pytest.raises(ValueError, match="expected"):
        list(decoder.decode([(0, content)], [0], video.height + 2, video.width))
    with pytest.raises(ValueError, match="does not decode"):
        list(decoder.decode([(0, content)], [0, 1], video.height, video.width))
    assert len(list(decoder.decode([(0, content)], [0], video.height, video.width))) == 1


def test_a_picture_that_is_larger_than_its_video_takes_no_memory() -> None:
    """2,000 x 2,000 pixels of one colour are a few kB of H.264; the decoder refuses them by their header."""
    file = io.BytesIO()
    writer = Mp4Writer(file, crf=40, gop=1, fps=25.0)
    for _ in range(2):
        writer.add(np.zeros((2000, 2000, 3), np.uint8))
    spool, _ = writer.finish()
    pictures = [file.getvalue()[a:b] for a, b in zip(spool.offsets, spool.offsets[1:], strict=False)]
    with pytest.raises(ValueError, match="does not decode"):
        list(GopDecoder().decode(list(enumerate(pictures)), [0, 1], 48, 64))
    members = Members(rgb_offset=0, rgb_bytes=spool.num_bytes)
    row = VideoRow("a", "a.avi", "A", 0, "", (), "written", members=members, num_frames=2, height=48, width=64)
    with pytest.raises(ValueError, match="does not decode"):
        list(stored_planes(file, row))
