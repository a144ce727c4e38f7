"""One sample of a shard: a video's frames as members of a plain ustar tar, as extraction writes and training reads it.

Members of every sample, in this order (docs/format.md):

    {key}.json               facts of the video: no null, the same fields and types in every sample
    {key}.rgb.offsets.npy    uint64[T+1], byte offsets of the T frames in the next member (half-open)
    {key}.rgb.mjpeg          T JPEG files back to back
    {key}.tg.offsets.npy     uint64[T]
    {key}.tg.mjpeg           T-1 JPEG files; TG_k belongs to frames k and k+1
    {key}.flow.offsets.npy   uint64[T]
    {key}.flow.mjpeg         T-1 JPEG files: magnitude, y and x of the motion from frame k to k+1

The flow members exist only with `--flow`, the tg members unless the gradient is derived while reading. With `--store video` the members
are:

    {key}.json
    {key}.mp4.offsets.npy    uint64[T+1], where the coded picture of each of the T frames lies in the next member (half-open)
    {key}.mp4                H.264, no B-frames, a self-contained picture every `video_gop` frames: TG is derived while reading
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from manifests.records import SEGMENT_FIELDS, GradientCoding, ManifestHeader, Members, VideoRow

BLOCK_BYTES = 512
RECORD_BYTES = 10240
MAX_MEMBER_BYTES = 8 * 1024**3 - 1  # ustar writes sizes as 11 octal digits

Meta = dict[str, str | int | float]
Settings = Mapping[str, str | int | float | bool]


def sample_facts(row: VideoRow, settings: Settings, gradient: GradientCoding) -> Meta:
    """The content of a sample's .json member: what it repeats of its row and of dataset.json, in the member's order."""
    return {
        "key": row.key,
        "class_name": row.class_name,
        "label": row.label,
        "group": row.group,
        "num_frames": row.num_frames,
        "fps": row.fps,
        "height": row.height,
        "width": row.width,
        "source_path": row.path,
        "source_sha256": row.source_sha256,
        **({name: getattr(row, name) for name in SEGMENT_FIELDS} if row.start_seconds >= 0 else {}),
        "codec": row.codec,
        "pixel_format": row.pixel_format,
        **_coding_facts(settings),
        "gradient_source": gradient.source,
        "gradient_space": gradient.space,
    }


def _coding_facts(settings: Settings) -> Meta:
    facts: Meta = {}
    if settings.get("store") == "video":
        facts = {"video_crf": int(settings["crf"]), "video_gop": int(settings["gop"])}
    elif isinstance(quality := settings.get("quality"), int):
        facts = {"jpeg_quality": quality}
    return facts | {"flow": method} if (method := flow_method(settings)) else facts


class MemberTooLargeError(Exception):
    """A member is larger than a ustar tar can hold (8 GiB)."""


@dataclass(slots=True)
class FrameSpool:
    """JPEG files back to back in a temporary file; frame k is at offsets[k]:offsets[k+1]."""

    file: BinaryIO
    offsets: list[int] = field(default_factory=lambda: [0])

    def append(self, jpeg: bytes) -> None:
        """Add one frame."""
        self.file.write(jpeg)
        self.offsets.append(self.offsets[-1] + len(jpeg))

    @property
    def num_frames(self) -> int:
        """Number of frames so far."""
        return len(self.offsets) - 1

    @property
    def num_bytes(self) -> int:
        """Number of bytes so far."""
        return self.offsets[-1]


@dataclass(frozen=True, slots=True)
class Mp4Spool:
    """An .mp4 of num_bytes in a temporary file; the coded picture of frame k is at offsets[k]:offsets[k+1]."""

    file: BinaryIO
    offsets: list[int]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class EncodedVideo:
    """A video ready to be packed."""

    key: str
    meta: Meta  # content of the .json member, see `sample_facts`
    rgb: FrameSpool | Mp4Spool
    tg: FrameSpool | None  # None: not stored
    flow: FrameSpool | None = None


def write_sample(tar: BinaryIO, encoded: EncodedVideo) -> tuple[int, int, Members]:
    """Append a sample to a tar; return (sample_offset, sample_bytes, members).

    The bytes depend on the sample alone: fixed time, owner, mode and order.
    Raises MemberTooLargeError, before anything is written, if a member exceeds 8 GiB.
    """
    # All sizes are checked before the first write, so that a video which does not fit leaves no rest in the shard.
    for spool in (encoded.rgb, encoded.tg, encoded.flow):
        if spool is not None and spool.num_bytes > MAX_MEMBER_BYTES:
            raise MemberTooLargeError(
                f"{spool.num_bytes} bytes of frames in one member, at most {MAX_MEMBER_BYTES} fit"
            )
    start = tar.tell()
    assert start % BLOCK_BYTES == 0, start
    facts = json_member(encoded.meta)
    _write_member(tar, f"{encoded.key}.json", io.BytesIO(facts), len(facts))
    # The order of members is part of the format: index and frames of RGB, TG, flow.
    places: list[int] = []
    for kind, spool in (("rgb", encoded.rgb), ("tg", encoded.tg), ("flow", encoded.flow)):
        if spool is None:
            places += (-1, 0, -1, 0)
            continue
        names = frame_members(kind, isinstance(spool, Mp4Spool))
        index = encode_offsets(spool.offsets)
        places += _write_member(tar, f"{encoded.key}.{names[0]}", io.BytesIO(index), len(index))
        spool.file.seek(0)
        places += _write_member(tar, f"{encoded.key}.{names[1]}", spool.file, spool.num_bytes)
    return start, tar.tell() - start, Members(*places)


def write_end(tar: BinaryIO) -> None:
    """Write the end of the archive: two zero blocks, padded to a full record."""
    end = tar.tell() + 2 * BLOCK_BYTES
    tar.write(b"\0" * (2 * BLOCK_BYTES + -end % RECORD_BYTES))


def json_member(meta: Meta) -> bytes:
    """Encode the .json member."""
    return (json.dumps(meta, ensure_ascii=False) + "\n").encode()


def member_header(name: str, num_bytes: int) -> bytes:
    """Make the 512 bytes of ustar header before a member. ValueError if the name is too long."""
    header = tarfile.TarInfo(name)
    header.size, header.mode = num_bytes, 0o644
    return header.tobuf(format=tarfile.USTAR_FORMAT, encoding="utf-8")


def encode_offsets(offsets: Sequence[int] | npt.NDArray[np.uint64]) -> bytes:
    """Encode the .offsets.npy member: a standard .npy file of uint64."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(offsets, dtype="<u8"), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


