"""The tables that a card describes, with their digests: from them follows whether a card is up to date."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from manifests.card import CARD_NAME
from manifests.files import Location, below, read_bytes
from manifests.manifest_io import (
    HEADER_NAME,
    ORIGINALS_NAME,
    SHARDS_NAME,
    SPLITS_FOLDER,
    VIDEOS_NAME,
    join,
    read_header,
)
from manifests.splits.label_split import list_splits
from manifests.targets.target_file import TARGETS_FOLDER, list_targets

MAX_CARD_BYTES = 16 * 1024 * 1024
BEGIN, END = "<!-- tgprep card: begin", "<!-- tgprep card: end -->"
_STATE = re.compile(rf"^{BEGIN} ([0-9a-f]{{64}})\.", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TableFile:
    """A file of the data set other than a shard. path: relative to it."""

    path: str
    num_bytes: int
    sha256: str


def table_files(root: str) -> tuple[TableFile, ...]:
    """Header, tables, splits and soft targets of a data set, in this order; the last two sorted by name."""
    return tuple(_read_all(root))


def _read_all(root: str) -> Iterator[TableFile]:
    names = [HEADER_NAME, VIDEOS_NAME, SHARDS_NAME, *[ORIGINALS_NAME] * bool(read_header(root).originals_sha256)]
    names += [f"{SPLITS_FOLDER}/{name}.parquet" for name in sorted(list_splits(root))]
    names += [f"{TARGETS_FOLDER}/{name}.parquet" for name in sorted(list_targets(root))]
    for name in names:
        content = read_bytes(join(root, name))
        yield TableFile(name, len(content), hashlib.sha256(content).hexdigest())


def state_of(tables: tuple[TableFile, ...]) -> str:
    """The digest of all that a card describes: tables name the sha256 of every shard."""
    lines = "".join(f"{table.sha256} {table.path}\n" for table in tables)
    return hashlib.sha256(lines.encode()).hexdigest()


def outdated_card(root: Location) -> Iterator[str]:
    """A note if README.md is a card of an earlier state of the data set; none if it is up to date, or no card."""
    with contextlib.suppress(OSError):
        text = read_bytes(below(root, CARD_NAME), MAX_CARD_BYTES).decode("utf-8", "replace")
        found = _STATE.search(text.replace("\r\n", "\n"))
        if found is not None and found[1] != state_of(table_files(str(root))):
            yield f"{CARD_NAME} and croissant.json describe an earlier state of the data set: `tgprep card {root}` writes them anew"
