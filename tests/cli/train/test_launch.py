"""`--devices N`: processes that start, get signals and end together, and reach the result of torchrun."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from cli.train import launch, main
from tests.train.support import read_until, write_data_set
from tgtrain.run.checkpoint import every_checkpoint, list_checkpoints, load

TINY = (
    "data.clip_frames=4", "data.interval=2", "data.size=32", "batch.labelled=4", "batch.unlabelled=4", "model.width=2",
    "optimiser.epochs=16", "optimiser.warmup_epochs=1", "method.warmup_epochs=1", "precise_bn.batches=2",
    "evaluate.every_epochs=4", "runtime.log_every=1", "method.threshold=0.2", "runtime.workers=0",
)  # fmt: skip
STEPS = 48
ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("devices") / "set"
    write_data_set(root)
    return root


def words(data: Path, folder: Path) -> list[str]:
    return [
        "run", str(data), "--recipe", "demo", "--out", str(folder), *(w for text in TINY for w in ("--set", text)),
    ]  # fmt: skip


def start(data: Path, folder: Path, *more: str, limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tgtrain", *words(data, folder), "--devices", "2", *more],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit,
    )  # fmt: skip


def children(pid: int) -> list[int]:
    """Processes of a launcher, with all that they have started, oldest first."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *children(child)]
    return found


def outcome(folder: Path) -> dict[str, Any]:
    found = load(list_checkpoints(folder)[-1])
    momenta = {f"momentum.{number}": state["momentum_buffer"] for number, state in found.optimiser["state"].items()}
    return {"step": found.step, "tensors": {**found.model, **momenta}, "measured": found.measured}


