"""`--store video`: which frame is which, against the source and the ffmpeg program; sizes, refusals, damage, kills, conversions."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import random
import subprocess
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import av
import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import simplejpeg
from click.testing import CliRunner

from cli.prep import main
from manifests.gradient import temporal_gradient
from manifests.manifest_io import read_manifest, write_manifest
from manifests.records import InputError, VideoRow
from manifests.sample import decode_offsets, encode_offsets
from manifests.splits.label_split import make_split, write_split
from manifests.splits.settings import SplitSettings
from manifests.table import Manifest
from tests.extraction import BACKENDS, call, kill_group, start, tree
from tests.prep.support import (
    Rgb,
    check_after,
    decoded,
    extract_videos,
    moving_square,
    number_of,
    numbered,
    psnr,
    to_rgb,
    write_video,
)
from tgprep.check.check import check
from tgprep.check.repair import repair
from tgprep.config import VIDEO_CRF, VIDEO_GOP
from tgprep.convert.export_rawframes import export_rawframes
from tgprep.convert.materialise import materialise
from tgprep.decode.stored import stored_frames
from tgprep.encode.h264 import Mp4Writer, picture_offsets
from tgprep.view.preview import write_preview


def make(videos: Path, out: Path, **settings: object) -> Manifest:
    return extract_videos(videos, out, **{"store": "video", "videos_per_shard": 2, **settings}).manifest


def read(manifest: Manifest, row: VideoRow) -> list[Rgb]:
    with (Path(manifest.root) / row.shard).open("rb") as shard:
        return [frame for _, frame in stored_frames(shard, row, range(row.num_frames))]


def member(manifest: Manifest, row: VideoRow) -> bytes:
    with (Path(manifest.root) / row.shard).open("rb") as shard:
        shard.seek(row.members.rgb_offset)
        return shard.read(row.members.rgb_bytes)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "videos"
    for number in range(4):
        write_video(root / f"class{number % 2}" / f"v{number}.avi", [numbered(k) for k in range(19 + number)], "ffv1")
    return root


@pytest.fixture(scope="module")
def sound(videos: Path) -> Manifest:
    return make(videos, videos.parent / "dataset")


@pytest.fixture
def copy(sound: Manifest, videos: Path, tmp_path: Path) -> Path:
    """A data set of its own, with a split."""
    manifest = make(videos, tmp_path / "dataset")
    write_split(tmp_path / "dataset", make_split(manifest, SplitSettings(percent=50)))
    return tmp_path / "dataset"


def test_frame_k_is_frame_k(sound: Manifest) -> None:
    for row in sound.videos:
        assert [number_of(frame) for frame in read(sound, row)] == list(range(row.num_frames)), row.key


def test_the_member_is_a_video_of_its_own(sound: Manifest, tmp_path: Path) -> None:
    """The ffmpeg program, another build of FFmpeg, sees T frames in order, and a self-contained one where we promise it."""
    row = max(sound.videos, key=lambda row: row.num_frames)
    path = tmp_path / "member.mp4"
    path.write_bytes(member(sound, row))
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path)]
    raw = subprocess.run([*program, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    frames = np.frombuffer(raw.stdout, np.uint8).reshape(-1, row.height, row.width, 3)
    assert raw.stderr == b""
    assert [number_of(frame) for frame in frames] == list(range(row.num_frames))
    with av.open(str(path)) as container:
        keys = [bool(packet.is_keyframe) for packet in container.demux(video=0) if packet.size]
        assert float(container.streams.video[0].average_rate or 0) == 25.0
    assert keys == [k % VIDEO_GOP == 0 for k in range(row.num_frames)]
    # Any stretch from one of those is a stream of its own: as bytes of the index, without the container.
    with (Path(sound.root) / row.shard).open("rb") as shard:
        shard.seek(row.members.rgb_index_offset)
        offsets = decode_offsets(shard.read(row.members.rgb_index_bytes), mp4=True).tolist()
    piece = path.read_bytes()[offsets[VIDEO_GOP] : offsets[2 * VIDEO_GOP]]
    place, stream = 0, b""
    while place < len(piece):  # ISO/IEC 14496-15: four bytes of length, then the unit
        size = int.from_bytes(piece[place : place + 4], "big")
        stream += b"\0\0\0\1" + piece[place + 4 : place + 4 + size]
        place += 4 + size
    (tmp_path / "piece.h264").write_bytes(stream)
    program[-1] = str(tmp_path / "piece.h264")
    raw = subprocess.run([*program, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    frames = np.frombuffer(raw.stdout, np.uint8).reshape(-1, row.height, row.width, 3)
    assert [number_of(frame) for frame in frames] == list(range(VIDEO_GOP, 2 * VIDEO_GOP))


def test_the_sample_says_what_it_is(sound: Manifest) -> None:
    row = sound.videos[0]
    with tarfile.open(Path(sound.root) / row.shard) as tar:
        names = [name for name in tar.getnames() if name.startswith(row.key)]
        assert names == [f"{row.key}.json", f"{row.key}.mp4.offsets.npy", f"{row.key}.mp4"]
        content = tar.extractfile(f"{row.key}.json")
        assert content is not None
        facts = json.load(content)
    assert (facts["video_crf"], facts["video_gop"], facts["gradient_source"]) == (VIDEO_CRF, VIDEO_GOP, "video")
    assert "jpeg_quality" not in facts
    assert (sound.header.gradient.stored, sound.header.gradient.source) == (False, "video")
    assert sound.header.versions["x264"].isdigit()
    assert b"x264" not in member(sound, row)


def test_real_clips_stay_close_to_their_source(shared: Path, tmp_path: Path) -> None:
    for name in ("Punch/v_Punch_g01_c03.avi", "BabyCrawling/v_BabyCrawling_g04_c01.avi"):
        (tmp_path / "videos" / "c").mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / "c" / Path(name).name).symlink_to(shared / "videos" / "ucf101" / name)
    manifest = make(tmp_path / "videos", tmp_path / "out")
    for row in manifest.videos:
        exact = [to_rgb(picture) for picture in decoded(tmp_path / "videos" / row.path, "rgb")]
        stored = read(manifest, row)
        assert len(stored) == len(exact) == row.num_frames
        near = [psnr(a, b) for a, b in zip(stored[::9], exact[::9], strict=True)]
        assert np.mean(near) > 36
        assert min(near) > 33
        assert abs(np.mean(stored, dtype=np.float64) - np.mean(exact, dtype=np.float64)) < 0.5
        # The neighbour of a frame in motion is farther from it than its own copy.
        off = [psnr(a, b) for a, b in zip(stored[::9], exact[1::9], strict=False)]
        assert np.mean(near) > np.mean(off) + 3
    assert sum(row.members.rgb_bytes for row in manifest.videos) < 5000 * sum(manifest.videos.column("num_frames"))


@pytest.mark.parametrize(("width", "height"), [(3, 24), (2, 2), (33, 21), (1, 9), (64, 47), (500, 300)])
def test_any_size_keeps_its_pixels(width: int, height: int, tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:height, 0:width]
    frames = [
        np.stack([rows * 4 % 200, columns * 3 % 200, rows * 0 + 40 + 20 * k], 2).astype(np.uint8) for k in range(9)
    ]
    videos = tmp_path / "videos"
    write_video(videos / "c" / "v.avi", frames, "png", "rgb24")
    manifest = make(videos, tmp_path / "out", crf=4)
    (row,) = manifest.videos
    assert (row.status, row.error) == ("written", "")
    small = (426, 256) if (width, height) == (500, 300) else (width, height)
    assert (row.width, row.height, row.num_frames) == (*small, 9)
    stored = read(manifest, row)
    assert {frame.shape for frame in stored} == {(row.height, row.width, 3)}
    if small == (width, height):
        levels = [
            frame.astype(int).mean(axis=(0, 1)) - np.mean(exact, axis=(0, 1))
            for frame, exact in zip(stored, frames, strict=True)
        ]
        assert np.abs(levels).max() < 3
    assert check(str(tmp_path / "out"), deep=True, against=videos).findings == ()


def test_one_frame_is_a_reason_and_other_rates_are_kept(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "c" / "one.avi", moving_square(1))
    write_video(tmp_path / "videos" / "c" / "two.avi", moving_square(2))
    one, two = make(tmp_path / "videos", tmp_path / "out").videos
    assert (one.status, one.error) == ("failed", "only 1 frame: a temporal gradient needs two")
    assert (two.status, two.num_frames, two.fps) == ("written", 2, 25.0)


@pytest.mark.parametrize(
    ("fps", "kept"),
    [(0.0, 25), (29.97002997, 29.97002997), (0.2, 0.2), (1 / 3600, 1 / 3600), (1e-9, 25), (90000.0, 25), (240.0, 240),
     (float("inf"), 25), (float("nan"), 25)],
)  # fmt: skip
def test_frame_rates(fps: float, kept: float) -> None:
    file = io.BytesIO()
    writer = Mp4Writer(file, VIDEO_CRF, 4, fps)
    for k in range(6):
        writer.add(numbered(k))
    spool, _ = writer.finish()
    assert picture_offsets(file, 6, 4) == spool.offsets
    assert spool.num_bytes == len(file.getvalue())
    with av.open(io.BytesIO(file.getvalue())) as container:
        assert float(container.streams.video[0].average_rate or 0) == pytest.approx(kept, rel=1e-6)
    for frames, gop in ((5, 4), (6, 3)):
        with pytest.raises(ValueError):
            picture_offsets(file, frames, gop)


class FullDisk(io.BytesIO):
    """A file on a disk with room for so many bytes."""

    room = 0

    def write(self, data: object) -> int:
        self.room -= len(data)  # type: ignore[arg-type]
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("room", [0, 3000, 20000])
def test_a_full_disk_is_called_that(room: int) -> None:
    file = FullDisk()
    file.room = room
    noise = np.random.default_rng(0)
    with (
        pytest.raises(OSError, match="No space left") as raised,
        contextlib.closing(Mp4Writer(file, 10, 8, 25.0)) as writer,
    ):
        for _ in range(40):
            writer.add(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        writer.finish()
    assert raised.value.errno == errno.ENOSPC


def test_an_encoder_that_is_not_there_is_told_before_any_work(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    with pytest.raises(InputError, match="libx264"):
        make(videos, tmp_path / "out")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").glob("shard-*"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gradient", "stored"], "leave --gradient stored out"),
        (["--gradient-source", "jpeg"], "leave --gradient-source out"),
        (["--quality", "90"], "--crf"),
        (["--subsampling", "444"], "4:2:0"),
        (["--crf", "60"], "--crf"),
        (["--store", "frames", "--crf", "20"], "add --store video"),
        (["--store", "frames", "--gop", "20"], "add --store video"),
        (["--store", "frames", "--tune", "reading"], "add --store video"),
    ],
)
def test_options_that_mean_nothing_are_refused(videos: Path, tmp_path: Path, options: list[str], told: str) -> None:
    done = CliRunner().invoke(main, ["extract", str(videos), str(tmp_path / "out"), "--store", "video", *options])
    assert done.exit_code == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_other_settings_on_a_finished_folder_are_refused(videos: Path, copy: Path) -> None:
    with pytest.raises(InputError, match="--crf is"):
        make(videos, copy, crf=30)


def test_a_data_set_of_before_keeps_its_coding(videos: Path, tmp_path: Path) -> None:
    """Made when there was no --tune: it is continued and repaired with its own settings, and other ones are refused."""
    out = tmp_path / "out"
    before = {"crf": 19, "gop": 8, "tune": "none"}
    made = make(videos, out, **before)
    shard, settings = made.shards[0], dict(made.header.settings)
    assert settings.pop("tune") == "none"
    write_manifest(out, replace(made.header, settings=settings), made.videos, made.shards)
    with pytest.raises(
        InputError, match=r"--crf is 19 in it, 20 .*; --gop is 8 in it, 3 .*; --tune is none in it, reading"
    ):
        make(videos, out)
    good = (out / shard.name).read_bytes()
    (out / shard.name).write_bytes(good[:-3000])
    assert repair(out, videos, check(str(out)).damaged_shards).failed == ()
    assert (out / shard.name).read_bytes() == good
    assert make(videos, out, **before).shards[0] == shard


def test_tuned_for_reading_self_contained_pictures_are_no_better_than_others() -> None:
    """x264 gives them a finer quantiser if left alone, and a clip needs many of them."""
    texture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(texture, (0, 0), 2)  # type: ignore[assignment]
    shares = {}
    for tune in ("none", "reading"):
        writer = Mp4Writer(io.BytesIO(), 20, 3, 25.0, tune)  # type: ignore[arg-type]
        for k in range(30):
            noise = np.random.default_rng(k).normal(0, 6, texture.shape)
            writer.add(np.clip(np.roll(texture, k, 1) + noise, 0, 255).astype(np.uint8))
        sizes = np.diff(writer.finish()[0].offsets)
        shares[tune] = sizes[::3].sum() / sizes.sum()
    assert shares["reading"] < 0.95 * shares["none"]


def test_the_command_and_what_it_would_take(videos: Path, sound: Manifest, tmp_path: Path) -> None:
    done = call("extract", videos, tmp_path / "out", "--store", "video", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads(done.stdout)["num_bytes"] < 200_000
    told = CliRunner().invoke(main, ["info", sound.root]).stdout
    assert f"H.264 video of CRF {VIDEO_CRF}, a self-contained picture every {VIDEO_GOP} frames" in " ".join(
        told.split()
    )


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.long)])
def test_kills_change_no_byte(tmp_path: Path, kills: int) -> None:
    videos = tmp_path / "videos"
    for number in range(4):
        write_video(videos / "c" / f"v{number}.avi", [numbered(k, 120, 160) for k in range(60)], "mpeg4")
    make(videos, tmp_path / "whole")
    generator, out = random.Random(4), tmp_path / "killed"
    options = ("--store", "video", "--videos-per-shard", "2", "--threads", "2", "--dataset", "folder")
    for _ in range(kills):
        process = start("extract", videos, out, *options)
        time.sleep(generator.uniform(0.6, 2.0))
        kill_group(process)
    assert call("extract", videos, out, *options).returncode == 0
    assert tree(out) == tree(tmp_path / "whole")


def test_decoders_that_misbehave_cost_one_video(tmp_path: Path) -> None:
    (tmp_path / "fake_backends.py").write_text(BACKENDS)
    for number, name in enumerate(("good", "hang", "eat", "z")):
        path = tmp_path / "videos" / "class" / f"{name}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number + 1]) * 10)
    limits = ("--timeout-seconds", "1", "--max-memory-mb", "512", "--threads", "1")
    words = ("--store", "video", "--decoder", "fake_backends:open_video", "--dataset", "folder", *limits)
    done = call("extract", tmp_path / "videos", tmp_path / "out", *words, path=tmp_path)
    assert done.returncode == 1, done.stderr
    status = {row.key.rsplit("/", 1)[-1]: row.status for row in read_manifest(tmp_path / "out").videos}
    assert status == {"good": "written", "z": "written", "hang": "failed", "eat": "failed"}
    assert check(str(tmp_path / "out"), deep=True).findings == ()


def test_damage_in_the_pictures_is_found_and_mended(sound: Manifest, copy: Path, videos: Path) -> None:
    assert check(str(copy), deep=True, against=videos).findings == ()
    row = read_manifest(copy).videos[1]
    shard = copy / row.shard
    good = shard.read_bytes()
    place = row.members.rgb_offset + row.members.rgb_bytes // 2
    shard.write_bytes(good[:place] + bytes(64) + good[place + 64 :])
    report = check(str(copy), deep=True)
    assert {finding.kind for finding in report.findings} == {"shard-digest", "frames"}
    assert any("frames: " in finding.message and row.key in finding.place for finding in report.findings)
    assert repair(copy, videos, report.damaged_shards).failed == ()
    assert shard.read_bytes() == good
    assert check(str(copy), deep=True, against=videos).findings == ()


@pytest.mark.parametrize("shift", [[0, 1, 0], [1, 0, 0], [0, 0, -1]])
def test_an_index_that_lies_is_found(copy: Path, shift: list[int]) -> None:
    """All digests fit: only the pictures themselves can tell."""
    row = read_manifest(copy).videos[0]
    shard = copy / row.shard
    content = bytearray(shard.read_bytes())
    first, size = row.members.rgb_index_offset, row.members.rgb_index_bytes
    offsets = decode_offsets(bytes(content[first : first + size]), mp4=True).tolist()
    for at, by in zip((0, 5, len(offsets) - 1), shift, strict=True):
        offsets[at] += by
    content[first : first + size] = encode_offsets(offsets)
    shard.write_bytes(content)
    report = check_after(copy, lambda manifest: manifest)
    assert [(finding.kind, row.key in finding.place) for finding in report.findings] == [("frames", True)]


def test_what_is_made_of_it(copy: Path, tmp_path: Path) -> None:
    manifest = read_manifest(copy)
    outcome = export_rawframes(str(copy), tmp_path / "raw", threads=1)
    assert outcome.num_files == sum(2 * row.num_frames - 1 for row in manifest.videos)
    row = manifest.videos[2]
    paths = sorted((tmp_path / "raw" / row.key).glob("img_*.jpg"))
    frames = [simplejpeg.decode_jpeg(path.read_bytes(), colorspace="RGB") for path in paths]
    assert [number_of(frame) for frame in frames] == list(range(row.num_frames))
    gradient = simplejpeg.decode_jpeg(
        (tmp_path / "raw" / row.key / "tempgrad_00004.jpg").read_bytes(), colorspace="RGB"
    )
    assert psnr(gradient, temporal_gradient(frames[3], frames[4])) > 32
    page = write_preview(str(copy), tmp_path / "page.html", threads=1)
    assert (page.num_shown, page.damaged) == (4, ())
    split = make_split(manifest, SplitSettings(percent=50))
    done = materialise(manifest, split, tmp_path / "parts")
    with tarfile.open(tmp_path / "parts" / done.parts[0].shards[0]) as tar:
        names = tar.getnames()
    assert names[1:3] == [names[0].replace(".json", ".mp4.offsets.npy"), names[0].replace(".json", ".mp4")]
