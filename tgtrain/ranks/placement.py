"""Which process this is among those of a run, from the environment that torchrun, `--devices` or Slurm sets. Needs no torch."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from manifests.records import InputError

_FIRST_PORT, _NUM_PORTS = 20_000, 12_000  # below the ports that systems assign themselves (from 32,768 on)
_LAST_STEP = 0xFFFFFFF0  # higher step numbers stand for the batch script, an interactive shell and so on
_RESOLVE_SECONDS = 3.0  # a name server that all nodes ask at once may fail for a moment
_HOST_LIST = re.compile(r"(?:[^\[\],]|\[\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*\])+(?:,|$)")


@dataclass(frozen=True, slots=True)
class RankPlacement:
    """Which process this is, 0 <= rank < world_size, and where the processes meet."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on its machine
    host: str = ""  # "" and port 0: as MASTER_ADDR and MASTER_PORT say
    port: int = 0
    by_slurm: bool = False  # from the variables of a Slurm task, not from those of torchrun


def rank_placement(environment: Mapping[str, str]) -> RankPlacement:
    """The placement that torchrun (or `--devices`), else Slurm, describes; one process if neither does.

    InputError for an incomplete description.
    """
    number = partial(_number, environment)
    if "RANK" in environment or "WORLD_SIZE" in environment:
        placement = RankPlacement(number("RANK", 0), number("WORLD_SIZE", 1), number("LOCAL_RANK", 0))
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
        if placement.world_size > 1 and missing:
            raise InputError(
                f"WORLD_SIZE is {placement.world_size} and {', '.join(missing)} not set: several processes are started by "
                "`tgtrain run --devices N`, torchrun or srun."
            )
    elif _in_step(environment):
        # Two steps of a job on one node must not meet each other, nor neighbouring jobs.
        port = _FIRST_PORT + (7 * number("SLURM_JOB_ID", 0) + number("SLURM_STEP_ID", 0)) % _NUM_PORTS
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
        placement = RankPlacement(
            number("SLURM_PROCID", 0),
            _num_tasks(environment),
            number("SLURM_LOCALID", 0),
            environment.get("MASTER_ADDR") or first_host(nodes),
            number("MASTER_PORT", port),
            by_slurm=True,
        )
    else:
        return RankPlacement()
    rank, world_size = placement.rank, placement.world_size
    if rank >= world_size:
        raise InputError(f"rank {rank} of {world_size} processes: expected 0 to {world_size - 1}.")
    return placement


def is_one_of_several(environment: Mapping[str, str]) -> bool:
    """Whether torchrun or `srun` has started this process with others, complete description or not."""
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return _number(environment, "WORLD_SIZE", 1) > 1
    return _in_step(environment)


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: `node01` of `node[01-03,07],rack[1-2]`. InputError for another format."""
    if not nodes.strip():
        raise InputError(
            "This is a Slurm task, and SLURM_JOB_NODELIST names no node to meet at. Set MASTER_ADDR and MASTER_PORT, or "
            "start with `srun` inside a job."
        )
    parts = _HOST_LIST.findall(nodes)
    if "".join(parts) != nodes:
        raise InputError(
            f"Slurm's node list {nodes!r} has an unknown format, expected such as node[01-03,07]. Set MASTER_ADDR and "
            "MASTER_PORT to the first node and a free port."
        )
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", parts[0].rstrip(",")).strip()


def meeting_address(host: str, environment: Mapping[str, str]) -> str:
    """The host where the processes meet as this machine can resolve it: its name, else the address that Slurm has for it.

    InputError, which names the variable that the host is from, if neither resolves.
    """
    problem = _resolve_problem(host)
    if not problem:
        return host
    in_job = bool(environment.get("SLURM_JOB_ID"))
    address = _node_address(host) if in_job else ""
    if address not in ("", host) and not _resolve_problem(address):
        return address
    named = ("MASTER_ADDR", "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
    variable = next((name for name in named if environment.get(name)), named[0])
    nor_slurm = f", and `scontrol show node {host}` gives no address that does" * in_job
    raise InputError(
        f"the processes meet at {host} (from {variable}={environment.get(variable, '')}), a name that does not resolve on "
        f"{socket.gethostname()} ({problem}){nor_slurm}. Set MASTER_ADDR to the address of that machine, as the others "
        "reach it (`ip addr` there), or add the name to DNS or /etc/hosts."
    )


def _resolve_problem(host: str) -> str:
    """Why a name does not resolve; "" if it does."""
    until = time.monotonic() + _RESOLVE_SECONDS
    while True:
        try:
            socket.getaddrinfo(host, None)
            return ""
        except (OSError, UnicodeError) as error:  # UnicodeError: an empty or a very long part of a name
            if getattr(error, "errno", None) != socket.EAI_AGAIN or time.monotonic() > until:
                return getattr(error, "strerror", None) or str(error)
        time.sleep(1)


def _node_address(node: str) -> str:
    """NodeAddr of a node of this cluster; "" if Slurm does not say."""
    words = ["scontrol", "--oneliner", "show", "node", node]
    try:
        said = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"\bNodeAddr=(\S+)", said)
    return found[1] if found else ""


def unused_tasks_note(environment: Mapping[str, str]) -> str:
    """A note for a process outside the tasks of its job, as in a batch script without `srun`; "" for others."""
    tasks = _number(environment, "SLURM_NTASKS", 1)
    if tasks < 2 or _in_step(environment) or "SLURM_STEP_ID" in environment:
        return ""
    return (
        f"this job has {tasks} tasks, and this process is none of them: it works alone (`srun tgtrain ...` starts all)"
    )


def _in_step(environment: Mapping[str, str]) -> bool:
    """Whether this process is one of several tasks of a step that `srun` has started.

    The shell of a batch script is not, however many tasks the job has: it runs once, on the first node.
    """
    if not {"SLURM_PROCID", "SLURM_LOCALID"} <= environment.keys() or _num_tasks(environment) < 2:
        return False
    step = environment.get("SLURM_STEP_ID", "")
    if step:
        return not step.isdecimal() or int(step) < _LAST_STEP
    return environment.get("ENVIRONMENT") != "BATCH"


def _num_tasks(environment: Mapping[str, str]) -> int:
    """Tasks of the step, else of the job; 1 if neither is set."""
    return _number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS", 1))


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    """A whole number of the environment. InputError for anything else."""
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise InputError(f"{name} is {text!r} in the environment, expected a whole number >= 0.")
    return int(text)
