"""Where shards are made. `local`: threads of this process, each supervising one worker process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import joblib

from tgprep.config import ExtractSettings, RunSettings
from tgprep.supervise import Progress, ShardPlan, ShardResult, Supervisor


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
) -> Iterator[ShardResult]:
    """Write the shards with `run.threads` worker processes; results come as they finish, in any order.

    joblib's threads only wait for their worker processes, so that a crashed one takes nothing else with it.
    `stop` ends the run: open shards are discarded and StoppedError is raised.
    """
    num_workers = max(1, min(run.threads or os.cpu_count() or 1, len(plans)))
    idle = [Supervisor(number, run, stop, tell) for number in range(num_workers)]
    everyone = tuple(idle)
    lock = threading.Lock()

    def write(plan: ShardPlan) -> ShardResult:
        with lock:
            supervisor = idle.pop()
        try:
            return supervisor.write(plan, videos=videos, out=out, scratch=scratch, settings=settings)
        except BaseException:
            stop.set()
            raise
        finally:
            with lock:
                idle.append(supervisor)

    parallel = joblib.Parallel(
        n_jobs=num_workers, backend="threading", return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1
    )
    try:
        yield from parallel(joblib.delayed(write)(plan) for plan in plans)
    finally:
        stop.set()
        for supervisor in everyone:
            supervisor.close()
