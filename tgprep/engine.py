"""Where shards are made. `local`: threads of this process, each supervising one worker process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import joblib

from tgprep.config import ExtractSettings, RunSettings
from tgprep.supervise import Progress, ShardPlan, ShardResult, StoppedError, Supervisor

_STOP_SECONDS = 60.0


def run_local(
    plans: Sequence[ShardPlan],
    *,
    videos: Path,
    out: Path,
    scratch: Path,
    settings: ExtractSettings,
    run: RunSettings,
    stop: threading.Event,
    tell: Callable[[Progress], None],
) -> Generator[ShardResult, None, None]:
    """Write the shards with `run.threads` worker processes; results come as they finish, in any order.

    joblib's threads only wait for their worker processes, so that a crashed one takes nothing else with it.
    `stop` ends the run: open shards are discarded and StoppedError is raised. Close the generator to end it early: no
    process and no unfinished file is left once it is closed.
    """
    num_workers = max(1, min(run.threads or len(os.sched_getaffinity(0)), len(plans)))
    idle = [Supervisor(number, run, stop, tell) for number in range(num_workers)]
    everyone = tuple(idle)
    changed = threading.Condition()
    first_error: list[BaseException] = []

    def write(plan: ShardPlan) -> ShardResult:
        with changed:
            supervisor = idle.pop()
        try:
            return supervisor.write(plan, videos=videos, out=out, scratch=scratch, settings=settings)
        except BaseException as error:
            if not stop.is_set():
                first_error.append(error)
            stop.set()
            raise
        finally:
            with changed:
                idle.append(supervisor)
                changed.notify_all()

    parallel = joblib.Parallel(
        n_jobs=num_workers, backend="threading", return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1
    )
    try:
        for result in parallel(joblib.delayed(write)(plan) for plan in plans):  # noqa: UP028 - stop before it is closed
            yield result
    except StoppedError:
        # The other threads were told to stop by the one that failed, and may be heard first.
        raise (first_error[0] if first_error else StoppedError()) from None
    finally:
        stop.set()
        with changed:
            changed.wait_for(lambda: len(idle) == num_workers, timeout=_STOP_SECONDS)
        for supervisor in everyone:
            supervisor.close()
