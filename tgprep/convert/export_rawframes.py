"""Export a data set as a rawframes tree: one JPEG file a frame in folders `Class/video`, as mmaction and the reference code read it."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
import simplejpeg

from manifests.datasets import OFFICIAL
from manifests.disk import TEMPORARY_PREFIX, held_folder, naming, path_inside, remove_leftovers, sync_disk
from manifests.files import atomic_write, is_url, open_location, read_json, require_own_folder
from manifests.gradient import temporal_gradient
from manifests.machine import run_threads
from manifests.manifest_io import HEADER_NAME, join, json_bytes, read_manifest
from manifests.records import WRITTEN, GradientCoding, InputError, VideoRow
from manifests.sample import flow_method, video_gop
from manifests.splits.label_split import LabelSplit, list_splits, read_split
from manifests.splits.lists import export_list
from manifests.splits.settings import KINETICS_PER_PERCENT, PARTS
from manifests.table import Manifest
from tgprep.convert.frame_tree import CLASS_LIST, MARKER, SHARED_LABELS, class_list_text, shared_labels
from tgprep.decode.stored import decode_jpeg, jpeg_reader, stored_planes

RGB_NAME = "img_{:05d}.jpg"
TG_NAME = "tempgrad_{:05d}.jpg"
FLOW_NAME = "flow_xym_{:05d}.jpg"
_KEY = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9_-]+")
_REFERENCE_QUALITY = 95
_VIDEOS_A_SYNC = 32
SEMI_FOLDER = "videossl_splits"
_PUBLISHED = re.compile(r"\((?:videossl|ltg)-[a-z0-9]+-(\d+)\)$")


@dataclass(frozen=True, slots=True)
class ExportOutcome:
    """What the tree holds, and what this run wrote."""

    num_videos: int
    num_kept: int  # videos of an earlier run
    num_files: int  # frame files of this run
    lists: tuple[str, ...]  # names of the list files


def export_rawframes(
    root: str,
    folder: Path,
    *,
    tg: bool = True,
    keys: Sequence[str] = (),
    threads: int = 0,
    stop: threading.Event | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ExportOutcome:
    """Write every written video as `folder/Class/video/img_00001.jpg`, `tempgrad_00001.jpg` (counted from 1), and lists.

    The stored JPEG files are copied byte for byte; if the data set stores no TG, it is computed from the decoded JPEGs, as the
    reference does. Frames of stored videos become JPEG files of quality 95. Stored flow becomes flow_xym_00000.jpg (counted
    from 0, as the reference does). Folders are named by the keys. Lists: see `list_texts`.
    The folder of a video appears once it is complete, and an interrupted export is resumed.
    Raises InputError if another process writes there, `folder` holds something else, a key is unknown, or a shard is damaged.
    """
    manifest = read_manifest(root)
    indices = manifest.written_rows(keys)
    if not is_url(root) and folder.resolve().is_relative_to(Path(root).resolve()):
        raise InputError(f"{folder} lies in the data set {root}. Name a folder outside of it.")
    with _claimed(folder, manifest, tg) as finished:
        counts = run_threads(
            lambda index: _export_video(manifest, manifest.videos[index], finished, tg),
            indices,
            threads,
            stop,
            on_progress,
        )
        finished.publish()
        lists = {} if keys else list_texts(manifest)
        for name, text in lists.items():
            path = path_inside(folder, name, f"{HEADER_NAME} of {root}")
            path.parent.mkdir(exist_ok=True)
            with atomic_write(path) as file:
                file.write(text.encode())
    return ExportOutcome(len(indices), counts.count(0), sum(counts), tuple(lists))


class _Finished:
    """The videos that are written in a scratch folder of the tree and get their places some at a time.

    A folder that has its place is complete, even after a power cut: the disk is synced before.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self.scratch = scratch
        self.lock = threading.Lock()
        self.waiting: list[tuple[Path, Path]] = []  # folders and their places

    def add(self, video: Path, target: Path) -> None:
        """Take the folder of a complete video."""
        with self.lock:
            self.waiting.append((video, target))
            if len(self.waiting) >= _VIDEOS_A_SYNC:
                self._publish()

    def publish(self) -> None:
        """Give all videos their places."""
        with self.lock:
            self._publish()

    def _publish(self) -> None:
        if self.waiting:
            sync_disk(self.folder)
        while self.waiting:
            video, target = self.waiting.pop()
            with naming(target):
                target.parent.mkdir(exist_ok=True)
                video.rename(target)


