"""The extraction as a library: the account, equal bytes, resuming, refusing, and decoders that misbehave."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli.prep import main
from manifests.manifest_io import HEADER_NAME, read_manifest
from manifests.records import InputError
from tests.extraction import BACKENDS, REPOSITORY, children, tree
from tests.prep.support import extract_videos, moving_square, write_video
from tgprep.config import WorkerSettings
from tgprep.extract.pipeline import Hooks, Outcome, TooManyFailuresError
from tgprep.extract.plan import plan_shards
from tgprep.extract.workers.shards import Progress, ShardError, StoppedError
from tgprep.scan.scan import scan

MakeFolder = Callable[..., Path]


def run(
    videos: Path,
    out: Path,
    *,
    threads: int = 1,
    stop: threading.Event | None = None,
    hooks: Hooks | None = None,
    timeout_seconds: float = 60,
    max_video_seconds: float = 0,
    max_memory_mb: int = 1024,
    max_failures: int = -1,
    **settings: object,
) -> Outcome:
    how = WorkerSettings(
        threads=threads,
        timeout_seconds=timeout_seconds,
        max_video_seconds=max_video_seconds,
        max_memory_mb=max_memory_mb,
        max_failures=max_failures,
    )
    return extract_videos(videos, out, workers=how, stop=stop, hooks=hooks, **settings)


@pytest.fixture
def backends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of misbehaving decoders that the worker processes can import; gives the name for --decoder."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "fake_backends.py").write_text(BACKENDS)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{REPOSITORY}")
    return "fake_backends:open_video"


def fake_videos(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / "class" / f"{name}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number + 1]) * 10)
    return root


def reasons(outcome: Outcome) -> dict[str, str]:
    return {row.key.split("/")[1]: row.error for row in outcome.manifest.videos if row.status != "written"}


def test_every_input_is_accounted_for(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos = video_folder(2, 3)
    write_video(videos / "class0" / "one.avi", moving_square(1))
    (videos / "class1" / "empty.mp4").write_bytes(b"")
    (videos / "class1" / "text.mp4").write_text("not a video\n" * 100)
    (videos / "class1" / "folder.avi").mkdir()
    (videos / "class1" / "nothing.avi").symlink_to("nowhere.avi")
    (videos / "class1" / "odd.xyz").write_text("?")
    outcome = run(videos, tmp_path / "out", videos_per_shard=64)
    account = outcome.account
    assert (account.num_inputs, account.num_written, account.num_failed, account.num_skipped) == (11, 6, 3, 2)
    assert account.num_frames == 2 * (6 + 7 + 8)
    failed = {row.path: row.error for row in outcome.manifest.videos if row.status == "failed"}
    assert failed == {
        "class0/one.avi": "only 1 frame: a temporal gradient needs two",
        "class1/empty.mp4": "the file is empty (0 bytes)",
        "class1/text.mp4": "cannot be opened as a video: Invalid data found when processing input",
    }
    skipped = {row.path: row.error for row in outcome.manifest.videos if row.status == "skipped"}
    assert set(skipped) == {"class1/nothing.avi", "class1/odd.xyz"}
    assert sorted(tree(tmp_path / "out")) == ["dataset.json", "shard-000000.tar", "shards.parquet", "videos.parquet"]


def test_any_number_of_processes_gives_the_same_bytes(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos = video_folder(3, 10)
    trees = []
    for threads in (1, 2, 3):
        outcome = run(videos, tmp_path / f"out{threads}", threads=threads, videos_per_shard=4)
        assert outcome.account.num_shards == 8
        trees.append(tree(tmp_path / f"out{threads}"))
    assert trees[0] == trees[1] == trees[2]


def test_threads_is_the_number_of_worker_processes(video_folder: MakeFolder, tmp_path: Path) -> None:
    workers: set[int] = set()
    seen = Hooks(progress=lambda progress: workers.add(progress.worker))
    run(video_folder(2, 12), tmp_path / "out", threads=3, videos_per_shard=2, hooks=seen)
    assert workers == {0, 1, 2}


def test_a_finished_data_set_is_left_as_it_is(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos, out = video_folder(), tmp_path / "out"
    assert not run(videos, out).already_finished
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    write_video(videos / "class0" / "new.avi", moving_square(5))
    again = run(videos, out)
    assert again.already_finished
    assert again.account.num_written == 6
    assert "1 videos in VIDEOS are not in the data set (the first: class0/new.avi)" in again.notes[0]
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_stop_leaves_whole_shards_and_the_next_run_finishes(video_folder: MakeFolder, tmp_path: Path) -> None:
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
        run(videos, out, videos_per_shard=4, stop=stop, hooks=Hooks(progress=count))
    assert [name for name in tree(out) if not name.startswith(".tgprep/")] == ["shard-000000.tar"]
    with pytest.raises(InputError, match="an unfinished extraction"):
        read_manifest(out)
    resumed = run(videos, out, videos_per_shard=4)
    assert (resumed.num_shards_kept, resumed.already_finished) == (1, False)
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
    assert "--quality is 95 there, 80 asked; --short-side is 0 there, 24 asked" in str(caught.value)
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
    assert (outcome.account.num_inputs, outcome.account.num_written) == (8, 7)
    assert reasons(outcome) == {"v000": "cannot be read: No such file or directory"}


def test_too_many_failures_end_the_run_and_it_can_go_on(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos, out = video_folder(1, 8), tmp_path / "out"
    for number in range(4):
        (videos / "class0" / f"bad{number}.avi").write_bytes(b"")
    with pytest.raises(TooManyFailuresError, match="--max-failures allows 1"):
        run(videos, out, max_failures=1, videos_per_shard=6)
    assert not (out / HEADER_NAME).exists()
    outcome = run(videos, out, videos_per_shard=6)
    assert (outcome.account.num_written, outcome.account.num_failed) == (8, 4)
    assert outcome.num_shards_kept > 0


def test_an_out_that_holds_other_things_is_refused(video_folder: MakeFolder, tmp_path: Path) -> None:
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


BAD_DECODERS = {
    "segfault": "the decoder crashed (SIGSEGV)",
    "hang": "the decoder showed no frame for 1 s and was stopped",
    "eat": "the decoder took over 512 MB of memory and was stopped",
    "leave": "the decoder ended its process (exit code 7)",
    "exit": "the decoder failed: SystemExit: 3",
    "interrupt": "the decoder failed: KeyboardInterrupt: ",
    "silent": "the decoder failed: Silent: its message cannot be shown",
    "odd": "the decoder failed: ValueError: two lines and a \\ud800 surrogate xxxx",
    "refuse": "it does not want to",
    "memory": "out of memory while decoding",
    "thin": "the decoder failed: TypeError: frame of shape (32, 48)",
}


def test_a_bad_decoder_costs_one_video(tmp_path: Path, backends: str) -> None:
    good = [f"good{number}" for number in range(10)]
    run(fake_videos(tmp_path / "good", *good), tmp_path / "whole", decoder=backends, videos_per_shard=100)
    outcome = run(
        fake_videos(tmp_path / "videos", *good, *BAD_DECODERS),
        tmp_path / "out",
        decoder=backends,
        videos_per_shard=100,
        timeout_seconds=1.0,
        max_memory_mb=512,
    )
    found = reasons(outcome)
    assert found.keys() == BAD_DECODERS.keys()
    for name, reason in BAD_DECODERS.items():
        assert found[name].startswith(reason.strip())
        assert len(found[name]) < 600
    # The others lie in the shard in the same order, with the same bytes, as if the bad ones had never been there.
    assert tree(tmp_path / "out")["shard-000000.tar"] == tree(tmp_path / "whole")["shard-000000.tar"]


def test_a_decoder_that_never_ends_costs_one_video(
    tmp_path: Path, backends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows frames all the time, so that no stall tells it; the limit is of each video, not of the shard."""
    monkeypatch.setenv("FAKE_SECONDS", "0.1")
    good = ["a", "b", "c", "d", "e"]
    run(fake_videos(tmp_path / "good", *good), tmp_path / "whole", decoder=backends)
    began: list[str] = []
    watch = Hooks(progress=lambda told: began.append(told.key) if told.row is None and not told.frames else None)
    outcome = run(
        fake_videos(tmp_path / "videos", *good, "endless"),
        tmp_path / "out",
        decoder=backends,
        max_video_seconds=2.5,  # all videos take 0.6 s each and 3 s together
        hooks=watch,
    )
    assert reasons(outcome) == {"endless": "the decoder did not end within 2.5 s and was stopped (--max-video-seconds)"}
    assert began.count("class/endless") == 1  # what takes so long is not begun a second time
    assert tree(tmp_path / "out")["shard-000000.tar"] == tree(tmp_path / "whole")["shard-000000.tar"]


