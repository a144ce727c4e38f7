"""Inputs as users have them, through the whole command: damaged, cut, oddly named, looping, unreadable, and the real clips."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from manifests.manifest_io import read_manifest
from manifests.records import VideoRow
from tests.conftest import Reliability
from tests.extraction import call, tree
from tests.prep.support import ffmpeg_frames, moving_square, write_video

NAMES = [
    "plain",
    "with space",
    "[brackets] (and) & more",
    "semi;colon'quote!",
    'double"quote#hash%20',
    "tab\there",
    "back\\slash $HOME `date`",
    "-dash-first",
    "naïve_видео_動画_🎬",
    "e\u0301 combining",
    "x" * 120,
    "two.dots.in.name",
]


def rows_of(videos: Path, out: Path, *options: str, prefix: Sequence[str] = ()) -> dict[str, VideoRow]:
    arguments = (
        "extract",
        videos,
        out,
        "--dataset",
        "folder",
        "--threads",
        "2",
        "--json",
        *options,
    )  # the last one counts
    done = call(*arguments, timeout=300, prefix=prefix)
    assert "Traceback" not in done.stderr
    account = json.loads(done.stdout)
    rows = read_manifest(out).videos
    assert account["num_inputs"] == len(rows)
    assert done.returncode == (1 if account["num_failed"] else 0)
    return {row.path: row for row in rows}


def check_sample(out: Path, row: VideoRow) -> None:
    """The members lie where the row says, under names that any tar reader takes, with as many JPEG files as frames."""
    with tarfile.open(out / row.shard) as tar:
        members = {m.name: m for m in tar if m.name.startswith(f"{row.key}.")}
        assert list(members) == [
            f"{row.key}.{end}" for end in ("json", "rgb.offsets.npy", "rgb.mjpeg", "tg.offsets.npy", "tg.mjpeg")
        ]
        for end, count in (("rgb", row.num_frames), ("tg", row.num_frames - 1)):
            index = tar.extractfile(members[f"{row.key}.{end}.offsets.npy"])
            assert index is not None
            offsets = np.load(io.BytesIO(index.read()))
            assert len(offsets) == count + 1
            assert offsets[-1] == members[f"{row.key}.{end}.mjpeg"].size


def test_names_of_all_kinds(tmp_path: Path) -> None:
    videos, out = tmp_path / "my videos", tmp_path / "my [data] set"
    classes = ["riding a bike", "[weird] & Co", "日本"]
    for number, name in enumerate(NAMES):
        write_video(
            videos / classes[number % 3] / f"{name}.avi", moving_square(4 + number % 3, start=number), **{"q:v": "3"}
        )
    rows = rows_of(videos, out)
    assert {row.status for row in rows.values()} == {"written"}
    assert sorted(path.split("/", 1)[1] for path in rows) == sorted(f"{name}.avi" for name in NAMES)
    assert {row.class_name for row in rows.values()} == set(classes)
    for row in rows.values():
        assert all(character.isascii() and (character.isalnum() or character in "-_/") for character in row.key)
        assert len(row.key.split("/")[1]) <= 80
        check_sample(out, row)


KINETICS = ["massaging person's head", "tying knot (not on a tie)", "rock scissors paper", "shooting goal (soccer)"]


def test_names_of_all_kinds_in_a_kinetics_tree(tmp_path: Path) -> None:
    """train/ and val/, class folders with spaces as people have them, ids with and without times, and names of no form."""
    videos, out = tmp_path / "k400", tmp_path / "out"
    stems = ["-7tDxxH2g6I_000001_000011", "__NrybzYzUg", *NAMES]
    for number, stem in enumerate(stems):
        folder = videos / ("train", "val")[number % 2] / KINETICS[number // 2 % 4]
        suffix = ("mp4", "mkv", "webm.avi")[number % 3]
        write_video(folder / f"{stem}.{suffix}", moving_square(4, start=number), codec="mpeg4")
    rows = rows_of(videos, out, "--dataset", "kinetics400")
    assert {row.status for row in rows.values()} == {"written"}
    assert len(rows) == len(stems) == len({row.key for row in rows.values()})
    classes = read_manifest(out).header.classes
    assert len(classes) == 400
    for path, row in rows.items():
        subset, folder, _ = path.split("/", 2)
        assert (row.class_name, row.subsets) == (folder.replace(" ", "_"), (subset,))
        assert classes[row.label] == row.class_name
        check_sample(out, row)


def test_names_of_all_kinds_in_hmdb51_and_file_urls(tmp_path: Path) -> None:
    """HMDB51's own names are full of brackets, exclamation marks and the like; its lists have them as they are."""
    videos, lists, out = tmp_path / "hmdb 51", tmp_path / "lists", tmp_path / "out"
    stems = [f"{name}_wave_f_nm_np1_fr_med_{number}" for number, name in enumerate(NAMES)]
    stems += ["#122_(Rad)Schlag_die_Bank![x]&;'_wave_u_cm_np1_ri_bad_0"]
    for number, stem in enumerate(stems):
        write_video(videos / "wave" / f"{stem}.avi", moving_square(4, start=number), **{"q:v": "3"})
    lists.mkdir()
    flags = ("0", "1", "2")
    lines = [f"{stem}.avi {flags[number % 3]} " for number, stem in enumerate(stems)]
    (lists / "wave_test_split1.txt").write_text("\r\n".join([*lines, "", ""]), "utf-8", newline="")
    rows = rows_of(videos, out, "--dataset", "hmdb51", "--annotations", str(lists))
    assert {row.status for row in rows.values()} == {"written"}
    names = {"0": "unused", "1": "train", "2": "test"}
    for number, stem in enumerate(stems):
        row = rows[f"wave/{stem}.avi"]
        assert (row.class_name, row.label, row.subsets) == ("wave", 50, (names[flags[number % 3]],))
        assert row.group == stem[: stem.rindex("_wave_")]
        check_sample(out, row)
    urls = (f"file://{videos}", f"file://{tmp_path}/by url")
    done = call("extract", *urls, "--dataset", "hmdb51", "--annotations", f"file://{lists}")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "by url") == tree(out)


