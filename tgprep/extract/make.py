"""The shards of a plan: written by an engine, noted in the journal as each is finished."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from manifests.records import FAILED
from tgprep.extract.work_folder import save_done
from tgprep.extract.workers.local import num_workers, run_local
from tgprep.extract.workers.request import Engine, Request, Workload
from tgprep.extract.workers.scratch import refuse_small, scratch_folder
from tgprep.extract.workers.shards import ShardPlan, ShardResult, StoppedError


class TooManyFailuresError(Exception):
    """More videos failed than --max-failures allows; finished shards stay."""


def make_shards(
    request: Request,
    shards: Sequence[ShardPlan],
    done: Mapping[str, ShardResult],
    check_owner: Callable[[], None],
    scratch_name: str = "scratch",
) -> list[ShardResult]:
    """Write the shards that the journal, `done`, does not have; the results of all, in order.

    check_owner: raises if another run took OUT over. scratch_name: folder for spools in the work folder. Raises StoppedError, ShardError,
    TooManyFailuresError; finished shards stay.
    """
    results = {shard.name: done[shard.name] for shard in shards if shard.name in done}
    todo = [shard for shard in shards if shard.name not in done]
    request.on_planned(_workload(shards, results.values()))
    num_failed = num_failures(results.values())
    max_failures = request.workers.max_failures
    engine: Engine = run_local
    if request.workers.engine == "dask":
        from tgprep.extract.workers.dask_cluster import run_dask as engine
    with contextlib.ExitStack() as stack:
        scratch = _scratch(request, todo, scratch_name, stack) if todo else None
        # Closing the generator ends the workers, whatever is raised below.
        new_results = stack.enter_context(contextlib.closing(engine(todo, request, scratch)))
        for result in new_results:
            check_owner()
            save_done(request.work, result)
            results[result.shard.name] = result
            num_failed += num_failures([result])
            if 0 <= max_failures < num_failed:
                raise TooManyFailuresError(
                    f"{num_failed} videos failed, --max-failures allows {max_failures}. Finished shards are kept."
                )
    if len(results) < len(shards):
        raise StoppedError
    return [results[shard.name] for shard in shards]


def num_failures(results: Iterable[ShardResult]) -> int:
    """Failed videos of the given shards."""
    return sum(row.status == FAILED for result in results for row in result.videos)


def _workload(shards: Sequence[ShardPlan], done: Iterable[ShardResult]) -> Workload:
    videos = [video for shard in shards for video in shard.videos]
    rows = [row for result in done for row in result.videos]
    return Workload(
        num_videos=len(videos),
        num_source_bytes=sum(video.num_source_bytes for video in videos),
        num_kept=len(rows),
        num_kept_source_bytes=sum(row.num_source_bytes for row in rows),
    )


def _scratch(request: Request, todo: Sequence[ShardPlan], name: str, stack: contextlib.ExitStack) -> Path | None:
    """The folder for unfinished work; None if each machine of a cluster makes one."""
    workers = request.workers
    if isinstance(request.work, Path) and not workers.scratch:
        folder = request.work / name
        folder.mkdir(exist_ok=True)
    elif workers.engine != "local":
        return None
    else:
        folder = stack.enter_context(scratch_folder(workers.scratch, request.out))
    refuse_small(folder, todo, num_workers(workers, todo), videos=request.videos, out=request.out)
    return folder
