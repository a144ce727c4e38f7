"""The bytes of shards: exact ranges of local tar files. A remote data set brings the same interface, see tgtrain.data.stores.remote."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

_OPEN_FILES = 256
Need = str | int  # what will be read: a whole shard by its name, or the sample of a video by its number in the reader


class Shards(Protocol):
    """What a reader needs of a data set's shards; travels to loader processes."""

    def read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of (offset, size) ranges of one shard. OSError where it is gone, ValueError where it is too short."""

    def expect(self, upcoming: Callable[[], Iterable[Need]]) -> None:
        """Told before something is read: what will be read next, soonest first, so that it can be fetched ahead."""

    def close(self) -> None:
        """Close the files."""


class LocalShards:
    """Shards of a local folder.

    Read by position rather than through a memory map: a file that was cut short gives an error and not a dead process,
    and the kernel reads just the pages asked for (a map reads around every fault: measured, see docs/benchmarks.md).
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: OrderedDict[str, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # files are opened anew in the process that reads

    def read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Shards`."""
        return read_ranges(self._open(name), ranges)

    def expect(self, upcoming: Callable[[], Iterable[Need]]) -> None:
        """See `Shards`: a local disk needs no telling."""

    def close(self) -> None:
        """Close the files; they open again when read."""
        while self.files:
            os.close(self.files.popitem()[1])

    def _open(self, name: str) -> int:
        file = self.files.get(name)
        if file is not None:
            self.files.move_to_end(name)
            return file
        file = open_for_ranges(Path(self.root) / name)
        self.files[name] = file
        if len(self.files) > _OPEN_FILES:
            os.close(self.files.popitem(last=False)[1])
        return file


def open_for_ranges(path: Path) -> int:
    """A descriptor to read scattered ranges from, without read-ahead beyond them."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    return file


def read_ranges(file: int, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of (offset, size) ranges, asked for all at once so that a slow disk works on them together."""
    if len(ranges) > 1 and hasattr(os, "posix_fadvise"):
        for offset, size in ranges:
            os.posix_fadvise(file, offset, size, os.POSIX_FADV_WILLNEED)
    parts = []
    for offset, size in ranges:
        part = os.pread(file, size, offset)
        if len(part) != size:
            raise ValueError(f"the shard ends at byte {offset + len(part)}, expected at least {offset + size}")
        parts.append(part)
    return parts
