"""Batches from shards that can only be read from their beginning (data.reader=stream): the same samples, with weaker promises.

Every loader process of every rank, a slot, has shards of its own and goes through them again and again, in an order drawn anew for
each pass. Of each sample only the bytes of the clip are kept that is drawn for it (from seed, stream, pass and key, as with the
indexed reader), in a buffer that clips are taken from at random:

    shards of the slot  7 4 9 | 9 7 4 | ...       passes
    samples             in the order in which they are stored
    buffer              up to data.shuffle_clips clips, and BUFFER_BYTES
    batches             of steps w, w + W, ... of this rank, where w is the process and W how many there are

Labelled and unlabelled videos are two streams, so that their ratio is exact in every batch; streams never end, so that all ranks do
the same number of steps. What is lost is told by `weaker_promises`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import numpy.typing as npt
from torch.utils.data import IterableDataset, get_worker_info

from manifests.records import InputError
from tgtrain.data.batch import ClipBatch, SslBatch, StepDataset, StreamSource
from tgtrain.data.clip import ClipPlan, plan_train
from tgtrain.data.order import Draw
from tgtrain.data.reader import BadSampleError, Clip, ClipReader
from tgtrain.data.stores.local import Need
from tgtrain.data.stores.sequential import TRIES, BrokenStreamError, HeldSample, Members, ShardSource, held_sample
from tgtrain.data.stores.video_index import StoredVideo
from tgtrain.randomness import Choice, Indices, Stream, permute, round_keys, sample_seed

BUFFER_BYTES = 256 * 1024**2  # of the clips that wait in one process for one stream
_SHARDS = (1 << 64) - 3  # the part of a pass that a slot's order of shards is drawn from
Plan = Callable[[StoredVideo, int], tuple[ClipPlan, ...]]


@dataclass(frozen=True, slots=True)
class Slot:
    """One of `total` loader processes of all ranks."""

    number: int
    total: int


@dataclass(frozen=True, slots=True)
class WaitingClips:
    """The clips drawn for one sample: place of its video in the stream, pass, and the bytes they are decoded from."""

    place: int
    pass_index: int
    plans: tuple[ClipPlan, ...]
    sample: HeldSample


class _OneSample:
    """`Shards` of a sample that is at hand."""

    def __init__(self) -> None:
        self.sample = HeldSample(())

    def read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [self.sample.read(*each) for each in ranges]

    def expect(self, upcoming: Callable[[], Iterable[Need]]) -> None:
        return None

    def close(self) -> None:
        self.sample = HeldSample(())


def share_of(shards: Indices, slot: Slot) -> Indices:
    """Places of the videos of a slot, int64, in order. shards: int64[N], the shard of each video of a stream.

    Whole shards, every `total`-th of those that occur; where there are fewer shards than slots, slots share one and take its videos
    in turn. A slot that would have none takes all.
    """
    found = np.unique(shards)
    if len(found) >= slot.total:
        return np.flatnonzero(np.isin(shards, found[slot.number :: slot.total]))
    inside = np.flatnonzero(shards == found[slot.number % len(found)])
    sharing = len(range(slot.number % len(found), slot.total, len(found)))
    own = inside[slot.number // len(found) :: sharing]
    return own if len(own) else np.arange(len(shards))


class ClipBuffer:
    """The endless clips of one stream in one slot, shuffled. Draws are `WaitingClips`, or what is wrong with a damaged sample."""

    def __init__(
        self,
        reader: ClipReader,
        source: ShardSource,
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
        """videos: their numbers in the reader. num_before: videos that all slots have drawn before: where to begin."""
        self.index, self.source, self.videos, self.plan = reader.index, source, videos, plan
        self.seed, self.stream_id, self.slot = seed, stream_id, slot
        self.rgb, self.tg = rgb, tg
        self.shards = reader.index.shard[videos]
        self.own = share_of(self.shards, slot)
        self.buffer_clips = min(buffer_clips, len(self.own))  # more would mix one pass into the next but one
        self.first_pass, self.begun = divmod(num_before // slot.total, len(self.own))
        self.at_hand = _OneSample()
        self.reader = ClipReader(reader.index, self.at_hand, reader.gop)

    def read(self, clips: WaitingClips, into: Sequence[Clip] | None = None) -> list[Clip]:
        """Decode clips, into their places where some are given. BadSampleError where the sample is damaged."""
        self.at_hand.sample = clips.sample
        video = int(self.videos[clips.place])
        return self.reader.read_views(video, clips.plans, rgb=self.rgb, tg=self.tg, into=into)

    def draws(self) -> Generator[WaitingClips | str]:
        """Clips in random order, damaged samples as soon as they are met."""
        name = f"slot {self.slot.number} of {self.slot.total}"
        rng = sample_seed(self.seed, self.stream_id, self.first_pass, name, Choice.BUFFER)
        waiting: list[WaitingClips] = []
        num_bytes = grown = 0
        for met in self.passes():
            if isinstance(met, str):
                yield met
                continue
            waiting.append(met)
            num_bytes += met.sample.num_bytes
            grown += 1
            # Until it is full the buffer grows by every second clip, so that the first batch need not wait for all of it.
            full = len(waiting) >= self.buffer_clips or num_bytes >= BUFFER_BYTES
            if full or grown % 2 == 0:
                chosen = int(rng.random() * len(waiting))
                waiting[chosen], waiting[-1] = waiting[-1], waiting[chosen]
                drawn = waiting.pop()
                num_bytes -= drawn.sample.num_bytes
                yield drawn

    def passes(self) -> Iterator[WaitingClips | str]:
        """All samples of the slot, pass after pass, as they are stored; InputError after a pass without any whole one."""
        names, counts = np.unique(self.shards[self.own], return_counts=True)
        for pass_index in count(self.first_pass):
            keys = round_keys(self.seed, self.stream_id, pass_index, _SHARDS, self.slot.number)
            turns = permute(np.arange(len(names)), len(names), np.repeat(keys[:, None], len(names), axis=1))
            if pass_index == self.first_pass:
                turns = turns[np.searchsorted(np.cumsum(counts[turns]), self.begun, side="right") :]
            num_whole, last = 0, ""
            for shard in names[turns].tolist():
                for met in self._shard(shard, pass_index):
                    num_whole += not isinstance(met, str)
                    last = met if isinstance(met, str) else last
                    yield met
            if not num_whole:
                raise InputError(
                    f"No sample can be read from {len(turns)} shards, the last: {last}. Check data.shards and the data set "
                    "(`tgprep check` on a copy finds what is damaged)."
                )

    def _shard(self, shard: int, pass_index: int) -> Iterator[WaitingClips | str]:
        """The samples of one shard, then one message for each that did not come."""
        name = self.index.shards[shard]
        missing = {
            self.index.key(int(self.videos[place])): int(place)
            for place in self.own[self.shards[self.own] == shard].tolist()
        }
        reason = "its shard ends before it"
        for _ in range(TRIES):
            samples = self.source.samples(name)
            try:
                for key, members in samples:
                    place = missing.pop(key, None)
                    if place is not None:
                        yield self._drawn(place, pass_index, members)
                    if not missing:
                        return
            except BrokenStreamError as error:
                reason = str(error)
            finally:
                samples.close()
        for key in missing:
            yield f"{key} in {name}: {reason}"

    def _drawn(self, place: int, pass_index: int, members: Members) -> WaitingClips | str:
        """The clips that this pass draws for a sample, with the bytes that they need."""
        video = int(self.videos[place])
        facts = self.index[video]
        try:
            self.at_hand.sample = held_sample(facts, members)
            plans = self.plan(facts, pass_index)
            needed = self.reader.ranges(video, plans, rgb=self.rgb, tg=self.tg)
            return WaitingClips(place, pass_index, plans, self.at_hand.sample.only(needed))
        except ValueError as error:
            return f"{facts.key} in {facts.shard}: {error}"
        except BadSampleError as error:
            return str(error)


@dataclass(slots=True, kw_only=True)
class StreamedDataset(StepDataset):
    """The batches of this rank from streams: in order alone, see `in_order`."""

    source: ShardSource
    buffer_clips: int

    def coverage(self, num_steps: int) -> dict[str, int]:
        """Nothing: what has come depends on the processes."""
        return {}

    def in_order(self, steps: Sequence[int]) -> StreamedSteps:
        """The batches of these steps, for a DataLoader."""
        return StreamedSteps(self, steps)


class StreamedSteps(IterableDataset[SslBatch]):
    """Batches of the given steps; of W loader processes each makes every W-th."""

    def __init__(self, dataset: StreamedDataset, steps: Sequence[int]) -> None:
        self.dataset, self.steps = dataset, steps

    def __iter__(self) -> Iterator[SslBatch]:
        worker = get_worker_info()
        number, total = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        batches = _SlotBatches(self.dataset, Slot(self.dataset.rank * total + number, self.dataset.world_size * total))
        batches.begin(self.steps[0] if len(self.steps) else 0)
        for step in self.steps[number::total]:
            yield batches[step]


class _SlotBatches(StepDataset):
    """Batches of one slot: those of a StepDataset, with the clips that its streams bring."""

    def __init__(self, dataset: StreamedDataset, slot: Slot) -> None:
        names = StepDataset.__dataclass_fields__
        super().__init__(**{name: getattr(dataset, name) for name in names})
        self.streamed, self.slot = dataset, slot
        self.flows: dict[Stream, ClipBuffer] = {}
        self.draws: dict[Stream, Iterator[WaitingClips | str]] = {}
        self.passes: list[int] = []

    def begin(self, step: int) -> None:
        """Open the streams where a run has them at this step, up to a shard."""
        for stream, source in ((Stream.LABELLED, self.labelled), (Stream.UNLABELLED, self.unlabelled)):
            if source is not None:
                self.flows[stream] = flow = ClipBuffer(
                    self.reader,
                    self.streamed.source,
                    source.videos,
                    self._planned(stream),
                    seed=self.seed,
                    stream_id=stream,
                    slot=self.slot,
                    num_before=step * source.order.batch_size,
                    buffer_clips=self.streamed.buffer_clips,
                    rgb=self.rgb,
                    tg=self.tg,
                )
                self.draws[stream] = flow.draws()

    def _planned(self, stream: Stream) -> Plan:
        def plan(facts: StoredVideo, pass_index: int) -> tuple[ClipPlan, ...]:
            rng = sample_seed(self.seed, stream, pass_index, facts.key, Choice.CLIP)
            return plan_train(facts.num_frames, facts.height, facts.width, self.clip, rng)

        return plan

    def _read(self, source: StreamSource, stream: Stream, step: int) -> tuple[ClipBatch, tuple[Draw, ...]]:
        self.passes = []
        batch, draws = super()._read(source, stream, step)
        return batch, tuple(replace(draw, pass_index=p) for draw, p in zip(draws, self.passes, strict=True))

    def _read_one(self, source: StreamSource, stream: Stream, draw: Draw, into: list[Clip]) -> tuple[int, list[str]]:
        """Fill in the clips of the next video of a stream; what is damaged before it is told."""
        problems: list[str] = []
        for met in self.draws[stream]:
            if isinstance(met, str):
                problems.append(met)
                continue
            try:
                self.flows[stream].read(met, into)
            except BadSampleError as error:
                problems.append(str(error))
            else:
                self.passes.append(met.pass_index)
                return met.place, problems
            if len(problems) > 2 * len(self.flows[stream].own):
                raise InputError(
                    f"No sample can be read: {problems[-1]}. `tgprep check` on a copy of the data set finds what is damaged."
                )
        raise AssertionError("streams never end")


def weaker_promises(workers: int, buffer_clips: int, num_shards: int) -> list[str]:
    """What a run with the stream reader does not promise, in words. workers: loader processes of each training process."""
    told = [
        "data.reader=stream reads whole shards, once for labelled and once for unlabelled videos, and keeps nothing on disk",
        f"the order depends on the number of training and loader processes (here {workers} for each training process); about "
        f"{buffer_clips} neighbours are shuffled",
        "each loader process goes through videos of its own once a pass: where their numbers differ, some come more often",
        "a resumed run goes on at the beginning of about the shard where it was, not at the same video",
    ]
    if num_shards < workers:
        told.append(
            f"{num_shards} shards are fewer than {workers} loader processes: some read the same shard, each its part"
        )
    return told
