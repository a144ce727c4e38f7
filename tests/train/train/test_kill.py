"""kill -9 of real training processes at many moments: the same command again reaches the same weights and metrics, bit for bit.

Moments are chosen in two ways: by time, anywhere in the life of a process; and by place, so that the short ones (a checkpoint
half written, saved and not yet marked, the middle of an evaluation) are hit too: the process kills itself when it enters a
function for the n-th time (`sys.setprofile`, no change to the program).
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Reliability
from tests.train.support import TINY, run_outcome
from tgtrain.run.checkpoint import every_checkpoint

# Run the command line, and kill the process by SIGKILL at the n-th call of `function` in the module, counted from 1.
_KILLER = """
import os, signal, sys
module, function, number = sys.argv[1].split(":")
left = int(number)
def watch(frame, event, argument):
    global left
    if event == "call" and frame.f_code.co_name == function and frame.f_globals.get("__name__") == module:
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.argv = ["tgtrain", *sys.argv[2:]]
import cli.train
sys.setprofile(watch)
cli.train.main()
"""
# Where, and how often it is passed in a run of four evaluations with a checkpoint before and after each.
PLACES = {
    "while the settings are written": ("manifests.files:atomic_write", 1),
    "before a checkpoint is written": ("tgtrain.run.checkpoint:save", 8),
    "between digest and content of a checkpoint": ("manifests.disk:publish", 19),
    "between saving and marking the best": ("tgtrain.run.checkpoint:finish_save", 8),
    "while the best is marked": ("tgtrain.run.checkpoint:_write_best", 1),
    "before older ones are removed": ("tgtrain.run.checkpoint:_prune", 8),
    "during an evaluation": ("tgtrain.evaluate.evaluate:__getitem__", 24),
    "during precise BatchNorm": ("tgtrain.method.networks.precise_bn:recompute_statistics", 4),
    "in a step": ("tgtrain.train.learner:update", 12),
    "while the log is written": ("tgtrain.run.journal:write", 20),
}  # fmt: skip


def words(data_set: Path, folder: Path, workers: int = 0) -> list[str]:
    overrides = (*TINY, f"runtime.workers={workers}")
    return [
        "run", str(data_set), "--recipe", "demo", "--out", str(folder),
        *(word for text in overrides for word in ("--set", text)),
    ]  # fmt: skip


def start(arguments: list[str], at: str = "", num_ranks: int = 1) -> list[subprocess.Popen[str]]:
    """Start the processes of one run. at: `module:function:call` at which each kills itself, "" for none."""
    program = [sys.executable, "-c", _KILLER, at] if at else [sys.executable, "-m", "tgtrain"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(num_ranks):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if num_ranks > 1:
            environment |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
        processes.append(
            subprocess.Popen(
                [*program, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                start_new_session=True,
            )
        )  # fmt: skip
    return processes


def kill(processes: list[subprocess.Popen[str]]) -> bool:
    """SIGKILL to all; whether one of them was still running."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.kill()
    for process in processes:
        process.communicate(timeout=120)
    return any(process.returncode == -signal.SIGKILL for process in processes)


def finish(arguments: list[str], num_ranks: int = 1) -> None:
    processes = start(arguments, num_ranks=num_ranks)
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * num_ranks, said


def assert_same(folder: Path, whole: dict[str, Any]) -> None:
    found = run_outcome(folder)
    assert found["facts"] == whole["facts"]
    assert found["tensors"].keys() == whole["tensors"].keys()
    different = [name for name, value in found["tensors"].items() if not torch.equal(value, whole["tensors"][name])]
    assert not different
    assert not list(folder.rglob(".tmp-*"))