@contextlib.contextmanager
def _claimed(folder: Path, manifest: Manifest, tg: bool) -> Iterator[_Finished]:
    """Hold the folder and mark it as this data set's export; InputError if it is something else, or in use."""
    coding = manifest.header.gradient if manifest.header.gradient.stored else GradientCoding(source="jpeg", space="rgb")
    claim = {"dataset_digest": manifest.digest, "tg": tg, "gradient": dataclasses.asdict(coding)}
    if method := flow_method(manifest.header.settings):
        claim["flow"] = method
    with held_folder(folder):
        is_export = require_own_folder(folder, (MARKER,), "export", "Name a new or empty folder.")
        if is_export and _claim_in(folder) != claim:
            other = "another data set or with other options"
            raise InputError(f"{folder} holds the export of {other}. Name another folder.")
        remove_leftovers(folder)
        with atomic_write(folder / MARKER) as file:
            file.write(json_bytes(claim))
        with TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder, ignore_cleanup_errors=True) as scratch:
            finished = _Finished(folder, Path(scratch))
            try:
                yield finished
            finally:
                finished.publish()


def _claim_in(folder: Path) -> object:
    try:
        return read_json(folder / MARKER)
    except ValueError:
        return None


def read_jpegs(manifest: Manifest, row: VideoRow, kind: str) -> Iterator[bytes]:
    """The JPEG files of a video in order; kind: "rgb", "tg" or "flow". Raises InputError if the shard is damaged.

    Frames of a stored video are decoded and encoded as JPEG files; all others are as stored.
    """
    count = 0
    try:
        with open_location(join(manifest.root, row.shard)) as shard:
            if kind == "rgb" and video_gop(manifest.header):
                for planes in stored_planes(shard, row):
                    count += 1
                    yield simplejpeg.encode_jpeg_yuv_planes(planes.y, planes.cb, planes.cr, _REFERENCE_QUALITY)
                if count != row.num_frames:
                    raise ValueError(f"{count} frames decode, expected {row.num_frames}")
                return
            read = jpeg_reader(shard, row, kind)
            for number in range(row.num_frames - (kind != "rgb")):
                jpeg = read(number)
                if not (jpeg.startswith(b"\xff\xd8") and jpeg.endswith(b"\xff\xd9")):
                    raise ValueError("a frame is not a complete JPEG file")
                yield jpeg
    except (OSError, ValueError) as error:
        raise _damaged(manifest, row, error) from None


def _damaged(manifest: Manifest, row: VideoRow, error: Exception) -> InputError:
    advice = f"`tgprep check {manifest.root}` shows what is damaged and how to mend it"
    return InputError(f"{row.shard}, {row.key}: {error}. {advice}.")


def _export_video(manifest: Manifest, row: VideoRow, finished: _Finished, tg: bool) -> int:
    """Write the folder of one video and return the number of its files; 0 if an earlier run wrote it."""
    if not _KEY.fullmatch(row.key):
        advice = f"`tgprep check {manifest.root}` shows more"
        raise InputError(f"videos.parquet: the key {row.key!r} cannot be a folder. {advice}.")
    target = path_inside(finished.folder, row.key, f"videos.parquet of {manifest.root}")
    if target.is_dir():  # complete: it was renamed once all its files were there
        return 0
    frames = [(RGB_NAME, 1, read_jpegs(manifest, row, "rgb"))]
    if tg:
        frames.append((TG_NAME, 1, _gradients(manifest, row)))
    if flow_method(manifest.header.settings):
        frames.append((FLOW_NAME, 0, read_jpegs(manifest, row, "flow")))
    count = 0
    video = Path(mkdtemp(dir=finished.scratch))
    video.chmod(finished.folder.stat().st_mode)  # that of `mkdtemp` is for its owner alone
    for name, first, jpegs in frames:
        for number, jpeg in enumerate(jpegs, first):
            with naming(target / name.format(number)):
                (video / name.format(number)).write_bytes(jpeg)
            count += 1
    finished.add(video, target)
    return count


