"""One extraction shared by array jobs: each task makes every Nth shard, the last one to end joins them to a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace

from manifests.files import Location, below, exists, remove_tree
from manifests.manifest_io import HEADER_NAME
from manifests.records import FAILED, InputError
from tgprep.extract.make import make_shards
from tgprep.extract.pipeline import Outcome, finished, join, resume_or_begin
from tgprep.extract.plan import Plan, load_plan
from tgprep.extract.request import Request
from tgprep.extract.work_folder import WORK_FOLDER, critical_section, exclusive, load_done, make_folder, shared
from tgprep.extract.workers.shards import ShardError, ShardPlan


@dataclass(frozen=True, slots=True)
class Task:
    """Which share of the work is meant: task `number` (from 0) of `num_tasks`."""

    number: int
    num_tasks: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.num_tasks:
            raise InputError(
                f"--task-id {self.number} of --num-tasks {self.num_tasks}: tasks are numbered from 0 to {self.num_tasks - 1}."
            )

    def share(self, plan: Plan) -> tuple[ShardPlan, ...]:
        """The shards of this task."""
        return plan.shards[self.number :: self.num_tasks]


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """What a task has done. joined: the finished data set, where this task was the last; num_left: shards of other tasks."""

    num_shards: int
    num_written: int
    num_failed: int
    num_left: int
    notes: tuple[str, ...]
    joined: Outcome | None


def run_task(asked: Request, task: Task) -> TaskOutcome:
    """Make the shards of one task beside other tasks on the same OUT; raises as `pipeline.extract` does."""
    make_folder(asked.out)
    header = below(asked.out, HEADER_NAME)
    if exists(header):
        return TaskOutcome(0, 0, 0, 0, (), finished(asked))
    try:
        with shared(asked.out, f"task {task.number}") as share:
            if exists(header):  # another one joined it meanwhile
                remove_tree(asked.work)
                return TaskOutcome(0, 0, 0, 0, (), finished(asked))
            with critical_section(asked.out, "plan"):
                plan, notes = resume_or_begin(asked)
            asked = replace(asked, check=share.check)
            results, _ = make_shards(asked, task.share(plan), f"scratch-{task.number}")
            rows = [row for result in results for row in result.videos]
            num_failed = sum(row.status == FAILED for row in rows)
            whole, num_left = None, len(plan.shards) - len(load_done(asked.out, asked.work))
            if not num_left:
                with share.last() as is_last:
                    if is_last and not exists(header):
                        whole = _join(asked.out, plan)
            elif exists(header):  # another one joined it, and cleared the journal, as we looked
                num_left = 0
            return TaskOutcome(len(results), len(rows) - num_failed, num_failed, num_left, tuple(notes), whole)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise ShardError(f"cannot write {asked.out}: {error.strerror or error}{place}") from None


def finalize(out: Location) -> Outcome:
    """Join the shards that array tasks have made; ShardError names what is not there yet."""
    if exists(below(out, HEADER_NAME)):
        raise InputError(f"{out} is finished already: `tgprep info {out}` shows it.")
    work = below(out, WORK_FOLDER)
    if not exists(below(work, "plan.json")):
        raise InputError(
            f"{out} holds no extraction to join. Start the tasks: tgprep extract ... --num-tasks N --task-id I."
        )
    with exclusive(out):
        plan = load_plan(work)
        assert plan is not None
        missing = sorted({shard.name for shard in plan.shards} - load_done(out, work).keys())
        if missing:
            raise ShardError(
                f"{len(missing)} of {len(plan.shards)} shards are not made yet: {', '.join(missing[:5])}"
                f"{', …' if len(missing) > 5 else ''}. Run the tasks that failed again, or the same command without "
                f"--num-tasks to make them here."
            )
        return _join(out, plan)


def _join(out: Location, plan: Plan) -> Outcome:
    done = load_done(out, below(out, WORK_FOLDER))
    return join(out, plan, [done[shard.name] for shard in plan.shards], len(plan.shards), ())
