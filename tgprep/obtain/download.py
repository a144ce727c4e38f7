"""Download the public data sets: where their archives are, what they must look like, and where they go."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from manifests.disk import held_folder
from manifests.files import atomic_write
from manifests.manifest_io import json_bytes
from manifests.records import InputError
from tgprep.obtain.fetch import RemoteFile, fetch
from tgprep.obtain.unpack import unpack

ARCHIVES = "archives"
_MARKER = ".unpacked.json"  # archive name -> its size and time when it was unpacked
_UCF101 = "https://www.crcv.ucf.edu/data/UCF101/"
_HMDB51 = "http://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/"
_KINETICS = "https://storage.googleapis.com/deepmind-media/Datasets/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive(RemoteFile):
    """An archive of a data set."""

    folder: str = "videos"  # where it is unpacked, below DIR
    nested: bool = False  # it holds archives itself


@dataclass(frozen=True, slots=True)
class Source:
    """A public data set."""

    archives: tuple[Archive, ...]
    home: str  # its page
    terms: str  # what the page asks of users
    next_step: str  # what to run after the download, {dir} is DIR


# Sizes and sha256 as other programs that fetch the same files have recorded them: torchvision (prototype datasets, ucf101.py and
# hmdb51.py) and TensorFlow Datasets (url_checksums/ucf101.txt). None is published for the Kinetics archive.
SOURCES = {
    "ucf101": Source(
        (
            Archive(
                _UCF101 + "UCF101TrainTestSplits-RecognitionTask.zip",
                113943,
                "5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
                folder="annotations",
            ),
            Archive(
                _UCF101 + "UCF101.rar",
                sha256="ca8dfadb4c891cb11316f94d52b6b0ac2a11994e67a0cae227180cd160bd8e55",
            ),
        ),
        "https://www.crcv.ucf.edu/data/UCF101.php",
        "13,320 videos, 6.5 GB; for research, the clips come from YouTube",
        "tgprep extract {dir}/videos --dataset ucf101",
    ),
    "hmdb51": Source(
        (
            Archive(
                _HMDB51 + "test_train_splits.rar",
                sha256="229c94f845720d01eb3946d39f39292ea962d50a18136484aa47c1eba251d2b7",
                folder="annotations",
            ),
            Archive(
                _HMDB51 + "hmdb51_org.rar",
                sha256="9e714a0d8b76104d76e932764a7ca636f929fff66279cda3f2e326fa912a328e",
                nested=True,
            ),
        ),
        "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/",
        "6,766 videos, 2 GB; Creative Commons Attribution 4.0",
        "tgprep extract {dir}/videos --dataset hmdb51",
    ),
    "kinetics400-annotations": Source(
        (Archive(_KINETICS + "kinetics400.tar.gz", folder="annotations"),),
        "https://deepmind.google/research/open-source/kinetics",
        "the csv files only (Creative Commons Attribution 4.0); the videos are YouTube's, and you bring your own copy",
        "tgprep extract VIDEOS --dataset kinetics400 --annotations {dir}/annotations",
    ),
}


@dataclass(frozen=True, slots=True)
class DownloadOutcome:
    """What this call did."""

    num_fetched: int  # archives
    num_files: int  # files unpacked
    next_step: str


def download(
    name: str,
    folder: Path,
    *,
    base: str = "",
    unpack_archives: bool = True,
    attempts: int = 6,
    wait_seconds: float = 2.0,
    stop: threading.Event | None = None,
    on_progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    sources: dict[str, Source] = SOURCES,
) -> DownloadOutcome:
    """Fetch the archives of a data set into folder/archives and unpack them into folder/videos and folder/annotations.

    base: another server's folder that holds files of the same names. Archives that are already fetched or unpacked are skipped.
    Raises InputError and tgprep.obtain.fetch.DownloadError, and KeyboardInterrupt if `stop` is set.
    """
    if name not in sources:
        raise InputError(f"{name}: no such data set; one of {', '.join(sources)}.")
    if base and not re.match(r"(https?|file)://", base):
        raise InputError(f"--base {base}: expected the URL of a folder on a web server, such as https://host/mirror.")
    num_fetched = num_files = 0
    with held_folder(folder / ARCHIVES):
        unpacked = _unpacked(folder / ARCHIVES)
        for archive in sources[name].archives:
            target = folder / ARCHIVES / archive.name
            remote = dataclasses.replace(archive, url=f"{base.rstrip('/')}/{archive.name}") if base else archive
            progress = functools.partial(on_progress, archive.name)
            num_fetched += fetch(
                remote, target, attempts=attempts, wait_seconds=wait_seconds, stop=stop, on_progress=progress
            )
            found = target.stat()
            state = [found.st_size, found.st_mtime_ns]
            if unpack_archives and unpacked.get(archive.name) != state:
                num_files += unpack(target, folder / archive.folder, nested=archive.nested)
                unpacked[archive.name] = state
                with atomic_write(folder / ARCHIVES / _MARKER) as file:
                    file.write(json_bytes(unpacked))
    return DownloadOutcome(num_fetched, num_files, sources[name].next_step.format(dir=folder))


def _unpacked(archives: Path) -> dict[str, list[int]]:
    """Size and time of each archive when it was unpacked. Without the marker, or with a damaged one, all are unpacked again."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return dict(json.loads((archives / _MARKER).read_bytes()))
    return {}
