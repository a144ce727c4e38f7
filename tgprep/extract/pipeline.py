"""One extraction from plan to finished data set, continuing where an earlier run ended. `tgprep extract` calls `extract`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from manifests.files import Location, below, exists, list_files, list_folder, remove_tree
from manifests.manifest_io import HEADER_NAME, read_manifest
from manifests.records import InputError
from manifests.table import Manifest
from tgprep.extract.account import Account, account_of, finalise, versions
from tgprep.extract.make import make_shards
from tgprep.extract.plan import Plan, changes_since, load_plan, new_plan, refuse_difference, save_plan
from tgprep.extract.update import Update, plan_update, skipped_of
from tgprep.extract.work_folder import check_output_folder, clear, exclusive, load_done, make_folder, remove_leftovers
from tgprep.extract.workers.request import Request
from tgprep.extract.workers.shards import ShardError, ShardResult
from tgprep.scan.scan import Scan


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished extraction. already_finished: OUT was complete before; num_shards_kept: written by earlier runs."""

    manifest: Manifest
    account: Account
    already_finished: bool
    num_shards_kept: int
    notes: tuple[str, ...]


def prepare(request: Request) -> Request:
    """Add the versions to a request. InputError if the decoder is not installed or OUT cannot be a data set's folder; writes nothing.

    Call it before a long scan; `extract` calls it otherwise.
    """
    if request.versions:
        return request
    used = versions(request.settings)
    check_output_folder(request.out)
    return replace(request, versions=used)


def extract(request: Request, scan: Scan, update: Update | None = None) -> Outcome:
    """Write every video of the scan into the data set at `out`, or finish what an earlier run began.

    update: change a finished data set: its shards keep their bytes, new samples go to new shards, the header is replaced last.
    Raises InputError (other settings, folder in use), ShardError (the data set cannot be written), TooManyFailuresError,
    and StoppedError if `stop` is set; after any of them, and after a kill, the same call continues where the run ended.
    """
    if not scan.videos:
        raise InputError(
            f"{request.videos} holds no video. Name the folder that holds the class folders, or see `--dataset`."
        )
    update = update or Update()
    request = prepare(request)
    out, header = request.out, below(request.out, HEADER_NAME)
    make_folder(out)
    with writing(out):
        if exists(header) and not update:
            return finished_outcome(request, scan)
        with exclusive(out) as check_owner:
            if exists(header):
                return _update(request, scan, update, check_owner)
            resumes = exists(below(request.work, "plan.json"))
            outcome = _create(request, scan, check_owner)
        if not (update and resumes):
            return outcome
        # The unfinished extraction is complete; its work folder, and with it the lock, is gone.
        with exclusive(out) as check_owner:
            return _update(request, scan, update, check_owner)


@contextlib.contextmanager
def writing(out: Location) -> Iterator[None]:
    """Turn OSError into the ShardError that names OUT."""
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise ShardError(f"cannot write {out}: {error.strerror or error}{place}") from None


def _create(request: Request, scan: Scan, check_owner: Callable[[], None]) -> Outcome:
    plan, notes = resume_or_begin(request, scan)
    remove_leftovers(request.out, request.work)
    done = load_done(request.out, request.work)
    results = make_shards(request, plan.shards, done, check_owner)
    return join(request.out, plan, results, len(done), notes)


def _update(request: Request, scan: Scan, update: Update, check_owner: Callable[[], None]) -> Outcome:
    out, work = request.out, request.work
    remove_leftovers(out, work)
    base = _finished_manifest(request, scan)
    plan = load_plan(work)
    if plan is not None and plan.base != base.digest:  # left by an update that was complete just before a kill
        clear(work)
        plan = None
    if plan is None:
        plan = plan_update(base, scan, request.settings, request.versions, update)
        if not plan.videos and set(plan.skipped) == skipped_of(base):
            remove_tree(work)
            return Outcome(base, account_of(base), True, len(base.shards), (f"{update}: nothing to do",))
        save_plan(work, plan)
    elif plan.update != str(update):
        raise InputError(
            f"{out} holds an unfinished {plan.update}. Finish it with the same options first; the data set is complete and "
            f"as it was before."
        )
    notes = changes_since(plan, scan, request.versions)
    done = load_done(out, work)
    results = make_shards(request, plan.shards, done, check_owner)
    return join(out, plan, results, len(base.shards) + len(done), notes, base)


