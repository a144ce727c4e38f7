"""Merge data sets: their shards, linked or copied under new names, one table of all videos, one list of all classes.

Nothing is decoded, and no byte of a shard changes. dataset.json comes last, so the merged data set is there whole or not at all;
after an interruption the same call continues.
"""

from __future__ import annotations

import errno
import hashlib
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from manifests.card import CARD_NAME, plain_text, write_card
from manifests.console import plural
from manifests.datasets import folded_class, nfc
from manifests.disk import TEMPORARY_PREFIX, made_folder, require_room, sync_folder
from manifests.files import (
    atomic_write,
    is_url,
    list_files,
    list_folder,
    open_location,
    read_json,
    require_own_folder,
)
from manifests.manifest_io import (
    HEADER_NAME,
    MERGE_NAME,
    join,
    json_bytes,
    prepare_manifest,
    read_header,
    read_manifest,
    write_manifest,
)
from manifests.records import SKIPPED, InputError, ShardRow
from manifests.splits.label_split import list_splits
from manifests.table import Manifest, Originals
from manifests.targets.target_file import list_targets
from tgprep.edit.differences import refuse_differences
from tgprep.edit.merged_tables import merged_tables
from tgprep.extract import work_folder
from tgprep.extract.workers.shards import WORK_FOLDER

SHOWN = 10  # keys that a message names
_PIECE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class MergedSource:
    """What came from one data set."""

    root: str
    num_videos: int
    num_shards: int
    num_bytes: int
    new_classes: int  # that no data set before it has


