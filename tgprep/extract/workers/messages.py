"""Messages between a supervisor and its worker process: one line each, the name of the class and its fields as JSON.

The supervisor sends jobs. The worker answers `Ready` once; then for a shard `VideoBegun`, `FramesDone` now and then, `VideoEncoded`, `VideoDone` for
each video, and `ShardDone`; for headers one `HeaderRead` a file. `JobFailed` ends a job that cannot go on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from manifests.records import SourceVideo, VideoRow
from tgprep.config import ExtractSettings
from tgprep.scan.pool import Pools


@dataclass(frozen=True, slots=True)
class ShardJob:
    """Write one shard, or go on with it after a lost worker."""

    shard: str
    temporary: str  # path of the unfinished tar
    scratch: str  # folder for spools
    videos_root: str  # path or URL
    settings: ExtractSettings
    videos: tuple[SourceVideo, ...]  # still to be packed, in order
    start: int = 0  # bytes of the tar that hold complete samples; the rest is cut off
    worker: int = 0  # number of the supervisor
    pools: dict[str, str] = field(default_factory=dict)  # paths or URLs of folders of unlabelled videos, by name

    def place_of(self, video: SourceVideo) -> tuple[str, str]:
        """The folder or URL that a video lies below, and its path there."""
        root, path = Pools(outside=self.pools).place_of(self.videos_root, video.path)
        return str(root), path


@dataclass(frozen=True, slots=True)
class HeaderJob:
    """Read the headers of video files, nothing else."""

    paths: tuple[str, ...]
    settings: ExtractSettings


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has started and takes jobs."""


@dataclass(frozen=True, slots=True)
class VideoBegun:
    """A video's turn begins; sent again when it has arrived from an object store."""


@dataclass(frozen=True, slots=True)
class FramesDone:
    """Sign of life: frames of the current video so far."""

    num_frames: int


@dataclass(frozen=True, slots=True)
class VideoEncoded:
    """The decoder has ended; the sample is written next."""

    num_frames: int


@dataclass(frozen=True, slots=True)
class VideoDone:
    """A video is packed, or has failed. end: size of the tar with it."""

    row: VideoRow
    end: int


@dataclass(frozen=True, slots=True)
class ShardDone:
    """The tar is closed and on disk."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class HeaderRead:
    """Frames that a container claims: 0 if it does not say, -1 if it cannot be opened. fps: 0.0 unknown."""

    num_frames: int
    fps: float = 0.0


@dataclass(frozen=True, slots=True)
class StoreWarning:
    """An object store answers slowly or with errors."""

    store: str
    text: str


@dataclass(frozen=True, slots=True)
class JobFailed:
    """The job cannot go on, whatever the video: disk full, folder gone, store unreachable."""

    reason: str


Job = ShardJob | HeaderJob
Answer = Ready | VideoBegun | FramesDone | VideoEncoded | VideoDone | ShardDone | HeaderRead | StoreWarning | JobFailed
_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    kind.__name__: TypeAdapter(kind) for kind in (*Job.__args__, *Answer.__args__)
}


def encode(message: Job | Answer) -> bytes:
    """The message as one line."""
    name = type(message).__name__
    # Not pydantic's own JSON: it refuses the undecodable bytes that a path may have, and numbers that are none.
    return f"{name} {json.dumps(_ADAPTERS[name].dump_python(message))}\n".encode()


def decode(line: bytes) -> Any:
    """The message in a line of `encode`."""
    name, _, fields = line.partition(b" ")
    return _ADAPTERS[name.decode()].validate_python(json.loads(fields))