def join(
    out: Location,
    plan: Plan,
    results: Sequence[ShardResult],
    num_kept: int,
    notes: Sequence[str],
    base: Manifest | None = None,
) -> Outcome:
    """Make one data set of the finished shards of a plan. base: the data set that the plan changes."""
    assert sum(len(result.videos) for result in results) == len(plan.videos), "every video of the plan has a row"
    manifest = finalise(out, plan.header, results, plan.skipped, base)
    return Outcome(manifest, account_of(manifest), False, num_kept, tuple(notes))


def resume_or_begin(request: Request, scan: Scan) -> tuple[Plan, list[str]]:
    """The plan of the interrupted run, or a new one of this scan, and notes; an existing plan is never changed."""
    out, settings = request.out, request.settings
    plan = load_plan(request.work)
    if plan is None or plan.base:  # base: an update of a data set whose header has been removed since
        clear(request.work)
        plan = new_plan(scan, settings, request.versions)
        save_plan(request.work, plan)
        return plan, []
    before = {**plan.settings.model_dump(), "dataset": plan.dataset}
    refuse_difference(out, "an unfinished", before, {**settings.model_dump(), "dataset": scan.dataset})
    if plan.classes != scan.classes and {v.path for v in plan.videos} == {v.path for v in scan.videos}:
        raise InputError(
            f"{out} holds an unfinished data set of {len(plan.classes)} classes, this scan has {len(scan.classes)} others. "
            f"Use the same --classes and --annotations to continue, or name another folder."
        )
    return plan, changes_since(plan, scan, request.versions)


def finished_outcome(request: Request, scan: Scan) -> Outcome:
    """The outcome of a data set that is complete; removes a work folder that a kill has left."""
    out = request.out
    manifest = _finished_manifest(request, scan)
    notes = _changed_videos(manifest, scan)
    if list_folder(request.work):
        # InputError: another run holds it, or nothing can be written there.
        with contextlib.suppress(InputError), exclusive(out):
            remove_leftovers(out, request.work)
            plan = load_plan(request.work)
            if plan is not None and plan.base == manifest.digest:
                notes.append(f"an unfinished {plan.update} exists: run this command with {plan.update} to finish it")
            else:
                remove_tree(request.work)
    return Outcome(manifest, account_of(manifest), True, len(manifest.shards), tuple(notes))


def _finished_manifest(request: Request, scan: Scan) -> Manifest:
    """The data set at OUT; InputError if it has other settings, or shards are not as they were written."""
    manifest = read_manifest(request.out)
    header = manifest.header
    before = {**header.settings, "dataset": header.dataset}
    refuse_difference(request.out, "a finished", before, {**request.settings.model_dump(), "dataset": scan.dataset})
    refuse_missing_shards(request.out, manifest)
    return manifest


def refuse_missing_shards(out: Location, manifest: Manifest) -> None:
    """InputError if shards of a finished data set are missing or have another size."""
    sizes = list_files(out)
    broken = [
        f"{shard.name} ({f'{sizes[shard.name]} bytes, expected {shard.num_bytes}' if shard.name in sizes else 'missing'})"
        for shard in manifest.shards
        if sizes.get(shard.name, -1) != shard.num_bytes
    ]
    if broken:
        raise InputError(
            f"{out} is a finished data set, but {len(broken)} of its shards are not as they were written: {', '.join(broken[:3])}"
            f"{', …' if len(broken) > 3 else ''}. Extract them again with `tgprep check {out} --repair --against VIDEOS`, "
            f"or restore them from a copy."
        )


def _changed_videos(manifest: Manifest, scan: Scan) -> list[str]:
    """Notes on videos that are new or have another size than when the data set was extracted."""
    before = dict(zip(manifest.videos.column("path"), manifest.videos.column("num_source_bytes"), strict=True))
    new = [video.path for video in scan.videos if video.path not in before]
    changed = [v.path for v in scan.videos if v.num_source_bytes != before.get(v.path, v.num_source_bytes)]
    notes = []
    if new:
        notes.append(f"{len(new)} videos in VIDEOS are not in the data set (the first: {new[0]}); --add adds them")
    if changed:
        notes.append(
            f"{len(changed)} videos in VIDEOS have another size than when they were extracted (the first: {changed[0]}): "
            f"extract into another folder to use them as they are now"
        )
    return notes
