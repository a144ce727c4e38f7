"""Video keys: `Class/stem`, safe in tar members, file names and URLs, unique, and independent of the order of files."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Sequence

from manifests.datasets import nfc
from manifests.records import SourceVideo

MAX_STEM, MAX_CLASS = 80, 100  # a ustar name holds 100 bytes for `stem.rgb.offsets.npy`, 155 for the folder before it
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_LEADING = re.compile(r"^__+")


def unique_keys(videos: Sequence[tuple[str, str, str]], taken: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """A key for each (class name, stem, path), and the sorted paths of the videos whose plain keys clash.

    taken: keys in lower case that other videos have.

    Keys that differ in case only clash, as some file systems do not distinguish them. Every video of a clash gets a hash
    of its path, so that no key depends on the order of videos.
    """
    keys = [video_key(class_name, stem) for class_name, stem, _ in videos]
    clashing: set[int] = set()
    for digits in (8, 16, 64):
        by_key: defaultdict[str, list[int]] = defaultdict(list)
        for index, key in enumerate(keys):
            by_key[key.lower()].append(index)
        doubled = [index for key, group in by_key.items() if len(group) > 1 or key in taken for index in group]
        if not doubled:
            break
        for index in doubled:
            class_name, stem, path = videos[index]
            keys[index] = video_key(class_name, stem, hash_of=path, digits=digits)
            clashing.add(index)
    return keys, sorted(videos[index][2] for index in clashing)


def segment_name(start_seconds: float, end_seconds: float) -> str:
    """How keys name a segment: `000012_000022`; with a fraction `000012-5_000022-25`, to the microsecond, without zeros at its end."""

    def text(seconds: float) -> str:
        whole, _, fraction = f"{seconds:.6f}".rstrip("0").partition(".")
        return f"{whole:0>6}{'-' * bool(fraction)}{fraction}"

    return f"{text(start_seconds)}_{text(end_seconds)}"


def stem_of(video: SourceVideo) -> str:
    """What the key of a video is made of besides its class: the name of the file, and of a segment the times."""
    name = video.path.rpartition("/")[2]
    dot = name.rfind(".")
    stem = name[:dot] if 0 < dot < len(name) - 1 else name  # that of a Path, in a tenth of the time
    return f"{stem}_{segment_name(video.start_seconds, video.end_seconds)}" if video.is_segment else stem


def text_of(video: SourceVideo) -> str:
    """What the hash in the key of a video is made of, if plain keys clash: the path, and of a segment the times."""
    times = segment_name(video.start_seconds, video.end_seconds) if video.is_segment else ""
    return f"{video.path}#{times}" if times else video.path


def video_key(class_name: str, stem: str, *, hash_of: str = "", digits: int = 8) -> str:
    """`Class/stem` of `[A-Za-z0-9_-]` only: other characters become one `_` a run; long names end in a hash.

    Names in composed and in decomposed Unicode give the same key. hash_of: text whose sha256 (the first `digits` hexadecimal
    digits) ends the stem, for videos whose plain keys clash.
    """
    class_name, stem = nfc(class_name), nfc(stem)
    name = _UNSAFE.sub("_", stem)
    if hash_of:
        name = f"{name[: MAX_STEM - digits - 1]}_{_digest(hash_of)[:digits]}"
    elif len(name) > MAX_STEM:
        name = f"{name[: MAX_STEM - 9]}_{_digest(f'{class_name}/{stem}')[:8]}"
    return f"{class_folder(class_name)}/{_shown(name)}"


@functools.lru_cache(maxsize=65536)
def class_folder(class_name: str) -> str:
    """The first part of the keys of a class."""
    folder = _UNSAFE.sub("_", nfc(class_name))
    if len(folder) > MAX_CLASS:
        folder = f"{folder[: MAX_CLASS - 9]}_{_digest(nfc(class_name))[:8]}"
    return _shown(folder)


def _shown(name: str) -> str:
    """A part of a key as every reader shows it: webdataset takes folders `__x__` for metadata, Hugging Face files `__x` for hidden."""
    return _LEADING.sub("_", name)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
