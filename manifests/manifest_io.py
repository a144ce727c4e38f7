"""Tables and header on disk: atomic writes, digests, and a data set's folder as a Manifest. Local paths or fsspec URLs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.files import (
    TEMPORARY_PREFIX,
    atomic_write,
    below,
    exists,
    is_url,
    list_files,
    publish,
    read_bytes,
    remove,
)
from manifests.records import FORMAT_VERSION, GradientCoding, InputError, ManifestHeader, ShardRow, VideoRow
from manifests.table import Manifest, VideoTable, shard_rows, shard_table

__all__ = [
    "TEMPORARY_PREFIX",
    "atomic_write",
    "is_url",
    "publish",
    "read_bytes",
]  # of places, beside what is defined here


HEADER_NAME = "dataset.json"
VIDEOS_NAME = "videos.parquet"
SHARDS_NAME = "shards.parquet"
SPLITS_FOLDER = "splits"
_SEAL = "tgprep.sha256"
_BLANK = b"0" * 64


def join(root: str | Path, *parts: str) -> str:
    """A place below the data set's folder, local path or URL."""
    return "/".join([str(root).rstrip("/") or "/", *parts])


def file_sha256(path: str | Path) -> str:
    """sha256 of a local file's bytes, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parquet_table(source: str | Path | bytes) -> pa.Table:
    """A Parquet file, or its bytes, as a table; pa.ArrowInvalid where it is damaged.

    Read by this thread alone: Arrow's own threads may abort a process that ends right after.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with pq.ParquetFile(file, pre_buffer=False) as parquet:
        table: pa.Table = parquet.read(use_threads=False)
    own = {
        name: value for name, value in (table.schema.metadata or {}).items() if name != _SEAL.encode()
    }  # the seal is the file's
    return table.replace_schema_metadata(own or None)


