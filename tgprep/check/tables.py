"""The tables against themselves and the header, column by column, so that 650,000 videos take seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.records import FAILED, SKIPPED, STATUSES, WRITTEN
from manifests.sample import encode_offsets, flow_method
from manifests.table import Manifest, VideoTable

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TableProblem:
    """A rule that rows of a table break. kind: a short stable word; count: rows; examples: the first keys (or paths)."""

    table: str
    kind: str
    message: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShardRows:
    """Which rows of videos.parquet lie in which shard, in the order of their offsets; rows are made when asked for."""

    table: VideoTable
    order: npt.NDArray[np.int64]
    bounds: dict[str, tuple[int, int]]

    def rows(self, shard: str) -> VideoTable:
        """The written videos of a shard."""
        first, last = self.bounds.get(shard, (0, 0))
        return self.table.take(self.order[first:last])


def rows_by_shard(manifest: Manifest) -> ShardRows:
    """The written rows, grouped by shard and sorted by offset."""
    table = manifest.videos.arrow
    written = np.flatnonzero(_equal(table, "status", WRITTEN))
    names = table.column("shard").combine_chunks().take(pa.array(written)).dictionary_encode()
    codes = names.indices.to_numpy(zero_copy_only=False)
    offsets = table.column("sample_offset").to_numpy()[written]
    order = np.lexsort((offsets, codes))
    edges = np.searchsorted(codes[order], np.arange(len(names.dictionary) + 1))
    bounds = {name: (int(edges[code]), int(edges[code + 1])) for code, name in enumerate(names.dictionary.to_pylist())}
    return ShardRows(manifest.videos, written[order], bounds)


def check_tables(manifest: Manifest, shard_rows: ShardRows) -> Iterator[TableProblem]:
    """Everything that the rows promise about each other and the header."""
    header, table = manifest.header, manifest.videos.arrow

    def broken(kind: str, message: str, flags: Flags) -> Iterator[TableProblem]:
        places = np.flatnonzero(flags)
        if len(places):
            some = table.select(["key", "path"]).take(pa.array(places[:3])).to_pylist()
            examples = tuple(row["key"] or row["path"] for row in some)
            yield TableProblem("videos.parquet", kind, message, len(places), examples)

    def number(name: str) -> npt.NDArray[np.int64]:
        values: npt.NDArray[np.int64] = table.column(name).to_numpy()
        return values

    nulls = [name for name in table.column_names if table.column(name).null_count]
    if nulls:
        yield TableProblem("videos.parquet", "null", f"columns hold nulls: {', '.join(nulls)}", len(nulls), ())
        return
    written, failed, skipped = (_equal(table, "status", status) for status in (WRITTEN, FAILED, SKIPPED))
    named = written | failed
    yield from broken("status", f"the status is none of {', '.join(STATUSES)}", ~(named | skipped))
    for flags, told, status in (
        (written, header.num_written, WRITTEN),
        (failed, header.num_failed, FAILED),
        (skipped, header.num_skipped, SKIPPED),
    ):
        if int(flags.sum()) != told:
            message = f"{int(flags.sum())} rows are {status}, dataset.json says {told}"
            yield TableProblem("videos.parquet", "count", message, abs(int(flags.sum()) - told), ())
    names = table.column("key")
    keys = names.filter(pa.array(named))
    if pc.count_distinct(keys).as_py() != len(keys):
        yield TableProblem("videos.parquet", "key-twice", "keys are not unique", 1, ())
    if len(names) and not pc.all(pc.less_equal(names[:-1], names[1:]), min_count=0).as_py():
        yield TableProblem("videos.parquet", "order", "rows are not sorted by key", 1, ())
    good_key = pc.match_substring_regex(table.column("key"), r"^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+$")
    yield from broken("key", "the key is not `Class/stem` of [A-Za-z0-9_-]", named & ~good_key.to_numpy())
    label = number("label")
    known = (label >= 0) & (label < len(header.classes))
    own = pa.array(header.classes, pa.string()).take(pa.array(np.where(known, label, 0), mask=~known))
    fits = pc.fill_null(pc.equal(table.column("class_name"), own), False).to_numpy()
    yield from broken("label", "the label is not the class's place in dataset.json", named & ~fits)
    folds = pc.list_value_length(table.column("subsets")).to_numpy()
    yield from broken("subsets", f"`subsets` has not {header.num_folds} entries", named & (folds != header.num_folds))
    blank = _equal(table, "error", "")
    yield from broken("error", "a written video has an error, or a failed or skipped one has none", written != blank)

    frames = number("num_frames")
    sizes = (number("height") > 0) & (number("width") > 0)
    yield from broken("frames", "a written video has under 2 frames or no size", written & ~((frames >= 2) & sizes))
    digests = pc.match_substring_regex(table.column("source_sha256"), "^[0-9a-f]{64}$").to_numpy()
    yield from broken("source", "a written video names no sha256 of its source", written & ~digests)
    npy_header = len(encode_offsets([0])) - 8
    members = written & (number("rgb_index_bytes") == npy_header + 8 * (frames.astype(np.int64) + 1))
    members &= (number("rgb_bytes") > 0) & (number("rgb_offset") > number("rgb_index_offset"))
    if header.gradient.stored:
        members &= (number("tg_index_bytes") == npy_header + 8 * frames.astype(np.int64)) & (number("tg_bytes") > 0)
    else:
        members &= (number("tg_offset") == -1) & (number("tg_index_offset") == -1)
    kinds = ("flow",) if "flow_offset" in table.column_names else ()
    for kind in kinds:
        members &= (number(f"{kind}_index_bytes") == npy_header + 8 * frames.astype(np.int64)) & (
            number(f"{kind}_bytes") > 0
        )
    if bool(kinds) != bool(flow_method(header.settings)) and written.any():
        message = f"dataset.json says flow {header.settings.get('flow', 'none')}, the columns of flow are {'there' if kinds else 'missing'}"
        yield TableProblem("videos.parquet", "members", message, 1, ())
    yield from broken("members", "sizes or places of the members do not fit the number of frames", written & ~members)
    unplaced = (number("sample_offset") == -1) & (number("rgb_offset") == -1) & _equal(table, "shard", "")
    yield from broken("place", "a video that was not written has a place in a shard", ~written & ~unplaced)

    by_name = {shard.name: shard for shard in manifest.shards}
    if len(by_name) != len(manifest.shards):
        yield TableProblem("shards.parquet", "shard-twice", "names are not unique", 1, ())
    if strange := sorted(set(shard_rows.bounds) - set(by_name)):
        yield TableProblem(
            "videos.parquet",
            "shard-unknown",
            "videos lie in shards that shards.parquet does not name",
            len(strange),
            tuple(strange[:3]),
        )
    for name, shard in by_name.items():
        first, last = shard_rows.bounds.get(name, (0, 0))
        if last - first != shard.num_videos:
            message = f"{name}: {last - first} videos in videos.parquet, {shard.num_videos} in shards.parquet"
            yield TableProblem("shards.parquet", "shard-count", message, 1, (name,))
    yield from _gaps(manifest, shard_rows)


def _gaps(manifest: Manifest, shard_rows: ShardRows) -> Iterator[TableProblem]:
    """Samples must follow each other without gaps from byte 0."""
    table = manifest.videos.arrow
    order = shard_rows.order
    starts = table.column("sample_offset").to_numpy()[order]
    ends = starts + table.column("sample_bytes").to_numpy()[order]
    expected = np.concatenate([[0], ends[:-1]]) if len(order) else starts
    for first, _ in shard_rows.bounds.values():
        expected[first] = 0
    places = order[np.flatnonzero(starts != expected)]
    if len(places):
        examples = tuple(table.column("key")[int(place)].as_py() for place in places[:3])
        yield TableProblem("videos.parquet", "sample-place", "samples overlap or leave a gap", len(places), examples)


def _equal(table: pa.Table, column: str, value: str) -> Flags:
    flags: Flags = pc.equal(table.column(column), value).to_numpy(zero_copy_only=False).astype(bool)
    return flags
