"""Write a label split as plain shards, one set of tars per part, for readers that know WebDataset but not our tables."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from manifests.card import CARD_NAME, write_card
from manifests.disk import held_folder, remove_leftovers, require_room
from manifests.files import (
    MAX_JSON_BYTES,
    atomic_write,
    digest_of,
    is_url,
    list_files,
    open_location,
    parse_json,
    read_json,
    read_range,
    require_own_folder,
)
from manifests.manifest_io import file_sha256, join, json_bytes, read_originals
from manifests.records import InputError
from manifests.sample import BLOCK_BYTES, RECORD_BYTES, json_member, member_header, write_end
from manifests.splits.check import ERROR, check_split
from manifests.splits.label_split import LabelSplit, split_table
from manifests.splits.settings import PARTS
from manifests.table import Manifest
from tgprep.extract.plan import mixed_place, shard_size

FACTS_NAME = "split.json"
_CLAIM_NAME = ".tgprep-split.json"
_PIECE_BYTES = 4 * 1024 * 1024
_CARD = """Label split {name} as WebDataset shards, one set for each part, written by `tgprep split --materialise`.

`datasets.load_dataset("THIS FOLDER")` and any reader of WebDataset read them; `split.json` says what they were made from."""


@dataclass(frozen=True, slots=True)
class MaterialisedPart:
    """One part as written."""

    part: str
    num_videos: int
    num_bytes: int
    shards: tuple[str, ...]  # names of its tar files


@dataclass(frozen=True, slots=True)
class Materialised:
    """What the folder holds."""

    folder: Path
    parts: tuple[MaterialisedPart, ...]
    num_shards: int
    num_kept: int  # shards that an earlier run finished
    num_relabelled: int  # samples whose label differs from their class's


@dataclass(frozen=True, slots=True)
class _Piece:
    """One sample: new bytes, then bytes first:last (half-open) of a shard of the data set."""

    key: str
    shard: str
    new_bytes: bytes
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
        """Size of the file with its end."""
        end = sum(len(piece.new_bytes) + piece.last - piece.first for piece in self.pieces) + 2 * BLOCK_BYTES
        return end + -end % RECORD_BYTES


def default_folder(root: str, name: str) -> Path:
    """The folder of a split by default, beside the data set: `dataset-p20-s0-f1`. Raises InputError for a URL."""
    if is_url(root):
        raise InputError(f"{root} is a URL: name a local folder for the shards with --output DIR.")
    folder = Path(root).resolve() if Path(root).name in ("", "..") else Path(root)
    return folder.with_name(f"{folder.name}-{name}")


def materialise(
    manifest: Manifest,
    split: LabelSplit,
    place: str | Path,
    *,
    stop: threading.Event | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Materialised:
    """Write `place/PART-000000.tar ...` for every part of the split that has videos, then `place/split.json`.

    Samples are copied byte for byte from the data set's shards, whose sha256 is checked first; only if the split trains with
    another label than the .json member's, or the video was relabelled, that member gets the class and label. A tar appears once it is complete, and after an interruption
    the same call resumes. stop: set it to end early (KeyboardInterrupt). on_progress: called with bytes done and all bytes.
    Raises InputError if the split must not be used, the folder holds something else, space lacks, or a shard is damaged.
    """
    if problems := [problem.message for problem in check_split(split, manifest) if problem.level == ERROR]:
        raise InputError(
            f"Split {split.name} must not be used: {'; '.join(problems)}. `tgprep split --show` shows more."
        )
    if is_url(place):
        raise InputError(f"--output {place}: a local folder is needed; copy it to the object store afterwards.")
    folder = Path(place)
    content = json.dumps([split_table(split).to_pydict(), split.provenance], sort_keys=True)
    claim = {
        "dataset_digest": manifest.digest,
        "split": split.name,
        "split_sha256": hashlib.sha256(content.encode()).hexdigest(),
    }
    _check_folder(manifest, folder, claim)
    targets, relabelled = _plan(manifest, split)
    with _claimed(folder, claim):
        kept = _finished(folder, targets)
        require_room(folder, sum(target.num_bytes for target in targets if target.name not in kept))
        _write_targets(manifest, folder, targets, kept, stop or threading.Event(), on_progress)
        patterns = {part: f"{part}-*.tar" for part in dict.fromkeys(target.part for target in targets)}
        write_card(folder, patterns, _CARD.format(name=split.name))
        # Written last: a folder with it is complete.
        facts = claim | _facts(manifest, split, folder, targets, relabelled)
        with atomic_write(folder / FACTS_NAME) as file:
            file.write(json_bytes(facts))
    parts = []
    for part, group in itertools.groupby(targets, lambda target: target.part):
        shards = tuple(group)
        num_videos, num_bytes = sum(len(shard.pieces) for shard in shards), sum(shard.num_bytes for shard in shards)
        parts.append(MaterialisedPart(part, num_videos, num_bytes, tuple(shard.name for shard in shards)))
    return Materialised(folder, tuple(parts), len(targets), len(kept), len(relabelled))


def _finished(folder: Path, targets: list[_Target]) -> set[str]:
    """Names of the tar files that an earlier run wrote completely; after a finished run their sha256 must match."""
    recorded: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # then they are written again
        recorded = {shard["name"]: shard["sha256"] for shard in read_json(folder / FACTS_NAME)["shards"]}
    sizes = list_files(folder)
    complete = {target.name for target in targets if sizes.get(target.name) == target.num_bytes}
    return {name for name in complete if recorded.get(name) in (None, file_sha256(folder / name))}


def _check_folder(manifest: Manifest, folder: Path, claim: dict[str, str]) -> None:
    """Raise InputError if the folder is in the data set, or holds anything but this split."""
    if not is_url(manifest.root) and folder.resolve().is_relative_to(Path(manifest.root).resolve()):
        raise InputError(f"--output {folder} lies in the data set {manifest.root}. Name a folder outside of it.")
    markers = (FACTS_NAME, _CLAIM_NAME)
    advice = "Name a new or empty folder with --output."
    try:
        if not require_own_folder(folder, markers, "split", advice, ignored=(CARD_NAME,)):
            return
        marker = next(folder / name for name in markers if (folder / name).exists())
        facts = read_json(marker)
        found = {key: facts[key] for key in claim}
    except OSError as error:
        raise InputError(f"--output {folder} cannot be used as a folder ({error.strerror}).") from None
    except (ValueError, KeyError, TypeError):
        state = "is damaged or of another program"
        raise InputError(f"--output {folder} holds a {marker.name} that {state}. {advice}") from None
    if found != claim:
        other = f"holds split {found['split']} of another data set or draw"
        raise InputError(f"--output {folder} {other}. Name another folder, or remove that one.")


@contextlib.contextmanager
def _claimed(folder: Path, claim: dict[str, str]) -> Iterator[None]:
    """Lock the folder for this process, mark it as this split's, and remove what killed runs left."""
    mark = folder / _CLAIM_NAME
    with held_folder(folder):
        try:
            remove_leftovers(folder)
            with atomic_write(mark) as file:
                file.write(json_bytes(claim))
            yield
            mark.unlink(missing_ok=True)
        finally:
            if not any(folder.glob("*.tar")):  # nothing to resume
                mark.unlink(missing_ok=True)


