"""One extraction from plan to finished data set, continuing where an earlier run ended. `tgprep extract` calls `extract`."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from manifests.card import plain_text, write_card
from manifests.console import plural
from manifests.disk import explained
from manifests.files import Location, below, exists, list_files, list_folder, remove, remove_tree
from manifests.manifest_io import HEADER_NAME, read_manifest, read_originals, write_manifest
from manifests.records import FAILED, NO_LABEL, SKIPPED, WRITTEN, InputError, ManifestHeader, VideoRow
from manifests.table import Manifest
from tgprep.config import ExtractSettings
from tgprep.decode.frames import PLANES_VERSION
from tgprep.decode.open import decoder_versions
from tgprep.encode.jpeg_tables import ENCODER_VERSION
from tgprep.extract import work_folder
from tgprep.extract.plan import (
    DamagedPlanError,
    Plan,
    Update,
    changes_since,
    has_labels,
    load_plan,
    new_videos,
    plan_digest,
    plan_update,
    refuse_difference,
    skipped_of,
)
from tgprep.extract.workers.local import num_workers, run_local
from tgprep.extract.workers.scratch import refuse_small, scratch_folder
from tgprep.extract.workers.shards import Engine, Request, ShardError, ShardPlan, ShardResult, StoppedError, Workload
from tgprep.scan.scan import Scan


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished extraction. already_finished: OUT was complete before; num_shards_kept: written by earlier runs."""

    manifest: Manifest
    already_finished: bool
    num_shards_kept: int
    notes: tuple[str, ...]


class TooManyFailuresError(Exception):
    """More videos failed than --max-failures allows; finished shards stay."""


def prepare(request: Request) -> Request:
    """Add the versions to a request. InputError if the decoder is not installed or OUT cannot be a data set's folder; writes nothing.

    Call it before a long scan; `extract` calls it otherwise.
    """
    if request.versions:
        return request
    used = versions(request.settings)
    work_folder.check_output_folder(request.out)
    return replace(request, versions=used)


def versions(settings: ExtractSettings) -> dict[str, str]:
    """Versions of all that decides the bytes; InputError if the decoder is not installed."""
    name = settings.decoder
    try:
        used = decoder_versions(name)
    except (Exception, SystemExit) as error:  # a user's module may fail in any way
        text = " ".join(str(error).split())
        raise InputError(
            f"--decoder {name} cannot be loaded: {type(error).__name__}: {text}. Install it, or put its folder on PYTHONPATH."
        ) from None
    if settings.store == "video":
        from tgprep.encode.h264 import x264_version

        used |= {**decoder_versions("pyav"), "x264": x264_version()}
    if settings.space == "ycbcr420":
        used["planes"] = str(PLANES_VERSION)
    if settings.encoder == "fused":
        used["fused_encoder"] = str(ENCODER_VERSION)
    packages = {name: importlib.metadata.version(name) for name in ("tgprep", "simplejpeg")}
    return {**packages, "pyarrow": pa.__version__, **used}


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
    work_folder.make_folder(out)
    with writing(out):
        if exists(header) and not update:
            return finished_outcome(request, scan)
        with work_folder.exclusive(out) as check_owner:
            if exists(header):
                return _update(request, scan, update, check_owner)
            resumes = exists(below(request.work, "plan.json"))
            plan, notes = resume_or_begin(request, scan)
            work_folder.remove_leftovers(out, request.work)
            done = work_folder.load_done(out, request.work, plan_digest(request.work), notes)
            outcome = join(out, plan, make_shards(request, plan.shards, done, check_owner), len(done), notes)
        if not (update and resumes):
            return outcome
        # The unfinished extraction is complete; its work folder, and with it the lock, is gone.
        with work_folder.exclusive(out) as check_owner:
            return _update(request, scan, update, check_owner)


@contextlib.contextmanager
def writing(out: Location) -> Iterator[None]:
    """Turn OSError into the ShardError that names OUT."""
    try:
        yield
    except OSError as error:
        raise ShardError(f"cannot write {explained(error, out)}") from None


