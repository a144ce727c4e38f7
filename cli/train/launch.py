"""`--devices N`: start, signal and end the processes of a training or a test on this machine. Needs no torch.

Not torch's elastic launcher: killed by SIGKILL it leaves its processes running, and it kills processes that take over 30 seconds to
save after a signal.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import click

from cli.common import plural, say
from manifests.console import exit_code
from manifests.machine import SIGNAL_REASONS, usable_cores
from manifests.records import InputError

# Read end of a pipe that the launcher never writes to: it closes when the launcher ends.
_PIPE = "TGTRAIN_LAUNCHER_PIPE"
# Likewise, of the command that started this one and asks it to save if it ends itself (`tgtrain sweep`).
PARENT_PIPE = "TGTRAIN_PARENT_PIPE"
_GRACE_SECONDS = 15.0  # for the others to end by themselves, after one process has failed
_POLL_SECONDS = 0.05
_MAX_LINES = 200  # of the stderr of a process that failed

devices_option = click.option(
    "--devices",
    metavar="N|auto",
    help="processes to start on this machine, one a GPU (without GPUs: on CPU); auto: as many as there are GPUs  [default: 1]",
)


def launched(devices: str | None, seen: list[int] | None = None) -> None:
    """Run the current command in that many processes and exit as they do; returns in each of them, or if one process is enough.

    To be called first in a command: the launcher needs no torch. seen: list of the signals received, which gets those to come.
    InputError for an invalid number, and under torchrun or srun.
    """
    from tgtrain.ranks.signals import EXIT_CODES

    if PARENT_PIPE in os.environ:
        _at_end_of(PARENT_PIPE, lambda: os.kill(os.getpid(), signal.SIGTERM))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_CODES)
    if _PIPE in os.environ:
        _at_end_of(_PIPE, lambda: os._exit(1))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_CODES)
        return
    if devices is None:
        return
    from tgtrain.ranks.placement import is_one_of_several

    if "RANK" in os.environ or is_one_of_several(os.environ):
        raise InputError(
            "--devices starts processes, and this one was itself started as one of several (by torchrun, or srun). Drop --devices."
        )
    number = number_of(devices)
    if number > 1:
        # Each process finds the pipe in its environment, and takes no notice of --devices.
        command = [sys.executable, "-P", "-m", "tgtrain", *sys.argv[1:]]
        sys.exit(_run(command, number, [] if seen is None else seen))


def _at_end_of(name: str, act: Callable[[], None]) -> None:
    """Act when the process ends, in whatever way, that holds the other end of the pipe whose number stands in the environment."""
    pipe = int(os.environ.pop(name))
    os.set_inheritable(pipe, False)

    def wait() -> None:
        os.read(pipe, 1)
        act()

    threading.Thread(target=wait, name=name, daemon=True).start()


def end(code: int) -> NoReturn:
    """End a command that may be one process of several."""
    from tgtrain.ranks.distributed import leave_at_exit
    from tgtrain.ranks.placement import rank_placement

    if rank_placement(os.environ).world_size > 1:
        code = exit_code(code)
        leave_at_exit(code)
    sys.exit(code)


def count_gpus() -> int:
    """GPUs that torch can use here."""
    # In another process: CUDA, once initialised, holds memory on the GPU as long as the process lives.
    command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout.split()[-1]) if done.returncode == 0 and done.stdout.strip() else 0


def number_of(devices: str) -> int:
    """The processes that --devices asks for. InputError if it is neither a number nor auto."""
    if devices == "auto":
        number = count_gpus()
        say(
            f"{plural(number, 'GPU')}: {plural(number, 'process', 'processes')}"
            if number
            else "no GPU here: one process"
        )
        return max(1, number)
    if not devices.isdecimal() or not 1 <= int(devices) <= 1024:
        raise InputError(f"--devices {devices}: expected a whole number from 1 to 1024, or auto.")
    return int(devices)


def _run(command: Sequence[str], number: int, seen: list[int]) -> int:
    """Start the processes, wait for their end, and return the exit code of the command."""
    from tgtrain.ranks.signals import note_signals

    note_signals(seen)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    read_end, write_end = os.pipe()
    processes: list[subprocess.Popen[bytes]] = []
    # The first process prints for all; the end of what the others print is shown if one of them fails alone.
    outputs = [deque[bytes](maxlen=_MAX_LINES) for _ in range(number)]
    readers: list[threading.Thread] = []
    try:
        for rank, output in enumerate(outputs):
            processes.append(process := _start(command, rank, number, port, read_end))
            if process.stderr is not None:
                readers.append(threading.Thread(target=output.extend, args=(process.stderr,), daemon=True))
                readers[-1].start()
        os.close(read_end)
        codes, first = _wait(processes, seen)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        os.close(write_end)
    for reader in readers:
        reader.join(1.0)  # not for ever: a grandchild may hold the pipe
    return _outcome(codes, first, outputs, seen)


def child_environment() -> dict[str, str]:
    """The environment of a process that runs `python -P -m tgtrain`: it finds this code from any folder."""
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def _start(command: Sequence[str], rank: int, number: int, port: int, pipe: int) -> subprocess.Popen[bytes]:
    from tgtrain.ranks.signals import signals_blocked

    environment = {
        "OMP_NUM_THREADS": str(max(1, usable_cores() // number)),  # unless the user has set it
        **child_environment(),
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        _PIPE: str(pipe),
    }  # fmt: skip
    with signals_blocked():  # in the child, until it can note them
        return subprocess.Popen(
            command,
            env=environment,
            pass_fds=[pipe],
            stdout=subprocess.DEVNULL if rank else None,
            stderr=subprocess.PIPE if rank else None,
            process_group=0,  # a terminal's Ctrl-C reaches it once, through this process
        )


def _wait(processes: list[subprocess.Popen[bytes]], seen: list[int]) -> tuple[list[int | None], int | None]:
    """Forward signals until all have ended, or one has failed and the grace period is over: exit codes, and the first to fail."""
    forwarded, first, until = 0, None, 0.0
    while True:
        codes = [process.poll() for process in processes]
        if first is None and any(codes):
            first = next(rank for rank, code in enumerate(codes) if code)
            until = time.monotonic() + _GRACE_SECONDS
        if None not in codes or (first is not None and time.monotonic() > until):
            return codes, first
        for number in seen[forwarded:]:
            if number == signal.SIGINT and signal.SIGINT in seen[:forwarded]:
                return codes, first  # the second Ctrl-C: end at once
            for process in processes:
                process.send_signal(number)
        forwarded = len(seen)
        time.sleep(_POLL_SECONDS)


def _outcome(codes: list[int | None], first: int | None, outputs: Sequence[deque[bytes]], seen: list[int]) -> int:
    """The exit code of the command, after printing what the first process could not print."""
    if first is None and None in codes:
        say("Interrupted twice: all processes were ended. The same command resumes from the newest checkpoint.")
        return 130
    if first is None:
        return 0
    code, output = codes[first], outputs[first]
    assert code
    if codes[0] is not None and codes[0] > 0:  # the first process has failed with a message
        if -code not in seen and code > 0:
            return codes[0]
    else:
        for line in output:
            say(f"[process {first}] {line.decode(errors='replace').rstrip()}")
    if -code in seen:  # ended by the forwarded signal, which this command does not handle
        return 128 - code
    if code < 0:
        say(
            f"Error: process {first} of {len(codes)} was ended by {signal.Signals(-code).name}; the others were stopped. "
            f"{SIGNAL_REASONS.get(-code, '')}The same command resumes from the newest checkpoint."
        )
        return 1
    return code