def _plan(manifest: Manifest, split: LabelSplit) -> tuple[list[_Target], list[dict[str, Any]]]:
    """The tar files to write, and the samples whose label is not that of their class."""
    table = manifest.videos.arrow.select(["key", "class_name", "label", "shard", "sample_offset", "sample_bytes"])
    other_facts = set(read_originals(manifest).videos.samples())
    row_of = {key: row for row, key in enumerate(table.column("key").to_pylist())}
    samples = table.take(pa.array([row_of[key] for key in split.key], pa.int64()))
    columns = (column.to_pylist() for column in samples.columns)
    pieces: list[_Piece] = []
    relabelled = []
    for key, name, label, shard, first, num_bytes, new_label in zip(*columns, split.label.tolist(), strict=True):
        last, new_bytes = first + num_bytes, b""
        if new_label != label or (shard, first) in other_facts:
            new_bytes, first = _relabel(manifest, shard, first, key, name, new_label)
        if new_label != label:
            relabelled.append({"key": key, "label": new_label, "label_of_class": label})
        pieces.append(_Piece(key, shard, new_bytes, first, last))
    # Every part is mixed and cut like the shards of a data set.
    videos_per_shard = int(manifest.header.settings.get("videos_per_shard", 0))
    targets = []
    for part in PARTS:
        chosen = [pieces[row] for row in np.flatnonzero(split.part(part)).tolist()]
        chosen.sort(key=lambda piece: mixed_place(piece.key))
        size = shard_size(len(chosen), videos_per_shard)
        for number, start in enumerate(range(0, len(chosen), size)):
            targets.append(_Target(f"{part}-{number:06d}.tar", part, tuple(chosen[start : start + size])))
    return targets, relabelled