def _update(request: Request, scan: Scan, update: Update, check_owner: Callable[[], None]) -> Outcome:
    out, work = request.out, request.work
    work_folder.remove_leftovers(out, work)
    base = _finished_manifest(request, scan)
    plan, notes = _plan_or_note(work)
    if plan is not None and plan.base != base.digest:  # left by an update that was complete just before a kill
        work_folder.clear(work)
        plan = None
    if plan is None:
        plan = plan_update(base, scan, request.settings, request.versions, update, request.pools.outside)
        if not plan.videos and set(plan.skipped) == skipped_of(base):
            remove_tree(work)
            return Outcome(base, True, len(base.shards), (f"{update}: nothing to do",))
        plan.save(work)
    elif plan.update != str(update):
        raise InputError(
            f"{out} holds an unfinished {plan.update}. Finish it with the same options first; the data set is complete and "
            f"as it was before."
        )
    notes += changes_since(plan, scan, request.versions)
    done = work_folder.load_done(out, work, plan_digest(work), notes)
    results = make_shards(request, plan.shards, done, check_owner)
    return join(out, plan, results, len(base.shards) + len(done), notes, base)


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
    request.pools.require(video.path for shard in todo for video in shard.videos)
    sizes = [video.num_source_bytes for shard in shards for video in shard.videos]
    kept_sizes = [row.num_source_bytes for result in results.values() for row in result.videos]
    request.on_planned(Workload(len(sizes), sum(sizes), len(kept_sizes), sum(kept_sizes)))
    digest = plan_digest(request.work) if todo else ""
    num_failed = num_failures(results.values())
    max_failures = request.workers.max_failures
    engine: Engine = run_local
    if request.workers.engine == "dask":
        from tgprep.extract.workers.dask_cluster import run_dask as engine
    with contextlib.ExitStack() as stack:
        # The folder for unfinished work: beside the shards if it can be, else one that ends with this run. On a cluster each machine makes one.
        scratch = None
        if todo and isinstance(request.work, Path) and not request.workers.scratch:
            scratch = request.work / scratch_name
            scratch.mkdir(exist_ok=True)
        elif todo and request.workers.engine == "local":
            scratch = stack.enter_context(scratch_folder(request))
        if scratch is not None:
            refuse_small(scratch, request, todo, num_workers(request.workers, todo))
        # Closing the generator ends the workers, whatever is raised below.
        for result in stack.enter_context(contextlib.closing(engine(todo, request, scratch))):
            check_owner()
            work_folder.save_done(request.work, result, digest)
            results[result.shard.name] = result
            num_failed += num_failures([result])
            if 0 <= max_failures < num_failed:
                raise TooManyFailuresError(
                    f"{plural(num_failed, 'video')} failed, --max-failures allows {max_failures}. Finished shards are kept."
                )
    if len(results) < len(shards):
        raise StoppedError
    return [results[shard.name] for shard in shards]


def num_failures(results: Iterable[ShardResult]) -> int:
    """Failed videos of the given shards."""
    return sum(row.status == FAILED for result in results for row in result.videos)


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
    return Outcome(finalise(out, plan.header, results, plan.skipped, base), False, num_kept, tuple(notes))


def finalise(
    out: Location,
    header: ManifestHeader,
    results: Sequence[ShardResult],
    skipped: Sequence[tuple[str, str]] = (),
    base: Manifest | None = None,
) -> Manifest:
    """Join finished shards to a data set: write tables and header, remove the work folder.

    header: without counts. skipped: (path, reason). base: the data set that the shards change.
    """
    rows = [row for result in results for row in result.videos]
    rows += [
        VideoRow(key="", path=path, class_name="", label=-1, group="", subsets=(), status=SKIPPED, error=reason)
        for path, reason in skipped
    ]
    shards = [result.shard for result in results]
    originals = None
    if base is not None:
        new = {row.place for row in rows}
        old = (row for row in base.videos if row.status != SKIPPED and row.place not in new)
        # A data set without labels gets its folds with its first labelled videos.
        train = ("train",) * header.num_folds
        rows += [replace(row, subsets=train) if row.label == NO_LABEL else row for row in old]
        originals = read_originals(base).with_folds(header.num_folds)
        while shards and not shards[-1].num_videos:  # every video failed again: no empty shard for that
            remove(below(out, shards.pop().name))
        shards = [*base.shards, *shards]
        before = base.header.versions
        versions = {
            name: now if now in (before.get(name) or now).split(", ") else f"{before[name]}, {now}"
            for name, now in header.versions.items()
        }
        header = replace(header, versions=versions, changes=base.header.changes)
    assert len({row.place for row in rows}) == len(rows), "a video has two rows"
    counts = Counter(row.status for row in rows)
    assert counts.total() == counts[WRITTEN] + counts[FAILED] + counts[SKIPPED], counts
    header = replace(header, num_written=counts[WRITTEN], num_failed=counts[FAILED], num_skipped=counts[SKIPPED])
    # All videos are one part: labels of training are in splits/.
    num_unlabelled = sum(row.label == NO_LABEL and row.status == WRITTEN for row in rows)
    earlier = plain_text(base.videos.num_without_label) if base is not None else ""
    write_card(out, {"train": "shard-*.tar"}, plain_text(num_unlabelled), earlier)
    manifest = write_manifest(out, header, sorted(rows, key=lambda row: (row.key, row.path)), shards, originals)
    work_folder.remove(out)
    return manifest


