"""Accuracy of a model on the videos of a split: any number of clips x crops, RGB, TG or both, every video counted once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from tgtrain.data import memory
from tgtrain.data.clip import plan_eval
from tgtrain.data.loader import item_loader
from tgtrain.data.reader import BadSampleError
from tgtrain.data.setup import Setup
from tgtrain.evaluate.results import EvalProtocol, Result
from tgtrain.evaluate.score import BATCH_VIEWS, Average, Floats, Modality, Scorer, VideoScores, VideoViews
from tgtrain.method.networks.model import Model
from tgtrain.method.networks.settings import View
from tgtrain.ranks.distributed import Ranks

_AHEAD = 64  # videos that a cache of a remote data set fetches before they are read


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """How videos are scored, see `Scorer`."""

    protocol: EvalProtocol
    modality: Modality = "rgb"
    average: Average = "logits"
    batch_views: int = BATCH_VIEWS
    features: bool = False


class StoppedError(Exception):
    """The evaluation was not completed because some process was asked to stop."""


class _ViewDataset(Dataset[VideoViews]):
    """All views of one video, read in a loader process: nothing is decoded where the model runs."""

    def __init__(self, setup: Setup, videos: Sequence[int], settings: EvalSettings) -> None:
        self.reader, self.clip, self.videos, self.settings = setup.reader, setup.clip, videos, settings

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, position: int) -> VideoViews:
        self.reader.shards.expect(lambda: self.videos[position : position + _AHEAD])
        stored, protocol = self.reader.index[self.videos[position]], self.settings.protocol
        plans = plan_eval(
            stored.num_frames, stored.height, stored.width, self.clip, protocol.num_clips, protocol.num_crops
        )
        num_views, size = protocol.num_views, plans[0].output_size
        rgb, tg = (
            memory.of_process.new(view, (num_views, len(frames), size, size, 3))
            if self.settings.modality in (view, "both")
            else None
            for view, frames in (("rgb", plans[0].frames), ("tg", plans[0].tg_frames))
        )
        into = memory.rows_as_clips(rgb, tg, range(num_views))
        try:
            self.reader.read_views(self.videos[position], plans, rgb=rgb is not None, tg=tg is not None, into=into)
        except BadSampleError as error:
            return VideoViews(position, None, None, str(error))
        return VideoViews(position, rgb, tg)


def evaluate(
    model: Model,
    setup: Setup,
    videos: Sequence[int],
    settings: EvalSettings,
    ranks: Ranks,
    *,
    workers: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Score videos (numbers in the setup's reader) in eval mode; ranks share them, every rank gets the same result.

    on_progress: called with (videos done, videos of this rank). should_stop: called after every video; if it returns True on
    any rank, all raise StoppedError.
    """
    share = setup.reader.shards.share(videos, ranks.rank, ranks.world_size, workers)
    dataset = _ViewDataset(setup, [videos[place] for place in share], settings)
    scorer = Scorer(
        model, ranks.device, settings.average, setup.clip.gradient == "slow", settings.batch_views, settings.features
    )
    pin, num_in_use = ranks.device.type == "cuda", scorer.num_in_use(settings.protocol.num_views)
    loader = item_loader(dataset, range(len(dataset)), workers, pin, num_in_use=num_in_use)
    # Training goes on with the same model afterwards.
    was_training = model.training
    model.eval()
    scored: list[tuple[int, VideoScores]] = []
    try:
        for video in scorer.score(loader):
            scored.append((share[video.position], video))
            on_progress(len(scored), len(share))
            if should_stop():
                break
    finally:
        model.train(was_training)
    # A rank that was stopped gathers None, so that the others do not wait for its scores.
    parts = ranks.gather(None if should_stop() else scored)
    if None in parts:
        raise StoppedError
    # Back into the order of `videos`, whichever rank had which.
    merged = sorted((entry for part in parts for entry in part), key=lambda entry: entry[0])
    readable = [(place, video) for place, video in merged if video.scores is not None]
    places, num_classes = [videos[place] for place, _ in readable], len(setup.classes)
    views: tuple[View, ...] = ("rgb", "tg") if settings.modality == "both" else (settings.modality,)
    return Result(
        views=settings.protocol,
        modality=settings.modality,
        classes=setup.classes,
        keys=tuple(setup.reader.index[place].key for place in places),
        labels=np.array(setup.labels(places), np.int64),
        scores=_rows([video.scores for _, video in readable], num_classes),
        bad=tuple(video.bad for _, video in merged if video.bad),
        of_networks={view: _rows([video.of_networks[view] for _, video in readable], num_classes) for view in views},
        rgb_features=_rows([video.rgb_features for _, video in readable])
        if settings.features and "rgb" in views
        else None,
        tg_features=_rows([video.tg_features for _, video in readable])
        if settings.features and "tg" in views
        else None,
    )


def _rows(rows: Sequence[Floats | None], width: int = 0) -> Floats:
    given = [row for row in rows if row is not None]
    return np.stack(given) if given else np.empty((0, width), np.float32)
