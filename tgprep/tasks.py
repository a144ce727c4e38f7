"""One extraction shared by array jobs: each task makes every Nth shard, the last one to end joins them to a data set."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from manifests.records import FAILED, InputError
from manifests.store import HEADER_NAME
from tgprep.make import Request, make_shards
from tgprep.pipeline import Outcome, finished, join, resume_or_begin
from tgprep.plan import Plan, load_plan
from tgprep.supervise import ShardError, ShardPlan
from tgprep.work import WORK_FOLDER, alone, hold, joined, load_done, make_folder, owned


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
    if (asked.out / HEADER_NAME).exists():
        return TaskOutcome(0, 0, 0, 0, (), finished(asked))
    try:
        with joined(asked.out, f"task {task.number}") as lock:
            if (asked.out / HEADER_NAME).exists():  # another one joined it meanwhile
                shutil.rmtree(asked.work, ignore_errors=True)
                return TaskOutcome(0, 0, 0, 0, (), finished(asked))
            with alone(asked.out, "plan"):
                plan, notes = resume_or_begin(asked)
            results, _ = make_shards(asked, task.share(plan), f"scratch-{task.number}")
            rows = [row for result in results for row in result.videos]
            num_failed = sum(row.status == FAILED for row in rows)
            whole, num_left = None, len(plan.shards) - len(load_done(asked.out, asked.work))
            try:
                hold(lock, asked.out)
            except InputError:
                pass  # others are still at work: the last of them joins
            else:
                if not num_left:
                    whole = _join(asked.out, plan)
            return TaskOutcome(len(results), len(rows) - num_failed, num_failed, num_left, tuple(notes), whole)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise ShardError(f"cannot write {asked.out}: {error.strerror or error}{place}") from None


def finalize(out: Path) -> Outcome:
    """Join the shards that array tasks have made; ShardError names what is not there yet."""
    if (out / HEADER_NAME).exists():
        raise InputError(f"{out} is finished already: `tgprep info {out}` shows it.")
    if not (out / WORK_FOLDER / "plan.json").exists():
        raise InputError(
            f"{out} holds no extraction to join. Start the tasks: tgprep extract ... --num-tasks N --task-id I."
        )
    with owned(out) as work:
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


def _join(out: Path, plan: Plan) -> Outcome:
    done = load_done(out, out / WORK_FOLDER)
    return join(out, plan, [done[shard.name] for shard in plan.shards], len(plan.shards), ())
