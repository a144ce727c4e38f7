"""Views of videos through a model: those of several videos together, in chunks of a bounded size, one score a video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgtrain.method.augment.apply import network_input
from tgtrain.method.networks.model import Model, View

Modality = Literal["rgb", "tg", "both"]
Average = Literal["logits", "probabilities"]
BATCH_VIEWS = 32


Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class VideoViews:
    """All views of one video: rgb, tg uint8[V, T, S, S, 3], None where not asked for; both None for a `bad` one (why)."""

    position: int
    rgb: Tensor | None
    tg: Tensor | None
    bad: str = ""

    def pin_memory(self) -> VideoViews:
        """The same in pinned memory, from which a GPU copies while it computes (called by the DataLoader)."""
        rgb, tg = (None if clips is None else clips.pin_memory() for clips in (self.rgb, self.tg))
        return replace(self, rgb=rgb, tg=tg)


@dataclass(frozen=True, slots=True)
class VideoScores:
    """What the model says about one video. scores float32[K]: mean over views and networks; None for a bad video.

    rgb_features, tg_features float32[C]: pooled output of the last stage, mean over views; None where not asked for.
    """

    position: int
    scores: Floats | None
    rgb_features: Floats | None = None
    tg_features: Floats | None = None
    bad: str = ""


@torch.no_grad()
def score_videos(
    model: Model,
    videos: Iterable[VideoViews],
    device: torch.device,
    *,
    average: Average = "logits",
    slow: bool = False,
    batch_views: int = BATCH_VIEWS,
    features: bool = False,
) -> Iterator[VideoScores]:
    """Scores of the videos, in their order. The model is run as it stands (put it in eval mode first).

    average: what is averaged over views and networks. slow: TG clips are the raw frames of slow TG.
    batch_views: views that go through the model together, of one or of several videos: memory is bounded by it.
    """
    waiting: list[VideoViews] = []
    num_waiting = 0
    for video in videos:
        if num_waiting + _num_views(video) > batch_views:
            yield from _score(model, waiting, device, average, slow, batch_views, features)
            waiting, num_waiting = [], 0
        waiting.append(video)
        num_waiting += _num_views(video)
    yield from _score(model, waiting, device, average, slow, batch_views, features)


def _score(
    model: Model,
    videos: list[VideoViews],
    device: torch.device,
    average: Average,
    slow: bool,
    batch_views: int,
    features: bool,
) -> Iterator[VideoScores]:
    sizes = [_num_views(video) for video in videos]
    totals: dict[View, tuple[Tensor, Tensor]] = {}
    views: tuple[View, ...] = ("rgb", "tg")
    for view in views:
        clips = [getattr(video, view) for video in videos if getattr(video, view) is not None]
        if clips:
            totals[view] = _forward(model, clips, device, view, average, slow and view == "tg", batch_views)
    # One wait for the device for all of them.
    host = {view: tuple(np.asarray(part.cpu().numpy(), np.float32) for part in parts) for view, parts in totals.items()}
    first = 0
    for video, size in zip(videos, sizes, strict=True):
        if video.bad:
            yield VideoScores(video.position, None, bad=video.bad)
            continue
        rows = slice(first, first + size)
        first += size
        scores = np.concatenate([part[0][rows] for part in host.values()]).mean(axis=0, dtype=np.float32)
        means = {view: part[1][rows].mean(axis=0, dtype=np.float32) for view, part in host.items() if features}
        yield VideoScores(video.position, scores, means.get("rgb"), means.get("tg"))


def _forward(
    model: Model,
    clips: list[Tensor],
    device: torch.device,
    view: View,
    average: Average,
    slow: bool,
    batch_views: int,
) -> tuple[Tensor, Tensor]:
    """Scores [N, K] and pooled features [N, C] of all views of one network, in chunks of `batch_views`."""
    scores, pooled = [], []
    for chunk in _chunks(clips, batch_views):
        moved = torch.cat([part.to(device, non_blocking=True) for part in chunk])
        output = model(**{view: network_input(moved, slow)})
        stream = output.rgb if view == "rgb" else output.tg
        logits = stream.logits_BK.float()
        scores.append(logits.softmax(dim=1) if average == "probabilities" else logits)
        pooled.append(stream.features[-1].float().mean(dim=(2, 3, 4)))
    return torch.cat(scores), torch.cat(pooled)


def _chunks(clips: list[Tensor], size: int) -> Iterator[list[Tensor]]:
    """The rows of all clips in order, `size` at a time, as slices of the clips: nothing is copied."""
    chunk: list[Tensor] = []
    room = size
    for rows in clips:
        while len(rows) >= room:
            yield [*chunk, rows[:room]]
            rows, chunk, room = rows[room:], [], size
        if len(rows):
            chunk.append(rows)
            room -= len(rows)
    if chunk:
        yield chunk


def _num_views(video: VideoViews) -> int:
    return next((len(clips) for clips in (video.rgb, video.tg) if clips is not None), 0)
