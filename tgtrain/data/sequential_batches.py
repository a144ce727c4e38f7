"""Clips from shards that can only be read from their beginning (data.reader=stream): the same clips, with weaker promises.

Every loader process of every rank is a slot with its part of the shards. It reads them again and again, in an order drawn for each
pass. Of each sample it keeps only the bytes of the clip that is drawn for it (from seed, stream, pass and key, as with the indexed
reader), in a buffer that clips are taken from at random. Labelled and unlabelled videos are two streams, so that their ratio is
exact in every batch; streams never end, so that all ranks do the same number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import get_worker_info

from manifests.console import plural
from manifests.records import InputError
from tgtrain.data.batch import FilledClips, IndexedClips, StepDataset
from tgtrain.data.clip import ClipPlan
from tgtrain.data.order import Draw, StreamSource
from tgtrain.data.reader import BadSampleError, Clip, ClipReader
from tgtrain.data.stores.sequential import HeldSample, MemoryShards, held_sample
from tgtrain.data.stores.shard_source import TRIES, BrokenStreamError, Members
from tgtrain.data.stores.video_index import StoredVideo
from tgtrain.randomness import Choice, Indices, Stream, permute, round_keys, sample_seed

BUFFER_BYTES = 256 * 1024**2  # of the clips that wait in one process for one stream
_SHARDS = (1 << 64) - 3  # the part of a pass that a slot's order of shards is drawn from
Plan = Callable[[StoredVideo, int], tuple[ClipPlan, ...]]


class Slot(NamedTuple):
    """One of `total` loader processes of all ranks."""

    number: int
    total: int


@dataclass(frozen=True, slots=True)
class WaitingClips:
    """The clips drawn for one sample."""

    row: int  # of its video in the stream
    pass_index: int
    plans: tuple[ClipPlan, ...]
    sample: HeldSample  # the bytes that the clips are decoded from


def share_of(shards: Indices, slot: Slot) -> Indices:
    """Rows of the videos of a slot, int64, rising. shards: int64[N], the shard of each video of a stream.

    Every `total`-th of the shards that occur. If there are fewer shards than slots, slots share one and take its videos in turn.
    A slot that would have none takes all videos.
    """
    used = np.unique(shards)
    if len(used) >= slot.total:
        return np.flatnonzero(np.isin(shards, used[slot.number :: slot.total]))
    inside = np.flatnonzero(shards == used[slot.number % len(used)])
    num_sharing = len(range(slot.number % len(used), slot.total, len(used)))
    own = inside[slot.number // len(used) :: num_sharing]
    return own if len(own) else np.arange(len(shards))


class ClipBuffer:
    """The endless clips of one stream in one slot, shuffled. Items are `WaitingClips`, or a message about a damaged sample."""

    def __init__(
        self,
        reader: ClipReader,
        videos: npt.NDArray[np.int64],
        plan: Plan,
        *,
        seed: int,
        stream_id: int,
        slot: Slot,
        num_before: int,
        buffer_clips: int,
        rgb: bool = True,
        tg: bool = True,
    ) -> None:
        """reader: of sequential shards. videos: numbers in its index. num_before: videos that all slots have drawn before."""
        assert reader.shards.source is not None
        self.index, self.source, self.videos, self.plan = reader.index, reader.shards.source, videos, plan
        self.seed, self.stream_id, self.slot = seed, stream_id, slot
        self.rgb, self.tg = rgb, tg
        self.shards = reader.index.shard[videos]
        self.own = share_of(self.shards, slot)
        self.buffer_clips = min(buffer_clips, len(self.own))  # more would mix one pass into the next but one
        self.first_pass, self.num_in_pass = divmod(num_before // slot.total, len(self.own))
        self.memory = MemoryShards()
        self.reader = ClipReader(reader.index, self.memory, reader.gop)

    def read(self, clips: WaitingClips, into: Sequence[Clip] | None = None) -> list[Clip]:
        """Decode clips, into the memory of `into` if given. BadSampleError if the sample is damaged."""
        self.memory.sample = clips.sample
        video = int(self.videos[clips.row])
        return self.reader.read_views(video, clips.plans, rgb=self.rgb, tg=self.tg, into=into)

    def draws(self) -> Generator[WaitingClips | str]:
        """Clips in random order; messages about damaged samples as soon as these are met."""
        name = f"slot {self.slot.number} of {self.slot.total}"
        rng = sample_seed(self.seed, self.stream_id, self.first_pass, name, Choice.BUFFER)
        waiting: list[WaitingClips] = []
        num_bytes = num_added = 0
        for item in self.passes():
            if isinstance(item, str):
                yield item
                continue
            waiting.append(item)
            num_bytes += item.sample.num_bytes
            num_added += 1
            # Until it is full the buffer grows by every second clip only, so that the first batch comes early.
            is_full = len(waiting) >= self.buffer_clips or num_bytes >= BUFFER_BYTES
            if is_full or num_added % 2 == 0:
                chosen = int(rng.random() * len(waiting))
                waiting[chosen], waiting[-1] = waiting[-1], waiting[chosen]
                drawn = waiting.pop()
                num_bytes -= drawn.sample.num_bytes
                yield drawn

    def passes(self) -> Iterator[WaitingClips | str]:
        """All samples of the slot in stored order, pass after pass; InputError after a pass without a valid one."""
        names, counts = np.unique(self.shards[self.own], return_counts=True)
        for pass_index in count(self.first_pass):
            keys = round_keys(self.seed, self.stream_id, pass_index, _SHARDS, self.slot.number)
            turns = permute(np.arange(len(names)), len(names), np.repeat(keys[:, None], len(names), axis=1))
            if pass_index == self.first_pass:  # a resumed run begins at the shard where it was
                turns = turns[np.searchsorted(np.cumsum(counts[turns]), self.num_in_pass, side="right") :]
            num_valid, last_fault = 0, ""
            for shard in names[turns].tolist():
                for item in self._shard(shard, pass_index):
                    if isinstance(item, str):
                        last_fault = item
                    else:
                        num_valid += 1
                    yield item
            if not num_valid:
                raise InputError(
                    f"No sample can be read from {plural(len(turns), 'shard')}, the last: {last_fault}. Check data.shards and the data set "
                    "(`tgprep check` on a copy finds what is damaged)."
                )

    def _shard(self, shard: int, pass_index: int) -> Iterator[WaitingClips | str]:
        """The samples of one shard, then one message for each that did not come."""
        name = self.index.shards[shard]
        missing = {
            self.index.key(int(self.videos[row])): int(row) for row in self.own[self.shards[self.own] == shard].tolist()
        }
        reason = "its shard ends before it"
        for _ in range(TRIES):
            samples = self.source.samples(name)
            try:
                for key, members in samples:
                    row = missing.pop(key, None)
                    if row is not None:
                        yield self._drawn(row, pass_index, members)
                    if not missing:
                        return
            except BrokenStreamError as error:
                reason = str(error)
            finally:
                samples.close()
        for key in missing:
            yield f"{key} in {name}: {reason}"

    def _drawn(self, row: int, pass_index: int, members: Members) -> WaitingClips | str:
        """The clips that this pass draws for a sample, with the bytes that they need."""
        number = int(self.videos[row])
        video = self.index[number]
        try:
            self.memory.sample = held_sample(video, members)
            plans = self.plan(video, pass_index)
            needed = self.reader.ranges(number, plans, rgb=self.rgb, tg=self.tg)
            return WaitingClips(row, pass_index, plans, self.memory.sample.only(needed))
        except ValueError as error:
            return f"{video.key} in {video.shard}: {error}"
        except BadSampleError as error:
            return str(error)


class SequentialClips(IndexedClips):
    """Clips as the shards of this process bring them; a damaged sample is replaced by the next clip.

    Steps must be read in order: in one process all from `first_step` on, in process w of W every W-th.
    """

    follows_order = False

    def __init__(self, buffer_clips: int, first_step: int = 0) -> None:
        self.buffer_clips, self.first_step = buffer_clips, first_step
        # Opened by the process that reads.
        self.buffers: dict[Stream, tuple[ClipBuffer, Iterator[WaitingClips | str]]] = {}

    def from_step(self, step: int) -> SequentialClips:
        """See `IndexedClips`."""
        return SequentialClips(self.buffer_clips, step)

    def fill(
        self, dataset: StepDataset, source: StreamSource, stream: Stream, draw: Draw, into: list[Clip]
    ) -> FilledClips:
        """See `IndexedClips`: the next clips of the stream, whatever the draw."""
        if stream not in self.buffers:
            worker = get_worker_info()
            number, total = (worker.id, worker.num_workers) if worker is not None else (0, 1)
            buffer = ClipBuffer(
                dataset.reader,
                source.videos,
                partial(dataset.plan_clips, stream),
                seed=dataset.seed,
                stream_id=stream,
                slot=Slot(dataset.rank * total + number, dataset.world_size * total),
                num_before=self.first_step * source.order.batch_size,  # a resumed run goes on near where it was
                buffer_clips=self.buffer_clips,
                rgb=dataset.rgb,
                tg=dataset.tg,
            )
            self.buffers[stream] = buffer, buffer.draws()
        buffer, items = self.buffers[stream]
        bad: list[str] = []
        for item in items:
            if isinstance(item, str):
                bad.append(item)
                continue
            try:
                buffer.read(item, into)
            except BadSampleError as error:
                bad.append(str(error))
            else:
                return FilledClips(item.row, item.pass_index, bad)
            if len(bad) > 2 * len(buffer.own):
                raise InputError(
                    f"No sample can be read: {bad[-1]}. `tgprep check` on a copy of the data set finds what is damaged."
                )
        raise AssertionError("streams never end")


def weaker_promises(workers: int, buffer_clips: int, num_shards: int) -> list[str]:
    """What a run with data.reader=stream does not promise, for its log. workers: loader processes of each training process."""
    lines = [
        "data.reader=stream reads complete shards, once for labelled and once for unlabelled videos, and keeps nothing on disk",
        f"the order depends on the number of training and loader processes (here {workers} for each training process); about "
        f"{buffer_clips} neighbours are shuffled together",
        "each loader process reads videos of its own once a pass: if their numbers differ, some videos come more often",
        "a resumed run starts near the shard where it was, not at the exact sample",
    ]
    if num_shards < workers:
        lines.append(
            f"{plural(num_shards, 'shard is', 'shards are')} fewer than {plural(workers, 'loader process', 'loader processes')}: some read the same shard, each a part of it"
        )
    return lines
