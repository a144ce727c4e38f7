"""The two streams of batches, labelled and unlabelled, for a trainer of your own: in the trainer's order, with a state to resume from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from manifests.records import InputError
from tgtrain.data.batch import SslBatch
from tgtrain.data.build import step_dataset
from tgtrain.data.dataset import View, setup_of, views_of
from tgtrain.data.loader import step_loader
from tgtrain.data.order import BlockOrder, rank_part, steps_per_epoch
from tgtrain.data.setup import Setup
from tgtrain.ranks.distributed import Ranks

_LAST_STEP = 1 << 40


class TwoStreams:
    """An iterator over the batches of one rank, without end; it goes on where it stands, also after `load_state_dict`.

    Which videos and clips make step s is a function of seed and step. So a state that was saved with some number of ranks and
    loader processes continues the same order with any other.
    """

    def __init__(self, setup: Setup, rank: int, world_size: int, num_workers: int, pin_memory: bool) -> None:
        self._dataset = step_dataset(setup, Ranks(rank, world_size, torch.device("cpu")))
        self._num_workers, self._pin = num_workers, pin_memory
        config, sources = setup.config, self._dataset.sources
        for source in sources:
            rank_part(source.order.draws(0), rank, world_size)
        self.classes = setup.manifest.header.classes
        self.steps_per_epoch = steps_per_epoch(len(sources[0].videos), sources[0].order.batch_size)
        """Of the unlabelled stream, as the trainer counts them; of the labelled one if there is no other."""
        self.step = 0
        """The step of the next batch."""
        blocks = max(order.block_shards if isinstance(order := source.order, BlockOrder) else 0 for source in sources)
        self._identity = {
            "data_set": setup.identity.data_digest,
            "split": setup.identity.split_digest,
            "seed": config.runtime.seed,
            "labelled": config.batch.labelled,
            "unlabelled": config.batch.unlabelled if self._dataset.unlabelled is not None else 0,
            "block_shards": blocks,
        }

    def __iter__(self) -> Iterator[SslBatch]:
        """Batches from `step` on. While one is used, loader processes read the next ones; they end with the iterator."""
        for batch in step_loader(self._dataset, range(self.step, _LAST_STEP), self._num_workers, self._pin):
            self.step = batch.step + 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the iterator stands: behind the last batch that it gave. Plain numbers and texts, the same on every rank."""
        return {"step": self.step, **self._identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; the next `iter` does. InputError if it is of another data set, split, seed or batch size."""
        step, known = state.get("step"), {name: state.get(name) for name in self._identity}
        wrong = [
            f"{name} {known[name]} there, {now} here" for name, now in self._identity.items() if known[name] != now
        ]
        if wrong or not isinstance(step, int) or step < 0:
            raise InputError(
                f"load_state_dict: this state belongs to other streams: {'; '.join(wrong) or f'step {step!r}'}. "
                "Open the streams as they were when it was saved (ranks and workers may differ)."
            )
        self.step = step


def open_streams(
    root: str | Path,
    split: str | None = None,
    *,
    labelled: int = 8,
    unlabelled: int = 8,
    clip_frames: int = 8,
    interval: int = 8,
    num_clips: int = 1,
    size: int = 224,
    flip: bool = True,
    area: tuple[float, float] = (0.08, 1.0),
    streams: View | Sequence[View] = ("rgb", "tg"),
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
    cache: str = "",
    cache_gb: float = 0.0,
) -> TwoStreams:
    """Open the labelled and the unlabelled stream of a split: batches as `tgtrain run` draws them with these settings.

    >>> streams = open_streams("dataset", labelled=2, unlabelled=4, clip_frames=4, interval=2, size=32)
    >>> for _, batch in zip(range(3), streams):
    ...     print(batch.step, tuple(batch.labelled.rgb.shape), tuple(batch.unlabelled.tg.shape))
    0 (2, 4, 32, 32, 3) (4, 4, 32, 32, 3)
    1 (2, 4, 32, 32, 3) (4, 4, 32, 32, 3)
    2 (2, 4, 32, 32, 3) (4, 4, 32, 32, 3)
    >>> state = streams.state_dict()  # for torch.save or json
    >>> streams.load_state_dict(state)
    >>> next(iter(streams)).step
    3

    Args, besides those of `open_dataset`:
        labelled, unlabelled: videos in a batch of each stream, all ranks together; unlabelled=0: the labelled stream alone.
        rank, world_size: which part of each batch this process gets; both batch sizes are multiples of world_size.
        num_workers: loader processes. They start from a clean process, so scripts need `if __name__ == "__main__":`.
        pin_memory: for copies to a GPU.

    A sample that cannot be read is replaced by another video of its stream, and named in the batch (`ClipBatch.bad`).

    Raises:
        InputError: for each mistake here; the message says what, where and what to do.
    """
    data = {"clip_frames": clip_frames, "interval": interval, "size": size, "flip": flip, "area": area}
    batch = {"labelled": labelled, **({"unlabelled": unlabelled} if unlabelled else {})}
    runtime = {"seed": seed, "cache": cache, "cache_gb": cache_gb, "workers": num_workers}
    views = views_of(streams)
    if not 0 <= rank < world_size:
        raise InputError(f"open_streams: rank is {rank} of {world_size}, expected 0 to {world_size - 1}.")
    setup = setup_of(
        root, split, views, num_clips, bool(unlabelled), "open_streams", data=data, batch=batch, runtime=runtime
    )
    return TwoStreams(setup, rank, world_size, setup.config.runtime.workers, pin_memory)
