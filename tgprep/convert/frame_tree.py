"""Trees of frame files (`Class/video/img_00001.jpg`): the videos in them with their labels, and the files of each video."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from manifests import datasets
from manifests.records import GradientCoding, InputError, SourceVideo
from tgprep.scan.annotations import annotation_paths
from tgprep.scan.files import VideoFile, some
from tgprep.scan.keys import unique_keys, video_key
from tgprep.scan.rules import VideoLabel, by_folder, by_lists, guess_dataset

MARKER = ".tgprep-export.json"
RGB_FILE = re.compile(r"img_(\d+)\.jpe?g", re.IGNORECASE)
TG_FILE = re.compile(r"tempgrad_(\d+)\.jpe?g", re.IGNORECASE)
FLOW_FILE = re.compile(r"flow_xym_(\d+)\.jpe?g", re.IGNORECASE)


class FramesError(Exception):
    """A video's folder cannot be imported; the message is the reason."""


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """The files of one video in order: T of `rgb`, T-1 or none of `tg` and `flow`."""

    rgb: tuple[Path, ...]
    tg: tuple[Path, ...]
    flow: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class TreeScan:
    """The videos of a tree. notes: how data set and classes were detected."""

    dataset: str
    classes: tuple[str, ...]
    videos: tuple[SourceVideo, ...]
    num_folds: int
    notes: tuple[str, ...]


def find_frames(folder: Path, tg: bool, flow: bool = False) -> FrameFiles:
    """The frame files of one video, checked by their numbers. FramesError if one is missing."""
    numbered: dict[str, dict[int, Path]] = {"rgb": {}, "tg": {}, "flow": {}}
    for path in folder.iterdir():
        for kind, pattern in (("rgb", RGB_FILE), ("tg", TG_FILE), ("flow", FLOW_FILE)):
            match = pattern.fullmatch(path.name)
            if match is not None and (other := numbered[kind].setdefault(int(match[1]), path)) != path:
                raise FramesError(f"{path.name} and {other.name} have the same number")
    rgb = _in_order(numbered["rgb"], "img")
    if len(rgb) < 2:
        raise FramesError(f"{len(rgb)} frames: a temporal gradient needs two")
    pairs: dict[str, tuple[Path, ...]] = {"tg": (), "flow": ()}
    for kind, name, required in (("tg", "tempgrad", tg), ("flow", "flow_xym", flow)):
        if not required:
            continue
        files = pairs[kind] = _in_order(numbered[kind], name)
        if len(files) != len(rgb) - 1:
            raise FramesError(
                f"{len(files)} {name} files for {len(rgb)} frames, expected {len(rgb) - 1}: the extraction was interrupted; "
                f"extract them again, or leave all out with --no-{kind}"
            )
    return FrameFiles(rgb, pairs["tg"], pairs["flow"])


