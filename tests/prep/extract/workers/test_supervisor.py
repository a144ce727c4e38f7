"""Decoders, files and installations that misbehave: they cost one video, or end the run with one message."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli.prep import main
from manifests.records import InputError
from tests.extraction import REPOSITORY, children, tree
from tests.prep.extract.support import MakeFolder, fake_videos, reasons, run
from tests.prep.support import moving_square, write_video
from tgprep.extract.plan import plan_shards
from tgprep.extract.workers.shards import Progress, ShardError
from tgprep.scan.scan import scan

BAD_DECODERS = {
    "segfault": "the decoder crashed (SIGSEGV)",
    "hang": "the decoder showed no frame for 3 s and was stopped",
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
        timeout_seconds=3.0,
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
    """It shows frames all the time, so that it never stalls; the limit applies to each video, not to the shard."""
    monkeypatch.setenv("FAKE_SECONDS", "0.1")
    good = ["a", "b", "c", "d", "e"]
    run(fake_videos(tmp_path / "good", *good), tmp_path / "whole", decoder=backends)
    began: list[str] = []

    def watch(event: Progress) -> None:
        if event.row is None and not event.frames:
            began.append(event.key)

    outcome = run(
        fake_videos(tmp_path / "videos", *good, "endless"),
        tmp_path / "out",
        decoder=backends,
        max_video_seconds=2.5,  # all videos take 0.6 s each and 3 s together
        on_progress=watch,
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

    run(videos, tmp_path / "out", videos_per_shard=4, on_progress=note)
    (always,) = [set.intersection(*seen.values())]
    workers = [pids - always for _, pids in sorted(seen.items())]
    assert [len(pids) for pids in workers] == [1] * 5
    assert workers[0] == workers[1] != workers[2] == workers[3] != workers[4] != workers[0]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_decoder_may_print_and_read_standard_input(tmp_path: Path, backends: str) -> None:
    outcome = run(fake_videos(tmp_path / "videos", "a", "print", "z"), tmp_path / "out", decoder=backends)
    assert outcome.manifest.header.num_written == 3


def test_a_missing_decoder_is_refused_before_any_work(tmp_path: Path, video_folder: MakeFolder) -> None:
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
def test_a_custom_decoder_is_checked_first(
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
    assert outcome.manifest.header.num_written == 1
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
    assert run(tmp_path / "videos", tmp_path / "out").manifest.header.num_written == 6


def test_an_unmounted_video_folder_ends_the_run(video_folder: MakeFolder, tmp_path: Path) -> None:
    """An unmounted share must not turn every video into a failed one."""
    videos, out = video_folder(2, 8), tmp_path / "out"
    away = tmp_path / "away"

    def unmount(progress: Progress) -> None:
        if progress.row is not None and videos.exists() and not away.exists():
            videos.rename(away)
            videos.mkdir()

    with pytest.raises(ShardError, match="VIDEOS is no longer there"):
        run(videos, out, on_progress=unmount)
    videos.rmdir()
    away.rename(videos)
    assert run(videos, out).manifest.header.num_written == 16


def test_a_file_that_disappears_or_shrinks_while_it_is_read(
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

    outcome = run(videos, tmp_path / "out", decoder=backends, on_progress=meddle)
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
def test_a_real_video_that_disappears_or_shrinks_while_it_is_decoded(
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

    outcome = run(videos, out, on_progress=watch)
    assert 0 < seen[0] < 240
    assert reasons(outcome) == {"long": reason}
    assert outcome.manifest.header.num_written == 1
