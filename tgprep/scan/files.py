"""The files below VIDEOS: sorted, symbolic links followed once, every file a video, skipped with a reason, or counted."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from manifests.files import Location, list_tree
from manifests.records import InputError

VIDEO_EXTENSIONS = frozenset(
    """3g2 3gp asf avi divx f4v flv gif m2ts m2v m4v mkv mov mp4 mpe mpeg mpg mts mxf ogm ogv qt rm rmvb ts vob webm wmv
    y4m""".split()  # noqa: SIM905
)
OTHER_EXTENSIONS = frozenset(
    """7z aac ass bat bib bmp bz2 cfg conf csv db doc docx exr feather flac gz h5 hdf5 htm html ini ipynb jpeg jpg json
    jsonl lock log m4a mat md md5 mp3 nfo npy npz ogg parquet pdf pickle pkl png ppt pptx ps1 pth pt py rar rst sh sha1
    sha256 sqlite srt svg sub tar tex tgz tif tiff toml torrent tsv txt url vtt wav webp xls xlsx xml xz yaml yml zip
    zst""".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Skipped:
    """An input that is left out, and why. path: relative to VIDEOS."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A video file: path relative to VIDEOS, its folders, name without extension, size in bytes."""

    path: str
    folders: tuple[str, ...]
    stem: str
    num_bytes: int


@dataclass(slots=True)
class Walk:
    files: list[VideoFile]
    skipped: list[Skipped]
    ignored: Counter[str]


def walk_videos(videos: Location) -> Walk:
    """All that lies below a folder or URL; InputError where it is absent or holds no video."""
    walk = Walk([], [], Counter())
    if isinstance(videos, Path):
        _walk_local(videos, walk)
    else:
        _walk_store(videos, walk)
    if not walk.files:
        packed = ", ".join(
            f"{count} .{kind}" for kind, count in walk.ignored.items() if kind in ("rar", "zip", "tar", "gz")
        )
        raise InputError(
            f"VIDEOS {videos} holds no video files (expected extensions such as .avi, .mp4, .mkv, .webm at any depth)."
            + (f" It holds packed archives ({packed}): unpack them first." if packed else "")
            + (
                f" Left out: {some([f'{entry.path} ({entry.reason})' for entry in walk.skipped])}."
                if walk.skipped
                else ""
            )
        )
    return walk


def _walk_store(videos: str, walk: Walk) -> None:
    """An object store has names with slashes only: no links, no permissions, nothing that is no file."""
    for path, num_bytes in sorted(list_tree(videos).items(), key=lambda entry: entry[0].split("/")):
        *folders, name = path.split("/")
        if any(part.startswith(".") for part in (*folders, name)):
            walk.ignored["hidden"] += 1
        elif not all((*folders, name)) or {".", ".."} & {*folders, name}:
            walk.skipped.append(Skipped(path, "its name has empty parts between slashes"))
        elif (reason := _left_out(path, walk)) is not None:
            if reason:
                walk.skipped.append(Skipped(_shown(path), reason))
        else:
            walk.files.append(VideoFile(path, tuple(folders), name[: -len(extension_of(name)) - 1], num_bytes))


def _left_out(path: str, walk: Walk) -> str | None:
    """Why a file is no video by its name; "" where it is counted as something else, None for a video."""
    extension = extension_of(path.rpartition("/")[2])
    if extension in OTHER_EXTENSIONS:
        walk.ignored[extension] += 1
        return ""
    if not _is_utf8(path):
        return "name is not valid UTF-8; rename it"
    if extension not in VIDEO_EXTENSIONS:
        return f"not a known video extension (.{extension})" if extension else "no file name extension"
    return None


def _walk_local(videos: Path, walk: Walk) -> None:
    if not videos.is_dir():
        what = "is a file, not a folder" if videos.exists() else "does not exist"
        raise InputError(f"VIDEOS {videos} {what}. Name the folder that holds the videos: tgprep extract VIDEOS OUT.")
    root = videos.stat()
    _walk_folder(str(videos), (), ((root.st_dev, root.st_ino),), walk)


def _walk_folder(folder: str, parts: tuple[str, ...], above: tuple[tuple[int, int], ...], walk: Walk) -> None:
    place = "/".join(parts)
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        walk.skipped.append(Skipped(_shown(place) or ".", f"folder cannot be read: {error.strerror}"))
        return
    for entry in found:
        name, path = entry.name, f"{place}/{entry.name}" if place else entry.name
        if name.startswith("."):
            walk.ignored["hidden"] += 1
            continue
        try:
            status = entry.stat()
        except OSError as error:
            if entry.is_symlink() or extension_of(name) in VIDEO_EXTENSIONS:
                reason = "symbolic link to nothing" if entry.is_symlink() else f"cannot be read: {error.strerror}"
                walk.skipped.append(Skipped(_shown(path), reason))
            continue
        if stat.S_ISDIR(status.st_mode):
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                walk.skipped.append(Skipped(_shown(path), "symbolic link to a folder above itself"))
            else:
                _walk_folder(entry.path, (*parts, name), (*above, identity), walk)
            continue
        left_out = _left_out(path, walk)
        if left_out:
            walk.skipped.append(Skipped(_shown(path), left_out))
        elif left_out is None and not stat.S_ISREG(status.st_mode):
            walk.skipped.append(Skipped(path, "not a regular file"))
        elif left_out is None:
            walk.files.append(VideoFile(path, parts, name[: -len(extension_of(name)) - 1], status.st_size))


def extension_of(name: str) -> str:
    """The part of a file name behind its last dot, in small letters; "" without one."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()


def some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
