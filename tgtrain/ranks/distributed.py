"""The processes of a run: how they form a group, on which device each works, and how they stop together."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.util import Finalize
from queue import SimpleQueue
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from manifests.console import waiting
from manifests.records import InputError
from tgtrain.errors import RunError
from tgtrain.ranks.failure_watch import FailureWatch, leave, message_and_code
from tgtrain.ranks.placement import RankPlacement, meeting_address, rank_placement

_POLL_SECONDS, _POLL_STEPS = 5.0, 10
_WAIT_SECONDS = 0.05  # between two looks at what has come
_SHOWN = 5  # missing processes that are named
_TIMEOUT = timedelta(minutes=30)  # of a collective: the longest that one process may keep the others waiting

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of the run: rank 0 <= rank < world_size, and its device."""

    rank: int
    world_size: int
    device: torch.device
    stop_requested: Callable[[], bool] = lambda: False
    """Whether some process was asked to stop, as far as it is known here; all know it within a second."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and the log."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order of rank, on every rank."""
        if self.world_size == 1:
            return [value]
        self.barrier()
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return any(self.gather(flag))

    def barrier(self) -> None:
        """Wait for all ranks. Signals are noted meanwhile."""
        if self.world_size == 1:
            return
        work = dist.barrier(async_op=True)
        pause = 1e-4
        while not work.is_completed():
            time.sleep(pause)
            pause = min(0.05, 2 * pause)
        work.wait()


class LostError(RunError):
    """Another process of the run has ended, or cannot be reached any more."""


class StopPoll:
    """Finds out, after the same step on all ranks, whether one of them was asked to stop.

    The ranks wait for each other at every poll, so it happens every 10 steps, and every 5 seconds if steps are slow, by the
    slowest rank's measure, which all of them receive.
    """

    def __init__(self, ranks: Ranks, should_stop: Callable[[], bool]) -> None:
        self.ranks, self.should_stop = ranks, should_stop
        self.every_steps = 1
        self.num_steps, self.began = 0, time.monotonic()

    def after_step(self) -> bool:
        """Whether to stop now. All ranks must call this after every step."""
        if self.ranks.world_size == 1:
            return self.should_stop()
        self.num_steps += 1
        if self.num_steps < self.every_steps:
            return False
        answers = self.ranks.gather((self.should_stop(), (time.monotonic() - self.began) / self.num_steps))
        self.every_steps = steps_between_polls(max(seconds for _, seconds in answers))
        self.num_steps, self.began = 0, time.monotonic()
        return any(stop for stop, _ in answers)


def steps_between_polls(seconds_per_step: float) -> int:
    """How many steps take 5 seconds: at least 1, at most 10."""
    return max(1, min(_POLL_STEPS, int(_POLL_SECONDS / max(1e-9, seconds_per_step))))


@contextmanager
def process_group(device: str, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Ranks]:
    """Join the process group that torchrun, `--devices` or Slurm describes in the environment, and leave it at the end.

    device: auto, cpu, cuda, cuda:1. should_stop: whether this process was asked to stop, see `Ranks.stop_requested`.
    A process that leaves by an exception reports it to the others: they end too, with its message. KeyboardInterrupt if it was
    asked to stop while it waited for them.
    """
    place = rank_placement(os.environ)
    if place.world_size > 1 and device.startswith("cuda:"):
        raise InputError(
            f"device {device} is one GPU, and there are {place.world_size} processes: use cuda, one for each."
        )
    chosen = choose_device(device, gpu_of(place, torch.cuda.device_count()))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if place.world_size == 1:
        yield Ranks(0, 1, chosen, should_stop)
        return
    store = _meet(place, should_stop)
    watch = FailureWatch(store, place.rank, place.world_size, should_stop)
    try:
        backend = "nccl" if chosen.type == "cuda" else "gloo"

        def join() -> None:
            if chosen.type == "cuda":
                torch.cuda.set_device(chosen)  # each thread has its own
            dist.init_process_group(
                backend, store=store, rank=place.rank, world_size=place.world_size, timeout=_TIMEOUT
            )

        with waiting(f"the other {place.world_size - 1} of {place.world_size} processes to join"):
            _stoppable(join, should_stop)
        ranks = Ranks(place.rank, place.world_size, chosen, watch.stop_requested)
        yield ranks
        watch.ending = True  # from here on the process that runs the store may end before this one polls it again
        ranks.barrier()
    except BaseException as error:
        # The group is not left in order: that could mean to wait for others who wait for this process.
        other = watch.fail(error)
        watch.close()
        raised: BaseException = error
        # gloo raises a plain RuntimeError where a process has ended: then the message is that of the process which failed.
        if isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error)):
            if other is None:
                reason = str(error).strip().partition("\n")[0].partition(". This is typically")[0]  # gloo's advice
                raised = LostError(f"the processes of the run have lost each other: another one has ended ({reason}).")
            else:
                kind = InputError if other.code == 2 else LostError
                raised = kind(f"process {other.rank} of {place.world_size}: {other.text}")
        leave_at_exit(message_and_code(raised)[1])
        if raised is error:
            raise
        raise raised from error
    watch.close()
    dist.destroy_process_group()


