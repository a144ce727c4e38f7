"""--add and --retry-failed: old bytes stay, new samples go behind them, and at every moment the data set is complete."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manifests import disk as places
from manifests import manifest_io as store
from manifests.manifest_io import read_manifest
from manifests.records import InputError
from tests.extraction import tree
from tests.prep.support import extract_videos, moving_square, write_video
from tgprep.extract.pipeline import Outcome
from tgprep.extract.plan import Update
from tgprep.extract.work_folder import exclusive
from tgprep.extract.workers.shards import StoppedError

MakeFolder = Callable[..., Path]
RETRY, ADD = Update(retry_failed=True), Update(add=True)


def run(videos: Path, out: Path, update: Update | None = None, **more: Any) -> Outcome:
    return extract_videos(videos, out, update=update, videos_per_shard=4, **more)


def shards(out: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree(out).items() if name.endswith(".tar")}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished data set with two failed videos in two shards, and its VIDEOS: to be copied, not to be changed."""
    place = tmp_path_factory.mktemp("once")
    videos = place / "videos"
    for label in range(2):
        for number in range(3):
            frames = moving_square(6 + number, start=7 * label + number)
            write_video(videos / f"class{label}" / f"v{number:03d}.avi", frames, **{"q:v": "3"})
    (videos / "class0" / "bad.avi").write_bytes(b"")
    (videos / "class1" / "worse.avi").write_text("no video")
    run(videos, place / "out")
    return place


@pytest.fixture
def finished(once: Path, tmp_path: Path) -> tuple[Path, Path]:
    """VIDEOS and OUT of a finished data set, a copy for this test."""
    shutil.copytree(once, tmp_path / "copy")
    return tmp_path / "copy" / "videos", tmp_path / "copy" / "out"


def test_failed_videos_are_retried(finished: tuple[Path, Path]) -> None:
    videos, out = finished
    old, before = read_manifest(out), shards(out)
    write_video(videos / "class0" / "bad.avi", moving_square(5))
    outcome = run(videos, out, RETRY)
    manifest = outcome.manifest
    assert (len(manifest.videos), manifest.header.num_written, manifest.header.num_failed, len(manifest.shards)) == (
        8,
        7,
        1,
        3,
    )
    now = shards(out)
    assert {name: now[name] for name in before} == before
    assert set(tree(out)) == {*now, "README.md", "dataset.json", "videos.parquet", "shards.parquet"}
    rows = {row.path: row for row in read_manifest(out).videos}
    assert (rows["class0/bad.avi"].shard, rows["class0/bad.avi"].num_frames) == ("shard-000002.tar", 5)
    assert rows["class1/worse.avi"].status == "failed"
    assert all(rows[row.path] == row for row in old.videos if row.status == "written")
    assert read_manifest(out).shards[:2] == old.shards


def test_a_retry_that_fails_again_changes_nothing(finished: tuple[Path, Path]) -> None:
    videos, out = finished
    before = tree(out)
    assert run(videos, out, RETRY).manifest.header.num_failed == 2
    assert tree(out) == before


