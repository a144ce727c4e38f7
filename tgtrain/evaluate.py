"""Accuracy of a model on the videos of a split: any number of clips x crops, RGB, TG or both, every video counted once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset

from manifests.store import atomic_write, json_bytes
from tgtrain import metrics
from tgtrain.batch import item_loader
from tgtrain.clip import ClipSettings, plan_eval
from tgtrain.distributed import Ranks
from tgtrain.model import Model
from tgtrain.reader import BadSampleError, Clip, ClipReader
from tgtrain.score import BATCH_VIEWS, Average, Floats, Modality, VideoScores, VideoViews, score_videos
from tgtrain.sequential import StreamedShards

_AHEAD = 64  # videos that a cache of a remote data set fetches before they are read


@dataclass(frozen=True, slots=True)
class Views:
    """clips x crops of every video; the name that metric names carry."""

    num_clips: int
    num_crops: int

    @property
    def protocol(self) -> str:
        """`10x3`."""
        return f"{self.num_clips}x{self.num_crops}"


@dataclass(frozen=True, slots=True)
class Result:
    """Scores of the videos that could be read, and what follows from them.

    keys, labels int64[N], scores float32[N, K]: mean over the views (and streams). bad: videos that could not be read.
    rgb_features, tg_features float32[N, C]: pooled output of the last stage, mean over the views; None where not asked for.
    """

    views: Views
    modality: Modality
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    bad: tuple[str, ...]
    rgb_features: Floats | None = None
    tg_features: Floats | None = None

    def named(self) -> dict[str, float]:
        """Metric names carry the protocol: top1@10x3 and so on, fractions 0..1. With 5 classes or fewer top5 is 1 by nature."""
        protocol = self.views.protocol
        return {
            f"top1@{protocol}": metrics.top_k_accuracy(self.scores, self.labels, 1),
            f"top5@{protocol}": metrics.top_k_accuracy(self.scores, self.labels, 5),
            f"mean_class@{protocol}": metrics.mean_class_accuracy(self.confusion()),
        }

    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts [K, K], row = truth, column = prediction."""
        return metrics.confusion_matrix(metrics.predicted_classes(self.scores), self.labels, len(self.classes))

    def top_confusions(self, most: int) -> list[tuple[str, str, int, int]]:
        """(class, class it is taken for, how often, videos of the class), most often first; equal counts by label."""
        confusion = self.confusion()
        wrong = confusion - np.diag(np.diag(confusion))
        pairs = sorted(((-int(wrong[t, p]), int(t), int(p)) for t, p in np.argwhere(wrong)))[:most]
        return [(self.classes[t], self.classes[p], -count, int(confusion[t].sum())) for count, t, p in pairs]

    def to_dict(self) -> dict[str, Any]:
        """The content of test-PROTOCOL.json besides what the caller knows."""
        confusion = self.confusion()
        accuracy = metrics.per_class_accuracy(confusion)
        return {
            "protocol": self.views.protocol,
            "modality": self.modality,
            "num_videos": len(self.keys),
            "num_bad": len(self.bad),
            **self.named(),
            "per_class": [
                {
                    "label": label,
                    "class_name": name,
                    "videos": int(confusion[label].sum()),
                    "accuracy": float(accuracy[label]),
                }
                for label, name in enumerate(self.classes)
                if confusion[label].sum()
            ],
            "confusion": confusion.tolist(),
        }


class _ViewDataset(Dataset[VideoViews]):
    """All views of one video, read in a loader process: nothing is decoded where the model runs."""

    def __init__(self, reader: ClipReader, videos: Sequence[int], clip: ClipSettings, views: Views, modality: Modality):
        self.reader, self.videos, self.clip, self.views, self.modality = reader, videos, clip, views, modality

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, position: int) -> VideoViews:
        self.reader.shards.expect(lambda: self.videos[position : position + _AHEAD])
        place = self.reader.places[self.videos[position]]
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
    views: Views,
    ranks: Ranks,
    *,
    modality: Modality = "rgb",
    average: Average = "logits",
    workers: int = 0,
    batch_views: int = BATCH_VIEWS,
    features: bool = False,
    tell: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Score videos (numbers in the reader) in eval mode; ranks share them, every rank gets the whole result.

    Every video is counted once, whatever the number of ranks. batch_views: see `score_videos`. features: keep the pooled
    features too. tell: called with (videos done, videos of this rank).
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
            tell(len(found), len(own))
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
        keys=tuple(reader.places[videos[place]].key for place, _ in kept),
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
    starts, _ = reader.places.extents()
    stored = np.lexsort((starts[numbers], reader.places.shard[numbers]))
    parts = np.array_split(np.array_split(stored, ranks.world_size)[ranks.rank], max(1, workers))
    return [int(part[turn]) for turn in range(len(parts[0])) for part in parts if turn < len(part)]


def _rows(rows: Sequence[Floats | None], width: int = 0) -> Floats:
    given = [row for row in rows if row is not None]
    return np.stack(given) if given else np.empty((0, width), np.float32)


def write_predictions(path: Path, result: Result, facts: dict[str, Any] | None = None) -> None:
    """One row a video: key, label, class_name, prediction, predicted_class, scores (float32[K]).

    The schema's metadata say what the scores are: protocol, modality, classes, and the facts.
    """
    predicted = metrics.predicted_classes(result.scores)
    columns = {
        "prediction": pa.array(predicted, pa.int32()),
        "predicted_class": pa.array([result.classes[label] for label in predicted], pa.string()),
        "scores": pa.array(list(result.scores), pa.list_(pa.float32())),
    }
    _write_videos(path, result, columns, facts or {})


def write_features(path: Path, result: Result, facts: dict[str, Any] | None = None) -> None:
    """One row a video: key, label, class_name, and rgb_features, tg_features (float32[C]) of the networks asked for."""
    columns = {
        name: pa.array(list(rows), pa.list_(pa.float32()))
        for name, rows in (("rgb_features", result.rgb_features), ("tg_features", result.tg_features))
        if rows is not None
    }
    _write_videos(path, result, columns, facts or {})


def _write_videos(path: Path, result: Result, columns: dict[str, Any], facts: dict[str, Any]) -> None:
    table = pa.table(
        {
            "key": pa.array(result.keys, pa.string()),
            "label": pa.array(result.labels, pa.int32()),
            "class_name": pa.array([result.classes[label] for label in result.labels], pa.string()),
            **columns,
        }
    )
    told = {"protocol": result.views.protocol, "modality": result.modality, "classes": result.classes, **facts}
    with atomic_write(path) as file:
        pq.write_table(table.replace_schema_metadata({"tgtrain": json.dumps(told)}), file)


def write_result(path: Path, result: Result, facts: dict[str, Any]) -> None:
    """test-PROTOCOL.json: facts of the run, the metrics, per class, confusion."""
    with atomic_write(path) as file:
        file.write(json_bytes({**facts, **result.to_dict()}))
