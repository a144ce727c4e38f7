"""The two tables as Arrow: their schemas, and rows that are made on demand, so that 650,000 videos stay cheap."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.records import (
    NO_LABEL,
    SEGMENT_FIELDS,
    WRITTEN,
    InputError,
    ManifestHeader,
    Members,
    Place,
    ShardRow,
    VideoRow,
)

_FLOW_FIELDS = ("flow_index_offset", "flow_index_bytes", "flow_offset", "flow_bytes")
_ALL_MEMBER_FIELDS = tuple(field.name for field in dataclasses.fields(Members))
_MEMBER_FIELDS = tuple(name for name in _ALL_MEMBER_FIELDS if name not in _FLOW_FIELDS)
_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "tuple[str, ...]": pa.list_(pa.string())}
_INT32 = ("label", "num_videos", "num_frames", "num_frames_header", "height", "width", "rotation_degrees")


def _schema(row: type[VideoRow | ShardRow], members: Sequence[str] = (), *, segments: bool = False) -> pa.Schema:
    """The fields of a row as columns; in place of `members` those columns. Without `segments` no table has their columns."""
    columns: list[tuple[str, pa.DataType]] = []
    for field in dataclasses.fields(row):
        if field.name in SEGMENT_FIELDS and not segments:
            continue
        if field.name == "members":
            columns += [(name, pa.int64()) for name in members]
        else:
            columns.append((field.name, pa.int32() if field.name in _INT32 else _TYPES[str(field.type)]))
    return pa.schema(columns)


VIDEO_SCHEMA = _schema(VideoRow, _MEMBER_FIELDS)
FLOW_VIDEO_SCHEMA = _schema(VideoRow, _ALL_MEMBER_FIELDS)  # of a data set with flow
VIDEO_SCHEMAS = (
    VIDEO_SCHEMA,
    FLOW_VIDEO_SCHEMA,
    _schema(VideoRow, _MEMBER_FIELDS, segments=True),
    _schema(VideoRow, _ALL_MEMBER_FIELDS, segments=True),
)
SHARD_SCHEMA = _schema(ShardRow)
_ORIGINAL_FIELDS = (pa.field("dropped", pa.bool_()), pa.field("class_now", pa.string()))
ORIGINAL_SCHEMAS = tuple(pa.schema([*schema, *_ORIGINAL_FIELDS]) for schema in VIDEO_SCHEMAS)


class VideoTable:
    """videos.parquet in memory: rows are made on demand, columns are Arrow or numpy arrays."""

    def __init__(self, table: pa.Table) -> None:
        if (schema := next((s for s in VIDEO_SCHEMAS if table.schema.equals(s, check_metadata=False)), None)) is None:
            missing = [field.name for field in VIDEO_SCHEMA if field not in list(table.schema)]
            raise InputError(
                f"videos.parquet is not in the format of this version: columns missing or of another type: "
                f"{', '.join(missing) or 'order of columns'}. Extract again, or read it with the version that wrote it (dataset.json names it)."
            )
        # What is read names the elements of lists differently, which would change the bytes of a file that is written of it.
        self.arrow = table.cast(schema).combine_chunks()

    @classmethod
    def from_rows(cls, rows: Iterable[VideoRow]) -> VideoTable:
        """Make a table of the given rows, in their order."""
        rows = list(rows)
        has_flow = any(row.members.flow_offset >= 0 for row in rows)
        has_segments = any(row.start_seconds >= 0 for row in rows)
        schema = VIDEO_SCHEMAS[has_flow + 2 * has_segments]
        columns = []
        for field in schema:
            value_of = attrgetter(f"members.{field.name}" if field.name in _ALL_MEMBER_FIELDS else field.name)
            columns.append(pa.array(list(map(value_of, rows)), field.type))
        return cls(pa.table(columns, schema=schema))

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    def __getitem__(self, index: int) -> VideoRow:
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

    @property
    def num_without_label(self) -> int:
        """Number of the written videos whose class is unknown."""
        found = pc.and_(pc.equal(self.arrow["label"], NO_LABEL), pc.equal(self.arrow["status"], WRITTEN))
        return int(pc.sum(found).as_py() or 0)

    @property
    def has_segments(self) -> bool:
        """Whether the data set has segments of files."""
        return SEGMENT_FIELDS[0] in self.arrow.column_names

    def places(self) -> list[Place]:
        """`SourceVideo.place` of every row."""
        unset = [-1.0] * len(self)
        times = (self.column(name) if self.has_segments else unset for name in SEGMENT_FIELDS)
        return list(zip(self.column("path"), *times, strict=True))

    def samples(self) -> list[tuple[str, int]]:
        """Shard and offset of the sample of every row; ("", -1) of one without."""
        return list(zip(self.column("shard"), self.column("sample_offset"), strict=True))

    def rows_of(self, keys: Sequence[str]) -> pa.Array:
        """The row of each key, int64[N]; null for a key that no row has."""
        names = pa.array(keys, pa.string())
        written = pc.equal(self.arrow["status"], WRITTEN)
        # A split usually has all written videos, in the order of the table: comparing takes a tenth of a search.
        if pc.sum(written).as_py() == len(names):
            kept = self.arrow["key"].filter(written)
            if kept.equals(pa.chunked_array([names])):
                return pa.array(np.flatnonzero(np.asarray(written)))
        return pc.index_in(names, value_set=self.arrow["key"].combine_chunks()).cast(pa.int64())

    def take(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> VideoTable:
        """Select the rows with the given indices, in that order."""
        return VideoTable(self.arrow.take(pa.array(indices, pa.int64())))


@dataclass(frozen=True, slots=True, eq=False)
class Originals:
    """originals.parquet: videos as their shards have them, of which videos.parquet says something else or nothing since.

    A dropped video has a row here alone. One whose class or label is another than in its .json member has a row in both tables.
    """

    videos: VideoTable  # class_name and label as in the .json member, or of a dropped video that failed as it was
    dropped: npt.NDArray[np.bool_]  # [N]
    class_now: tuple[str, ...]  # class of the video now, of a dropped one when it was dropped; "": without a label

    def __post_init__(self) -> None:
        assert len(self.videos) == len(self.dropped) == len(self.class_now)

    def __len__(self) -> int:
        return len(self.videos)

    @classmethod
    def none_of(cls, videos: VideoTable) -> Originals:
        """No originals, for a data set with these columns."""
        return cls(videos.take([]), np.zeros(0, bool), ())

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Originals:
        """Take the parts of a table in one of ORIGINAL_SCHEMAS."""
        names = [field.name for field in _ORIGINAL_FIELDS]
        dropped, class_now = (table[name].to_pylist() for name in names)
        return cls(VideoTable(table.drop_columns(names)), np.array(dropped, bool), tuple(class_now))

    def to_arrow(self) -> pa.Table:
        """The table of originals.parquet."""
        columns = [pa.array(self.dropped.tolist(), pa.bool_()), pa.array(self.class_now, pa.string())]
        table = self.videos.arrow
        for field, column in zip(_ORIGINAL_FIELDS, columns, strict=True):
            table = table.append_column(field, column)
        return table

    def dropped_videos(self) -> VideoTable:
        """The rows of the dropped videos."""
        return self.videos.take(np.flatnonzero(self.dropped))

    def with_folds(self, num_folds: int) -> Originals:
        """The same for a data set that has so many official folds now: videos without any are train in each."""
        subsets = [own if len(own) == num_folds else ["train"] * num_folds for own in self.videos.column("subsets")]
        place = self.videos.arrow.schema.get_field_index("subsets")
        kind = self.videos.arrow.schema.field(place)
        return replace(self, videos=VideoTable(self.videos.arrow.set_column(place, kind, pa.array(subsets, kind.type))))

    def of_shards(self, videos: VideoTable) -> VideoTable:
        """The rows of all samples as the shards have them: those of videos.parquet, unless there is an original."""
        if not len(self):
            return videos
        changed = set(self.videos.samples()) - {("", -1)}
        kept = [row for row, sample in enumerate(videos.samples()) if sample not in changed]
        return VideoTable(pa.concat_tables([videos.take(kept).arrow, self.videos.arrow]))


def _row(record: dict[str, Any]) -> VideoRow:
    members = Members(**{name: record.pop(name) for name in _ALL_MEMBER_FIELDS if name in record})
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

    def written_rows(self, keys: Sequence[str] = ()) -> list[int]:
        """Row numbers of the written videos, sorted: of all, or of `keys` in any case. InputError if one names no video."""
        names, states = self.videos.column("key"), self.videos.column("status")
        written = [index for index, status in enumerate(states) if status == WRITTEN]
        if not keys:
            return written
        index_of = {names[index].lower(): index for index in written}
        if unknown := [key for key in keys if key.lower() not in index_of]:
            raise InputError(
                f"--keys: {len(unknown)} of {len(keys)} name no written video of {self.root}, such as {unknown[0]!r}; "
                f"keys look like {next(iter(index_of), 'Class/video')!r}."
            )
        return sorted({index_of[key.lower()] for key in keys})
