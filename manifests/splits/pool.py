"""The videos that a split can draw from, and the official parts of one fold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.datasets import groups_span_classes, tested_subset
from manifests.records import WRITTEN, InputError
from manifests.table import Manifest

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The written videos of a data set and their official parts in one fold, sorted by key; a video may be in no part."""

    rows: npt.NDArray[np.int64]  # [N], row numbers in the manifest
    key: list[str]
    label: npt.NDArray[np.int32]
    unit: list[str]  # drawn together when groups are kept together: a group, a group within a class, or a single video
    train: Flags  # bool[N]; the three parts are disjoint
    validation: Flags
    test: Flags


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
    taken = videos.arrow.select(["key", "label", "class_name", "group"]).take(pa.array(rows))
    keys: list[str] = taken.column("key").to_pylist()
    order = sorted(range(len(keys)), key=keys.__getitem__)
    rows = rows[order]
    key = [keys[place] for place in order]
    if num_folds:
        every = videos.arrow.column("subsets").take(pa.array(rows))
        subset = np.array(
            [subsets[0] if subsets else "" for subsets in pc.list_slice(every, fold - 1, fold).to_pylist()]
        )
    else:
        subset = np.full(len(rows), "train")
    tested = tested_subset(manifest.header.dataset, set(subset.tolist()))
    test = subset == tested
    validation = np.logical_and(subset == "val", ~test)
    train = np.logical_and(~test, ~validation) if pool == "non-test" else subset == "train"
    spans = groups_span_classes(manifest.header.dataset)
    classes, groups = taken.column("class_name").to_pylist(), taken.column("group").to_pylist()
    unit = [
        (f"group:{groups[place]}" if spans else f"group:{classes[place]}/{groups[place]}")
        if groups[place]
        else f"video:{keys[place]}"
        for place in order
    ]
    label = taken.column("label").to_numpy()[order].astype(np.int32)
    return Pool(rows, key, label, unit, train, validation, test)
