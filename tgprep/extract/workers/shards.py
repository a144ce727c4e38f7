"""What engines take and give: the request, the shards that are planned, written and published, and the events by which a caller follows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from manifests.disk import explained, publish
from manifests.files import Location, below, is_url, upload
from manifests.records import FAILED, ShardRow, SourceVideo, VideoRow
from tgprep.config import ExtractSettings, WorkerSettings
from tgprep.scan.pool import Pools

WORK_FOLDER = ".tgprep"
_MAX_REASON = 500  # characters of an error message that are kept


class StoppedError(Exception):
    """The caller stops the run; the open shard is discarded."""


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
class Workload:
    """The size of an extraction, in videos and bytes of their files. num_kept: finished by earlier runs."""

    num_videos: int
    num_source_bytes: int
    num_kept: int = 0
    num_kept_source_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """An extraction of videos below one location, and in folders of unlabelled ones, into a data set at another."""

    videos: Location
    out: Location
    settings: ExtractSettings
    workers: WorkerSettings
    pools: Pools = field(default_factory=Pools)  # the folders of unlabelled videos
    versions: dict[str, str] = field(default_factory=dict)  # of what decodes and encodes, for the header
    stop: threading.Event = field(default_factory=threading.Event)  # set it to end the run in an orderly way
    on_planned: Callable[[Workload], None] = lambda workload: None  # called once, before the work begins
    on_progress: Callable[[Progress], None] = lambda progress: None  # for every event, from several threads

    @property
    def reads_store(self) -> bool:
        """Whether videos come from an object store."""
        return any(is_url(place) for place in (self.videos, *self.pools.outside.values()))

    @property
    def work(self) -> Location:
        """The work folder."""
        return below(self.out, WORK_FOLDER)


# Writes shards and gives each as it is finished, in any order. The path is the folder for unfinished work; None: each machine makes one.
Engine = Callable[[Sequence[ShardPlan], Request, Path | None], Generator[ShardResult, None, None]]


def publish_shard(temporary: Path, result: ShardResult, out: Location) -> ShardResult:
    """Publish a shard under its final name in OUT, by renaming or one upload, and remove the temporary file.

    temporary: the complete, synced tar, on the disk of OUT or, for a store, in the scratch folder.
    """
    target = below(out, result.shard.name)
    try:
        if isinstance(target, Path):
            publish(temporary, target)
        else:
            upload(temporary, target)
    except OSError as error:
        raise ShardError(f"cannot write {explained(error, target)}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return result


def failed_row(source: SourceVideo, reason: str) -> VideoRow:
    """The row of a video that gave no sample."""
    # Every table and terminal takes the reason: one line, valid UTF-8, limited in length.
    line = " ".join(reason.encode("utf-8", "backslashreplace").decode().split())
    return source.row(FAILED, error=line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]}…")
