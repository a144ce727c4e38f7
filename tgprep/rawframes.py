"""A rawframes tree (`Class/video/img_00001.jpg`) -> a data set, without decoding a frame: the JPEG bytes stay as they are."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
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

from manifests import datasets
from manifests.machine import usable_cores
from manifests.records import (
    FAILED,
    WRITTEN,
    GradientCoding,
    InputError,
    Manifest,
    ManifestHeader,
    ShardRow,
    SourceVideo,
    VideoRow,
)
from manifests.sample import EncodedVideo, FrameSpool, MemberTooLargeError, row_facts, write_end, write_sample
from manifests.store import (
    HEADER_NAME,
    TEMPORARY_PREFIX,
    atomic_write,
    file_sha256,
    json_bytes,
    publish,
    write_manifest,
)
from tgprep.export import MARKER
from tgprep.keys import unique_keys, video_key
from tgprep.list_places import lists_near
from tgprep.plan import plan_shards
from tgprep.rules import Facts, by_folder, by_lists
from tgprep.supervise import ShardPlan, ShardResult
from tgprep.tell import tell_dataset
from tgprep.walk import VideoFile, some
from tgprep.work import WORK_FOLDER, clear, load_done, make_folder, owned, remove_leftovers, save_done

RGB_FILE = re.compile(r"img_(\d+)\.jpe?g", re.IGNORECASE)
TG_FILE = re.compile(r"tempgrad_(\d+)\.jpe?g", re.IGNORECASE)
_SPOOL_BYTES = 32 * 1024 * 1024


class FramesError(Exception):
    """A video's folder cannot be brought in; the message is the reason."""


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """The files of one video in order: `rgb` T of them, `tg` T-1 or none."""

    rgb: tuple[Path, ...]
    tg: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    """The data set that was made. notes: what was told from where."""

    manifest: Manifest
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Scan:
    dataset: str
    classes: tuple[str, ...]
    videos: tuple[SourceVideo, ...]
    num_folds: int
    notes: tuple[str, ...]


