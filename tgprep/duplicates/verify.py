"""Decide whether two similar videos are copies: their pictures are laid over each other, and must change alike at one lag in time.

Two clips of one scene show the same room; only a copy shows the same movement. What is compared is the change from one moment to
the next, which neither a trim nor the room disturbs: roughly first, to find the lag, and then finely, since a person who does
push-ups moves much alike each time.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from manifests.records import VideoRow
from manifests.table import Manifest
from tgprep.duplicates.hashes import SIDE, WINDOWS, Grey, read_grey

_MIN_SIMILARITY = 0.93  # correlation of the changes; benchmarks/duplicates.py shows both sides of it
_MIN_ROUGH = 0.3  # below, they are none
_MIN_STILL_SIMILARITY = 0.99  # of pictures that do not change
_STILL = 0.7  # grey levels of change (root of the mean square) below which a video stands still
_ROUGH, _FINE = (4, 0.2), (2, 0.08)  # pixels of a side that are averaged, and seconds from one moment to the next
_MAX_FRAMES = 150  # of each video, around the frames that look alike
_MIN_OVERLAP = 0.3  # of the shorter video
_WHOLE = np.ones((SIDE, SIDE), np.uint8)
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Side:
    """One of two videos: its row, and the number of the frame that looks like one of the other."""

    row: VideoRow
    frame: int


def similarity(manifest: Manifest, first: Side, second: Side, window: int, mirrored: bool) -> float:
    """How alike two videos change, -1..1, where the picture of `second` looks like a part of that of `first` at these frames.

    Raises OSError or ValueError if a shard is damaged.
    """
    (a, at_a), (b, at_b), seconds = _read_both(manifest, first, second)
    if mirrored:
        b = b[:, :, ::-1]
    warp = _refined(_start(window), a[at_a], b[at_b])

    def best_lag(cell: int, change_seconds: float) -> tuple[float, int]:
        change = max(1, round(change_seconds / seconds))
        return _best_lag(_cells(_laid_over(a, warp), cell), _cells(b, cell), change)

    for _ in range(2):
        alike, lag = best_lag(*_ROUGH)
        if alike < _MIN_ROUGH:
            return min(alike, 0.0)
        # Again with two pictures of the same moment.
        place = int(np.clip(at_b, max(0, -lag), min(len(b), len(a) - lag) - 1))
        warp = _refined(warp, a[place + lag], b[place])
    return best_lag(*_FINE)[0]


def are_copies(value: float) -> bool:
    """Whether a similarity is that of copies."""
    return value >= _MIN_SIMILARITY


def _read_both(manifest: Manifest, first: Side, second: Side) -> tuple[tuple[Grey, int], tuple[Grey, int], float]:
    """Pictures of both at the same rate, the places of the similar ones, and the seconds from one to the next."""
    rates = [side.row.fps if side.row.fps > 0 else 25.0 for side in (first, second)]
    rate = min(rates) if max(rates) > 1.02 * min(rates) else 0.0
    read = []
    for side, own in zip((first, second), rates, strict=True):
        step = own / rate if rate else 1.0
        numbers = np.unique(np.floor(np.arange(0, side.row.num_frames / step) * step + 0.5).astype(int))
        numbers = numbers[numbers < side.row.num_frames]
        at = int(np.abs(numbers - side.frame).argmin())
        start = max(0, min(at - _MAX_FRAMES // 2, len(numbers) - _MAX_FRAMES))
        numbers = numbers[start : start + _MAX_FRAMES]
        read.append((read_grey(manifest, side.row, numbers.tolist()), at - start))
    return read[0], read[1], 1 / (rate or rates[0])


def _start(window: int) -> Floats:
    """The map of pixels of the second picture to those of the first."""
    left, top, side = WINDOWS[window]
    return np.array([[side, 0, left * SIDE], [0, side, top * SIDE]], np.float32)


def _refined(warp: Floats, first: Grey, second: Grey) -> Floats:
    """The map that lays the pictures best over each other, from a first guess; the guess if none is found or it leads far away."""
    found: Any = warp.copy()
    end = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4)
    with contextlib.suppress(cv2.error):
        _, found = cv2.findTransformECC(second, first, found, cv2.MOTION_AFFINE, end, _WHOLE, 5)
        scales = np.abs(np.diag(found[:, :2]))
        if (scales > 0.5).all() and (scales < 1.5).all():
            return np.asarray(found, np.float32)
    return warp


def _laid_over(pictures: Grey, warp: Floats) -> Grey:
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.array(
        [cv2.warpAffine(p, warp, (SIDE, SIDE), flags=how, borderMode=cv2.BORDER_REPLICATE) for p in pictures]
    )


def _cells(pictures: Grey, cell: int) -> Floats:
    """Mean levels of the cells, without the border, which a map may not reach: float32[T, C]."""
    count, edge = SIDE // cell, 4 // cell
    cells: Floats = pictures.reshape(len(pictures), count, cell, count, cell).mean(axis=(2, 4), dtype=np.float32)
    return cells[:, edge:-edge, edge:-edge].reshape(len(pictures), -1)


def _best_lag(first: Floats, second: Floats, change: int) -> tuple[float, int]:
    """The highest correlation of the changes over all lags, and the lag: picture `n` of `second` is `n + lag` of `first`."""
    change = min(change, len(first) - 1, len(second) - 1)
    a, b = first[change:] - first[:-change], second[change:] - second[:-change]
    products = a @ b.T
    powers_a, powers_b = (a * a).sum(axis=1), (b * b).sum(axis=1)
    least = max(1, round(_MIN_OVERLAP * min(len(a), len(b))))
    best, best_lag = -1.0, 0
    for lag in range(least - len(b), len(a) - least + 1):
        low, high = max(0, -lag), min(len(b), len(a) - lag)
        if high - low < least:
            continue
        power_a, power_b = powers_a[low + lag : high + lag].sum(), powers_b[low:high].sum()
        still = _STILL**2 * a.shape[1] * (high - low)
        if power_a < still and power_b < still:
            alike = _still_similarity(first[low + lag], second[low])
        else:
            alike = float(np.trace(products[low + lag : high + lag, low:high]) / np.sqrt(power_a * power_b + 1e-6))
        if alike > best:
            best, best_lag = alike, lag
    return best, best_lag


def _still_similarity(first: Floats, second: Floats) -> float:
    """Correlation of two pictures of videos that stand still, on the scale of changes."""
    a, b = first - first.mean(), second - second.mean()
    alike = float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-6))
    return alike if alike >= _MIN_STILL_SIMILARITY else min(alike, 0.0)
