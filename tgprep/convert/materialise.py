"""A label split as shards of its own, one set of tars a part, for readers that know WebDataset but not our tables."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from manifests.files import digest_of, open_location
from manifests.locks import hold_lock
from manifests.manifest_io import TEMPORARY_PREFIX, atomic_write, file_sha256, is_url, join, json_bytes
from manifests.records import InputError
from manifests.sample import BLOCK_BYTES, RECORD_BYTES, write_end
from manifests.splits.check import ERROR, check_split
from manifests.splits.label_split import LabelSplit, split_table
from manifests.splits.settings import PARTS
from manifests.table import Manifest
from tgprep.extract.plan import mixed_place, shard_size

FACTS_NAME = "split.json"
_CLAIM_NAME = ".tgprep-split.json"
_LOCK_NAME = ".tgprep-lock"
_PIECE_BYTES = 4 * 1024 * 1024
Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class MaterialisedPart:
    """One part as written. shards: names of its tar files."""

    part: str
    num_videos: int
    num_bytes: int
    shards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Materialised:
    """What lies in the folder. num_kept: shards that an earlier run had finished; num_relabelled: samples whose label differs
    from their class's."""

    folder: Path
    parts: tuple[MaterialisedPart, ...]
    num_shards: int
    num_kept: int
    num_relabelled: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """One sample: new bytes before what is copied from `shard`, bytes first:last (half-open)."""

    key: str
    shard: str
    start: bytes
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Target:
    """A tar file to write."""

    name: str
    part: str
    pieces: tuple[_Piece, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the whole file, its end included."""
        end = sum(len(piece.start) + piece.last - piece.first for piece in self.pieces) + 2 * BLOCK_BYTES
        return end + -end % RECORD_BYTES


def default_folder(root: str, name: str) -> Path:
    """Where a split goes when no folder is named: beside the data set, `dataset-p20-s0-f1`. InputError for a URL."""
    if is_url(root):
        raise InputError(f"{root} is a URL: name a local folder for the shards with --output DIR.")
    place = Path(root).resolve() if Path(root).name in ("", "..") else Path(root)
    return place.with_name(f"{place.name}-{name}")


def materialise(
    manifest: Manifest,
    split: LabelSplit,
    place: str | Path,
    *,
    stop: threading.Event | None = None,
    on_progress: Tell = lambda done, total: None,
) -> Materialised:
    """Write `place/PART-000000.tar ...` for every part of the split that has videos, then `place/split.json`.

    Samples are copied byte for byte from the data set's shards, whose sha256 is checked first; only where the split trains with
    another label than the class's, the .json member gets that label. A tar appears once it is whole; after an interruption
    the same call goes on. stop: set it to end early (KeyboardInterrupt). on_progress: called with bytes done and all bytes.
    InputError where the split must not be used, the folder is not ours to write, space lacks, or a shard is damaged.
    """
    stop = stop or threading.Event()
    if problems := [problem.message for problem in check_split(split, manifest) if problem.level == ERROR]:
        raise InputError(
            f"Split {split.name} must not be used: {'; '.join(problems)}. `tgprep split --show` tells more."
        )
    claim = {
        "dataset_digest": manifest.digest,
        "split": split.name,
        "split_sha256": hashlib.sha256(_table_text(split)).hexdigest(),
    }
    if is_url(place):
        raise InputError(f"--output {place}: a local folder is needed; copy it to the object store afterwards.")
    folder = Path(place)
    _refuse_unsafe(manifest, folder, claim)
    targets, relabelled = _plan(manifest, split)
    sizes = {target.name: target.num_bytes for target in targets}
    with _claimed(folder, claim):
        recorded = _recorded(folder)
        kept = {
            name
            for name, size in sizes.items()
            if _size(folder / name) == size and recorded.get(name) in (None, file_sha256(folder / name))
        }
        missing = sum(size for name, size in sizes.items() if name not in kept)
        free = shutil.disk_usage(folder).free
        if missing > free:
            raise InputError(
                f"{folder}: {missing / 1e9:.3g} GB are to be written, {free / 1e9:.3g} GB are free. Make room, or name another --output."
            )
        _write_targets(manifest, folder, targets, kept, stop, on_progress)
        parts = tuple(_part(part, targets) for part in PARTS if any(target.part == part for target in targets))
        _write_facts(manifest, split, folder, targets, claim, relabelled)
    return Materialised(folder, parts, len(targets), len(kept), len(relabelled))


def _table_text(split: LabelSplit) -> bytes:
    rows = split_table(split).to_pydict()
    return json.dumps([rows, split.provenance], sort_keys=True).encode()


def _recorded(folder: Path) -> dict[str, str]:
    """sha256 of the tar files as a finished run wrote them; empty where none has finished."""
    try:
        return {shard["name"]: shard["sha256"] for shard in json.loads((folder / FACTS_NAME).read_bytes())["shards"]}
    except FileNotFoundError:
        return {}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _refuse_unsafe(manifest: Manifest, folder: Path, claim: dict[str, str]) -> None:
    """InputError where the folder is the data set's own, holds anything else, or another split."""
    if not is_url(manifest.root):
        root = Path(manifest.root).resolve()
        if root == folder.resolve() or root in folder.resolve().parents:
            raise InputError(f"--output {folder} lies in the data set {manifest.root}. Name a folder outside of it.")
    try:
        present = sorted(path.name for path in folder.iterdir() if not path.name.startswith(TEMPORARY_PREFIX))
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"--output {folder} cannot be used as a folder ({error.strerror}).") from None
    for name in (FACTS_NAME, _CLAIM_NAME):
        if name not in present:
            continue
        try:
            there = json.loads((folder / name).read_bytes())
            state = {key: there[key] for key in claim}
        except (OSError, ValueError, KeyError, TypeError):
            break
        if state != claim:
            raise InputError(
                f"--output {folder} holds split {state['split']} as of another data set or draw. Name another folder, or remove that one."
            )
        return
    if [name for name in present if name != _LOCK_NAME]:
        raise InputError(f"--output {folder} is not empty ({', '.join(present[:3])}). Name a new or empty folder.")


