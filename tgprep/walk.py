"""The files below VIDEOS: sorted, symbolic links followed once, every file a video, skipped with a reason, or counted."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

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


def walk_videos(videos: Path) -> Walk:
    if not videos.is_dir():
        what = "is a file, not a folder" if videos.exists() else "does not exist"
        raise InputError(f"VIDEOS {videos} {what}. Name the folder that holds the videos: tgprep extract VIDEOS OUT.")
    walk = Walk([], [], Counter())
    root = videos.stat()
    _walk_folder(str(videos), (), ((root.st_dev, root.st_ino),), walk)
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
            if entry.is_symlink() or _extension(name) in VIDEO_EXTENSIONS:
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
        extension = _extension(name)
        if extension in OTHER_EXTENSIONS:
            walk.ignored[extension] += 1
        elif not _is_utf8(path):
            walk.skipped.append(Skipped(_shown(path), "name is not valid UTF-8; rename it"))
        elif extension not in VIDEO_EXTENSIONS:
            reason = f"not a known video extension (.{extension})" if extension else "no file name extension"
            walk.skipped.append(Skipped(path, reason))
        elif not stat.S_ISREG(status.st_mode):
            walk.skipped.append(Skipped(path, "not a regular file"))
        else:
            walk.files.append(VideoFile(path, parts, name[: -len(extension) - 1], status.st_size))


def _extension(name: str) -> str:
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
