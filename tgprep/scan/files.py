"""List the files below VIDEOS in order. Every file is a video, skipped with a reason, or counted as another kind."""

from __future__ import annotations

import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from manifests.datasets import VIDEO_EXTENSIONS
from manifests.files import Location, below, exists, list_tree
from manifests.machine import reads_names_as_utf8
from manifests.records import InputError

OTHER_EXTENSIONS = frozenset(
    """7z aac ass bat bib bmp bz2 cfg conf csv db doc docx exr feather flac gz h5 hdf5 htm html ini ipynb jpeg jpg json
    jsonl lock log m4a mat md md5 mp3 nfo npy npz ogg parquet pdf pickle pkl png ppt pptx ps1 pth pt py rar rst sh sha1
    sha256 sqlite srt svg sub tar tex tgz tif tiff toml torrent tsv txt url vtt wav webp xls xlsx xml xz yaml yml zip
    zst""".split()  # noqa: SIM905
)
NOT_UTF8 = "name is not valid UTF-8; rename it"


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

    def skip(self, path: str, reason: str) -> None:
        """Leave an input out. Bytes of its path that are not UTF-8 are escaped."""
        self.skipped.append(Skipped(path.encode("utf-8", "backslashreplace").decode(), reason))

    def add(self, path: str, num_bytes: int, *, regular: bool = True) -> None:
        """Account for a file by its name."""
        *folders, name = path.split("/")
        extension = extension_of(name)
        if extension in OTHER_EXTENSIONS:
            self.ignored[extension] += 1
        elif not is_utf8(path):
            self.skip(path, NOT_UTF8)
        elif extension not in VIDEO_EXTENSIONS:
            self.skip(path, f"not a known video extension (.{extension})" if extension else "no file name extension")
        elif not regular:
            self.skip(path, "not a regular file")
        else:
            self.videos.append(VideoFile(path, tuple(folders), name[: -len(extension) - 1], num_bytes))


def list_videos(location: Location, what: str = "VIDEOS") -> Listing:
    """List a folder or URL, `what` for messages. InputError if it does not exist or holds no video."""
    listing = Listing()
    if isinstance(location, Path):
        if not location.is_dir():
            problem = "is a file, not a folder" if location.exists() else "does not exist"
            raise InputError(
                f"{what} {location} {problem}. Name the folder that holds the videos: tgprep extract VIDEOS OUT{' --unlabelled DIR' * (what != 'VIDEOS')}."
            )
        for path, status in walk(location, listing):
            listing.add(path, status.st_size, regular=stat.S_ISREG(status.st_mode))
    else:
        # An object store has names with slashes only: no links, no permissions, regular files only.
        for path, num_bytes in sorted(list_tree(location).items(), key=lambda entry: entry[0].split("/")):
            parts = path.split("/")
            if any(part.startswith(".") for part in parts):
                listing.ignored["hidden"] += 1
            elif not all(parts):
                listing.skip(path, "its name has empty parts between slashes")
            else:
                listing.add(path, num_bytes)
    if not listing.videos:
        if reason := _other_place(location, listing):
            raise InputError(f"{what} {location} {reason}")
        # The likely reasons: archives not unpacked, or files that had to be skipped.
        message = f"{what} {location} holds no video files (expected extensions such as .avi, .mp4, .mkv, .webm at any depth)."
        archives = [
            f"{listing.ignored[kind]} .{kind}" for kind in listing.ignored if kind in ("rar", "zip", "tar", "gz")
        ]
        if archives:
            message += f" It holds packed archives ({', '.join(archives)}): unpack them first."
        if listing.skipped:
            message += f" Skipped: {some([f'{entry.path} ({entry.reason})' for entry in listing.skipped])}."
        raise InputError(message)
    return listing


def _other_place(location: Location, listing: Listing) -> str:
    """What a place without videos is instead, and what to do; "" for a folder that just holds none."""
    if str(location).startswith(("http://", "https://")):
        return "is a web address, below which files cannot be listed. Download the videos, or name a folder or an object store (s3://, gs://)."
    if exists(below(location, "dataset.json")):
        return "is a data set that tgprep made (it holds dataset.json), not a folder of videos. Name the folder that it was extracted from."
    if not isinstance(location, Path) and not listing.skipped and not listing.ignored:
        return "holds no files at all: it does not exist, or is empty. Check the name of bucket and folder."
    return ""


def walk(root: Path, listing: Listing) -> Iterator[tuple[str, os.stat_result]]:
    """All files below a folder in order, with their paths relative to it; links to folders are followed, never in a circle.

    Hidden entries are counted in `listing`, what cannot be read is skipped in it. InputError if the root is no folder.
    """
    status = root.stat()
    yield from _walk(str(root), "", ((status.st_dev, status.st_ino),), listing)


def _walk(
    folder: str, prefix: str, parents: tuple[tuple[int, int], ...], listing: Listing
) -> Iterator[tuple[str, os.stat_result]]:
    """Files of a folder and of those below.

    prefix: its path below the root, "" or ending in a slash. parents: device and inode of it and of the folders above, which
    a symbolic link may lead back to.
    """
    try:
        with os.scandir(folder) as iterator:
            entries = sorted(iterator, key=lambda entry: entry.name)
    except OSError as error:
        listing.skip(prefix[:-1] or ".", f"folder cannot be read: {error.strerror}")
        return
    for entry in entries:
        path = prefix + entry.name
        if not (entry.name.isascii() or reads_names_as_utf8()):
            raise InputError(
                f"{folder}: Python reads names of files as {sys.getfilesystemencoding()} here, which is not UTF-8. Set PYTHONUTF8=1."
            )
        if entry.name.startswith("."):
            listing.ignored["hidden"] += 1
            continue
        try:
            status = entry.stat()
        except OSError as error:
            # Only what could have been a video is worth a line.
            if entry.is_symlink():
                listing.skip(path, "symbolic link to nothing")
            elif extension_of(entry.name) in VIDEO_EXTENSIONS:
                listing.skip(path, f"cannot be read: {error.strerror}")
            continue
        identity = (status.st_dev, status.st_ino)
        if not stat.S_ISDIR(status.st_mode):
            yield path, status
        elif identity in parents:
            listing.skip(path, "symbolic link to a folder above itself")
        else:
            yield from _walk(entry.path, f"{path}/", (*parents, identity), listing)


def is_utf8(path: str) -> bool:
    """Whether the bytes of a path are UTF-8; those that are not became lone surrogates."""
    return path.encode("utf-8", "ignore").decode() == path


def extension_of(name: str) -> str:
    """The extension of a file name in lower case, without the dot; "" if it has none."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def some(names: list[str]) -> str:
    """The first three names for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
