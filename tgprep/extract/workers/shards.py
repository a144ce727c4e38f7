"""Shards as values: planned, in progress, made, and put in place under their final name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from manifests.files import Location, below, publish, upload
from manifests.records import FAILED, ShardRow, SourceVideo, VideoRow

_MAX_REASON = 500  # characters of an error message that are kept


class StoppedError(Exception):
    """The run was told to stop; the open shard is discarded."""


class ShardError(Exception):
    """A shard cannot be written (disk full, folder gone): the run ends, finished shards stay."""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard to be: its file name and its videos, in order."""

    name: str
    videos: tuple[SourceVideo, ...]


@dataclass(frozen=True, slots=True)
class ShardResult:
    """A finished shard and the rows of all its videos, failed ones included."""

    shard: ShardRow
    videos: tuple[VideoRow, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """What watchers are told: `row` when a video has ended, else frames of the current one. worker: 0-based."""

    worker: int
    key: str
    frames: int
    row: VideoRow | None = None


@dataclass(frozen=True, slots=True)
class MadeShard:
    """A whole, synced shard under a temporary name, on the disk of OUT or, for a store, in the scratch folder."""

    temporary: Path
    result: ShardResult


def put_in_place(made: MadeShard, out: Location) -> ShardResult:
    """Give a shard its final name in OUT: by renaming, or by one upload. The temporary file is gone after it."""
    target = below(out, made.result.shard.name)
    try:
        if isinstance(target, Path):
            publish(made.temporary, target)
        else:
            upload(made.temporary, target)
    except OSError as error:
        raise ShardError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        made.temporary.unlink(missing_ok=True)
    return made.result


def failed_row(source: SourceVideo, reason: str) -> VideoRow:
    """The row of a video that gave no sample."""
    return VideoRow(
        key=source.key,
        path=source.path,
        class_name=source.class_name,
        label=source.label,
        group=source.group,
        subsets=source.subsets,
        status=FAILED,
        error=_one_line(reason),
        num_source_bytes=source.num_source_bytes,
    )


def _one_line(text: str) -> str:
    """Text that every table and terminal takes: one line, valid UTF-8, not endless."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]}…"
