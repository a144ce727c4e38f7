"""The changes of a hostile data set, by name. Beyond those that once went wrong, each kind has all the siblings we could think of."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.cli.hostile.file_changes import file_changes, sample_changes
from tests.cli.hostile.support import (
    Change,
    cell,
    content,
    drop_and_relabel,
    header,
    of_type,
    put,
    read_table,
    table,
    without,
)

_ANY = (
    None,
    3,
    -1,
    2**70,
    1.5,
    True,
    "x",
    "",
    [],
    {},
    [1],
    ["a", None],
    {"a": []},
    "\0",
    "../x",
    "/etc/x",
    "\ud800",
    "é" * 4000,
)
_INTS = (-1, 0, 1, 2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
_TEXTS = (
    "", "x" * 4000, "x" * 200_000, "a\0b", "\x1b[2J\x1b]0;t\x07", "../x", "../../etc/passwd", "/etc/passwd", "a/../../b", ".", "..",
    "http://127.0.0.1:9/x", "s3://bucket/x", "file:///etc/passwd", "pipe:cat /etc/passwd", "a\nb", "a\\b", "__x__", "ü€😀", "-rf",
    "C:x", "a/b/c", " ", "shard-000000.tar\0", "nul", "%s%n", "{0}", "<b>",
)  # fmt: skip
_FIELDS = (
    "dataset",
    "classes",
    "gradient",
    "settings",
    "versions",
    "num_folds",
    "num_written",
    "num_failed",
    "num_skipped",
)
_FIELDS += ("videos_sha256", "shards_sha256", "header_sha256", "format_version", "originals_sha256", "changes")
_NESTED = tuple(("gradient", name) for name in ("source", "space", "stored", "zero_level"))
_NESTED += tuple(
    ("settings", name)
    for name in ("store", "gop", "crf", "quality", "flow", "decoder", "gradient", "compat", "imported", "space")
)


def every_change(data_set: Path) -> dict[str, Change]:
    """All changes by name; they fit the given data set, which stays as it is."""
    changes: dict[str, Change] = {"none": lambda folder: None}
    for part in (_header, _header_bytes, _videos, _shards, _originals, _split, file_changes, sample_changes):
        changes |= dict(part(data_set))
    return changes


def _short(value: Any) -> str:
    return ascii(value)[:24]


def _header(data_set: Path) -> Iterator[tuple[str, Change]]:
    for path in [*((name,) for name in _FIELDS), *_NESTED]:
        yield f"header without {'.'.join(path)}", without(*path)
        for value in _ANY:
            yield f"header {'.'.join(path)} = {_short(value)}", put(*path, value=value)
    for folds in (2, 101, 10**6, 10**9, 2**31, 2**63):
        yield f"header {folds} folds", put("num_folds", value=folds)
    for classes in (
        [],
        [""],
        ["a", "a"],
        ["a\0"],
        ["x" * 4000],
        ["a/b", "c"],
        ["x\n"] * 2,
        ["__x__", "ü 1"],
        ["c"] * 10**6,
        [["a"]] * 2,
    ):
        yield f"header classes {_short(classes)} {len(classes)}", put("classes", value=classes)
    for number in (0, -1, 10**9, 251, "8", 8.0, None, float("nan")):
        yield (
            f"header video of gop {_short(number)}",
            header(lambda f, n=number: f["settings"].update(store="video", gop=n)),
        )
        yield (
            f"header video of crf {_short(number)}",
            header(lambda f, n=number: f["settings"].update(store="video", crf=n)),
        )
    yield "header unknown field", put("more", value=1)
    yield "header unknown setting", put("settings", "more", value=1)
    yield "header setting nested", put("settings", "more", value={"a": {"b": []}})
    yield "header settings many", header(lambda f: f["settings"].update({f"s{n}": n for n in range(100_000)}))
    yield "header settings infinite", put("settings", "quality", value=float("inf"))
    for other in (None, [], "x", 3, {}):
        yield f"header is {other!r}", header(lambda facts, other=other: other if other is not None else [None])


def _header_bytes(data_set: Path) -> Iterator[tuple[str, Change]]:
    good = json.loads((data_set / "dataset.json").read_bytes())
    good.pop("header_sha256")
    text = json.dumps(good)
    bodies = {
        "empty": b"", "null": b"null", "nested lists": b"[" * 100_000, "closed lists": b"[" * 100_000 + b"]" * 100_000,
        "nested objects": b'{"a":' * 100_000, "in settings": text.replace('"settings": {', '"settings": {"a": ' + "[" * 900 + "]" * 900 + ", ").encode(),
        "half closed": text.replace('"settings": {', '"settings": {"a": ' + "[" * 90_000 + "]" * 90_000 + ", ").encode(),
        "surrogate": text.replace('"dataset": "', '"dataset": "\\ud800').encode(), "raw surrogate": text.encode().replace(b'"dataset": "', b'"dataset": "\xed\xa0\x80'),
        "latin-1": text.encode().replace(b'"dataset": "', b'"dataset": "\xe9'), "utf-16": text.encode("utf-16"), "bom": b"\xef\xbb\xbf" + text.encode(),
        "huge number": text.replace('"num_written": ', '"num_written": ' + "9" * 5000).encode(), "infinity": text.replace('"num_written": ', '"num_written": 1e999, "x": ').encode(),
        "NaN": text.replace('"num_folds": ', '"num_folds": NaN, "x": ').encode(), "twice": text.replace("{", '{"classes": 3, ', 1).encode(),
        "40 MB": b" " * 40_000_000 + text.encode(), "zeros": bytes(5000), "cut": text.encode()[:-1], "half": text.encode()[: len(text) // 2],
    }  # fmt: skip
    for name, body in bodies.items():
        yield f"header bytes {name}", content("dataset.json", lambda old, body=body: body)


def _columns(name: str, before: pa.Table) -> Iterator[tuple[str, Change]]:
    """What can be wrong with every column of a table."""
    others = {
        "string": (pa.int64(), 3),
        "int32": (pa.string(), "3"),
        "int64": (pa.float64(), 3.0),
        "double": (pa.string(), "3"),
        "bool": (pa.int8(), 1),
    }
    for field in before.schema:
        column, kind = field.name, str(field.type)
        yield f"{name} without {column}", table(name, lambda t, c=column: t.drop_columns([c]))
        yield (
            f"{name} {column} renamed",
            table(name, lambda t, c=column: t.rename_columns([n + "x" * (n == c) for n in t.column_names])),
        )
        yield f"{name} {column} null", cell(name, column, None)
        yield f"{name} {column} all null", cell(name, column, None, "all")
        other, value = others.get(kind, (pa.string(), "train"))
        yield f"{name} {column} as {other}", of_type(name, column, other, value)
        yield f"{name} {column} as null type", of_type(name, column, pa.null(), None)
        yield f"{name} {column} as list", of_type(name, column, pa.list_(pa.int64()), [1, 2])
        if kind == "string":
            for text in _TEXTS:
                yield f"{name} {column} = {_short(text)} {len(text)}", cell(name, column, text)
            yield f"{name} {column} not UTF-8", table(name, lambda t, c=column: _not_utf8(t, c))
        elif kind.startswith("int"):
            for number in _INTS:
                if kind == "int64" or abs(number) < 2**31:
                    yield f"{name} {column} = {number}", cell(name, column, number)
                    yield f"{name} all {column} = {number}", cell(name, column, number, "all")
        elif kind == "double":
            for rate in (float("nan"), float("inf"), float("-inf"), -1.0, 1e300, 5e-324, 0.0):
                yield f"{name} {column} = {rate}", cell(name, column, rate)
        elif kind == "bool":
            for flag in (True, False):
                yield f"{name} all {column} = {flag}", cell(name, column, flag, "all")


def _not_utf8(before: pa.Table, column: str) -> pa.Table:
    values = [text.encode() + b"\xff\xfe" for text in before[column].to_pylist()]
    array = pa.array(values, pa.binary())
    wrong = pa.StringArray.from_buffers(len(array), array.buffers()[1], array.buffers()[2])
    return before.set_column(before.schema.get_field_index(column), column, wrong)


def _rows(name: str) -> Iterator[tuple[str, Change]]:
    yield f"{name} no rows", table(name, lambda t: t.slice(0, 0))
    yield f"{name} one row", table(name, lambda t: t.slice(0, 1))
    yield f"{name} a row twice", table(name, lambda t: pa.concat_tables([t.slice(0, 1), t]))
    yield f"{name} all rows twice", table(name, lambda t: pa.concat_tables([t, t]))
    yield f"{name} reversed", table(name, lambda t: t.take(list(range(len(t)))[::-1]))
    yield f"{name} one more column", table(name, lambda t: t.append_column("more", pa.nulls(len(t), pa.int64())))
    yield f"{name} no columns", table(name, lambda t: t.select([]))
    yield f"{name} many columns", table(name, lambda t: pa.table({f"c{n}": [n] for n in range(3000)}))
    yield f"{name} a column twice", table(name, lambda t: t.append_column(t.schema.field(0), t.column(0)))
    yield f"{name} columns in another order", table(name, lambda t: t.select(t.column_names[::-1]))
    yield f"{name} rows of 4 GB", table(name, lambda t: t.take(np.zeros(3_000_000, np.int64)))
    yield f"{name} texts of 4 GB", table(name, lambda t: _repeated(t, "x" * 60_000, 70_000))
    yield f"{name} a text of 50 MB in each of 1,000 rows", table(name, lambda t: _repeated(t, "x" * 50_000_000, 1000))


def _repeated(before: pa.Table, text: str, count: int) -> pa.Table:
    many = before.slice(0, 1).take(np.zeros(count, np.int64))
    repeated = pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), [text])
    place = next(at for at, field in enumerate(before.schema) if field.type == pa.string())
    return many.set_column(place, before.schema.field(place).name, repeated)


def _videos(data_set: Path) -> Iterator[tuple[str, Change]]:
    before = read_table(data_set, "videos")
    yield from _columns("videos", before)
    yield from _rows("videos")
    for subsets in ([], ["train"] * 5, ["odd"], [""], ["train"] * 200, ["x" * 5000], ["a\0"], [None]):
        yield f"videos subsets {_short(subsets)} {len(subsets)}", cell("videos", "subsets", subsets, "all")
    for status in ("failed", "skipped"):
        yield f"videos all {status}", cell("videos", "status", status, "all")
    yield "videos one key for all", cell("videos", "key", "a/b", "all")
    yield "videos all in one place", cell("videos", "sample_offset", 0, "all")
    for pixels in ((65_500, 65_500), (1, 65_535), (8192, 8192), (8193, 8192), (2, 2)):
        yield (
            f"videos of {pixels[0]}x{pixels[1]}",
            _together(cell("videos", "height", pixels[0], "all"), cell("videos", "width", pixels[1], "all")),
        )


def _together(*changes: Change) -> Change:
    def apply(folder: Path) -> None:
        for change in changes:
            change(folder)

    return apply


def _shards(data_set: Path) -> Iterator[tuple[str, Change]]:
    yield from _columns("shards", read_table(data_set, "shards"))
    yield from _rows("shards")
    names = (
        "shard-1.tar",
        "shard-0000000000000000000001.tar",
        "shard-x.tar",
        "other.tar",
        "dataset.json",
        "/dev/zero",
        "fifo.tar",
        "/dev/stdin",
    )
    for name in (*names, "../d/shard-000000.tar", "shard-000000.TAR", "splits/x.tar", "shard-000000.tar/"):
        yield f"shards and videos named {name}", _together(cell("shards", "name", name), _named(name))


def _named(name: str) -> Change:
    """Let all videos lie in that shard; a FIFO of the name is there if it is a plain one."""

    def apply(folder: Path) -> None:
        cell("videos", "shard", name, "all")(folder)
        if name.startswith("fifo"):
            os.mkfifo(folder / name)

    return apply


def _originals(data_set: Path) -> Iterator[tuple[str, Change]]:
    """A data set from which a video was dropped, and in which another one has another label."""
    yield "edited", drop_and_relabel
    with tempfile.TemporaryDirectory() as folder:
        before = read_table(Path(shutil.copytree(data_set, Path(folder) / "data")), "originals")
    yield from _columns("originals", before)
    yield from _rows("originals")
    yield "originals at the place of others", table("originals", lambda t: pa.concat_tables([t, t.slice(0, 1)]))
    for value in ([{}] * 2000, [{"a": {}}], [{"change": "x" * 5000}], [{"n": 2**70}], [{"change": "merge"}] * 3):
        yield f"header changes {_short(value)} {len(value)}", put("changes", value=value)


def _split(data_set: Path) -> Iterator[tuple[str, Change]]:
    yield from _columns("split", read_table(data_set, "split"))
    yield from _rows("split")
    key = b"tgprep.provenance"
    texts = {
        "none": None, "empty": b"", "no JSON": b"{", "list": b"[]", "text": b'"x"', "number": b"3", "null": b"null", "latin-1": b'{"a": "\xe9"}',
        "nested": b'{"a":' * 100_000, "numbers": b'{"fold": 1, "pool": null}', "lists": b'{"fold": [1]}', "surrogate": b'{"pool": "\\ud800"}',
        "other": b'{"dataset_digest": "x"}', "long": b'{"pool": "' + b"x" * 3_000_000 + b'"}', "nul": b'{"pool": "\\u0000", "fold": "x"}',
    }  # fmt: skip
    for name, text in texts.items():
        yield (
            f"split provenance {name}",
            table("split", lambda t, x=text: t.replace_schema_metadata(None if x is None else {key: x})),
        )
    yield "split without seal", table("split", lambda t: t)
