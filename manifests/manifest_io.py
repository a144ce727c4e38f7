"""Read and write the tables and the header of a data set, with their digests, at a local path or an fsspec URL."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from manifests.bounds import MAX_CHANGES, check_header, check_originals, check_shards, check_videos
from manifests.disk import publish
from manifests.files import (
    atomic_write,
    below,
    digest_of,
    exists,
    is_url,
    list_files,
    open_location,
    read_bytes,
    read_json,
    remove,
)
from manifests.parquet import parquet_table, table_bytes
from manifests.records import FORMAT_VERSION, InputError, ManifestHeader, ShardRow, VideoRow
from manifests.table import (
    ORIGINAL_SCHEMAS,
    SHARD_SCHEMA,
    VIDEO_SCHEMAS,
    Manifest,
    Originals,
    VideoTable,
    shard_rows,
    shard_table,
)

HEADER_NAME = "dataset.json"
VIDEOS_NAME = "videos.parquet"
SHARDS_NAME = "shards.parquet"
ORIGINALS_NAME = "originals.parquet"
SPLITS_FOLDER = "splits"
MERGE_NAME = "merge.json"  # in the work folder of an unfinished merge: what is merged


def join(root: str | Path, *parts: str) -> str:
    """Join a data set's folder (local path or URL) and names below it."""
    return "/".join([str(root).rstrip("/") or "/", *parts])


def file_sha256(path: str | Path) -> str:
    """Compute the sha256 of a local file."""
    with open_location(str(path)) as file:
        return digest_of(file)[0]