@contextlib.contextmanager
def _claimed(folder: Path, claim: dict[str, str]) -> Iterator[None]:
    """Hold the folder for this process, marked as this split's; what killed runs left is removed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK_NAME).open("a+", encoding="utf-8") as lock:
            hold_lock(lock, str(folder))
            for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
                leftover.unlink(missing_ok=True)
            with atomic_write(folder / _CLAIM_NAME) as file:
                file.write(json_bytes(claim))
            yield
            (folder / _CLAIM_NAME).unlink(missing_ok=True)
            (folder / _LOCK_NAME).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: writing failed ({error.strerror or error}). Run the same command again to go on."
        ) from None


def _plan(manifest: Manifest, split: LabelSplit) -> tuple[list[_Target], list[dict[str, Any]]]:
    """The tar files to write, and the samples whose label is not that of their class."""
    table = manifest.videos.arrow.select(["key", "label", "shard", "sample_offset", "sample_bytes"])
    row_of = {key: row for row, key in enumerate(table.column("key").to_pylist())}
    rows = np.array([row_of[key] for key in split.key], np.int64)
    label_of_class, shard, offset, num_bytes = (
        column.to_pylist() for column in table.take(pa.array(rows)).select(table.column_names[1:]).columns
    )
    videos_per_shard = int(manifest.header.settings.get("videos_per_shard", 0))
    pieces: dict[int, _Piece] = {}
    relabelled = []
    for place, key in enumerate(split.key):
        start, first, last = b"", offset[place], offset[place] + num_bytes[place]
        label = int(split.label[place])
        if label != label_of_class[place]:
            start, first = _relabelled(manifest, shard[place], first, key, label)
            relabelled.append({"key": key, "label": label, "label_of_class": label_of_class[place]})
        pieces[place] = _Piece(key, shard[place], start, first, last)
    targets = []
    for part in PARTS:
        places = sorted(np.flatnonzero(split.part(part)).tolist(), key=lambda place: mixed_place(split.key[place]))
        size = shard_size(len(places), videos_per_shard)
        for number, start_at in enumerate(range(0, len(places), size)):
            chosen = tuple(pieces[place] for place in places[start_at : start_at + size])
            targets.append(_Target(f"{part}-{number:06d}.tar", part, chosen))
    return targets, relabelled


def _relabelled(manifest: Manifest, shard: str, offset: int, key: str, label: int) -> tuple[bytes, int]:
    """The .json member with another label, and where the members after it begin in the shard."""
    try:
        with open_location(join(manifest.root, shard)) as file:
            file.seek(offset)
            header = tarfile.TarInfo.frombuf(file.read(BLOCK_BYTES), "utf-8", "strict")
            facts = json.loads(file.read(header.size))
        if header.name != f"{key}.json":
            raise ValueError(f"{header.name} where {key}.json is expected")
    except (OSError, ValueError, tarfile.HeaderError) as error:
        raise InputError(_damaged(manifest, shard, str(error))) from None
    text = (json.dumps({**facts, "label": label}, ensure_ascii=False, separators=(", ", ": ")) + "\n").encode()
    new = tarfile.TarInfo(header.name)
    new.size, new.mode = len(text), 0o644
    member = new.tobuf(format=tarfile.USTAR_FORMAT) + text + b"\0" * (-len(text) % BLOCK_BYTES)
    return member, offset + BLOCK_BYTES + header.size + -header.size % BLOCK_BYTES


def _write_targets(
    manifest: Manifest, folder: Path, targets: list[_Target], kept: set[str], stop: threading.Event, on_progress: Tell
) -> None:
    total = sum(target.num_bytes for target in targets)
    done = 0
    sound: set[str] = set()
    digests = {shard.name: shard.sha256 for shard in manifest.shards}
    for target in targets:
        if target.name not in kept:
            with atomic_write(folder / target.name) as out:
                for piece in target.pieces:
                    if stop.is_set():
                        raise KeyboardInterrupt
                    if piece.shard not in sound:
                        _check_digest(manifest, piece.shard, digests.get(piece.shard, ""))
                        sound.add(piece.shard)
                    out.write(piece.start)
                    for block in _copied(manifest, piece):
                        out.write(block)
                    on_progress(done + out.tell(), total)
                write_end(out)
        done += target.num_bytes
        on_progress(done, total)


def _check_digest(manifest: Manifest, shard: str, sha256: str) -> None:
    try:
        with open_location(join(manifest.root, shard)) as file:
            found, _ = digest_of(file)
    except OSError as error:
        raise InputError(_damaged(manifest, shard, error.strerror or str(error))) from None
    if found != sha256:
        raise InputError(_damaged(manifest, shard, f"sha256 {found[:16]}…, expected {sha256[:16]}…"))


def _copied(manifest: Manifest, piece: _Piece) -> Iterator[bytes]:
    try:
        with open_location(join(manifest.root, piece.shard)) as source:
            source.seek(piece.first)
            left = piece.last - piece.first
            while left:
                block = source.read(min(left, _PIECE_BYTES))
                if not block:
                    raise InputError(_damaged(manifest, piece.shard, f"it ends within {piece.key}"))
                yield block
                left -= len(block)
    except OSError as error:
        raise InputError(_damaged(manifest, piece.shard, error.strerror or str(error))) from None


def _damaged(manifest: Manifest, shard: str, what: str) -> str:
    return f"{shard}: {what}. `tgprep check {manifest.root}` tells what is damaged and how to mend it."


def _part(part: str, targets: list[_Target]) -> MaterialisedPart:
    own = [target for target in targets if target.part == part]
    return MaterialisedPart(
        part,
        sum(len(target.pieces) for target in own),
        sum(target.num_bytes for target in own),
        tuple(target.name for target in own),
    )


def _write_facts(
    manifest: Manifest,
    split: LabelSplit,
    folder: Path,
    targets: list[_Target],
    claim: dict[str, str],
    relabelled: list[dict[str, Any]],
) -> None:
    shards = [
        {
            "name": target.name,
            "part": target.part,
            "num_videos": len(target.pieces),
            "num_bytes": target.num_bytes,
            "sha256": file_sha256(folder / target.name),
        }
        for target in targets
    ]
    facts = {
        **claim,
        "format_version": manifest.header.format_version,
        "dataset": manifest.header.dataset,
        "classes": list(manifest.header.classes),
        "provenance": split.provenance,
        "shards": shards,
        "other_labels": relabelled,
    }
    with atomic_write(folder / FACTS_NAME) as file:
        file.write(json_bytes(facts))
