"""A rawframes tree (`Class/video/img_00001.jpg`) -> a data set, without decoding a frame: the JPEG bytes stay as they are."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

import pyarrow as pa
import simplejpeg

from manifests.machine import usable_cores
from manifests.manifest_io import (
    HEADER_NAME,
    TEMPORARY_PREFIX,
    atomic_write,
    file_sha256,
    json_bytes,
    publish,
    write_manifest,
)
from manifests.records import (
    FAILED,
    WRITTEN,
    GradientCoding,
    InputError,
    ManifestHeader,
    ShardRow,
    SourceVideo,
    VideoRow,
)
from manifests.sample import (
    EncodedVideo,
    FrameSpool,
    MemberTooLargeError,
    flow_method,
    quality_facts,
    row_facts,
    write_end,
    write_sample,
)
from manifests.table import Manifest
from tgprep.convert.frame_tree import (
    FLOW_FILE,
    TG_FILE,
    FramesError,
    TreeScan,
    export_marker,
    find_frames,
    has_files,
    scan_tree,
    stored_coding,
)
from tgprep.extract.plan import plan_shards
from tgprep.extract.work_folder import (
    WORK_FOLDER,
    clear,
    exclusive,
    load_done,
    make_folder,
    remove_leftovers,
    save_done,
)
from tgprep.extract.workers.shards import ShardPlan, ShardResult

_SPOOL_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    """The data set that was made. notes: what was told from where."""

    manifest: Manifest
    notes: tuple[str, ...]


def import_rawframes(
    folder: Path,
    out: Path,
    *,
    dataset: str = "auto",
    annotations: Path | None = None,
    tg: bool = True,
    flow: bool = True,
    threads: int = 0,
    stop: threading.Event | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImportOutcome:
    """Make the data set `out` from the frame folders below `folder`.

    Frames are `img_N.jpg` (from 0 or 1, without gaps) and `tempgrad_N.jpg`, the n-th of which belongs to the n-th frame and
    the next. tg False, or no tempgrad file in the tree: TG is derived while reading. Classes and labels come as in `extract`:
    from the official lists, from `classInd.txt` in `folder`, else from the class folders. A kill leaves whole shards, and the
    same call goes on. InputError for mistakes; videos whose files are not in order become failed rows.
    """
    stop = stop or threading.Event()
    scan = scan_tree(folder, dataset, annotations)
    stored = tg and has_files(folder, scan.videos, TG_FILE)
    settings: dict[str, str | int | float | bool] = {"imported": "rawframes", "quality": -1, "tg": stored}
    coding = stored_coding(folder, stored)
    if flow and has_files(folder, scan.videos, FLOW_FILE):
        settings["flow"] = str(export_marker(folder).get("flow", "imported"))
    make_folder(out)
    if (out / HEADER_NAME).exists():
        raise InputError(f"{out} holds a finished data set already. Name a new or empty folder.")
    work = out / WORK_FOLDER
    with exclusive(out):
        _resume_or_clear(work, scan, settings)
        remove_leftovers(out, work)
        plans = plan_shards(scan.videos, 0)
        done = load_done(out, work)

        def one(plan: ShardPlan) -> ShardResult:
            if stop.is_set():
                raise KeyboardInterrupt
            if plan.name not in done:
                result = write_shard(plan, folder, out, coding, flow_method(settings))
                save_done(work, result)
                return result
            return done[plan.name]

        results: list[ShardResult] = []
        with ThreadPoolExecutor(threads or usable_cores()) as pool:
            try:
                for number, result in enumerate(pool.map(one, plans), 1):
                    results.append(result)
                    on_progress(number, len(plans))
            except BaseException:
                stop.set()
                raise
        rows = sorted((row for result in results for row in result.videos), key=lambda row: (row.key, row.path))
        counts = Counter(row.status for row in rows)
        header = ManifestHeader(
            dataset=scan.dataset,
            classes=scan.classes,
            gradient=coding,
            settings=settings,
            versions={"tgprep": importlib.metadata.version("tgprep"), "pyarrow": pa.__version__},
            num_folds=scan.num_folds,
            num_written=counts[WRITTEN],
            num_failed=counts[FAILED],
        )
        manifest = write_manifest(out, header, rows, [result.shard for result in results])
        shutil.rmtree(work, ignore_errors=True)
    return ImportOutcome(manifest, scan.notes)


def _resume_or_clear(work: Path, scan: TreeScan, settings: dict[str, str | int | float | bool]) -> None:
    """Keep the shards of an interrupted import of the same tree, forget those of another."""
    told = [[video.key, video.path, video.label, video.num_source_bytes] for video in scan.videos]
    mark = json_bytes({"settings": settings, "videos": hashlib.sha256(json.dumps(told).encode()).hexdigest()})
    place = work / "import.json"
    if not place.exists() or place.read_bytes() != mark:
        clear(work)
        with atomic_write(place) as file:
            file.write(mark)


def write_shard(plan: ShardPlan, folder: Path, out: Path, coding: GradientCoding, flow: str) -> ShardResult:
    """Make one shard in `out` from the frame folders of its videos. flow: how the flow_xym files were computed, "" to leave
    them out. InputError where it cannot be written; videos whose files are not in order become failed rows.
    """
    temporary = out / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{plan.name}"
    rows = []
    try:
        with temporary.open("xb") as tar:
            for video in plan.videos:
                try:
                    rows.append(_pack(tar, video, folder / video.path, plan.name, coding, flow))
                except FramesError as error:
                    rows.append(replace(_row(video), status=FAILED, error=str(error)))
            write_end(tar)
            tar.flush()
            os.fsync(tar.fileno())
        written = sum(row.status == WRITTEN for row in rows)
        shard = ShardRow(plan.name, written, temporary.stat().st_size, file_sha256(temporary))
        publish(temporary, out / plan.name)
    except OSError as error:
        raise InputError(
            f"{out / plan.name}: cannot be written ({error.strerror or error}). Run the same command again to go on."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return ShardResult(shard, tuple(rows))


def _pack(tar: BinaryIO, video: SourceVideo, folder: Path, shard: str, coding: GradientCoding, flow: str) -> VideoRow:
    try:
        files = find_frames(folder, coding.stored, bool(flow))
    except OSError as error:
        raise FramesError(f"cannot be read: {error.strerror}") from None
    with ExitStack() as stack:
        rgb, size, sha256 = _spool(stack, files.rgb, (0, 0))
        tg = _spool(stack, files.tg, size)[0] if coding.stored else None
        flows = _spool(stack, files.flow, size)[0] if flow else None
        height, width = size
        row = replace(
            _row(video),
            num_frames=rgb.num_frames,
            height=height,
            width=width,
            codec="mjpeg",
            num_source_bytes=rgb.num_bytes,
            source_sha256=sha256,
        )
        try:
            meta = _meta(row, coding, flow)
            offset, num_bytes, members = write_sample(tar, EncodedVideo(video.key, meta, rgb, tg, flows))
        except MemberTooLargeError as error:
            raise FramesError(f"too large for a tar member: {error}") from None
    return replace(row, status=WRITTEN, shard=shard, sample_offset=offset, sample_bytes=num_bytes, members=members)


def _spool(stack: ExitStack, files: Sequence[Path], size: tuple[int, int]) -> tuple[FrameSpool, tuple[int, int], str]:
    """The files one after the other, their common (height, width), and their sha256. size (0, 0): that of the first."""
    file_of_all = SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - the stack closes it
    spool = FrameSpool(cast(BinaryIO, stack.enter_context(file_of_all)))
    digest = hashlib.sha256()
    for file in files:
        try:
            jpeg = file.read_bytes()
        except OSError as error:
            raise FramesError(f"{file.name} cannot be read: {error.strerror}") from None
        if not (jpeg.startswith(b"\xff\xd8") and jpeg.endswith(b"\xff\xd9")):
            raise FramesError(f"{file.name} is not a whole JPEG file")
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
        except ValueError as error:
            raise FramesError(f"{file.name} is not a JPEG file ({error})") from None
        if size not in ((0, 0), (height, width)):
            raise FramesError(f"{file.name} is {width}x{height}, the frames before {size[1]}x{size[0]}")
        size = (height, width)
        spool.append(jpeg)
        digest.update(jpeg)
    return spool, size, digest.hexdigest()


def _row(video: SourceVideo) -> VideoRow:
    return VideoRow(
        video.key,
        video.path,
        video.class_name,
        video.label,
        video.group,
        video.subsets,
        "",
        num_source_bytes=video.num_source_bytes,
    )


def _meta(row: VideoRow, coding: GradientCoding, flow: str) -> dict[str, str | int | float]:
    return {
        **row_facts(row),
        **quality_facts({"quality": -1, "flow": flow or "none"}),
        "gradient_source": coding.source,
        "gradient_space": coding.space,
    }
