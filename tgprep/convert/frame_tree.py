"""Trees of frame files (`Class/video/img_00001.jpg`): the videos in them with their labels, and the files of each video."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from manifests import datasets
from manifests.records import InputError, SourceVideo
from tgprep.scan.files import Listing, VideoFile, some
from tgprep.scan.keys import unique_keys, video_key
from tgprep.scan.rules import VideoLabel
from tgprep.scan.scan import Scan, label_files

MARKER = ".tgprep-export.json"
# The files of each kind of frames: the name in messages, and the pattern of file names.
FILES = {
    "rgb": ("img", re.compile(r"img_(\d+)\.jpe?g", re.IGNORECASE)),
    "tg": ("tempgrad", re.compile(r"tempgrad_(\d+)\.jpe?g", re.IGNORECASE)),
    "flow": ("flow_xym", re.compile(r"flow_xym_(\d+)\.jpe?g", re.IGNORECASE)),
}


class FramesError(Exception):
    """A video's folder cannot be imported; the message is the reason."""


def find_frames(folder: Path, kinds: Collection[str]) -> dict[str, tuple[Path, ...]]:
    """The files of one video in order, checked by their numbers: T of "rgb", and T-1 of each other kind in `kinds`.

    FramesError if one is missing.
    """
    numbered: dict[str, dict[int, Path]] = {kind: {} for kind in FILES}
    for path in folder.iterdir():
        for kind, (_, pattern) in FILES.items():
            match = pattern.fullmatch(path.name)
            if match is not None and (other := numbered[kind].setdefault(int(match[1]), path)) != path:
                raise FramesError(f"{path.name} and {other.name} have the same number")
    files: dict[str, tuple[Path, ...]] = {}
    for kind in ("rgb", *(kind for kind in FILES if kind != "rgb" and kind in kinds)):
        name = FILES[kind][0]
        numbers = sorted(numbered[kind])
        if numbers and numbers[0] not in (0, 1):
            raise FramesError(f"the first {name} file has number {numbers[0]}, expected 0 or 1")
        for expected, number in enumerate(numbers, numbers[0] if numbers else 0):
            if number != expected:
                raise FramesError(f"{name} file number {expected} is missing")
        files[kind] = tuple(numbered[kind][number] for number in numbers)
        # A video needs two frames, and every pair of neighbours one file of the other kinds.
        num_frames = len(files["rgb"])
        if num_frames < 2:
            raise FramesError(f"{num_frames} frames: a temporal gradient needs two")
        if kind != "rgb" and len(numbers) != num_frames - 1:
            raise FramesError(
                f"{len(numbers)} {name} files for {num_frames} frames, expected {num_frames - 1}: the extraction was interrupted; "
                f"extract them again, or leave all out with --no-{kind}"
            )
    return files


def frames_digest(folder: Path) -> tuple[int, str]:
    """Size and sha256 of all RGB frames, concatenated: they stand for the source file of an imported video.

    FramesError, OSError if the files are not in order or cannot be read.
    """
    digest = hashlib.sha256()
    num_bytes = 0
    for file in find_frames(folder, ["rgb"])["rgb"]:
        jpeg = file.read_bytes()
        digest.update(jpeg)
        num_bytes += len(jpeg)
    return num_bytes, digest.hexdigest()


def scan_tree(folder: Path, dataset: str, annotations: Path | None) -> Scan:
    """Find the frame folders, and their class, label, group and subset by the rules for video files."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Name the folder that holds Class/video/img_00001.jpg.")
    if dataset not in ("auto", "folder", *datasets.OFFICIAL):
        raise InputError(f"--dataset {dataset}: one of auto, folder, {', '.join(datasets.OFFICIAL)}.")
    files = _frame_folders(folder)
    detected, labelling = label_files(Listing(files), folder, dataset, annotations)
    notes = [*labelling.notes]
    entries = {path: entry for path, entry in labelling.labels.items() if isinstance(entry, VideoLabel)}
    if lost := [f"{path} ({entry})" for path, entry in labelling.labels.items() if not isinstance(entry, VideoLabel)]:
        raise InputError(
            f"{folder}: {len(lost)} frame folders belong to no class: {some(lost)}. Use --dataset folder, or move them."
        )
    classes = labelling.classes
    # The folders of an export have the class names of keys; its class list has the original names.
    if detected == "folder" and (folder / "classInd.txt").is_file():
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
    videos.sort(key=lambda video: video.key)
    return Scan(detected, classes, tuple(videos), (), labelling.num_folds, (), (), tuple(notes))


def _frame_folders(folder: Path) -> list[VideoFile]:
    files: list[VideoFile] = []
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if frames := [name for name in names if FILES["rgb"][1].fullmatch(name)]:
            place = Path(top).relative_to(folder)
            num_bytes = sum((Path(top) / name).stat().st_size for name in frames)
            files.append(VideoFile(place.as_posix(), place.parts[:-1], place.name, num_bytes))
    if not files:
        raise InputError(f"{folder} holds no frames: expected Class/video/img_00001.jpg, img_00002.jpg, ...")
    return files


def _class_index(file: Path) -> tuple[str, ...]:
    lines = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    matches = [re.fullmatch(rf"{number}\s+(.+)", line) for number, line in enumerate(lines, 1)]
    if not all(matches):
        raise InputError(f"{file}: expected lines `1 FirstClass`, `2 SecondClass`, ... counted from 1.")
    return tuple(match[1] for match in matches if match)


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


def has_files(folder: Path, videos: Sequence[SourceVideo], kind: str) -> bool:
    """Whether any video of the tree has a file of this kind."""
    names = (name for video in videos for name in os.listdir(folder / video.path))  # noqa: PTH208 - half a million files
    return any(FILES[kind][1].fullmatch(name) for name in names)
