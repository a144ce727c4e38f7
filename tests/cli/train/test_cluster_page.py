"""The job script of docs/cluster.md: the signal reaches the run, the script waits for the checkpoint and requeues the job."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.slurm import block_of

# Stand-ins: srun passes signals on to its task, as documented; the run notes them, takes its time, and saves.
_SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
_RUN = """#!{python}
import pathlib, signal, sys, time
folder = pathlib.Path({folder!r})
seen = []
signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
(folder / "begun").write_text(" ".join(sys.argv[1:]))
while not seen and not (folder / "end").exists():
    time.sleep(0.02)
time.sleep(0.5)
(folder / "saved").touch()
sys.exit({code} if not seen else 0)
"""
_SCONTROL = """#!/bin/bash
[ -e {folder}/saved ] && echo "$@" > {folder}/requeued
"""


def script_of(command: str) -> str:
    return block_of("cluster.md", "#SBATCH", f"{command} dataset")


def begin(folder: Path, code: int = 0, command: str = "tgtrain run") -> subprocess.Popen[bytes]:
    script = script_of(command)
    tools = folder / "tools"
    tools.mkdir()
    for name, text in (
        ("srun", _SRUN),
        ("tgtrain", _RUN.format(python=sys.executable, folder=str(folder), code=code)),
        ("scontrol", _SCONTROL.format(folder=folder)),
    ):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (folder / "job.sh").write_text(script)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "4711",
        "SLURM_ARRAY_JOB_ID": "4711",  # the last task of an array has the number of the array, too
        "SLURM_ARRAY_TASK_ID": "3",
    }
    job = subprocess.Popen(["bash", str(folder / "job.sh")], env=environment)
    until = time.monotonic() + 60
    while not (folder / "begun").exists() and time.monotonic() < until:
        time.sleep(0.02)
    return job


BOTH = pytest.mark.parametrize("command", ["tgtrain run", "tgtrain sweep"])


@BOTH
def test_signal_before_the_end_saves_and_requeues(tmp_path: Path, command: str) -> None:
    job = begin(tmp_path, command=command)
    job.send_signal(signal.SIGUSR1)  # to the batch shell alone: --signal=B:
    assert job.wait(timeout=60) == 0
    assert (tmp_path / "requeued").read_text().split() == [
        "requeue",
        "4711_3" if command == "tgtrain sweep" else "4711",
    ]
    said = (tmp_path / "begun").read_text()
    assert said.startswith(f"{command.removeprefix('tgtrain ')} dataset --recipe ucf101-20")
    assert said.endswith("--task 3") == (command == "tgtrain sweep")


@BOTH
@pytest.mark.parametrize("code", [0, 1])
def test_complete_run_is_not_requeued(tmp_path: Path, code: int, command: str) -> None:
    job = begin(tmp_path, code, command)
    (tmp_path / "end").touch()
    assert job.wait(timeout=60) == code
    assert not (tmp_path / "requeued").exists()


@BOTH
def test_script_requests_the_signal(command: str) -> None:
    script = script_of(command)
    assert "--signal=B:USR1@300" in script
    assert "--requeue" in script


def test_array_has_one_task_a_cell() -> None:
    script = script_of("tgtrain sweep")
    (line,) = (line for line in script.splitlines() if line.startswith("tgtrain sweep"))
    num_cells = line.count("--split") * len(re.search(r"--seeds (\S+)", line)[1].split(","))  # type: ignore[index]
    assert f"--array=0-{num_cells - 1} " in script
