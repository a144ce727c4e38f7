"""The values that extraction and training share: rows of the tables, the header of a data set, the error for users."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

FORMAT_VERSION = 1
NO_LABEL = -1  # of a video whose class is unknown; its class name is empty
MAX_NAME_BYTES = 1024  # of a class or group
MAX_FPS = 1e9  # of a video; more is no rate, but damage
MAX_SECONDS = 1e7  # of a file: four months
MAX_PICTURE_PIXELS = 2**26  # of a stored frame: 8192 x 8192, which takes 200 MB when it is decoded

WRITTEN = "written"
FAILED = "failed"
SKIPPED = "skipped"
STATUSES = (WRITTEN, FAILED, SKIPPED)


class InputError(Exception):
    """A mistake in the user's input, shown as one message (what, where, got, expected, what to do); exit code 2."""


SEGMENT_FIELDS = ("start_seconds", "end_seconds")  # of a row; columns of data sets with segments alone
Place = tuple[str, float, float]  # path, start and end in seconds


@dataclass(frozen=True, slots=True)
class SourceVideo:
    """One input video, as the scan reports it."""

    key: str  # `Class/stem`: only `[A-Za-z0-9_-]` and one `/`; unique in the data set
    path: str  # relative to VIDEOS, with POSIX separators, in the user's spelling
    class_name: str  # "": unknown
    label: int  # line number of the class in the class list, from 0; NO_LABEL: unknown
    group: str = ""  # the actor or scene the video was cut from (`g01`), "" if the data set names none
    subsets: tuple[str, ...] = ()  # per official fold, in order: "train", "val", "test", "unused" or "" (in no list)
    num_source_bytes: int = 0  # size of the file at the time of the scan
    # Half-open, in seconds from the start of the file. In a data set without segments both are -1; in one with segments 0 and -1 are
    # the whole file.
    start_seconds: float = -1.0
    end_seconds: float = -1.0

    @property
    def is_segment(self) -> bool:
        """Whether it is a part of its file."""
        return self.end_seconds >= 0

    @property
    def place(self) -> Place:
        """The part of which file it is: unique in a data set."""
        return self.path, self.start_seconds, self.end_seconds

    def row(self, status: str, **columns: Any) -> VideoRow:
        """The video's row in videos.parquet, with the columns that the scan did not know."""
        return VideoRow(**{name: getattr(self, name) for name in _SOURCE_FIELDS} | columns, status=status)


@dataclass(frozen=True, slots=True)
class Members:
    """Byte offsets (from the beginning of the shard) and sizes of the members of one sample; -1 and 0 if a member is absent.

    rgb: the member with the frames, .rgb.mjpeg or .mp4. index: .npy files of uint64 frame offsets, T+1 numbers for T frames.
    """

    rgb_index_offset: int = -1
    rgb_index_bytes: int = 0
    rgb_offset: int = -1
    rgb_bytes: int = 0
    tg_index_offset: int = -1
    tg_index_bytes: int = 0
    tg_offset: int = -1
    tg_bytes: int = 0
    flow_index_offset: int = -1
    flow_index_bytes: int = 0
    flow_offset: int = -1
    flow_bytes: int = 0

    def place(self, kind: str) -> tuple[int, int, int, int]:
        """index_offset, index_bytes, offset, bytes of a kind of frames: "rgb", "tg" or "flow"."""
        rgb = self.rgb_index_offset, self.rgb_index_bytes, self.rgb_offset, self.rgb_bytes
        tg = self.tg_index_offset, self.tg_index_bytes, self.tg_offset, self.tg_bytes
        flow = self.flow_index_offset, self.flow_index_bytes, self.flow_offset, self.flow_bytes
        return {"rgb": rgb, "tg": tg, "flow": flow}[kind]


@dataclass(frozen=True, slots=True)
class VideoRow:
    """One row of videos.parquet: a source video, its status, and the location of its sample.

    The columns that SourceVideo has too are explained there.
    """

    key: str
    path: str
    class_name: str
    label: int
    group: str
    subsets: tuple[str, ...]
    status: str  # one of STATUSES
    error: str = ""  # why the video failed or was skipped
    note: str = ""
    shard: str = ""  # name of the tar file
    sample_offset: int = -1  # first byte of the sample in the shard
    sample_bytes: int = 0
    members: Members = field(default_factory=Members)
    num_frames: int = 0  # T, frames decoded
    num_frames_header: int = -1  # what the container claims, never trusted; -1: unknown
    fps: float = 0.0  # frames per second according to the container; 0.0: unknown
    height: int = 0  # of the stored frames, in pixels
    width: int = 0
    codec: str = ""
    pixel_format: str = ""
    rotation_degrees: int = 0
    num_source_bytes: int = 0
    source_sha256: str = ""
    start_seconds: float = -1.0
    end_seconds: float = -1.0

    @property
    def source(self) -> SourceVideo:
        """The video as the scan reported it."""
        return SourceVideo(**{name: getattr(self, name) for name in _SOURCE_FIELDS})

    @property
    def place(self) -> Place:
        """As `SourceVideo.place`."""
        return self.path, self.start_seconds, self.end_seconds


_SOURCE_FIELDS = tuple(column.name for column in fields(SourceVideo))


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One row of shards.parquet: a finished tar file, its number of samples, its size and its digest."""

    name: str
    num_videos: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class GradientCoding:
    """How TG frames were computed, so that `check` can compute them again."""

    source: str = "decoded"
    """The frames used: "decoded" (from the input), "jpeg" (decoded again from the stored JPEG files, as the reference does) or
    "video" (decoded from the stored .mp4, `--store video`)."""
    space: str = "rgb"  # or "ycbcr420": the same affine map on the Y, Cb and Cr planes
    stored: bool = True  # whether the shards hold TG members; if not, TG is derived from the RGB frames while reading
    zero_level: int = 127  # the grey level of no motion


@dataclass(frozen=True, slots=True)
class ManifestHeader:
    """dataset.json: what the data set is and how it was made. Written last, so a folder without it is unfinished."""

    dataset: str
    classes: tuple[str, ...]
    gradient: GradientCoding
    settings: dict[str, str | int | float | bool]
    versions: dict[str, str]
    num_folds: int = 0
    num_written: int = 0
    num_failed: int = 0
    num_skipped: int = 0
    videos_sha256: str = ""
    shards_sha256: str = ""
    header_sha256: str = ""
    format_version: int = FORMAT_VERSION
    originals_sha256: str = ""  # of originals.parquet; "" (and no field in dataset.json) if there is none
    changes: tuple[
        dict[str, str | int], ...
    ] = ()  # what merged, dropped and relabelled videos since they were extracted
