"""Look for the official lists of a data set beside and in VIDEOS; lists in an object store are copied to a temporary folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from manifests.files import Location, below, download, exists, list_folder
from manifests.lists.official import LIST_ENDINGS, LIST_FOLDERS
from manifests.lists.text import MAX_BYTES
from manifests.records import InputError

_MAX_FILES = 2000  # in a folder; HMDB51 has 153


@contextlib.contextmanager
def annotation_paths(videos: Location, annotations: Location | None) -> Iterator[list[Path]]:
    """Local files and folders that may hold official lists, in order of precedence.

    annotations: if the user named it, it is the only one. InputError if it is not in the store.
    """
    if isinstance(annotations, Path):
        yield [annotations]
        return
    if annotations is None and isinstance(videos, Path):
        # Not resolve(): VIDEOS may be a symbolic link into the user's layout.
        folder = Path(os.path.abspath(videos))  # noqa: PTH100
        yield [folder.parent / "annotations", folder.parent, folder / "annotations", folder]
        return
    with tempfile.TemporaryDirectory(prefix="tgprep-lists-") as temporary:
        root = Path(temporary)
        if annotations is not None:
            target = root / str(annotations).rstrip("/").rpartition("/")[2]
            if exists(annotations):
                download(annotations, target)
            elif list_folder(annotations):
                _copy_lists(str(annotations), target)
            else:
                raise InputError(f"--annotations {annotations}: no such file or folder.")
            yield [target]
            return
        # Beside VIDEOS and in it, as for a folder.
        parent = str(videos).rpartition("/")[0]
        urls = [below(videos, "annotations"), videos]
        if not parent.endswith("/"):  # VIDEOS is not a bucket
            urls = [below(parent, "annotations"), parent, *urls]
        for number, url in enumerate(urls):
            with contextlib.suppress(InputError):  # there may be no permission to read beside VIDEOS
                _copy_lists(str(url), root / str(number))
        yield [root / str(number) for number in range(len(urls))]


def _copy_lists(url: str, target: Path) -> None:
    """Copy the lists in a folder of a store, and in the folders that archives of lists unpack to."""
    target.mkdir()
    entries = list_folder(url)
    files = [name for name, size in entries.items() if 0 < size <= MAX_BYTES][:_MAX_FILES]
    for name in files:
        if name.lower().endswith((".txt", ".csv", ".tsv")):
            download(f"{url}/{name}", target / name)
        elif name.lower().endswith(LIST_ENDINGS):
            (target / name).touch()  # no list that is read: an empty file stands for it, so that a note can name it
    for name, size in entries.items():
        if size < 0 and name in LIST_FOLDERS:
            _copy_lists(f"{url}/{name}", target / name)
