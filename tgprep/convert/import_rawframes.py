"""Imports a rawframes tree (`Class/video/img_00001.jpg`) as a data set without decoding a frame: JPEG bytes stay unchanged."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

import pyarrow as pa
import simplejpeg

from manifests.files import TEMPORARY_PREFIX, atomic_write, publish
from manifests.machine import usable_cores
from manifests.manifest_io import HEADER_NAME, file_sha256, json_bytes
from manifests.records import WRITTEN, GradientCoding, InputError, ManifestHeader, ShardRow, SourceVideo, VideoRow
from manifests.sample import (
    EncodedVideo,
    FrameSpool,
    MemberTooLargeError,
    flow_method,
    sample_facts,
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
from tgprep.extract.account import finalise
from tgprep.extract.plan import plan_shards
from tgprep.extract.work_folder import (
    check_output_folder,
    clear,
    exclusive,
    load_done,
    make_folder,
    remove_leftovers,
    save_done,
)
from tgprep.extract.workers.request import WORK_FOLDER
from tgprep.extract.workers.shards import ShardPlan, ShardResult, failed_row

_SPOOL_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    """The new data set. notes: how data set and classes were detected."""

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
    from the official lists, from `classInd.txt` in `folder`, else from the class folders. After a kill the same call
    continues with the finished shards. InputError for mistakes; videos whose files are not in order become failed rows.
    """
    stop = stop or threading.Event()
    scan = scan_tree(folder, dataset, annotations)
    header = _header(folder, scan, tg, flow)
    check_output_folder(out)
    make_folder(out)
    if (out / HEADER_NAME).exists():
        raise InputError(f"{out} holds a finished data set already. Name a new or empty folder.")
    work = out / WORK_FOLDER
    with exclusive(out):
        _resume_or_clear(work, scan, header.settings)
        remove_leftovers(out, work)
        plans = plan_shards(scan.videos, 0)
        done = load_done(out, work)

        def finish(plan: ShardPlan) -> ShardResult:
            if stop.is_set():
                raise KeyboardInterrupt
            if plan.name in done:
                return done[plan.name]
            result = write_shard(plan, folder, out, header.gradient, flow_method(header.settings))
            save_done(work, result)
            return result

        results: list[ShardResult] = []
        with ThreadPoolExecutor(threads or usable_cores()) as pool:
            try:
                for number, result in enumerate(pool.map(finish, plans), 1):
                    results.append(result)
                    on_progress(number, len(plans))
            except BaseException:
                stop.set()  # else the pool finishes all shards before it ends
                raise
        return ImportOutcome(finalise(out, header, results), scan.notes)


def _header(folder: Path, scan: TreeScan, tg: bool, flow: bool) -> ManifestHeader:
    """The header of the data set, without counts."""
    stored = tg and has_files(folder, scan.videos, TG_FILE)
    settings: dict[str, str | int | float | bool] = {"imported": "rawframes", "quality": -1, "tg": stored}
    if flow and has_files(folder, scan.videos, FLOW_FILE):
        settings["flow"] = str(export_marker(folder).get("flow", "imported"))
    return ManifestHeader(
        dataset=scan.dataset,
        classes=scan.classes,
        gradient=stored_coding(folder, stored),
        settings=settings,
        versions={"tgprep": importlib.metadata.version("tgprep"), "pyarrow": pa.__version__},
        num_folds=scan.num_folds,
    )


def _resume_or_clear(work: Path, scan: TreeScan, settings: dict[str, str | int | float | bool]) -> None:
    """Keep the shards of an interrupted import of the same tree, remove those of another."""
    videos = [[video.key, video.path, video.label, video.num_source_bytes] for video in scan.videos]
    digest = hashlib.sha256(json.dumps(videos).encode()).hexdigest()
    plan = json_bytes({"settings": settings, "videos": digest})
    file = work / "import.json"
    if not file.exists() or file.read_bytes() != plan:
        clear(work)
        with atomic_write(file) as target:
            target.write(plan)


def write_shard(plan: ShardPlan, folder: Path, out: Path, coding: GradientCoding, flow: str) -> ShardResult:
    """Write one shard in `out` from the frame folders of its videos.

    flow: how the flow_xym files were computed, "" to leave them out. InputError if it cannot be written; videos whose files
    are not in order become failed rows.
    """
    temporary = out / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{plan.name}"
    rows = []
    try:
        with temporary.open("xb") as tar:
            for video in plan.videos:
                try:
                    rows.append(_pack(tar, video, folder / video.path, plan.name, coding, flow))
                except FramesError as error:
                    rows.append(failed_row(video, str(error)))
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
        row = video.row(
            WRITTEN,
            num_frames=rgb.num_frames,
            height=height,
            width=width,
            codec="mjpeg",
            num_source_bytes=rgb.num_bytes,
            source_sha256=sha256,
        )
        meta = sample_facts(row, {"quality": -1, "flow": flow or "none"}, coding)
        try:
            offset, num_bytes, members = write_sample(tar, EncodedVideo(video.key, meta, rgb, tg, flows))
        except MemberTooLargeError as error:
            raise FramesError(f"too large for a tar member: {error}") from None
    return replace(row, shard=shard, sample_offset=offset, sample_bytes=num_bytes, members=members)


def _spool(stack: ExitStack, files: Sequence[Path], size: tuple[int, int]) -> tuple[FrameSpool, tuple[int, int], str]:
    """Concatenate files: the spool, their common (height, width), and the sha256. size (0, 0): take that of the first."""
    spool_file = SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - the stack closes it
    spool = FrameSpool(cast(BinaryIO, stack.enter_context(spool_file)))
    digest = hashlib.sha256()
    for file in files:
        try:
            jpeg = file.read_bytes()
        except OSError as error:
            raise FramesError(f"{file.name} cannot be read: {error.strerror}") from None
        if not (jpeg.startswith(b"\xff\xd8") and jpeg.endswith(b"\xff\xd9")):
            raise FramesError(f"{file.name} is not a complete JPEG file")
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