def test_nothing_to_do_is_reported(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos, out = video_folder(), tmp_path / "out"
    run(videos, out)
    before = tree(out)
    outcome = run(videos, out, Update(add=True, retry_failed=True))
    assert (outcome.already_finished, outcome.notes) == (True, ("--add --retry-failed: nothing to do",))
    assert tree(out) == before


def test_new_videos_and_classes_go_behind_the_old_ones(finished: tuple[Path, Path]) -> None:
    videos, out = finished
    old, before = read_manifest(out), shards(out)
    write_video(videos / "class0" / "new.avi", moving_square(4))
    write_video(videos / "another" / "first.avi", moving_square(5))
    (videos / "another" / "link.avi").symlink_to("nowhere")
    # The same class and name as a video of the data set, which is no longer there: another key.
    write_video(videos / "class0" / "V000.mp4", moving_square(7), codec="libx264")
    outcome = run(videos, out, ADD)
    manifest = outcome.manifest
    assert (
        len(manifest.videos),
        manifest.header.num_written,
        manifest.header.num_failed,
        manifest.header.num_skipped,
    ) == (12, 9, 2, 1)
    assert {name: shards(out)[name] for name in before} == before
    manifest = read_manifest(out)
    assert manifest.header.classes == ("class0", "class1", "another")
    rows = {row.path: row for row in manifest.videos}
    assert (rows["another/first.avi"].label, rows["another/first.avi"].shard) == (2, "shard-000002.tar")
    assert rows["class0/V000.mp4"].key.startswith("class0/V000_")
    assert all(rows[row.path] == row for row in old.videos)
    keys = [row.key for row in manifest.videos]
    assert keys == sorted(keys)
    assert run(videos, out).notes == ()


def test_add_and_retry_together(finished: tuple[Path, Path]) -> None:
    videos, out = finished
    write_video(videos / "class0" / "new.avi", moving_square(4))
    write_video(videos / "class0" / "bad.avi", moving_square(5))
    manifest = run(videos, out, Update(add=True, retry_failed=True)).manifest
    assert (len(manifest.videos), manifest.header.num_written, manifest.header.num_failed, len(manifest.shards)) == (
        9,
        8,
        1,
        3,
    )


def test_an_unfinished_extraction_is_finished_first(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos, out = video_folder(2, 3), tmp_path / "out"
    (videos / "class0" / "bad.avi").write_bytes(b"")
    stop = threading.Event()
    with pytest.raises(StoppedError):
        run(videos, out, stop=stop, on_progress=lambda p: stop.set() if p.row and p.row.error else None)
    write_video(videos / "class0" / "bad.avi", moving_square(5))
    manifest = run(videos, out, RETRY).manifest
    assert (len(manifest.videos), manifest.header.num_written, manifest.header.num_failed) == (7, 7, 0)


def test_one_run_finishes_an_extraction_and_adds_to_it(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos, out = video_folder(2, 3), tmp_path / "out"
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        run(videos, out, stop=stop)  # nothing but the plan is there
    write_video(videos / "class0" / "new.avi", moving_square(5))
    held: list[str] = []

    def try_beside(progress: Any) -> None:
        if progress.row is not None:  # of both parts: a second run is refused at any time
            with pytest.raises(InputError, match="is in use by"), exclusive(out):
                pass
            held.append(progress.row.path)

    manifest = run(videos, out, ADD, on_progress=try_beside).manifest
    assert (len(manifest.videos), manifest.header.num_written, manifest.header.num_failed) == (7, 7, 0)
    assert held[-1].endswith("new.avi")


def test_a_stopped_update_leaves_the_old_data_set(finished: tuple[Path, Path]) -> None:
    videos, out = finished
    old = read_manifest(out)
    for number in range(6):
        write_video(videos / "class1" / f"new{number}.avi", moving_square(4, start=number))
    stop = threading.Event()
    ended = 0

    def count(progress: Any) -> None:
        nonlocal ended
        ended += progress.row is not None
        if ended == 5:
            stop.set()

    with pytest.raises(StoppedError):
        run(videos, out, ADD, stop=stop, on_progress=count)
    assert read_manifest(out).digest == old.digest
    outcome = run(videos, out)
    assert outcome.already_finished
    assert any("an unfinished --add exists" in note for note in outcome.notes)
    with pytest.raises(InputError, match="holds an unfinished --add"):
        run(videos, out, RETRY)
    outcome = run(videos, out, ADD)
    assert (outcome.manifest.header.num_written, len(outcome.manifest.shards)) == (12, 4)


class KilledError(BaseException):
    """Stands for a kill: nothing that the code does on errors is meant to catch it."""


@pytest.mark.parametrize("moment", range(6))
def test_a_kill_while_replacing_tables_leaves_the_old_or_the_new_data_set(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Killed before and after every renaming of the last step, in the order in which they come."""
    videos, out = finished
    write_video(videos / "class0" / "new.avi", moving_square(4))
    old = read_manifest(out).digest
    publish = store.publish
    moments = 0

    def killed(temporary: Path, path: Path) -> None:
        nonlocal moments
        if path.parent != out or path.suffix == ".tar":
            return publish(temporary, path)
        moments += 1
        if moments > moment:
            raise KilledError
        publish(temporary, path)
        return None

    with monkeypatch.context() as patch:
        patch.setattr(store, "publish", killed)
        patch.setattr(places, "publish", killed)
        try:
            run(videos, out, ADD)
        except KilledError:
            pass
        else:
            assert moments == 5 <= moment  # two tables, the header, two renamings
    left = read_manifest(out).digest
    manifest = run(videos, out, ADD).manifest
    assert len(manifest.videos) == 9
    assert left == (old if moment < 3 else manifest.digest) != (manifest.digest if moment < 3 else old)
    assert set(tree(out)) == {"README.md", "dataset.json", "videos.parquet", "shards.parquet", *shards(out)}
    assert len(shards(out)) == 3
    assert read_manifest(out).digest == manifest.digest
