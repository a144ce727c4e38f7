"""What a header and tables must hold to be safe for every command: checked once, where they are read.

A data set may come from a stranger. After these checks a name is one plain name, a path stays below its folder, a place lies in
its shard, and a size can be allocated. Whether the tables agree with each other and with the shards is for `tgprep check`.
Everything is checked by column, so that 650,000 videos take a fraction of the time of reading them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.records import (
    FAILED,
    MAX_FPS,
    MAX_NAME_BYTES,
    MAX_PICTURE_PIXELS,
    MAX_SECONDS,
    NO_LABEL,
    SEGMENT_FIELDS,
    STATUSES,
    WRITTEN,
    GradientCoding,
    ManifestHeader,
    ShardRow,
)
from manifests.table import Originals, VideoTable

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

MAX_FRAMES = 2**26  # of a video: a month at 25 frames a second
MAX_SHARD_BYTES = 2**46
_MAX_SIDE = 65_535
_MAX_FOLDS = 100
_MAX_CLASSES = 1_000_000
_MAX_VIDEOS_PER_SHARD = 2**31
_TEXT_BYTES = {
    "path": 4096,
    "key": 255,
    "class_name": MAX_NAME_BYTES,
    "group": MAX_NAME_BYTES,
    "source_sha256": 64,
}  # others: 64 kB
_KEY = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9_-]+")
_KEY_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-/"
_SHARD_NAME = re.compile(r"shard-[0-9]{1,12}\.tar")
_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_COUNT = 2**53
MAX_CHANGES = 1000
_PIECE_BYTES = 2**18


def check_header(raw: Any) -> ManifestHeader:
    """The header of parsed JSON; ValueError that names the field that is missing, of another type or out of bounds."""
    if not isinstance(raw, dict):
        raise ValueError(f"it is a {type(raw).__name__} in JSON, expected an object")
    _check_fields(ManifestHeader, raw)
    gradient, classes = raw["gradient"], raw["classes"]
    if not isinstance(gradient, dict) or not isinstance(classes, list):
        raise ValueError("gradient and classes are no object and list")
    _check_fields(GradientCoding, gradient)
    changes = raw.get("changes", [])
    if not isinstance(changes, list | tuple) or not all(isinstance(change, dict) for change in changes):
        raise ValueError("changes are no list of objects")
    facts = {"classes": tuple(classes), "gradient": GradientCoding(**gradient), "changes": tuple(changes)}
    header = ManifestHeader(**{**raw, **facts})
    for problem in _header_problems(header):
        raise ValueError(problem)
    return header


def _check_fields(kind: type[ManifestHeader | GradientCoding], raw: dict[str, Any]) -> None:
    known = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := raw.keys() - known.keys():
        raise ValueError(f"unknown fields: {', '.join(map(repr, sorted(unknown)))[:200]}")
    required = (name for name, field in known.items() if field.default is dataclasses.MISSING)
    if missing := [name for name in required if name not in raw]:
        raise ValueError(f"{', '.join(missing)} missing")
    for name, value in raw.items():
        expected = str(known[name].type).partition("[")[0]
        if expected in ("str", "int", "bool", "dict") and type(value).__name__ != expected:
            raise ValueError(f"{name} is {value!r:.100}, expected {expected}")


def _header_problems(header: ManifestHeader) -> Iterator[str]:
    gradient, settings = header.gradient, header.settings
    if not _DATASET.fullmatch(header.dataset):
        yield f"dataset is {header.dataset!r:.100}, expected a plain name"
    if len(header.classes) > _MAX_CLASSES:
        yield f"classes are {len(header.classes)}, expected at most {_MAX_CLASSES}"
    for name in header.classes:
        if not _is_text(name, _TEXT_BYTES["class_name"]) or not name:
            yield f"classes hold {name!r:.100}, expected names"
    if gradient.source not in ("decoded", "jpeg", "video") or gradient.space not in ("rgb", "ycbcr420"):
        yield f"gradient is computed from {gradient.source!r:.100} in {gradient.space!r:.100}, which is unknown"
    if gradient.zero_level != 127:  # readers subtract this number
        yield f"gradient.zero_level is {gradient.zero_level!r:.100}, expected 127"
    for name, value in settings.items():
        if not (_is_text(name, 100) and _is_value(value)):
            yield f"settings.{name:.100} is {value!r:.100}, expected text, a number, true or false"
    for name, text in header.versions.items():
        if not (_is_text(name, 100) and _is_text(text, 1000)):
            yield f"versions.{name:.100} is {text!r:.100}, expected text"
    # Quality is -1 for frames that were imported.
    ranges = {"quality": (-1, 100), "videos_per_shard": (0, _MAX_VIDEOS_PER_SHARD)}
    if settings.get("store", "frames") == "video":
        ranges |= {"gop": (1, 250), "crf": (0, 51)}
        if gradient.stored:
            yield "settings.store is video, which has no stored gradient, and gradient.stored is true"
    for name, (low, high) in ranges.items():
        number = settings.get(name, None if name in ("gop", "crf") else low)
        if type(number) is not int or not low <= number <= high:
            yield f"settings.{name} is {number!r:.100}, expected {low} to {high}"
    if not isinstance(settings.get("flow", ""), str) or not isinstance(settings.get("store", ""), str):
        yield "settings.flow or settings.store is no text"
    if not 0 <= header.num_folds <= _MAX_FOLDS:
        yield f"num_folds is {header.num_folds!r:.100}, expected 0 to {_MAX_FOLDS}"
    for name in ("num_written", "num_failed", "num_skipped"):
        if not 0 <= getattr(header, name) <= _MAX_COUNT:
            yield f"{name} is {getattr(header, name)!r:.100}"
    if len(header.changes) > MAX_CHANGES:
        yield f"changes are {len(header.changes)}, expected at most {MAX_CHANGES}"
    for name, value in (pair for change in header.changes for pair in change.items()):
        if not (_is_text(name, 100) and _is_value(value)):
            yield f"changes hold {name:.100} {value!r:.100}, expected text or a number"
    for name in ("videos_sha256", "shards_sha256", "header_sha256", "originals_sha256"):
        if getattr(header, name) and not _SHA256.fullmatch(getattr(header, name)):
            yield f"{name} is {getattr(header, name)!r:.100}, expected 64 hexadecimal digits"


def _is_text(value: object, max_bytes: int) -> bool:
    return isinstance(value, str) and "\0" not in value and len(value.encode()) <= max_bytes


def _is_value(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return _is_text(value, 4096) or (isinstance(value, int) and abs(value) <= _MAX_COUNT)


def check_shards(shards: Sequence[ShardRow]) -> None:
    """ValueError unless every shard has a name of its own in the data set's folder, a possible size and a sha256."""
    names = set()
    for shard in shards:
        if not _SHARD_NAME.fullmatch(shard.name) or shard.name in names:
            found = "is there twice" if shard.name in names else "is no name of a shard"
            raise ValueError(f"name {shard.name!r:.100} {found}, expected shard-000000.tar and so on")
        if not (0 <= shard.num_bytes <= MAX_SHARD_BYTES and shard.num_videos >= 0):
            raise ValueError(f"{shard.name} has {shard.num_videos} videos and {shard.num_bytes} bytes")
        if not _SHA256.fullmatch(shard.sha256):
            raise ValueError(f"{shard.name} has the sha256 {shard.sha256!r:.100}, expected 64 hexadecimal digits")
        names.add(shard.name)


