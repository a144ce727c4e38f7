"""The shards of a plan: made by an engine, noted in the journal as each is finished."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from tgprep.config import WorkerSettings
from tgprep.extract.account import failures
from tgprep.extract.request import Request, TooManyFailuresError, Workload
from tgprep.extract.work_folder import load_done, save_done
from tgprep.extract.workers.local import num_workers, run_local
from tgprep.extract.workers.scratch import refuse_small, scratch_folder
from tgprep.extract.workers.shards import ShardPlan, ShardResult, StoppedError


def _engine(run: WorkerSettings) -> Callable[..., Generator[ShardResult, None, None]]:
    if run.engine == "local":
        return run_local
    from tgprep.extract.workers.dask_cluster import run_dask

    return run_dask


def make_shards(asked: Request, shards: Sequence[ShardPlan], scratch: str = "scratch") -> tuple[list[ShardResult], int]:
    """Write the shards that no earlier run has finished: the results of all, in order, and how many were kept.

    scratch: name of the folder for spools in the work folder, where they lie there. Raises StoppedError, ShardError,
    TooManyFailuresError; what is finished by then stays.
    """
    names = {shard.name for shard in shards}
    done = {name: result for name, result in load_done(asked.out, asked.work).items() if name in names}
    num_kept = len(done)
    todo = [shard for shard in shards if shard.name not in done]
    asked.hooks.planned(_workload(shards, list(done.values())))
    num_failed = failures(list(done.values()))
    with contextlib.ExitStack() as stack:
        made = _engine(asked.run)(
            todo,
            videos=asked.videos,
            out=asked.out,
            scratch=_scratch(asked, todo, scratch, stack) if todo else None,
            settings=asked.settings,
            run=asked.run,
            stop=asked.stop,
            on_progress=asked.hooks.progress,
        )
        stack.enter_context(contextlib.closing(made))
        for result in made:
            asked.check()
            save_done(asked.work, result)
            done[result.shard.name] = result
            num_failed += failures([result])
            if 0 <= asked.run.max_failures < num_failed:
                raise TooManyFailuresError(
                    f"{num_failed} videos failed, --max-failures allows {asked.run.max_failures}. Finished shards are kept."
                )
    if len(done) < len(shards):
        raise StoppedError
    return [done[shard.name] for shard in shards], num_kept


def _workload(shards: Sequence[ShardPlan], done: Sequence[ShardResult]) -> Workload:
    return Workload(
        num_videos=sum(len(shard.videos) for shard in shards),
        num_source_bytes=sum(video.num_source_bytes for shard in shards for video in shard.videos),
        num_kept=sum(len(result.videos) for result in done),
        num_kept_source_bytes=sum(row.num_source_bytes for result in done for row in result.videos),
    )


def _scratch(asked: Request, todo: Sequence[ShardPlan], name: str, stack: contextlib.ExitStack) -> Path | None:
    """The folder for unfinished work; None where each machine of a cluster makes its own."""
    if isinstance(asked.work, Path) and not asked.run.scratch:
        folder = asked.work / name
        folder.mkdir(exist_ok=True)
    elif asked.run.engine != "local":
        return None
    else:
        folder = stack.enter_context(scratch_folder(asked.run.scratch, asked.out))
    refuse_small(folder, todo, num_workers(asked.run, todo), videos=asked.videos, out=asked.out)
    return folder
