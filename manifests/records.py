"""The values that both sides agree on: rows of the tables, the header of a data set, and the error for users."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


FORMAT_VERSION = 1


WRITTEN = "written"
FAILED = "failed"
SKIPPED = "skipped"
STATUSES = (WRITTEN, FAILED, SKIPPED)


class InputError(Exception):
    """A mistake in what the user gave: shown as one message (what, where, got, expected, what to do), exit code 2."""


@dataclass(frozen=True, slots=True)
class SourceVideo:
    """One input video as the scan found it.

    key: `Class/stem`, only `[A-Za-z0-9_-]` and one `/`; unique in the data set.
    path: relative to VIDEOS, POSIX separators, the user's own spelling.
    label: line number of the class in the class list, from 0.
    group: the actor or scene the video was cut from (`g01`), "" where the data set names none.
    subsets: per official fold (fold 1 first) one of "train", "val", "test", "unused", "" (in no list).
    num_source_bytes: size of the file at scan time.
    """

    key: str
    path: str
    class_name: str
    label: int
    group: str = ""
    subsets: tuple[str, ...] = ()
    num_source_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Members:
    """Where the members of one sample lie: absolute byte offsets in the shard file and sizes in bytes.

    rgb: the member with the frames, .rgb.mjpeg or .mp4.
    `index` members are .npy files of uint64 frame offsets (T+1 numbers for T frames); -1 and 0 where a member is absent.
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
        if kind == "rgb":
            return self.rgb_index_offset, self.rgb_index_bytes, self.rgb_offset, self.rgb_bytes
        if kind == "tg":
            return self.tg_index_offset, self.tg_index_bytes, self.tg_offset, self.tg_bytes
        return self.flow_index_offset, self.flow_index_bytes, self.flow_offset, self.flow_bytes


@dataclass(frozen=True, slots=True)
class VideoRow:
    """One row of videos.parquet: a source video, what became of it, and where its sample lies.

    status: written, failed (with `error`) or skipped (with `error`).
    shard, sample_offset, sample_bytes: the tar file and the half-open byte range of the sample's members in it.
    num_frames: T, frames decoded; num_frames_header: what the container claims (-1 unknown: never trusted).
    fps: frames per second as the container says, 0.0 unknown. height, width: of the stored frames, pixels.
    """

    key: str
    path: str
    class_name: str
    label: int
    group: str
    subsets: tuple[str, ...]
    status: str
    error: str = ""
    note: str = ""
    shard: str = ""
    sample_offset: int = -1
    sample_bytes: int = 0
    members: Members = field(default_factory=Members)
    num_frames: int = 0
    num_frames_header: int = -1
    fps: float = 0.0
    height: int = 0
    width: int = 0
    codec: str = ""
    pixel_format: str = ""
    rotation_degrees: int = 0
    num_source_bytes: int = 0
    source_sha256: str = ""

    @property
    def stem(self) -> str:
        """The key without its class."""
        return self.key.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One row of shards.parquet: a finished tar file, its number of samples, its size and its digest."""

    name: str
    num_videos: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class GradientCoding:
    """How TG frames were computed, so that `check` can compute them again.

    source: "decoded" (frames as decoded), "jpeg" (frames decoded again from the stored JPEGs, as the reference does) or
        "video" (frames decoded from the stored .mp4: `--store video`).
    space: "rgb" or "ycbcr420" (the same affine map on the Y, Cb and Cr planes).
    stored: whether the shards hold TG members; False means: derive TG from the RGB frames while reading.
    zero_level: the grey level that stands for no motion.
    """

    source: str = "decoded"
    space: str = "rgb"
    stored: bool = True
    zero_level: int = 127


@dataclass(frozen=True, slots=True)
class ManifestHeader:
    """dataset.json: what the data set is and how it was made; written last, so a folder without it is unfinished."""

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
