"""Check the tables against themselves and the header, column by column, so that 650,000 videos take seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.records import FAILED, NO_LABEL, SKIPPED, STATUSES, WRITTEN
from manifests.sample import encode_offsets, flow_method
from manifests.table import Manifest, Originals, VideoTable

Flags = npt.NDArray[np.bool_]
_VIDEOS, _SHARDS, _ORIGINALS = "videos.parquet", "shards.parquet", "originals.parquet"
_EXTRACT = "extract into a new folder, and report this: the data set was not written as the format says"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong. `tgprep check --json` prints these fields."""

    place: str  # file, and the video in it
    kind: str  # a short stable word
    message: str
    mend: str  # what to do


@dataclass(frozen=True, slots=True)
class ShardRows:
    """The rows of all samples by shard, in the order of their offsets, as the shards have them."""

    table: VideoTable
    order: npt.NDArray[np.int64]  # row numbers of the written videos, sorted by shard and offset
    bounds: dict[str, tuple[int, int]]  # shard name -> half-open range in `order`

    def rows(self, shard: str) -> VideoTable:
        """The written videos of a shard."""
        first, last = self.bounds.get(shard, (0, 0))
        return self.table.take(self.order[first:last])


def rows_by_shard(manifest: Manifest, originals: Originals | None = None) -> ShardRows:
    """Group the written rows by shard and sort them by offset. originals: of the videos that were dropped or relabelled since."""
    videos = manifest.videos if originals is None else originals.of_shards(manifest.videos)
    table = videos.arrow
    written = np.flatnonzero(_equal(table, "status", WRITTEN))
    names = table.column("shard").combine_chunks().take(pa.array(written)).dictionary_encode()
    codes = names.indices.to_numpy(zero_copy_only=False)
    order = np.lexsort((_numbers(table, "sample_offset")[written], codes))
    edges = np.searchsorted(codes[order], np.arange(len(names.dictionary) + 1)).tolist()
    bounds = dict(zip(names.dictionary.to_pylist(), zip(edges, edges[1:], strict=False), strict=True))
    return ShardRows(videos, written[order], bounds)


def check_tables(manifest: Manifest, shard_rows: ShardRows) -> Iterator[Finding]:
    """Check everything that the rows promise about each other and the header. Reading has checked each value (manifests.bounds)."""
    table = manifest.videos.arrow
    yield from _check_statuses(manifest)
    yield from _check_names(manifest)
    yield from _check_members(manifest)
    yield from _check_shard_counts(manifest, shard_rows)

    # The samples of a shard must follow each other without gaps from byte 0.
    table = shard_rows.table.arrow
    starts = _numbers(table, "sample_offset")[shard_rows.order]
    expected = np.roll(starts + _numbers(table, "sample_bytes")[shard_rows.order], 1)
    expected[[first for first, _ in shard_rows.bounds.values()]] = 0
    flags = np.zeros(table.num_rows, np.bool_)
    flags[shard_rows.order] = starts != expected
    yield from _broken(table, "sample-place", "samples overlap or leave a gap", flags)


def check_originals(manifest: Manifest, originals: Originals) -> Iterator[Finding]:
    """Compare originals.parquet with videos.parquet: a row of both differs in class and label alone, one of a dropped video has no other."""
    table = originals.videos.arrow
    row_of = {sample: row for row, sample in enumerate(manifest.videos.samples()) if sample[0]}
    rows = np.array([row_of.get(sample, -1) for sample in originals.videos.samples()], np.int64)
    kept = ~originals.dropped
    flags = np.where(kept, rows < 0, rows >= 0)
    yield from _broken(
        table, "original", "a kept video has no row in videos.parquet, or a dropped one has", flags, _ORIGINALS
    )
    both = np.flatnonzero(kept & (rows >= 0))
    now, then = manifest.videos.take(rows[both]).arrow, originals.videos.take(both).arrow
    differs = np.zeros(len(both), bool)
    for name in (name for name in now.column_names if name not in ("class_name", "label", "subsets")):
        differs |= pc.not_equal(now[name], then[name]).to_numpy().astype(bool)
    class_now = pa.array([originals.class_now[row] for row in both.tolist()], pa.string())
    differs |= pc.not_equal(now["class_name"], class_now).to_numpy().astype(bool)
    message = "the row differs from that of videos.parquet in more than class and label"
    yield from _broken(then, "original", message, differs, _ORIGINALS)


def _check_statuses(manifest: Manifest) -> Iterator[Finding]:
    header, table = manifest.header, manifest.videos.arrow
    by_status = {status: _equal(table, "status", status) for status in STATUSES}
    counts = {WRITTEN: header.num_written, FAILED: header.num_failed, SKIPPED: header.num_skipped}
    for status, expected in counts.items():
        if (count := int(by_status[status].sum())) != expected:
            message = f"{count} rows are {status}, dataset.json says {expected}"
            yield _finding(_VIDEOS, "count", message, abs(count - expected))
    message = "a written video has an error, or a failed or skipped one has none"
    yield from _broken(table, "error", message, by_status[WRITTEN] != _equal(table, "error", ""))


