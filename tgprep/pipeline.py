"""One extraction from plan to finished data set: planning, resuming, accounting. `tgprep extract` calls `extract`."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import math
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.records import (
    FAILED,
    SKIPPED,
    WRITTEN,
    InputError,
    Manifest,
    ManifestHeader,
    Members,
    ShardRow,
    SourceVideo,
    VideoRow,
)
from manifests.store import (
    HEADER_NAME,
    TEMPORARY_PREFIX,
    atomic_write,
    json_bytes,
    read_manifest,
    write_manifest,
)
from tgprep.config import ExtractSettings, RunSettings
from tgprep.decode import decoder_versions
from tgprep.engine import run_local
from tgprep.scan import Scan
from tgprep.supervise import Progress, ShardPlan, ShardResult, StoppedError

WORK_FOLDER = ".tgprep"


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the inputs; `num_inputs` is counted on its own, so that the sum proves something."""

    num_inputs: int
    num_written: int
    num_failed: int
    num_skipped: int
    num_frames: int
    num_bytes: int
    num_shards: int

    def __post_init__(self) -> None:
        assert self.num_inputs == self.num_written + self.num_failed + self.num_skipped, self


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished extraction. already_finished: the folder was whole before; num_resumed: shards kept from before."""

    manifest: Manifest
    account: Account
    already_finished: bool
    num_shards_kept: int
    notes: tuple[str, ...]


class TooManyFailuresError(Exception):
    """More videos failed than --max-failures allows; finished shards stay."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """How a caller follows the run: `planned` once (frames and videos to do), then `progress` for every event."""

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

    Raises InputError (other settings, folder in use), TooManyFailuresError, and StoppedError where `stop` was set;
    after any of them, and after a kill, the same call goes on where the run ended.
    """
    stop = stop or threading.Event()
    hooks = hooks or Hooks()
    if not scan.videos:
        raise InputError(f"{videos} holds no video. Name the folder that holds the class folders, or see `--dataset`.")
    _make_folder(out)
    if (out / HEADER_NAME).exists():
        return _finished(out, scan, settings)
    with _owned(out):
        if (out / HEADER_NAME).exists():  # another run finished it while this one waited for nothing
            return _finished(out, scan, settings)
        work = out / WORK_FOLDER
        plan, notes = _load_or_make_plan(out, work, scan, settings)
        _remove_leftovers(out, work)
        done = _load_done(out, work)
        todo = [shard for shard in plan.shards if shard.name not in done]
        hooks.planned(sum(len(s.videos) for s in plan.shards), sum(len(r.videos) for r in done.values()))
        (work / "scratch").mkdir(exist_ok=True)
        num_failed = sum(row.status == FAILED for result in done.values() for row in result.videos)
        for result in run_local(
            todo,
            videos=videos,
            out=out,
            scratch=work / "scratch",
            settings=settings,
            run=run,
            stop=stop,
            tell=hooks.progress,
        ):
            with atomic_write(work / "done" / f"{result.shard.name}.json") as file:
                file.write(json.dumps(dataclasses.asdict(result)).encode())
            done[result.shard.name] = result
            num_failed += sum(row.status == FAILED for row in result.videos)
            if run.max_failures >= 0 and num_failed > run.max_failures:
                raise TooManyFailuresError(
                    f"{num_failed} videos failed, --max-failures allows {run.max_failures}. Finished shards are kept."
                )
        if stop.is_set() and len(done) < len(plan.shards):
            raise StoppedError
        manifest = _finalise(out, plan, [done[shard.name] for shard in plan.shards], settings)
        shutil.rmtree(work, ignore_errors=True)
    return Outcome(manifest, _account(manifest), False, len(plan.shards) - len(todo), tuple(notes))


@dataclass(frozen=True, slots=True)
class _Plan:
    dataset: str
    classes: tuple[str, ...]
    num_folds: int
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    shards: tuple[ShardPlan, ...]