def frames_digest(folder: Path) -> tuple[int, str]:
    """Size and sha256 of all RGB frames, concatenated: they stand for the source file of an imported video.

    FramesError, OSError if the files are not in order or cannot be read.
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


def scan_tree(folder: Path, dataset: str, annotations: Path | None) -> TreeScan:
    """Find the frame folders, and their class, label, group and subset by the rules for video files."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Name the folder that holds Class/video/img_00001.jpg.")
    if dataset not in ("auto", "folder", *datasets.OFFICIAL):
        raise InputError(f"--dataset {dataset}: one of auto, folder, {', '.join(datasets.OFFICIAL)}.")
    files = _frame_folders(folder)
    notes: list[str] = []
    with annotation_paths(folder, annotations) as lists:
        if dataset == "auto":
            dataset = guess_dataset(files, lists, annotations)
            notes.append(f"detected data set {dataset} from folder and file names (--dataset sets it)")
        if dataset == "folder":
            labelling = by_folder(files, folder)
        else:
            labelling = by_lists(dataset, files, folder, lists, annotations)
    notes.extend(labelling.notes)
    entries = {path: entry for path, entry in labelling.labels.items() if isinstance(entry, VideoLabel)}
    if lost := [f"{path} ({entry})" for path, entry in labelling.labels.items() if not isinstance(entry, VideoLabel)]:
        raise InputError(
            f"{folder}: {len(lost)} frame folders belong to no class: {some(lost)}. Use --dataset folder, or move them."
        )
    classes = labelling.classes
    # The folders of an export have the class names of keys; its class list has the original names.
    if dataset == "folder" and (folder / "classInd.txt").is_file():
        listed = _class_index(folder / "classInd.txt")
        by_name = {name: name for name in listed} | {video_key(name, "x").split("/")[0]: name for name in listed}
        if unknown := sorted({entry.class_name for entry in entries.values()} - set(by_name)):
            raise InputError(
                f"{folder / 'classInd.txt'} does not name {len(unknown)} of the class folders, such as {unknown[0]}."
            )
        entries = {path: replace(entry, class_name=by_name[entry.class_name]) for path, entry in entries.items()}
        classes = listed
        notes.append(f"class list: classInd.txt ({len(classes)} classes)")
    labels = {name: label for label, name in enumerate(classes)}
    keys, _ = unique_keys([(entries[file.path].class_name, file.stem, file.path) for file in files])
    videos = [
        SourceVideo(
            key, file.path, entry.class_name, labels[entry.class_name], entry.group, entry.subsets, file.num_bytes
        )
        for key, file in zip(keys, files, strict=True)
        for entry in (entries[file.path],)
    ]
    return TreeScan(
        dataset, classes, tuple(sorted(videos, key=lambda video: video.key)), labelling.num_folds, tuple(notes)
    )


def _frame_folders(folder: Path) -> list[VideoFile]:
    files: list[VideoFile] = []
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if frames := [name for name in names if RGB_FILE.fullmatch(name)]:
            place = Path(top).relative_to(folder)
            num_bytes = sum((Path(top) / name).stat().st_size for name in frames)
            files.append(VideoFile(place.as_posix(), place.parts[:-1], place.name, num_bytes))
    if not files:
        raise InputError(f"{folder} holds no frames: expected Class/video/img_00001.jpg, img_00002.jpg, ...")
    return files


def _class_index(file: Path) -> tuple[str, ...]:
    entries = [line.split(None, 1) for line in file.read_text("utf-8").splitlines() if line.strip()]
    if [entry[0] for entry in entries] != [str(number) for number in range(1, len(entries) + 1)] or any(
        len(entry) != 2 for entry in entries
    ):
        raise InputError(f"{file}: expected lines `1 FirstClass`, `2 SecondClass`, ... counted from 1.")
    return tuple(entry[1].strip() for entry in entries)


def stored_coding(folder: Path, stored: bool) -> GradientCoding:
    """How the TG files were computed: our exports name it; others compute them from the JPEG files, as the reference does."""
    coding = GradientCoding(source="jpeg", space="rgb", stored=stored)
    if stored and (gradient := export_marker(folder).get("gradient")):
        coding = replace(coding, source=str(gradient["source"]), space=str(gradient["space"]))
    return coding


def export_marker(folder: Path) -> dict[str, Any]:
    """The facts that our exports store in the tree; empty for other trees."""
    if not (folder / MARKER).is_file():
        return {}
    try:
        facts: dict[str, Any] = json.loads((folder / MARKER).read_bytes())
        if not all(isinstance(facts["gradient"][name], str) for name in ("source", "space")):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / MARKER} is damaged: export again, or remove it.") from None
    return facts


def has_files(folder: Path, videos: Sequence[SourceVideo], pattern: re.Pattern[str]) -> bool:
    """Whether any video of the tree has a file with a matching name."""
    return any(
        any(pattern.fullmatch(name) for name in os.listdir(folder / video.path))  # noqa: PTH208 - half a million files
        for video in videos
    )
