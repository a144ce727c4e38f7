"""Segments of real clips from csv to data set: frames, TG, groups, resume, tasks, updates, check, and what the tables say."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from click.testing import CliRunner

from cli.prep import main
from manifests.manifest_io import read_manifest
from manifests.records import FAILED, InputError, VideoRow
from manifests.splits.check import check_split
from manifests.splits.label_split import make_split
from manifests.splits.settings import SplitSettings
from manifests.table import Manifest
from tests.extraction import call, kill_group, start, tree, wait_until
from tests.prep.support import extract_videos, moving_square, write_video
from tests.reliability import Reliability
from tgprep.check.check import check
from tgprep.check.repair import repair
from tgprep.config import ExtractSettings, WorkerSettings
from tgprep.convert.export_rawframes import export_rawframes
from tgprep.decode.stored import jpeg_reader, stored_frames
from tgprep.extract.array_jobs import Task, extract_task
from tgprep.extract.pipeline import Outcome
from tgprep.extract.plan import Update
from tgprep.extract.workers.shards import Request
from tgprep.scan.scan import Scan, scan
from tgprep.view.contents import describe
from tgprep.view.copies import find_copies
from tgprep.view.preview import write_preview

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
    outcome = extract_videos(videos, tmp_path / "cut", scanned(videos, HEAD + ROWS), flow="farneback", short_side=64)
    found = scanned(videos, "path,label\nclip.avi,eye\nother.avi,eye\n")
    whole = extract_videos(videos, tmp_path / "whole", found, flow="farneback", short_side=64)
    manifest = outcome.manifest
    clip = row_of(whole.manifest, "/clip")
    rgb, tg, flow = (jpegs(whole.manifest, clip, kind) for kind in ("rgb", "tg", "flow"))
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
        assert jpegs(manifest, row, "flow") == flow[first : last - 1]
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


def test_tasks_give_the_same_bytes(tmp_path: Path) -> None:
    videos = small(tmp_path)
    found = scanned(videos, small_rows())
    extract_videos(videos, tmp_path / "one", found, videos_per_shard=4)
    expected = tree(tmp_path / "one")
    for number in range(2):
        settings = ExtractSettings(videos_per_shard=4)
        request = Request(videos, tmp_path / "tasks", settings, workers=WorkerSettings(threads=1))
        outcome = extract_task(request, found, Task(number, 2))
    assert isinstance(outcome, Outcome)
    assert tree(tmp_path / "tasks") == expected


def _writes_a_shard(out: Path, old: set[Path]) -> bool:
    """Whether a new shard has begun that is not complete."""
    with contextlib.suppress(FileNotFoundError):
        return any(path.stat().st_size for path in set(out.glob(".tmp-*.tar")) - old)
    return False


@pytest.mark.parametrize("num_runs", [1, pytest.param(10, marks=pytest.mark.long)])
def test_kills_in_the_middle_of_a_file_change_no_byte(
    videos: Path, tmp_path: Path, num_runs: int, reliability: Reliability
) -> None:
    rows = HEAD + "".join(f"clip.avi,{'eye' * (n % 2)},{n / 5},{n / 5 + 1}\n" for n in range(24))
    extract_videos(videos, tmp_path / "whole", scanned(videos, rows), videos_per_shard=12)
    expected, generator, num_kills = tree(tmp_path / "whole"), random.Random(num_runs), 0
    how = ("--annotations", tmp_path / "list.csv", "--threads", "1", "--videos-per-shard", "12")
    for number in range(num_runs):
        out = tmp_path / f"killed{number}"
        for _ in range(2):
            old = set(out.glob(".tmp-*.tar"))
            process = start("extract", videos, out, *how)
            begun = partial(_writes_a_shard, out, old)
            wait_until(lambda: process.poll() is not None or begun())  # noqa: B023
            time.sleep(generator.uniform(0, 0.1))
            num_kills += process.poll() is None
            kill_group(process)
        done = call("extract", videos, out, *how)
        assert done.returncode == 0, done.stderr
        assert tree(out) == expected
    assert num_kills >= num_runs
    reliability.record("Extraction", "kill -9 in the middle of a file that is cut", num_kills=num_kills)


@pytest.fixture
def cut(videos: Path, tmp_path: Path) -> Manifest:
    """Real clips in segments with a label and without, in two shards."""
    rows = "clip.avi,eye,1,3\nclip.avi,,2,4\nother.avi,make up,0,1\nother.avi,,0.5,1.5\nother.avi,,50,60\n"
    found = scanned(videos, HEAD + rows)
    return extract_videos(videos, tmp_path / "cut", found, videos_per_shard=3, short_side=64).manifest


def test_segments_without_a_label(cut: Manifest) -> None:
    rows = {row.key: (row.label, row.class_name, row.group, row.status) for row in cut.videos}
    assert rows == {
        "eye/clip_000001_000003": (0, "eye", "clip.avi", "written"),
        "make_up/other_000000_000001": (1, "make up", "other.avi", "written"),
        "unlabelled/clip_000002_000004": (-1, "", "clip.avi", "written"),
        "unlabelled/other_000000-5_000001-5": (-1, "", "other.avi", "written"),
        "unlabelled/other_000050_000060": (-1, "", "other.avi", "failed"),
    }
    assert check(cut.root, deep=True).sound


def test_preview_export_and_repair(cut: Manifest, videos: Path, tmp_path: Path) -> None:
    write_preview(cut.root, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert '"times":[1.0,3.0]' in page
    assert '"times":[0.5,1.5]' in page
    export_rawframes(cut.root, tmp_path / "frames")
    row = row_of(cut, "clip_000002_000004")
    folder = tmp_path / "frames" / row.key
    assert [path.read_bytes() for path in sorted(folder.glob("img_*"))] == jpegs(cut, row, "rgb")
    assert [path.read_bytes() for path in sorted(folder.glob("tempgrad_*"))] == jpegs(cut, row, "tg")
    before = tree(Path(cut.root))
    damaged = tuple(shard.name for shard in cut.shards)
    assert len(damaged) == 2
    for name in damaged:
        (Path(cut.root) / name).write_bytes(b"gone")
    assert repair(Path(cut.root), videos, damaged).repaired == damaged
    assert tree(Path(cut.root)) == before


def test_a_dry_run_counts_segments(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(HEAD + ROWS)
    arguments = ("extract", videos, tmp_path / "out", "--annotations", tmp_path / "list.csv", "--dry-run", "--json")
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["num_videos"] == 7
    assert facts["num_frames"] == pytest.approx(50 + 50 + 12 + 40 + 24 + 123, rel=0.35)
    assert not (tmp_path / "out").exists()


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
    """Not even in parts without a label, which may show the frames of a test video; files without a test part keep theirs."""
    videos = small(tmp_path, 6)
    rows = small_rows(6) + "".join(f"f{number}.mp4,,0.4,1.2\n" for number in range(6))
    manifest = extract_videos(videos, tmp_path / "out", scanned(videos, rows)).manifest
    path_of = dict(zip(manifest.videos.column("key"), manifest.videos.column("path"), strict=True))
    for unlabelled in ("all", "rest"):
        split = make_split(manifest, SplitSettings(percent=50, test_percent=40, unlabelled=unlabelled))
        train, test = ({path_of[key] for key in split.keys_of(part)} for part in ("train", "test"))
        assert train | test == set(path_of.values())
        assert test
        assert not train & test
        pool = {key for key in split.keys_of("unlabelled") if key.startswith("unlabelled/")}
        assert {path_of[key] for key in pool} == train
        (note,) = [problem for problem in check_split(split, manifest) if problem.kind == "left-out"]
        assert note.count == len(test)


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