def plan_shards(videos: Sequence[SourceVideo], videos_per_shard: int) -> tuple[ShardPlan, ...]:
    """Cut the scan into shards: an even mix of all classes, the same for the same keys whatever the machine.

    videos_per_shard 0: 8 to 64, so that a small data set still has shards for several workers.
    """
    size = videos_per_shard or min(64, max(8, math.ceil(len(videos) / 32)))
    mixed = sorted(videos, key=lambda video: (blake2b(video.key.encode(), digest_size=8).digest(), video.key))
    return tuple(
        ShardPlan(f"shard-{number:06d}.tar", tuple(mixed[start : start + size]))
        for number, start in enumerate(range(0, len(mixed), size))
    )


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{out} is not a folder. Name a folder for the data set.") from None
    except OSError as error:
        raise InputError(f"Cannot make the folder {out}: {error.strerror}.") from None
    if not (out / HEADER_NAME).exists() and not (out / WORK_FOLDER).exists():
        others = sorted(path.name for path in out.iterdir())
        if others:
            raise InputError(
                f"{out} is not empty ({', '.join(others[:3])}{', …' if len(others) > 3 else ''}) and holds no data set. "
                f"Name a new or empty folder for OUT."
            )


def _finished(out: Path, scan: Scan, settings: ExtractSettings) -> Outcome:
    manifest = read_manifest(out)
    _refuse_difference(out, dict(manifest.header.settings), settings.model_dump(), "a finished")
    notes = []
    known = set(manifest.videos.column("path"))
    new = [video.path for video in scan.videos if video.path not in known]
    if new:
        notes.append(
            f"{len(new)} videos in VIDEOS are not in the data set (the first: {new[0]}): a finished data set is not changed, "
            f"extract into another folder to have them"
        )
    return Outcome(manifest, _account(manifest), True, len(manifest.shards), tuple(notes))