def _relabel(manifest: Manifest, shard: str, offset: int, key: str, class_name: str, label: int) -> tuple[bytes, int]:
    """The .json member of a sample with another class and label, and where the next member begins in the shard."""
    with _open_shard(manifest, shard) as file:
        header = tarfile.TarInfo.frombuf(read_range(file, offset, BLOCK_BYTES), "utf-8", "strict")
        if header.name != f"{key}.json":
            raise ValueError(f"{header.name}, expected {key}.json")
        facts = parse_json(read_range(file, offset + BLOCK_BYTES, min(header.size, MAX_JSON_BYTES)))
        if not isinstance(facts, dict):
            raise ValueError(f"{header.name} is no JSON object")
    content = json_member({**facts, "class_name": class_name, "label": label})
    member = member_header(header.name, len(content)) + content + b"\0" * (-len(content) % BLOCK_BYTES)
    return member, offset + BLOCK_BYTES + header.size + -header.size % BLOCK_BYTES


def _write_targets(
    manifest: Manifest,
    folder: Path,
    targets: list[_Target],
    kept: set[str],
    stop: threading.Event,
    on_progress: Callable[[int, int], None],
) -> None:
    total_bytes = sum(target.num_bytes for target in targets)
    num_bytes = 0
    digests = {shard.name: shard.sha256 for shard in manifest.shards}
    unchecked = {piece.shard: digests.get(piece.shard, "") for target in targets for piece in target.pieces}
    for target in targets:
        if target.name not in kept:
            with atomic_write(folder / target.name) as out:
                for piece in target.pieces:
                    if stop.is_set():
                        raise KeyboardInterrupt
                    out.writelines(_read_piece(manifest, piece, unchecked))
                    on_progress(num_bytes + out.tell(), total_bytes)
                write_end(out)
        num_bytes += target.num_bytes
        on_progress(num_bytes, total_bytes)


def _read_piece(manifest: Manifest, piece: _Piece, unchecked: dict[str, str]) -> Iterator[bytes]:
    """The bytes of a sample in blocks. A shard is compared with its sha256, and leaves `unchecked`, before its first use."""
    with _open_shard(manifest, piece.shard) as file:
        expected = unchecked.pop(piece.shard, None)
        if expected is not None and (sha256 := digest_of(file)[0]) != expected:
            raise ValueError(f"sha256 {sha256[:16]}…, expected {expected[:16]}…")
        yield piece.new_bytes
        file.seek(piece.first)
        num_left = piece.last - piece.first
        while num_left:
            block = file.read(min(num_left, _PIECE_BYTES))
            if not block:
                raise ValueError(f"it ends within {piece.key}")
            yield block
            num_left -= len(block)


@contextlib.contextmanager
def _open_shard(manifest: Manifest, shard: str) -> Iterator[BinaryIO]:
    """Open a shard of the data set; errors inside become an InputError that names it."""
    try:
        with open_location(join(manifest.root, shard)) as file:
            yield file
    except (OSError, ValueError, tarfile.HeaderError) as error:
        reason = getattr(error, "strerror", None) or error
        advice = f"`tgprep check {manifest.root}` shows what is damaged and how to mend it"
        raise InputError(f"{shard}: {reason}. {advice}.") from None


def _facts(
    manifest: Manifest, split: LabelSplit, folder: Path, targets: list[_Target], relabelled: list[dict[str, Any]]
) -> dict[str, Any]:
    """The content of split.json."""
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
    return {
        "format_version": manifest.header.format_version,
        "dataset": manifest.header.dataset,
        "classes": list(manifest.header.classes),
        "provenance": split.provenance,
        "shards": shards,
        "other_labels": relabelled,
    }