def table_bytes(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file: the same bytes for the same table and library version."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_statistics=True)
    return buffer.getvalue()


def sealed_table_bytes(table: pa.Table) -> bytes:
    """As `table_bytes`, with the file's own sha256 in its footer (taken with 64 zeros in the digest's place): a table that no
    other file vouches for can be checked by itself, see `seal_holds`.
    """
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd", write_statistics=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_SEAL: _BLANK.decode()})
    content = buffer.getvalue()
    place = content.index(_BLANK, content.rindex(_SEAL.encode()))
    return content[:place] + hashlib.sha256(content).hexdigest().encode() + content[place + len(_BLANK) :]


def seal_holds(content: bytes) -> bool | None:
    """Whether the bytes of a sealed table are those that were written; None where there is no seal."""
    mark = content.rfind(_SEAL.encode())
    match = re.compile(rb"[^0-9a-f]{1,8}([0-9a-f]{64})").match(content, mark + len(_SEAL)) if mark >= 0 else None
    if match is None:
        return None
    blank = content[: match.start(1)] + _BLANK + content[match.end(1) :]
    return hashlib.sha256(blank).hexdigest().encode() == match[1]


def json_bytes(value: Any) -> bytes:
    """A value as readable JSON, the same bytes for the same value."""
    return (json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()


def write_manifest(
    root: str | Path, header: ManifestHeader, videos: Iterable[VideoRow], shards: Iterable[ShardRow]
) -> Manifest:
    """Write both tables, then the header with their digests: the header's presence says that the data set is whole.

    Where the folder holds a finished data set, its tables stay until the new header is in place: whatever is read, and
    whenever the process is killed, it is the old data set or the new one.
    """
    video_table = VideoTable.from_rows(videos)
    shards = tuple(shards)
    tables = {VIDEOS_NAME: table_bytes(video_table.arrow), SHARDS_NAME: table_bytes(shard_table(shards))}
    header = dataclasses.replace(
        header,
        videos_sha256=hashlib.sha256(tables[VIDEOS_NAME]).hexdigest(),
        shards_sha256=hashlib.sha256(tables[SHARDS_NAME]).hexdigest(),
    )
    header = dataclasses.replace(header, header_sha256=header_digest(header))
    replaces = exists(join(root, HEADER_NAME))
    names = {
        name: _beside(name, hashlib.sha256(content).hexdigest()) if replaces else name
        for name, content in tables.items()
    }
    content_of = {names[name]: content for name, content in tables.items()}
    for name, content in [*content_of.items(), (HEADER_NAME, json_bytes(dataclasses.asdict(header)))]:
        with atomic_write(join(root, name)) as file:
            file.write(content)
    if replaces:
        settle_tables(root, header)
    return Manifest(str(root), header, video_table, shards)


def settle_tables(root: str | Path, header: ManifestHeader) -> None:
    """Give tables that were written beside older ones their plain names, and remove those that the header does not name."""
    there = list_files(root)
    for name, digest in ((VIDEOS_NAME, header.videos_sha256), (SHARDS_NAME, header.shards_sha256)):
        for found in there:
            if not re.fullmatch(rf"{Path(name).stem}-[0-9a-f]{{16}}\.parquet", found):
                continue
            place = below(root, found)
            if found == _beside(name, digest):
                if isinstance(place, Path):
                    publish(place, Path(root, name))
                    continue
                with atomic_write(below(root, name)) as file:
                    file.write(read_bytes(place))
            remove(place)


def _beside(name: str, digest: str) -> str:
    return f"{Path(name).stem}-{digest[:16]}.parquet"


def header_digest(header: ManifestHeader) -> str:
    """sha256 of dataset.json as it is with an empty `header_sha256`: what that field holds."""
    return hashlib.sha256(json_bytes(dataclasses.asdict(dataclasses.replace(header, header_sha256="")))).hexdigest()


_KINDS = {
    "dataset": str,
    "settings": dict,
    "versions": dict,
    "num_folds": int,
    "num_written": int,
    "num_failed": int,
    "num_skipped": int,
    "videos_sha256": str,
    "shards_sha256": str,
    "header_sha256": str,
}


def read_header(root: str | Path) -> ManifestHeader:
    """dataset.json of a finished data set; InputError where the folder holds none or one of a newer format."""
    place = join(root, HEADER_NAME)
    try:
        raw = json.loads(read_bytes(place))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(_no_data_set(root)) from None
    except ValueError as error:
        raise InputError(f"{place} is not valid JSON ({error}). {_MEND}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{place} is not the header of a data set (a {type(raw).__name__} in JSON). {_MEND}")
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{place}: format version {version!r}, this program reads {FORMAT_VERSION}. Use a program version that reads it, or extract again."
        )
    digest = raw.get("header_sha256")
    if digest and hashlib.sha256(json_bytes({**raw, "header_sha256": ""})).hexdigest() != digest:
        raise InputError(f"{place}: its sha256 is not the one that it carries: it was changed or damaged. {_MEND}")
    try:
        raw["classes"] = tuple(raw["classes"])
        raw["gradient"] = GradientCoding(**raw["gradient"])
        header = ManifestHeader(**raw)
        for name, kind in _KINDS.items():
            if type(getattr(header, name)) is not kind:
                raise TypeError(f"{name} is {getattr(header, name)!r}")
        if not all(isinstance(name, str) for name in header.classes):
            raise TypeError("classes are not all names")
        return header
    except (KeyError, TypeError) as error:
        raise InputError(f"{place}: its fields are not those of the format ({error}). {_MEND}") from None


def read_manifest(root: str | Path) -> Manifest:
    """The data set at `root`; its tables' digests are checked against the header."""
    header = read_header(root)
    tables = {}
    for name, digest in ((VIDEOS_NAME, header.videos_sha256), (SHARDS_NAME, header.shards_sha256)):
        content = _read_table(root, name, digest)
        tables[name] = parquet_table(content)
    return Manifest(str(root), header, VideoTable(tables[VIDEOS_NAME]), shard_rows(tables[SHARDS_NAME]))


def _read_table(root: str | Path, name: str, digest: str) -> bytes:
    found = ""
    # Between the new header and the renaming of its tables they lie beside the old ones; they may be renamed as we look.
    for place in (name, _beside(name, digest), name):
        try:
            content = read_bytes(join(root, place))
        except FileNotFoundError:
            continue
        found = hashlib.sha256(content).hexdigest()
        if found == digest:
            return content
    place = join(root, name)
    if not found:
        raise InputError(f"{place} is missing, though {HEADER_NAME} says the data set is whole. {_MEND}")
    raise InputError(
        f"{place}: sha256 {found[:16]}…, expected {digest[:16]}… ({HEADER_NAME}): the file was changed or damaged. {_MEND}"
    )


_MEND = "Restore it from a copy, or extract into a new folder: the same videos and settings give the same bytes."


def _no_data_set(root: str | Path) -> str:
    if is_url(root) or Path(root).is_dir():
        unfinished = not is_url(root) and (Path(root) / ".tgprep").is_dir()
        state = (
            "an unfinished extraction: run the same `tgprep extract` command again to finish it"
            if unfinished
            else "no data set"
        )
        return f"{root} holds {state} (no {HEADER_NAME})." + (
            "" if unfinished else " Make one with `tgprep extract VIDEOS OUT`."
        )
    return f"No data set at {root}: the folder does not exist. Make one with `tgprep extract VIDEOS OUT`, or name another folder."
