"""Loader processes: how they start, what they hand over, how they end."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from manifests.machine import usable_cores
from manifests.records import InputError
from tgtrain.data.batch import SslBatch, StepDataset
from tgtrain.ranks.signals import end_later, start_helpers

Item = TypeVar("Item")


def step_loader(dataset: StepDataset, steps: Sequence[int], workers: int, pin: bool) -> Iterator[SslBatch]:
    """The batches of the given steps, in order, read ahead by `workers` processes (0: by this one)."""
    return item_loader(dataset.from_step(steps[0] if len(steps) else 0), steps, workers, pin)


def item_loader(dataset: Dataset[Item], order: Sequence[int], workers: int, pin: bool) -> Iterator[Item]:
    """The items of a dataset in this order, read ahead by `workers` processes (0: by this one).

    Process k reads every `workers`-th item, from the k-th on. An InputError or OSError in a loader process is raised here
    as it was raised there; any other exception comes with its traceback, as torch reports it.
    """
    if not workers:
        keep_pages()  # frames are decoded in this process
    loader: DataLoader[Item | InputError | OSError] = DataLoader(
        _WithFailures(dataset) if workers else dataset,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=start_worker if workers else None,
        collate_fn=_unchanged,
        multiprocessing_context=worker_context() if workers else None,
    )
    for item in loader:
        if isinstance(item, InputError | OSError):
            raise item
        yield item


class _WithFailures(Dataset[Item | InputError | OSError]):
    """A dataset whose errors are values: torch sends exceptions as text, which loses their type and their errno."""

    def __init__(self, dataset: Dataset[Item]) -> None:
        self.dataset = dataset

    def __getitem__(self, number: int) -> Item | InputError | OSError:
        try:
            return self.dataset[number]
        except (InputError, OSError) as error:
            # Some libraries raise errors that cannot be pickled, or not be unpickled; torch then sends their text.
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:
                raise error from None
            return error


def worker_context() -> BaseContext:
    """How loader processes start: from a clean server process that has done its imports.

    Forking this process would copy locks of threads that torch and OpenCV have started in it: such workers hang.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tgtrain.data.batch", "tgtrain.evaluate.evaluate"])
    start_helpers()
    return context


def default_workers() -> int:
    """One less than the cores this process may use (its share of them with `--devices` or torchrun); 1 to 16."""
    num_sharing = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return max(1, min(16, usable_cores() // num_sharing - 1))


def _unchanged(item: Any) -> Any:
    return item


def start_worker(number: int) -> None:
    """Set up a loader process: one computing thread, buffers that stay allocated, and an end with the training process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    end_later()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    keep_pages()


def _end_with_parent() -> None:
    """Wait for the end of the training process, then end this one."""
    # torch checks whether the parent has changed, but that is the server, which lives as long as the worker holds its pipe:
    # after kill -9 of the training process both would stay forever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def keep_pages() -> None:
    """Keep glibc from returning frame-sized buffers to the kernel after every frame: measured, up to 48 % more clips a second."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-1, 256 * 1024**2)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 64 * 1024**2)  # M_MMAP_THRESHOLD
