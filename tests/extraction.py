"""Extractions as real processes: started, killed and compared file by file."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
WITHOUT_PANDAS = REPOSITORY / "tests/without_pandas"  # hides it from processes

# Decoders that misbehave as the name of the file says; other files give six frames that depend on their content.
BACKENDS = """
import os, signal, subprocess, sys, time
import numpy as np
from tgprep.decode import DecodedVideo, DecodeError

class Silent(Exception):
    def __str__(self):
        raise RuntimeError("no text")

def open_video(path):
    if "shut" in path.name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "locked" in path.name:
        time.sleep(3600)
    return DecodedVideo(frames=frames(path), fps=25.0, codec="fake")

def frames(path):
    seed = sum(path.read_bytes()) % 200
    for number in range(6):
        if number == 3:
            misbehave(path.name)
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        yield np.full((32, 48, 3), (seed + 5 * number) % 256, np.uint8)

        while "endless" in path.name:
            yield np.full((32, 48, 3), seed, np.uint8)

def misbehave(name):
    if "segfault" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" in name:
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
        time.sleep(3600)
    if "eat" in name:
        kept = []
        while True:
            kept.append(np.ones((16, 1024, 1024), np.uint8))
            time.sleep(0.004)
    if "leave" in name:
        os._exit(7)
    if "exit" in name:
        sys.exit(3)
    if "interrupt" in name:
        raise KeyboardInterrupt
    if "silent" in name:
        raise Silent
    if "odd" in name:
        raise ValueError("two\\nlines and a \\ud800 surrogate " + "x" * 5000)
    if "refuse" in name:
        raise DecodeError("it does not want to")
    if "memory" in name:
        raise MemoryError
    if "print" in name:
        print("chatter " * 1000, flush=True)
        os.write(1, b"raw chatter")
        subprocess.run(["cat"], timeout=60)  # reads standard input to its end
    if "thin" in name:
        raise_later = np.zeros((32, 48), np.float32)
        raise TypeError(f"frame of shape {raise_later.shape}")
"""


def tree(out: Path) -> dict[str, str]:
    """sha256 of every file below OUT by its path, hidden and unfinished ones included."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-P", "-m", "tgprep", *map(str, arguments)]


def environment(path: Path | None = None, **values: str) -> dict[str, str]:
    """For a child: the packages of this checkout, and a folder of test modules."""
    places = [str(REPOSITORY), str(WITHOUT_PANDAS), *([str(path)] if path else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1", **values}


def call(
    *arguments: str | Path, path: Path | None = None, timeout: float = 120, prefix: Sequence[str] = (), **values: str
) -> subprocess.CompletedProcess[str]:
    """Run `tgprep ARGUMENTS` to its end. path: folder of backends; prefix: program that runs it; values: environment."""
    return subprocess.run(
        [*prefix, *command(*arguments)],
        env=environment(path, **values),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def start(*arguments: str | Path, path: Path | None = None, **values: str) -> subprocess.Popen[str]:
    """Start `tgprep ARGUMENTS` as the leader of a new process group."""
    return subprocess.Popen(
        command(*arguments),
        env=environment(path, **values),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return sorted(found)


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition holds; AssertionError if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.02)


def kill_group(process: subprocess.Popen[str]) -> None:
    """kill -9 of a run and its workers."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
