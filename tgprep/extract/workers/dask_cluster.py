"""Shards made by the workers of a Dask cluster, through joblib: each runs a supervised worker process of its own.

VIDEOS and OUT must be the same folders on every machine, or URLs of object stores. A Dask worker that is lost costs nothing: the scheduler gives its
shard to another, and what it left unfinished is removed before the data set is joined.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
import uuid
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import joblib

from manifests.files import Location
from manifests.records import InputError
from tgprep.config import ExtractSettings, WorkerSettings
from tgprep.extract.workers.scratch import refuse_small, scratch_folder
from tgprep.extract.workers.shards import Progress, ShardPlan, ShardResult, StoppedError
from tgprep.extract.workers.supervisor import Supervisor

_POLL_SECONDS = 0.25
_CONNECT_SECONDS = 10
_WORKER_SECONDS = 300  # a batch system may take its time to start them


def run_dask(
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
    """Write the shards on the cluster at `run.scheduler`; results come as they finish, in any order.

    Videos are told when their shard is finished. `stop` ends it: what the cluster has begun is given up. Raises InputError
    where there is no such scheduler, or no Dask here.
    """
    if not plans:
        return
    client = _connect(run.scheduler)
    found: queue.SimpleQueue[ShardResult | BaseException | None] = queue.SimpleQueue()

    def gather() -> None:
        jobs = (
            joblib.delayed(write_shard)(plan, _full(videos), _full(out), scratch and scratch.resolve(), settings, run)
            for plan in plans
        )
        try:
            with joblib.parallel_config(backend="dask", client=client):
                for result in joblib.Parallel(return_as="generator_unordered", batch_size=1)(jobs):
                    found.put(result)
            found.put(None)
        except BaseException as error:  # whatever it is, the waiting side must hear of it
            found.put(error)

    threading.Thread(target=gather, daemon=True).start()
    try:
        while True:
            if stop.is_set():
                raise StoppedError
            try:
                result = found.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if result is None:
                return
            if isinstance(result, BaseException):
                raise result
            for row in result.videos:
                on_progress(Progress(0, row.key, row.num_frames, row))
            yield result
    finally:
        client.close()


def _full(place: Location) -> Location:
    return place.resolve() if isinstance(place, Path) else place


def write_shard(
    plan: ShardPlan,
    videos: Location,
    out: Location,
    scratch: Path | None,
    settings: ExtractSettings,
    run: WorkerSettings,
) -> ShardResult:
    """What a Dask worker runs: one shard, in a worker process that it watches. scratch None: a folder of its own machine."""
    supervisor = Supervisor(0, run, threading.Event(), lambda progress: None)
    with contextlib.ExitStack() as stack:
        stack.callback(supervisor.close)
        if scratch is None:
            folder = stack.enter_context(scratch_folder(run.scratch, out))
            refuse_small(folder, [plan], 1, videos=videos, out=out)
        else:
            folder = scratch / uuid.uuid4().hex
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            folder.mkdir(parents=True)
        return supervisor.write(plan, videos=videos, out=out, scratch=folder, settings=settings)


def _connect(scheduler: str) -> Any:
    try:
        from dask.distributed import Client
    except ImportError:
        raise InputError("--engine dask needs the packages of the extra `dask`: pip install 'tgprep[dask]'.") from None
    try:
        client = Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler {scheduler}: no Dask scheduler answers there ({error}). Start one with `dask scheduler`, and "
            f"workers with `dask worker ADDRESS`."
        ) from None
    try:
        client.wait_for_workers(1, timeout=_WORKER_SECONDS)
    except TimeoutError:
        client.close()  # type: ignore[no-untyped-call]
        raise InputError(
            f"--scheduler {scheduler}: it has had no worker for {_WORKER_SECONDS} s. Start some with `dask worker {scheduler}`."
        ) from None
    return client
