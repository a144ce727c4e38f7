"""One extraction from plan to finished data set, and on from wherever an earlier run ended. `tgprep extract` calls `extract`."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from manifests.records import InputError, Manifest
from manifests.store import HEADER_NAME, read_manifest
from tgprep.account import Account, account_of, failures, finalise, versions
from tgprep.config import ExtractSettings, RunSettings
from tgprep.engine import run_local
from tgprep.plan import Plan, changes_since, load_plan, new_plan, refuse_difference, save_plan
from tgprep.scan import Scan
from tgprep.supervise import Progress, ShardError, ShardResult, StoppedError
from tgprep.update import Update, plan_update, skipped_of
from tgprep.work import WORK_FOLDER, clear, load_done, make_folder, owned, remove_leftovers, save_done


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished extraction. already_finished: the folder was whole before; num_shards_kept: from earlier runs."""

    manifest: Manifest
    account: Account
    already_finished: bool
    num_shards_kept: int
    notes: tuple[str, ...]


class TooManyFailuresError(Exception):
    """More videos failed than --max-failures allows; finished shards stay."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """How a caller follows the run: `planned` once (videos to do, of them done before), then `progress` for every event."""

    planned: Callable[[int, int], None] = lambda num_videos, num_kept: None
    progress: Callable[[Progress], None] = lambda progress: None


def extract(
    videos: Path,
    out: Path,
    scan: Scan,
    settings: ExtractSettings,
    run: RunSettings,
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
    make_folder(out)
    update = update or Update()
    stop, hooks = stop or threading.Event(), hooks or Hooks()
    try:
        if (out / HEADER_NAME).exists() and not update:
            return _finished(out, scan, settings)
        with owned(out) as work:
            if not (out / HEADER_NAME).exists():
                resumes = (work / "plan.json").exists()
                outcome = _work(videos, out, work, scan, settings, run, stop, hooks)
                if not (update and resumes):
                    return outcome
                (work / "done").mkdir(parents=True, exist_ok=True)
            return _update(videos, out, work, scan, settings, run, stop, hooks, update)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise ShardError(f"cannot write {out}: {error.strerror or error}{place}") from None


def _work(
    videos: Path,
    out: Path,
    work: Path,
    scan: Scan,
    settings: ExtractSettings,
    run: RunSettings,
    stop: threading.Event,
    hooks: Hooks,
) -> Outcome:
    plan, notes = _resume_or_begin(out, work, scan, settings)
    remove_leftovers(out, work)
    kept = load_done(out, work)
    results = make_shards(videos, out, work, plan, kept, run, stop, hooks)
    manifest = finalise(out, plan, results, None)
    shutil.rmtree(work, ignore_errors=True)
    return Outcome(manifest, account_of(manifest), False, len(kept), tuple(notes))


def _update(
    videos: Path,
    out: Path,
    work: Path,
    scan: Scan,
    settings: ExtractSettings,
    run: RunSettings,
    stop: threading.Event,
    hooks: Hooks,
    update: Update,
) -> Outcome:
    remove_leftovers(out, work)
    base = _whole(out, scan, settings)
    plan, used = load_plan(work), versions(settings)
    if plan is not None and plan.base != base.digest:  # of work that was finished just before a kill
        clear(work)
        plan = None
    if plan is None:
        plan = plan_update(base, scan, settings, used, update)
        if not plan.videos and set(plan.skipped) == skipped_of(base):
            shutil.rmtree(work, ignore_errors=True)
            return Outcome(base, account_of(base), True, len(base.shards), (f"{update}: nothing to do",))
        save_plan(work, plan)
    elif plan.update != str(update):
        raise InputError(
            f"{out} holds an unfinished {plan.update}. Finish it with the same options first; the data set is whole and "
            f"as it was before."
        )
    notes = changes_since(plan, scan, used)
    kept = load_done(out, work)
    results = make_shards(videos, out, work, plan, kept, run, stop, hooks)
    manifest = finalise(out, plan, results, base)
    shutil.rmtree(work, ignore_errors=True)
    return Outcome(manifest, account_of(manifest), False, len(base.shards) + len(kept), tuple(notes))


def _resume_or_begin(out: Path, work: Path, scan: Scan, settings: ExtractSettings) -> tuple[Plan, list[str]]:
    """The plan of the interrupted run, else one of this scan; a plan is never cut anew half-way."""
    plan, used = load_plan(work), versions(settings)
    if plan is None or plan.base:  # or of a data set whose header was removed since
        clear(work)
        save_plan(work, new_plan(scan, settings, used))
        plan = load_plan(work)
        assert plan is not None
    asked = {**settings.model_dump(), "dataset": scan.dataset}
    refuse_difference(out, "an unfinished", {**plan.settings.model_dump(), "dataset": plan.dataset}, asked)
    if plan.classes != scan.classes and {v.path for v in plan.videos} == {v.path for v in scan.videos}:
        raise InputError(
            f"{out} holds an unfinished data set of {len(plan.classes)} classes, asked are {len(scan.classes)} others. "
            f"Use the same --classes and --annotations to go on, or name another folder."
        )
    return plan, changes_since(plan, scan, used)


def make_shards(
    videos: Path,
    out: Path,
    work: Path,
    plan: Plan,
    kept: dict[str, ShardResult],
    run: RunSettings,
    stop: threading.Event,
    hooks: Hooks,
) -> list[ShardResult]:
    """Write the plan's shards that are not kept from earlier runs; gives the results of all, in the plan's order."""
    done = dict(kept)
    todo = [shard for shard in plan.shards if shard.name not in done]
    hooks.planned(len(plan.videos), sum(len(result.videos) for result in done.values()))
    num_failed = failures(list(done.values()))
    (work / "scratch").mkdir(exist_ok=True)
    made = run_local(
        todo,
        videos=videos,
        out=out,
        scratch=work / "scratch",
        settings=plan.settings,
        run=run,
        stop=stop,
        tell=hooks.progress,
    )
    with contextlib.closing(made):
        for result in made:
            save_done(work, result)
            done[result.shard.name] = result
            num_failed += failures([result])
            if 0 <= run.max_failures < num_failed:
                raise TooManyFailuresError(
                    f"{num_failed} videos failed, --max-failures allows {run.max_failures}. Finished shards are kept."
                )
    if len(done) < len(plan.shards):
        raise StoppedError
    return [done[shard.name] for shard in plan.shards]


def _finished(out: Path, scan: Scan, settings: ExtractSettings) -> Outcome:
    """What a data set that is whole holds; a work folder that a kill left behind is removed."""
    manifest = _whole(out, scan, settings)
    notes = _news(manifest, scan)
    if (out / WORK_FOLDER).exists():
        with (
            contextlib.suppress(InputError),
            owned(out) as work,
        ):  # unless another run has it, or nothing can be written
            remove_leftovers(out, work)
            plan = load_plan(work)
            if plan is not None and plan.base == manifest.digest:
                notes.append(f"an unfinished {plan.update} is there: run this command with {plan.update} to finish it")
            else:
                shutil.rmtree(work, ignore_errors=True)
    return Outcome(manifest, account_of(manifest), True, len(manifest.shards), tuple(notes))


def _whole(out: Path, scan: Scan, settings: ExtractSettings) -> Manifest:
    """The data set at `out`; InputError where it has other settings, or is no longer as it was written."""
    manifest = read_manifest(out)
    asked = {**settings.model_dump(), "dataset": scan.dataset}
    refuse_difference(out, "a finished", {**manifest.header.settings, "dataset": manifest.header.dataset}, asked)
    refuse_missing_shards(out, manifest)
    return manifest


def refuse_missing_shards(out: Path, manifest: Manifest) -> None:
    """InputError where shards of a finished data set are gone or of another size."""
    broken = []
    for shard in manifest.shards:
        size = (out / shard.name).stat().st_size if (out / shard.name).exists() else -1
        if size != shard.num_bytes:
            broken.append(f"{shard.name} ({'missing' if size < 0 else f'{size} bytes, expected {shard.num_bytes}'})")
    if broken:
        raise InputError(
            f"{out} is a finished data set, but {len(broken)} of its shards are not as they were written: {', '.join(broken[:3])}"
            f"{', …' if len(broken) > 3 else ''}. Restore them from a copy, or remove {out / HEADER_NAME} and run this "
            f"command again: the same videos and settings give the same bytes."
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