def test_workers_are_replaced_after_some_shards(
    video_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoders leak: no process makes more than two shards here, and the bytes are those of one process."""
    videos, seen = video_folder(2, 10), dict[str, set[int]]()
    run(videos, tmp_path / "whole", videos_per_shard=4)
    monkeypatch.setattr("tgprep.extract.workers.supervisor._JOBS_PER_WORKER", 2)

    def note(told: Progress) -> None:
        if told.row is not None:
            seen.setdefault(told.row.shard, set()).update(children(os.getpid()))

    run(videos, tmp_path / "out", videos_per_shard=4, hooks=Hooks(progress=note))
    (always,) = [set.intersection(*seen.values())]
    workers = [pids - always for _, pids in sorted(seen.items())]
    assert [len(pids) for pids in workers] == [1] * 5
    assert workers[0] == workers[1] != workers[2] == workers[3] != workers[4] != workers[0]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_decoder_that_prints_and_reads_disturbs_nothing(tmp_path: Path, backends: str) -> None:
    outcome = run(fake_videos(tmp_path / "videos", "a", "print", "z"), tmp_path / "out", decoder=backends)
    assert outcome.account.num_written == 3


def test_a_decoder_that_is_not_there_is_refused_before_any_work(tmp_path: Path, video_folder: MakeFolder) -> None:
    with pytest.raises(InputError, match=r"--decoder no_such_module:open cannot be loaded"):
        run(video_folder(), tmp_path / "out", decoder="no_such_module:open")


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        ("", "own_decoder:open_video", "ImportError: own_decoder has no function open_video"),
        ("open_video = 3", "own_decoder:open_video", "own_decoder has no function open_video"),
        ("def open_video(path): ...", "own_decoder:", "has no function named behind the colon"),
        ("def open_video(:", "own_decoder:open_video", "SyntaxError"),
        ("import sys; sys.exit(0)", "own_decoder:open_video", "SystemExit"),
        ("1 / 0", "own_decoder:open_video", "ZeroDivisionError"),
        ("", ":open_video", "ValueError"),
    ],
)
def test_a_decoder_of_ones_own_is_looked_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, name: str, told: str
) -> None:
    (tmp_path / "own_decoder.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_decoder", raising=False)
    done = CliRunner().invoke(main, ["extract", str(tmp_path / "none"), str(tmp_path / "out"), "--decoder", name])
    assert done.exit_code == 2
    assert f"Error: --decoder {name} cannot be loaded: " in done.stderr
    assert told in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_slow_disk_is_not_taken_for_a_hung_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing the shard, and writing a video into it, take longer than a decoder may be silent."""
    (tmp_path / "slow_disk.py").write_text(
        "import os, time\nimport numpy as np\nimport tgprep.extract.workers.worker\nfrom tgprep.decode.open import DecodedVideo\n"
        "sync, write = os.fsync, tgprep.extract.workers.worker._HashingFile.write\n"
        "def slow(*arguments):\n    time.sleep(1.5)\n    return write(*arguments)\n"
        "def open_video(path):\n"
        "    import __main__\n    __main__._HashingFile.write = slow\n"
        "    os.fsync = lambda number: (time.sleep(3), sync(number))\n"
        "    return DecodedVideo(frames=iter([np.zeros((8, 8, 3), np.uint8)] * 2), fps=25.0, codec='fake')\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{REPOSITORY}")
    monkeypatch.syspath_prepend(str(tmp_path))
    began = time.monotonic()
    videos = fake_videos(tmp_path / "videos", "a")
    outcome = run(videos, tmp_path / "out", timeout_seconds=1.0, decoder="slow_disk:open_video")
    assert outcome.account.num_written == 1
    assert time.monotonic() - began > 3 + 1.5


def test_a_worker_that_cannot_start_ends_the_run(
    tmp_path: Path, video_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken installation is not the videos' fault: none of them is failed."""
    (tmp_path / "broken" / "simplejpeg").mkdir(parents=True)
    (tmp_path / "broken" / "simplejpeg" / "__init__.py").write_text("raise ImportError('broken')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'broken'}:{REPOSITORY}")
    with pytest.raises(ShardError, match="the worker process cannot start"):
        run(video_folder(), tmp_path / "out")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    assert run(tmp_path / "videos", tmp_path / "out").account.num_written == 6


def test_videos_that_vanish_as_a_whole_end_the_run(video_folder: MakeFolder, tmp_path: Path) -> None:
    """An unmounted share must not turn every video into a failed one."""
    videos, out = video_folder(2, 8), tmp_path / "out"
    away = tmp_path / "away"

    def unmount(progress: Progress) -> None:
        if progress.row is not None and videos.exists() and not away.exists():
            videos.rename(away)
            videos.mkdir()

    with pytest.raises(ShardError, match="VIDEOS is no longer there"):
        run(videos, out, hooks=Hooks(progress=unmount))
    videos.rmdir()
    away.rename(videos)
    assert run(videos, out).account.num_written == 16


def test_a_file_that_goes_away_or_shrinks_while_we_read(
    tmp_path: Path, backends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0.1")
    videos = fake_videos(tmp_path / "videos", "a", "b", "c", "d")
    order = [video.key for video in plan_shards(scan(videos, dataset="folder").videos, 0)[0].videos]
    gone, cut = (videos / f"{key}.avi" for key in (order[1], order[2]))

    def meddle(progress: Progress) -> None:
        if progress.row is None and progress.frames and progress.key == order[1]:
            gone.unlink(missing_ok=True)
        if progress.row is None and progress.frames and progress.key == order[2]:
            cut.write_bytes(b"x")

    outcome = run(videos, tmp_path / "out", decoder=backends, hooks=Hooks(progress=meddle))
    assert reasons(outcome) == {
        gone.stem: "cannot be read: No such file or directory",
        cut.stem: "the file was changed while it was read",
    }


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def replace(path: Path) -> None:
    write_video(path.with_name("other.avi"), moving_square(5)).replace(path)


@pytest.mark.parametrize(
    ("meddle", "reason"),
    [
        (Path.unlink, "cannot be read: No such file or directory"),
        (cut, "the file was changed while it was read"),
        (replace, "the file was changed while it was read"),
    ],
)
def test_a_real_video_that_goes_away_or_shrinks_while_it_is_decoded(
    tmp_path: Path, meddle: Callable[[Path], None], reason: str
) -> None:
    """With the default decoder, in the middle of a long AVI file; the other videos are not touched by it."""
    videos, out = tmp_path / "videos", tmp_path / "out"
    pieces = np.random.default_rng(0).integers(0, 255, (8, 480, 640, 3), dtype=np.uint8)
    victim = write_video(videos / "class" / "long.avi", [pieces[k % 8] for k in range(240)], **{"q:v": "12"})
    assert victim.stat().st_size > 10_000_000  # far more than any decoder reads ahead
    write_video(videos / "class" / "short.avi", moving_square(5))
    seen: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.row is None and progress.key == "class/long" and progress.frames and not seen:
            seen.append(progress.frames)
            meddle(victim)

    outcome = run(videos, out, hooks=Hooks(progress=watch))
    assert 0 < seen[0] < 240
    assert reasons(outcome) == {"long": reason}
    assert outcome.account.num_written == 1


def test_shards_are_an_even_mix_that_depends_on_the_keys_alone(video_folder: MakeFolder) -> None:
    videos = scan(video_folder(4, 16, num_frames=2), dataset="folder").videos
    shards = plan_shards(videos, 16)
    assert plan_shards(tuple(reversed(videos)), 16) == shards
    assert sorted(v.key for shard in shards for v in shard.videos) == sorted(v.key for v in videos)
    for shard in shards:
        assert len({video.class_name for video in shard.videos}) >= 3


def test_the_journal_of_a_shard_that_is_gone_does_not_count(video_folder: MakeFolder, tmp_path: Path) -> None:
    videos, out = video_folder(2, 8), tmp_path / "out"
    run(videos, tmp_path / "whole", videos_per_shard=4)
    stop = threading.Event()
    with pytest.raises(StoppedError):
        run(
            videos,
            out,
            videos_per_shard=4,
            stop=stop,
            hooks=Hooks(progress=lambda p: stop.set() if p.row and (out / "shard-000001.tar").exists() else None),
        )
    (out / "shard-000000.tar").unlink()
    assert len(list((out / ".tgprep" / "done").iterdir())) >= 1
    json.loads((out / ".tgprep" / "plan.json").read_bytes())
    run(videos, out, videos_per_shard=4)
    assert tree(out) == tree(tmp_path / "whole")
    shutil.rmtree(out)