def _check_names(manifest: Manifest) -> Iterator[Finding]:
    """Order, classes and subsets of the written and failed videos."""
    header, table = manifest.header, manifest.videos.arrow
    named = _equal(table, "status", WRITTEN) | _equal(table, "status", FAILED)
    names = table.column("key")
    if len(names) and not pc.all(pc.less_equal(names[:-1], names[1:]), min_count=0).as_py():
        yield _finding(_VIDEOS, "order", "rows are not sorted by key")

    unknown = (_numbers(table, "label") == NO_LABEL) & _equal(table, "class_name", "")
    label = pa.array(_numbers(table, "label"), mask=~named | unknown)
    class_of_label = pa.array(header.classes, pa.string()).take(label)
    equal = pc.fill_null(pc.equal(table.column("class_name"), class_of_label), False).to_numpy()
    yield from _broken(table, "label", "the label is not the class's place in dataset.json", named & ~unknown & ~equal)
    num_folds = pc.list_value_length(table.column("subsets")).to_numpy()
    message = f"`subsets` has not {header.num_folds} entries"
    yield from _broken(table, "subsets", message, named & (num_folds != header.num_folds))


def hidden_keys(manifest: Manifest) -> Iterator[str]:
    """A note on keys that earlier versions wrote, and that readers other than tgtrain pass over."""
    keys = manifest.videos.arrow.column("key")
    hidden = keys.filter(pc.match_substring_regex(keys, r"^__[^/]*__/|/__"))
    if len(hidden):
        yield (
            f"keys whose folder is `__...__` or whose name begins with `__`: {len(hidden)} (such as "
            f"{', '.join(hidden[:3].to_pylist())}). tgtrain reads these videos, other readers of WebDataset pass over them: "
            "to use those, extract again into a new folder"
        )


def _check_members(manifest: Manifest) -> Iterator[Finding]:
    """Frames, sizes and members of the written videos; the others must have none."""
    header, table = manifest.header, manifest.videos.arrow
    written = _equal(table, "status", WRITTEN)
    num_frames = _numbers(table, "num_frames").astype(np.int64)
    digests = pc.match_substring_regex(table.column("source_sha256"), "^[0-9a-f]{64}$").to_numpy()
    yield from _broken(table, "source", "a written video names no sha256 of its source", written & ~digests)

    def fits(kind: str, num_offsets: npt.NDArray[np.int64]) -> Flags:
        index_bytes = len(encode_offsets([0])) + 8 * (num_offsets - 1)
        flags: Flags = (_numbers(table, f"{kind}_index_bytes") == index_bytes) & (_numbers(table, f"{kind}_bytes") > 0)
        return flags

    members = fits("rgb", num_frames + 1) & (_numbers(table, "rgb_offset") > _numbers(table, "rgb_index_offset"))
    if header.gradient.stored:
        members &= fits("tg", num_frames)
    else:
        members &= (_numbers(table, "tg_offset") == -1) & (_numbers(table, "tg_index_offset") == -1)
    has_flow = "flow_offset" in table.column_names
    if has_flow:
        members &= fits("flow", num_frames)
    if has_flow != bool(flow_method(header.settings)) and written.any():
        columns = "there" if has_flow else "missing"
        message = f"dataset.json says flow {header.settings.get('flow', 'none')}, the columns of flow are {columns}"
        yield _finding(_VIDEOS, "members", message)
    message = "sizes or places of the members do not fit the number of frames"
    yield from _broken(table, "members", message, written & ~members)
    absent = (_numbers(table, "sample_offset") == -1) & (_numbers(table, "rgb_offset") == -1)
    message = "a video that was not written has a place in a shard"
    yield from _broken(table, "place", message, ~written & ~(absent & _equal(table, "shard", "")))


def _check_shard_counts(manifest: Manifest, shard_rows: ShardRows) -> Iterator[Finding]:
    for shard in manifest.shards:
        first, last = shard_rows.bounds.get(shard.name, (0, 0))
        if last - first != shard.num_videos:
            message = f"{shard.name}: {last - first} videos in videos.parquet, {shard.num_videos} in shards.parquet"
            yield _finding(_SHARDS, "shard-count", message, examples=[shard.name])


def _finding(table: str, kind: str, message: str, count: int = 1, examples: Sequence[str] = ()) -> Finding:
    """A rule that `count` rows of a table break, with the first of them as examples."""
    such_as = f" (such as {', '.join(examples)})" if examples else ""
    return Finding(table, kind, f"{message}: {count}{such_as}", _EXTRACT)


def _broken(table: pa.Table, kind: str, message: str, flags: Flags, name: str = _VIDEOS) -> Iterator[Finding]:
    """The finding about the rows of a table, videos.parquet unless it is named, that have a flag; none if no row has one."""
    rows = np.flatnonzero(flags)
    if len(rows):
        first = table.select(["key", "path"]).take(pa.array(rows[:3])).to_pylist()
        yield _finding(name, kind, message, len(rows), [row["key"] or row["path"] for row in first])


def _numbers(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    values: npt.NDArray[np.int64] = table.column(name).to_numpy()
    return values


def _equal(table: pa.Table, column: str, value: str) -> Flags:
    flags: Flags = pc.equal(table.column(column), value).to_numpy(zero_copy_only=False).astype(bool)
    return flags
