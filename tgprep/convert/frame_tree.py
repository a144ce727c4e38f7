"""Trees of frame files (`Class/video/img_00001.jpg`): the videos in them with their labels, and the files of each video."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from manifests import datasets
from manifests.datasets import is_unlabelled, nfc
from manifests.files import parse_json, read_bytes, read_json
from manifests.lists.ucf_hmdb import read_class_index
from manifests.records import NO_LABEL, InputError, SourceVideo
from tgprep.scan.files import NOT_UTF8, Listing, VideoFile, is_utf8, walk
from tgprep.scan.keys import class_folder
from tgprep.scan.pool import KEY_FOLDER
from tgprep.scan.rules import Labelling, VideoLabel
from tgprep.scan.scan import Scan, label_files, named

MARKER = ".tgprep-export.json"
CLASS_LIST = "classInd.txt"
SHARED_LABELS = ".tgprep-labels.json"
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
        jpeg = read_bytes(file)
        digest.update(jpeg)
        num_bytes += len(jpeg)
    return num_bytes, digest.hexdigest()


def scan_tree(folder: Path, dataset: str, annotations: Path | None) -> Scan:
    """Find the frame folders, and their class, label, group and subset by the rules for video files."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Name the folder that holds Class/video/img_00001.jpg.")
    if dataset not in ("auto", "folder", *datasets.OFFICIAL):
        raise InputError(f"--dataset {dataset}: one of auto, folder, {', '.join(datasets.OFFICIAL)}.")
    listing = _frame_folders(folder)
    has_class_list = (folder / CLASS_LIST).is_file()
    # A folder `unlabelled` that the class list names is a class; which of its videos have no label then says the list of labels.
    reserved = not (
        has_class_list and any(is_unlabelled(class_folder(name)) for name in _class_index(folder / CLASS_LIST))
    )
    detected, labelling = label_files(listing, folder, dataset, annotations, reserved=reserved, of_frames=True)
    if labelling.segments:
        raise InputError(
            f"--annotations {annotations}: folders of frames have no times to cut by. Leave the times out."
        )
    if detected == "folder" and has_class_list:
        labelling = _with_class_list(labelling, folder)
    return named(listing, folder, detected, labelling)


def _with_class_list(labelling: Labelling, folder: Path) -> Labelling:
    """The labels with the class names of a tree's class list: the folders of an export have the class names of keys."""
    file = folder / CLASS_LIST
    classes = _class_index(file)
    by_name = {class_folder(name): name for name in classes} | {nfc(name): name for name in classes}
    of_video = _read_shared_labels(folder / SHARED_LABELS, len(classes))
    labels: dict[str, VideoLabel | str] = {}
    for path, entry in labelling.labels.items():
        if isinstance(entry, VideoLabel):
            name = by_name.get(entry.class_name) if entry.class_name else ""
            if path in of_video:
                name = classes[label] if (label := of_video[path]) != NO_LABEL else ""
            if name is None:
                raise InputError(
                    f"{file} does not name the class folder {entry.class_name} of {path}. Add it, or remove the list."
                )
            entry = replace(entry, class_name=name)
        labels[path] = entry
    notes = (*labelling.notes, f"class list: {file.name} ({len(classes)} classes)")
    return replace(labelling, classes=classes, labels=labels, notes=notes)


def _frame_folders(folder: Path) -> Listing:
    """The folders that hold frames, as if each were one file."""
    listing = Listing()
    num_bytes: Counter[str] = Counter()
    for path, status in walk(folder, listing):
        place, _, name = path.rpartition("/")
        if FILES["rgb"][1].fullmatch(name):
            num_bytes[place] += status.st_size
    listing.ignored.clear()  # hidden files: an export holds some
    if not num_bytes:
        raise InputError(f"{folder} holds no frames: expected Class/video/img_00001.jpg, img_00002.jpg, ...")
    for place, count in num_bytes.items():
        *folders, name = place.split("/")
        if is_utf8(place):
            listing.videos.append(VideoFile(place or ".", tuple(folders), name, count))
        else:
            listing.skip(place, NOT_UTF8)
    return listing


def class_list_text(classes: Sequence[str]) -> str:
    """A class list, `1 FirstClass`, `2 SecondClass`, ...; names that a line cannot hold as they are become JSON strings."""
    lines = (json.dumps(name) if _is_odd(name) else name for name in classes)
    return "".join(f"{number} {line}\n" for number, line in enumerate(lines, 1))


def _is_odd(name: str) -> bool:
    return name != name.strip() or name.startswith('"') or len(name.splitlines()) != 1


def _class_index(file: Path) -> tuple[str, ...]:
    """Read a class list, whose odd names may be JSON strings."""
    names = list(read_class_index(file))
    for number, name in enumerate(names):
        with contextlib.suppress(ValueError):
            if name.startswith('"') and isinstance(text := parse_json(name), str):
                names[number] = text
    return tuple(names)


def shared_labels(keys: Sequence[str], labels: Sequence[int], names: Sequence[str]) -> dict[str, int]:
    """The labels that folders do not say, by key: in those of several classes, such as `_` for names without a Latin letter, and of
    videos that were relabelled. names: the classes.
    """
    folders = [key.partition("/")[0] for key in keys]
    classes: defaultdict[str, set[int]] = defaultdict(set)
    for folder, label in zip(folders, labels, strict=True):
        classes[folder].add(label)
    own = [*map(class_folder, names), KEY_FOLDER]  # the last is that of NO_LABEL
    unsaid = {folder for folder, found in classes.items() if len(found) > 1 or own[min(found)] != folder}
    return {key: label for key, folder, label in zip(keys, folders, labels, strict=True) if folder in unsaid}


def _read_shared_labels(file: Path, num_classes: int) -> dict[str, int]:
    if not file.is_file():
        return {}
    try:
        labels: dict[str, int] = read_json(file)
        if not all(label in range(NO_LABEL, num_classes) for label in labels.values()):
            raise ValueError
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise InputError(f"{file} is damaged: export again, or remove it.") from None
    return labels


def export_marker(folder: Path) -> dict[str, Any]:
    """The facts that our exports store in the tree; empty for other trees."""
    if not (folder / MARKER).is_file():
        return {}
    try:
        facts: dict[str, Any] = read_json(folder / MARKER)
        if facts["gradient"]["source"] not in ("decoded", "jpeg") or facts["gradient"]["space"] not in (
            "rgb",
            "ycbcr420",
        ):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / MARKER} is damaged: export again, or remove it.") from None
    return facts


def has_files(folder: Path, videos: Sequence[SourceVideo], kind: str) -> bool:
    """Whether any video of the tree has a file of this kind."""
    names = (name for video in videos for name in os.listdir(folder / video.path))  # noqa: PTH208 - half a million files
    return any(FILES[kind][1].fullmatch(name) for name in names)
