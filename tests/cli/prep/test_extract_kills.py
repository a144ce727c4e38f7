"""Killed and interrupted runs of `tgprep extract`: the same command continues and gives the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.prep.support import SLOW, kill_after, kill_series
from tests.conftest import Reliability
from tests.extraction import alive, call, children, kill_group, start, tree, wait_until


def finish(videos: Path, out: Path, modules: Path) -> None:
    done = call("extract", videos, out, *SLOW, path=modules)
    assert done.returncode == 1, done.stderr
    assert "32 inputs = 31 written + 1 failed + 0 skipped" in done.stderr


@kill_series
def test_a_killed_run_is_finished_by_the_same_command(
    videos: Path, modules: Path, undisturbed: dict[str, str], tmp_path: Path, seed: int, reliability: Reliability
) -> None:
    """kill -9 of the whole run at random moments, up to three times in a row."""
    draw = random.Random(seed)
    out = tmp_path / "out"
    moments = []
    for _ in range(1 + seed % 3 // 2):
        process = start("extract", videos, out, *SLOW, path=modules, FAKE_SECONDS="0.01")
        moments.append(draw.uniform(0.4, 3.0))
        kill_after(process, moments[-1])
    finish(videos, out, modules)
    assert tree(out) == undisturbed
    reliability.record(
        "Extraction",
        "kill -9 of the whole run at a random moment, then the same command",
        num_kills=len(moments),
        at_seconds=moments,
        differing_files=0,
        lost_videos=0,
    )


@dataclass(frozen=True)
class Grown:
    """A finished data set, its videos that have grown since, and the result of an undisturbed update."""

    videos: Path
    out: Path
    before: dict[str, str]
    after: dict[str, str]


UPDATE = ("--add", "--retry-failed")


@pytest.fixture(scope="module")
def grown(modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    root = tmp_path_factory.mktemp("grown")
    videos = root / "videos"
    (videos / "class0").mkdir(parents=True)
    (videos / "class1").mkdir()
    for number in range(10):
        (videos / f"class{number % 2}" / f"v{number:02d}.avi").write_bytes(bytes([number + 1]) * 10)
    for number in range(6):
        (videos / "class0" / f"empty{number}.avi").write_bytes(b"")
    assert call("extract", videos, root / "out", *SLOW, path=modules).returncode == 1
    before = tree(root / "out")
    for number in range(6):
        (videos / "class0" / f"empty{number}.avi").write_bytes(bytes([number + 50]) * 10)
    for number in range(10, 24):
        (videos / "class1" / f"v{number:02d}.avi").write_bytes(bytes([number + 1]) * 10)
    shutil.copytree(root / "out", root / "undisturbed")
    assert call("extract", videos, root / "undisturbed", *SLOW, *UPDATE, path=modules).returncode == 0
    return Grown(videos, root / "out", before, tree(root / "undisturbed"))


@kill_series
def test_a_killed_update_is_finished_by_the_same_command(
    grown: Grown, modules: Path, tmp_path: Path, seed: int, reliability: Reliability
) -> None:
    """--add and --retry-failed: at every moment the folder holds the complete old or new data set."""
    draw = random.Random(2000 + seed)
    out = tmp_path / "out"
    shutil.copytree(grown.out, out)
    process = start("extract", grown.videos, out, *SLOW, *UPDATE, path=modules, FAKE_SECONDS="0.01")
    moment = draw.uniform(0.4, 3.0)
    kill_after(process, moment)
    read = call("info", out, "--json")
    assert json.loads(read.stdout)["num_written"] in (10, 30)
    shards = {name: digest for name, digest in grown.before.items() if name.endswith(".tar")}
    assert shards.items() <= tree(out).items()
    done = call("extract", grown.videos, out, *SLOW, *UPDATE, path=modules)
    assert done.returncode == 0, done.stderr
    assert "30 inputs = 30 written + 0 failed + 0 skipped" in done.stderr
    assert tree(out) == grown.after
    reliability.record(
        "Extraction",
        "kill -9 of `--add --retry-failed` at a random moment, then the same command",
        num_kills=1,
        at_seconds=[moment],
        differing_files=0,
        lost_videos=0,
    )


@kill_series
def test_killed_workers_cost_nothing(
    videos: Path, modules: Path, undisturbed: dict[str, str], tmp_path: Path, seed: int, reliability: Reliability
) -> None:
    draw = random.Random(1000 + seed)
    out = tmp_path / "out"
    process = start("extract", videos, out, *SLOW, path=modules, FAKE_SECONDS="0.01")
    num_killed = 0
    while num_killed < 6 and process.poll() is None:
        time.sleep(draw.uniform(0.05, 0.5))
        there = children(process.pid)
        for worker in draw.sample(there, k=min(1, len(there))):
            try:
                os.kill(worker, signal.SIGKILL)
                num_killed += 1
            except ProcessLookupError:
                pass
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert num_killed > 0
    assert "Error: " not in errors
    assert tree(out) == undisturbed
    reliability.record(
        "Extraction",
        "kill -9 of workers at random moments while the run goes on",
        num_kills=num_killed,
        differing_files=0,
        lost_videos=0,
    )


def test_a_killed_run_leaves_no_process_behind(modules: Path, tmp_path: Path) -> None:
    """Not even one whose decoder hangs with every signal blocked."""
    videos = tmp_path / "videos"
    (videos / "class").mkdir(parents=True)
    for name in ("hang1", "hang2"):
        (videos / "class" / f"{name}.avi").write_bytes(b"x")
    process = start("extract", videos, tmp_path / "out", *SLOW, "--videos-per-shard", "1", path=modules)
    try:
        wait_until(lambda: len(children(process.pid)) == 2)
        workers = children(process.pid)
        time.sleep(1.5)  # they hang by now
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, workers)), seconds=20)
    finally:
        kill_group(process)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_names_the_command_to_continue(
    videos: Path, modules: Path, undisturbed: dict[str, str], tmp_path: Path, number: int, code: int
) -> None:
    out = tmp_path / "out"
    process = start("extract", videos, out, *SLOW, path=modules, FAKE_SECONDS="0.05")
    wait_until(lambda: list(out.glob("shard-*.tar")))
    workers = children(process.pid)
    os.killpg(process.pid, number)  # as a terminal's Ctrl-C does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Interrupted after " in errors
    assert f"to continue:\n  tgprep extract {videos} {out} --decoder fake_backends:open_video" in errors
    assert "Traceback" not in errors
    assert not any(map(alive, workers))
    assert not [path for path in out.rglob("*") if path.name.startswith(".tmp-")]
    finish(videos, out, modules)
    assert tree(out) == undisturbed
