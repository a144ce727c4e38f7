"""Shards of a local folder: exact ranges of its tar files."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manifests.files import open_regular
from manifests.machine import advise
from tgtrain.data.stores import Shards

_MAX_OPEN_FILES = 256
_LARGE_BYTES = 16 * 1024 * 1024


class LocalShards(Shards):
    """Shards of a local folder.

    Read by position and not through a memory map: a file that was cut short raises an error instead of killing the process,
    and the kernel reads only the pages of the range (a map reads around every fault; measured, see docs/benchmarks.md).
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: OrderedDict[str, int] = OrderedDict()  # descriptors, least recently used first

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalShards, (self.root,)

    def read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Shards`."""
        if name not in self.files:
            file = self.files[name] = open_regular(Path(self.root) / name)
            advise(file, "RANDOM")  # no read-ahead beyond the ranges
            if len(self.files) > _MAX_OPEN_FILES:
                os.close(self.files.popitem(last=False)[1])
        self.files.move_to_end(name)
        return read_ranges(self.files[name], ranges)

    def close(self) -> None:
        """See `Shards`."""
        while self.files:
            os.close(self.files.popitem()[1])


def read_ranges(file: int, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of (offset, size) ranges. All are requested at once, so that a slow disk works on them together."""
    if len(ranges) > 1:
        for offset, size in ranges:
            advise(file, "WILLNEED", offset, size)
    parts = []
    end = os.fstat(file).st_size if any(size > _LARGE_BYTES for _, size in ranges) else None
    for offset, size in ranges:
        if end is not None and offset + size > end:  # before memory is taken for it
            raise ValueError(f"the shard ends at byte {end}, expected at least {offset + size}")
        part = os.pread(file, size, offset)
        if len(part) != size:
            raise ValueError(f"the shard ends at byte {offset + len(part)}, expected at least {offset + size}")
        parts.append(part)
    return parts