def import_rawframes(
    folder: Path,
    out: Path,
    *,
    dataset: str = "auto",
    annotations: Path | None = None,
    tg: bool = True,
    threads: int = 0,
    stop: threading.Event | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> ImportOutcome:
    """Make the data set `out` from the frame folders below `folder`.

    Frames are `img_N.jpg` (from 0 or 1, without gaps) and `tempgrad_N.jpg`, the n-th of which belongs to the n-th frame and
    the next. tg False, or no tempgrad file in the tree: TG is derived while reading. Classes and labels come as in `extract`:
    from the official lists, from `classInd.txt` in `folder`, else from the class folders. A kill leaves whole shards, and the
    same call goes on. InputError for mistakes; videos whose files are not in order become failed rows.
    """
    stop = stop or threading.Event()
    scan = _scan(folder, dataset, annotations)
    stored = tg and _has_gradient(folder, scan.videos)
    settings: dict[str, str | int | float | bool] = {"imported": "rawframes", "quality": -1, "tg": stored}
    coding = _coding(folder, stored)
    make_folder(out)
    if (out / HEADER_NAME).exists():
        raise InputError(f"{out} holds a finished data set already. Name a new or empty folder.")
    work = out / WORK_FOLDER
    with owned(out):
        _resume_or_clear(work, scan, settings)
        remove_leftovers(out, work)
        plans = plan_shards(scan.videos, 0)
        done = load_done(out, work)

        def one(plan: ShardPlan) -> ShardResult:
            if stop.is_set():
                raise KeyboardInterrupt
            if plan.name not in done:
                result = _write_shard(plan, folder, out, coding)
                save_done(work, result)
                return result
            return done[plan.name]

        results: list[ShardResult] = []
        with ThreadPoolExecutor(threads or usable_cores()) as pool:
            try:
                for number, result in enumerate(pool.map(one, plans), 1):
                    results.append(result)
                    tell(number, len(plans))
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


def find_frames(folder: Path, tg: bool) -> FrameFiles:
    """The frame files of one video, checked by their numbers. FramesError where one is missing."""
    numbered: dict[str, dict[int, Path]] = {"rgb": {}, "tg": {}}
    for path in folder.iterdir():
        for kind, pattern in (("rgb", RGB_FILE), ("tg", TG_FILE)):
            match = pattern.fullmatch(path.name)
            if match is not None and (other := numbered[kind].setdefault(int(match[1]), path)) != path:
                raise FramesError(f"{path.name} and {other.name} have the same number")
    rgb = _in_order(numbered["rgb"], "img")
    if len(rgb) < 2:
        raise FramesError(f"{len(rgb)} frames: a temporal gradient needs two")
    if not tg:
        return FrameFiles(rgb, ())
    gradients = _in_order(numbered["tg"], "tempgrad")
    if len(gradients) != len(rgb) - 1:
        raise FramesError(
            f"{len(gradients)} tempgrad files for {len(rgb)} frames, expected {len(rgb) - 1}: the extraction was interrupted; "
            "make them again, or leave all out with --no-tg"
        )
    return FrameFiles(rgb, gradients)


def frames_digest(folder: Path) -> tuple[int, str]:
    """Bytes of all RGB frames, and the sha256 over them one after the other: what an imported video has for its source's.

    FramesError, OSError where the files are not in order or cannot be read.
    """
    digest = hashlib.sha256()
    num_bytes = 0
    for file in find_frames(folder, tg=False).rgb:
        jpeg = file.read_bytes()
        digest.update(jpeg)
        num_bytes += len(jpeg)
    return num_bytes, digest.hexdigest()


def _in_order(numbered: dict[int, Path], name: str) -> tuple[Path, ...]:
    numbers = sorted(numbered)
    if numbers and numbers[0] not in (0, 1):
        raise FramesError(f"the first {name} file has number {numbers[0]}, expected 0 or 1")
    for expected, number in enumerate(numbers, numbers[0] if numbers else 0):
        if number != expected:
            raise FramesError(f"{name} file number {expected} is missing")
    return tuple(numbered[number] for number in numbers)


def _scan(folder: Path, dataset: str, annotations: Path | None) -> _Scan:
    """Find the frame folders and tell class, label, group and subset by the rules that video files have."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Name the folder that holds Class/video/img_00001.jpg.")
    if dataset not in ("auto", "folder", *datasets.OFFICIAL):
        raise InputError(f"--dataset {dataset}: one of auto, folder, {', '.join(datasets.OFFICIAL)}.")
    files: list[VideoFile] = []
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(RGB_FILE.fullmatch(name) for name in names):
            place = Path(top).relative_to(folder)
            num_bytes = sum((Path(top) / name).stat().st_size for name in names if RGB_FILE.fullmatch(name))
            files.append(VideoFile(place.as_posix(), place.parts[:-1], place.name, num_bytes))
    if not files:
        raise InputError(f"{folder} holds no frames: expected Class/video/img_00001.jpg, img_00002.jpg, ...")
    notes: list[str] = []
    with lists_near(folder, annotations) as places:
        if dataset == "auto":
            dataset = tell_dataset(files, places, annotations)
            notes.append(f"data set: {dataset}, told from class folders and names (--dataset sets it)")
        if dataset == "folder":
            told = by_folder(files, folder)
        else:
            told = by_lists(dataset, files, folder, places, annotations)
    notes.extend(told.notes)
    facts = {path: entry for path, entry in told.facts.items() if isinstance(entry, Facts)}
    if lost := [f"{path} ({entry})" for path, entry in told.facts.items() if not isinstance(entry, Facts)]:
        raise InputError(
            f"{folder}: {len(lost)} frame folders cannot be placed: {some(lost)}. Use --dataset folder, or move them."
        )
    classes = told.classes
    if dataset == "folder" and (folder / "classInd.txt").is_file():
        listed = _class_index(folder / "classInd.txt")
        by_name = {name: name for name in listed} | {video_key(name, "x").split("/")[0]: name for name in listed}
        if strange := sorted({entry.class_name for entry in facts.values()} - set(by_name)):
            raise InputError(
                f"{folder / 'classInd.txt'} does not name {len(strange)} of the class folders, such as {strange[0]}."
            )
        facts = {path: replace(entry, class_name=by_name[entry.class_name]) for path, entry in facts.items()}
        classes = listed
        notes.append(f"class list: classInd.txt ({len(classes)} classes)")
    labels = {name: label for label, name in enumerate(classes)}
    keys, _ = unique_keys([(facts[file.path].class_name, file.stem, file.path) for file in files])
    videos = [
        SourceVideo(
            key, file.path, entry.class_name, labels[entry.class_name], entry.group, entry.subsets, file.num_bytes
        )
        for key, file in zip(keys, files, strict=True)
        for entry in (facts[file.path],)
    ]
    return _Scan(dataset, classes, tuple(sorted(videos, key=lambda video: video.key)), told.num_folds, tuple(notes))


def _class_index(file: Path) -> tuple[str, ...]:
    entries = [line.split(None, 1) for line in file.read_text("utf-8").splitlines() if line.strip()]
    if [entry[0] for entry in entries] != [str(number) for number in range(1, len(entries) + 1)] or any(
        len(entry) != 2 for entry in entries
    ):
        raise InputError(f"{file}: expected lines `1 FirstClass`, `2 SecondClass`, ... counted from 1.")
    return tuple(entry[1].strip() for entry in entries)


def _coding(folder: Path, stored: bool) -> GradientCoding:
    """How the TG files were made: an export of ours says it; others made them from the JPEG files, as the reference does."""
    coding = GradientCoding(source="jpeg", space="rgb", stored=stored)
    if stored and (folder / MARKER).is_file():
        try:
            told = json.loads((folder / MARKER).read_bytes())["gradient"]
            coding = replace(coding, source=str(told["source"]), space=str(told["space"]))
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{folder / MARKER} is damaged: export again, or remove it.") from None
    return coding


def _has_gradient(folder: Path, videos: Sequence[SourceVideo]) -> bool:
    return any(
        any(TG_FILE.fullmatch(name) for name in os.listdir(folder / video.path))  # noqa: PTH208 - half a million files
        for video in videos
    )


def _resume_or_clear(work: Path, scan: _Scan, settings: dict[str, str | int | float | bool]) -> None:
    """Keep the shards of an interrupted import of the same tree, forget those of another."""
    told = [[video.key, video.path, video.label, video.num_source_bytes] for video in scan.videos]
    mark = json_bytes({"settings": settings, "videos": hashlib.sha256(json.dumps(told).encode()).hexdigest()})
    place = work / "import.json"
    if not place.exists() or place.read_bytes() != mark:
        clear(work)
        with atomic_write(place) as file:
            file.write(mark)


def _write_shard(plan: ShardPlan, folder: Path, out: Path, coding: GradientCoding) -> ShardResult:
    temporary = out / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{plan.name}"
    rows = []
    try:
        with temporary.open("xb") as tar:
            for video in plan.videos:
                try:
                    rows.append(_pack(tar, video, folder / video.path, plan.name, coding))
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


def _pack(tar: BinaryIO, video: SourceVideo, folder: Path, shard: str, coding: GradientCoding) -> VideoRow:
    try:
        files = find_frames(folder, coding.stored)
    except OSError as error:
        raise FramesError(f"cannot be read: {error.strerror}") from None
    with ExitStack() as stack:
        rgb, size, sha256 = _spool(stack, files.rgb, (0, 0))
        tg = _spool(stack, files.tg, size)[0] if coding.stored else None
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
            offset, num_bytes, members = write_sample(tar, EncodedVideo(video.key, _meta(row, coding), rgb, tg))
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


def _meta(row: VideoRow, coding: GradientCoding) -> dict[str, str | int | float]:
    return {
        **row_facts(row),
        "jpeg_quality": -1,
        "gradient_source": coding.source,
        "gradient_space": coding.space,
    }
