"""Shards as values: planned, in progress, complete, and published under their final name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from manifests.files import Location, below, publish, upload
from manifests.records import FAILED, ShardRow, SourceVideo, VideoRow

_MAX_REASON = 500  # characters of an error message that are kept


class StoppedError(Exception):
    """The run was asked to stop; the open shard is discarded."""


class ShardError(Exception):
    """A shard cannot be written (disk full, folder gone): the run ends, finished shards stay."""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """A shard to write: its file name and its videos, in order."""

    name: str
    videos: tuple[SourceVideo, ...]


@dataclass(frozen=True, slots=True)
class ShardResult:
    """A finished shard and the rows of all its videos, failed ones included."""

    shard: ShardRow
    videos: tuple[VideoRow, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """One event of a worker: `row` if a video has ended, else the frames of the current one. worker: counted from 0."""

    worker: int
    key: str
    frames: int
    row: VideoRow | None = None


@dataclass(frozen=True, slots=True)
class UnpublishedShard:
    """A complete, synced shard under a temporary name, on the disk of OUT or, for a store, in the scratch folder."""

    temporary: Path
    result: ShardResult


def publish_shard(unpublished: UnpublishedShard, out: Location) -> ShardResult:
    """Publish a shard under its final name in OUT, by renaming or one upload, and remove the temporary file."""
    target = below(out, unpublished.result.shard.name)
    try:
        if isinstance(target, Path):
            publish(unpublished.temporary, target)
        else:
            upload(unpublished.temporary, target)
    except OSError as error:
        raise ShardError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        unpublished.temporary.unlink(missing_ok=True)
    return unpublished.result


def failed_row(source: SourceVideo, reason: str) -> VideoRow:
    """The row of a video that gave no sample."""
    return source.row(FAILED, error=_one_line(reason))


def _one_line(text: str) -> str:
    """Text that every table and terminal takes: one line, valid UTF-8, limited in length."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]}…"
