"""The public data sets: where their files are, what they must look like, and where they go."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from manifests.manifest_io import atomic_write, json_bytes
from manifests.records import InputError
from tgprep.obtain.fetch import RemoteFile, fetch
from tgprep.obtain.unpack import unpack

ARCHIVES = "archives"
_MARKER = ".unpacked.json"


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive of a data set. folder: where it is unpacked, below DIR. nested: it holds archives itself."""

    remote: RemoteFile
    folder: str
    nested: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A public data set. terms: what its page asks of users. home: its page. next_step: what to do with it, {dir} is DIR."""

    archives: tuple[Archive, ...]
    home: str
    terms: str
    next_step: str


# Sizes and sha256 as other programs that fetch the same files have recorded them: torchvision (prototype datasets, ucf101.py and
# hmdb51.py) and TensorFlow Datasets (url_checksums/ucf101.txt). Nobody has for the Kinetics archive.
SOURCES = {
    "ucf101": Source(
        (
            Archive(
                RemoteFile(
                    "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
                    113943,
                    "5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
                ),
                "annotations",
            ),
            Archive(
                RemoteFile(
                    "https://www.crcv.ucf.edu/data/UCF101/UCF101.rar",
                    -1,
                    "ca8dfadb4c891cb11316f94d52b6b0ac2a11994e67a0cae227180cd160bd8e55",
                ),
                "videos",
            ),
        ),
        "https://www.crcv.ucf.edu/data/UCF101.php",
        "13,320 videos, 6.5 GB; for research, the clips come from YouTube",
        "tgprep extract {dir}/videos --dataset ucf101",
    ),
    "hmdb51": Source(
        (
            Archive(
                RemoteFile(
                    "http://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/test_train_splits.rar",
                    -1,
                    "229c94f845720d01eb3946d39f39292ea962d50a18136484aa47c1eba251d2b7",
                ),
                "annotations",
            ),
            Archive(
                RemoteFile(
                    "http://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/hmdb51_org.rar",
                    -1,
                    "9e714a0d8b76104d76e932764a7ca636f929fff66279cda3f2e326fa912a328e",
                ),
                "videos",
                nested=True,
            ),
        ),
        "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/",
        "6,766 videos, 2 GB; Creative Commons Attribution 4.0",
        "tgprep extract {dir}/videos --dataset hmdb51",
    ),
    "kinetics400-annotations": Source(
        (
            Archive(
                RemoteFile("https://storage.googleapis.com/deepmind-media/Datasets/kinetics400.tar.gz"), "annotations"
            ),
        ),
        "https://deepmind.google/research/open-source/kinetics",
        "the csv files only (Creative Commons Attribution 4.0); the videos are YouTube's, and you bring your own copy",
        "tgprep extract VIDEOS --dataset kinetics400 --annotations {dir}/annotations",
    ),
}


@dataclass(frozen=True, slots=True)
class DownloadOutcome:
    """What was done: archives fetched now, and files unpacked now."""

    num_fetched: int
    num_files: int
    next_step: str


def download(
    name: str,
    folder: Path,
    *,
    base: str = "",
    unpacked: bool = True,
    attempts: int = 6,
    wait_seconds: float = 2.0,
    stop: threading.Event | None = None,
    on_progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    sources: dict[str, Source] | None = None,
) -> DownloadOutcome:
    """Fetch the archives of a data set into folder/archives and unpack them into folder/videos and folder/annotations.

    base: another server's folder that holds files of the same names. What is there already is neither fetched nor unpacked
    again. sources: the table to look in (SOURCES). Raises InputError and tgprep.obtain.fetch.DownloadError; KeyboardInterrupt
    where `stop` was set.
    """
    table = SOURCES if sources is None else sources
    if name not in table:
        raise InputError(f"{name}: no such data set; one of {', '.join(table)}.")
    source = table[name]
    try:
        (folder / ARCHIVES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}).") from None
    num_fetched = num_files = 0
    for archive in source.archives:
        remote = archive.remote
        if base:
            remote = RemoteFile(f"{base.rstrip('/')}/{remote.name}", remote.num_bytes, remote.sha256)
        target = folder / ARCHIVES / remote.name
        num_fetched += fetch(
            remote,
            target,
            attempts=attempts,
            wait_seconds=wait_seconds,
            stop=stop,
            on_progress=lambda done, total, name=remote.name: on_progress(name, done, total),  # type: ignore[misc]
        )
        if unpacked and not _is_unpacked(folder, target):
            num_files += unpack(target, folder / archive.folder, nested=archive.nested)
            _note_unpacked(folder, target)
    return DownloadOutcome(num_fetched, num_files, source.next_step.format(dir=folder))


def _state(archive: Path) -> list[int]:
    found = archive.stat()
    return [found.st_size, found.st_mtime_ns]


def _unpacked(folder: Path) -> dict[str, list[int]]:
    try:
        told: dict[str, list[int]] = json.loads((folder / ARCHIVES / _MARKER).read_bytes())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _is_unpacked(folder: Path, archive: Path) -> bool:
    return _unpacked(folder).get(archive.name) == _state(archive)


def _note_unpacked(folder: Path, archive: Path) -> None:
    with atomic_write(folder / ARCHIVES / _MARKER) as file:
        file.write(json_bytes({**_unpacked(folder), archive.name: _state(archive)}))
