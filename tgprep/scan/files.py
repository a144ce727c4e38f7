"""List the files below VIDEOS in order. Every file is a video, skipped with a reason, or counted as another kind."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
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
    """An input that is left out, and why."""

    path: str  # relative to VIDEOS
    reason: str


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A video file."""

    path: str  # relative to VIDEOS
    folders: tuple[str, ...]  # of the path
    stem: str  # file name without extension
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All files below VIDEOS."""

    videos: list[VideoFile] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)  # number of other files by extension


def list_videos(location: Location) -> Listing:
    """List a folder or URL. InputError if it does not exist or holds no video."""
    listing = Listing()
    if isinstance(location, Path):
        if not location.is_dir():
            what = "is a file, not a folder" if location.exists() else "does not exist"
            raise InputError(
                f"VIDEOS {location} {what}. Name the folder that holds the videos: tgprep extract VIDEOS OUT."
            )
        root = location.stat()
        _list_folder(str(location), (), ((root.st_dev, root.st_ino),), listing)
    else:
        _list_store(location, listing)
    if not listing.videos:
        message = f"VIDEOS {location} holds no video files (expected extensions such as .avi, .mp4, .mkv, .webm at any depth)."
        archives = [
            f"{count} .{kind}" for kind, count in listing.ignored.items() if kind in ("rar", "zip", "tar", "gz")
        ]
        if archives:
            message += f" It holds packed archives ({', '.join(archives)}): unpack them first."
        if listing.skipped:
            message += f" Skipped: {some([f'{entry.path} ({entry.reason})' for entry in listing.skipped])}."
        raise InputError(message)
    return listing


def _list_store(url: str, listing: Listing) -> None:
    """List an object store, which has names with slashes only: no links, no permissions, regular files only."""
    for path, num_bytes in sorted(list_tree(url).items(), key=lambda entry: entry[0].split("/")):
        *folders, name = parts = path.split("/")
        if any(part.startswith(".") for part in parts):
            listing.ignored["hidden"] += 1
        elif not all(parts):
            listing.skipped.append(Skipped(path, "its name has empty parts between slashes"))
        elif _is_video(path, listing):
            listing.videos.append(VideoFile(path, tuple(folders), name[: -len(extension_of(name)) - 1], num_bytes))


def _is_video(path: str, listing: Listing) -> bool:
    """Whether a file is a video by its name; if not, count or skip it."""
    extension = extension_of(path.rpartition("/")[2])
    if extension in OTHER_EXTENSIONS:
        listing.ignored[extension] += 1
    elif (printable := _printable(path)) != path:
        listing.skipped.append(Skipped(printable, "name is not valid UTF-8; rename it"))
    elif extension not in VIDEO_EXTENSIONS:
        reason = f"not a known video extension (.{extension})" if extension else "no file name extension"
        listing.skipped.append(Skipped(path, reason))
    else:
        return True
    return False


def _list_folder(folder: str, parts: tuple[str, ...], parents: tuple[tuple[int, int], ...], listing: Listing) -> None:
    """List a folder and those below. parents: device and inode of the folders above, which a symbolic link may lead back to."""
    prefix = "/".join(parts)
    try:
        with os.scandir(folder) as iterator:
            entries = sorted(iterator, key=lambda entry: entry.name)
    except OSError as error:
        listing.skipped.append(Skipped(_printable(prefix) or ".", f"folder cannot be read: {error.strerror}"))
        return
    for entry in entries:
        name, path = entry.name, f"{prefix}/{entry.name}" if prefix else entry.name
        if name.startswith("."):
            listing.ignored["hidden"] += 1
            continue
        try:
            status = entry.stat()
        except OSError as error:
            if entry.is_symlink() or extension_of(name) in VIDEO_EXTENSIONS:
                reason = "symbolic link to nothing" if entry.is_symlink() else f"cannot be read: {error.strerror}"
                listing.skipped.append(Skipped(_printable(path), reason))
            continue
        if stat.S_ISDIR(status.st_mode):
            identity = (status.st_dev, status.st_ino)
            if identity in parents:
                listing.skipped.append(Skipped(_printable(path), "symbolic link to a folder above itself"))
            else:
                _list_folder(entry.path, (*parts, name), (*parents, identity), listing)
        elif _is_video(path, listing):
            if stat.S_ISREG(status.st_mode):
                stem = name[: -len(extension_of(name)) - 1]
                listing.videos.append(VideoFile(path, parts, stem, status.st_size))
            else:
                listing.skipped.append(Skipped(path, "not a regular file"))


def extension_of(name: str) -> str:
    """The extension of a file name in lower case, without the dot; "" if it has none."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def _printable(path: str) -> str:
    """The path, with escapes for bytes that are not UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()


def some(names: list[str]) -> str:
    """The first three names for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