@dataclass(frozen=True, slots=True)
class Merged:
    """The merged data set. num_linked and num_copied: shards that this call put into it; none if it was there before."""

    manifest: Manifest
    sources: tuple[MergedSource, ...]
    num_linked: int
    num_copied: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard of a source and its row in the merged data set."""

    source: str
    name: str  # in the source
    row: ShardRow

    @property
    def place(self) -> str:
        """Where it lies in the source."""
        return join(self.source, self.name)

    def is_on_disk_of(self, out: Path) -> bool:
        """Whether a link to it can lie in a folder."""
        return not is_url(self.source) and Path(self.place).stat().st_dev == out.stat().st_dev

    def is_link(self, out: Path) -> bool:
        """Whether the merged data set has the very file of the source."""
        place = out / self.row.name
        return not is_url(self.source) and place.exists() and place.samefile(self.place)


def merge(
    roots: Sequence[str],
    out: str | Path,
    *,
    copy: bool = False,
    stop: threading.Event | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Merged:
    """Make the data set `out` of those at `roots` (local paths or URLs), which stay as they are.

    Shards are linked if they lie on the disk of `out`, else copied; copy: copy them anyway. Classes are those of the first data set,
    then what each next one adds; labels follow the names. Splits, targets and the list of near-copies belong to one state of a data
    set, and do not come along. stop: set it to end early (KeyboardInterrupt). on_progress: called with the bytes copied and of all.
    Raises InputError before anything is written if keys clash, settings that matter differ, `out` cannot be the folder, or room lacks.
    """
    if len(roots) < 2:
        raise InputError("merge needs two data sets or more, and the folder to make: `tgprep merge A B OUT`.")
    if is_url(out):
        raise InputError(f"{out}: a local folder is needed; copy it to the object store afterwards.")
    out = Path(out)
    for root in roots:
        _refuse_nesting(root, out)
    sources = [read_manifest(root) for root in roots]
    refuse_differences(sources)
    _refuse_clashes(sources)
    shards = _planned_shards(sources)
    header, videos, originals = merged_tables(sources, {(s.source, s.name): s.row.name for s in shards})
    planned, _ = prepare_manifest(out, header, videos, [shard.row for shard in shards], originals)
    notes = tuple(_notes(sources, planned))
    if not (out / WORK_FOLDER / MERGE_NAME).exists():
        work_folder.check_output_folder(out)
    with made_folder(out), work_folder.exclusive(out):
        merged = _merge_held(planned, originals, shards, copy, stop or threading.Event(), on_progress)
    return replace(merged, sources=_account(sources), notes=notes)


def _merge_held(
    planned: Manifest,
    originals: Originals,
    shards: Sequence[_Shard],
    copy: bool,
    stop: threading.Event,
    on_progress: Callable[[int, int], None],
) -> Merged:
    """`merge`, while this process holds the folder."""
    out = Path(planned.root)
    _claim(planned)
    if (out / HEADER_NAME).exists():  # the same merge is complete
        work_folder.remove(out)
        return Merged(planned, (), 0, 0, ())
    work_folder.remove_leftovers(out, out / WORK_FOLDER)
    sizes = list_files(out)
    todo = [
        shard for shard in shards if sizes.get(shard.row.name) != shard.row.num_bytes or (copy and shard.is_link(out))
    ]
    copied = {shard.row.name for shard in todo if copy or not shard.is_on_disk_of(out)}
    total = sum(shard.row.num_bytes for shard in todo if shard.row.name in copied)
    require_room(out, total)
    num_bytes = num_linked = 0
    for shard in todo:
        if stop.is_set():
            raise KeyboardInterrupt
        if shard.row.name not in copied and _link(shard, out):
            num_linked += 1
            continue
        for piece_bytes in _copy(shard, out, stop):
            num_bytes += piece_bytes
            on_progress(num_bytes, max(total, num_bytes))
    sync_folder(out)
    write_card(out, {"train": "shard-*.tar"}, plain_text(planned.videos.num_without_label))
    write_manifest(out, planned.header, planned.videos, planned.shards, originals)
    work_folder.remove(out)
    return Merged(planned, (), num_linked, len(todo) - num_linked, ())


def _refuse_nesting(root: str, out: Path) -> None:
    if is_url(root):
        return
    inner, outer = out.resolve(), Path(root).resolve()
    if inner == outer or inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise InputError(
            f"{out} lies in the data set {root}, or holds it. Name a folder outside of it for the merged one."
        )


def _refuse_clashes(sources: Sequence[Manifest]) -> None:
    """InputError if two data sets have a video of one key, or one place in a file (by which an extraction would know it)."""
    owners: dict[Any, int] = {}
    clashes: list[tuple[str, int, int]] = []
    for number, source in enumerate(sources):
        named = np.array([status != SKIPPED for status in source.videos.column("status")], bool)
        rows = np.flatnonzero(named)
        keys, places = source.videos.column("key"), source.videos.places()
        for row in rows.tolist():
            for name in (keys[row].lower(), places[row]):
                if (owner := owners.setdefault(name, number)) != number:
                    clashes.append((keys[row], owner, number))
                    break
    if clashes:
        _, first, second = clashes[0]
        shown = ", ".join(key for key, _, _ in clashes[:SHOWN]) + ", …" * (len(clashes) > SHOWN)
        pair = sources[first].root, sources[second].root
        same = "They are the same data set. " * (sources[first].digest == sources[second].digest)
        raise InputError(
            f"{plural(len(clashes), 'video has', 'videos have')} the key or the path of a video of another data set: {shown}. The first is in {pair[0]} and in "
            f"{pair[1]}. {same}Drop them from one of the two (`tgprep drop {pair[1]} --keys FILE`), and merge again."
        )


def _planned_shards(sources: Sequence[Manifest]) -> list[_Shard]:
    """All shards under their new names, one count through all data sets. InputError if one is missing, or not as it was written."""
    shards: list[_Shard] = []
    for source in sources:
        sizes = list_files(source.root)
        for shard in sorted(source.shards, key=lambda shard: shard.name):
            if (size := sizes.get(shard.name, -1)) != shard.num_bytes:
                found = "missing" if size < 0 else f"of {size} bytes, expected {shard.num_bytes}"
                raise InputError(
                    f"{join(source.root, shard.name)} is {found}. `tgprep check {source.root}` says how to mend it."
                )
            place = Path(source.root, shard.name)
            if not is_url(source.root) and not place.resolve().is_relative_to(Path(source.root).resolve()):
                raise InputError(
                    f"{place} is a link that leads out of {source.root}. Put the file itself there: what a link of a data set names is not read."
                )
            shards.append(_Shard(source.root, shard.name, replace(shard, name=f"shard-{len(shards):06d}.tar")))
    return shards


def _claim(planned: Manifest) -> None:
    """Mark the folder as that of this merge. InputError if it holds anything but this merge, unfinished or complete."""
    out = Path(planned.root)
    advice = "Name a new or empty folder for OUT."
    mark = out / WORK_FOLDER / MERGE_NAME
    claim = {"header_sha256": planned.header.header_sha256}
    if (out / HEADER_NAME).exists():
        sizes = list_files(out)
        is_same = read_header(out).header_sha256 == planned.header.header_sha256
        if is_same and all(sizes.get(shard.name) == shard.num_bytes for shard in planned.shards):
            return
        found = "this merge, but not all of its shards (`tgprep check` says which)" if is_same else "another data set"
        raise InputError(f"{out} holds {found}. {advice}")
    if mark.exists():
        with suppress(ValueError):
            if read_json(mark) == claim:
                return
        raise InputError(
            f"{out} holds an unfinished merge of other data sets, or of other states of them. Remove it, or name another folder."
        )
    if [name for name in list_folder(out / WORK_FOLDER) if not name.startswith(("lock", TEMPORARY_PREFIX))]:
        raise InputError(f"{out} holds an unfinished extraction. {advice}")
    require_own_folder(out, (), "data set", advice, ignored=(CARD_NAME, WORK_FOLDER))
    with atomic_write(mark) as file:
        file.write(json_bytes(claim))


def _link(shard: _Shard, out: Path) -> bool:
    """Give a shard a second name in the merged data set; False if its file system has no such links, or they are not allowed."""
    target = out / shard.row.name
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(Path(shard.place).resolve())
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
            return False
        raise
    return True


def _copy(shard: _Shard, out: Path, stop: threading.Event) -> Iterator[int]:
    """Copy a shard and give the bytes of each piece. InputError if its sha256 is not that of the table: then there is no copy."""
    digest = hashlib.sha256()
    with atomic_write(out / shard.row.name) as target, open_location(shard.place) as file:
        while piece := file.read(_PIECE_BYTES):
            if stop.is_set():
                raise KeyboardInterrupt
            digest.update(piece)
            target.write(piece)
            yield len(piece)
        if (sha256 := digest.hexdigest()) != shard.row.sha256:
            raise InputError(
                f"{shard.place}: sha256 {sha256[:16]}…, expected {shard.row.sha256[:16]}… (shards.parquet). "
                f"`tgprep check {shard.source}` says how to mend it."
            )


def _account(sources: Sequence[Manifest]) -> tuple[MergedSource, ...]:
    known: set[str] = set()
    account = []
    for source in sources:
        names = {nfc(name) for name in source.header.classes}
        num_bytes = sum(shard.num_bytes for shard in source.shards)
        sizes = len(source.videos), len(source.shards), num_bytes, len(names - known)
        account.append(MergedSource(source.root, *sizes))
        known |= names
    return tuple(account)


def _notes(sources: Sequence[Manifest], merged: Manifest) -> Iterator[str]:
    """What a user may not expect of the merged data set."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in merged.header.classes:
        alike[folded_class(name)].append(name)
    for names in alike.values():
        if len(names) > 1:
            yield f"{' and '.join(names)} stay two classes: `tgprep relabel` can make them one"
    same_bytes = _shared(sources, "source_sha256")
    if same_bytes:
        yield (
            f"{plural(len(same_bytes), 'video file is', 'video files are')} in two of the data sets under different keys (`tgprep info` lists equal files): "
            "a split may have one in train and the other in test"
        )
    if groups := _shared(sources, "group"):
        yield (
            f"{plural(len(groups), 'group has', 'groups have')} a name that two of the data sets use ({', '.join(sorted(groups)[:3])}): a split takes them for one "
            "source if their class is one, too, and never divides it"
        )
    if (folds := merged.header.num_folds) and (others := [s.root for s in sources if not s.header.num_folds]):
        yield f"no official lists in {', '.join(others)}: these videos are train in each of the {folds} folds"
    left = len(merged.videos) - sum(len(source.videos) for source in sources)
    if left:
        yield f"{plural(-left, 'skipped file has', 'skipped files have')} the path of a file of another data set, and one row"
    if any(list_splits(source.root) or list_targets(source.root) for source in sources):
        yield "splits and targets belong to the data sets that they were made for, and did not come along"


def _shared(sources: Sequence[Manifest], column: str) -> set[str]:
    """The values that several data sets have in a column."""
    values = [set(pc.unique(source.videos.arrow[column]).to_pylist()) - {""} for source in sources]
    counts = Counter(value for of_one in values for value in of_one)
    return {value for value, count in counts.items() if count > 1}
