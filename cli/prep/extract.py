"""`tgprep extract`: the front door."""

from __future__ import annotations

import dataclasses
import functools
import shlex
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import click

from cli.common import (
    EXIT_FAILURES,
    EXIT_USAGE,
    PlaceType,
    at_once,
    build,
    handled,
    human_bytes,
    human_seconds,
    interruptible,
    options_from,
    print_json,
)
from cli.prep.account import report
from cli.prep.progress import ExtractProgress
from manifests.datasets import DATASETS
from tgprep.config import ExtractSettings, WorkerSettings

if TYPE_CHECKING:
    from manifests.files import Location
    from tgprep.extract.array_jobs import Task, TaskOutcome
    from tgprep.extract.update import Update


@click.command()
@click.argument("videos", type=PlaceType(), default="videos")
@click.argument("out", type=PlaceType(), default="dataset")
@click.option(
    "--dataset",
    type=click.Choice(["auto", *DATASETS]),
    default="auto",
    show_default=True,
    help="how class, label, group and official split are told from names and lists",
)
@click.option(
    "--annotations",
    type=PlaceType(),
    help="folder of the official lists, or the .csv file for `--dataset csv`  [default: annotations/ beside VIDEOS]",
)
@click.option(
    "--classes",
    type=click.Choice(["all", "present"]),
    default="all",
    show_default=True,
    help="keep every class of the data set's list, or only those with videos, numbered anew",
)
@options_from(ExtractSettings)
@options_from(WorkerSettings)
@click.option("--add", is_flag=True, help="take videos that a finished data set lacks into it, in new shards")
@click.option(
    "--retry-failed",
    is_flag=True,
    help="try the failed videos of a finished data set again; new samples go to new shards",
)
@click.option("--num-tasks", type=click.IntRange(1), help="share the work among so many array jobs on the same OUT")
@click.option(
    "--task-id", type=click.IntRange(0), help="which of them this is, from 0; the last to end joins the shards"
)
@click.option("--dry-run", is_flag=True, help="say what it would take (frames, bytes, time, files), and write nothing")
@click.option("--log-json", is_flag=True, help="one JSON object a line on stderr in place of text")
@click.option("--json", "as_json", is_flag=True, help="print the account as one JSON object on stdout")
@handled
def extract(
    videos: Location,
    out: Location,
    dataset: str,
    annotations: Location | None,
    classes: str,
    add: bool,
    retry_failed: bool,
    num_tasks: int | None,
    task_id: int | None,
    dry_run: bool,
    log_json: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Turn the videos below VIDEOS [default: ./videos] into a data set at OUT [default: ./dataset].

    VIDEOS and OUT are folders, or URLs of object stores (s3://bucket/folder, gs://...).

    Every video ends as written, failed (with the reason) or skipped; the account says how many, and failed videos stay in
    the table. Interrupted, killed or out of disk: run the same command again, it goes on where it was.

    \b
    Exit codes: 0 all well, 1 some videos failed, 2 wrong usage or input, 130/143 interrupted.
    """
    from manifests.object_store import set_warning_handler
    from manifests.records import InputError
    from tgprep.extract.account import versions
    from tgprep.extract.array_jobs import run_task
    from tgprep.extract.pipeline import extract as run_extract
    from tgprep.extract.request import Hooks, Request, TooManyFailuresError
    from tgprep.extract.update import Update
    from tgprep.extract.work_folder import refuse_strange
    from tgprep.extract.workers.shards import ShardError, StoppedError
    from tgprep.scan.scan import scan

    progress = ExtractProgress(log_json)
    began = time.monotonic()
    set_warning_handler(lambda store, text: progress.tell("note", text))
    try:
        with interruptible() as (stop, signals):
            with at_once(signals):
                settings, run = build(ExtractSettings, options), build(WorkerSettings, options)
                update = Update(add=add, retry_failed=retry_failed)
                task = _task(num_tasks, task_id, update)
                versions(settings)  # that the decoder is there, before the videos are looked for
                refuse_strange(out)
                found = scan(videos, dataset=dataset, annotations=annotations, classes=classes)
            for note in found.notes:
                progress.tell("note", note)
            if dry_run:
                pass

                show_estimate(videos, out, found, settings, run, stop, as_json)
                return
            hooks = Hooks(planned=progress.planned, progress=progress)
            if task is None:
                outcome = run_extract(videos, out, found, settings, run, stop=stop, hooks=hooks, update=update)
            else:
                shared = run_task(Request(videos, out, found, settings, run, stop, hooks), task)
                if shared.joined is None:
                    progress.close()
                    sys.exit(_report_task(shared, task, out, progress, as_json))
                outcome = shared.joined
    except (StoppedError, KeyboardInterrupt):
        progress.close()
        command = shlex.join(["tgprep", *sys.argv[1:]])
        begun = f"after {progress.line()}.\nFinished shards are kept" if progress.total else "before the first video"
        text = f"Interrupted {begun}; to go on:\n  {command}"
        progress.tell("interrupted", text, command=command, **progress.state())
        sys.exit(128 + (signals[0] if signals else signal.SIGINT))
    except (ShardError, TooManyFailuresError) as error:
        progress.close()
        text = f"Error: {error}\nFinished shards are kept; run the same command again to go on."
        progress.tell("error", text, message=str(error))
        sys.exit(EXIT_FAILURES)
    except InputError as error:
        progress.tell("error", f"Error: {error}", message=str(error))
        sys.exit(EXIT_USAGE)
    finally:
        progress.close()
    report(outcome, found, out, progress, time.monotonic() - began, as_json)
    sys.exit(EXIT_FAILURES if outcome.account.num_failed else 0)


_ONLY_EXTRACT = {"add": False, "retry_failed": False, "num_tasks": None, "task_id": None, "dry_run": True}
plan = click.Command(
    "plan",
    callback=functools.partial(cast(Any, extract.callback), **_ONLY_EXTRACT),
    params=[parameter for parameter in extract.params if parameter.name not in _ONLY_EXTRACT],
    help="Say what `tgprep extract` with the same words would take (frames, bytes, time, files): its --dry-run.",
)


def _task(num_tasks: int | None, task_id: int | None, update: Update) -> Task | None:
    from manifests.records import InputError
    from tgprep.extract.array_jobs import Task

    if num_tasks is None and task_id is None:
        return None
    if num_tasks is None or task_id is None:
        raise InputError("--num-tasks N and --task-id I go together: task I (from 0) of N.")
    if update:
        raise InputError(f"{update} changes a finished data set in one run: leave --num-tasks and --task-id out.")
    return Task(task_id, num_tasks)


def _report_task(shared: TaskOutcome, task: Task, out: Location, progress: ExtractProgress, as_json: bool) -> int:
    facts = {
        "task_id": task.number,
        "num_tasks": task.num_tasks,
        "num_shards": shared.num_shards,
        "num_written": shared.num_written,
        "num_failed": shared.num_failed,
        "num_shards_left": shared.num_left,
        "joined": False,
    }
    for note in shared.notes:
        progress.tell("note", note)
    left = f"{shared.num_left} shards of other tasks are still to come" if shared.num_left else "other tasks are ending"
    text = (
        f"task {task.number} of {task.num_tasks}: {shared.num_shards} shards, {shared.num_written} videos written, "
        f"{shared.num_failed} failed; {left}. The last task joins them; if it cannot: tgprep finalize {shlex.quote(str(out))}"
    )
    progress.tell("task", text, **facts)
    if as_json:
        print_json(facts)
    return EXIT_FAILURES if shared.num_failed else 0


if TYPE_CHECKING:
    from manifests.files import Location
    from tgprep.config import ExtractSettings, WorkerSettings
    from tgprep.scan.scan import Scan


def show_estimate(
    videos: Location,
    out: Location,
    found: Scan,
    settings: ExtractSettings,
    run: WorkerSettings,
    stop: threading.Event,
    as_json: bool,
) -> None:
    """Print the estimate on stdout: it is the result that was asked for. Raises StoppedError once `stop` is set."""
    from tgprep.extract.estimate import estimate

    told = estimate(videos, out, found, settings, run, stop)
    if as_json:
        print_json(dataclasses.asdict(told))
        return
    workers = f"{told.num_workers} worker process" + ("es" if told.num_workers > 1 else "")
    free = f", free are {human_bytes(told.num_free_bytes)}" if told.num_free_bytes >= 0 else ""
    rows = {
        "videos": f"{told.num_videos}, {human_bytes(told.num_source_bytes)}",
        "frames": f"about {told.num_frames} (headers of {told.num_headers} videos)",
        "time": f"about {human_seconds(told.seconds)} with {workers} (measured on {told.num_measured} videos)",
        "disk": f"about {human_bytes(told.num_bytes)}{free}",
        "files": f"{told.num_shards} shards and 3 tables; one JPEG a frame would be {told.num_loose_files} files",
    }
    for name, value in rows.items():
        click.echo(f"{name:<8}{value}")
    if told.num_unreadable:
        click.echo(f"{told.num_unreadable} of the videos looked at cannot be read and would fail")
    if 0 <= told.num_free_bytes < told.num_bytes:
        click.echo(
            f"The disk of {out} is too small: make room, or use --short-side, "
            + (
                "a higher --crf"
                if settings.store == "video"
                else "a lower --quality, --gradient derived or --store video"
            )
        )
