"""Where the official lists of a data set are looked for: beside and in VIDEOS; copied to a local folder from a store."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from manifests.datasets import LIST_FOLDERS
from manifests.files import Location, below, download, exists, list_folder, name_of
from manifests.records import InputError

_LIST_ENDS = (".txt", ".csv")
_MAX_BYTES = 256 * 1024 * 1024
_MAX_FILES = 2000  # in one folder; HMDB51 has 153


@contextlib.contextmanager
def lists_near(videos: Location, annotations: Location | None) -> Iterator[list[Path]]:
    """Local files or folders that may hold official lists, in the order in which they count.

    annotations: what the user named; then it alone counts, and is the first. InputError where it is not in the store.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(annotations, Path):
            yield [annotations]
        elif annotations is not None:
            yield [_copied(annotations, stack)]
        elif isinstance(videos, Path):
            # Not resolve(): VIDEOS may be a symbolic link into the user's layout.
            around = Path(os.path.abspath(videos))  # noqa: PTH100
            yield [around.parent / "annotations", around.parent, around / "annotations", around]
        else:
            parent = videos.rpartition("/")[0]
            places: list[Location] = [below(videos, "annotations"), videos]
            if not parent.endswith("/"):  # VIDEOS is no bucket
                places = [below(parent, "annotations"), parent, *places]
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tgprep-lists-")))
            for number, place in enumerate(places):
                with contextlib.suppress(InputError):  # what lies beside VIDEOS may be nobody's to read
                    _copy(str(place), root / str(number))
            yield [root / str(number) for number in range(len(places))]


def _copied(url: str, stack: contextlib.ExitStack) -> Path:
    target = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tgprep-lists-"))) / name_of(url)
    if exists(url):
        download(url, target)
    elif list_folder(url):
        _copy(url, target)
    else:
        raise InputError(f"--annotations {url}: no such file or folder.")
    return target


def _copy(url: str, target: Path) -> None:
    """Copy the lists in a folder of a store, and those in the folders that the archives of lists make."""
    target.mkdir()
    found = list_folder(url)
    lists = [name for name, size in found.items() if name.lower().endswith(_LIST_ENDS) and 0 < size <= _MAX_BYTES]
    for name in lists[:_MAX_FILES]:
        download(f"{url}/{name}", target / name)
    for name, size in found.items():
        if size < 0 and name in LIST_FOLDERS:
            _copy(f"{url}/{name}", target / name)
