"""Loader processes: how they start, what they hand over, how they end."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from manifests.object_store import UnreachableError
from manifests.records import InputError
from tgtrain.data.batch import SslBatch, StepDataset
from tgtrain.ranks.signals import end_later, start_helpers

Item = TypeVar("Item")


def step_loader(dataset: StepDataset, steps: Sequence[int], workers: int, pin: bool) -> Iterator[SslBatch]:
    """The batches of the given steps, in order, prepared ahead by `workers` processes (0: by this one)."""
    streamed = dataset.in_order(steps)
    loader: DataLoader[SslBatch] = DataLoader(
        dataset if streamed is None else streamed,
        batch_size=None,
        sampler=steps if streamed is None else None,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=pin,
        worker_init_fn=start_worker if workers else None,
        collate_fn=_same,
        multiprocessing_context=worker_context() if workers else None,
    )
    with _plain_errors(workers):
        yield from loader


def item_loader(dataset: Dataset[Item], order: Sequence[int], workers: int, pin: bool) -> Iterator[Item]:
    """The items of any data set in this order, prepared ahead by `workers` processes (0: by this one)."""
    loader: DataLoader[Item] = DataLoader(
        dataset,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=start_worker if workers else None,
        collate_fn=_same,
        multiprocessing_context=worker_context() if workers else None,
    )
    with _plain_errors(workers):
        yield from loader


@contextmanager
def _plain_errors(workers: int) -> Iterator[None]:
    """Within, errors of loader processes are raised as the user needs them: without the traceback that torch puts in front."""
    if not workers:
        keep_pages()  # the frames are decoded here
    try:
        yield
    except InputError as error:
        raise InputError(str(error).rsplit("InputError: ", 1)[-1].strip()) from None
    except OSError as error:  # an UnreachableError, too
        if error.errno is not None:
            raise
        # What is left of one of a loader process is its text alone, as Python prints an OSError.
        found = re.search(r"\[Errno (\d+)\] ([^\n]*?)(?:: '([^\n]*)')?\s*$", str(error))
        if found:
            raise type(error)(int(found[1]), found[2], found[3]) from None
        if isinstance(error, UnreachableError):
            raise UnreachableError(errno.EIO, str(error), "the data set") from None
        raise


def worker_context() -> BaseContext:
    """How loader processes start: from a clean server process that has done its imports.

    Forking this process would copy the locks of threads that torch and OpenCV have started in it: such workers hang.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tgtrain.data.batch", "tgtrain.evaluate.evaluate"])
    start_helpers()
    return context


def default_workers() -> int:
    """One less than the cores this process may use (its share of them, under `--devices` or torchrun), at least 1, at most 16."""
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return max(1, min(16, len(os.sched_getaffinity(0)) // sharing - 1))


def _same(batch: Any) -> Any:
    return batch


def start_worker(number: int) -> None:
    """Set up a loader process: one thread of work, memory that is kept, and an end when the training process ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    end_later()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    keep_pages()


def _end_with_parent() -> None:
    """Wait for the end of the training process, then end this one.

    torch looks whether the parent has changed, but the parent of a process that the server started is the server, and the
    server lives while the worker holds its pipe: after kill -9 of the training process both would stay for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def keep_pages() -> None:
    """Tell glibc not to give frame-sized buffers back after every frame: measured, up to 48 % more clips a second."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-1, 256 * 1024**2)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 64 * 1024**2)  # M_MMAP_THRESHOLD
    except (OSError, AttributeError):
        pass  # not glibc: nothing to tell
