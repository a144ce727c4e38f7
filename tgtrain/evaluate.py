"""Accuracy of a model on the videos of a split: any number of clips x crops, RGB, TG or both, every video counted once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from manifests.store import atomic_write, json_bytes
from tgtrain import metrics
from tgtrain.augment import network_input
from tgtrain.batch import start_worker, worker_context
from tgtrain.clip import ClipSettings, plan_eval
from tgtrain.distributed import Ranks
from tgtrain.model import Model
from tgtrain.reader import BadSampleError, ClipReader

Modality = Literal["rgb", "tg", "both"]
Average = Literal["logits", "probabilities"]
_VIEWS_AT_ONCE = 32


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
    """

    views: Views
    modality: Modality
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    bad: tuple[str, ...]

    def named(self) -> dict[str, float]:
        """Metric names carry the protocol: top1@10x3 and so on, fractions 0..1."""
        protocol = self.views.protocol
        return {
            f"top1@{protocol}": metrics.top_k_accuracy(self.scores, self.labels, 1),
            f"top5@{protocol}": metrics.top_k_accuracy(self.scores, self.labels, 5),
            f"mean_class@{protocol}": metrics.mean_class_accuracy(self.confusion()),
        }

    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts [K, K], row = truth, column = prediction."""
        return metrics.confusion_matrix(metrics.predicted_classes(self.scores), self.labels, len(self.classes))

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


@dataclass(frozen=True, slots=True)
class _Item:
    position: int
    rgb: Tensor | None
    tg: Tensor | None
    bad: str = ""


class _ViewDataset(Dataset[_Item]):
    """All views of one video: uint8[V, T, S, S, 3]."""

    def __init__(self, reader: ClipReader, videos: Sequence[int], clip: ClipSettings, views: Views, modality: Modality):
        self.reader, self.videos, self.clip, self.views, self.modality = reader, videos, clip, views, modality

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, position: int) -> _Item:
        place = self.reader.places[self.videos[position]]
        plans = plan_eval(
            place.num_frames, place.height, place.width, self.clip, self.views.num_clips, self.views.num_crops
        )
        rgb, tg = self.modality in ("rgb", "both"), self.modality in ("tg", "both")
        try:
            clips = self.reader.read_views(self.videos[position], plans, rgb=rgb, tg=tg)
        except BadSampleError as error:
            return _Item(position, None, None, str(error))
        return _Item(
            position,
            torch.from_numpy(np.stack([clip.rgb for clip in clips])) if rgb else None,
            torch.from_numpy(np.stack([clip.tg for clip in clips if clip.tg is not None])) if tg else None,
        )


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
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Result:
    """Score videos (numbers in the reader) in eval mode; ranks share them, every rank gets the whole result.

    tell: called with (videos done, videos of this rank).
    """
    own = list(range(ranks.rank, len(videos), ranks.world_size))
    dataset = _ViewDataset(reader, [videos[place] for place in own], clip, views, modality)
    was_training = model.training
    model.eval()
    found: list[tuple[int, npt.NDArray[np.float32] | None, str]] = []
    try:
        for item in _items(dataset, workers):
            scores = None if item.bad else _score(model, item, ranks.device, average, clip.gradient == "slow")
            found.append((own[item.position], scores, item.bad))
            tell(len(found), len(own))
    finally:
        model.train(was_training)
    merged = sorted((entry for part in ranks.gather(found) for entry in part), key=lambda entry: entry[0])
    kept = [(place, scores) for place, scores, _ in merged if scores is not None]
    return Result(
        views=views,
        modality=modality,
        classes=classes,
        keys=tuple(reader.places[videos[place]].key for place, _ in kept),
        labels=np.array([labels[place] for place, _ in kept], np.int64),
        scores=np.stack([scores for _, scores in kept]) if kept else np.empty((0, len(classes)), np.float32),
        bad=tuple(reason for _, _, reason in merged if reason),
    )


def write_predictions(path: Path, result: Result) -> None:
    """One row a video: key, label, prediction, scores (float32[K])."""
    table = pa.table(
        {
            "key": pa.array(result.keys, pa.string()),
            "label": pa.array(result.labels, pa.int32()),
            "prediction": pa.array(metrics.predicted_classes(result.scores), pa.int32()),
            "scores": pa.array(list(result.scores), pa.list_(pa.float32())),
        }
    )
    with atomic_write(path) as file:
        pq.write_table(table, file)


def write_result(path: Path, result: Result, facts: dict[str, Any]) -> None:
    """test-PROTOCOL.json: facts of the run, the metrics, per class, confusion."""
    with atomic_write(path) as file:
        file.write(json_bytes({**facts, **result.to_dict()}))


def _items(dataset: _ViewDataset, workers: int) -> Iterator[_Item]:
    loader: DataLoader[_Item] = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=start_worker if workers else None,
        collate_fn=_same,
        multiprocessing_context=worker_context() if workers else None,
    )
    return iter(loader)


def _same(item: Any) -> Any:
    return item


@torch.no_grad()
def _score(model: Model, item: _Item, device: torch.device, average: Average, slow: bool) -> npt.NDArray[np.float32]:
    """Mean over views and streams, float32[K]; views go through the model in chunks, so that memory is bounded."""
    total: Tensor | None = None
    num_scores = 0
    for name, clips in (("rgb", item.rgb), ("tg", item.tg)):
        if clips is None:
            continue
        for chunk in torch.split(clips, _VIEWS_AT_ONCE):
            output = model(**{name: network_input(chunk.to(device), slow and name == "tg")})
            stream = output.rgb if name == "rgb" else output.tg
            scores = stream.logits_BK.float()
            if average == "probabilities":
                scores = scores.softmax(dim=1)
            summed = scores.sum(dim=0)
            total = summed if total is None else total + summed
            num_scores += len(chunk)
    assert total is not None
    return np.asarray((total / num_scores).cpu().numpy(), np.float32)
