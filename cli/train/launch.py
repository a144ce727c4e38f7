"""`--devices N`: the processes of a training or a test on this machine, started, signalled and ended together. No torch here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import click

from cli.common import say
from manifests.records import InputError

_PIPE = "TGTRAIN_LAUNCHER_PIPE"  # a child's end of a pipe that the launcher never writes to: it closes when the launcher ends
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_GRACE_SECONDS = 15.0  # after one process has failed, for the others to end by themselves
_POLL_SECONDS = 0.05
_KEPT_LINES = 200  # of what each process but the first says


def devices_option(function: click.decorators.FC) -> click.decorators.FC:
    """--devices, for commands that can work in several processes."""
    return click.option(
        "--devices",
        metavar="N|auto",
        help="processes to start on this machine, one a GPU (without GPUs: on CPU); auto: as many as there are GPUs  [default: 1]",
    )(function)


def launched(devices: str | None, seen: list[int] | None = None) -> None:
    """Start the command that is being called in as many processes, wait for them and exit as they did; return in each of them.

    Returns, too, where one process is enough. To be called first in a command: the launcher needs no torch.
    seen: signals that came before, and where those that come go to. InputError for a number that is none, and under torchrun or srun.
    """
    if _PIPE in os.environ:
        _end_with_launcher()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        return
    if devices is None:
        return
    from tgtrain.ranks.slurm import started_with_others

    if "RANK" in os.environ or started_with_others(os.environ):
        raise InputError(
            "--devices starts processes, and this one was itself started as one of several (by torchrun, or srun). Drop --devices."
        )
    number = _number_of(devices)
    if number > 1:
        sys.exit(_run(_command(click.get_current_context()), number, [] if seen is None else seen))


def _number_of(devices: str) -> int:
    if devices == "auto":
        # In a process of its own: CUDA, once looked at, takes memory on the GPU for as long as the process lives.
        counted = subprocess.run(
            [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"],
            capture_output=True,
            text=True,
            check=False,
        )
        words = counted.stdout.split()
        number = int(words[-1]) if counted.returncode == 0 and words else 0
        say(f"{number} GPUs: {number} processes" if number else "no GPU here: one process")
        return max(1, number)
    if not devices.isdecimal() or not 1 <= int(devices) <= 1024:
        raise InputError(f"--devices {devices}: expected a whole number from 1 to 1024, or auto.")
    return int(devices)


def _command(context: click.Context) -> list[str]:
    """The words that call this command again, without --devices."""
    named: list[str] = []
    positional: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if name == "devices" or context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        if isinstance(parameter, click.Argument):
            positional.append(str(value))
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            named.append(parameter.opts[0])
        else:
            for each in value if parameter.multiple else (value,):
                named += [parameter.opts[0], str(each)]
    return [sys.executable, "-P", "-m", "cli.train", context.info_name or "", *named, "--", *positional]


def _run(command: Sequence[str], number: int, seen: list[int]) -> int:
    """Start the processes, see them to their end, and give the exit code of the whole."""
    for name in _FORWARDED:
        signal.signal(name, lambda name, frame: seen.append(name))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given, kept = os.pipe()
    processes: list[subprocess.Popen[str]] = []
    try:
        for rank in range(number):
            processes.append(_start(command, rank, number, port, given))
        os.close(given)
        said = [_reader(process) for process in processes[1:]]
        codes, first = _wait(processes, seen)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        os.close(kept)
    for thread, _ in said:
        thread.join(timeout=5)
    return _outcome(codes, first, [list(lines) for _, lines in said], seen)


def _start(command: Sequence[str], rank: int, number: int, port: int, pipe: int) -> subprocess.Popen[str]:
    sharing = max(1, len(os.sched_getaffinity(0)) // number)
    root = str(Path(__file__).resolve().parent.parent)
    environment = {
        "OMP_NUM_THREADS": str(sharing),  # where the user has said nothing
        **os.environ,
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        _PIPE: str(pipe),
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }  # fmt: skip
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)  # held back in the child until it can note them
    try:
        return subprocess.Popen(
            command,
            env=environment,
            pass_fds=[pipe],
            stdout=None if rank == 0 else subprocess.DEVNULL,  # the first process speaks for all
            stderr=None if rank == 0 else subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,  # a terminal's Ctrl-C reaches it once: from here
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(processes: list[subprocess.Popen[str]], seen: list[int]) -> tuple[list[int | None], int | None]:
    """Forward signals until all have ended or one has failed and the others had their time: exit codes, and the first failure."""
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
                return codes, first  # asked twice: at once
            for process in processes:
                process.send_signal(number)
        forwarded = len(seen)
        time.sleep(_POLL_SECONDS)


def _outcome(codes: list[int | None], first: int | None, said: list[list[str]], seen: list[int]) -> int:
    """The exit code of the whole, after telling what the first process could not tell."""
    if first is None:
        if None in codes:
            say("Interrupted twice: all processes were ended. The same command goes on from the newest checkpoint.")
            return 130
        return 0
    code = codes[first]
    assert code
    own = codes[0] is not None and codes[0] > 0
    if not own:
        for line in said[first - 1] if first else ():
            say(f"[process {first}] {line.rstrip()}")
    if -code in seen:  # a command that does not note signals, and was ended as it was asked to
        return 128 - code
    if code < 0:
        say(
            f"Error: process {first} of {len(codes)} was ended by {signal.Signals(-code).name}; the others were stopped. "
            f"{_REASON.get(-code, '')}The same command goes on from the newest checkpoint."
        )
        return 1
    return codes[0] if own and codes[0] is not None else code


_REASON: dict[int, str] = {
    signal.SIGKILL: "Was the machine out of memory? ",
    signal.SIGSEGV: "A library crashed: `tgtrain doctor` tries them. ",
    signal.SIGBUS: "Is /dev/shm full? `tgtrain doctor` measures it. ",
}


def _reader(process: subprocess.Popen[str]) -> tuple[threading.Thread, deque[str]]:
    """Takes what a process says, the last of it."""
    lines: deque[str] = deque(maxlen=_KEPT_LINES)
    assert process.stderr is not None
    stream = process.stderr

    def read() -> None:
        with stream:
            lines.extend(stream)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread, lines


def _end_with_launcher() -> None:
    """Wait in a thread for the launcher's end of the pipe to close, as it does however the launcher ends; then end this process."""
    pipe = int(os.environ.pop(_PIPE))
    os.set_inheritable(pipe, False)

    def wait() -> None:
        os.read(pipe, 1)
        os._exit(1)

    threading.Thread(target=wait, name="launcher", daemon=True).start()
