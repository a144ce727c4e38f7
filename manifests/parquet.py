"""Tables as Parquet bytes. A table of a stranger is a message or a table of bounded size, and never a traceback."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_SEAL = "tgprep.sha256"
_BLANK = b"0" * 64
# A value that repeats is stored once, so a few kB of Parquet can stand for gigabytes. Our own tables of videos have over 50 bytes
# of file a row and take five times their file in memory; a split takes less than a byte of file a row, and 72 bytes in memory.
# What exceeds these bounds is no such table.
_TEXT_ROW_BYTES = 64  # of a text or list in memory, without the text
_FREE_BYTES, _BYTES_PER_FILE_BYTE = 256 * 1024 * 1024, 100
_SMALL_BYTES = 16 * 1024 * 1024
_MAX_TEXT_BYTES = 65_536
_MAX_GROUPS = 1000  # a group holds a million rows
_REPEATED_BYTES = 512 * 1024


def parquet_table(content: bytes, *schemas: pa.Schema, columns: Sequence[str] = ()) -> pa.Table:
    """Read the bytes of a Parquet file, or some of its columns.

    ValueError if it is damaged, has a schema that is none of `schemas` (if any are given), holds nulls or text that is not
    UTF-8, or would take far more memory than a file of its size should. Reads in this thread: Arrow's threads may abort a
    process that ends soon after.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(content), pre_buffer=False) as parquet:
            schema = parquet.schema_arrow
            _check_schema(schema, schemas)
            if columns:
                schema = pa.schema([schema.field(name) for name in columns], schema.metadata)
            repeated = list(_repeated_texts(content, parquet.metadata, schema))
        with pq.ParquetFile(pa.BufferReader(content), pre_buffer=False, read_dictionary=repeated) as parquet:
            table: pa.Table = parquet.read(list(columns) or None, use_threads=False)
        _check_content(table, len(content))
        metadata = dict(schema.metadata or {})
        metadata.pop(_SEAL.encode(), None)  # it describes the file, not the table
        columns = [_decoded(column, field.type) for column, field in zip(table.columns, schema, strict=True)]
        return pa.table(columns, schema=schema.with_metadata(metadata or None))
    except (pa.ArrowException, OSError, OverflowError, UnicodeError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ValueError(f"it is no valid Parquet file ({reason or type(error).__name__})") from None


def _check_schema(schema: pa.Schema, expected: tuple[pa.Schema, ...]) -> None:
    if not expected or any(schema.equals(other, check_metadata=False) for other in expected):
        return
    found = {field.name: field.type for field in schema}
    wrong = [f"{field.name} ({field.type})" for field in expected[0] if found.get(field.name) != field.type]
    raise ValueError(
        f"columns are missing or of another type: {', '.join(wrong)[:500] or 'others, or in another order'}"
    )


def _row_bytes(schema: pa.Schema) -> int:
    """The memory of a row, without its texts."""
    kinds = [field.type for field in schema]
    return sum(max(1, kind.bit_width // 8) if pa.types.is_primitive(kind) else _TEXT_ROW_BYTES for kind in kinds)


def _limit(num_file_bytes: int) -> int:
    return _FREE_BYTES + _BYTES_PER_FILE_BYTE * num_file_bytes


def _repeated_texts(content: bytes, facts: pq.FileMetaData, schema: pa.Schema) -> Iterator[str]:
    """The columns of text to read as they are stored, each value once: the others do not grow by much when they are decoded.

    ValueError if the table has too many rows or bytes as stored, or a longer text than any of ours. The facts of single columns
    are not looked at: if they are damaged, Arrow ends the process.
    """
    groups = [facts.row_group(number) for number in range(min(facts.num_row_groups, _MAX_GROUPS))]
    num_rows, num_bytes = sum(group.num_rows for group in groups), sum(group.total_byte_size for group in groups)
    too_large = num_rows * _row_bytes(schema) > _limit(len(content)) or num_bytes > _limit(len(content))
    if too_large or num_rows != facts.num_rows or any(group.num_columns != facts.num_columns for group in groups):
        found = f"{facts.num_rows} rows of {num_bytes} bytes in {facts.num_row_groups} groups"
        raise ValueError(f"{found} do not fit a file of {len(content)} bytes")
    texts = {field.name: field.name for field in schema if field.type == pa.string()}
    texts |= {field.name: f"{field.name}.list.element" for field in schema if pa.types.is_list(field.type)}
    if num_rows * num_bytes < _SMALL_BYTES:  # as if every row held all of them
        return
    largest, longest = (
        dict.fromkeys(texts, 0),
        dict.fromkeys(texts, 0),
    )  # bytes of the values that are stored once, of one
    with pq.ParquetFile(pa.BufferReader(content), pre_buffer=False, read_dictionary=list(texts.values())) as parquet:
        for number in range(len(groups)):
            # The first row of a group brings all values that are stored once.
            rows = parquet.iter_batches(1, row_groups=[number], columns=list(texts), use_threads=False)
            for name, row in ((name, row) for row in itertools.islice(rows, 1) for name in texts):
                values = row.column(name).values if name != texts[name] else row.column(name)
                if pa.types.is_dictionary(values.type):
                    lengths = pc.binary_length(values.dictionary)
                    largest[name] = max(largest[name], pc.sum(lengths).as_py() or 0)
                    longest[name] = max(longest[name], pc.max(lengths).as_py() or 0)
    for name, path in texts.items():
        if longest[name] > _MAX_TEXT_BYTES:
            found = f"a text of {longest[name]} bytes"
            raise ValueError(f"column {name} holds {found}, at most {_MAX_TEXT_BYTES} are expected")
        # A writer stores values once up to 1 MiB: below, all repeat, and are faster to read so, too.
        if largest[name] < _REPEATED_BYTES or num_rows * longest[name] > 4 * num_bytes:
            if name == path or len(groups) == 1:  # Arrow does not join lists of several groups that it reads so
                yield path
            elif num_rows * longest[name] > _limit(len(content)):
                raise ValueError(f"column {name} holds too much for a file of {len(content)} bytes")


def _decoded(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        return pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], kind)
    return column if column.type == kind else column.cast(kind)


def _check_content(table: pa.Table, num_file_bytes: int) -> None:
    """ValueError if a table holds nulls, text that is not UTF-8, or repeated texts of too many bytes."""
    table.validate(full=True)
    num_bytes = 0
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = pc.list_flatten(column) if pa.types.is_list(column.type) else column
        if column.null_count or values.null_count:
            raise ValueError(f"column {name} holds nulls")
        for chunk in values.chunks if pa.types.is_dictionary(values.type) else ():
            lengths = pc.binary_length(chunk.dictionary)
            if len(chunk) * (pc.max(lengths).as_py() or 0) > _SMALL_BYTES:
                num_bytes += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    if num_bytes > _limit(num_file_bytes):
        raise ValueError(f"its texts take {num_bytes} bytes, which do not fit a file of {num_file_bytes} bytes")


def table_bytes(table: pa.Table) -> bytes:
    """Write a table as Parquet: the same bytes for the same table and library version."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_statistics=True)
    return buffer.getvalue()


def sealed_table_bytes(table: pa.Table) -> bytes:
    """Write a table as Parquet with the sha256 of the file in its footer, for tables whose sha256 no other file records.

    The sha256 is computed with 64 zeros in place of the digest. One file is written atomically; a second file for the digest
    could be missing or old after a kill, or be lost in a copy.
    """
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd", write_statistics=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_SEAL: _BLANK.decode()})
    content = buffer.getvalue()
    place = content.index(_BLANK, content.rindex(_SEAL.encode()))
    return content[:place] + hashlib.sha256(content).hexdigest().encode() + content[place + len(_BLANK) :]


def seal_holds(content: bytes) -> bool | None:
    """Whether the bytes of a sealed table are unchanged; None if there is no seal."""
    mark = content.rfind(_SEAL.encode())
    match = re.compile(rb"[^0-9a-f]{1,8}([0-9a-f]{64})").match(content, mark + len(_SEAL)) if mark >= 0 else None
    if match is None:
        return None
    blank = content[: match.start(1)] + _BLANK + content[match.end(1) :]
    return hashlib.sha256(blank).hexdigest().encode() == match[1]
