"""The local engine: threads of this process, each supervising one worker process."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import joblib

from manifests import object_store as stores
from manifests.files import is_url
from manifests.machine import usable_cores
from tgprep.config import WorkerSettings
from tgprep.extract.workers.shards import Request, ShardPlan, ShardResult, StoppedError, publish_shard
from tgprep.extract.workers.supervisor import Supervisor

_STOP_SECONDS = 60.0


def num_workers(settings: WorkerSettings, plans: Sequence[ShardPlan]) -> int:
    """Worker processes that `run_local` starts."""
    return max(1, min(settings.threads or usable_cores(), len(plans)))


def run_local(plans: Sequence[ShardPlan], request: Request, scratch: Path | None) -> Generator[ShardResult, None, None]:
    """Write the shards with `threads` worker processes; results come as they finish, in any order.

    A set `request.stop` discards open shards and raises StoppedError. Close the generator to end early: no process and no unfinished file is left.
    """
    if not plans:
        return
    assert scratch is not None
    count = num_workers(request.workers, plans)
    pool = _Supervisors(count, request, scratch)
    num_threads = count * (2 if is_url(request.out) else 1)  # as many threads again for uploads
    how: dict[str, Any] = {"backend": "threading", "return_as": "generator_unordered", "pre_dispatch": "n_jobs"}
    parallel = joblib.Parallel(num_threads, batch_size=1, **how)
    complete = False
    try:
        for result in parallel(joblib.delayed(pool.write)(plan) for plan in plans):  # noqa: UP028 - see `finally`
            yield result
        complete = True
    except StoppedError:
        # One thread failed and stopped the others, whose StoppedError may arrive before its error.
        raise (pool.first_error[0] if pool.first_error else StoppedError()) from None
    finally:
        pool.close(complete)


class _Supervisors:
    """The supervisors of a run, handed out to its threads."""

    def __init__(self, count: int, request: Request, scratch: Path) -> None:
        self.request = request
        self.scratch = scratch
        self.idle = [Supervisor(number, request, self.should_stop) for number in range(count)]
        self.supervisors = tuple(self.idle)
        self.changed = threading.Condition()
        self.num_active = 0
        self.ended = threading.Event()  # a shard failed, or the caller wants no more
        self.first_error: list[BaseException] = []

    def should_stop(self) -> bool:
        return self.ended.is_set() or self.request.stop.is_set()

    def write(self, plan: ShardPlan) -> ShardResult:
        with self.changed:
            self.changed.wait_for(lambda: self.idle or self.should_stop())
            if self.should_stop():  # the supervisors may be closed by now
                raise StoppedError
            self.num_active += 1
            supervisor = self.idle.pop()
        try:
            # The supervisor is free for the next shard while this one is published: an upload takes long.
            try:
                temporary, result = supervisor.write(plan, self.scratch)
            finally:
                with self.changed:
                    self.idle.append(supervisor)
                    self.changed.notify_all()
            return publish_shard(temporary, result, self.request.out)
        except BaseException as error:
            if not self.should_stop():
                self.first_error.append(error)
            self.ended.set()
            raise
        finally:
            with self.changed:
                self.num_active -= 1
                self.changed.notify_all()

    def close(self, complete: bool) -> None:
        """Wait for the threads, then end the worker processes. If the run is not complete, threads stop and give up on stores."""
        if not complete:
            self.ended.set()
            stores.giving_up.set()
        with self.changed:
            self.changed.wait_for(lambda: self.num_active == 0, timeout=_STOP_SECONDS)
        stores.giving_up.clear()
        for supervisor in self.supervisors:
            supervisor.close()
