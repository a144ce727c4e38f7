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
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from manifests import object_store as stores

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 0}
_LAST_SECONDS = 30.0  # that a loader process goes on after SIGTERM, until the step is done and saved


def note_signals(seen: list[int]) -> None:
    """Append the signals of EXIT_CODES to `seen` instead of ending the process, also those that were blocked until now."""

    def note(number: int, frame: object) -> None:
        seen.append(number)
        # In a thread: the signal may have interrupted code that holds the lock which the function needs.
        threading.Thread(target=stop_waiting, daemon=True).start()

    for number in EXIT_CODES:
        signal.signal(number, note)
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
    """Start the fork server of loader processes and the tracker of shared memory, so that neither gets the signals."""
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
