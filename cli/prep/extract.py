"""`tgprep extract` and `tgprep plan`: videos become a data set, or an estimate of what that takes."""

from __future__ import annotations

import dataclasses
import functools
import gc
import shlex
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from cli.common import (
    EXIT_FAILURES,
    EXIT_USAGE,
    PlaceType,
    at_once,
    echo,
    handled,
    human_bytes,
    human_seconds,
    interruptible,
    options_from,
    plural,
    print_json,
    quiet_option,
)
from cli.prep.account import report, too_many_skipped
from cli.prep.progress import ExtractProgress
from manifests.datasets import DATASETS
from tgprep.config import ExtractSettings, WorkerSettings, build

if TYPE_CHECKING:
    from manifests.files import Location
    from tgprep.extract.array_jobs import Task, TaskOutcome
    from tgprep.extract.plan import Update
    from tgprep.extract.workers.shards import Request
    from tgprep.scan.scan import Scan

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
# What `extract` and `plan` have in common: before and behind the options that only `extract` has.
_INPUTS: tuple[Decorator, ...] = (
    click.argument("videos", type=PlaceType(), default="videos"),
    click.argument("out", type=PlaceType(), default="dataset"),
    click.option(
        "--dataset",
        type=click.Choice(["auto", *DATASETS]),
        default="auto",
        show_default=True,
        help="how class, label, group and official split are inferred from names and lists",
    ),
    click.option(
        "--annotations",
        type=PlaceType(),
        help="folder of the official lists, or the .csv file for `--dataset csv`  [default: annotations/ beside VIDEOS]",
    ),
    click.option(
        "--classes",
        type=click.Choice(["all", "present"]),
        default="all",
        show_default=True,
        help="keep every class of the data set's list, or only those with videos, with new labels",
    ),
    click.option(
        "--unlabelled",
        type=PlaceType(),
        multiple=True,
        metavar="DIR",
        help="folder of videos without a label, of any size and rate; may be given several times. They train as unlabelled videos only",
    ),
    click.option(
        "--unlabelled-is-class",
        is_flag=True,
        help="folders of VIDEOS named unlabelled/ are a class like others, not videos without a label",
    ),
    options_from(ExtractSettings),
    options_from(WorkerSettings),
)
_OUTPUTS: tuple[Decorator, ...] = (
    quiet_option,
    click.option("--log-json", is_flag=True, help="log one JSON object a line on stderr in place of text"),
    click.option("--json", "as_json", is_flag=True, help="print the account as one JSON object on stdout"),
)


def _with_options(options: tuple[Decorator, ...]) -> Decorator:
    return lambda command: functools.reduce(lambda function, option: option(function), reversed(options), command)


@click.command()
@_with_options(_INPUTS)
@click.option("--add", is_flag=True, help="add videos that a finished data set lacks, in new shards")
@click.option(
    "--retry-failed",
    is_flag=True,
    help="retry the failed videos of a finished data set; new samples go to new shards",
)
@click.option("--num-tasks", type=click.IntRange(1), help="share the work among this many array jobs on the same OUT")
@click.option(
    "--task-id", type=click.IntRange(0), help="number of this job, from 0; the last job to end joins the shards"
)
@click.option("--dry-run", is_flag=True, help="estimate frames, bytes, time and files, and write nothing")
@_with_options(_OUTPUTS)
@handled
def extract(**options: Any) -> None:
    """Turn the videos below VIDEOS [default: ./videos] into a data set at OUT [default: ./dataset].

    VIDEOS and OUT are folders, or URLs of object stores (s3://bucket/folder, gs://...). Videos lie in VIDEOS/Class/file,
    VIDEOS/train/Class/file or VIDEOS/Class/train/file (train, val, test), or as UCF101, HMDB51 and Kinetics come. A csv at
    --annotations with the columns path,label,start_seconds,end_seconds cuts long files into segments.

    Every video ends as written, failed (with the reason) or skipped; the account says how many, and failed videos stay in
    the table. After an interrupt, a kill or a full disk, run the same command again: it continues where it was.

    \b
    Exit codes: 0 all well, 1 some videos failed or over a tenth of the inputs was skipped, 2 wrong usage or input, 130/143 interrupted.
    """
    _run(**options)


@click.command()
@_with_options(_INPUTS)
@_with_options(_OUTPUTS)
@handled
def plan(**options: Any) -> None:
    """Estimate what `tgprep extract` with the same arguments would take (frames, bytes, time, files): its --dry-run."""
    _run(**options, add=False, retry_failed=False, num_tasks=None, task_id=None, dry_run=True)


