"""Repair damaged shards from their videos: a shard is replaced only if its new bytes are those that the tables name."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from manifests.disk import publish
from manifests.files import below
from manifests.manifest_io import HEADER_NAME, read_manifest, read_originals
from manifests.records import InputError, ManifestHeader, VideoRow
from manifests.sample import flow_method
from tgprep.check.tables import rows_by_shard
from tgprep.config import EARLIER, ExtractSettings, WorkerSettings, decoder_of
from tgprep.convert.import_rawframes import write_shard
from tgprep.extract import work_folder
from tgprep.extract.pipeline import versions
from tgprep.extract.workers.local import run_local
from tgprep.extract.workers.shards import (
    WORK_FOLDER,
    Progress,
    Request,
    ShardError,
    ShardPlan,
    ShardResult,
    StoppedError,
)
from tgprep.scan.pool import Pools


@dataclass(frozen=True, slots=True)
class RepairReport:
    """Which shards were replaced, and which were not."""

    repaired: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]  # (shard, reason)


def repair(
    root: Path,
    videos: Path,
    damaged: Sequence[str],
    *,
    unlabelled: Sequence[Path] = (),
    decoder: str | None = None,
    run: WorkerSettings | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> RepairReport:
    """Extract the damaged shards of the data set at `root` again from `videos`, and replace those that get the sha256 of
    shards.parquet. The tables and all other shards do not change.

    unlabelled: folders of videos without a label. decoder: the custom decoder that dataset.json must name; without it only built-in decoders are used.
    Raises InputError if the data set was made in a way that cannot be repeated, its tables are damaged, or another process
    writes into it. Without damaged shards, only what an interrupted repair has left is removed.
    """
    if not videos.is_dir():
        raise InputError(f"{videos}: no such folder. Name the folder that the videos were extracted from.")
    with work_folder.exclusive(root):
        work_folder.remove_leftovers(root, root / WORK_FOLDER)
        how = (Pools.of(videos, unlabelled), run or WorkerSettings(), decoder, stop or threading.Event(), on_progress)
        return _repair_held(root, videos, damaged, *how)


def _repair_held(
    root: Path,
    videos: Path,
    damaged: Sequence[str],
    pools: Pools,
    run: WorkerSettings,
    decoder: str | None,
    stop: threading.Event,
    on_progress: Callable[[Progress], None],
) -> RepairReport:
    """`repair`, while this process holds the data set."""
    manifest = read_manifest(root)
    imported = manifest.header.settings.get("imported") == "rawframes"
    settings = None if imported else _settings(root, manifest.header, decoder)
    by_name = {shard.name: shard for shard in manifest.shards}
    rows = rows_by_shard(manifest, read_originals(manifest))  # the shards get the bytes that they had
    plans = [ShardPlan(name, tuple(row.source for row in rows.rows(name))) for name in damaged]
    repaired: list[str] = []
    failed: dict[str, str] = {}
    work = root / WORK_FOLDER / "scratch-repair"  # `remove_leftovers` removes what a kill leaves of it
    try:
        (work / "scratch").mkdir(parents=True)
        if settings is None:
            results = _from_frames(plans, videos, work, manifest.header, stop)
        else:
            pools.require(video.path for plan in plans for video in plan.videos)
            request = Request(videos, work, settings, run, pools, stop=stop, on_progress=on_progress)
            results = run_local(plans, request, work / "scratch")
        with contextlib.closing(results):  # ends the workers, whatever is raised
            for result in results:
                name = result.shard.name
                if result.shard == by_name[name]:  # same sha256, size and number of videos
                    publish(work / name, root / name)
                    repaired.append(name)
                else:
                    failed[name] = _why(manifest.header, settings, rows.rows(name), result.videos)
    except ShardError as error:
        # The engine gave up: all shards that have no result yet fail for the same reason.
        failed |= {name: str(error) for name in damaged if name not in (*repaired, *failed)}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return RepairReport(tuple(sorted(repaired)), tuple(sorted(failed.items())))


def _from_frames(
    plans: Sequence[ShardPlan], folder: Path, out: Path, header: ManifestHeader, stop: threading.Event
) -> Generator[ShardResult, None, None]:
    """Write the shards of an imported data set again from its rawframes tree."""
    for plan in plans:
        if stop.is_set():
            raise StoppedError
        yield write_shard(plan, folder, out, header.gradient, flow_method(header.settings))


def _settings(root: Path, header: ManifestHeader, decoder: str | None) -> ExtractSettings:
    place = below(root, HEADER_NAME)
    named = decoder_of(header.settings.get("decoder", ExtractSettings().decoder), decoder, place)
    try:
        return ExtractSettings(**EARLIER | header.settings | {"decoder": named})
    except ValidationError:
        raise InputError(
            f"{root} was not made by `tgprep extract` of this version (settings in dataset.json: {', '.join(header.settings)}): "
            "--repair cannot make its shards again. Make the data set again from where it came."
        ) from None


def _why(
    header: ManifestHeader, settings: ExtractSettings | None, recorded: Iterable[VideoRow], rows: Sequence[VideoRow]
) -> str:
    """The likeliest reason why a shard did not get its recorded bytes."""
    if lost := [row for row in rows if row.error]:
        return f"{len(lost)} of its videos cannot be extracted: {lost[0].path}: {lost[0].error}"
    reason = "extracting it again gives other bytes"
    digests = {row.path: row.source_sha256 for row in recorded}
    if changed := [row.path for row in rows if digests.get(row.path) != row.source_sha256]:
        return f"{reason}: {len(changed)} of its videos are not those that were extracted, such as {changed[0]}"
    now = versions(settings) if settings else {}
    then = {name: header.versions.get(name) for name in now}
    differing = [f"{name} {then[name]} then, {now[name]} now" for name in now if then[name] != now[name]]
    return f"{reason}: {'; '.join(differing)}. Install the versions of dataset.json" if differing else reason