def json_bytes(value: Any) -> bytes:
    """Format a value as readable JSON: the same bytes for the same value."""
    return (json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()


def write_manifest(
    root: str | Path,
    header: ManifestHeader,
    videos: VideoTable | Iterable[VideoRow],
    shards: Iterable[ShardRow],
    originals: Originals | None = None,
) -> Manifest:
    """Write the tables, then the header with their digests. A data set is complete once its header exists.

    If the folder holds a finished data set, its tables stay until the new header is written: a reader sees either the old data
    set or the new one, even if this process is killed.
    """
    manifest, tables = prepare_manifest(root, header, videos, shards, originals)
    header = manifest.header
    digests = _digests(header)
    # Beside an older data set the tables get names that contain their digest, until the header names them.
    replaces = exists(join(root, HEADER_NAME))
    files = {_beside(name, digests[name]) if replaces else name: content for name, content in tables.items()}
    for name, content in (files | {HEADER_NAME: json_bytes(_facts(header))}).items():
        with atomic_write(join(root, name)) as file:
            file.write(content)
    if replaces:
        settle_tables(root, header)
    return manifest


def prepare_manifest(
    root: str | Path,
    header: ManifestHeader,
    videos: VideoTable | Iterable[VideoRow],
    shards: Iterable[ShardRow],
    originals: Originals | None = None,
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest that `write_manifest` writes, with all digests, and the bytes of its tables; nothing is written."""
    video_table = videos if isinstance(videos, VideoTable) else VideoTable.from_rows(videos)
    shards = tuple(shards)
    tables = {VIDEOS_NAME: table_bytes(video_table.arrow), SHARDS_NAME: table_bytes(shard_table(shards))}
    if originals is not None and len(originals):
        tables[ORIGINALS_NAME] = table_bytes(originals.to_arrow())
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in tables.items()}
    header = dataclasses.replace(
        header,
        videos_sha256=digests[VIDEOS_NAME],
        shards_sha256=digests[SHARDS_NAME],
        originals_sha256=digests.get(ORIGINALS_NAME, ""),
        changes=header.changes[-MAX_CHANGES:],
    )
    header = dataclasses.replace(header, header_sha256=header_digest(header))
    return Manifest(str(root), header, video_table, shards), tables


def _digests(header: ManifestHeader) -> dict[str, str]:
    """The sha256 of each table, "" of one that there is not."""
    return {
        VIDEOS_NAME: header.videos_sha256,
        SHARDS_NAME: header.shards_sha256,
        ORIGINALS_NAME: header.originals_sha256,
    }


def _facts(header: ManifestHeader) -> dict[str, Any]:
    """The content of dataset.json; what only changed data sets have is left out of others."""
    facts = dataclasses.asdict(header)
    return {name: value for name, value in facts.items() if value or name not in ("originals_sha256", "changes")}


def settle_tables(root: str | Path, header: ManifestHeader) -> None:
    """Rename tables that were written beside older ones to their final names; remove those that the header does not name."""
    names = list_files(root)
    if ORIGINALS_NAME in names and not header.originals_sha256:
        remove(below(root, ORIGINALS_NAME))
    for name, digest in _digests(header).items():
        form = re.compile(rf"{Path(name).stem}-[0-9a-f]{{16}}\.parquet")
        for found in filter(form.fullmatch, names):
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
    """Compute the value of `header_sha256`: the sha256 of dataset.json with that field empty."""
    return hashlib.sha256(json_bytes(_facts(dataclasses.replace(header, header_sha256="")))).hexdigest()


def read_header(root: str | Path) -> ManifestHeader:
    """Read dataset.json of a finished data set; InputError if there is none, its format is newer, or a field is out of bounds."""
    place = join(root, HEADER_NAME)
    try:
        raw = read_json(place)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(_no_data_set(root)) from None
    except ValueError as error:
        raise InputError(f"{place} is not valid JSON ({error}). {_MEND}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{place} is not the header of a data set (a {type(raw).__name__} in JSON). {_MEND}")
    # The version comes first: a newer format may have other fields and another way to compute the digest.
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{place}: format version {version!r:.100}, this program reads {FORMAT_VERSION}. "
            "Use a program version that reads it, or extract again."
        )
    digest = raw.get("header_sha256")
    if digest and hashlib.sha256(json_bytes({**raw, "header_sha256": ""})).hexdigest() != digest:
        raise InputError(f"{place}: its sha256 differs from the one stored in it: it was changed or damaged. {_MEND}")
    try:
        return check_header(raw)
    except ValueError as error:
        raise InputError(f"{place}: its fields are not those of the format ({error}). {_MEND}") from None


def read_manifest(root: str | Path) -> Manifest:
    """Read the data set at `root`, and check its tables against the digests in the header and the bounds of the format."""
    header = read_header(root)
    while True:
        try:
            return _read_tables(root, header)
        except InputError:
            # A new header may have been written since it was read (`tgprep extract --add`): its tables are those that are there.
            before, header = header, read_header(root)
            if header == before:
                raise


def _read_tables(root: str | Path, header: ManifestHeader) -> Manifest:
    name = SHARDS_NAME
    try:
        shards = shard_rows(parquet_table(_read_table(root, name, header.shards_sha256), SHARD_SCHEMA))
        check_shards(shards)
        name = VIDEOS_NAME
        content = _read_table(root, name, header.videos_sha256)
        videos = VideoTable(parquet_table(content, *VIDEO_SCHEMAS))
        check_videos(videos, header, shards)
    except ValueError as error:
        raise InputError(f"{join(root, name)}: {error}. {_MEND}") from None
    return Manifest(str(root), header, videos, shards)


def read_originals(manifest: Manifest) -> Originals:
    """Read originals.parquet of a data set; it has no rows if nothing was dropped or relabelled. InputError if it is damaged."""
    header = manifest.header
    if not header.originals_sha256:
        return Originals.none_of(manifest.videos)
    try:
        content = _read_table(manifest.root, ORIGINALS_NAME, header.originals_sha256)
        originals = Originals.from_arrow(parquet_table(content, *ORIGINAL_SCHEMAS))
        check_originals(originals, manifest.videos, header, manifest.shards)
    except ValueError as error:
        raise InputError(f"{join(manifest.root, ORIGINALS_NAME)}: {error}. {_MEND}") from None
    return originals


def _read_table(root: str | Path, name: str, digest: str) -> bytes:
    found = ""
    # After a new header is written, its tables are beside the old ones until they are renamed, perhaps during this loop.
    for candidate in (name, _beside(name, digest), name):
        with contextlib.suppress(FileNotFoundError):
            content = read_bytes(join(root, candidate))
            found = hashlib.sha256(content).hexdigest()
            if found == digest:
                return content
    place = join(root, name)
    if not found:
        raise InputError(f"{place} is missing, though {HEADER_NAME} says that the data set is complete. {_MEND}")
    raise InputError(
        f"{place}: sha256 {found[:16]}…, expected {digest[:16]}… ({HEADER_NAME}): the file was changed or damaged. {_MEND}"
    )


_MEND = "Restore it from a copy, or extract into a new folder: the same videos and settings give the same bytes."


def _no_data_set(root: str | Path) -> str:
    make = "Make one with `tgprep extract VIDEOS OUT`"
    if not is_url(root) and not Path(root).is_dir():
        return f"No data set at {root}: the folder does not exist. {make}, or name another folder."
    if not is_url(root) and Path(root, ".tgprep").is_dir():
        work = "merge" if Path(root, ".tgprep", MERGE_NAME).is_file() else "extraction"
        advice = f"run the same `tgprep {'merge' if work == 'merge' else 'extract'}` command again to finish it"
        return f"{root} holds an unfinished {work}: {advice} (no {HEADER_NAME})."
    return f"{root} holds no data set (no {HEADER_NAME}). {make}."
