"""A spool holds the frames of a video until its sample is packed: in memory, or in a temporary file if the video is long."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import BinaryIO

BYTES_IN_MEMORY = 32 * 1024 * 1024


class Spool(io.RawIOBase):
    """A file that is written once, then read from its start. Pieces in memory are returned without a copy.

    scratch: folder for the temporary file, which has no name and disappears with the process.
    """

    def __init__(self, scratch: Path, bytes_in_memory: int = BYTES_IN_MEMORY) -> None:
        super().__init__()
        self._scratch = scratch
        self._bytes_in_memory = bytes_in_memory
        self._pieces: list[bytes] = []
        self._num_bytes = 0
        self._next = 0
        self.file: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def write(self, piece: bytes) -> int:  # type: ignore[override]  # bytes, which do not change
        """Add a piece at the end."""
        if self.file is not None:
            return self.file.write(piece)
        self._pieces.append(piece)
        self._num_bytes += len(piece)
        if self._num_bytes > self._bytes_in_memory:
            self.file = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115
            self.file.writelines(self._pieces)
            self._pieces.clear()
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go back to the start; no other position is possible."""
        if offset or whence != io.SEEK_SET:
            raise io.UnsupportedOperation("a spool is read from its start")
        self._next = 0
        return self.file.seek(0) if self.file is not None else 0

    def read(self, size: int = -1) -> bytes:
        """The next piece, whatever its size, or everything left if size is negative; b"" at the end."""
        if self.file is not None:
            return self.file.read(size)
        if size < 0:
            rest, self._next = b"".join(self._pieces[self._next :]), len(self._pieces)
            return rest
        if self._next == len(self._pieces):
            return b""
        self._next += 1
        return self._pieces[self._next - 1]

    def close(self) -> None:
        """Release memory and file."""
        self._pieces.clear()
        if self.file is not None:
            self.file.close()
        super().close()