def damaged_folder(videos: Path) -> dict[str, str]:
    """Videos with every kind of damage; gives the reason that each failed one must have ("" where frames may decode)."""
    folder = videos / "class"
    whole = write_video(
        folder / "whole.mp4", moving_square(40), codec="libx264", g="10", preset="ultrafast"
    ).read_bytes()
    avi = write_video(folder / "whole.avi", moving_square(40, 256, 192), **{"q:v": "1"}).read_bytes()
    expected = {"whole.mp4": "", "whole.avi": ""}
    for tenth in range(1, 11):
        for suffix, content in (("mp4", whole), ("avi", avi)):
            (folder / f"cut{tenth}.{suffix}").write_bytes(content[: len(content) * tenth // 11])
            expected[f"cut{tenth}.{suffix}"] = "?"
    (folder / "no_index.avi").write_bytes(avi.replace(b"idx1", b"JUNK"))
    expected["no_index.avi"] = ""
    (folder / "zeros.avi").write_bytes(bytes(10_000))
    (folder / "noise.mkv").write_bytes(np.random.default_rng(1).bytes(20_000))
    (folder / "empty.webm").write_bytes(b"")
    (folder / "text.mp4").write_text("This is a text file.\n" * 200)
    (folder / "page.mp4").write_text("<html><body>404 Not Found</body></html>")
    write_video(folder / "one.avi", moving_square(1))
    write_video(
        folder / "thin.mkv",
        [np.full((9, 3, 3), 40 * k, np.uint8) for k in range(3)],
        codec="ffv1",
        pixel_format="yuv444p",
    )
    expected["thin.mkv"] = ""
    write_video(
        folder / "pixel.mkv",
        [np.full((1, 1, 3), 40 * k, np.uint8) for k in range(3)],
        codec="ffv1",
        pixel_format="yuv444p",
    )
    expected["pixel.mkv"] = ""
    for name in ("zeros.avi", "noise.mkv", "text.mp4", "page.mp4"):
        expected[name] = "cannot be opened as a video: "
    expected |= {"empty.webm": "the file is empty (0 bytes)", "one.avi": "only 1 frame: a temporal gradient needs two"}
    return expected


def test_damage_of_all_kinds(tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    expected = damaged_folder(videos)
    (videos / "class" / "x.avi").mkdir()
    (videos / "class" / "loop").symlink_to(videos, target_is_directory=True)
    (videos / "class" / "self.avi").symlink_to("self.avi")
    (videos / "class" / "gone.avi").symlink_to("nowhere.avi")
    os.mkfifo(videos / "class" / "pipe.avi")
    rows = rows_of(videos, out)
    skipped = {path: row.error for path, row in rows.items() if row.status == "skipped"}
    assert skipped == {
        "class/gone.avi": "symbolic link to nothing",
        "class/loop": "symbolic link to a folder above itself",
        "class/pipe.avi": "not a regular file",
        "class/self.avi": "symbolic link to nothing",
    }
    others = {path.removeprefix("class/"): row for path, row in rows.items() if row.status != "skipped"}
    assert others.keys() == expected.keys()
    for name, reason in expected.items():
        row = others[name]
        if reason == "?":
            assert bool(row.error) == (row.status == "failed")
            assert "\n" not in row.error
        else:
            assert (row.status, row.error[: len(reason)]) == ("failed" if reason else "written", reason), name
        if row.status == "written":
            check_sample(out, row)
    for name in ("whole.mp4", "whole.avi", "no_index.avi"):
        assert others[name].num_frames == 40
    assert [(others[n].width, others[n].height) for n in ("thin.mkv", "pixel.mkv")] == [(3, 9), (1, 1)]
    # What is left of a cut file is its beginning, and the row says that more was promised.
    cut = [others[f"cut{tenth}.avi"] for tenth in range(1, 11)]
    counts = [row.num_frames for row in cut]
    assert counts == sorted(counts)
    assert len(set(counts)) >= 4
    assert all("the header says 40 frames" in row.note for row in cut if row.status == "written")


@pytest.mark.parametrize("count", [12, pytest.param(400, marks=pytest.mark.long)])
def test_random_bytes_flipped(tmp_path: Path, count: int, reliability: Reliability) -> None:
    """Each ends as a whole sample or with one reason, the same ones each time."""
    videos, draw = tmp_path / "videos", np.random.default_rng(count)
    sources = {
        "avi": write_video(tmp_path / "whole.avi", moving_square(20, 128, 96), **{"q:v": "2"}).read_bytes(),
        "mp4": write_video(tmp_path / "whole.mp4", moving_square(30), codec="libx264", g="10").read_bytes(),
        "mkv": write_video(tmp_path / "whole.mkv", moving_square(30), codec="libx264", g="10").read_bytes(),
    }
    for number in range(count):
        suffix = ("avi", "mp4", "mkv")[number % 3]
        content = np.frombuffer(sources[suffix], np.uint8).copy()
        places = draw.integers(0, len(content), size=int(draw.choice([1, 5, 30, 200])))
        content[places] ^= draw.integers(1, 256, size=len(places), dtype=np.uint8)
        path = videos / "class" / f"v{number:03d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.tobytes())
    limits = ("--timeout-seconds", "20", "--videos-per-shard", "4")
    rows = rows_of(videos, tmp_path / "out", *limits)
    assert len(rows) == count
    written = [row for row in rows.values() if row.status == "written"]
    assert len(written) > 0
    for row in written:
        check_sample(tmp_path / "out", row)
    for row in rows.values():
        assert bool(row.error) == (row.status == "failed")
    assert rows_of(videos, tmp_path / "again", *limits) == rows
    reliability.record(
        "Damaged videos",
        "AVI, MP4 and MKV files with 1 to 200 random bytes changed, extracted twice: whole samples or one reason, the same",
        num_videos=count,
        num_written=len(written),
        num_failed=count - len(written),
        num_crashes_of_the_decoder=sum("crashed" in row.error for row in rows.values()),
        differing_rows=0,
    )


def without_privileges(secret: Path) -> tuple[str, ...]:
    """What to put before a command so that permissions bind it: nothing, or for root a program that takes its powers."""
    if not os.access(secret, os.R_OK):
        return ()
    prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    if not shutil.which("setpriv") or subprocess.run([*prefix, "cat", secret], capture_output=True).returncode == 0:
        pytest.skip("this user may read everything (root), and setpriv cannot take that away")
    return prefix


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    write_video(videos / "a" / "ok.avi", moving_square(3))
    write_video(videos / "a" / "secret.avi", moving_square(3))
    write_video(videos / "b" / "hidden.avi", moving_square(3))
    (videos / "a" / "secret.avi").chmod(0)
    (videos / "b").chmod(0)
    prefix = without_privileges(videos / "a" / "secret.avi")
    try:
        rows = rows_of(videos, tmp_path / "out", prefix=prefix)
    finally:
        (videos / "b").chmod(0o755)
    assert rows["a/ok.avi"].status == "written"
    assert rows["a/secret.avi"].error == "cannot be read: Permission denied"
    assert (rows["b"].status, rows["b"].error) == ("skipped", "folder cannot be read: Permission denied")


def test_some_real_clips(shared: Path, tmp_path: Path) -> None:
    for path, row in rows_of(shared / "videos" / "hmdb51", tmp_path / "out").items():
        assert row.num_frames == ffmpeg_frames(shared / "videos" / "hmdb51" / path, rgb=False)[0]
        check_sample(tmp_path / "out", row)


@pytest.mark.parametrize(
    ("folders", "num_clips"),
    [(["odd"], 31), pytest.param(["hmdb51", "kinetics400", "odd", "ucf101"], 63, marks=pytest.mark.long)],
    ids=["odd", "all"],
)
def test_real_clips_of_all_kinds(shared: Path, tmp_path: Path, folders: list[str], num_clips: int) -> None:
    """Every clip of these folders has as many frames as the ffmpeg program finds, or its reason; in the gate those of `odd/`."""
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    for folder in folders:
        (videos / folder).symlink_to(shared / "videos" / folder)
    rows = rows_of(videos, out, "--short-side", "48")
    failed = {path: row.error for path, row in rows.items() if row.status != "written"}
    names = ("frame_exceeds_screen.gif", "testsrc2_mpeg4.mp4", "transparent.gif")
    assert failed == {f"odd/{name}": "only 1 frame: a temporal gradient needs two" for name in names}
    assert len(rows) == num_clips
    for path, row in rows.items():
        if row.status == "written":
            count, width, height, _ = ffmpeg_frames(videos / path, rgb=False, limit=10_000)
            assert row.num_frames == count, path
            assert (row.width > row.height) == (width > height), path
