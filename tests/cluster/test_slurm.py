"""The Slurm that the tests start leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.slurm import ROOT
from tests.extraction import wait_until

_TESTS = """
from tests.cluster.slurm import slurm
with slurm() as cluster:
    print(cluster.folder, flush=True)
    cluster.call("srun", "--nodes=2", "bash", "-c", "echo $$ > $SLURMD_NODENAME; exec sleep 1000")
"""


@pytest.mark.long
@pytest.mark.usefixtures("running_slurm")  # skips where none can be started
def test_killed_tests_leave_no_daemon_no_job_and_no_file() -> None:
    tests = subprocess.Popen([sys.executable, "-c", _TESTS], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert tests.stdout is not None
    folder = Path(tests.stdout.readline().strip())
    wait_until(lambda: sum(path.stat().st_size > 0 for path in folder.glob("tg-node-*")) == 2)
    tasks = [int(path.read_text()) for path in folder.glob("tg-node-*")]
    tests.kill()
    tests.communicate()
    wait_until(lambda: not folder.exists())
    assert not any(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in tasks if Path(f"/proc/{pid}").exists())