def check_videos(videos: VideoTable, header: ManifestHeader, shards: Sequence[ShardRow]) -> None:
    """ValueError, with the first rows, unless every row of videos.parquet is within bounds."""
    _refuse_first(videos.arrow, _video_problems(videos.arrow, header, shards))


def check_originals(
    originals: Originals, videos: VideoTable, header: ManifestHeader, shards: Sequence[ShardRow]
) -> None:
    """ValueError, with the first rows, unless every row of originals.parquet is within bounds, and has the columns of videos.parquet."""
    table = originals.videos.arrow
    if not table.schema.equals(videos.arrow.schema, check_metadata=False):
        raise ValueError("its columns are not those of videos.parquet")
    # Two videos of merged data sets may have had one key, if they were dropped.
    _refuse_first(table, _video_problems(table, header, shards, unique=False))
    known = {*header.classes, ""}
    strange = [name not in known for name in originals.class_now]
    _refuse_first(table, iter([("class_now is no class of dataset.json", strange)]))


def check_sources(table: pa.Table, classes: Sequence[str], num_folds: int) -> None:
    """ValueError unless every row of a plan of an extraction has safe names, a class and enough subsets."""
    if not all(_is_text(name, _TEXT_BYTES["class_name"]) and name for name in classes):
        raise ValueError("classes are not all names")
    _refuse_first(table, _source_problems(table, len(classes), num_folds))


