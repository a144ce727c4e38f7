"""Decoded sample videos, the state of a web server, and archives made in memory."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

CONTENT = np.random.default_rng(1).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
FILES = {"kinetics400/train.csv": b"label,youtube_id\n", "kinetics400/deep/er.txt": b"x"}


def decode(file: Path) -> list[npt.NDArray[np.uint8]]:
    """The frames of a video file, RGB."""
    with av.open(str(file)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@dataclass
class Site:
    """Files by name, how the server must misbehave, and (name, Range header) of every request."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    drop_after: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    ranges: bool = True
    lie_bytes: int = 0
    redirect: str = ""  # for every request but those of "end.bin"
    headers: dict[str, str] = field(default_factory=dict)  # in place of those of an honest answer


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as pack:
        for name, content in files.items():
            pack.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as pack:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            pack.addfile(entry, io.BytesIO(content))
        if link:
            entry = tarfile.TarInfo("link")
            entry.type, entry.linkname = tarfile.SYMTYPE, link
            pack.addfile(entry)
    return buffer.getvalue()


def rarred(entries: list[tuple[str, bytes, int]]) -> bytes:
    """A .rar (version 4, nothing compressed) of (name, content, Unix mode), written from the description of the format, in
    which folders are parted by backslashes."""

    def block(kind: int, flags: int, body: bytes, content: bytes = b"") -> bytes:
        head = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
        return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head + content

    packed = b"Rar!\x1a\x07\x00" + block(0x73, 0, bytes(6))
    for name, content, mode in entries:
        body = struct.pack(
            "<IIBIIBBHI", len(content), len(content), 3, zlib.crc32(content), 0x5A21A000, 20, 0x30, len(name), mode
        )
        packed += block(0x74, 0x8000, body + name.replace("/", "\\").encode(), content)
    return packed + block(0x7B, 0x4000, b"")
