"""Loader processes in trouble: without shared memory clips still arrive, and a process that fails is one message."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from tgtrain.data.loader import item_loader
from tgtrain.errors import RunError

ROOT = Path(__file__).parents[3]


class Clips(Dataset[torch.Tensor]):
    """Item k: a megabyte of k."""

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.full((1 << 20,), number, dtype=torch.uint8)


class Troubled(Dataset[int]):
    """Its process is killed, or meets an error that nobody expects."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __getitem__(self, number: int) -> int:
        if self.what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"a": 1}[self.what]


@pytest.mark.parametrize(("what", "said"), [("killed", "was ended by SIGKILL.*out of memory"), ("b", r"KeyError: 'b'")])
def test_a_process_that_fails_is_one_message(what: str, said: str) -> None:
    with pytest.raises(RunError, match=rf"^a loader process .*{said}.*The same command") as raised:
        list(item_loader(Troubled(what), [0], 1, pin=False))
    assert "\n" not in str(raised.value)


_WITHOUT = """
import torch
from tests.train.data.test_loader_trouble import Clips
from tgtrain.data.loader import item_loader
if __name__ == "__main__":
    for number, item in enumerate(item_loader(Clips(), range(6), 2, pin=False)):
        assert item.shape == (1 << 20,) and bool((item == number).all())
    print(number + 1, "items")
"""


def test_items_arrive_without_shared_memory(tmp_path: Path) -> None:
    """A megabyte of shared memory holds the semaphores of the processes, and no item."""
    (tmp_path / "read.py").write_text(_WITHOUT)
    mount = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, str(tmp_path / "read.py")]
    if subprocess.run([*command[:6], "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount here")
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stdout) == (0, "6 items\n"), done.stderr
    assert done.stderr.count("note: shared memory (/dev/shm) is too small for clips") == 1
