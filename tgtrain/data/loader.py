"""Loader processes: how they start, what they hand over, how they end."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from io import BytesIO
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from manifests.console import say, waiting
from manifests.machine import SIGNAL_REASONS, usable_cores
from manifests.records import InputError
from tgtrain.data import memory
from tgtrain.data.batch import SslBatch, StepDataset
from tgtrain.errors import RunError
from tgtrain.ranks.signals import end_later, start_helpers

Item = TypeVar("Item")
_ADVICE = "`tgtrain doctor` measures memory and /dev/shm (docker run --shm-size 16g or --ipc host); fewer processes: --set runtime.workers=1 or 0."
_END: Any = object()
_NUM_AHEAD = 2  # batches of each process that are ready or in work while one is used
_RESUME = "The same command goes on from the last checkpoint."


def step_loader(
    dataset: StepDataset, steps: Sequence[int], workers: int, pin: bool, *, num_in_use: int = 0
) -> Iterator[SslBatch]:
    """The batches of the given steps, in order, read ahead by `workers` processes (0: by this one). num_in_use: see `item_loader`."""
    return item_loader(dataset.from_step(steps[0] if len(steps) else 0), steps, workers, pin, num_in_use=num_in_use)


def item_loader(
    dataset: Dataset[Item], order: Sequence[int], workers: int, pin: bool, *, num_in_use: int = 0
) -> Iterator[Item]:
    """The items of a dataset in this order, read ahead by `workers` processes (0: by this one).

    num_in_use: the newest so many items stay valid; older ones may be overwritten. 0: all stay valid.

    Process k reads every `workers`-th item, from the k-th on. An InputError or OSError in a loader process is raised here
    as it was raised there; for any other exception, and if a process cannot start or ends, it is a RunError.
    """
    if not workers:
        keep_pages()  # frames are decoded in this process
    loader = _data_loader(dataset, order, workers, pin, num_in_use)
    try:
        items = iter(loader)
    except (OSError, EOFError) as error:
        if not workers:
            raise
        raise RunError(f"{workers} loader processes cannot start ({error}). {_ADVICE}") from error
    is_small = False  # the shared memory
    try:
        while True:
            with waiting("the next clips of the loader", after_seconds=60.0):
                item = next(items, _END)
            if item is _END:
                return
            if isinstance(item, Exception):
                raise item
            if isinstance(item, _ByValue):
                if not is_small:
                    say(
                        f"note: shared memory (/dev/shm) is too small for clips: they go through pipes, slower. {_ADVICE}"
                    )
                    is_small = True
                item = item.value()
            yield item
    except RuntimeError as error:
        if not workers or "DataLoader worker" not in str(error):
            raise
        ended = [process.exitcode for process in getattr(items, "_workers", ()) if process.exitcode]
        how = f"was ended by {signal.Signals(-ended[0]).name}" if ended and ended[0] < 0 else "has ended"
        reason = SIGNAL_REASONS.get(-ended[0], "") if ended else ""
        raise RunError(f"a loader process {how}. {reason}{_ADVICE} {_RESUME}") from error


def _data_loader(
    dataset: Dataset[Item], order: Sequence[int], workers: int, pin: bool, num_in_use: int
) -> DataLoader[Item | _ByValue | Exception]:
    num_in_use = min(num_in_use, 1) if pin else num_in_use  # the caller gets copies
    start = partial(start_worker, num_in_memory=_num_in_memory(workers, num_in_use)) if workers else None
    return DataLoader(
        _Sent(dataset) if workers else dataset,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        prefetch_factor=_NUM_AHEAD if workers else None,
        pin_memory=pin,
        worker_init_fn=start,
        collate_fn=_unchanged,
        multiprocessing_context=worker_context() if workers else None,
    )


def _num_in_memory(workers: int, num_in_use: int) -> int:
    """How many items of one process must stay untouched; 0: memory is never reused.

    A process begins its next item when one of its own is delivered. Its share of the items in use includes that one, and
    _NUM_AHEAD others are ready or in work.
    """
    return _NUM_AHEAD + -(-num_in_use // workers) if num_in_use else 0


class _Sent(Dataset[Item | "_ByValue" | Exception]):
    """A dataset whose items are ready to leave a loader process, and whose errors are values, which keep their type and errno."""

    def __init__(self, dataset: Dataset[Item]) -> None:
        self.dataset = dataset

    def __getitem__(self, number: int) -> Item | _ByValue | Exception:
        try:
            memory.of_process.next_item()
            return _sent(self.dataset[number])
        except Exception as error:
            if isinstance(error, InputError | OSError):
                # Some libraries raise errors that cannot be pickled, or not be unpickled.
                with contextlib.suppress(Exception):
                    pickle.loads(pickle.dumps(error))
                    return error
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            return RunError(f"a loader process failed ({type(error).__name__}: {error}; {where}). {_RESUME}")


def _sent(item: Item) -> Item | _ByValue:
    """The item with its tensors in shared memory, or by value if there is not enough of it."""
    found = _Tensors(BytesIO())
    found.dump(item)
    try:
        for tensor in found.tensors:
            tensor.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError:  # as in a container, which has 64 MB unless it asks for more
        memory.of_process.keep_none()
        content = BytesIO()
        _Values(content).dump(item)
        return _ByValue(content.getvalue())
    return item


class _Tensors(pickle.Pickler):
    """Lists the tensors of an object; what it writes is of no use."""

    def __init__(self, file: BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[torch.Tensor] = []

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        self.tensors.append(value)
        return int, ()


class _Values(pickle.Pickler):
    """Pickles tensors as arrays, with their content, where torch names a place in shared memory."""

    def reducer_override(self, value: Any) -> Any:
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, torch.Tensor) else NotImplemented


class _ByValue:
    """An item as bytes."""

    def __init__(self, content: bytes) -> None:
        self.content: bytes | None = content
        self.pinned: Any = None

    def value(self) -> Any:
        """The item."""
        return self.pinned if self.content is None else pickle.loads(self.content)

    def pin_memory(self) -> _ByValue:
        """See `SslBatch.pin_memory`; called by the loader."""
        self.pinned, self.content = self.value().pin_memory(), None
        return self


def worker_context() -> BaseContext:
    """How loader processes start: from a clean server process that has done its imports.

    Forking this process would copy locks of threads that torch and OpenCV have started in it: such workers hang.
    """
    start_helpers()
    return multiprocessing.get_context("forkserver")


def default_workers() -> int:
    """One less than the cores this process may use (its share of them with `--devices` or torchrun); 1 to 16."""
    num_sharing = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return max(1, min(16, usable_cores() // num_sharing - 1))


def _unchanged(item: Any) -> Any:
    return item


def start_worker(number: int, num_in_memory: int = 0) -> None:
    """Set up a loader process: one computing thread, buffers that stay allocated, and an end with the training process."""
    memory.of_process.num_items = num_in_memory
    # Objects of modules live as long as the process: the garbage collector need not look through them again and again.
    gc.freeze()
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
