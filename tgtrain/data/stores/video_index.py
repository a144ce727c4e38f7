"""Where the stored videos are, as columns: 650,000 videos are looked up in milliseconds and shared by all loader processes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.console import plural
from manifests.records import WRITTEN, InputError, Members
from manifests.sample import BLOCK_BYTES
from manifests.table import Manifest

Need = str | int  # to be read soon: a complete shard by its name, or the sample of one video by its number in the index
# The members of flow come last; only some data sets have them.
_NUMBERS = ("num_frames", "height", "width", *(member.name for member in dataclasses.fields(Members)))
_SIDES = 1 << 20  # more than the height or width of any picture
_COLUMNS = ("numbers", "shard", "text", "ends")


@dataclass(frozen=True, slots=True)
class StoredVideo:
    """What reading needs to know of one stored video."""

    key: str
    shard: str
    num_frames: int
    height: int
    width: int
    members: Members


@dataclass(eq=False)
class VideoIndex(Sequence[StoredVideo]):
    """Stored videos, numbered from 0; a `StoredVideo` is made when it is looked up."""

    shards: tuple[str, ...]  # names of the tar files
    numbers: npt.NDArray[np.int64]  # int64[N, C], columns num_frames, height, width, then the fields of Members
    shard: npt.NDArray[np.int64]  # int64[N], indices into `shards`
    text: npt.NDArray[np.uint8]  # all keys one after the other
    ends: npt.NDArray[np.int64]  # int64[N + 1], key i is text[ends[i]:ends[i + 1]]
    _shared: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        # torch pickles tensors as shared memory: one copy serves all loader processes. Imported here, because
        # the decoding processes of `tgtrain predict` import this module and need no torch.
        import torch

        if not self._shared:
            columns: dict[str, Any] = {name: getattr(self, name) for name in _COLUMNS}
            with contextlib.suppress(RuntimeError):  # there is not enough of it: every process gets a copy
                tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
                for tensor in tensors.values():
                    tensor.share_memory_()  # type: ignore[no-untyped-call]
                columns = tensors
            self._shared = columns
        return {"shards": self.shards, **self._shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["shards"], *(np.asarray(state[name]) for name in _COLUMNS))  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.shard)

    def key(self, number: int) -> str:
        """The key of one video."""
        return bytes(self.text[self.ends[number] : self.ends[number + 1]]).decode()

    def sizes(self) -> dict[tuple[int, int], int]:
        """How many videos have each (height, width)."""
        # One number for both sides: sorting pairs takes ten times as long.
        pairs, counts = np.unique(self.numbers[:, 1] * _SIDES + self.numbers[:, 2], return_counts=True)
        return {divmod(pair, _SIDES): count for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)}

    def extents(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Extent of the members that are read, with the tar header of the first: starts and sizes in bytes, int64[N] each."""
        names = _NUMBERS[: self.numbers.shape[1]]
        starts = self.numbers[:, [column for column, name in enumerate(names) if name.endswith("_offset")]]
        sizes = self.numbers[:, [column for column, name in enumerate(names) if name.endswith("_bytes")]]
        ends = np.where(starts >= 0, starts + sizes, 0).max(axis=1, initial=0)
        first = np.where(starts >= 0, starts, np.iinfo(np.int64).max).min(axis=1, initial=np.iinfo(np.int64).max)
        return first - BLOCK_BYTES, ends - first + BLOCK_BYTES

    @overload
    def __getitem__(self, index: int) -> StoredVideo: ...
    @overload
    def __getitem__(self, index: slice) -> list[StoredVideo]: ...
    def __getitem__(self, index: int | slice) -> StoredVideo | list[StoredVideo]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        num_frames, height, width, *members = self.numbers[index].tolist()
        shard = self.shards[self.shard[index]]
        return StoredVideo(self.key(index), shard, num_frames, height, width, Members(*members))


class SampleTable:
    """Where the sample of each video is: starts and sizes in bytes, int64[N]."""

    def __init__(self, index: VideoIndex) -> None:
        self.starts, self.sizes = index.extents()
        self.order = np.lexsort((self.starts, index.shard))
        self.sorted_starts = self.starts[self.order]
        first = np.searchsorted(index.shard[self.order], np.arange(len(index.shards) + 1)).tolist()
        self.bounds = {name: (first[i], first[i + 1]) for i, name in enumerate(index.shards)}

    def video_at(self, shard: str, offset: int) -> int:
        """The video whose sample holds a byte of a shard."""
        start, end = self.bounds[shard]
        return int(self.order[start + np.searchsorted(self.sorted_starts[start:end], offset, side="right") - 1])


def index_of(manifest: Manifest, keys: Sequence[str]) -> VideoIndex:
    """The index of the videos with these keys, in their order. InputError if one has no sample."""
    table = manifest.videos.arrow
    rows = manifest.videos.rows_of(keys)
    if rows.null_count:
        first = keys[rows.is_null().index(True).as_py()]
        raise InputError(
            f"{plural(rows.null_count, 'video of the split is', 'videos of the split are')} not in the data set (the first: {first})."
        )
    numbers = [name for name in _NUMBERS if name in table.column_names]
    videos = table.select(["key", "shard", "status", "error"]).take(rows).combine_chunks()
    has_none = pc.or_(pc.not_equal(videos["status"], WRITTEN), pc.equal(videos["shard"], ""))
    failed = has_none.index(True).as_py()
    if failed >= 0:
        error = videos["error"][failed].as_py() or "the table names no shard"
        raise InputError(f"{keys[failed]} of the split has no sample: {error}. Make the split again.")
    shards = _one_chunk(videos["shard"].dictionary_encode())
    text = _one_chunk(videos["key"].cast(pa.large_string()))
    _, ends, content = text.buffers()
    columns = np.empty((len(keys), len(numbers)), np.int64)  # one column after the other: no copy of all beside it
    for column, name in enumerate(numbers):
        columns[:, column] = table[name].take(rows).to_numpy()
    return VideoIndex(
        shards=tuple(shards.dictionary.to_pylist()),
        numbers=columns,
        shard=shards.indices.to_numpy().astype(np.int64),
        text=np.frombuffer(content or b"", np.uint8).copy(),
        ends=np.frombuffer(ends, np.int64, len(keys) + 1).copy() if keys else np.zeros(1, np.int64),
    )


def _one_chunk(column: pa.ChunkedArray) -> Any:
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined
