"""Placement of ranks: tables of environments as srun, sbatch, salloc and torchrun make them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from manifests.records import InputError
from tgtrain.ranks.distributed import choose_device, gpu_of, process_group, steps_between_polls
from tgtrain.ranks.placement import (
    RankPlacement,
    first_host,
    is_one_of_several,
    meeting_address,
    rank_placement,
    unused_tasks_note,
)

# What srun gives each task of a job of two nodes with two tasks each; a batch script's own variables are seen in it, too.
TASK = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "node[07-08]", "SLURM_STEP_NODELIST": "node[07-08]",
    "ENVIRONMENT": "BATCH",
}  # fmt: skip
BATCH_SHELL = {
    "SLURM_JOB_ID": "4711", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "node[07-08]",
    "ENVIRONMENT": "BATCH",
}  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("alone", "alone"),
        ("a,b", "a"),
        ("node[01-03,07]", "node01"),
        ("node[9-11]", "node9"),
        ("node[098-101]", "node098"),
        ("gpu[1-2]-ib,login", "gpu1-ib"),
        ("login,gpu[1-2]-ib", "login"),
        ("rack[1-2]n[08-09]", "rack1n08"),
        ("a[1,3],b[2]", "a1"),
        ("h.example.org, i", "h.example.org"),
    ],
)
def test_first_host_of_a_node_list(nodes: str, expected: str) -> None:
    assert first_host(nodes) == expected


@pytest.mark.parametrize("nodes", ["node[1-3", "node1-3]", "node[[1]]", "node[a-b]", "node[]", "a,node[", "a,b[1-]"])
def test_malformed_node_list_is_refused(nodes: str) -> None:
    with pytest.raises(InputError, match="MASTER_ADDR"):
        first_host(nodes)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, RankPlacement()),
        (TASK, RankPlacement(3, 4, 1, "node07", 20_000 + 7 * 4711 % 12_000, by_slurm=True)),
        # The step may lie on other nodes of the job, and hold fewer tasks.
        (TASK | {"SLURM_STEP_NODELIST": "node08", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"},
         RankPlacement(1, 2, 1, "node08", 20_000 + 7 * 4711 % 12_000, by_slurm=True)),
        (TASK | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "99"}, RankPlacement(3, 4, 1, "10.0.0.1", 99, by_slurm=True)),
        # No step variables: as in wrappers that pass on a few variables.
        ({n: v for n, v in TASK.items() if "STEP" not in n and n != "ENVIRONMENT"},
         RankPlacement(3, 4, 1, "node07", 20_000 + 7 * 4711 % 12_000, by_slurm=True)),
        (BATCH_SHELL, RankPlacement()),
        (BATCH_SHELL | {"SLURM_STEP_ID": "4294967291"}, RankPlacement()),
        (TASK | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, RankPlacement()),  # `srun --ntasks=1`, `srun --pty bash`
        ({"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "node07"}, RankPlacement()),  # a shell of salloc
        # torchrun inside of a task says more than Slurm does.
        (TASK | {"RANK": "5", "LOCAL_RANK": "2", "WORLD_SIZE": "8", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, RankPlacement(5, 8, 2)),
        (TASK | {"RANK": "0", "WORLD_SIZE": "1"}, RankPlacement(0, 1, 0)),
    ],
)  # fmt: skip
def test_rank_placement(environment: dict[str, str], expected: RankPlacement) -> None:
    assert rank_placement(environment) == expected
    assert is_one_of_several(environment) == (expected.world_size > 1)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR, MASTER_PORT not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, "rank 2 of 2 processes"),
        (TASK | {"SLURM_STEP_NODELIST": "", "SLURM_JOB_NODELIST": ""}, "SLURM_JOB_NODELIST names no node"),
    ],
)
def test_incomplete_placement_is_refused(environment: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        rank_placement(environment)


def test_one_gpu_for_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(InputError, match="device cuda:1 is one GPU, and there are 2 processes"),
        process_group("cuda:1"),
    ):
        pass


NOWHERE = "node07.invalid"  # a name that never resolves, by RFC 2606


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": NOWHERE, "MASTER_PORT": "1"}, f"from MASTER_ADDR={NOWHERE}"),
        (
            TASK | {"SLURM_STEP_NODELIST": "node[07-08].invalid"},
            rf"from SLURM_STEP_NODELIST=node\[07-08\].invalid.*`scontrol show node {NOWHERE}` gives no address",
        ),
        (TASK | {"SLURM_STEP_NODELIST": "", "SLURM_JOB_NODELIST": NOWHERE}, f"from SLURM_JOB_NODELIST={NOWHERE}"),
    ],
)
def test_host_that_does_not_resolve_is_one_message(
    environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", "")  # no scontrol, as in a container
    with (
        pytest.raises(InputError, match=f"the processes meet at {NOWHERE} .*{said}.*Set MASTER_ADDR"),
        process_group("cpu"),
    ):
        pass


def test_name_server_that_fails_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), None])

    def resolve(host: str, port: object) -> None:
        if answer := next(answers):
            raise answer

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert meeting_address("node07", {}) == "node07"


@pytest.mark.parametrize(
    ("environment", "told"),
    [(TASK, False), (BATCH_SHELL, True), ({}, False), ({"SLURM_NTASKS": "1"}, False), ({"SLURM_NTASKS": "8"}, True)],
)
def test_process_outside_the_tasks_of_its_job_is_noted(environment: dict[str, str], told: bool) -> None:
    assert ("none of them" in unused_tasks_note(environment)) is told


def test_jobs_and_steps_have_different_ports() -> None:
    ports = {
        rank_placement(TASK | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}).port
        for job in (4711, 4712, 4713)
        for step in range(5)
    }
    assert len(ports) == 15
    assert all(20_000 <= port < 32_000 for port in ports)


@pytest.mark.parametrize(
    ("by_slurm", "num_visible", "expected"),
    [
        (True, 1, 0),  # --gpus-per-task=1: each task sees its own
        (True, 8, 3),  # --gres=gpu:8: each sees all of the node
        (False, 8, 3),
        (False, 1, 3),  # torchrun on a machine with fewer GPUs than processes: refused, not shared
    ],
)
def test_the_gpu_of_a_process(by_slurm: bool, num_visible: int, expected: int) -> None:
    assert gpu_of(RankPlacement(11, 16, 3, by_slurm=by_slurm), num_visible) == expected
    assert choose_device("cpu", local_rank=3).type == "cpu"


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 10), (0.1, 10), (0.5, 10), (1.0, 5), (4.9, 1), (90.0, 1)])
def test_slow_steps_are_polled_more_often(seconds: float, expected: int) -> None:
    assert steps_between_polls(seconds) == expected


_SUM = """
import torch, torch.distributed as dist
from tgtrain.ranks.distributed import process_group
with process_group("cpu") as ranks:
    total = torch.tensor([10.0 ** ranks.rank])
    dist.all_reduce(total)
    print(ranks.rank, ranks.world_size, int(total))
"""


def test_two_tasks_of_a_step_meet() -> None:
    job = str(os.getpid())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _SUM],
            env={
                **{n: v for n, v in os.environ.items() if n not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")},
                "SLURM_JOB_ID": job, "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task), "SLURM_JOB_NODELIST": "localhost",
                "SLURM_STEP_NODELIST": "localhost",
            },
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
        )
        for task in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0].split() for process in processes]
    assert said == [["0", "2", "11"], ["1", "2", "11"]]
