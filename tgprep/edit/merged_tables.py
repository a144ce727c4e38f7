"""The tables of a merged data set: rows with new shard names and labels, and the originals of those whose .json member says another label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.datasets import nfc
from manifests.files import is_url
from manifests.manifest_io import read_originals
from manifests.records import FAILED, NO_LABEL, SKIPPED, WRITTEN, ManifestHeader, Members
from manifests.table import Manifest, Originals, VideoTable
from tgprep.edit.differences import merged_header

Names = Mapping[tuple[str, str], str]  # new name of each shard by data set and name


def merged_tables(sources: Sequence[Manifest], shard_names: Names) -> tuple[ManifestHeader, VideoTable, Originals]:
    """The header without digests, all videos sorted by key and path, and the originals sorted by place.

    Classes that differ in their form of Unicode alone are one. Of skipped files with one path the first has a row.
    """
    spelled: dict[str, str] = {}
    for name in (name for source in sources for name in source.header.classes):
        spelled.setdefault(nfc(name), name)
    classes = tuple(spelled.values())
    header = merged_header(sources, classes)
    schema = max((source.videos.arrow.schema for source in sources), key=len)
    tables, originals = [], []
    for source in sources:
        table, changed = _merged_rows(source, header, shard_names, schema)
        tables.append(table)
        originals.append(changed)
    videos = _without_repeated_skips(pa.concat_tables(tables))
    videos = videos.take(pc.sort_indices(videos, sort_keys=[("key", "ascending"), ("path", "ascending")]))
    changed = pa.concat_tables(originals)
    order = [("shard", "ascending"), ("sample_offset", "ascending"), ("key", "ascending"), ("path", "ascending")]
    changed = changed.take(pc.sort_indices(changed, sort_keys=order))
    counts = {
        status: int(pc.sum(pc.equal(videos["status"], status)).as_py() or 0) for status in (WRITTEN, FAILED, SKIPPED)
    }
    changes = [change for source in sources for change in source.header.changes]
    header = replace(
        header,
        num_written=counts[WRITTEN],
        num_failed=counts[FAILED],
        num_skipped=counts[SKIPPED],
        changes=(*changes, *(_provenance(source) for source in sources)),
    )
    return header, VideoTable(videos), Originals.from_arrow(changed)


def _merged_rows(
    source: Manifest, header: ManifestHeader, shard_names: Names, schema: pa.Schema
) -> tuple[pa.Table, pa.Table]:
    """The rows of one data set, and of originals.parquet."""
    rank = {nfc(name): label for label, name in enumerate(header.classes)}
    old_classes = source.header.classes
    new_label_of = np.array([*(rank[nfc(name)] for name in old_classes), NO_LABEL], np.int32)
    old = source.videos.arrow
    label: npt.NDArray[np.int32] = old["label"].to_numpy()
    known = (label >= 0) & (label < len(old_classes))  # not of skipped files
    new_label = new_label_of[np.where(known, label, len(old_classes))]
    names = pa.array([*header.classes, ""], pa.string())
    class_name = names.take(pa.array(np.where(new_label < 0, len(header.classes), new_label)))
    table = _placed(source, old, header, shard_names, schema)
    then = table
    table = _set(_set(table, "label", pa.array(new_label, pa.int32())), "class_name", class_name)
    before = read_originals(source)
    has_original = set(before.videos.samples()) - {("", -1)}
    moved = (new_label != label) | pc.not_equal(class_name, old["class_name"].combine_chunks()).to_numpy(
        zero_copy_only=False
    )
    moved &= pc.not_equal(old["shard"], "").to_numpy().astype(bool)
    rows: list[int] = np.flatnonzero(moved).tolist()
    if has_original:
        samples = source.videos.samples()
        rows = [row for row in rows if samples[row] not in has_original]
    taken = pa.array(rows, pa.int64())
    fresh = Originals(
        VideoTable(then.take(taken)), np.zeros(len(rows), bool), tuple(class_name.take(taken).to_pylist())
    )
    kept = replace(
        before,
        videos=VideoTable(_placed(source, before.videos.arrow, header, shard_names, schema)),
        class_now=tuple(header.classes[rank[nfc(name)]] if name else "" for name in before.class_now),
    )
    return table, pa.concat_tables([kept.to_arrow(), fresh.to_arrow()])


def _placed(
    source: Manifest, table: pa.Table, header: ManifestHeader, shard_names: Names, schema: pa.Schema
) -> pa.Table:
    """Rows with the new names of their shards, with the official folds and the columns of the merged data set."""
    old_names = [shard.name for shard in source.shards]
    new_names = pa.array([*(shard_names[source.root, name] for name in old_names), ""], pa.string())
    place = pc.index_in(table["shard"].combine_chunks(), value_set=pa.array(old_names, pa.string()))
    table = _set(table, "shard", new_names.take(pc.fill_null(place, len(old_names))))
    if source.header.num_folds != header.num_folds:
        named = pc.not_equal(table["status"], SKIPPED).to_pylist()
        subsets = [["train"] * header.num_folds if is_named else [] for is_named in named]
        table = _set(table, "subsets", pa.array(subsets, pa.list_(pa.string())))
    for position, field in enumerate(schema):
        if field.name not in table.column_names:  # of flow, in a data set without a written video
            empty = getattr(Members(), field.name)
            table = table.add_column(position, field, pa.array([empty] * table.num_rows, field.type))
    return table


def _set(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), column)


def _without_repeated_skips(table: pa.Table) -> pa.Table:
    """The table without the rows of skipped files whose path an earlier row, or a video, has."""
    status, paths = table["status"].to_pylist(), table["path"].to_pylist()
    seen = {path for path, state in zip(paths, status, strict=True) if state != SKIPPED}
    kept = []
    for row, (path, state) in enumerate(zip(paths, status, strict=True)):
        if state != SKIPPED or path not in seen:
            kept.append(row)
        seen.add(path)
    return table.take(pa.array(kept, pa.int64()))


def _provenance(source: Manifest) -> dict[str, str | int]:
    """The entry of `changes` that says what was merged: no path, so that folders can be moved."""
    header = source.header
    return {
        "change": "merge",
        "name": (
            source.root.rstrip("/").rpartition("/")[2] if is_url(source.root) else Path(source.root).resolve().name
        )[:255],
        "digest": source.digest,
        "header_sha256": header.header_sha256,
        "videos_sha256": header.videos_sha256,
        "shards_sha256": header.shards_sha256,
        "num_videos": len(source.videos),
        "num_shards": len(source.shards),
    }
