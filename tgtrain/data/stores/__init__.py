"""Reading modes: how the bytes of shards reach a reader, one implementation of `Shards` a mode.

`local`: files of a folder. `remote`: an object store or web server, through a cache on local disk. `sequential`: each shard from
its beginning (data.reader=stream).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from tgtrain.data.stores.cache import Cache
from tgtrain.data.stores.shard_source import ShardSource
from tgtrain.data.stores.video_index import Need


class Shards(Protocol):
    """What readers and datasets need of a reading mode. It is pickled into loader processes, where files open again."""

    cache: Cache | None = None  # the cache that shards pass through; None if there is none
    by_ranges: bool = False  # clips are read from the store, and not through the cache
    source: ShardSource | None = None
    """The source of samples in stored order if shards can only be read from their beginning; else None."""

    def read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of (offset, size) ranges of one shard. OSError if it is missing, ValueError if it is too short."""
        raise NotImplementedError

    def expect(self, upcoming: Callable[[], Iterable[Need]], *, one_clip: bool = False) -> None:
        """Announce what will be read next, soonest first, so that it can be fetched ahead. Does nothing by default.

        one_clip: of each video a single clip is read, and then no other for long.
        """
        return

    def share(self, videos: Sequence[int], rank: int, num_ranks: int, num_workers: int) -> list[int]:
        """Positions in `videos` that a rank evaluates, in reading order; loader process k takes every num_workers-th."""
        return list(range(rank, len(videos), num_ranks))

    def close(self) -> None:
        """Close files and stop fetching; a later read opens them again."""
        return
