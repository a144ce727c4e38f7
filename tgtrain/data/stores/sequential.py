"""Shards that can only be read from their beginning (`data.reader=stream`).

The manifest says what a shard must hold, so a stream that ends early or holds something else is noticed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from manifests.sample import frame_members
from tgtrain.data.stores import Shards
from tgtrain.data.stores.shard_source import TRIES, BrokenStreamError, Members, ShardSource
from tgtrain.data.stores.video_index import SampleTable, StoredVideo, VideoIndex

_KINDS = ("rgb", "tg", "flow")


@dataclass(frozen=True, slots=True)
class HeldSample:
    """Bytes of one sample in memory: pieces, each with its offset in the shard."""

    pieces: tuple[tuple[int, bytes], ...] = ()

    @property
    def num_bytes(self) -> int:
        """Of all pieces."""
        return sum(len(content) for _, content in self.pieces)

    def read(self, offset: int, size: int) -> bytes:
        """A range of the shard. ValueError if it is not in memory."""
        for start, content in self.pieces:
            if start <= offset and offset + size <= start + len(content):
                return content[offset - start : offset - start + size]
        raise ValueError(f"bytes {offset} to {offset + size} of the shard are missing")

    def only(self, ranges: Iterable[tuple[int, int]]) -> HeldSample:
        """A copy with these (offset, size) ranges of the shard alone."""
        return HeldSample(tuple((offset, self.read(offset, size)) for offset, size in dict.fromkeys(ranges)))


class MemoryShards(Shards):
    """The shard of the one sample that is in memory."""

    def __init__(self) -> None:
        self.sample = HeldSample()

    def read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Shards`."""
        return [self.sample.read(*each) for each in ranges]


@dataclass(slots=True)
class _ShardHistory:
    """What the streams of a shard have brought so far."""

    keys: set[str] = field(default_factory=set)
    num_ends: int = 0  # how often it was read to its end
    reason: str = "its shard ends before it"  # why a sample did not come


class SequentialShards(Shards):
    """Shards read from their beginning, for readers that take samples in stored order.

    The stream of the shard that was read last stays open: a sample further on is waited for, an earlier one starts it again.
    """

    source: ShardSource

    def __init__(self, source: ShardSource, index: VideoIndex) -> None:
        self.source, self.index = source, index
        self.samples = SampleTable(index)
        self.history: dict[str, _ShardHistory] = defaultdict(_ShardHistory)
        self.held, self.held_shard = HeldSample(), ""
        self.open_shard, self.stream = "", _no_samples()

    def __reduce__(self) -> tuple[Any, ...]:
        return SequentialShards, (self.source, self.index)

    def read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Shards`. ValueError if the stream has no such sample, or a different one under its key."""
        if name == self.held_shard:
            try:
                return [self.held.read(*each) for each in ranges]
            except ValueError:
                pass  # of another sample of this shard
        self.held_shard = ""
        video = self.index[self.samples.video_at(name, ranges[0][0])]
        self.held = held_sample(video, self._members(name, video.key))
        self.held_shard = name
        return [self.held.read(*each) for each in ranges]

    def share(self, videos: Sequence[int], rank: int, num_ranks: int, num_workers: int) -> list[int]:
        """See `Shards`. Neighbours stay together, and each loader process goes forward through videos of its own."""
        numbers = np.asarray(videos, np.int64)
        stored = np.lexsort((self.samples.starts[numbers], self.index.shard[numbers]))
        parts = np.array_split(np.array_split(stored, num_ranks)[rank], max(1, num_workers))
        return [int(part[turn]) for turn in range(len(parts[0])) for part in parts if turn < len(part)]

    def close(self) -> None:
        """See `Shards`."""
        self.stream.close()
        self.open_shard, self.stream = "", _no_samples()

    def _members(self, name: str, key: str) -> Members:
        """The members of a sample, from the stream that is open or from the beginning. ValueError if it does not come."""
        history = self.history[name]
        for _ in range(TRIES + 1):  # the stream that is open may be past the sample
            if history.num_ends >= TRIES and key not in history.keys:
                break
            if self.open_shard != name:
                self.close()
                self.open_shard, self.stream = name, self.source.samples(name)
            try:
                for sample_key, members in self.stream:
                    history.keys.add(sample_key)
                    if sample_key == key:
                        return members
            except BrokenStreamError as error:
                history.reason = str(error)
            history.num_ends += 1
            self.close()
        raise ValueError(history.reason)


def held_sample(video: StoredVideo, members: Members) -> HeldSample:
    """The members of a sample that are read, at their offsets in its shard. ValueError if they differ from the manifest."""
    pieces = []
    for kind in _KINDS:
        index_offset, index_size, offset, size = video.members.place(kind)
        if offset < 0:
            continue
        index_name, name = frame_members(kind, kind == "rgb" and "mp4" in members)
        for member, start, expected in ((index_name, index_offset, index_size), (name, offset, size)):
            content = members.get(member)
            if content is None or len(content) != expected:
                got = "is missing" if content is None else f"has {len(content)} bytes"
                raise ValueError(f"its member .{member} {got}, expected {expected} bytes")
            pieces.append((start, content))
    return HeldSample(tuple(pieces))


def _no_samples() -> Generator[tuple[str, Members]]:
    yield from ()
