"""One extraction from plan to finished data set, and on from wherever an earlier run ended. `tgprep extract` calls `extract`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from manifests.files import Location, below, exists, list_files, list_folder, remove_tree
from manifests.manifest_io import HEADER_NAME, read_manifest
from manifests.records import InputError
from manifests.table import Manifest
from tgprep.config import ExtractSettings, WorkerSettings
from tgprep.extract.account import Account, account_of, finalise, versions
from tgprep.extract.make import make_shards
from tgprep.extract.plan import Plan, changes_since, load_plan, new_plan, refuse_difference, save_plan
from tgprep.extract.request import Hooks, Request, TooManyFailuresError
from tgprep.extract.update import Update, plan_update, skipped_of
from tgprep.extract.work_folder import WORK_FOLDER, clear, exclusive, make_folder, make_journal, remove_leftovers
from tgprep.extract.workers.shards import ShardError, ShardResult
from tgprep.scan.scan import Scan

__all__ = ["Account", "Hooks", "Outcome", "TooManyFailuresError", "Update", "extract"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished extraction. already_finished: the folder was whole before; num_shards_kept: from earlier runs."""

    manifest: Manifest
    account: Account
    already_finished: bool
    num_shards_kept: int
    notes: tuple[str, ...]


def extract(
    videos: Location,
    out: Location,
    scan: Scan,
    settings: ExtractSettings,
    run: WorkerSettings,
    *,
    stop: threading.Event | None = None,
    hooks: Hooks | None = None,
    update: Update | None = None,
) -> Outcome:
    """Write every video of the scan into the data set at `out`, or finish what an earlier run began.

    update: change a finished data set: its shards keep their bytes, new samples go to new shards, the header comes last.
    Raises InputError (other settings, folder in use), ShardError (the data set cannot be written), TooManyFailuresError,
    and StoppedError where `stop` was set; after any of them, and after a kill, the same call goes on where the run ended.
    """
    if not scan.videos:
        raise InputError(f"{videos} holds no video. Name the folder that holds the class folders, or see `--dataset`.")
    update = update or Update()
    asked = Request(videos, out, scan, settings, run, stop or threading.Event(), hooks or Hooks())
    make_folder(out)
    header = below(out, HEADER_NAME)
    try:
        if exists(header) and not update:
            return finished(asked)
        with exclusive(out) as check:
            asked = replace(asked, check=check)
            if exists(header):
                return _update(asked, update)
            resumes = exists(below(asked.work, "plan.json"))
            outcome = _work(asked)
            if not (update and resumes):
                return outcome
        with exclusive(out) as check:  # the work folder went, and with it what held OUT
            make_journal(asked.work)
            return _update(replace(asked, check=check), update)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise ShardError(f"cannot write {out}: {error.strerror or error}{place}") from None


def _work(asked: Request) -> Outcome:
    plan, notes = resume_or_begin(asked)
    remove_leftovers(asked.out, asked.work)
    results, num_kept = make_shards(asked, plan.shards)
    return join(asked.out, plan, results, num_kept, notes)


def _update(asked: Request, update: Update) -> Outcome:
    out, work = asked.out, asked.work
    remove_leftovers(out, work)
    base = _whole(asked)
    plan, used = load_plan(work), versions(asked.settings)
    if plan is not None and plan.base != base.digest:  # of work that was finished just before a kill
        clear(work)
        plan = None
    if plan is None:
        plan = plan_update(base, asked.scan, asked.settings, used, update)
        if not plan.videos and set(plan.skipped) == skipped_of(base):
            remove_tree(work)
            return Outcome(base, account_of(base), True, len(base.shards), (f"{update}: nothing to do",))
        save_plan(work, plan)
    elif plan.update != str(update):
        raise InputError(
            f"{out} holds an unfinished {plan.update}. Finish it with the same options first; the data set is whole and "
            f"as it was before."
        )
    notes = changes_since(plan, asked.scan, used)
    results, num_kept = make_shards(asked, plan.shards)
    return join(out, plan, results, len(base.shards) + num_kept, notes, base)