def leave_at_exit(code: int) -> None:
    """End this process with the code once all else is closed: threads of a process group may abort an interpreter that ends."""
    Finalize(None, leave, (code,), exitpriority=-1000)


def _meet(place: RankPlacement, should_stop: Callable[[], bool]) -> Store:
    """The store that all processes share, once every one of them has come. InputError if they do not meet."""
    rank, world_size = place.rank, place.world_size
    host = _stoppable(lambda: meeting_address(place.host or os.environ["MASTER_ADDR"], os.environ), should_stop)
    os.environ["MASTER_ADDR"] = host  # torch and NCCL read these variables, too
    if place.by_slurm:
        os.environ |= {
            "RANK": str(place.rank), "WORLD_SIZE": str(place.world_size), "LOCAL_RANK": str(place.local_rank),
            "MASTER_PORT": str(place.port),
        }  # fmt: skip
    port = os.environ.get("MASTER_PORT", "")
    missing = [0] if rank else list(range(1, world_size))

    def meet() -> Store:
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun's own store
            store: Store = next(rendezvous("env://", rank, world_size, timeout=_TIMEOUT))[0]
        else:
            how: dict[str, Any] = {"wait_for_workers": False, "multi_tenant": True, "timeout": _TIMEOUT}
            store = dist.TCPStore(host, int(port), world_size, is_master=rank == 0, **how)  # type: ignore[attr-defined]
        arrived = PrefixStore("arrived", store)
        arrived.set(str(rank), "")
        until = time.monotonic() + _TIMEOUT.total_seconds()
        while missing:
            missing[:] = [other for other in missing if not arrived.check([str(other)])]
            if missing and time.monotonic() > until:
                raise RuntimeError(f"{who()} did not come within {_TIMEOUT.total_seconds() / 60:.0f} min")
            time.sleep(0.1 * bool(missing))
        return store

    def who() -> str:
        shown = ", ".join(map(str, missing[:_SHOWN])) + (" ..." if len(missing) > _SHOWN else "")
        return f"process{'es' * (len(missing) > 1)} {shown} of {world_size}"

    try:
        with waiting(lambda: f"{who()} at {host}:{port}"):
            return _stoppable(meet, should_stop)
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise InputError(
            f"process {rank} of {world_size} cannot meet the others at {host}:{port} ({first}). Set MASTER_ADDR to the "
            "machine of process 0, as the others reach it, and MASTER_PORT to a port that is free there."
        ) from None


def _stoppable(function: Callable[[], Value], should_stop: Callable[[], bool]) -> Value:
    """Call in a thread what torch does without a look at signals. KeyboardInterrupt if a stop is requested before its end."""
    answer: SimpleQueue[tuple[Value | None, BaseException | None]] = SimpleQueue()

    def call() -> None:
        try:
            answer.put((function(), None))
        except BaseException as error:  # raised below, in the caller's thread
            answer.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    while answer.empty():
        if should_stop():
            raise KeyboardInterrupt
        time.sleep(_WAIT_SECONDS)
    value, error = answer.get()
    if error is not None:
        raise error
    return cast("Value", value)


def gpu_of(place: RankPlacement, num_visible: int) -> int:
    """Index of this process's GPU among those that it sees. A Slurm task may see one GPU alone, under torchrun each sees all."""
    return 0 if place.by_slurm and num_visible == 1 else place.local_rank


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of a setting: `auto` is the GPU of this local rank if there is one. InputError if it does not exist."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r}: expected auto, cpu, cuda or cuda:N.")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError("device cuda: this machine shows no CUDA device. Use auto or cpu.")
        index = local_rank if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise InputError(f"device cuda:{index}: this machine has {torch.cuda.device_count()} CUDA devices.")
        device = torch.device("cuda", index)
    return device
