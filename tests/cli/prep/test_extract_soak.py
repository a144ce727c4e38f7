"""A soak: many videos, one in twenty damaged, workers and whole runs killed at random; nothing lost, nothing twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from manifests.manifest_io import read_manifest
from tests.conftest import Reliability
from tests.extraction import alive, call, children, kill_group, start, tree, wait_until
from tests.prep.support import moving_square, write_video


def make_corpus(root: Path, num_videos: int) -> int:
    """Tiny videos, every twentieth damaged in one of four ways; gives the number of damaged ones."""
    templates = [
        write_video(root.parent / f"template{number}.avi", moving_square(2 + number, start=5 * number), **{"q:v": "4"})
        for number in range(8)
    ]
    contents = [path.read_bytes() for path in templates]
    damages = (b"", b"no video " * 100, contents[0][: len(contents[0]) // 2], bytes(4000))
    for number in range(num_videos):
        path = root / f"class{number % 10}" / f"v{number:05d}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damages[number // 20 % 4] if number % 20 == 7 else contents[number % 8])
    return len(range(7, num_videos, 20))


def watch(process: subprocess.Popen[str], seconds: float, kill: Callable[[], bool]) -> list[float]:
    """Megabytes of every worker of a run, in order of time, until it or `seconds` end; `kill` draws who is killed."""
    sizes, workers, end = [], [], time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
        workers = children(process.pid) or workers
        for worker in workers:
            try:
                pages = int(Path(f"/proc/{worker}/statm").read_text().split()[1])
                if kill():
                    os.kill(worker, signal.SIGKILL)
            except (OSError, IndexError):
                continue
            sizes.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
    kill_group(process)
    wait_until(lambda: not any(map(alive, workers)))
    return sizes


@pytest.mark.parametrize(
    ("num_videos", "num_runs", "seconds"),
    [pytest.param(100, 2, 1.0, id="gate"), pytest.param(5000, 40, 4.0, id="full", marks=pytest.mark.long)],
)
def test_soak(tmp_path: Path, num_videos: int, num_runs: int, seconds: float, reliability: Reliability) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    num_damaged = make_corpus(videos, num_videos)
    draw = random.Random(num_videos)
    how = ("--threads", "2", "--videos-per-shard", "16")
    kills = []

    def kill() -> bool:
        kills.append(draw.random() < 0.02)
        return kills[-1]

    for _ in range(num_runs):
        watch(start("extract", videos, out, *how), draw.uniform(0.5, 1.5) * seconds, kill)
    done = call("extract", videos, out, *how, timeout=1200)
    assert done.returncode == 1, done.stderr
    assert f"{num_videos} inputs = {num_videos - num_damaged} written + {num_damaged} failed + 0 skipped" in done.stderr
    table = read_manifest(out).videos
    paths = table.column("path")
    assert sorted(paths) == sorted(path.relative_to(videos).as_posix() for path in videos.rglob("*.avi"))
    failed = {path for path, status in zip(paths, table.column("status"), strict=True) if status == "failed"}
    assert {int(path[-9:-4]) % 20 for path in failed} == {7}
    names: list[str] = []
    for shard in sorted(out.glob("*.tar")):
        with tarfile.open(shard) as tar:
            names += [name for name in tar.getnames() if name.endswith(".json")]
    written = [
        f"{key}.json" for key, s in zip(table.column("key"), table.column("status"), strict=True) if s == "written"
    ]
    assert sorted(names) == sorted(written)
    assert set(tree(out)) == {path.name for path in out.iterdir()}
    assert not list(out.glob(".*"))
    sizes = watch(start("extract", videos, tmp_path / "whole", *how), 1200, lambda: False)
    assert tree(out) == tree(tmp_path / "whole")
    assert max(sizes) < 400
    if num_videos > 1000:  # long enough to tell what a worker needs from what it leaks
        third = len(sizes) // 3
        assert max(sizes[-third:]) < 1.1 * max(sizes[:third]) + 10
    reliability.record(
        "Extraction",
        f"soak: {num_videos:,} videos, one in twenty damaged, workers and whole runs killed at random",
        num_videos=num_videos,
        num_damaged=num_damaged,
        num_kills_of_workers=sum(kills),
        num_kills_of_the_run=num_runs,
        lost_videos=num_videos - len(paths),
        duplicated_videos=len(names) - len(set(names)),
        peak_worker_mb=round(max(sizes), 1),
        peak_worker_mb_first_third=round(max(sizes[: len(sizes) // 3]), 1),
        peak_worker_mb_last_third=round(max(sizes[-(len(sizes) // 3) :]), 1),
    )
