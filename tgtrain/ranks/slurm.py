"""Which process this is in a Slurm job step, from the environment that `srun` gives each task: pure functions, no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from manifests.records import InputError

_FIRST_PORT, _NUM_PORTS = 20_000, 12_000  # below the ports that systems give out by themselves (from 32,768 on)
_LAST_STEP = 0xFFFFFFF0  # step numbers from here on are names: the batch script, an interactive shell


def in_step(environment: Mapping[str, str]) -> bool:
    """Whether this process is one of several tasks of a step that `srun` has started.

    The shell of a batch script is none, however many tasks the job has: it runs once, on the first node.
    """
    if not {"SLURM_PROCID", "SLURM_LOCALID"} <= environment.keys() or num_tasks(environment) < 2:
        return False
    step = environment.get("SLURM_STEP_ID", "")
    if step:
        return not step.isdecimal() or int(step) < _LAST_STEP
    return environment.get("ENVIRONMENT") != "BATCH"


def started_with_others(environment: Mapping[str, str]) -> bool:
    """Whether this process is one of several that torchrun or `srun` has started; see `distributed.place_in`, which needs torch."""
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return number(environment, "WORLD_SIZE", 1) > 1
    return in_step(environment)


def alone_in_job(environment: Mapping[str, str]) -> str:
    """What to say to a process that is none of the tasks of its job, as in a batch script without `srun`; "" for others."""
    asked = number(environment, "SLURM_NTASKS", 1)
    if asked < 2 or in_step(environment) or "SLURM_STEP_ID" in environment:
        return ""
    return (
        f"this job has {asked} tasks, and this process is none of them: it works alone (`srun tgtrain ...` starts all)"
    )


def num_tasks(environment: Mapping[str, str]) -> int:
    """Tasks of the step, or of the job where no step is told; 1 without any."""
    return number(environment, "SLURM_STEP_NUM_TASKS", number(environment, "SLURM_NTASKS", 1))


def meeting_place(environment: Mapping[str, str]) -> tuple[str, int]:
    """Host and port where the tasks of a step meet: the first host of its node list, and a port told from job and step."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    host = next(hosts(nodes), "")
    if not host:
        raise InputError(
            "This is a Slurm task, and SLURM_JOB_NODELIST names no node to meet at. Set MASTER_ADDR and MASTER_PORT, or "
            "start with `srun` inside a job."
        )
    # Job and step: two steps of a job on one node do not meet each other, nor do neighbouring jobs.
    port = (
        _FIRST_PORT
        + (7 * number(environment, "SLURM_JOB_ID", 0) + number(environment, "SLURM_STEP_ID", 0)) % _NUM_PORTS
    )
    return host, port


def hosts(nodes: str) -> Iterator[str]:
    """The hosts of a Slurm node list, in its order: `a,node[01-03,07]-ib,rack[1-2]n[0-1]`.

    InputError where brackets do not match or a range is none.
    """
    for part in _parts(nodes):
        yield from _expanded(part, nodes)


def _parts(nodes: str) -> Iterator[str]:
    """The list cut at the commas outside of brackets."""
    depth, begin = 0, 0
    for place, letter in enumerate(nodes):
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if depth not in (0, 1):
            raise _no_list(nodes)
        if letter == "," and not depth:
            yield nodes[begin:place].strip()
            begin = place + 1
    if depth:
        raise _no_list(nodes)
    yield nodes[begin:].strip()


def _expanded(part: str, nodes: str) -> Iterator[str]:
    """The hosts of one part; the first brackets vary slowest."""
    if not part:
        return
    before, bracket, rest = part.partition("[")
    if not bracket:
        yield part
        return
    ranges, _, after = rest.partition("]")
    for entry in ranges.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", entry)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise _no_list(nodes)
        for value in range(int(match[1]), int(match[2] or match[1]) + 1):
            for tail in _expanded(after, nodes) if after else ("",):
                yield f"{before}{value:0{len(match[1])}d}{tail}"


def _no_list(nodes: str) -> InputError:
    return InputError(
        f"Slurm's node list {nodes!r} is of no form known here, such as node[01-03,07]. Set MASTER_ADDR and MASTER_PORT to "
        "the first node and a free port."
    )


def number(environment: Mapping[str, str], name: str, default: int) -> int:
    """A whole number of the environment. InputError where it is something else."""
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise InputError(f"{name} is {text!r} in the environment, expected a whole number >= 0.")
    return int(text)
