"""The two tables as Arrow: their schemas, and rows that are made on demand, so that 650,000 videos stay cheap."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from manifests.records import InputError, ManifestHeader, Members, ShardRow, VideoRow

_FLOW_FIELDS = ("flow_index_offset", "flow_index_bytes", "flow_offset", "flow_bytes")
_MEMBER_FIELDS = tuple(field.name for field in dataclasses.fields(Members) if field.name not in _FLOW_FIELDS)
_ROW_FIELDS = tuple(field.name for field in dataclasses.fields(VideoRow) if field.name != "members")


VIDEO_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("path", pa.string()),
        ("class_name", pa.string()),
        ("label", pa.int32()),
        ("group", pa.string()),
        ("subsets", pa.list_(pa.string())),
        ("status", pa.string()),
        ("error", pa.string()),
        ("note", pa.string()),
        ("shard", pa.string()),
        ("sample_offset", pa.int64()),
        ("sample_bytes", pa.int64()),
        *((name, pa.int64()) for name in _MEMBER_FIELDS),
        ("num_frames", pa.int32()),
        ("num_frames_header", pa.int32()),
        ("fps", pa.float64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("codec", pa.string()),
        ("pixel_format", pa.string()),
        ("rotation_degrees", pa.int32()),
        ("num_source_bytes", pa.int64()),
        ("source_sha256", pa.string()),
    ]
)
# A data set with flow has these columns after those of TG.
FLOW_VIDEO_SCHEMA = pa.schema(
    [
        field
        for entry in VIDEO_SCHEMA
        for field in (entry, *(pa.field(name, pa.int64()) for name in _FLOW_FIELDS if entry.name == _MEMBER_FIELDS[-1]))
    ]
)
SHARD_SCHEMA = pa.schema(
    [("name", pa.string()), ("num_videos", pa.int32()), ("num_bytes", pa.int64()), ("sha256", pa.string())]
)


class VideoTable(Sequence[VideoRow]):
    """videos.parquet in memory: rows are made on demand, columns are Arrow or numpy arrays."""

    def __init__(self, table: pa.Table) -> None:
        if not any(table.schema.equals(schema, check_metadata=False) for schema in (VIDEO_SCHEMA, FLOW_VIDEO_SCHEMA)):
            missing = [field.name for field in VIDEO_SCHEMA if field not in list(table.schema)]
            raise InputError(
                f"videos.parquet is not in the format of this version: columns missing or of another type: "
                f"{', '.join(missing) or 'order of columns'}. Extract again, or read it with the version that wrote it (dataset.json names it)."
            )
        self.arrow = table.combine_chunks()

    @classmethod
    def from_rows(cls, rows: Iterable[VideoRow]) -> VideoTable:
        """Make a table of the given rows, in their order."""
        rows = list(rows)
        columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in _ROW_FIELDS}
        columns["subsets"] = [list(row.subsets) for row in rows]
        for name in (*_MEMBER_FIELDS, *_FLOW_FIELDS):
            columns[name] = [getattr(row.members, name) for row in rows]
        schema = FLOW_VIDEO_SCHEMA if any(offset >= 0 for offset in columns["flow_offset"]) else VIDEO_SCHEMA
        return cls(pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema))

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    @overload
    def __getitem__(self, index: int) -> VideoRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[VideoRow]: ...
    def __getitem__(self, index: int | slice) -> VideoRow | list[VideoRow]:
        if isinstance(index, slice):
            return [_row(record) for record in self.arrow.take(list(range(*index.indices(len(self))))).to_pylist()]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return _row(self.arrow.slice(index % len(self), 1).to_pylist()[0])

    def __iter__(self) -> Iterator[VideoRow]:
        for batch in self.arrow.to_batches(max_chunksize=4096):
            for record in batch.to_pylist():
                yield _row(record)

    def column(self, name: str) -> list[Any]:
        """Get a column as Python values."""
        values: list[Any] = self.arrow.column(name).to_pylist()
        return values

    def take(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> VideoTable:
        """Select the rows with the given indices, in that order."""
        return VideoTable(self.arrow.take(pa.array(indices, pa.int64())))


def _row(record: dict[str, Any]) -> VideoRow:
    names = (name for name in (*_MEMBER_FIELDS, *_FLOW_FIELDS) if name in record)
    members = Members(**{name: record.pop(name) for name in tuple(names)})
    record["subsets"] = tuple(record["subsets"])
    return VideoRow(members=members, **record)


def shard_table(rows: Iterable[ShardRow]) -> pa.Table:
    """Make the table of shards.parquet."""
    return pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=SHARD_SCHEMA)


def shard_rows(table: pa.Table) -> tuple[ShardRow, ...]:
    """The rows of shards.parquet."""
    return tuple(ShardRow(**record) for record in table.to_pylist())


@dataclass(frozen=True, slots=True)
class Manifest:
    """A finished data set: header, one row per source video (sorted by key), one row per shard.

    root: local path or fsspec URL of the data set folder.
    """

    root: str
    header: ManifestHeader
    videos: VideoTable
    shards: tuple[ShardRow, ...]

    @property
    def digest(self) -> str:
        """The identity of the data set's bytes: sha256 of the two tables' digests."""
        return hashlib.sha256((self.header.videos_sha256 + self.header.shards_sha256).encode()).hexdigest()
