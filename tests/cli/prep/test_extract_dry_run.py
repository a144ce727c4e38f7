"""`tgprep extract --dry-run` and `tgprep plan`, and signals before the first video."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.extraction import BACKENDS, alive, call, children, start, wait_until


def test_a_dry_run_estimates_and_writes_nothing(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "not" / "yet"
    dry = call("extract", videos, out, "--dry-run", "--json", "--threads", "1")
    assert dry.returncode == 0, dry.stderr
    told = json.loads(dry.stdout)
    assert not out.parent.exists()
    done = call("extract", videos, out, "--json", "--threads", "1")
    account = json.loads(done.stdout)
    assert told["num_videos"] == account["num_inputs"]
    assert told["num_shards"] == account["num_shards"]
    assert told["num_unreadable"] == 2
    # All headers of this small set are read, and tell the truth; bytes are those of six videos on average.
    assert told["num_frames"] == account["num_frames"]
    assert told["num_loose_files"] == pytest.approx(2 * account["num_frames"] - account["num_written"], rel=0.05)
    assert told["num_bytes"] == pytest.approx(account["num_bytes"], rel=0.5)
    assert told["seconds"] > 0
    plan = call("plan", videos, out, "--json", "--threads", "1")
    assert plan.returncode == 0, plan.stderr
    same = ("num_videos", "num_frames", "num_bytes", "num_shards", "num_loose_files", "num_unreadable")
    assert {name: json.loads(plan.stdout)[name] for name in same} == {name: told[name] for name in same}
    assert call("plan", videos, out, "--retry-failed").returncode == 2  # there is nothing that a plan could retry


ONE_CORE = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_dry_run_survives_crashing_and_hanging_decoders(modules: Path, tmp_path: Path) -> None:
    """Decoders that crash or hang when they open the file."""
    names = [*(f"v{number}" for number in range(6)), "shut", "locked"]
    for number, name in enumerate(names):
        path = tmp_path / "videos" / "class" / f"{name}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number + 1]) * 10)
    limits = ("--decoder", "fake_backends:open_video", "--timeout-seconds", "1.5", "--videos-per-shard", "2")
    words = ("extract", tmp_path / "videos", tmp_path / "out", "--dry-run", "--json", *limits)
    dry = call(*words, path=modules, prefix=(sys.executable, "-c", ONE_CORE))
    assert dry.returncode == 0, dry.stderr
    told = json.loads(dry.stdout)
    assert (told["num_videos"], told["num_headers"], told["num_unreadable"]) == (8, 8, 2)
    assert told["num_workers"] == 1  # all that taskset, or a batch system, leaves it
    assert not (tmp_path / "out").exists()


SLOW_SCAN = """
import os, pathlib, time
real = os.scandir
def scandir(folder):
    if str(folder).endswith("videos"):
        pathlib.Path(os.environ["MARK"]).touch()
        time.sleep(600)
    return real(folder)
os.scandir = scandir
open_video = print
"""


@pytest.mark.parametrize("dry", [False, True], ids=["scan", "dry-run"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_video_interrupts_at_once(
    tmp_path: Path, number: signal.Signals, code: int, dry: bool
) -> None:
    """While a large folder is scanned, or a dry run waits for a decoder that hangs."""
    mark, out = tmp_path / "mark", tmp_path / "out"
    (tmp_path / "slow_scan.py").write_text(SLOW_SCAN)
    (tmp_path / "fake_backends.py").write_text(BACKENDS)
    (tmp_path / "videos" / "class").mkdir(parents=True)
    (tmp_path / "videos" / "class" / "locked.avi").write_bytes(b"x")
    decoder = ("--dry-run", "--decoder", "fake_backends:open_video") if dry else ("--decoder", "slow_scan:open_video")
    process = start("extract", tmp_path / "videos", out, *decoder, path=tmp_path, MARK=str(mark))
    wait_until(lambda: children(process.pid) if dry else mark.exists())
    workers = children(process.pid)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert f"Interrupted before the first video; to continue:\n  tgprep extract {tmp_path / 'videos'} {out}" in errors
    assert "Traceback" not in errors
    assert not out.exists()
    assert not any(map(alive, workers))
