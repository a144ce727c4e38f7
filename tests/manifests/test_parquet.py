"""Tables of strangers: damage is one message, and a small file never becomes gigabytes."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.parquet import parquet_table


def written(table: pa.Table, **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", **options)
    return buffer.getvalue()


def repeated(text: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), [text])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"n": np.zeros(40_000_000, np.int64)}), "rows .* do not fit a file"),
        (pa.table({"t": repeated("x" * 60_000, 70_000)}), "which do not fit a file"),
        (pa.table({"t": repeated("x" * 5_000_000, 1000)}), "which do not fit a file"),
        (pa.table({"t": ["a", None]}), "column t holds nulls"),
        (pa.table({"t": [["a"], [None]]}), "column t holds nulls"),
    ],
)
def test_bombs_and_nulls_are_refused(table: pa.Table, message: str) -> None:
    content = written(table)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        parquet_table(content)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert pa.total_allocated_bytes() - before < 300e6
    assert pa.default_memory_pool().max_memory() < 2e9


def test_text_that_is_not_utf8_is_refused() -> None:
    array = pa.array([b"a\xff\xfe"], pa.binary())
    wrong = pa.StringArray.from_buffers(1, array.buffers()[1], array.buffers()[2])
    with pytest.raises(ValueError, match="no valid Parquet file"):
        parquet_table(written(pa.table({"t": wrong})))


def test_repeated_and_single_texts_come_back_as_they_were() -> None:
    count = 40_000
    table = pa.table(
        {
            "same": ["written"] * count,
            "empty": [""] * count,
            "few": [f"shard-{n // 64:06d}.tar" for n in range(count)],
            "own": [f"class/{n:020d}" * 3 for n in range(count)],
            "lists": pa.array([["train", "test"]] * count, pa.list_(pa.field("element", pa.string()))),
            "n": np.arange(count),
        }
    ).replace_schema_metadata({"a": "b"})
    for rows_per_group in (count, 7_000):
        found = parquet_table(written(table, row_group_size=rows_per_group))
        assert found.equals(table, check_metadata=True)
        assert all(column.type == kind for column, kind in zip(found.columns, table.schema.types, strict=True))
    assert parquet_table(written(table), columns=["n", "few"]).equals(table.select(["n", "few"]), check_metadata=True)


def test_every_cut_and_many_flips_are_a_message() -> None:
    content = written(pa.table({"t": ["a", "b"] * 20, "n": range(40)}))
    generator = np.random.default_rng(3)
    damaged = [content[:size] for size in range(len(content))]
    for _ in range(500):
        flipped = bytearray(content)
        for place in generator.integers(0, len(content), 3):
            flipped[place] ^= 1 << int(generator.integers(8))
        damaged.append(bytes(flipped))
    for body in damaged:
        try:
            parquet_table(body)
        except ValueError as error:
            assert str(error), body
