"""Accuracy of a model on the videos of a split: any number of clips x crops, RGB, TG or both, every video counted once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from tgtrain.data.clip import ClipSettings, plan_eval
from tgtrain.data.loader import item_loader
from tgtrain.data.reader import BadSampleError, Clip, ClipReader
from tgtrain.data.stores.sequential import StreamedShards
from tgtrain.evaluate.results import EvalProtocol, Result
from tgtrain.evaluate.score import BATCH_VIEWS, Average, Floats, Modality, VideoScores, VideoViews, score_videos
from tgtrain.method.networks.model import Model
from tgtrain.ranks.distributed import Ranks

_AHEAD = 64  # videos that a cache of a remote data set fetches before they are read


class _ViewDataset(Dataset[VideoViews]):
    """All views of one video, read in a loader process: nothing is decoded where the model runs."""

    def __init__(
        self, reader: ClipReader, videos: Sequence[int], clip: ClipSettings, views: EvalProtocol, modality: Modality
    ):
        self.reader, self.videos, self.clip, self.views, self.modality = reader, videos, clip, views, modality

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, position: int) -> VideoViews:
        self.reader.shards.expect(lambda: self.videos[position : position + _AHEAD])
        place = self.reader.index[self.videos[position]]
        plans = plan_eval(
            place.num_frames, place.height, place.width, self.clip, self.views.num_clips, self.views.num_crops
        )
        rgb, tg = self.modality in ("rgb", "both"), self.modality in ("tg", "both")
        try:
            clips = self.reader.read_views(self.videos[position], plans, rgb=rgb, tg=tg)
        except BadSampleError as error:
            return VideoViews(position, None, None, str(error))
        return stacked_views(position, clips, rgb=rgb, tg=tg)


def stacked_views(position: int, clips: Sequence[Clip], *, rgb: bool, tg: bool) -> VideoViews:
    """The clips of one video as one tensor a network."""
    return VideoViews(
        position,
        torch.from_numpy(np.stack([clip.rgb for clip in clips])) if rgb else None,
        torch.from_numpy(np.stack([clip.tg for clip in clips if clip.tg is not None])) if tg else None,
    )


class StoppedError(Exception):
    """The evaluation was not made to its end, as some process was asked to stop."""


def evaluate(
    model: Model,
    reader: ClipReader,
    videos: Sequence[int],
    labels: Sequence[int],
    classes: tuple[str, ...],
    clip: ClipSettings,
    views: EvalProtocol,
    ranks: Ranks,
    *,
    modality: Modality = "rgb",
    average: Average = "logits",
    workers: int = 0,
    batch_views: int = BATCH_VIEWS,
    features: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Score videos (numbers in the reader) in eval mode; ranks share them, every rank gets the whole result.

    Every video is counted once, whatever the number of ranks. batch_views: see `score_videos`. features: keep the pooled
    features too. on_progress: called with (videos done, videos of this rank).
    should_stop: asked after every video; where it says so on any rank, all raise StoppedError.
    """
    own = _share_of(reader, videos, ranks, workers)
    dataset = _ViewDataset(reader, [videos[place] for place in own], clip, views, modality)
    was_training = model.training
    model.eval()
    found: list[tuple[int, VideoScores]] = []
    try:
        for scored in score_videos(
            model, item_loader(dataset, range(len(dataset)), workers, ranks.device.type == "cuda"), ranks.device,
            average=average, slow=clip.gradient == "slow", batch_views=batch_views, features=features,
        ):  # fmt: skip
            found.append((own[scored.position], scored))
            on_progress(len(found), len(own))
            if should_stop():
                break
    finally:
        model.train(was_training)
    parts = ranks.gather(None if should_stop() else found)
    if None in parts:
        raise StoppedError
    merged = sorted((entry for part in parts for entry in part), key=lambda entry: entry[0])
    kept = [(place, scored) for place, scored in merged if scored.scores is not None]
    return Result(
        views=views,
        modality=modality,
        classes=classes,
        keys=tuple(reader.index[videos[place]].key for place, _ in kept),
        labels=np.array([labels[place] for place, _ in kept], np.int64),
        scores=_rows([scored.scores for _, scored in kept], len(classes)),
        bad=tuple(scored.bad for _, scored in merged if scored.bad),
        rgb_features=_rows([scored.rgb_features for _, scored in kept]) if features and modality != "tg" else None,
        tg_features=_rows([scored.tg_features for _, scored in kept]) if features and modality != "rgb" else None,
    )


def _share_of(reader: ClipReader, videos: Sequence[int], ranks: Ranks, workers: int) -> list[int]:
    """Places in `videos` of those that this rank scores.

    Of shards that are read from their beginning they lie together, and each loader process, which takes every W-th, goes forward
    through its own.
    """
    if not isinstance(reader.shards, StreamedShards):
        return list(range(ranks.rank, len(videos), ranks.world_size))
    numbers = np.asarray(videos, np.int64)
    starts, _ = reader.index.extents()
    stored = np.lexsort((starts[numbers], reader.index.shard[numbers]))
    parts = np.array_split(np.array_split(stored, ranks.world_size)[ranks.rank], max(1, workers))
    return [int(part[turn]) for turn in range(len(parts[0])) for part in parts if turn < len(part)]


def _rows(rows: Sequence[Floats | None], width: int = 0) -> Floats:
    given = [row for row in rows if row is not None]
    return np.stack(given) if given else np.empty((0, width), np.float32)
