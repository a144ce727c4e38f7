"""Check that a data set is what its tables say: every promise of docs/format.md, each finding with its place and remedy."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from manifests.console import plural
from manifests.disk import TEMPORARY_PREFIX
from manifests.files import MAX_JSON_BYTES, find_below, is_url, list_files, parse_json, read_bytes
from manifests.machine import run_threads
from manifests.manifest_io import (
    HEADER_NAME,
    SPLITS_FOLDER,
    file_sha256,
    join,
    json_bytes,
    read_header,
    read_manifest,
    read_originals,
)
from manifests.parquet import seal_holds
from manifests.records import FORMAT_VERSION, WRITTEN, InputError
from manifests.splits.check import ERROR, check_split
from manifests.splits.label_split import list_splits, read_split, split_place
from manifests.table import Manifest, Originals
from tgprep.check.shard import ShardReport, check_shard
from tgprep.check.tables import Finding, check_originals, check_tables, hidden_keys, rows_by_shard
from tgprep.convert.frame_tree import FramesError, frames_digest
from tgprep.scan.pool import Pools
from tgprep.share.tables import outdated_card

_COPY = "restore it from a copy, or extract into a new folder: the same videos and settings give the same bytes"
_SPLIT = "make the split again with `tgprep split ... --name {name} --overwrite`"
_SOURCE = "the video is not the one that was extracted: restore it, or extract into a new folder to have the new one"
_BAD_SEAL = "its sha256 is not the one that it carries: it was changed or damaged"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check read and found. `tgprep check --json` prints these fields."""

    root: str
    deep: bool
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()  # worth knowing, but no breach of the format
    damaged_shards: tuple[str, ...] = ()  # names of shards whose bytes are not those that were written
    num_videos: int = 0
    num_without_label: int = 0
    num_shards: int = 0
    num_bytes: int = 0
    num_frames: int = 0  # JPEG files that were decoded
    num_sources: int = 0  # source files that were compared
    num_splits: int = 0
    quick: bool = False

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def check(
    root: str,
    *,
    deep: bool = False,
    quick: bool = False,
    against: Path | None = None,
    unlabelled: Sequence[Path] = (),
    threads: int = 0,
    stop: threading.Event | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CheckReport:
    """Check the data set at `root` (local path or fsspec URL).

    deep: check the tar structure of every sample, decode every frame and recompute TG.
    quick: of the shards, compare the sizes only.
    against: folder of the source videos, which are compared with the recorded digests. unlabelled: those without a label beside it.
    threads: 0 means one per core. on_progress: called with the number of checked shards and of all shards.
    stop: set it to end early (KeyboardInterrupt).
    Raises InputError if there is no data set, or one of another format version.
    """
    # A damaged header or table ends the check: nothing else can be compared with it.
    if findings := list(_check_header(root)):
        return CheckReport(root, deep, tuple(findings))
    try:
        manifest = read_manifest(root)
        originals = read_originals(manifest)
    except InputError as error:
        place, _, message = str(error).partition(": ")
        return CheckReport(root, deep, (Finding(place if message else root, "table", message or str(error), _COPY),))
    shard_rows = rows_by_shard(manifest, originals)
    findings += [*check_tables(manifest, shard_rows), *check_originals(manifest, originals)]
    if quick:
        reports = list(_check_sizes(manifest, _mend_shard(manifest)))
    else:
        check_one = functools.partial(check_shard, manifest, shard_rows, deep=deep, mend=_mend_shard(manifest))
        reports = run_threads(check_one, manifest.shards, threads, stop, on_progress)
    findings += [finding for report in reports for finding in report.findings]
    sources: list[Finding | None] = []
    if against is not None:
        sources = _check_sources(manifest, against, Pools.of(against, unlabelled), threads, stop)
    findings += filter(None, sources)
    notes = [*_unlabelled(manifest), *_edited(originals), *hidden_keys(manifest), *outdated_card(root)]
    splits = list_splits(root)
    findings += [finding for name in splits for finding in _check_split(manifest, name, notes)]
    findings += _check_unknown_files(manifest, notes)
    return CheckReport(
        root,
        deep,
        tuple(findings),
        tuple(notes),
        tuple(report.name for report in reports if report.damaged),
        num_videos=len(manifest.videos),
        num_without_label=manifest.videos.num_without_label,
        num_shards=len(reports),
        num_bytes=sum(report.num_bytes for report in reports),
        num_frames=sum(report.num_frames for report in reports),
        num_sources=len(sources),
        num_splits=len(splits),
        quick=quick,
    )


def _unlabelled(manifest: Manifest) -> Iterator[str]:
    if count := manifest.videos.num_without_label:
        yield f"{count} of the videos have no label: unlabelled in every split"


def _edited(originals: Originals) -> Iterator[str]:
    if num_dropped := int(originals.dropped.sum()):
        yield f"{plural(num_dropped, 'video was', 'videos were')} dropped: no table names them, their bytes are still in the shards"
    if num_others := len(originals) - num_dropped:
        yield f"{plural(num_others, 'video has', 'videos have')} another class or label than the .json member of their shard says: the tables count"


def _check_header(root: str) -> Iterator[Finding]:
    place = join(root, HEADER_NAME)
    try:
        content = read_bytes(place, MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        read_header(root)  # raises InputError, which says what `root` holds instead
        raise
    try:
        raw = parse_json(content)
        if not isinstance(raw, dict):
            raise ValueError(f"a {type(raw).__name__}, expected an object")
    except ValueError as error:
        yield Finding(place, "header", f"it is not valid JSON ({error})", _COPY)
        return
    digest, blank = raw.get("header_sha256", ""), json_bytes({**raw, "header_sha256": ""})
    if (digest and hashlib.sha256(blank).hexdigest() != digest) or json_bytes(raw) != content:
        yield Finding(place, "header", _BAD_SEAL, _COPY)
        return
    try:
        read_header(root)
    except InputError as error:
        if raw.get("format_version") != FORMAT_VERSION:
            raise
        yield Finding(place, "header", str(error).removeprefix(f"{place}: ").partition(". ")[0], _COPY)


def _check_sizes(manifest: Manifest, mend: str) -> Iterator[ShardReport]:
    """Check that every shard is present and as large as the tables say."""
    sizes = list_files(manifest.root)
    for shard in manifest.shards:
        num_bytes = sizes.get(shard.name, -1)
        kind, found = "shard-size", f"{num_bytes} bytes"
        if num_bytes < 0:
            kind, found = "shard-missing", "the file is missing"
        message = f"{found}, expected {shard.num_bytes} bytes (shards.parquet)"
        findings = (Finding(shard.name, kind, message, mend),) if num_bytes != shard.num_bytes else ()
        yield ShardReport(shard.name, findings, bool(findings), max(num_bytes, 0))


def _mend_shard(manifest: Manifest) -> str:
    root = manifest.root
    if is_url(root):
        return (
            "make this shard alone again: copy the data set to a disk, `tgprep check COPY --against VIDEOS --repair`, and upload "
            "the shard"
        )
    if manifest.header.settings.get("imported") == "rawframes":
        return (
            f"make this shard alone again from the frames that were imported: `tgprep check {root} --against DIR --repair`, DIR the "
            "folder of `tgprep import-rawframes`"
        )
    return f"re-extract this shard alone: `tgprep check {root} --against VIDEOS --repair`"


def _check_sources(
    manifest: Manifest, against: Path, pools: Pools, threads: int, stop: threading.Event | None
) -> list[Finding | None]:
    """Compare the source file of every written video with its recorded size and sha256; None for one that is equal."""
    if not against.is_dir():
        raise InputError(f"--against {against}: no such folder. Name the folder that the videos were extracted from.")
    table = manifest.videos.arrow
    table = table.filter(pc.equal(table.column("status"), WRITTEN))
    columns = (table.column(name).to_pylist() for name in ("path", "num_source_bytes", "source_sha256"))
    sources = dict.fromkeys(zip(*columns, strict=True))  # the segments of a file have one source
    imported = manifest.header.settings.get("imported") == "rawframes"
    if sources and not any(_place_of(pools, against, path).exists() for path, _, _ in sources):
        example = next(iter(sources))[0]
        raise InputError(
            f"--against {against} holds none of the {len(sources)} sources of {manifest.root}, such as {example}. Name the folder that they were extracted from."
        )

    def check_one(row: tuple[str, int, str]) -> Finding | None:
        path, expected_bytes, expected = row
        file = _place_of(pools, against, path)
        try:
            num_bytes, sha256 = frames_digest(file) if imported else (file.stat().st_size, file_sha256(file))
        except (OSError, FramesError) as error:
            message = f"cannot be read: {getattr(error, 'strerror', error)}"
        else:
            if (num_bytes, sha256) == (expected_bytes, expected):
                return None
            message = f"sha256 {sha256[:16]}…, expected {expected[:16]}… (videos.parquet)"
            if num_bytes != expected_bytes:
                message = f"{num_bytes} bytes, expected {expected_bytes} (videos.parquet)"
        return Finding(str(file), "source", message, _SOURCE)

    return run_threads(check_one, list(sources), threads, stop)


def _place_of(pools: Pools, against: Path, path: str) -> Path:
    """Where a source of the table lies now. InputError if its folder was not given."""
    root, name = pools.place_of(against, path)
    return find_below(Path(root), name)


def _check_split(manifest: Manifest, name: str, notes: list[str]) -> Iterator[Finding]:
    place, mend = split_place(manifest.root, name), _SPLIT.format(name=name)
    seal = seal_holds(read_bytes(place))
    if seal is False:
        yield Finding(place, "split-digest", _BAD_SEAL, mend)
        return
    try:
        split = read_split(manifest.root, name)
    except (InputError, OSError) as error:
        yield Finding(place, "split", str(error).removeprefix(place).lstrip(": "), mend)
        return
    if seal is None:
        yield Finding(place, "split-digest", "it carries no sha256: damage to it cannot be detected", mend)
    for problem in check_split(split, manifest):
        if problem.level == ERROR:
            message = f"{problem.message} ({', '.join(problem.examples[:3])})"
            yield Finding(place, f"split-{problem.kind}", message, mend)
        else:
            notes.append(f"split {name}: {problem.message}")


def _check_unknown_files(manifest: Manifest, notes: list[str]) -> Iterator[Finding]:
    """Files in the folder that no table names: a tar that a pattern like shard-*.tar would read is a breach."""
    if is_url(manifest.root):
        return
    known = {shard.name for shard in manifest.shards}
    splits = Path(manifest.root) / SPLITS_FOLDER
    for file in sorted(splits.glob("*.parquet")) if splits.is_dir() else ():
        if not file.is_file():
            yield Finding(str(file), "stranger", "it has the name of a split, yet is no file", "move it elsewhere")
    for file in sorted(Path(manifest.root).iterdir()):
        if file.name.startswith(TEMPORARY_PREFIX):
            notes.append(f"{file}: left over from an interrupted run; it may be deleted")
        elif file.name.startswith("shard-") and file.suffix == ".tar" and file.name not in known:
            message = "no table names this shard, yet readers of shard-*.tar take it"
            yield Finding(str(file), "stranger", message, "move it elsewhere")
