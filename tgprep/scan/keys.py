"""Video keys: `Class/stem`, safe in tar members, file names and URLs, unique, and the same whatever order files are found in."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence

MAX_STEM, MAX_CLASS = 80, 100  # a ustar name holds 100 bytes for `stem.rgb.offsets.npy`, 155 for the folder before it
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def unique_keys(videos: Sequence[tuple[str, str, str]]) -> tuple[list[str], list[str]]:
    """A key for each (class name, stem, path), and the sorted paths of those that would have shared one.

    Keys that differ in upper and lower case alone count as shared: they would fall together on some file systems. All
    videos that share a key get a hash of their path, so none depends on which was found first.
    """
    keys = [video_key(class_name, stem) for class_name, stem, _ in videos]
    clashing: set[int] = set()
    for digits in (8, 16, 64):
        folded = [key.lower() for key in keys]
        if len(set(folded)) == len(folded):
            break
        places: defaultdict[str, list[int]] = defaultdict(list)
        for place, key in enumerate(folded):
            places[key].append(place)
        for place in (place for group in places.values() if len(group) > 1 for place in group):
            class_name, stem, path = videos[place]
            keys[place] = video_key(class_name, stem, hashed=path, digits=digits)
            clashing.add(place)
    return keys, sorted(videos[place][2] for place in clashing)


def video_key(class_name: str, stem: str, *, hashed: str = "", digits: int = 8) -> str:
    """`Class/stem` of `[A-Za-z0-9_-]` alone: each run of other characters becomes one `_`; what is too long ends in a hash.

    hashed: text whose sha256 (first `digits` hexadecimal digits) is to end the stem, for videos that would share a key.
    """
    name = _UNSAFE.sub("_", stem)
    if hashed:
        name = f"{name[: MAX_STEM - digits - 1]}_{_digest(hashed)[:digits]}"
    elif len(name) > MAX_STEM:
        name = f"{name[: MAX_STEM - 9]}_{_digest(f'{class_name}/{stem}')[:8]}"
    return f"{_folder(class_name)}/{name}"


@functools.lru_cache(maxsize=4096)
def _folder(class_name: str) -> str:
    name = _UNSAFE.sub("_", class_name)
    return name if len(name) <= MAX_CLASS else f"{name[: MAX_CLASS - 9]}_{_digest(class_name)[:8]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