@contextlib.contextmanager
def _owned(out: Path) -> Iterator[None]:
    """Hold the folder for this run; the lock vanishes with the process, however it ends."""
    work = out / WORK_FOLDER
    try:
        (work / "done").mkdir(parents=True, exist_ok=True)
        lock: TextIO = (work / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot write to {out}: {error.strerror}.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip() or "an unknown process"
            raise InputError(
                f"{out} is in use by {owner}. Wait for it, or end it and run this command again."
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def _load_or_make_plan(out: Path, work: Path, scan: Scan, settings: ExtractSettings) -> tuple[_Plan, list[str]]:
    """The plan of the interrupted run, else one of this scan; a plan is never cut anew half-way."""
    try:
        facts = json.loads((work / "plan.json").read_bytes())
    except FileNotFoundError:
        _save_plan(work, scan, settings)
        facts = json.loads((work / "plan.json").read_bytes())
    _refuse_difference(out, facts["settings"], settings.model_dump(), "an unfinished")
    videos = tuple(
        SourceVideo(**{**record, "subsets": tuple(record["subsets"])})
        for record in pq.read_table(work / "plan.parquet").to_pylist()
    )
    notes = []
    before, now = {video.path for video in videos}, {video.path for video in scan.videos}
    if before != now:
        notes.append(
            f"VIDEOS has changed since this extraction began ({len(now - before)} new, {len(before - now)} gone): "
            f"the work goes on with the videos of the beginning"
        )
    plan = _Plan(
        dataset=facts["dataset"],
        classes=tuple(facts["classes"]),
        num_folds=facts["num_folds"],
        skipped=tuple((path, reason) for path, reason in facts["skipped"]),
        notes=tuple(facts["notes"]),
        shards=plan_shards(videos, settings.videos_per_shard),
    )
    return plan, notes


def _save_plan(work: Path, scan: Scan, settings: ExtractSettings) -> None:
    schema = pa.schema(
        [
            ("key", pa.string()),
            ("path", pa.string()),
            ("class_name", pa.string()),
            ("label", pa.int32()),
            ("group", pa.string()),
            ("subsets", pa.list_(pa.string())),
            ("num_source_bytes", pa.int64()),
        ]
    )
    records = [{**dataclasses.asdict(video), "subsets": list(video.subsets)} for video in scan.videos]
    with atomic_write(work / "plan.parquet") as file:
        pq.write_table(pa.Table.from_pylist(records, schema=schema), file)
    facts = {
        "settings": settings.model_dump(),
        "dataset": scan.dataset,
        "classes": list(scan.classes),
        "num_folds": scan.num_folds,
        "skipped": [[item.path, item.reason] for item in scan.skipped],
        "notes": list(scan.notes),
    }
    with atomic_write(work / "plan.json") as file:  # last: the plan counts once this file is there
        file.write(json_bytes(facts))


def _refuse_difference(out: Path, before: dict[str, Any], now: dict[str, Any], state: str) -> None:
    differences = [
        f"{name} is {before.get(name)!r} there, {value!r} asked"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if differences:
        raise InputError(
            f"{out} holds {state} data set with other settings: {'; '.join(differences)}. "
            f"Use the same settings to go on, or name another folder."
        )


def _remove_leftovers(out: Path, work: Path) -> None:
    for leftover in out.glob(f"{TEMPORARY_PREFIX}*"):
        leftover.unlink(missing_ok=True)
    for leftover in (work / "done").glob(f"{TEMPORARY_PREFIX}*"):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(work / "scratch", ignore_errors=True)


def _load_done(out: Path, work: Path) -> dict[str, ShardResult]:
    """The shards that earlier runs finished: journal entry and file of the right size."""
    done = {}
    for entry in sorted((work / "done").glob("*.json")):
        raw = json.loads(entry.read_bytes())
        shard = ShardRow(**raw["shard"])
        rows = tuple(
            VideoRow(**{**row, "members": Members(**row["members"]), "subsets": tuple(row["subsets"])})
            for row in raw["videos"]
        )
        try:
            whole = (out / shard.name).stat().st_size == shard.num_bytes
        except FileNotFoundError:
            whole = False
        if whole:
            done[shard.name] = ShardResult(shard, rows)
    return done


def _finalise(out: Path, plan: _Plan, results: Sequence[ShardResult], settings: ExtractSettings) -> Manifest:
    rows = [row for result in results for row in result.videos]
    rows += [
        VideoRow(key="", path=path, class_name="", label=-1, group="", subsets=(), status=SKIPPED, error=reason)
        for path, reason in plan.skipped
    ]
    planned = sum(len(shard.videos) for shard in plan.shards) + len(plan.skipped)
    assert len(rows) == planned, f"{len(rows)} rows for {planned} inputs"
    counts = {status: sum(row.status == status for row in rows) for status in (WRITTEN, FAILED, SKIPPED)}
    header = ManifestHeader(
        dataset=plan.dataset,
        classes=plan.classes,
        gradient=settings.coding,
        settings=settings.model_dump(),
        versions={
            "tgprep": importlib.metadata.version("tgprep"),
            "simplejpeg": importlib.metadata.version("simplejpeg"),
            "pyarrow": pa.__version__,
            **decoder_versions(settings.decoder),
        },
        num_folds=plan.num_folds,
        num_written=counts[WRITTEN],
        num_failed=counts[FAILED],
        num_skipped=counts[SKIPPED],
    )
    return write_manifest(
        out, header, sorted(rows, key=lambda row: (row.key, row.path)), [result.shard for result in results]
    )


def _account(manifest: Manifest) -> Account:
    header = manifest.header
    return Account(
        num_inputs=len(manifest.videos),
        num_written=header.num_written,
        num_failed=header.num_failed,
        num_skipped=header.num_skipped,
        num_frames=sum(manifest.videos.column("num_frames")),
        num_bytes=sum(shard.num_bytes for shard in manifest.shards),
        num_shards=len(manifest.shards),
    )
