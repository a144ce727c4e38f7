"""Where shards are made. `local`: threads of this process, each supervising one worker process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import joblib

from manifests import object_store as stores
from manifests.files import Location, is_url
from manifests.machine import usable_cores
from tgprep.config import ExtractSettings, WorkerSettings
from tgprep.extract.workers.shards import Progress, ShardPlan, ShardResult, StoppedError, put_in_place
from tgprep.extract.workers.supervisor import Supervisor

_STOP_SECONDS = 60.0


def num_workers(run: WorkerSettings, plans: Sequence[ShardPlan]) -> int:
    """Worker processes that `run_local` starts."""
    return max(1, min(run.threads or usable_cores(), len(plans)))


def run_local(
    plans: Sequence[ShardPlan],
    *,
    videos: Location,
    out: Location,
    scratch: Path | None,
    settings: ExtractSettings,
    run: WorkerSettings,
    stop: threading.Event,
    on_progress: Callable[[Progress], None],
) -> Generator[ShardResult, None, None]:
    """Write the shards with `run.threads` worker processes; results come as they finish, in any order.

    joblib's threads only wait for their worker processes, so that a crashed one takes nothing else with it; for an object
    store there are twice as many, so that a worker makes the next shard while the one before is uploaded.
    `stop` ends the run: open shards are discarded and StoppedError is raised. Close the generator to end it early: no
    process and no unfinished file is left once it is closed.
    """
    if not plans:
        return
    assert scratch is not None
    count = num_workers(run, plans)
    idle = [Supervisor(number, run, stop, on_progress) for number in range(count)]
    everyone = tuple(idle)
    changed = threading.Condition()
    num_active = 0
    first_error: list[BaseException] = []
    whole = False

    def write(plan: ShardPlan) -> ShardResult:
        nonlocal num_active
        with changed:
            changed.wait_for(lambda: idle or stop.is_set())
            if stop.is_set():  # handed out meanwhile, or waiting: the workers may be gone
                raise StoppedError
            num_active += 1
            supervisor = idle.pop()
        try:
            try:
                made = supervisor.make(plan, videos=videos, out=out, scratch=scratch, settings=settings)
            finally:
                with changed:
                    idle.append(supervisor)
                    changed.notify_all()
            return put_in_place(made, out)
        except BaseException as error:
            if not stop.is_set():
                first_error.append(error)
            stop.set()
            raise
        finally:
            with changed:
                num_active -= 1
                changed.notify_all()

    parallel = joblib.Parallel(
        n_jobs=count * (2 if is_url(out) else 1),
        backend="threading",
        return_as="generator_unordered",
        pre_dispatch="n_jobs",
        batch_size=1,
    )
    try:
        for result in parallel(joblib.delayed(write)(plan) for plan in plans):  # noqa: UP028 - stop before it is closed
            yield result
        whole = True
    except StoppedError:
        # The other threads were told to stop by the one that failed, and may be heard first.
        raise (first_error[0] if first_error else StoppedError()) from None
    finally:
        if not whole:  # else the caller may go on: what --add and --retry-failed do behind an unfinished extraction
            stop.set()
            stores.giving_up.set()
        with changed:
            changed.wait_for(lambda: num_active == 0, timeout=_STOP_SECONDS)
        stores.giving_up.clear()
        for supervisor in everyone:
            supervisor.close()
