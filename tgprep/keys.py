"""Video keys: `Class/stem`, safe in tar members, file names and URLs, unique, and the same whatever order files are found in."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import PurePosixPath

from manifests.records import SourceVideo

MAX_STEM, MAX_CLASS = 80, 100  # a ustar name holds 100 bytes for `stem.rgb.offsets.npy`, 155 for the folder before it


def with_keys(rows: list[SourceVideo]) -> tuple[list[SourceVideo], list[str]]:
    """The rows with their keys, and the paths of those that would have shared a key (also in another case)."""
    keys = [video_key(row.class_name, PurePosixPath(row.path).stem) for row in rows]
    clashing: set[int] = set()
    for digits in (8, 16, 64):
        places: defaultdict[str, list[int]] = defaultdict(list)
        for place, key in enumerate(keys):
            places[key.lower()].append(place)
        again = [place for group in places.values() if len(group) > 1 for place in group]
        if not again:
            break
        clashing.update(again)
        for place in again:
            row = rows[place]
            keys[place] = video_key(row.class_name, PurePosixPath(row.path).stem, hashed=row.path, digits=digits)
    return [replace(row, key=key) for row, key in zip(rows, keys, strict=True)], sorted(
        rows[place].path for place in clashing
    )


def video_key(class_name: str, stem: str, *, hashed: str = "", digits: int = 8) -> str:
    """`Class/stem` of `[A-Za-z0-9_-]` alone: each run of other characters becomes one `_`; what is too long ends in a hash.

    hashed: text whose sha256 (first `digits` hexadecimal digits) is to end the stem, for videos that would share a key.
    """
    folder = _capped(_plain(class_name), MAX_CLASS, class_name)
    name = _plain(stem)
    if hashed:
        ending = hashlib.sha256(hashed.encode()).hexdigest()[:digits]
        return f"{folder}/{name[: MAX_STEM - digits - 1]}_{ending}"
    return f"{folder}/{_capped(name, MAX_STEM, f'{class_name}/{stem}')}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)


def _capped(name: str, length: int, original: str) -> str:
    if len(name) <= length:
        return name
    return f"{name[: length - 9]}_{hashlib.sha256(original.encode()).hexdigest()[:8]}"
