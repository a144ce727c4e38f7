"""The videos that a split can draw from, and the official parts of one fold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.datasets import groups_span_classes, source_of_name, tested_subset
from manifests.records import NO_LABEL, WRITTEN, InputError
from manifests.table import Manifest

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The written videos of a data set and their official parts in one fold, sorted by key; a video may be in no part."""

    rows: npt.NDArray[np.int64]  # [N], row numbers in the manifest
    key: list[str]
    label: npt.NDArray[np.int32]
    unit: list[str]  # drawn together when groups are kept together: a group, a group within a class, or a single video
    train: Flags  # bool[N]; the four parts are disjoint
    validation: Flags
    test: Flags
    without_label: Flags  # videos of no known class: unlabelled in every split, and in no other part


def official_pool(manifest: Manifest, fold: int, pool: str) -> Pool:
    """List the written videos and their official parts. pool `non-test`: all videos outside test and validation are train."""
    num_folds = manifest.header.num_folds
    if fold > max(num_folds, 1):
        has = f"has {num_folds} official fold{'s' * (num_folds > 1)}" if num_folds else "has no official folds"
        raise InputError(f"--fold {fold}: the data set at {manifest.root} {has}.")
    videos = manifest.videos
    status = np.asarray(videos.arrow.column("status").to_numpy(zero_copy_only=False) == WRITTEN)
    rows = np.flatnonzero(status)
    if not len(rows):
        raise InputError(f"{manifest.root} holds no written videos: nothing to split. `tgprep info` shows why.")
    names = ["key", "label", "class_name", "group", "subsets"]
    # Sorted by key: then no split depends on the order of the manifest.
    table = videos.arrow.select(names).take(pa.array(rows)).append_column("row", pa.array(rows))
    table = table.take(pc.sort_indices(table.column("key")))
    keys, classes, groups = (table.column(name).to_pylist() for name in ("key", "class_name", "group"))
    subset = np.full(len(rows), "train")
    if num_folds:
        of_fold = pc.list_slice(table.column("subsets"), fold - 1, fold).to_pylist()
        subset = np.array([subsets[0] if subsets else "" for subsets in of_fold])
    # What is in no part of the fold stays out of train, unless the pool is wider.
    tested = tested_subset(manifest.header.dataset, set(subset.tolist()))
    label = table.column("label").to_numpy().astype(np.int32)
    without_label = label == NO_LABEL
    test = (subset == tested) & ~without_label
    validation = (subset == "val") & ~test & ~without_label
    train = (~test & ~validation if pool == "non-test" else subset == "train") & ~without_label
    spans = groups_span_classes(manifest.header.dataset)
    unit = [
        f"group:{group if spans else f'{class_name}/{group}'}" if group else f"video:{key}"
        for key, class_name, group in zip(keys, classes, groups, strict=True)
    ]
    return Pool(table.column("row").to_numpy(), keys, label, unit, train, validation, test, without_label)


def of_their_sources(manifest: Manifest, held_out: Iterable[int], without_label: Iterable[int]) -> list[bool]:
    """Whether each of the videos without a label comes from the source of a held-out one: its file, its group, or the source in its name.

    Both are row numbers of the manifest. A group counts if its name means one source in all classes.
    """
    path, group = (manifest.videos.column(name) for name in ("path", "group"))
    held_out = list(held_out)
    files = {path[row] for row in held_out}
    sources = {source_of_name(PurePosixPath(file).stem) for file in files}
    if groups_span_classes(manifest.header.dataset):
        sources |= {group[row] for row in held_out}
    sources.discard("")
    return [path[row] in files or group[row] in sources for row in without_label]
