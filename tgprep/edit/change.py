"""What commands share that change the tables of a finished data set: one holds it, reads it, and writes its next state.

Tables are written beside the old ones and count once the new header names them: a reader, and whoever looks after a kill, finds the
state before or after, never a mixture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.card import plain_text, write_card
from manifests.files import below, parse_location
from manifests.manifest_io import prepare_manifest, read_header, read_manifest, read_originals, write_manifest
from manifests.records import FAILED, WRITTEN, InputError
from manifests.splits.label_split import list_splits
from manifests.table import Manifest, Originals, VideoTable
from tgprep.extract import work_folder
from tgprep.extract.plan import load_plan
from tgprep.extract.workers.shards import WORK_FOLDER

SHOWN = 10  # keys that a message names
WAIT_SECONDS = 5.0  # for another command that changes tables or splits


@dataclass(frozen=True, slots=True)
class Changed:
    """The outcome of a change. manifest: after it; the one before if nothing changed, or in a dry run the one to come."""

    manifest: Manifest
    num_changed: int  # videos
    num_same: int  # named videos that were so before
    splits: tuple[str, ...] = ()  # that were made for the state before, or an earlier one


@dataclass(frozen=True, slots=True)
class State:
    """A data set that is to change."""

    manifest: Manifest
    originals: Originals
    dry_run: bool

    def write(
        self,
        change: str,
        num_videos: int,
        num_same: int,
        videos: VideoTable,
        originals: Originals,
        classes: Sequence[str] | None = None,
    ) -> Changed:
        """Write the next state. change: what `changes` of the header calls it; num_videos: how many videos it concerns."""
        before = self.manifest
        if not num_videos:
            return Changed(before, 0, num_same)
        status = videos.arrow["status"]
        entry: dict[str, str | int] = {"change": change, "num_videos": num_videos, "digest": before.digest}
        header = replace(
            before.header,
            classes=before.header.classes if classes is None else tuple(classes),
            num_written=_count(status, WRITTEN),
            num_failed=_count(status, FAILED),
            changes=(*before.header.changes, entry),
        )
        originals = _sorted(originals)
        if self.dry_run:
            manifest, _ = prepare_manifest(before.root, header, videos, before.shards, originals)
        else:
            cards = [plain_text(table.num_without_label) for table in (videos, before.videos)]
            write_card(parse_location(before.root), {"train": "shard-*.tar"}, *cards)
            manifest = write_manifest(before.root, header, videos, before.shards, originals)
        return Changed(manifest, num_videos, num_same, list_splits(before.root))


@contextlib.contextmanager
def held(root: str, dry_run: bool) -> Iterator[State]:
    """Hold a data set (not in a dry run, which only reads) and read it. InputError if another process has it, or an update is unfinished."""
    read_header(root)  # nothing is written if there is no data set
    place = parse_location(root)
    with contextlib.ExitStack() as stack:
        if not dry_run:
            stack.enter_context(work_folder.exclusive(place, wait_seconds=WAIT_SECONDS))
        manifest = read_manifest(root)
        plan = load_plan(below(place, WORK_FOLDER))
        if plan is not None and plan.base == manifest.digest:
            raise InputError(
                f"{root} holds an unfinished `tgprep extract {plan.update}`, which adds to its tables. Finish that first."
            )
        if not dry_run:
            work_folder.remove_leftovers(place, below(place, WORK_FOLDER))
            if plan is not None:  # left by an update that was complete just before a kill
                work_folder.clear(below(place, WORK_FOLDER))
        yield State(manifest, read_originals(manifest), dry_run)


def find_keys(table: VideoTable, rows: npt.NDArray[np.int64], keys: Sequence[str]) -> tuple[list[int], list[str]]:
    """Rows with the given keys (of `rows`, each once), and the keys that none has. Case counts only if keys differ in it alone."""
    names = table.column("key")
    by_name = {names[row].lower(): row for row in rows.tolist()} | {names[row]: row for row in rows.tolist()}
    found = {key: by_name.get(key, by_name.get(key.lower(), -1)) for key in keys}
    return sorted({row for row in found.values() if row >= 0}), [key for key, row in found.items() if row < 0]


def refuse_unknown(option: str, root: str, unknown: Sequence[str], total: int, example: str) -> None:
    """InputError that names the keys that no video has."""
    if unknown:
        shown = ", ".join(repr(key[:100]) for key in unknown[:SHOWN]) + ", …" * (len(unknown) > SHOWN)
        raise InputError(
            f"{option}: {len(unknown)} of {total} name no video of {root}: {shown}. Nothing was changed. Keys look like {example!r}."
        )


def with_columns(videos: VideoTable, **columns: pa.Array) -> VideoTable:
    """The table with other values in some columns."""
    table = videos.arrow
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, values.cast(field.type))
    return VideoTable(table)


def _count(status: pa.ChunkedArray, value: str) -> int:
    return int(pc.sum(pc.equal(status, value)).as_py() or 0)


def _sorted(originals: Originals) -> Originals:
    """The originals by place, so that the same changes in another order give the same table."""
    table = originals.to_arrow()
    order = [(name, "ascending") for name in ("shard", "sample_offset", "key", "path")]
    return Originals.from_arrow(table.take(pc.sort_indices(table, sort_keys=order)))
