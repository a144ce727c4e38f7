"""One process of several fails, in a collective or outside: all end soon, with the reason."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# The process of rank FAILING does WHAT; the other waits for it in a collective that never completes.
_WORKER = """
import os, signal, sys, torch, torch.distributed as dist
from manifests.records import InputError
from manifests.object_store import UnreachableError
from tgtrain.ranks.distributed import LostError, process_group
from tgtrain.errors import RunError
failing, what = sys.argv[1:]
try:
    with process_group("cpu") as ranks:
        dist.all_reduce(torch.ones(1))
        if ranks.rank == int(failing):
            if what == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "store":
                raise UnreachableError(5, "the store did not answer for 9 s", "s3://bucket/shard")
            raise {"run": RunError, "input": InputError, "bug": KeyError}[what]("the disk of this one is on fire")
        dist.all_reduce(torch.ones(1))
except (RunError, InputError, LostError) as error:
    print("own:", error, file=sys.stderr)
    sys.exit(2 if isinstance(error, InputError) else 1)
"""


def both(failing: int, what: str) -> tuple[list[int], list[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(2):
        environment = {
            **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        command = [sys.executable, "-c", _WORKER, str(failing), what]
        processes.append(subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True))
    # Without the watch they wait for each other until the timeout of the group: half an hour.
    said = [process.communicate(timeout=300)[1] for process in processes]
    return [process.returncode for process in processes], said


@pytest.mark.parametrize(("failing", "what", "code"), [(1, "run", 1), (0, "input", 2), (1, "bug", 1)])
def test_other_ranks_end_with_the_reason(failing: int, what: str, code: int) -> None:
    codes, said = both(failing, what)
    assert codes == [code, code]
    assert "the disk of this one is on fire" in said[failing]
    assert f"process {failing} of 2" in said[1 - failing]
    assert "the disk of this one is on fire" in said[1 - failing]


def test_unreachable_store_of_one_rank_is_reported_by_all() -> None:
    codes, said = both(1, "store")
    assert codes == [1, 1]
    wanted = "process 1 of 2: s3://bucket/shard: the store did not answer for 9 s. Run the same command again once it answers."
    assert wanted in said[0]


def test_killed_rank_is_noticed() -> None:
    codes, said = both(1, "killed")
    assert codes == [1, -signal.SIGKILL]
    assert "the processes of the run have lost each other" in said[0]
    assert "Traceback" not in said[0]