@pytest.fixture(scope="module")
def whole(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """The outcome of the undisturbed run, and the seconds that it takes."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    began = time.monotonic()
    finish(words(data_set, folder))
    seconds = time.monotonic() - began
    found = run_outcome(folder)
    assert len(found["facts"]["metrics"]) == 20 + 4 * 3  # a record of each class after each epoch
    return found, seconds


def test_several_kills_at_chosen_places(data_set: Path, tmp_path: Path, whole: tuple[dict[str, Any], float]) -> None:
    arguments = words(data_set, tmp_path / "run")
    for where in (
        "manifests.disk:publish:7",
        "tgtrain.run.checkpoint:finish_save:2",
        "tgtrain.evaluate.evaluate:__getitem__:9",
    ):
        assert not kill_when_done(start(arguments, at=where))
    assert [path.name for path in every_checkpoint(tmp_path / "run")][-1:] == ["step-00000009.due.pt"]
    finish(arguments)
    assert_same(tmp_path / "run", whole[0])


@pytest.mark.long
@pytest.mark.parametrize("name", PLACES)
def test_one_kill_at_a_chosen_place(
    data_set: Path, tmp_path: Path, whole: tuple[dict[str, Any], float], name: str, reliability: Reliability
) -> None:
    """The first time that a place is passed, the last, and one in between."""
    where, most = PLACES[name]
    numbers = sorted({1, most, random.Random(name).randint(1, most)})
    for number in numbers:
        folder = tmp_path / f"run{number}"
        assert not kill_when_done(start(words(data_set, folder), at=f"{where}:{number}")), number
        finish(words(data_set, folder))
        assert_same(folder, whole[0])
    reliability.record(
        "Training", "kill -9 at chosen places (a checkpoint, its mark, an evaluation, BatchNorm, a step, the log), then the same command",
        num_kills=len(numbers), differing_checkpoints_and_metrics=0,
    )  # fmt: skip


def kill_when_done(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Wait for processes that kill themselves; what those say that did not."""
    said = [process.communicate(timeout=300)[1] for process in processes]
    return [text for text, process in zip(said, processes, strict=True) if process.returncode != -signal.SIGKILL]


@pytest.mark.long
@pytest.mark.parametrize(("num_kills", "workers"), [(30, 0), (10, 2)])
def test_kills_at_random_moments(
    data_set: Path,
    tmp_path: Path,
    whole: tuple[dict[str, Any], float],
    num_kills: int,
    workers: int,
    reliability: Reliability,
) -> None:
    """Runs that are killed again and again until they are through; as many as it takes for the number of kills."""
    draw = random.Random(num_kills)
    at_seconds: list[float] = []
    number = 0
    while len(at_seconds) < num_kills:
        number += 1
        folder = tmp_path / f"run{number}"
        for _ in range(3):
            processes = start(words(data_set, folder, workers))
            moment = draw.uniform(0.05, 1.0) * whole[1]
            time.sleep(moment)
            if not kill(processes):
                break
            at_seconds.append(round(moment, 2))
            if len(at_seconds) == num_kills:
                break
        finish(words(data_set, folder, workers))
        found = run_outcome(folder)
        assert found["facts"]["metrics"] == whole[0]["facts"]["metrics"]
        assert_same(folder, whole[0])
    reliability.record(
        "Training", "kill -9 at random moments, one process, then the same command",
        num_kills=len(at_seconds), num_runs=number, differing_checkpoints_and_metrics=0, at_seconds=at_seconds,
    )  # fmt: skip


@pytest.mark.long
def test_kills_of_two_ranks_at_random_moments(data_set: Path, tmp_path: Path, reliability: Reliability) -> None:
    """Both ranks are killed, one after the other; the run of two reaches the end of the undisturbed one."""
    began = time.monotonic()
    finish(words(data_set, tmp_path / "whole"), num_ranks=2)
    seconds = time.monotonic() - began
    undisturbed = run_outcome(tmp_path / "whole")
    draw = random.Random(2)
    at_seconds: list[float] = []
    number = 0
    while len(at_seconds) < 30:
        number += 1
        folder = tmp_path / f"run{number}"
        for _ in range(3):
            processes = start(words(data_set, folder), num_ranks=2)
            moment = draw.uniform(0.2, 1.0) * seconds
            time.sleep(moment)
            if not kill(draw.sample(processes, 2)):
                break
            at_seconds.append(round(moment, 2))
        finish(words(data_set, folder), num_ranks=2)
        assert_same(folder, undisturbed)
    reliability.record(
        "Training", "kill -9 of both processes of a run on two ranks (gloo) at random moments, then the same command",
        num_kills=len(at_seconds), num_runs=number, differing_checkpoints_and_metrics=0, at_seconds=at_seconds,
    )  # fmt: skip
