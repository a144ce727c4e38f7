"""Imports a rawframes tree (`Class/video/img_00001.jpg`) as a data set without decoding a frame: JPEG bytes stay unchanged."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

import pyarrow as pa
import simplejpeg

from manifests import sample
from manifests.files import atomic_write, find_below, read_bytes
from manifests.machine import run_threads
from manifests.manifest_io import HEADER_NAME, file_sha256
from manifests.records import (
    MAX_PICTURE_PIXELS,
    WRITTEN,
    GradientCoding,
    InputError,
    ManifestHeader,
    ShardRow,
    SourceVideo,
    VideoRow,
)
from tgprep.convert.frame_tree import FramesError, export_marker, find_frames, has_files, scan_tree
from tgprep.extract import work_folder
from tgprep.extract.pipeline import Outcome, finalise
from tgprep.extract.plan import plan_shards
from tgprep.extract.workers.shards import WORK_FOLDER, ShardPlan, ShardResult, failed_row
from tgprep.scan.scan import Scan

_SPOOL_BYTES = 32 * 1024 * 1024


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
) -> Outcome:
    """Make the data set `out` from the frame folders below `folder`.

    Frames are `img_N.jpg` (from 0 or 1, without gaps) and `tempgrad_N.jpg`, of the n-th frame and the next. tg False, or no
    tempgrad file: TG is derived while reading. Labels come from the official lists, `classInd.txt` in `folder`, or the class folders.
    InputError for mistakes; videos whose files are not in order become failed rows. After a kill the same call continues.
    """
    scan = scan_tree(folder, dataset, annotations)
    header = _header(folder, scan, tg, flow)
    work_folder.make_folder(out)
    work = out / WORK_FOLDER
    # The journal keeps the shards of an interrupted import of the same tree, and drops those of another.
    rows = [[video.key, video.path, video.label, video.num_source_bytes] for video in scan.videos]
    digest = hashlib.sha256(json.dumps([header.settings, rows]).encode()).hexdigest()
    notes = list(scan.notes)
    with work_folder.exclusive(out):
        if (out / HEADER_NAME).exists():
            raise InputError(f"{out} holds a finished data set already. Name a new or empty folder.")
        if (work / "plan.json").exists():
            raise InputError(f"{out} holds an unfinished extraction. Finish it, or name another folder.")
        work_folder.remove_leftovers(out, work)
        plans = plan_shards(scan.videos, 0)
        done = work_folder.load_done(out, work, digest, notes)

        def finish(plan: ShardPlan) -> ShardResult:
            if plan.name in done:
                return done[plan.name]
            result = write_shard(plan, folder, out, header.gradient, sample.flow_method(header.settings))
            work_folder.save_done(work, result, digest)
            return result

        results = run_threads(finish, plans, threads, stop, on_progress)
        skipped = [(entry.path, entry.reason) for entry in scan.skipped]
        return Outcome(finalise(out, header, results, skipped), False, len(done), tuple(notes))


def _header(folder: Path, scan: Scan, tg: bool, flow: bool) -> ManifestHeader:
    """The header of the data set, without counts."""
    stored = tg and has_files(folder, scan.videos, "tg")
    # How the TG files were computed: our exports name it; others compute them from the JPEG files, as the reference does.
    coding = GradientCoding(source="jpeg", space="rgb", stored=stored)
    if stored and (gradient := export_marker(folder).get("gradient")):
        coding = replace(coding, source=str(gradient["source"]), space=str(gradient["space"]))
    settings: dict[str, str | int | float | bool] = {"imported": "rawframes", "quality": -1, "tg": stored}
    if flow and has_files(folder, scan.videos, "flow"):
        settings["flow"] = str(export_marker(folder).get("flow", "imported"))
    return ManifestHeader(
        dataset=scan.dataset,
        classes=scan.classes,
        gradient=coding,
        settings=settings,
        versions={"tgprep": importlib.metadata.version("tgprep"), "pyarrow": pa.__version__},
        num_folds=scan.num_folds,
    )


def write_shard(plan: ShardPlan, folder: Path, out: Path, coding: GradientCoding, flow: str) -> ShardResult:
    """Write one shard in `out` from the frame folders of its videos.

    flow: how the flow_xym files were computed, "" to leave them out. Videos whose files are not in order become failed rows.
    """
    rows = []
    with atomic_write(out / plan.name) as tar:
        for video in plan.videos:
            try:
                rows.append(_pack(tar, video, find_below(folder, video.path), plan.name, coding, flow))
            except FramesError as error:
                rows.append(failed_row(video, str(error)))
        sample.write_end(tar)
        num_bytes = tar.tell()
    written = sum(row.status == WRITTEN for row in rows)
    return ShardResult(ShardRow(plan.name, written, num_bytes, file_sha256(out / plan.name)), tuple(rows))


def _pack(tar: BinaryIO, video: SourceVideo, folder: Path, shard: str, coding: GradientCoding, flow: str) -> VideoRow:
    try:
        files = find_frames(folder, ["tg"] * coding.stored + ["flow"] * bool(flow))
    except OSError as error:
        raise FramesError(f"cannot be read: {error.strerror}") from None
    with ExitStack() as stack:
        rgb, size, sha256 = _spool(stack, files["rgb"], (0, 0))
        tg = _spool(stack, files["tg"], size)[0] if coding.stored else None
        flows = _spool(stack, files["flow"], size)[0] if flow else None
        columns = {"num_frames": rgb.num_frames, "height": size[0], "width": size[1], "codec": "mjpeg"}
        row = video.row(WRITTEN, **columns, num_source_bytes=rgb.num_bytes, source_sha256=sha256)
        meta = sample.sample_facts(row, {"quality": -1, "flow": flow or "none"}, coding)
        try:
            offset, num_bytes, members = sample.write_sample(tar, sample.EncodedVideo(video.key, meta, rgb, tg, flows))
        except sample.MemberTooLargeError as error:
            raise FramesError(f"too large for a tar member: {error}") from None
    return replace(row, shard=shard, sample_offset=offset, sample_bytes=num_bytes, members=members)


def _spool(
    stack: ExitStack, files: Sequence[Path], size: tuple[int, int]
) -> tuple[sample.FrameSpool, tuple[int, int], str]:
    """Concatenate files: the spool, their common (height, width), and the sha256. size (0, 0): take that of the first."""
    spool_file = SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - the stack closes it
    spool = sample.FrameSpool(cast(BinaryIO, stack.enter_context(spool_file)))
    digest = hashlib.sha256()
    for file in files:
        try:
            jpeg = read_bytes(file)
        except OSError as error:
            raise FramesError(f"{file.name} cannot be read: {error.strerror}") from None
        if not (jpeg.startswith(b"\xff\xd8") and jpeg.endswith(b"\xff\xd9")):
            raise FramesError(f"{file.name} is not a complete JPEG file")
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
        except ValueError as error:
            raise FramesError(f"{file.name} is not a JPEG file ({error})") from None
        if height * width > MAX_PICTURE_PIXELS:
            raise FramesError(f"{file.name} is {width}x{height}: more than {MAX_PICTURE_PIXELS} pixels")
        if size not in ((0, 0), (height, width)):
            raise FramesError(f"{file.name} is {width}x{height}, the frames before {size[1]}x{size[0]}")
        size = (height, width)
        spool.append(jpeg)
        digest.update(jpeg)
    return spool, size, digest.hexdigest()