def join(
    out: Location,
    plan: Plan,
    results: Sequence[ShardResult],
    num_kept: int,
    notes: Sequence[str],
    base: Manifest | None = None,
) -> Outcome:
    """Make one data set of finished shards: tables and header, and the work folder is gone. base: the one it changes."""
    manifest = finalise(out, plan, results, base)
    remove_leftovers(out, below(out, WORK_FOLDER))
    remove_tree(below(out, WORK_FOLDER))
    return Outcome(manifest, account_of(manifest), False, num_kept, tuple(notes))


def resume_or_begin(asked: Request) -> tuple[Plan, list[str]]:
    """The plan of the interrupted run, else one of this scan, and notes; a plan is never cut anew half-way."""
    out, scan = asked.out, asked.scan
    plan, used = load_plan(asked.work), versions(asked.settings)
    if plan is None or plan.base:  # or of a data set whose header was removed since
        clear(asked.work)
        save_plan(asked.work, new_plan(scan, asked.settings, used))
        plan = load_plan(asked.work)
        assert plan is not None
    before = {**plan.settings.model_dump(), "dataset": plan.dataset}
    refuse_difference(out, "an unfinished", before, {**asked.settings.model_dump(), "dataset": scan.dataset})
    if plan.classes != scan.classes and {v.path for v in plan.videos} == {v.path for v in scan.videos}:
        raise InputError(
            f"{out} holds an unfinished data set of {len(plan.classes)} classes, asked are {len(scan.classes)} others. "
            f"Use the same --classes and --annotations to go on, or name another folder."
        )
    return plan, changes_since(plan, scan, used)


def finished(asked: Request) -> Outcome:
    """What a data set that is whole holds; a work folder that a kill left behind is removed."""
    out = asked.out
    manifest = _whole(asked)
    notes = _news(manifest, asked.scan)
    if list_folder(asked.work):
        # Unless another run has it, or nothing can be written there.
        with contextlib.suppress(InputError), exclusive(out):
            remove_leftovers(out, asked.work)
            plan = load_plan(asked.work)
            if plan is not None and plan.base == manifest.digest:
                notes.append(f"an unfinished {plan.update} is there: run this command with {plan.update} to finish it")
            else:
                remove_tree(asked.work)
    return Outcome(manifest, account_of(manifest), True, len(manifest.shards), tuple(notes))


def _whole(asked: Request) -> Manifest:
    """The data set at OUT; InputError where it has other settings, or is no longer as it was written."""
    manifest = read_manifest(asked.out)
    header = manifest.header
    before = {**header.settings, "dataset": header.dataset}
    refuse_difference(asked.out, "a finished", before, {**asked.settings.model_dump(), "dataset": asked.scan.dataset})
    refuse_missing_shards(asked.out, manifest)
    return manifest


def refuse_missing_shards(out: Location, manifest: Manifest) -> None:
    """InputError where shards of a finished data set are gone or of another size."""
    broken = []
    sizes = list_files(out)
    for shard in manifest.shards:
        size = sizes.get(shard.name, -1)
        if size != shard.num_bytes:
            broken.append(f"{shard.name} ({'missing' if size < 0 else f'{size} bytes, expected {shard.num_bytes}'})")
    if broken:
        raise InputError(
            f"{out} is a finished data set, but {len(broken)} of its shards are not as they were written: {', '.join(broken[:3])}"
            f"{', …' if len(broken) > 3 else ''}. Make them again with `tgprep check {out} --repair --against VIDEOS`, "
            f"or restore them from a copy."
        )


def _news(manifest: Manifest, scan: Scan) -> list[str]:
    before = dict(zip(manifest.videos.column("path"), manifest.videos.column("num_source_bytes"), strict=True))
    new = [video.path for video in scan.videos if video.path not in before]
    changed = [v.path for v in scan.videos if v.num_source_bytes != before.get(v.path, v.num_source_bytes)]
    notes = []
    if new:
        notes.append(f"{len(new)} videos in VIDEOS are not in the data set (the first: {new[0]}); --add takes them in")
    if changed:
        notes.append(
            f"{len(changed)} videos in VIDEOS have another size than when they were extracted (the first: {changed[0]}): "
            f"extract into another folder to have them as they are now"
        )
    return notes
