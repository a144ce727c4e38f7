"""Ways to change a data set as a stranger would, with all digests made to fit: only the readers themselves can notice."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tgprep.edit.drop import drop
from tgprep.edit.relabel import relabel

Change = Callable[[Path], None]  # changes the data set in a folder
SPLIT = "p50-s0-f1"


def seal_header(folder: Path, facts: Any) -> None:
    """Write dataset.json without a digest of its own, with those of the tables as they are."""
    if isinstance(facts, dict):
        facts.pop("header_sha256", None)
    (folder / "dataset.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", "utf-8")


def header(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change the object of dataset.json in place, or give another."""

    def apply(folder: Path) -> None:
        facts = json.loads((folder / "dataset.json").read_bytes())
        other = change(facts)
        seal_header(folder, facts if other is None else other)

    return apply


def put(*path: str, value: Any) -> Change:
    """Set one field of dataset.json."""

    def change(facts: dict[str, Any]) -> None:
        for name in path[:-1]:
            facts = facts[name]
        facts[path[-1]] = value

    return header(change)


def without(*path: str) -> Change:
    """Remove one field of dataset.json."""

    def change(facts: dict[str, Any]) -> None:
        for name in path[:-1]:
            facts = facts[name]
        facts.pop(path[-1], None)

    return header(change)


def replace_table(folder: Path, name: str, content: bytes) -> None:
    """Put other bytes in the place of a table, and their digest into the header; of a split, without a seal."""
    place = folder / "splits" / f"{SPLIT}.parquet" if name == "split" else folder / f"{name}.parquet"
    place.write_bytes(content)
    if name != "split":
        facts = json.loads((folder / "dataset.json").read_bytes())
        facts[f"{name}_sha256"] = hashlib.sha256(content).hexdigest()
        seal_header(folder, facts)


def read_table(folder: Path, name: str) -> pa.Table:
    if name == "originals" and not (folder / "originals.parquet").exists():
        drop_and_relabel(folder)
    place = folder / "splits" / f"{SPLIT}.parquet" if name == "split" else folder / f"{name}.parquet"
    return pq.read_table(io.BytesIO(place.read_bytes()))


def drop_and_relabel(folder: Path) -> None:
    """Drop a video and relabel another one, so that the data set has an originals.parquet."""
    first, second = [row["key"] for row in read_table(folder, "videos").to_pylist() if row["status"] == "written"][:2]
    drop(str(folder), [first])
    (file := folder.with_name("relabelled.csv")).write_text(f"key,label\n{second},new\n")
    relabel(str(folder), file)


def table(name: str, change: Callable[[pa.Table], pa.Table]) -> Change:
    """Change a table: "videos", "shards" or "split"."""

    def apply(folder: Path) -> None:
        buffer = io.BytesIO()
        pq.write_table(change(read_table(folder, name)), buffer, compression="zstd")
        replace_table(folder, name, buffer.getvalue())

    return apply


def cell(name: str, column: str, value: Any, rows: str = "first") -> Change:
    """Set a column in the first row, or in all."""

    def change(before: pa.Table) -> pa.Table:
        values = before[column].to_pylist()
        first = (
            next((i for i, status in enumerate(before["status"].to_pylist()) if status == "written"), 0)
            if ("status" in before.column_names)
            else 0
        )
        for place in range(len(values)) if rows == "all" else [first]:
            values[place] = value
        kind = before.schema.field(column).type
        return before.set_column(before.schema.get_field_index(column), column, pa.array(values, kind))

    return table(name, change)


def of_type(name: str, column: str, kind: pa.DataType, value: Any) -> Change:
    """Make a column of another type, filled with a value."""

    def change(before: pa.Table) -> pa.Table:
        values = pa.array([value] * len(before), kind)
        return before.set_column(before.schema.get_field_index(column), column, values)

    return table(name, change)


def content(name: str, change: Callable[[bytes], bytes]) -> Change:
    """Change the bytes of a file; digests of tables are made to fit."""

    def apply(folder: Path) -> None:
        if name in ("videos", "shards", "split"):
            place = folder / "splits" / f"{SPLIT}.parquet" if name == "split" else folder / f"{name}.parquet"
            replace_table(folder, name, change(place.read_bytes()))
        else:
            place = folder / name
            place.write_bytes(change(place.read_bytes()))

    return apply


def shard(change: Callable[[bytearray, dict[str, Any]], None]) -> Change:
    """Change the bytes of the first shard, given the row of its first sample; the digest in shards.parquet is made to fit."""

    def apply(folder: Path) -> None:
        videos = read_table(folder, "videos").to_pylist()
        row = next(row for row in videos if row["status"] == "written" and row["sample_offset"] == 0)
        place = folder / row["shard"]
        data = bytearray(place.read_bytes())
        change(data, row)
        place.write_bytes(data)
        rows = read_table(folder, "shards").to_pylist()
        for other in rows:
            if other["name"] == row["shard"]:
                other |= {"sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}
        table("shards", lambda before: pa.Table.from_pylist(rows, before.schema))(folder)

    return apply
