"""Scores of videos: their views through a model in chunks of bounded size, one score a video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgtrain.method.augment.apply import network_input
from tgtrain.method.networks.model import Model
from tgtrain.method.networks.settings import View

Modality = Literal["rgb", "tg", "both"]
Average = Literal["logits", "probabilities"]
Floats = npt.NDArray[np.float32]
BATCH_VIEWS = 32


@dataclass(frozen=True, slots=True)
class VideoViews:
    """All views of one video: rgb, tg uint8[V, T, S, S, 3], None if not requested; both None if the video is bad."""

    position: int
    """Of the video in the list that is scored."""
    rgb: Tensor | None
    tg: Tensor | None
    bad: str = ""
    """Why the video cannot be read."""

    def __len__(self) -> int:
        """Number of views of each network."""
        return next((len(clips) for clips in (self.rgb, self.tg) if clips is not None), 0)

    def pin_memory(self) -> VideoViews:
        """The same in pinned memory, from which a GPU copies while it computes (called by the DataLoader)."""
        rgb, tg = (None if clips is None else clips.pin_memory() for clips in (self.rgb, self.tg))
        return replace(self, rgb=rgb, tg=tg)


@dataclass(frozen=True, slots=True)
class VideoScores:
    """The model's scores of one video."""

    position: int
    scores: Floats | None
    """float32[K], mean over views and networks; None if the video is bad."""
    of_networks: Mapping[View, Floats] = field(default_factory=dict)
    """float32[K] of each network, mean over views."""
    rgb_features: Floats | None = None
    """float32[C], pooled output of the last stage, mean over views; None if not requested, as with `tg_features`."""
    tg_features: Floats | None = None
    bad: str = ""


@dataclass(frozen=True, slots=True)
class Scorer:
    """A model that scores videos. It is run as it stands: put it in eval mode first."""

    model: Model
    device: torch.device
    average: Average = "logits"
    """What is averaged over views and networks."""
    slow: bool = False
    """TG clips are the raw frames of slow TG."""
    batch_views: int = BATCH_VIEWS
    """Views that go through the model together, of one or of several videos: bounds memory."""
    features: bool = False
    """Keep the pooled features too."""

    def num_in_use(self, num_views: int) -> int:
        """How many videos of so many views `score` uses at a time: those that go through the model together, and a new one."""
        return max(1, self.batch_views // num_views) + 1

    @torch.no_grad()
    def score(self, videos: Iterable[VideoViews]) -> Iterator[VideoScores]:
        """Score the videos, in their order."""
        waiting: list[VideoViews] = []
        for video in videos:
            # Bad videos count too, so that no video with pixels waits longer than `num_in_use` says.
            if (len(waiting) + 1) * max(map(len, [*waiting, video])) > self.batch_views:
                yield from self._score_together(waiting)
                waiting = []
            waiting.append(video)
        yield from self._score_together(waiting)

    def _score_together(self, videos: list[VideoViews]) -> Iterator[VideoScores]:
        outputs: dict[View, tuple[Tensor, Tensor]] = {}
        views: tuple[View, ...] = ("rgb", "tg")
        for view in views:
            clips = [getattr(video, view) for video in videos if getattr(video, view) is not None]
            if clips:
                outputs[view] = self._forward(clips, view)
        # One wait for the device for all of them.
        host = {
            view: tuple(np.asarray(part.cpu().numpy(), np.float32) for part in parts) for view, parts in outputs.items()
        }
        # Bad videos have no views, so they take up no rows.
        first = 0
        for video in videos:
            if video.bad:
                yield VideoScores(video.position, None, bad=video.bad)
                continue
            rows = slice(first, first := first + len(video))
            scores = np.concatenate([logits[rows] for logits, _ in host.values()]).mean(axis=0, dtype=np.float32)
            alone = {view: logits[rows].mean(axis=0, dtype=np.float32) for view, (logits, _) in host.items()}
            means = {
                view: pooled[rows].mean(axis=0, dtype=np.float32) for view, (_, pooled) in host.items() if self.features
            }
            yield VideoScores(video.position, scores, alone, means.get("rgb"), means.get("tg"))

    def _forward(self, clips: list[Tensor], view: View) -> tuple[Tensor, Tensor]:
        """Scores [N, K] and pooled features [N, C] of all views of one network."""
        scores, pooled = [], []
        for chunk in _chunks(clips, self.batch_views):
            moved = torch.cat([part.to(self.device, non_blocking=True) for part in chunk])
            output = self.model(**{view: network_input(moved, self.slow and view == "tg")})
            stream = output.rgb if view == "rgb" else output.tg
            logits = stream.logits_BK.float()
            scores.append(logits.softmax(dim=1) if self.average == "probabilities" else logits)
            pooled.append(self.model.backbone(view).pool(stream.features).float())
        return torch.cat(scores), torch.cat(pooled)


def _chunks(clips: list[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Deal out the rows of all clips in order, `size` at a time, as slices of the clips: nothing is copied."""
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
