"""Read scores of videos from a file that any program wrote: Parquet or csv, probabilities, logits or class names."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.console import plural
from manifests.datasets import folded_class
from manifests.files import parse_json, read_bytes
from manifests.lists.labels import is_missing, whole_number
from manifests.lists.table import COLUMNS, column_name, expected_columns, header_of
from manifests.lists.text import decode, read_file, shown
from manifests.parquet import parquet_table
from manifests.records import InputError
from manifests.targets.target_file import Probabilities, first_problem

Kind = Literal["probabilities", "logits"]
KINDS: tuple[Kind, ...] = ("probabilities", "logits")
_LISTS = ("probabilities", "scores", "probs", "logits", "soft_targets")  # columns of K numbers a row, likeliest first
_CLASSES = ("target", "predicted_class", "prediction", *COLUMNS["label"])  # columns of one class a row, likeliest first
_MAX_PARQUET_BYTES = 16 * 1024**3
_UNUSED = "unused-"  # outputs of a model that has more of them than there are classes
_ROUNDING = 1e-5  # of a sum of probabilities in float32
_MAGIC = b"PAR1"


@dataclass(frozen=True, slots=True, eq=False)
class ScoreFile:
    """The targets that a file gives: one row a video, in the order of the file."""

    path: Path
    sha256: str
    form: str  # how the file was understood
    keys: list[str]  # as written
    lines: Sequence[int]  # where each is: lines of a csv, rows of a Parquet file, from 1
    probabilities: Probabilities  # [N, K]
    origin: Mapping[str, Any] = field(default_factory=dict)  # what `tgtrain test` wrote about the run

    def where(self, row: int) -> str:
        """The place of a row, for messages."""
        return _place(self.path, self.lines, row)


def read_scores(file: Path, classes: Sequence[str], kind: Kind | None = None, temperature: float = 1.0) -> ScoreFile:
    """Read a file of scores for the classes of a data set.

    kind: what the numbers are; None: as the file itself says (predictions of `tgtrain test`), else probabilities.
    temperature: logits are divided by it before the softmax.
    InputError if it is another file, its classes differ, or a row holds no scores.
    """
    if not temperature > 0:
        raise InputError(f"--temperature {temperature:g}: expected more than 0.")
    with file.open("rb") if file.is_file() else io.BytesIO() as opened:
        is_parquet = opened.read(4) == _MAGIC
    content = read_bytes(str(file), _MAX_PARQUET_BYTES) if is_parquet else read_file(file)
    found = _parquet(content, file, classes) if is_parquet else _csv(content, file, classes)
    if not found.keys:
        raise InputError(f"{file} holds no video: expected one row for each, with a key and its scores.")
    kind = kind or found.kind or "probabilities"
    if temperature != 1 and (kind != "logits" or found.form == "classes"):
        raise InputError(
            "--temperature divides logits before the softmax: it needs --scores logits and a file of them."
        )
    values = _as_probabilities(found, kind, temperature, file)
    form = found.form if found.form == "classes" else kind
    return ScoreFile(file, hashlib.sha256(content).hexdigest(), form, found.keys, found.lines, values, found.origin)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    keys: list[str]
    lines: Sequence[int]
    values: Probabilities
    form: str  # scores, or classes: one class a row
    kind: Kind | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)


def _as_probabilities(found: _Found, kind: Kind, temperature: float, file: Path) -> Probabilities:
    values: Probabilities = found.values
    if kind == "logits" and found.form != "classes":
        wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(wrong):
            raise InputError(f"{_place(file, found.lines, wrong[0])}: holds NaN or an infinite number.")
        scaled: Probabilities = values / np.float32(temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        np.exp(scaled, out=scaled)
        scaled /= scaled.sum(axis=1, keepdims=True)
        return scaled
    if (problem := first_problem(values)) is not None:
        row, what = problem
        raise InputError(
            f"{_place(file, found.lines, row)}: the row of {shown(found.keys[row])} {what}. Probabilities are 0 or more and sum "
            "to 1; if these are logits, add --scores logits."
        )
    sums_N1 = values.sum(axis=1, keepdims=True)
    # Rounding stays as it is, so that what was exported comes back bit for bit.
    values /= np.where(np.abs(sums_N1 - 1) > _ROUNDING, sums_N1, np.float32(1))
    return values


def _place(file: Path, lines: Sequence[int], row: int) -> str:
    return f"{file}:{lines[row]}"


def _columns_of_classes(columns: Sequence[str], classes: Sequence[str], file: Path, key: str) -> list[str]:
    """The column of each class, by name or by number; [] if none is named. InputError if only some are."""
    by_name = {folded_class(column): column for column in columns if column != key}
    named = [by_name.get(folded_class(name), "") for name in classes]
    if not any(named):
        named = [by_name.get(str(number), "") for number in range(len(classes))]
        extra = {column for column in by_name.values() if column.isdecimal()} - set(named)
    else:
        known = {*_LISTS, *_CLASSES, *(name for names in COLUMNS.values() for name in names)}
        extra = {column for column in by_name.values() if column_name(column) not in known} - set(named)
    if not any(named):
        return []
    of_no_class = f"; columns of no class: {', '.join(sorted(extra))[:200]}" if extra else ""
    if missing := [name for name, column in zip(classes, named, strict=True) if not column]:
        raise InputError(
            f"{file}: its classes differ from the data set's: no column for {len(missing)} of {len(classes)} classes, such as "
            f"{shown(missing[0])}{of_no_class}."
        )
    if extra:
        raise InputError(
            f"{file}: its classes differ from the data set's: {len(extra)} columns are no class of it, such as "
            f"{shown(min(extra))}. Take them out of the file."
        )
    if len(set(named)) < len(named):
        raise InputError(f"{file}: two classes of the data set have one column: {', '.join(named)[:200]}.")
    return named


def _key_column(columns: Sequence[str], file: Path) -> str:
    by_name = {column_name(column): column for column in reversed(columns)}
    for name in COLUMNS["path"]:
        if name in by_name:
            return by_name[name]
    raise InputError(f"{file}: no column names the videos; expected {expected_columns('path')}.")


def _class_column(columns: Sequence[str], file: Path) -> str:
    by_name = {column_name(column): column for column in reversed(columns)}
    for name in _CLASSES:
        if name in by_name:
            return by_name[name]
    raise InputError(
        f"{file}: no scores in its columns ({', '.join(columns)[:200]}); expected a column for every class by its name, a "
        f"column of lists ({', '.join(_LISTS)}; Parquet only), or one class a row ({', '.join(_CLASSES[:4])})."
    )


def _one_hot(written: Sequence[object], classes: Sequence[str], file: Path, lines: Sequence[int]) -> Probabilities:
    by_name = {folded_class(name): number for number, name in enumerate(classes)}
    values = np.zeros((len(written), len(classes)), np.float32)
    for row, text in enumerate(map(str, written)):
        number = by_name.get(folded_class(text))
        if number is None and not is_missing(text):
            try:
                number = whole_number(text)
            except InputError as error:
                raise InputError(f"{_place(file, lines, row)}: {error}.") from None
        if number is None or number >= len(classes):
            raise InputError(
                f"{_place(file, lines, row)}: {shown(text)} is none of the {len(classes)} classes of the data set."
            )
        values[row, number] = 1
    return values


def _csv(content: bytes, file: Path, classes: Sequence[str]) -> _Found:
    text = decode(content, file)
    separator, _ = header_of(text)
    rows = _csv_rows(text, separator, file)
    _, header = next(rows, (0, []))
    key = _key_column(header, file)
    by_class = _columns_of_classes(header, classes, file, key)
    chosen = [header.index(name) for name in by_class or [_class_column(header, file)]]
    key_place = header.index(key)
    keys: list[str] = []
    lines: list[int] = []
    numbers: list[npt.NDArray[np.float32]] = []
    words: list[str] = []
    for line, cells in rows:
        if len(cells) != len(header):
            raise InputError(f"{file}:{line}: {len(cells)} cells, the header has {len(header)}.")
        keys.append(cells[key_place])
        lines.append(line)
        if by_class:
            numbers.append(_numbers([cells[place] for place in chosen], file, line))
        else:
            words.append(cells[chosen[0]])
    if not by_class:
        return _Found(keys, lines, _one_hot(words, classes, file, lines), "classes")
    values = np.stack(numbers) if numbers else np.empty((0, len(classes)), np.float32)
    return _Found(keys, lines, values, "scores")


def _csv_rows(text: str, separator: str, file: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, the header first, and the line that each ends in."""
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise InputError(f"{file}:{reader.line_num}: is no csv ({error}).") from None