def assert_same(folder: Path, whole: dict[str, Any]) -> None:
    found = outcome(folder)
    assert (found["step"], found["measured"]) == (whole["step"], whole["measured"])
    assert found["tensors"].keys() == whole["tensors"].keys()
    assert [n for n, value in found["tensors"].items() if not torch.equal(value, whole["tensors"][n])] == []


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of torchrun."""
    folder = tmp_path_factory.mktemp("torchrun") / "run"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    program = str(Path(sys.executable).with_name("tgtrain"))
    done = subprocess.run(
        [sys.executable, *torchrun, program, *words(data, folder)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "config.json").read_bytes())["world_size"] == 2
    return outcome(folder)


@pytest.mark.long
def test_signalled_crashed_and_killed_run_equals_torchrun(data: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    folder = tmp_path / "run"
    requeued = start(data, folder)
    read_until(requeued, f"step 3/{STEPS}")
    requeued.send_signal(signal.SIGUSR1)
    said = requeued.communicate(timeout=300)[1]
    assert requeued.returncode == 0, said
    first = load(every_checkpoint(folder)[-1]).step
    assert 3 <= first <= 3 + 12 + 10  # the next mark, or the next time that the ranks ask each other
    assert f"Saved at step {first} of {STEPS}" in said

    crashed = start(data, folder)
    read_until(crashed, f"resumed at step {first} of {STEPS}")
    read_until(crashed, f"step {first + 1}/{STEPS}")
    os.kill(int(Path(f"/proc/{crashed.pid}/task/{crashed.pid}/children").read_text().split()[1]), signal.SIGKILL)
    said = crashed.communicate(timeout=300)[1]
    assert crashed.returncode == 1, said
    assert "process 1 of 2 was ended by SIGKILL; the others were stopped." in said
    assert "Traceback" not in said

    killed = start(data, folder, "--set", "runtime.workers=1")
    read_until(killed, f"step {first + 2}/{STEPS}")
    left = children(killed.pid)
    assert len(left) >= 4  # two processes, a loader each and what starts it
    killed.kill()
    killed.communicate(timeout=300)
    until = time.monotonic() + 60
    while (there := [pid for pid in left if alive(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    assert there == []

    done = start(data, folder, "--json")
    out, said = done.communicate(timeout=600)
    assert done.returncode == 0, said
    assert json.loads(out)["step"] == STEPS
    assert_same(folder, whole)

    test = [sys.executable, "-m", "tgtrain", "test", str(folder), "--views", "1x1", "--json"]
    shared, alone = (
        subprocess.run([*test, *more], env=ENVIRONMENT, capture_output=True, text=True, check=False)
        for more in (("--devices", "2"), ())
    )
    assert json.loads(shared.stdout)["confusion"] == json.loads(alone.stdout)["confusion"]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.long
def test_full_disk_of_the_first_process_ends_both(data: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    folder = tmp_path / "run"
    start(data, folder, "--max-steps", "12").communicate(timeout=300)
    size = list_checkpoints(folder)[-1].stat().st_size
    # Of any file: the metrics are shorter, a checkpoint is longer.
    full = start(data, folder, limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2)))
    said = full.communicate(timeout=300)[1]
    assert full.returncode == 1, said
    assert f"File too large (at step 24). Step-{12:08d}.pt is the last valid checkpoint; make room" in said
    assert said.count("Error:") == 1
    assert [path.name for path in every_checkpoint(folder)] == [f"step-{12:08d}.pt"]
    assert list(folder.rglob(".tmp-*")) == []
    assert start(data, folder).communicate(timeout=600)
    assert_same(folder, whole)


# The launcher with processes that need no torch: what each does is a word of ACTS, in the order of ranks.
_LAUNCHER = """
import sys
from cli.train import launch, main
launch._GRACE_SECONDS = 0.5
child = '''
import os, signal, sys, time
act = sys.argv[1].split(",")[int(os.environ["RANK"])]
print("said by", act, file=sys.stderr, flush=True)
if act == "sleep":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    print("asleep", flush=True)
    time.sleep(1000)
if int(act) < 0:
    os.kill(os.getpid(), -int(act))
sys.exit(int(act))
'''
sys.exit(launch._run([sys.executable, "-c", child, sys.argv[1]], len(sys.argv[1].split(",")), []))
"""


@pytest.mark.parametrize(
    ("acts", "code", "said", "unsaid"),
    [
        ("0,0,0", 0, "said by 0", "process"),
        ("2,2", 2, "said by 2", "process 1"),  # a mistake that all find: printed by the first
        ("0,3", 3, "[process 1] said by 3", "Error"),
        ("sleep,3,sleep", 3, "[process 1] said by 3", "Error"),
        (
            "sleep,-9",
            1,
            "Error: process 1 of 2 was ended by SIGKILL; the others were stopped. Was the machine out of memory?",
            "?T",
        ),
        (
            "-11,sleep",
            1,
            "Error: process 0 of 2 was ended by SIGSEGV; the others were stopped. A library crashed",
            "[process",
        ),
        ("143,143", 143, "said by 143", "Error"),
    ],
)
def test_exit_code_and_messages(acts: str, code: int, said: str, unsaid: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LAUNCHER, acts], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert unsaid not in done.stderr


def test_second_sigint_ends_at_once() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCHER, "sleep,sleep"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "asleep\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)  # a person's second thought: the first one has been passed on by then, and was ignored
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "Interrupted twice: all processes were ended." in said


def test_as_many_processes_as_gpus() -> None:
    assert launch.number_of("auto") == max(1, torch.cuda.device_count())


def test_more_processes_than_videos(tmp_path: Path) -> None:
    write_data_set(tmp_path / "set", num_classes=1, groups=3)  # one video to train on, two for the test
    process = start(tmp_path / "set", tmp_path / "run", "--max-steps", "4", "--json")
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "note: 1 labelled video is fewer than batch.labelled 4" in said
    assert json.loads(out)["top1@1x1"] == 1  # of one class
    assert "(2 test videos)" in said


def test_mistake_is_printed_once(data: Path, tmp_path: Path) -> None:
    process = start(data, tmp_path / "run", "--set", "batch.labelled=5")
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 2
    assert said.count("Error: batch.labelled is 5, which 2 processes cannot share evenly.") == 1


@pytest.mark.parametrize("devices", ["0", "-1", "two", "1.5", "9999"])
def test_invalid_number_of_devices_is_refused(devices: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tgtrain", "run", "--devices", devices], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"--devices {devices}: expected a whole number from 1 to 1024, or auto." in done.stderr


TASK_OF_TWO = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}


@pytest.mark.parametrize("started", [{"RANK": "0", "WORLD_SIZE": "2"}, {"RANK": "0", "WORLD_SIZE": "1"}, TASK_OF_TWO])
def test_devices_under_torchrun_or_srun_is_refused(started: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tgtrain", "run", "--devices", "2"],
        env={**ENVIRONMENT, **started}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Drop --devices." in done.stderr


def test_processes_get_the_same_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(launch, "_run", lambda command, number, seen: commands.append(list(command)) or number)
    words = ["run", "my set", "--set", "b=[2, 3]", "--devices", "2", "--json", "--out", "x/y"]
    monkeypatch.setattr(sys, "argv", ["tgtrain", *words])
    monkeypatch.setattr("tgtrain.ranks.signals.note_signals", lambda seen: None)
    assert CliRunner().invoke(main, words).exit_code == 2  # the number of processes, as `_run` returns it here
    (command,) = commands
    assert command[-len(words) - 2 :] == ["-m", "tgtrain", *words]
