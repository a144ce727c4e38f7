"""What the tests of `tgprep extract` share."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.extraction import alive, children, kill_group, wait_until

SLOW = ("--decoder", "fake_backends:open_video", "--videos-per-shard", "4", "--threads", "2")


def one_message(done: subprocess.CompletedProcess[str]) -> str:
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in done.stderr
    return line


GATE_REPEATS, LONG_REPEATS = 2, 50
kill_series = pytest.mark.parametrize(
    "seed",
    [*range(GATE_REPEATS), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(GATE_REPEATS, LONG_REPEATS))],
)


def kill_after(process: subprocess.Popen[str], seconds: float) -> None:
    """kill -9 of the run after this many seconds; its workers have ended when this returns."""
    workers: list[int] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        workers = children(process.pid) or workers
        time.sleep(0.02)
    kill_group(process)
    wait_until(lambda: not any(map(alive, workers)))