def _gradients(manifest: Manifest, row: VideoRow) -> Iterator[bytes]:
    """The TG frames as JPEG files, computed from the decoded JPEGs if the data set stores none."""
    if manifest.header.gradient.stored:
        yield from read_jpegs(manifest, row, "tg")
        return
    try:
        frames = (decode_jpeg(jpeg, row.height, row.width, "RGB") for jpeg in read_jpegs(manifest, row, "rgb"))
        for frame, following in pairwise(frames):
            yield simplejpeg.encode_jpeg(temporal_gradient(frame, following), _REFERENCE_QUALITY, "RGB", "420")
    except ValueError as error:
        raise _damaged(manifest, row, error) from None


def list_texts(manifest: Manifest) -> dict[str, str]:
    """File name below the tree -> content: the class list, labels of folders that classes share, the lists of the official folds, those of every split and part
    (`Class/video num_frames label`), and the labelled ones again as the reference names them.
    """
    header = manifest.header
    texts = {CLASS_LIST: class_list_text(header.classes)}
    written = manifest.videos.take(manifest.written_rows(()))
    if shared := shared_labels(written.column("key"), written.column("label"), header.classes):
        texts[SHARED_LABELS] = json_bytes(shared).decode()
    texts |= _official(manifest)
    for name in list_splits(manifest.root):  # the newest first: of several splits, it gets the reference's name
        split = read_split(manifest.root, name)
        for part in PARTS:
            if split.part(part).any():
                texts[f"{name}_{part}_rawframes.txt"] = export_list(split, manifest, "mmaction-rawframes", part)
        for reference, text in _semi_supervised(split, manifest).items():
            texts.setdefault(reference, text)
    return texts


def _official(manifest: Manifest) -> dict[str, str]:
    dataset = manifest.header.dataset
    table = manifest.videos.arrow.select(["key", "num_frames", "label", "subsets", "status"]).to_pydict()
    rows = [row for row in zip(*table.values(), strict=True) if row[4] == WRITTEN]
    # The reference calls the test lists of UCF101 and HMDB51 `val`; Kinetics has one fold, and `list` in place of its number.
    reference_name = {"test": "val"} if dataset in ("ucf101", "hmdb51") else {}
    texts = {}
    for fold in range(manifest.header.num_folds):
        which = "list" if dataset.startswith("kinetics") else f"split_{fold + 1}"
        for subset in ("train", "val", "test"):
            lines = [f"{key} {frames} {label}\n" for key, frames, label, subsets, _ in rows if subsets[fold] == subset]
            if lines:
                texts[f"{dataset}_{reference_name.get(subset, subset)}_{which}_rawframes.txt"] = "".join(lines)
    return texts


def _semi_supervised(split: LabelSplit, manifest: Manifest) -> dict[str, str]:
    """The labelled list and the rest of train as the reference names them, if the split has a percentage."""
    dataset, percent = manifest.header.dataset, percent_of(split)
    if not percent or dataset not in OFFICIAL:
        return {}
    fold = "" if dataset.startswith("kinetics") else f"_split_{split.provenance.get('fold', '1')}"
    parts = {
        f"{percent}_percent_labeled": split.labelled,
        f"{percent}_percent_unlabeled": split.train & ~split.labelled,
    }
    if dataset == "hmdb51" and split.provenance.get("pool") == "non-test":
        parts["100_percent_labeled"] = split.train  # what the reference takes as unlabelled
    frames = dict(zip(manifest.videos.column("key"), manifest.videos.column("num_frames"), strict=True))
    texts = {}
    for part, flags in parts.items():
        if flags.any():
            lines = (f"{split.key[k]} {frames[split.key[k]]} {split.label[k]}\n" for k in np.flatnonzero(flags))
            texts[f"{SEMI_FOLDER}/{dataset}_train_{part}{fold}_rawframes.txt"] = "".join(lines)
    return texts


def percent_of(split: LabelSplit) -> str:
    """The percentage of a split, drawn or imported from a published list, if it is an integer; else ""."""
    provenance = split.provenance
    percent, per_class = provenance.get("percent"), provenance.get("per_class", "")
    if provenance.get("made") == "imported":
        match = _PUBLISHED.search(provenance.get("list_labelled", ""))
        return match[1] if match else ""
    # Published splits of Kinetics count videos per class instead.
    if percent is None and provenance.get("dataset", "").startswith("kinetics") and per_class.isdigit():
        percent = str(Fraction(int(per_class), KINETICS_PER_PERCENT))
    return percent if percent is not None and percent.isdigit() else ""