def _source_problems(table: pa.Table, num_classes: int, num_folds: int) -> Iterator[tuple[str, npt.ArrayLike]]:
    yield from _text_problems(table)
    yield from _name_problems(table, np.ones(table.num_rows, bool), num_classes)
    num_subsets = pc.list_value_length(table["subsets"]).to_numpy()
    yield f"`subsets` has not {num_folds} entries", num_subsets != num_folds
    yield "num_source_bytes is negative", _numbers(table, "num_source_bytes") < 0
    yield from _segment_problems(table)


def _segment_problems(table: pa.Table) -> Iterator[tuple[str, npt.ArrayLike]]:
    if not set(SEGMENT_FIELDS) <= set(table.column_names):
        return
    start, end = (table[name].to_numpy() for name in SEGMENT_FIELDS)
    none, whole = (start == -1) & (end == -1), (start == 0) & (end == -1)
    segment = (start >= 0) & (end > start) & (end <= MAX_SECONDS)
    yield "start_seconds and end_seconds are no segment", ~(none | whole | segment)


def _refuse_first(table: pa.Table, problems: Iterator[tuple[str, npt.ArrayLike]]) -> None:
    """ValueError with the first problem that rows have."""
    for message, flags in problems:
        rows = np.flatnonzero(flags)
        if len(rows):
            first = table.select(["key", "path"]).take(pa.array(rows[:3])).to_pylist()
            examples = ", ".join(repr((row["key"] or row["path"])[:100]) for row in first)
            raise ValueError(f"{message}: {len(rows)} (such as {examples})")


def _video_problems(
    table: pa.Table, header: ManifestHeader, shards: Sequence[ShardRow], *, unique: bool = True
) -> Iterator[tuple[str, npt.ArrayLike]]:
    """Message and the rows that break a rule. Later rules may count on the earlier ones."""
    yield from _text_problems(table)
    by_status = {status: _flags(pc.equal(table["status"], status)) for status in STATUSES}
    yield f"status is none of {', '.join(STATUSES)}", ~np.logical_or.reduce(list(by_status.values()))
    written, failed = by_status[WRITTEN], by_status[FAILED]
    yield from _name_problems(table, written | failed, len(header.classes), unique=unique)
    num_subsets = pc.list_value_length(table["subsets"]).to_numpy()
    message = f"`subsets` has fewer than {header.num_folds} entries"
    yield message, (written | failed) & (num_subsets < header.num_folds)
    fps = table["fps"].to_numpy()
    yield "fps is no possible rate", ~((fps >= 0) & (fps <= MAX_FPS))
    yield "num_source_bytes is negative", _numbers(table, "num_source_bytes") < 0
    yield from _segment_problems(table)
    # A table without shards, to draw splits from, has written videos without a place. Nothing reads their frames.
    placed = written & (_flags(pc.not_equal(table["shard"], "")) | (_numbers(table, "sample_offset") != -1))
    frames, height, width = (_numbers(table, name) for name in ("num_frames", "height", "width"))
    yield "num_frames is out of range", (frames < 0) | (frames > MAX_FRAMES) | (placed & (frames < 2))
    sides = (height < 0) | (height > _MAX_SIDE) | (width < 0) | (width > _MAX_SIDE)
    yield "height or width is no possible size", sides | (placed & ((height == 0) | (width == 0)))
    area = height.astype(np.int64) * width
    yield f"a picture has more than {MAX_PICTURE_PIXELS} pixels", area > MAX_PICTURE_PIXELS
    yield from _place_problems(table, placed, shards)


def _text_problems(table: pa.Table) -> Iterator[tuple[str, npt.ArrayLike]]:
    for name in (field.name for field in table.schema if field.type == pa.string()):
        most = _TEXT_BYTES.get(name, 65_536)
        if (pc.max(pc.binary_length(table[name])).as_py() or 0) > most:
            yield f"{name} has more than {most} bytes", pc.greater(pc.binary_length(table[name]), most)


