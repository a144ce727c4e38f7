"""Calibration: whether the probability that a network gives its answer is the share of such answers that are right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tgtrain.evaluate.results import TestResult, read_confidences
from tgtrain.report.plot import draw_reliability

NUM_BINS = 15
_FEW_VIDEOS = 200


@dataclass(frozen=True, slots=True)
class Bin:
    """The answers whose probability is in [low, high); the last bin includes 1."""

    low: float
    high: float
    num_videos: int
    confidence: float  # mean probability
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A reliability diagram and what it comes to."""

    error: float  # expected calibration error, 0..1
    largest: float  # of all bins the largest gap
    confidence: float  # mean probability of the answers
    accuracy: float
    num_videos: int
    bins: tuple[Bin, ...]  # those with videos
    picture: str
    note: str


def calibrate(result: TestResult | None) -> Calibration | None:
    """The calibration of a test by its stored scores (Guo et al., ICML 2017, with 15 bins of equal width); None if there are none."""
    confidences = read_confidences(result) if result is not None else {}
    rows = [
        (confidences[entry.key], entry.prediction == entry.label)
        for entry in (result.predictions if result is not None else ())
        if entry.key in confidences
    ]
    if not rows:
        return None
    confidence, right = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    place = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = tuple(
        Bin(
            number / NUM_BINS,
            (number + 1) / NUM_BINS,
            int((place == number).sum()),
            float(confidence[place == number].mean()),
            float(right[place == number].mean()),
        )
        for number in np.unique(place).tolist()
    )
    gaps = [abs(each.accuracy - each.confidence) for each in bins]
    return Calibration(
        error=sum(each.num_videos * gap for each, gap in zip(bins, gaps, strict=True)) / len(rows),
        largest=max(gaps),
        confidence=float(confidence.mean()),
        accuracy=float(right.mean()),
        num_videos=len(rows),
        bins=bins,
        picture=draw_reliability([each.confidence for each in bins], [each.accuracy for each in bins]),
        note=f"{len(rows)} videos are few for {len(bins)} bins: part of the error is chance."
        if len(rows) < _FEW_VIDEOS
        else "",
    )
