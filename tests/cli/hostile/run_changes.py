"""Changes of a hostile run's folder: its config, its log, its tests, its best checkpoint."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.cli.hostile.support import Change

_ANY = (
    None,
    -1,
    0,
    2**70,
    1.5,
    1e300,
    True,
    "x",
    "",
    [],
    {},
    ["a", None],
    {"a": []},
    "a\0",
    "../x",
    "\ud800",
    "é" * 4000,
)


def every_run_change(run: Path) -> dict[str, Change]:
    """All changes by name; they fit the given run, which stays as it is."""
    changes: dict[str, Change] = {"none": lambda folder: None}
    for part in (_config, _log, _tests, _kinds):
        changes |= dict(part(run))
    return changes


def _config(run: Path) -> Iterator[tuple[str, Change]]:
    facts = json.loads((run / "config.json").read_bytes())
    for path in _paths(facts):
        yield f"config without {'.'.join(path)}", _config_with(path, None, remove=True)
        for value in _ANY:
            yield f"config {'.'.join(path)} = {ascii(value)[:24]}", _config_with(path, value)
    for name, body in _bodies(json.dumps(facts)).items():
        yield f"config {name}", _bytes("config.json", body)


def _paths(facts: dict[str, Any], start: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in facts.items():
        yield (*start, name)
        if isinstance(value, dict) and len(start) < 3:
            yield from _paths(value, (*start, name))


def _config_with(path: tuple[str, ...], value: Any, *, remove: bool = False) -> Change:
    def apply(run: Path) -> None:
        facts = inner = json.loads((run / "config.json").read_bytes())
        for name in path[:-1]:
            inner = inner[name]
        if remove:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        (run / "config.json").write_text(json.dumps(facts))

    return apply


def _bodies(good: str) -> dict[str, bytes]:
    return {
        "empty": b"", "list": b"[]", "null": b"null", "nested": b"[" * 100_000, "objects": b'{"a":' * 100_000, "cut": good.encode()[:-9],
        "latin-1": b'{"a": "\xe9"}', "zeros": bytes(4000), "utf-16": good.encode("utf-16"), "huge number": b'{"step": ' + b"9" * 5000 + b"}",
        "infinity": good.replace(": 1,", ": 1e999,").encode(), "40 MB": b" " * 40_000_000 + good.encode(), "NaN": good.replace(": 1,", ": NaN,").encode(),
    }  # fmt: skip


def _bytes(name: str, body: bytes) -> Change:
    return lambda run: void((run / name).write_bytes(body))


def void(value: object) -> None:
    """Take no value."""


def _log(run: Path) -> Iterator[tuple[str, Change]]:
    good = (run / "metrics.jsonl").read_bytes()
    lines = {
        "empty": b"{}", "list": b"[]", "nested": b"[" * 100_000, "no step": b'{"kind": "train"}', "text step": b'{"kind": "train", "step": "x"}',
        "huge step": b'{"kind": "train", "step": 1e999}', "long step": b'{"kind": "train", "step": ' + b"9" * 4000 + b"}",
        "huge value": b'{"kind": "train", "step": 1, "loss/total": ' + b"9" * 400 + b"}", "nested value": b'{"kind": "train", "step": 1, "loss/total": {"a": []}}',
        "other kind": b'{"kind": {"a": 1}, "step": 1}', "list part": b'{"kind": "evaluate", "step": 1, "part": ["x"]}', "minus": b'{"kind": "train", "step": -5}',
        "not UTF-8": b'{"kind": "\xff", "step": 1}', "long": b'{"kind": "train", "step": 1, "x": "' + b"x" * 2_000_000 + b'"}', "zeros": bytes(5000),
        "null values": b'{"kind": "train", "step": 1, "loss/total": null}', "odd names": b'{"kind": "evaluate", "step": 1, "<b>\\u0000": 1}',
        "many": b"\n".join(b'{"kind": "train", "step": %d}' % n for n in range(50_000)), "surrogate": b'{"kind": "train", "step": 1, "\\ud800": 1}',
    }  # fmt: skip
    for name, line in lines.items():
        yield f"log with {name}", _bytes("metrics.jsonl", good + line + b"\n")
        yield f"log of {name}", _bytes("metrics.jsonl", line)


def _tests(run: Path) -> Iterator[tuple[str, Change]]:
    path = next(run.glob("test-*.json"))
    good = json.loads(path.read_bytes())
    for name in good:
        for value in _ANY:
            yield f"test {name} = {ascii(value)[:24]}", _bytes(path.name, json.dumps({**good, name: value}).encode())
        yield (
            f"test without {name}",
            _bytes(path.name, json.dumps({k: v for k, v in good.items() if k != name}).encode()),
        )
    for protocol in ("1x1x1", "²x3", "9" * 50 + "x1", "x", "0x0", "<b>"):
        facts = {**good, "protocol": protocol, f"top1@{protocol}": 0.5}
        yield f"test of {protocol[:9]}", _bytes(path.name, json.dumps(facts).encode())
    confusions: dict[str, Any] = {
        "negative": [[-1, 2], [1, 1]],
        "huge": [[2**70]],
        "ragged": [[1], [1, 2]],
        "wide": [[1, 2, 3]],
        "text": [["a"]],
        "deep": [[[[1]]]],
    }
    for name, rows in confusions.items():
        yield f"test confusion {name}", _bytes(path.name, json.dumps({**good, "confusion": rows}).encode())
    for name, body in _bodies(json.dumps(good)).items():
        yield f"test {name}", _bytes(path.name, body)
        yield f"best {name}", _bytes("checkpoints/best.json", body)
    for best in (
        {"checkpoint": "../x", "metric": "m", "value": 1},
        {"checkpoint": 3, "metric": "m", "value": 1},
        {"checkpoint": "a", "metric": [], "value": "x"},
    ):
        yield f"best {best}", _bytes("checkpoints/best.json", json.dumps(best).encode())
    table = path.with_suffix(".parquet").name
    rows = pq.read_table(run / table)
    for column in rows.column_names:
        yield f"predictions without {column}", _bytes(table, _parquet(rows.drop_columns([column])))
        values = pa.array([None] * len(rows), rows.schema.field(column).type)
        yield (
            f"predictions {column} null",
            _bytes(table, _parquet(rows.set_column(rows.column_names.index(column), column, values))),
        )
    for label in (-1, 10**6, 2**31 - 1):
        values = pa.array([label] * len(rows), pa.int32())
        yield f"predictions of label {label}", _bytes(table, _parquet(rows.set_column(1, "label", values)))
    body = _parquet(rows)
    for name, other in {"empty": b"", "cut": body[:-9], "half": body[: len(body) // 2], "text": b"x" * 999}.items():
        yield f"predictions {name}", _bytes(table, other)


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _kinds(run: Path) -> Iterator[tuple[str, Change]]:
    """Other things in the place of files."""
    names = [path.relative_to(run) for path in run.rglob("*") if path.is_file() and "tensorboard" not in path.parts]
    for name in [
        *names,
        Path(".lock"),
        Path("test-x.json"),
        Path("checkpoints/step-00000009.pt"),
        Path("checkpoints/best.json"),
    ]:
        for kind, target in {
            "fifo": "",
            "folder": "",
            "missing": "",
            "device": "/dev/null",
            "endless": "/dev/zero",
            "loop": name.name,
        }.items():
            yield f"{name} is {kind}", lambda folder, n=name, k=kind, t=target: _in_place(folder / n, k, t)


def _in_place(path: Path, kind: str, target: str) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif target:
        path.symlink_to(target)
