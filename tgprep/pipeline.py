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
from tgprep.work import WORK_FOLDER, load_done, make_folder, owned, remove_leftovers, save_done


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
) -> Outcome:
    """Write every video of the scan into the data set at `out`, or finish what an earlier run began.

    Raises InputError (other settings, folder in use), ShardError (the data set cannot be written), TooManyFailuresError,
    and StoppedError where `stop` was set; after any of them, and after a kill, the same call goes on where the run ended.
    """
    if not scan.videos:
        raise InputError(f"{videos} holds no video. Name the folder that holds the class folders, or see `--dataset`.")
    make_folder(out)
    try:
        if (out / HEADER_NAME).exists():
            return _finished(out, scan, settings)
        with owned(out) as work:
            if (out / HEADER_NAME).exists():  # another run finished it meanwhile
                return _finished(out, scan, settings)
            return _work(videos, out, work, scan, settings, run, stop or threading.Event(), hooks or Hooks())
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


def _resume_or_begin(out: Path, work: Path, scan: Scan, settings: ExtractSettings) -> tuple[Plan, list[str]]:
    """The plan of the interrupted run, else one of this scan; a plan is never cut anew half-way."""
    plan = load_plan(work)
    used = versions(settings)
    if plan is None:
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
    manifest = read_manifest(out)
    asked = {**settings.model_dump(), "dataset": scan.dataset}
    refuse_difference(out, "a finished", {**manifest.header.settings, "dataset": manifest.header.dataset}, asked)
    refuse_missing_shards(out, manifest)
    shutil.rmtree(out / WORK_FOLDER, ignore_errors=True)
    return Outcome(manifest, account_of(manifest), True, len(manifest.shards), tuple(_news(manifest, scan)))


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
