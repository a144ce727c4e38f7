"""Which process this is in a Slurm job step, from the environment that `srun` gives each task. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping

from manifests.records import InputError

_FIRST_PORT, _NUM_PORTS = 20_000, 12_000  # below the ports that systems assign themselves (from 32,768 on)
_LAST_STEP = 0xFFFFFFF0  # higher step numbers stand for the batch script, an interactive shell and so on
_HOST_LIST = re.compile(r"(?:[^\[\],]|\[\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*\])+(?:,|$)")


def in_step(environment: Mapping[str, str]) -> bool:
    """Whether this process is one of several tasks of a step that `srun` has started.

    The shell of a batch script is not, however many tasks the job has: it runs once, on the first node.
    """
    if not {"SLURM_PROCID", "SLURM_LOCALID"} <= environment.keys() or num_tasks(environment) < 2:
        return False
    step = environment.get("SLURM_STEP_ID", "")
    if step:
        return not step.isdecimal() or int(step) < _LAST_STEP
    return environment.get("ENVIRONMENT") != "BATCH"


def is_one_of_several(environment: Mapping[str, str]) -> bool:
    """Whether torchrun or `srun` has started this process with others; as `distributed.rank_placement`, which needs torch."""
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return number(environment, "WORLD_SIZE", 1) > 1
    return in_step(environment)


def unused_tasks_note(environment: Mapping[str, str]) -> str:
    """A note for a process outside the tasks of its job, as in a batch script without `srun`; "" for others."""
    tasks = number(environment, "SLURM_NTASKS", 1)
    if tasks < 2 or in_step(environment) or "SLURM_STEP_ID" in environment:
        return ""
    return (
        f"this job has {tasks} tasks, and this process is none of them: it works alone (`srun tgtrain ...` starts all)"
    )


def num_tasks(environment: Mapping[str, str]) -> int:
    """Tasks of the step, else of the job; 1 if neither is set."""
    return number(environment, "SLURM_STEP_NUM_TASKS", number(environment, "SLURM_NTASKS", 1))


def master_address(environment: Mapping[str, str]) -> tuple[str, int]:
    """Host and port where the tasks of a step meet: the first host of its node list, and a port from job and step numbers."""
    host = first_host(environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", ""))
    # Two steps of a job on one node must not meet each other, nor neighbouring jobs.
    job, step = number(environment, "SLURM_JOB_ID", 0), number(environment, "SLURM_STEP_ID", 0)
    return host, _FIRST_PORT + (7 * job + step) % _NUM_PORTS


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: `node01` of `node[01-03,07]-ib,rack[1-2]`. InputError for another format."""
    parts = _HOST_LIST.findall(nodes)
    if not nodes.strip():
        raise InputError(
            "This is a Slurm task, and SLURM_JOB_NODELIST names no node to meet at. Set MASTER_ADDR and MASTER_PORT, or "
            "start with `srun` inside a job."
        )
    if "".join(parts) != nodes:
        raise InputError(
            f"Slurm's node list {nodes!r} has an unknown format, expected such as node[01-03,07]. Set MASTER_ADDR and "
            "MASTER_PORT to the first node and a free port."
        )
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", parts[0].rstrip(",")).strip()


def number(environment: Mapping[str, str], name: str, default: int) -> int:
    """A whole number of the environment. InputError for anything else."""
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise InputError(f"{name} is {text!r} in the environment, expected a whole number >= 0.")
    return int(text)
