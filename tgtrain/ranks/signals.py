"""Signals that ask a run to stop, and how its helper processes survive them.

A terminal sends SIGINT to every process of the command, and Slurm sends SIGTERM and SIGUSR1 to every process of a job step:
to loader processes, too, which must live until the step is done and saved. But none of them waits any longer for a store
that does not answer, because the answer may never come.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from manifests import object_store as stores
from manifests.console import say
from tgtrain.ranks.placement import is_one_of_several

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 0}
_AT_ONCE_SECONDS = (
    5.0  # after a signal: from then on the same one again ends a process that may be waiting for others for ever
)
_LAST_SECONDS = 30.0  # that a loader process goes on after SIGTERM, until the step is done and saved


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals of EXIT_CODES that count here: under nohup the end of the terminal does not."""
    return tuple(
        number for number in EXIT_CODES if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    )


def note_signals(seen: list[int], leave: Callable[[int], None] = os._exit) -> None:
    """Append the signals of EXIT_CODES to `seen` instead of ending the process, also those that were blocked until now.

    A thread notes them: the main one may be in a call of torch, which waits for other processes and looks at no signal. leave: of
    a process of several that gets a signal again, see _AT_ONCE_SECONDS.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    def note() -> None:
        first: dict[int, float] = {}
        while number := os.read(read_end, 1):
            if (name := number[0]) not in EXIT_CODES:
                continue
            seen.append(name)
            stop_waiting()
            since = time.monotonic() - first.setdefault(name, time.monotonic())
            if since > _AT_ONCE_SECONDS and name != signal.SIGUSR1 and is_one_of_several(os.environ):
                say("Asked to stop once more: ended at once. The same command resumes from the newest checkpoint.")
                leave(EXIT_CODES[signal.Signals(name)])

    threading.Thread(target=note, name="signals", daemon=True).start()
    for number in stop_signals():
        signal.signal(number, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_CODES)


def stop_waiting() -> None:
    """Let neither this process nor its loader processes wait for a store that does not answer; those that answer are read."""
    stores.giving_up.set()
    for process in multiprocessing.active_children():
        process.terminate()  # see `end_later`


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Deliver signals of EXIT_CODES after the block; processes started within never get them, unless they call `note_signals`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_CODES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_helpers() -> None:
    """Start the fork server of loader processes and the tracker of shared memory, so that neither gets the signals.

    The server imports what loader processes need. Started before this process imports torch, it does so at the same time.
    """
    multiprocessing.forkserver.set_forkserver_preload(["tgtrain.data.batch", "tgtrain.evaluate.evaluate"])
    with signals_blocked():
        multiprocessing.resource_tracker.ensure_running()  # which unblocks the signals
    with signals_blocked():
        multiprocessing.forkserver.ensure_running()


def end_later(leave: Callable[[int], None] = os._exit, seconds: float = _LAST_SECONDS) -> None:
    """Let a loader process end some seconds after SIGTERM, with which torch ends one that is stuck, and Slurm ends all."""

    def begin(number: int, frame: object) -> None:
        threading.Thread(target=stores.giving_up.set, daemon=True).start()  # see `note_signals`
        timer = threading.Timer(seconds, leave, (1,))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, begin)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
