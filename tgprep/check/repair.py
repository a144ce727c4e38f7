"""Repair damaged shards from their videos: a shard is replaced only if its new bytes are those that the tables name."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from manifests.files import publish
from manifests.manifest_io import read_manifest
from manifests.records import InputError, ManifestHeader, VideoRow
from manifests.sample import flow_method
from manifests.table import Manifest
from tgprep.check.tables import rows_by_shard
from tgprep.config import EARLIER, ExtractSettings, WorkerSettings
from tgprep.convert.import_rawframes import write_shard
from tgprep.extract.account import versions
from tgprep.extract.workers.local import run_local
from tgprep.extract.workers.request import WORK_FOLDER, Request
from tgprep.extract.workers.shards import Progress, ShardError, ShardPlan, ShardResult, StoppedError


@dataclass(frozen=True, slots=True)
class RepairReport:
    """Which shards were replaced, and which were not."""

    repaired: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    """(shard, reason)"""


def repair(
    root: Path,
    videos: Path,
    damaged: Sequence[str],
    *,
    run: WorkerSettings | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> RepairReport:
    """Extract the damaged shards of the data set at `root` again from `videos`, and replace those that get the sha256 of
    shards.parquet. The tables and all other shards do not change.

    Raises InputError if the data set was made in a way that cannot be repeated, or its tables are damaged.
    """
    if not videos.is_dir():
        raise InputError(f"{videos}: no such folder. Name the folder that the videos were extracted from.")
    manifest = read_manifest(root)
    imported = manifest.header.settings.get("imported") == "rawframes"
    settings = None if imported else _settings(root, manifest.header)
    by_name = {shard.name: shard for shard in manifest.shards}
    rows = rows_by_shard(manifest)
    plans = [ShardPlan(name, tuple(row.source for row in rows.rows(name))) for name in damaged]
    work = root / WORK_FOLDER / f"repair-{uuid.uuid4().hex}"
    had_work = work.parent.exists()
    (work / "scratch").mkdir(parents=True)
    repaired: list[str] = []
    failed: list[tuple[str, str]] = []
    try:
        stop = stop or threading.Event()
        if settings is None:
            results = _from_frames(plans, videos, work, manifest.header, stop)
        else:
            workers = run or WorkerSettings()
            request = Request(videos, work, settings, workers, stop=stop, on_progress=on_progress)
            results = run_local(plans, request, work / "scratch")
        for result in results:
            name = result.shard.name
            lost = [row for row in result.videos if row.error]
            if result.shard == by_name[name]:  # same sha256, size and number of videos
                publish(work / name, root / name)
                repaired.append(name)
            elif lost:
                failed.append((name, f"{len(lost)} of its videos cannot be extracted: {lost[0].path}: {lost[0].error}"))
            else:
                failed.append((name, f"extracting it again gives other bytes{_why(manifest, settings, result.videos)}"))
    except ShardError as error:
        # The engine gave up: all shards that have no result yet fail for the same reason.
        ended = {*repaired, *(name for name, _ in failed)}
        failed += [(name, str(error)) for name in damaged if name not in ended]
    finally:
        shutil.rmtree(work if had_work else work.parent, ignore_errors=True)
    return RepairReport(tuple(sorted(repaired)), tuple(sorted(failed)))


def _from_frames(
    plans: Sequence[ShardPlan], folder: Path, out: Path, header: ManifestHeader, stop: threading.Event
) -> Iterator[ShardResult]:
    """Write the shards of an imported data set again from its rawframes tree."""
    for plan in plans:
        if stop.is_set():
            raise StoppedError
        yield write_shard(plan, folder, out, header.gradient, flow_method(header.settings))


def _settings(root: Path, header: ManifestHeader) -> ExtractSettings:
    try:
        return ExtractSettings(**EARLIER | header.settings)
    except ValidationError:
        raise InputError(
            f"{root} was not made by `tgprep extract` of this version (settings in dataset.json: {', '.join(header.settings)}): "
            "--repair cannot make its shards again. Make the data set again from where it came."
        ) from None


def _why(manifest: Manifest, settings: ExtractSettings | None, rows: Sequence[VideoRow]) -> str:
    """The likeliest reason for other bytes, to follow a statement: `: REASON`, or ""."""
    recorded = {row.path: row.source_sha256 for row in rows_by_shard(manifest).rows(rows[0].shard)} if rows else {}
    changed = [row.path for row in rows if recorded.get(row.path) != row.source_sha256]
    if changed:
        return f": {len(changed)} of its videos are not those that were extracted, such as {changed[0]}"
    if settings is None:
        return ""
    then = manifest.header.versions
    differing = [
        f"{name} {then.get(name)} then, {v} now" for name, v in versions(settings).items() if then.get(name) != v
    ]
    return f": {'; '.join(differing)}. Install the versions of dataset.json" if differing else ""