def _run(
    videos: Location, out: Location, dry_run: bool, quiet: bool, log_json: bool, as_json: bool, **options: Any
) -> None:
    from manifests.object_store import UnreachableError, set_warning_handler
    from manifests.records import InputError
    from tgprep.extract import array_jobs, pipeline
    from tgprep.extract.pipeline import TooManyFailuresError
    from tgprep.extract.plan import Update
    from tgprep.extract.workers.shards import Request, ShardError, StoppedError
    from tgprep.scan.pool import Pools
    from tgprep.scan.scan import scan as scan_videos

    # A list of 650,000 videos is millions of objects: collecting after every 700 of them would look through all again and again.
    gc.set_threshold(100_000, 50)
    progress = ExtractProgress(log_json, quiet)
    began = time.monotonic()
    signals: list[int] = []
    set_warning_handler(lambda store, text: progress.log("note", text))
    try:
        with interruptible() as (stop, signals):
            # Until the extraction starts there is nothing to end in order: a signal interrupts at once.
            with at_once(signals):
                settings, workers = build(ExtractSettings, options), build(WorkerSettings, options)
                update = Update(add=options["add"], retry_failed=options["retry_failed"])
                task = _task(options["num_tasks"], options["task_id"], update)
                pools = Pools.of(videos, options["unlabelled"])
                places = videos, out, settings, workers, pools
                request = Request(*places, stop=stop, on_planned=progress.planned, on_progress=progress)
                request = pipeline.prepare(request)  # before the scan, which may take long
                how = {name: options[name] for name in ("dataset", "annotations", "classes")}
                reserved = not options["unlabelled_is_class"]
                scan = scan_videos(videos, **how, pools=pools, reserved=reserved)
            for note in scan.notes:
                # The account at the end names the missing videos by class.
                if dry_run or note not in scan.notes_on_missing:
                    progress.log("note", note)
            if dry_run:
                return show_estimate(request, scan, as_json)
            if task is None:
                outcome = pipeline.extract(request, scan, update)
            else:
                of_task = array_jobs.extract_task(request, scan, task)
                if isinstance(of_task, array_jobs.TaskOutcome):
                    progress.close()
                    sys.exit(_report_task(of_task, task, out, progress, as_json))
                outcome = of_task
    except (StoppedError, KeyboardInterrupt, ShardError, TooManyFailuresError, InputError, UnreachableError) as error:
        if isinstance(error, UnreachableError) and not signals:
            raise
        progress.close()
        sys.exit(_explain(error, progress, signals))
    finally:
        progress.close()
    report(outcome, scan, out, progress, time.monotonic() - began, as_json)
    sys.exit(EXIT_FAILURES if outcome.manifest.header.num_failed or too_many_skipped(outcome.manifest) else 0)


def _explain(error: BaseException, progress: ExtractProgress, signals: list[int]) -> int:
    """Log why the run ended, in the form that --log-json asks for; gives the exit code."""
    from manifests.records import InputError
    from tgprep.extract.workers.shards import StoppedError

    # After a signal no store is waited for, so that work fails which would have been done later.
    if signals or isinstance(error, StoppedError | KeyboardInterrupt):
        command = shlex.join(["tgprep", *sys.argv[1:]])
        state = (
            f"after {progress.line()}.\nFinished shards are kept"
            if progress.workload.num_videos
            else "before the first video"
        )
        text = f"Interrupted {state}; to continue:\n  {command}"
        progress.log("interrupted", text, command=command, **progress.state())
        return 128 + (signals[0] if signals else signal.SIGINT)
    is_mistake = isinstance(error, InputError)
    advice = "" if is_mistake else "\nFinished shards are kept; run the same command again to continue."
    progress.log("error", f"Error: {error}{advice}", message=str(error))
    return EXIT_USAGE if is_mistake else EXIT_FAILURES


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


def _report_task(share: TaskOutcome, task: Task, out: Location, progress: ExtractProgress, as_json: bool) -> int:
    counts = {name: getattr(share, name) for name in ("num_shards", "num_written", "num_failed", "num_shards_left")}
    facts = {"task_id": task.number, "num_tasks": task.num_tasks, **counts, "joined": False}
    for note in share.notes:
        progress.log("note", note)
    num_left = share.num_shards_left
    left = f"{plural(num_left, 'shard')} of other tasks are still to come" if num_left else "other tasks are ending"
    text = (
        f"task {task.number} of {task.num_tasks}: {plural(share.num_shards, 'shard')}, {plural(share.num_written, 'video')} written, "
        f"{share.num_failed} failed; {left}. The last task joins them; if it cannot: tgprep finalize {shlex.quote(str(out))}"
    )
    progress.log("task", text, **facts)
    if as_json:
        print_json(facts)
    return EXIT_FAILURES if share.num_failed else 0


def show_estimate(request: Request, scan: Scan, as_json: bool) -> None:
    """Print the estimate on stdout. Raises StoppedError once `stop` is set."""
    from tgprep.extract.estimate import estimate

    expected = estimate(request, scan)
    if as_json:
        print_json(dataclasses.asdict(expected))
        return
    workers = plural(expected.num_workers, "worker process", "worker processes")
    free = f", {human_bytes(expected.num_free_bytes)} free" if expected.num_free_bytes >= 0 else ""
    time = (
        f"about {human_seconds(expected.seconds)} with {workers} (measured on {plural(expected.num_measured, 'video')})"
    )
    echo(f"videos  {expected.num_videos}, {human_bytes(expected.num_source_bytes)}")
    echo(f"frames  about {expected.num_frames} (headers of {plural(expected.num_headers, 'video')})")
    echo(f"time    {time}")
    echo(f"disk    about {human_bytes(expected.num_bytes)}{free}")
    echo(
        f"files   {plural(expected.num_shards, 'shard')} and 3 tables; one JPEG a frame would be {plural(expected.num_loose_files, 'file')}"
    )
    if expected.num_unreadable:
        echo(f"{expected.num_unreadable} of the sampled videos cannot be read and would fail")
    if 0 <= expected.num_free_bytes < expected.num_bytes:
        as_video = request.settings.store == "video"
        smaller = "a higher --crf" if as_video else "a lower --quality, --gradient derived or --store video"
        echo(f"The disk of {request.out} is too small: make room, or use --short-side, {smaller}")
