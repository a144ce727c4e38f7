"""The near-copies of a data set: found, stored beside it as duplicates.parquet, and read again for splits and pages."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from manifests.files import atomic_write, read_bytes
from manifests.machine import run_threads
from manifests.manifest_io import join
from manifests.parquet import parquet_table, seal_holds, sealed_table_bytes
from manifests.records import NO_LABEL
from manifests.splits.label_split import LabelSplit
from manifests.splits.pool import official_pool
from manifests.table import Manifest
from tgprep.duplicates.hashes import WINDOWS, VideoHashes, hash_video
from tgprep.duplicates.search import Candidate, find_candidates
from tgprep.duplicates.verify import Side, are_copies, similarity

PAIRS_NAME = "duplicates.parquet"
_SCHEMA = pa.schema(
    [("first", pa.string()), ("second", pa.string()), ("similarity", pa.float64()), ("mirrored", pa.bool_())]
)
_DIGEST = b"tgprep.dataset_digest"
_NOTHING = VideoHashes(np.empty(0, np.int32), np.empty((0, len(WINDOWS)), np.uint64))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two videos of which one is a near-copy of the other, by key, the lower one first."""

    first: str
    second: str
    similarity: float  # how alike they change, up to 1
    mirrored: bool


def find_pairs(
    manifest: Manifest,
    *,
    threads: int = 0,
    stop: threading.Event | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Pair, ...]:
    """Find the near-copies among all written videos, sorted. Videos that cannot be read are left out: `tgprep check` names them.

    Raises KeyboardInterrupt once `stop` is set.
    """
    rows = [manifest.videos[index] for index in manifest.written_rows()]

    def hashes(place: int) -> VideoHashes:
        with contextlib.suppress(OSError, ValueError):
            return hash_video(manifest, rows[place])
        return _NOTHING

    videos = run_threads(hashes, range(len(rows)), threads, stop, on_progress)

    def verified(found: Candidate) -> Pair | None:
        first = Side(rows[found.first], int(videos[found.first].frames[found.first_frame]))
        second = Side(rows[found.second], int(videos[found.second].frames[found.second_frame]))
        with contextlib.suppress(OSError, ValueError):
            alike = similarity(manifest, first, second, found.window, found.mirrored)
            if are_copies(alike):
                keys = sorted((first.row.key, second.row.key))
                return Pair(keys[0], keys[1], round(alike, 4), found.mirrored)
        return None

    pairs = run_threads(verified, find_candidates(videos), threads, stop)
    return tuple(sorted((pair for pair in pairs if pair is not None), key=lambda pair: (pair.first, pair.second)))


def write_pairs(manifest: Manifest, pairs: Iterable[Pair]) -> None:
    """Write duplicates.parquet, which belongs to the present state of the data set."""
    table = pa.Table.from_pylist([asdict(pair) for pair in pairs], schema=_SCHEMA)
    with atomic_write(join(manifest.root, PAIRS_NAME)) as file:
        file.write(sealed_table_bytes(table.replace_schema_metadata({_DIGEST: manifest.digest.encode()})))


def read_pairs(manifest: Manifest) -> tuple[Pair, ...] | None:
    """The near-copies that were found; None if they were not looked for in this state of the data set, or the file is damaged."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        content = read_bytes(join(manifest.root, PAIRS_NAME))
        table = parquet_table(content, _SCHEMA)
        if seal_holds(content) and (table.schema.metadata or {}).get(_DIGEST) == manifest.digest.encode():
            return tuple(Pair(**row) for row in table.to_pylist())
    return None


def parts_of(manifest: Manifest, split: LabelSplit | None) -> dict[str, str]:
    """The part of each video by key: test, validation, train or unlabelled (without a label); of a split, else of official fold 1."""
    if split is not None:
        flags = {"train": split.train, "validation": split.validation, "test": split.test}
        parts = {split.key[place]: part for part, held in flags.items() for place in np.flatnonzero(held).tolist()}
        without = {key for key, label in zip(split.key, split.label.tolist(), strict=True) if label == NO_LABEL}
        return parts | dict.fromkeys(without, "unlabelled")
    pool = official_pool(manifest, 1, "official")
    flags = {"train": pool.train, "validation": pool.validation, "test": pool.test, "unlabelled": pool.without_label}
    return {pool.key[place]: part for part, held in flags.items() for place in np.flatnonzero(held).tolist()}


def count_by_parts(pairs: Iterable[Pair], parts: dict[str, str]) -> dict[str, int]:
    """Pairs by the parts of the two videos (`test, unlabelled`), those that cross a border first."""
    names = ("test", "validation", "train", "unlabelled", "no part")
    counts: Counter[tuple[int, int]] = Counter()
    for pair in pairs:
        low, high = sorted(names.index(parts.get(key, "no part")) for key in (pair.first, pair.second))
        counts[low, high] += 1
    ordered = sorted(counts.items(), key=lambda entry: (entry[0][0] == entry[0][1], entry[0]))
    return {f"{names[low]}, {names[high]}": count for (low, high), count in ordered}


def superfluous(manifest: Manifest, pairs: Iterable[Pair]) -> set[str]:
    """The videos without a label that copy a video with one, or another one without that stays: by key."""
    columns = (manifest.videos.column(name) for name in ("key", "label"))
    without: Collection[str] = {key for key, label in zip(*columns, strict=True) if label == NO_LABEL}
    pairs = list(pairs)
    dropped = {
        a
        for pair in pairs
        for a, b in ((pair.first, pair.second), (pair.second, pair.first))
        if a in without and b not in without
    }
    for pair in pairs:  # sorted: of copies among themselves the first stays
        if pair.first in without and pair.second in without and pair.first not in dropped:
            dropped.add(pair.second)
    return dropped
