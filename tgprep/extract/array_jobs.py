"""One extraction shared by array jobs: each task writes every Nth shard, the last one to end joins them to a data set."""

from __future__ import annotations

from dataclasses import dataclass

from manifests.console import plural
from manifests.files import Location, below, exists, remove_tree
from manifests.manifest_io import HEADER_NAME
from manifests.records import InputError
from tgprep.extract.pipeline import (
    Outcome,
    finished_outcome,
    join,
    make_shards,
    num_failures,
    prepare,
    resume,
    resume_or_begin,
    writing,
)
from tgprep.extract.plan import Plan, load_plan, plan_digest
from tgprep.extract.work_folder import critical_section, exclusive, finished_shards, load_done, make_folder, shared
from tgprep.extract.workers.shards import WORK_FOLDER, Request, ShardError
from tgprep.scan.scan import Scan


@dataclass(frozen=True, slots=True)
class Task:
    """A share of the work: task `number` (from 0) of `num_tasks`."""

    number: int
    num_tasks: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.num_tasks:
            raise InputError(
                f"--task-id {self.number} of --num-tasks {self.num_tasks}: tasks are numbered from 0 to {self.num_tasks - 1}."
            )


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """What a task has done that was not the last one. num_shards_left: unfinished shards of other tasks."""

    num_shards: int
    num_written: int
    num_failed: int
    num_shards_left: int
    notes: tuple[str, ...]


def extract_task(request: Request, scan: Scan, task: Task) -> TaskOutcome | Outcome:
    """Write the shards of one task beside other tasks on the same OUT; raises as `pipeline.extract` does.

    The last task joins the shards of all, and gives the outcome of the extraction.
    """
    request = prepare(request)
    out, work, header = request.out, request.work, below(request.out, HEADER_NAME)
    make_folder(out)
    if exists(header):
        return finished_outcome(request, scan)
    with writing(out), shared(out, f"task {task.number}") as share:
        if exists(header):  # another task joined the shards meanwhile
            remove_tree(work)
            return finished_outcome(request, scan)
        plan, notes = _common_plan(request, scan)
        all_shards = plan.shards
        names, shards = [shard.name for shard in all_shards], all_shards[task.number :: task.num_tasks]
        digest = plan_digest(work)
        # Of the journal a task reads its own entries; only the last one needs those of all.
        done = load_done(out, work, digest, notes, [shard.name for shard in shards])
        results = make_shards(request, shards, done, share.check, f"scratch-{task.number}")
        num_left = len(set(names) - finished_shards(work))
        if not num_left and share.is_last() and not exists(header):
            done = load_done(out, work, digest, notes)
            num_left = len(set(names) - done.keys())
            if not num_left:
                return join(out, plan, [done[name] for name in names], len(names), notes)
        if exists(header):  # another task joined the shards and cleared the journal just before it was read
            num_left = 0
    num_failed = num_failures(results)
    num_written = sum(len(result.videos) for result in results) - num_failed
    return TaskOutcome(len(results), num_written, num_failed, num_left, tuple(notes))


def _common_plan(request: Request, scan: Scan) -> tuple[Plan, list[str]]:
    """The plan that the first task makes and all read, and notes.

    Reading it takes seconds for a large data set, so tasks that begin together read it at the same time.
    """
    place = below(request.work, "plan.json")
    is_there = exists(place)
    found = resume(request, scan) if is_there else None
    if found is None:
        with critical_section(request.out, "plan", request.stop):
            if is_there or not exists(place):
                return resume_or_begin(request, scan)
        return _common_plan(request, scan)  # another task has just made it
    return found


def finalize(out: Location) -> Outcome:
    """Join the shards that array tasks have written; ShardError names those that are missing."""
    if exists(below(out, HEADER_NAME)):
        raise InputError(f"{out} is finished already: `tgprep info {out}` shows it.")
    work = below(out, WORK_FOLDER)
    if not exists(below(work, "plan.json")):
        raise InputError(
            f"{out} holds no extraction to join. Start the tasks: tgprep extract ... --num-tasks N --task-id I."
        )
    with writing(out), exclusive(out):
        plan = load_plan(work)
        assert plan is not None
        notes: list[str] = []
        done = load_done(out, work, plan_digest(work), notes)
        names = [shard.name for shard in plan.shards]
        missing = sorted(set(names) - done.keys())
        if missing:
            raise ShardError(
                f"{len(missing)} of {plural(len(names), 'shard')} {'is' if len(missing) == 1 else 'are'} missing: {', '.join(missing[:5])}"
                f"{', …' if len(missing) > 5 else ''}. Run the tasks that failed again, or the same command without "
                f"--num-tasks to write them here."
            )
        return join(out, plan, [done[name] for name in names], len(names), notes)