@np.errstate(over="ignore")  # an infinite number is refused later, with its row
def _float32(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    return values.astype(np.float32)


def _numbers(cells: list[str], file: Path, line: int) -> npt.NDArray[np.float32]:
    try:
        return _float32(np.array(cells, np.float64))
    except ValueError:
        for cell in cells:
            try:
                float(cell)
            except ValueError:
                raise InputError(f"{file}:{line}: {shown(cell)} is no number.") from None
        raise


def _parquet(content: bytes, file: Path, classes: Sequence[str]) -> _Found:
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as opened:
            schema = opened.schema_arrow
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise InputError(f"{file} is no valid Parquet file ({str(error).partition(chr(10))[0][:200]}).") from None
    key = _key_column(schema.names, file)
    lists = {column_name(entry.name): entry.name for entry in schema if _is_list(entry.type)}
    column = next((lists[name] for name in _LISTS if name in lists), "")
    by_class = [] if column else _columns_of_classes(schema.names, classes, file, key)
    chosen = [column] if column else by_class or [_class_column(schema.names, file)]
    try:
        table = parquet_table(content, columns=[key, *chosen])
    except ValueError as error:
        raise InputError(f"{file}: {error}.") from None
    keys = [str(value) for value in table[key].to_pylist()]
    lines = range(1, len(keys) + 1)
    if not column and not by_class:
        return _Found(keys, lines, _one_hot(table[chosen[0]].to_pylist(), classes, file, lines), "classes")
    if by_class:
        if odd := [name for name in by_class if not _is_number(table[name].type)]:
            raise InputError(f"{file}: column {shown(odd[0])} holds {table[odd[0]].type}, expected numbers.")
        return _Found(keys, lines, _float32(np.stack([table[name].to_numpy() for name in by_class], 1)), "scores")
    origin = _origin(schema, file)
    width, unused = _width(origin, classes, file)
    values = _rows(table[column], width, file, lines)[:, : len(classes)]
    kind: Kind | None = "logits" if origin.get("average") == "logits" or column_name(column) == "logits" else None
    if unused and kind is None:
        values = values / values.sum(axis=1, keepdims=True)  # of the classes that exist
    return _Found(keys, lines, values, "scores", kind, origin)


def _is_list(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and _is_number(kind.value_type)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _rows(column: pa.ChunkedArray, width: int, file: Path, lines: Sequence[int]) -> Probabilities:
    """A column of lists as [N, width]. InputError if a list is of another length or holds nothing in a place."""
    kind = pa.list_(column.type.value_type)
    column = column.cast(kind)
    lengths = pc.list_value_length(column).fill_null(-1).to_numpy()
    wrong = np.flatnonzero(lengths != width)
    if len(wrong):
        raise InputError(
            f"{_place(file, lines, wrong[0])}: {max(lengths[wrong[0]], 0)} scores, but the data set has {width} classes."
        )
    flat = pc.list_flatten(column)
    if flat.null_count:
        raise InputError(f"{file}: {plural(flat.null_count, 'score is', 'scores are')} empty.")
    values: Probabilities = _float32(flat.to_numpy()).reshape(-1, width)
    return values


def _origin(schema: pa.Schema, file: Path) -> Mapping[str, Any]:
    """What `tgtrain test --predictions` wrote about a run; {} for a file of another program."""
    written = (schema.metadata or {}).get(b"tgtrain")
    if written is None:
        return {}
    try:
        origin = parse_json(written)
    except ValueError as error:
        raise InputError(f"{file}: its metadata `tgtrain` is damaged ({error}).") from None
    return origin if isinstance(origin, dict) else {}


def _width(origin: Mapping[str, Any], classes: Sequence[str], file: Path) -> tuple[int, int]:
    """The number of scores a row, and how many of them are of no class. InputError if a run has other classes."""
    own = origin.get("classes")
    if not isinstance(own, list):
        return len(classes), 0
    names = [str(name) for name in own]
    unused = names[len(classes) :]
    if names[: len(classes)] != list(classes) or not all(name.startswith(_UNUSED) for name in unused):
        different = [name for name in names if name not in classes] or names
        raise InputError(
            f"{file}: its classes differ from the data set's: {len(names)} there, {len(classes)} here, such as "
            f"{shown(different[0] if different else '')}."
        )
    return len(names), len(unused)
