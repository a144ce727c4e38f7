"""Segments of real clips from csv to data set: frames, TG, groups, resume, tasks, updates, check, and what the tables say."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from manifests.manifest_io import read_manifest
from manifests.records import FAILED, InputError, VideoRow
from manifests.splits.label_split import make_split
from manifests.splits.settings import SplitSettings
from manifests.table import Manifest
from tests.extraction import call, tree
from tests.prep.support import extract_videos, moving_square, write_video
from tgprep.check.check import check
from tgprep.config import ExtractSettings
from tgprep.decode.stored import jpeg_reader, stored_frames
from tgprep.extract.array_jobs import Task, extract_task
from tgprep.extract.pipeline import Outcome
from tgprep.extract.plan import Update
from tgprep.extract.workers.shards import Request
from tgprep.scan.scan import Scan, scan
from tgprep.view.contents import describe
from tgprep.view.copies import find_copies

HEAD = "path,label,start_seconds,end_seconds\n"
ROWS = (
    "clip.avi,eye,1,3\nclip.avi,eye,2,4\nclip.avi,make up,2.5,3\nclip.avi,eye,100,110\nclip.avi,eye,5,9\n"
    "other.avi,make up,0,1\nother.avi,eye,,\n"
)


@pytest.fixture
def videos(shared: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    clips = shared / "videos" / "ucf101" / "ApplyEyeMakeup"
    shutil.copy(clips / "v_ApplyEyeMakeup_g01_c01.avi", folder / "clip.avi")
    shutil.copy(clips / "v_ApplyEyeMakeup_g01_c02.avi", folder / "other.avi")
    return folder


def scanned(videos: Path, text: str) -> Scan:
    (videos.parent / "list.csv").write_text(text)
    return scan(videos, annotations=videos.parent / "list.csv")


def row_of(manifest: Manifest, name: str) -> VideoRow:
    return next(row for row in manifest.videos if row.key.endswith(name))


def jpegs(manifest: Manifest, row: VideoRow, kind: str) -> list[bytes]:
    with (Path(manifest.root) / row.shard).open("rb") as shard:
        read = jpeg_reader(shard, row, kind)
        return [read(number) for number in range(row.num_frames - (kind != "rgb"))]


def test_frames_and_gradients_are_those_of_the_whole_file(videos: Path, tmp_path: Path) -> None:
    """UCF101: 25 frames a second, the first one at 0.04 s. Segments that overlap have equal frames, and TG ends with each."""
    outcome = extract_videos(videos, tmp_path / "cut", scanned(videos, HEAD + ROWS), flow="farneback")
    whole = extract_videos(videos, tmp_path / "whole", scanned(videos, "path,label\nclip.avi,eye\nother.avi,eye\n"))
    manifest = outcome.manifest
    clip = row_of(whole.manifest, "/clip")
    rgb, tg = (jpegs(whole.manifest, clip, kind) for kind in ("rgb", "tg"))
    assert clip.num_frames == 164
    for name, first, last in (
        ("clip_000001_000003", 24, 74),
        ("clip_000002_000004", 49, 99),
        ("clip_000002-5_000003", 62, 74),
        ("clip_000005_000009", 124, 164),
    ):
        row = row_of(manifest, name)
        assert jpegs(manifest, row, "rgb") == rgb[first:last]
        assert jpegs(manifest, row, "tg") == tg[first : last - 1]
        assert len(jpegs(manifest, row, "flow")) == last - first - 1
        assert row.group == "clip.avi"
    assert row_of(manifest, "clip_000005_000009").note == "the file ends at 6.6 s, the segment at 9 s"
    failed = row_of(manifest, "clip_000100_000110")
    assert failed.status == FAILED
    assert failed.error == "the segment from 100 to 110 s lies outside of the file, which ends at 6.6 s"
    assert row_of(manifest, "/other").num_frames == 123
    assert (manifest.header.num_written, manifest.header.num_failed) == (6, 1)
    report = check(manifest.root, deep=True, against=videos)
    assert report.sound
    assert report.num_sources == 2
    contents = describe(manifest.root)
    assert (contents.num_segments, contents.num_cut_files) == (5, 2)
    assert not find_copies(manifest.videos).num_copies


def test_stored_videos_are_cut(videos: Path, tmp_path: Path) -> None:
    rows = HEAD + "clip.avi,eye,1,2\nclip.avi,eye,1.4,2\n"
    manifest = extract_videos(videos, tmp_path / "cut", scanned(videos, rows), store="video", crf=1).manifest
    whole = extract_videos(
        videos, tmp_path / "whole", scanned(videos, "path,label\nclip.avi,eye\n"), store="video", crf=1
    ).manifest
    with (tmp_path / "whole" / whole.shards[0].name).open("rb") as shard:
        expected = dict(stored_frames(shard, row_of(whole, "/clip"), range(24, 49)))
    for name, first in (("clip_000001_000002", 24), ("clip_000001-4_000002", 34)):
        row = row_of(manifest, name)
        assert row.num_frames == 49 - first
        with (tmp_path / "cut" / row.shard).open("rb") as shard:
            for number, frame in stored_frames(shard, row, range(row.num_frames)):
                assert np.abs(frame.astype(int) - expected[first + number]).mean() < 2
    assert check(manifest.root, deep=True).sound


@pytest.mark.parametrize("decoder", ["opencv", "decord"])
def test_other_decoders_cut_the_same_frames(videos: Path, tmp_path: Path, decoder: str) -> None:
    rows = scanned(videos, HEAD + "clip.avi,eye,1,1.4\nclip.avi,eye,1.2,1.6\n")
    ours = extract_videos(videos, tmp_path / "pyav", rows, space="rgb").manifest
    theirs = extract_videos(videos, tmp_path / decoder, rows, decoder=decoder).manifest
    for mine, other in zip(ours.videos, theirs.videos, strict=True):
        assert (mine.key, mine.num_frames) == (other.key, other.num_frames) == (mine.key, 10)
        for left, right in zip(jpegs(ours, mine, "rgb"), jpegs(theirs, other, "rgb"), strict=True):
            pictures = [simplejpeg.decode_jpeg(jpeg).astype(int) for jpeg in (left, right)]
            assert np.abs(pictures[0] - pictures[1]).mean() < 2


def small(tmp_path: Path, num_files: int = 3) -> Path:
    for number in range(num_files):
        write_video(tmp_path / "videos" / f"f{number}.mp4", moving_square(60, start=number))
    return tmp_path / "videos"


def small_rows(num_files: int = 3) -> str:
    times = ((0, 1), (0.5, 1.5), (1, 2), (0.2, 2.2), (5, 6), (1.52, 1.56))
    return HEAD + "".join(f"f{n}.mp4,{'ab'[n % 2]},{a},{b}\n" for n in range(num_files) for a, b in times)


def test_tasks_workers_and_a_kill_give_the_same_bytes(tmp_path: Path) -> None:
    videos = small(tmp_path)
    found = scanned(videos, small_rows())
    extract_videos(videos, tmp_path / "one", found, videos_per_shard=4)
    expected = tree(tmp_path / "one")
    for number in range(2):
        settings = ExtractSettings(videos_per_shard=4)
        request = Request(videos, tmp_path / "tasks", settings, workers=_one_worker())
        outcome = extract_task(request, found, Task(number, 2))
    assert isinstance(outcome, Outcome)
    assert tree(tmp_path / "tasks") == expected


def _one_worker():  # type: ignore[no-untyped-def]
    from tgprep.config import WorkerSettings

    return WorkerSettings(threads=1)


def test_add_and_retry_keep_segments_apart(tmp_path: Path) -> None:
    videos = small(tmp_path, 1)
    first = HEAD + "f0.mp4,a,0,1\nf0.mp4,a,5,6\n"
    extract_videos(videos, tmp_path / "out", scanned(videos, first))
    more = scanned(videos, first + "f0.mp4,a,1,2\nf0.mp4,b,,\n")
    grown = extract_videos(videos, tmp_path / "out", more, update=Update(add=True)).manifest
    assert sorted(row.key for row in grown.videos) == [
        "a/f0_000000_000001", "a/f0_000001_000002", "a/f0_000005_000006", "b/f0",
    ]  # fmt: skip
    write_video(videos / "f0.mp4", moving_square(160))  # longer now
    again = extract_videos(videos, tmp_path / "out", scanned(videos, first), update=Update(retry_failed=True)).manifest
    assert row_of(again, "f0_000005_000006").num_frames == 25
    assert len(again.videos) == 4
    assert check(again.root, deep=True).sound


def test_segments_are_not_added_to_a_data_set_without(tmp_path: Path) -> None:
    videos = small(tmp_path, 1)
    extract_videos(videos, tmp_path / "out", scanned(videos, "path,label\nf0.mp4,a\n"))
    before = tree(tmp_path / "out")
    with pytest.raises(InputError, match="was made without segments"):
        extract_videos(videos, tmp_path / "out", scanned(videos, HEAD + "f0.mp4,a,0,1\n"), update=Update(add=True))
    assert tree(tmp_path / "out") == before


def test_a_split_never_has_one_file_in_train_and_test(tmp_path: Path) -> None:
    videos = small(tmp_path, 6)
    manifest = extract_videos(videos, tmp_path / "out", scanned(videos, small_rows(6))).manifest
    split = make_split(manifest, SplitSettings(percent=50, test_percent=40))
    path_of = dict(zip(manifest.videos.column("key"), manifest.videos.column("path"), strict=True))
    train, test = ({path_of[key] for key in split.keys_of(part)} for part in ("unlabelled", "test"))
    assert train
    assert test
    assert not train & test


def test_a_decoder_that_dies_costs_the_segments_that_hold_the_frame(tmp_path: Path) -> None:
    """The worker is lost in the middle of a pass: what is before and behind it is written, with the bytes of a calm run."""
    (tmp_path / "mod").mkdir()
    (tmp_path / "mod" / "shaky.py").write_text(
        "import os, signal\nimport numpy as np\nfrom tgprep.decode import DecodedVideo\n"
        "def open_video(path):\n    return DecodedVideo(frames=frames(path), fps=10.0, codec='fake')\n"
        "def frames(path):\n    for number in range(60):\n"
        "        if number == 25 and 'bad' in path.name: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "        yield np.full((32, 48, 3), 4 * number, np.uint8)\n"
    )
    names = ("bad.mp4", "good.mp4")
    for name in names:
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / name).write_bytes(name.encode())
    times = ((0, 1), (0.5, 2), (2, 3), (4, 5))
    text = HEAD + "".join(f"{name},a,{a},{b}\n" for name in names for a, b in times)
    (tmp_path / "list.csv").write_text(text)
    done = call(
        "extract", tmp_path / "videos", tmp_path / "out", "--annotations", tmp_path / "list.csv", "--threads", "1",
        "--decoder", "shaky:open_video", path=tmp_path / "mod",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    manifest = read_manifest(tmp_path / "out")
    lost = {row.key for row in manifest.videos if row.status == FAILED}
    # This decoder reads from the first frame: what lies behind the frame cannot be reached.
    assert lost == {"a/bad_000002_000003", "a/bad_000004_000005"}
    for a, b in (("000000_000001", 10), ("000000-5_000002", 15)):
        bad, good = row_of(manifest, f"bad_{a}"), row_of(manifest, f"good_{a}")
        assert bad.num_frames == b
        assert jpegs(manifest, bad, "rgb") == jpegs(manifest, good, "rgb")
