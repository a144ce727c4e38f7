"""The extraction as a library: the account, equal bytes, resuming, refusing."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from manifests.manifest_io import HEADER_NAME, read_manifest
from manifests.records import InputError
from tests.extraction import tree
from tests.prep.extract.support import MakeFolder, reasons, run
from tests.prep.support import moving_square, write_video
from tgprep.extract.pipeline import TooManyFailuresError
from tgprep.extract.plan import plan_shards
from tgprep.extract.workers.shards import Progress, StoppedError
from tgprep.scan.scan import scan


def test_every_input_is_accounted_for(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos = video_folder(2, 3)
    write_video(videos / "class0" / "one.avi", moving_square(1))
    (videos / "class1" / "empty.mp4").write_bytes(b"")
    (videos / "class1" / "text.mp4").write_text("not a video\n" * 100)
    (videos / "class1" / "folder.avi").mkdir()
    (videos / "class1" / "nothing.avi").symlink_to("nowhere.avi")
    (videos / "class1" / "odd.xyz").write_text("?")
    outcome = run(videos, tmp_path / "out", videos_per_shard=64)
    manifest = outcome.manifest
    assert (
        len(manifest.videos),
        manifest.header.num_written,
        manifest.header.num_failed,
        manifest.header.num_skipped,
    ) == (11, 6, 3, 2)
    assert sum(manifest.videos.column("num_frames")) == 2 * (6 + 7 + 8)
    failed = {row.path: row.error for row in outcome.manifest.videos if row.status == "failed"}
    assert failed == {
        "class0/one.avi": "only 1 frame: a temporal gradient needs two",
        "class1/empty.mp4": "the file is empty (0 bytes)",
        "class1/text.mp4": "cannot be opened as a video: Invalid data found when processing input",
    }
    skipped = {row.path: row.error for row in outcome.manifest.videos if row.status == "skipped"}
    assert set(skipped) == {"class1/nothing.avi", "class1/odd.xyz"}
    assert sorted(tree(tmp_path / "out")) == [
        "README.md",
        "dataset.json",
        "shard-000000.tar",
        "shards.parquet",
        "videos.parquet",
    ]


def test_any_number_of_processes_gives_the_same_bytes(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos = video_folder(3, 10)
    trees = []
    for threads in (1, 2, 3):
        outcome = run(videos, tmp_path / f"out{threads}", threads=threads, videos_per_shard=4)
        assert len(outcome.manifest.shards) == 8
        trees.append(tree(tmp_path / f"out{threads}"))
    assert trees[0] == trees[1] == trees[2]


def test_threads_is_the_number_of_worker_processes(video_folder: MakeFolder, tmp_path: Path) -> None:
    workers: set[int] = set()
    run(
        video_folder(2, 12),
        tmp_path / "out",
        threads=3,
        videos_per_shard=2,
        on_progress=lambda event: workers.add(event.worker),
    )
    assert workers == {0, 1, 2}


def test_a_finished_data_set_is_not_changed(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos, out = video_folder(), tmp_path / "out"
    assert not run(videos, out).already_finished
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    write_video(videos / "class0" / "new.avi", moving_square(5))
    again = run(videos, out)
    assert again.already_finished
    assert again.manifest.header.num_written == 6
    assert "1 video in VIDEOS is not in the data set (the first: class0/new.avi)" in again.notes[0]
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_stop_leaves_complete_shards_and_the_next_run_finishes(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos = video_folder(2, 8)
    run(videos, tmp_path / "undisturbed", videos_per_shard=4)
    stop, out = threading.Event(), tmp_path / "out"
    ended = 0

    def count(progress: Progress) -> None:
        nonlocal ended
        ended += progress.row is not None
        if ended == 6:
            stop.set()

    with pytest.raises(StoppedError):
        run(videos, out, videos_per_shard=4, stop=stop, on_progress=count)
    # The second shard may be complete before the stop reaches its worker.
    kept = [name for name in tree(out) if not name.startswith(".tgprep/")]
    assert kept in (["shard-000000.tar"], ["shard-000000.tar", "shard-000001.tar"])
    with pytest.raises(InputError, match="an unfinished extraction"):
        read_manifest(out)
    resumed = run(videos, out, videos_per_shard=4)
    assert (resumed.num_shards_kept, resumed.already_finished) == (len(kept), False)
    assert tree(out) == tree(tmp_path / "undisturbed")


@pytest.mark.parametrize("finished", [False, True])
def test_other_settings_are_refused_with_the_difference(
    video_folder: MakeFolder, tmp_path: Path, finished: bool
) -> None:
    videos, out = video_folder(), tmp_path / "out"
    stop = threading.Event()
    if not finished:
        stop.set()
        with pytest.raises(StoppedError):
            run(videos, out, stop=stop)
    else:
        run(videos, out)
    before = tree(out)
    with pytest.raises(InputError) as caught:
        run(videos, out, quality=80, short_side=24)
    assert "finished data set with other settings: " in str(caught.value)
    assert "--quality is 95 in it, 80 requested; --short-side is 0 in it, 24 requested" in str(caught.value)
    assert tree(out) == before


def test_videos_that_change_between_runs_do_not_change_the_plan(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos, out = video_folder(2, 4), tmp_path / "out"
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        run(videos, out, stop=stop)
    write_video(videos / "class0" / "new.avi", moving_square(5))
    (videos / "class1" / "v000.avi").unlink()
    outcome = run(videos, out)
    assert "VIDEOS has changed since this extraction began (1 new, 1 gone, 0 of another size)" in outcome.notes[0]
    assert (len(outcome.manifest.videos), outcome.manifest.header.num_written) == (8, 7)
    assert reasons(outcome) == {"v000": "cannot be read: No such file or directory"}


def test_too_many_failures_end_the_run_and_it_can_continue(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos, out = video_folder(1, 8), tmp_path / "out"
    for number in range(4):
        (videos / "class0" / f"bad{number}.avi").write_bytes(b"")
    with pytest.raises(TooManyFailuresError, match="--max-failures allows 1"):
        run(videos, out, max_failures=1, videos_per_shard=6)
    assert not (out / HEADER_NAME).exists()
    outcome = run(videos, out, videos_per_shard=6)
    assert (outcome.manifest.header.num_written, outcome.manifest.header.num_failed) == (8, 4)
    assert outcome.num_shards_kept > 0


def test_an_out_with_other_files_is_refused(video_folder: MakeFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"not empty \(thesis.tex\)"):
        run(video_folder(), out)
    with pytest.raises(InputError, match="is not a folder"):
        run(video_folder(name="other"), out / "thesis.tex")


def test_a_missing_or_cut_shard_of_a_finished_data_set_is_named(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos, out = video_folder(2, 8), tmp_path / "out"
    run(videos, out, videos_per_shard=4)
    whole = tree(out)
    (out / "shard-000001.tar").unlink()
    with (out / "shard-000002.tar").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(
        InputError, match=r"2 of its shards .*shard-000001.tar \(missing\), shard-000002.tar \(1000 bytes"
    ):
        run(videos, out, videos_per_shard=4)
    (out / HEADER_NAME).unlink()
    run(videos, out, videos_per_shard=4)
    assert tree(out) == whole


def test_shards_are_an_even_mix_that_depends_on_keys_only(video_folder: MakeFolder) -> None:
    videos = scan(video_folder(4, 16, num_frames=2), dataset="folder").videos
    shards = plan_shards(videos, 16)
    assert plan_shards(tuple(reversed(videos)), 16) == shards
    assert sorted(v.key for shard in shards for v in shard.videos) == sorted(v.key for v in videos)
    for shard in shards:
        assert len({video.class_name for video in shard.videos}) >= 3


def test_a_journal_entry_without_its_shard_is_ignored(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos, out = video_folder(2, 8), tmp_path / "out"
    run(videos, tmp_path / "whole", videos_per_shard=4)
    stop = threading.Event()
    with pytest.raises(StoppedError):
        run(
            videos,
            out,
            videos_per_shard=4,
            stop=stop,
            on_progress=lambda p: stop.set() if p.row and (out / "shard-000001.tar").exists() else None,
        )
    (out / "shard-000000.tar").unlink()
    assert len(list((out / ".tgprep" / "done").iterdir())) >= 1
    json.loads((out / ".tgprep" / "plan.json").read_bytes())
    run(videos, out, videos_per_shard=4)
    assert tree(out) == tree(tmp_path / "whole")
    shutil.rmtree(out)
