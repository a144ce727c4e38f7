"""Videos without a label: those of `--unlabelled DIR`, and those in folders of VIDEOS whose name says so (`unlabelled/`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from manifests.datasets import SUBSET_NAMES, is_unlabelled, nfc, source_of_name, subset_of_folder, words_of
from manifests.files import Location
from manifests.records import InputError
from tgprep.scan.files import Listing, Skipped, VideoFile, list_videos
from tgprep.scan.rules import VideoLabel

# Videos of a folder outside VIDEOS have paths below this one. Hidden files are no videos, so none of VIDEOS has such a path.
OUTSIDE = ".unlabelled"
KEY_FOLDER = "unlabelled"  # of the keys


@dataclass(frozen=True, slots=True)
class Pools:
    """The folders of `--unlabelled`. inside: their folders below VIDEOS. outside: the others, by the names that their videos' paths have."""

    inside: tuple[tuple[str, ...], ...] = ()
    outside: Mapping[str, Location] = field(default_factory=dict)

    @classmethod
    def of(cls, videos: Location, folders: Sequence[Location]) -> Pools:
        """Compare the folders with VIDEOS and each other. InputError if one holds VIDEOS or another, or two have one name."""
        inside: list[tuple[str, ...]] = []
        outside: dict[str, Location] = {}
        root, places = _parts(videos), dict[tuple[str, ...], Location]()
        for folder in folders:
            parts = _parts(folder)
            if other := next((o for p, o in places.items() if p[: len(parts)] == parts or parts[: len(p)] == p), None):
                raise InputError(
                    f"--unlabelled {folder} and --unlabelled {other}: one holds the other. Name each folder once."
                )
            places[parts] = folder
            if parts[: len(root)] == root:
                inside.append(parts[len(root) :])
                continue
            if root[: len(parts)] == parts:
                raise InputError(
                    f"--unlabelled {folder} holds VIDEOS {videos}, whose videos would count twice. Name a folder beside VIDEOS or in it."
                )
            if (name := nfc(parts[-1])) in outside:
                raise InputError(
                    f"--unlabelled {folder} and --unlabelled {outside[name]} have the same name, which the paths of their videos begin with. "
                    "Rename one, or give the folder that holds both."
                )
            outside[name] = folder
        return cls(tuple(inside), outside)

    def place_of(self, videos: Location, path: str) -> tuple[Location, str]:
        """Where a path of the table lies: VIDEOS or a folder of `--unlabelled`, and the path below it. InputError if that is not given."""
        name = outside_name(path)
        if not name:
            return videos, path
        if name not in self.outside:
            raise InputError(
                f"{path} lies in a folder {name} that was given with --unlabelled. Give the same folder again: --unlabelled PATH/{name}."
            )
        return self.outside[name], path.split("/", 2)[2]

    def require(self, paths: Iterable[str]) -> None:
        """InputError if one of these paths lies in a folder that is not given."""
        for path in paths:
            self.place_of("", path)


def outside_name(path: str) -> str:
    """The name of the folder of `--unlabelled` outside VIDEOS that a path of the table lies in; "" for a video of VIDEOS."""
    parts = path.split("/", 2)
    return parts[1] if parts[0] == OUTSIDE and len(parts) == 3 else ""


def _parts(place: Location) -> tuple[str, ...]:
    # Links are followed: a folder may be given by two names.
    text = os.path.realpath(place) if isinstance(place, Path) else str(place).rstrip("/")
    return tuple(text.split("/")) if text != "/" else ("",)


def list_outside(pools: Pools, listing: Listing) -> None:
    """Add the videos of the folders outside VIDEOS to a listing. InputError if one does not exist or holds no video."""
    for name, folder in pools.outside.items():
        found = list_videos(folder, "--unlabelled")
        start = f"{OUTSIDE}/{name}"
        listing.videos.extend(
            replace(file, path=f"{start}/{file.path}", folders=(OUTSIDE, name, *file.folders)) for file in found.videos
        )
        listing.skipped.extend(Skipped(f"{start}/{entry.path}", entry.reason) for entry in found.skipped)
        listing.ignored.update(found.ignored)


def pool_labels(files: Iterable[VideoFile], pools: Pools, *, reserved: bool) -> dict[str, VideoLabel | str]:
    """The files without a label by path: with their group, or the reason why they are skipped.

    reserved: whether folders of VIDEOS named `unlabelled` and the like hold such files. Labels are without subsets.
    """
    places = [*pools.inside, *((OUTSIDE, name) for name in pools.outside)]
    labels: dict[str, VideoLabel | str] = {}
    for file in files:
        start = next((len(place) for place in places if file.folders[: len(place)] == place), -1)
        if start < 0 and reserved:
            start = next((level for level, name in enumerate(file.folders, 1) if is_unlabelled(name)), -1)
            if start > 0 and (held_out := next(filter(_is_held_out, file.folders), "")):
                labels[file.path] = f"in {held_out}/ and without a label: a video of validation or test needs one"
                continue
        if start >= 0:
            labels[file.path] = VideoLabel("", _group(file, start), ())
    return labels


def _is_held_out(name: str) -> bool:
    """Whether a folder's name speaks of validation or test (`val`, `test_unlabelled`)."""
    words = {SUBSET_NAMES.get(word) for word in words_of(name)} if is_unlabelled(name) else {subset_of_folder(name)}
    return not words.isdisjoint(("val", "test"))


def _group(file: VideoFile, start: int) -> str:
    """The source of a clip: its folder below the pool's, else its name without the clip's number."""
    if folders := file.folders[start:]:
        return nfc("/".join(folders))
    return nfc(source_of_name(file.stem) or file.stem)