def _name_problems(
    table: pa.Table, named: Flags, num_classes: int, *, unique: bool = True
) -> Iterator[tuple[str, npt.ArrayLike]]:
    column = table["key"] if named.all() else table["key"].filter(pa.array(named))
    if not are_keys(column):
        wrong = np.array([not _KEY.fullmatch(key) for key in table["key"].to_pylist()], bool)
        yield "key is not `Class/stem` of [A-Za-z0-9_-]", named & wrong
    keys = column.combine_chunks()
    rising = pc.all(pc.less(keys[:-1], keys[1:]), min_count=0).as_py()
    if unique and not rising and pc.count_distinct(keys).as_py() != len(keys):
        yield "keys are not unique", named
    path = table["path"]
    odd = _flags(pc.or_(pc.starts_with(path, "/"), pc.equal(path, "")))
    # Row by row only if such characters are in one of the paths at all.
    pieces = (piece for chunk in path.chunks for piece in _pieces(chunk))
    if any(b".." in piece or b"\0" in piece for piece in pieces):
        odd |= np.array([bool({"..", "\0"} & set(re.split("(\0)|/", text))) for text in path.to_pylist()], bool)
    yield "path leaves the folder of the videos, or holds a NUL", odd
    label = _numbers(table, "label")
    unknown = (label == NO_LABEL) & _flags(pc.equal(table["class_name"], ""))
    yield f"label is none of the {num_classes} classes", named & ~unknown & ((label < 0) | (label >= num_classes))


def are_keys(column: pa.ChunkedArray) -> bool:
    """Whether all texts are `Class/stem` of [A-Za-z0-9_-], of 255 bytes at most. Faster than a pattern for each."""
    for keys in column.chunks:
        places, start = [], 0
        for piece in _pieces(keys, overlap=0):
            if piece.translate(None, _KEY_BYTES):
                return False
            places.append(np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("/")) + start)
            start += len(piece)
        slashes = np.concatenate([np.zeros(0, np.int64), *places])
        ends = np.frombuffer(keys.buffers()[1], np.int32)[keys.offset : keys.offset + len(keys) + 1]
        if len(slashes) != len(keys):
            return False
        ends = ends - ends[:1]
        if not ((slashes > ends[:-1]).all() and (slashes < ends[1:] - 1).all() and np.diff(ends).max(initial=0) <= 255):
            return False
    return True


def _pieces(texts: pa.StringArray, overlap: int = 1) -> Iterator[bytes]:
    """All texts one after the other, in pieces that fit the processor's cache."""
    _, ends, content = texts.buffers()
    first, last = (
        np.frombuffer(ends, np.int32)[[texts.offset, texts.offset + len(texts)]].tolist() if len(texts) else (0, 0)
    )
    for start in range(first, last, _PIECE_BYTES):
        yield bytes(content[start : min(start + _PIECE_BYTES + overlap, last)])


def _place_problems(table: pa.Table, placed: Flags, shards: Sequence[ShardRow]) -> Iterator[tuple[str, npt.ArrayLike]]:
    """Samples lie in their shards, and members in their samples."""
    names = pa.array([shard.name for shard in shards], pa.string())
    shard = pc.fill_null(pc.index_in(table["shard"], value_set=names), -1).to_numpy()
    yield "shard is none of shards.parquet", placed & (shard < 0)
    # Other rows lie in the last entry, which has room for nothing.
    num_shard_bytes = np.array([*(shard.num_bytes for shard in shards), 0], np.int64)[shard]
    start, size = _numbers(table, "sample_offset"), _numbers(table, "sample_bytes")
    yield (
        "the sample does not lie in its shard",
        placed & ((start < 0) | (size < 1) | (start > num_shard_bytes - size)),
    )
    end = start + np.where(placed, size, 0)
    kinds = ["rgb", "tg"] + ["flow"] * ("flow_offset" in table.column_names)
    for kind in kinds:
        places = [
            (_numbers(table, f"{kind}{part}_offset"), _numbers(table, f"{kind}{part}_bytes")) for part in ("_index", "")
        ]
        absent = np.logical_and.reduce([offset == -1 for offset, _ in places])
        outside = np.logical_or.reduce([(at < start) | (size < 0) | (at > end - size) for at, size in places])
        if kind == "rgb":
            yield "a written video has no frames", placed & absent
        yield f"the {kind} frames do not lie in their sample", placed & ~absent & outside


def _numbers(table: pa.Table, name: str) -> Numbers:
    values: Numbers = table[name].to_numpy()
    return values


def _flags(values: pa.ChunkedArray) -> Flags:
    flags: Flags = np.array(values.to_numpy(), bool)
    return flags