# The header of an index as `encode_offsets` writes it.
_NPY_HEAD_BYTES = 128
_NPY_HEAD = re.compile(
    rb"\x93NUMPY\x01\x00\x76\x00\{'descr': '<u8', 'fortran_order': False, 'shape': \((\d{1,9}),\), \} *\n"
)


def decode_offsets(npy: bytes | memoryview, *, mp4: bool = False) -> npt.NDArray[np.uint64]:
    """Decode an .offsets.npy member; ValueError if it is damaged or does not increase.

    mp4: the frames do not begin at the first byte of their member.
    """
    head = _NPY_HEAD.fullmatch(bytes(npy[:_NPY_HEAD_BYTES]))
    try:
        if head is not None and len(npy) == _NPY_HEAD_BYTES + 8 * int(head[1]):
            # numpy's own parsing takes as long as decoding half a JPEG.
            array = np.frombuffer(npy, "<u8", offset=_NPY_HEAD_BYTES)
        else:
            array = np.lib.format.read_array(io.BytesIO(npy), allow_pickle=False)
    except Exception as error:  # a damaged header is parsed as Python text and fails in as many ways
        raise ValueError(f"not a valid .npy file ({type(error).__name__}: {error})") from None
    valid = array.dtype == np.uint64 and array.ndim == 1 and len(array) >= 1
    if not valid or (array[0] == 0) == mp4 or np.any(array[1:] <= array[:-1]):
        raise ValueError(f"frame offsets must be uint64, start {'behind' if mp4 else 'at'} 0 and rise")
    return array


def frame_members(kind: str, mp4: bool = False) -> tuple[str, str]:
    """Suffixes of the names of an index and of its frames. kind: "rgb", "tg" or "flow"; mp4: made with `--store video`."""
    return ("mp4.offsets.npy", "mp4") if mp4 else (f"{kind}.offsets.npy", f"{kind}.mjpeg")


def video_gop(header: ManifestHeader) -> int:
    """Frames from one self-contained picture to the next in the .mp4 members; 0 if the frames are JPEG files."""
    return int(header.settings["gop"]) if header.settings.get("store") == "video" else 0


def coded_pixels(height: int, width: int) -> int:
    """The most pixels that FFmpeg takes for a picture of this size, both sides rounded up to the alignment of its buffers.

    A decoder is given it as its limit, because a stranger's video of a few kB may say that it is of gigabytes.
    """
    return -(-height // 64) * 64 * -(-width // 64) * 64


def flow_method(settings: Settings) -> str:
    """How the stored flow was computed ("dis" or "farneback"); "" if a data set with these settings stores none."""
    method = settings.get("flow", "none")
    return "" if method == "none" else str(method)


def _write_member(tar: BinaryIO, name: str, content: BinaryIO, num_bytes: int) -> tuple[int, int]:
    tar.write(member_header(name, num_bytes))
    offset = tar.tell()
    shutil.copyfileobj(content, tar, 1024 * 1024)
    assert tar.tell() - offset == num_bytes, f"{name}: {tar.tell() - offset} bytes copied, {num_bytes} promised"
    tar.write(b"\0" * (-num_bytes % BLOCK_BYTES))
    return offset, num_bytes
