"""Signals that ask a run to stop, and how they are kept from the processes that help it.

A terminal sends SIGINT to every process of the command, and Slurm sends SIGTERM and SIGUSR1 to every process of a job
step: loader processes, too, that do not know what to do with them. They must live until the step is done and saved. But none
waits any longer for a store that does not answer: what a run that was asked to stop waits for may never come.
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
_LAST_SECONDS = 30.0  # that a loader process serves on after SIGTERM, for the step to be done and saved


def note_signals(seen: list[int]) -> None:
    """From now on the signals of EXIT_CODES are noted in `seen` instead of ending the process; those held back until now, too."""

    def note(number: int, frame: object) -> None:
        seen.append(number)
        _beside(wait_no_longer)

    for number in EXIT_CODES:
        signal.signal(number, note)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_CODES)


def wait_no_longer() -> None:
    """Neither this process nor its loader processes wait from now on for a store that does not answer; what does is read."""
    stores.giving_up.set()
    for process in multiprocessing.active_children():
        process.terminate()  # see `end_later`


def _beside(function: Callable[[], None]) -> None:
    """Call it in a thread: a signal may come while this one holds the very lock that the function wants."""
    threading.Thread(target=function, daemon=True).start()


@contextmanager
def held_back() -> Iterator[None]:
    """Signals of EXIT_CODES come after the block; processes started within never get them, unless they call `note_signals`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_CODES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_helpers() -> None:
    """Start the server that loader processes come from, and the tracker of shared memory, so that neither gets the signals."""
    with held_back():
        multiprocessing.resource_tracker.ensure_running()  # lets the signals in again
    with held_back():
        multiprocessing.forkserver.ensure_running()


def end_later(leave: Callable[[int], None] = os._exit, seconds: float = _LAST_SECONDS) -> None:
    """For a loader process: of SIGTERM (torch's own means to end one that is stuck, and Slurm's for all) it ends after a while."""

    def begin(number: int, frame: object) -> None:
        _beside(stores.giving_up.set)
        timer = threading.Timer(seconds, leave, (1,))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, begin)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