def resume_or_begin(request: Request, scan: Scan) -> tuple[Plan, list[str]]:
    """The plan of the interrupted run, or a new one of this scan, and notes; an existing plan is never changed."""
    notes: list[str] = []
    found = resume(request, scan, notes)
    if found is not None:
        return found
    if not notes:
        work_folder.clear(request.work)
    skipped = tuple((item.path, item.reason) for item in scan.skipped)
    names = {name: getattr(scan, name) for name in ("dataset", "classes", "num_folds", "videos")}
    plan = Plan(**names, skipped=skipped, settings=request.settings, versions=request.versions)
    plan.save(request.work)
    return plan, notes


def resume(request: Request, scan: Scan, damage: list[str] | None = None) -> tuple[Plan, list[str]] | None:
    """The plan of the interrupted run, and notes; None if there is none. damage: takes the note on one that cannot be read."""
    out, settings = request.out, request.settings
    plan, notes = _plan_or_note(request.work)
    if plan is None or plan.base:  # base: an update of a data set whose header has been removed since
        (damage if damage is not None else []).extend(notes)
        return None
    refuse_difference(out, "an unfinished", plan.dataset, plan.settings.model_dump(), scan, settings)
    if plan.classes != scan.classes and {v.place for v in plan.videos} == {v.place for v in scan.videos}:
        raise InputError(
            f"{out} holds an unfinished data set of {len(plan.classes)} classes, this scan has {len(scan.classes)} others. "
            f"Use the same --classes and --annotations to continue, or name another folder."
        )
    return plan, changes_since(plan, scan, request.versions)


def _plan_or_note(work: Location) -> tuple[Plan | None, list[str]]:
    """The plan in the work folder, or a note that it is damaged: it is made again, and the seals of the journal say what fits it."""
    try:
        return load_plan(work), []
    except DamagedPlanError as error:
        return None, [f"{str(error).partition('. ')[0]}: it is made again"]


def finished_outcome(request: Request, scan: Scan) -> Outcome:
    """The outcome of a data set that is complete; removes a work folder that a kill has left."""
    out = request.out
    manifest = _finished_manifest(request, scan)
    # Notes on videos that are new or have another size than when the data set was extracted.
    before = dict(zip(manifest.videos.places(), manifest.videos.column("num_source_bytes"), strict=True))
    dropped = read_originals(manifest).dropped_videos()
    before |= dict(zip(dropped.places(), dropped.column("num_source_bytes"), strict=True))
    new = [video.path for video in new_videos(scan, before)]
    changed = [v.path for v in scan.videos if v.num_source_bytes != before.get(v.place, v.num_source_bytes)]
    notes = []
    if new:
        notes.append(
            f"{plural(len(new), 'video in VIDEOS is', 'videos in VIDEOS are')} not in the data set (the first: {new[0]}); --add adds them"
        )
    if changed:
        notes.append(
            f"{plural(len(changed), 'video in VIDEOS has', 'videos in VIDEOS have')} another size than at extraction (the first: {changed[0]}): "
            f"extract into another folder to use them as they are now"
        )
    if list_folder(request.work):
        # InputError: another run holds it, or nothing can be written there.
        with contextlib.suppress(InputError), work_folder.exclusive(out):
            work_folder.remove_leftovers(out, request.work)
            try:
                plan = load_plan(request.work)
            except DamagedPlanError as error:
                notes.append(str(error))
                return Outcome(manifest, True, len(manifest.shards), tuple(notes))
            if plan is not None and plan.base == manifest.digest:
                notes.append(f"an unfinished {plan.update} exists: run this command with {plan.update} to finish it")
            else:
                remove_tree(request.work)
    return Outcome(manifest, True, len(manifest.shards), tuple(notes))


def _finished_manifest(request: Request, scan: Scan) -> Manifest:
    """The data set at OUT; InputError if it has other settings, or shards are not as they were written."""
    out, manifest = request.out, read_manifest(request.out)
    header = manifest.header
    dataset = header.dataset if has_labels(manifest) else scan.dataset
    refuse_difference(out, "a finished", dataset, header.settings, scan, request.settings)
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
    return manifest
