"""A process that waits for the others says for whom, and ends within seconds of a signal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# What `tgtrain run` does around its work: the signals are noted, then the processes meet.
_WORKER = """
import os, signal, sys, time
import torch
import torch.distributed as dist
from manifests.records import InputError
from tgtrain.errors import RunError
from tgtrain.ranks import failure_watch
from tgtrain.ranks.distributed import leave_at_exit, process_group
from tgtrain.ranks.signals import EXIT_CODES, note_signals
failure_watch._SILENT_SECONDS = 1.0
seen = []
note_signals(seen)
try:
    with process_group("cpu", lambda: bool(seen)) as ranks:
        print("joined", flush=True)
        if ranks.rank == 1 and sys.argv[1] != "nothing":
            os.kill(os.getpid(), signal.SIGSTOP)
        if sys.argv[1] == "barrier":
            ranks.barrier()
        if sys.argv[1] == "collective":
            dist.all_reduce(torch.ones(1))
except KeyboardInterrupt:
    leave_at_exit(EXIT_CODES[signal.Signals(seen[0])])
"""


@pytest.fixture
def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(rank: int, port: str, what: str, started: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    environment = {
        **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR",
    }  # fmt: skip
    words = [sys.executable, "-c", _WORKER, what]
    started.append(
        subprocess.Popen(words, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    )
    return started[-1]


def test_a_process_that_waits_for_others_says_so_and_ends_at_a_signal(
    port: str, started: list[subprocess.Popen[str]]
) -> None:
    """Process 0 is the machine where all meet, process 1 one that comes before it; each gets another signal."""
    sent = (signal.SIGTERM, signal.SIGINT)
    other = str(int(port) - 1)  # where nobody comes
    processes = [start(rank, place, "nothing", started) for rank, place in enumerate((port, other))]
    for rank, process in enumerate(processes):
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith(f"waiting for process {1 - rank} of 2 at 127.0.0.1:{(port, other)[rank]} (5 s"), line
        began = time.monotonic()
        process.send_signal(sent[rank])
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 128 + sent[rank], said
        assert time.monotonic() - began < 5
        assert "Traceback" not in said


@pytest.mark.parametrize("what", [pytest.param("barrier", marks=pytest.mark.long), "collective"])
def test_a_process_that_was_asked_to_stop_does_not_wait_for_one_that_hangs(
    port: str, started: list[subprocess.Popen[str]], what: str
) -> None:
    first, second = (start(rank, port, what, started) for rank in range(2))
    for process in (first, second):
        assert process.stdout is not None
        assert process.stdout.readline() == "joined\n"
    time.sleep(0.5)  # the second one stops, the first one waits for it
    first.send_signal(signal.SIGTERM)
    said = first.communicate(timeout=60)[1]
    assert first.returncode == 1
    assert "Error: process 1 of 2: it does not answer, and this run was asked to stop." in said
