"""The Dask engine: shards made by the workers of a cluster, through joblib; each runs its own supervised worker process.

VIDEOS and OUT must be the same folders on every machine, or URLs. The shard of a lost Dask worker goes to another one.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
import time
import uuid
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import joblib

from manifests.console import waiting
from manifests.records import InputError
from tgprep.extract.workers.scratch import refuse_small, scratch_folder
from tgprep.extract.workers.shards import Progress, Request, ShardPlan, ShardResult, StoppedError, publish_shard
from tgprep.extract.workers.supervisor import Supervisor
from tgprep.scan.pool import Pools

_POLL_SECONDS = 0.25
_CONNECT_SECONDS = 10
_WORKER_SECONDS = 300  # a batch system may take its time to start them


def run_dask(plans: Sequence[ShardPlan], request: Request, scratch: Path | None) -> Generator[ShardResult, None, None]:
    """Write the shards on the cluster of the settings' scheduler; results come as they finish, in any order.

    Videos are reported when their shard is finished. InputError if there is no such scheduler, or Dask is not installed.
    """
    if not plans:
        return
    client = _connect(request.workers.scheduler, request.stop)
    results: queue.SimpleQueue[ShardResult | BaseException | None] = queue.SimpleQueue()
    videos, out, *outside = (
        place.resolve() if isinstance(place, Path) else place
        for place in (request.videos, request.out, *request.pools.outside.values())
    )
    pools = Pools(outside=dict(zip(request.pools.outside, outside, strict=True)))
    # Not the request: its event and callbacks stay on this machine.
    facts = {"videos": videos, "out": out, "pools": pools, "settings": request.settings, "workers": request.workers}
    folder = scratch and scratch.resolve()

    # joblib blocks while it waits for the cluster: it runs in a thread, so that this one can look at `stop`.
    def gather() -> None:
        jobs = (joblib.delayed(write_shard)(plan, folder, **facts) for plan in plans)
        try:
            with joblib.parallel_config(backend="dask", client=client):
                for result in joblib.Parallel(return_as="generator_unordered", batch_size=1)(jobs):
                    results.put(result)
            results.put(None)
        except BaseException as error:  # raised below, in the caller's thread
            results.put(error)

    threading.Thread(target=gather, daemon=True).start()
    try:
        while True:
            if request.stop.is_set():
                raise StoppedError
            try:
                result = results.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if result is None:
                return
            if isinstance(result, BaseException):
                raise result
            for row in result.videos:
                request.on_progress(Progress(0, row.key, row.num_frames, row))
            yield result
    finally:
        client.close()


def write_shard(plan: ShardPlan, scratch: Path | None, **facts: Any) -> ShardResult:
    """Write one shard of the request with these facts, on a Dask worker. scratch None: a temporary folder of that machine."""
    request = Request(**facts)
    supervisor = Supervisor(0, request)
    with contextlib.ExitStack() as stack:
        stack.callback(supervisor.close)
        if scratch is None:
            folder = stack.enter_context(scratch_folder(request))
            refuse_small(folder, request, [plan], 1)
        else:
            folder = scratch / uuid.uuid4().hex
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            folder.mkdir(parents=True)
        return publish_shard(*supervisor.write(plan, folder), request.out)


def _connect(scheduler: str, stop: threading.Event) -> Any:
    try:
        from dask.distributed import Client
    except ImportError:
        raise InputError("--engine dask needs the packages of the extra `dask`: pip install 'tgprep[dask]'.") from None
    try:
        client = Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler {scheduler}: no Dask scheduler answers at this address ({error}). Start one with `dask scheduler`, and "
            f"workers with `dask worker ADDRESS`."
        ) from None
    until = time.monotonic() + _WORKER_SECONDS
    with waiting(f"a worker of the Dask cluster at {scheduler}"):
        while not client.scheduler_info()["workers"]:
            if stop.is_set() or time.monotonic() > until:
                client.close()  # type: ignore[no-untyped-call]
                if stop.is_set():
                    raise StoppedError
                text = f"it has had no worker for {_WORKER_SECONDS} s. Start some with `dask worker {scheduler}`."
                raise InputError(f"--scheduler {scheduler}: {text}")
            time.sleep(_POLL_SECONDS)
    return client
