"""What targets say of their videos: entropy and margin, agreement with known labels, and how far two of them agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.records import InputError
from manifests.splits.label_split import LabelSplit
from manifests.splits.settings import PARTS
from manifests.table import Manifest
from manifests.targets.target_file import Probabilities, Targets

Measure = Literal["entropy", "margin"]
MEASURES: tuple[Measure, ...] = ("entropy", "margin")
_CHUNK_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Part:
    """Targets of the videos of one part of a split, or of the whole data set."""

    part: str
    num_videos: int
    num_targets: int
    mean_entropy: float  # in nats; NaN without targets, as the next
    mean_confidence: float  # mean of the highest probability
    num_known: int  # videos with a target and a label
    agreement: float  # share of these whose most likely class is the label; NaN without any


@dataclass(frozen=True, slots=True)
class Unsure:
    """A video of which the targets are not sure."""

    key: str
    predicted: str  # the most likely class
    confidence: float  # its probability
    entropy: float
    margin: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far two targets agree on the videos that both have."""

    num_first: int
    num_second: int
    num_shared: int
    same_class: float  # share of the shared videos with the same most likely class; NaN without any, as the next
    mean_distance: float  # half the sum of the absolute differences: 0 for equal, 1 for disjoint targets
    agreement_first: float  # with the known labels of the shared videos
    agreement_second: float
    num_known: int


def entropies(probabilities_NK: Probabilities) -> npt.NDArray[np.float64]:
    """Entropy of each row in nats: 0 (sure) to ln K (all classes equally likely)."""
    result = np.empty(len(probabilities_NK))
    for start in range(0, len(result), _CHUNK_ROWS):
        q = probabilities_NK[start : start + _CHUNK_ROWS].astype(np.float64)
        result[start : start + _CHUNK_ROWS] = -(q * np.log(np.where(q > 0, q, 1))).sum(axis=1)
    return np.maximum(result, 0)


def margins(probabilities_NK: Probabilities) -> npt.NDArray[np.float64]:
    """The highest probability of each row less the second: 0 (not sure) to 1."""
    if probabilities_NK.shape[1] < 2:
        return np.ones(len(probabilities_NK))
    top = np.partition(probabilities_NK, -2, axis=1)[:, -2:].astype(np.float64)
    return np.abs(top[:, 1] - top[:, 0])


def known_labels(targets: Targets, manifest: Manifest) -> npt.NDArray[np.int64]:
    """The label of each video of the targets in the data set; -1 if it has none, or the video is not there."""
    table = manifest.videos.arrow
    rows = pc.index_in(pa.array(targets.key, pa.string()), value_set=table["key"].combine_chunks())
    rows = pc.fill_null(rows, -1).to_numpy()
    return np.where(rows >= 0, table["label"].to_numpy()[rows], -1).astype(np.int64)


def measure_parts(targets: Targets, manifest: Manifest, split: LabelSplit | None) -> tuple[Part, ...]:
    """Measure the targets over the data set and over each part of a split.

    The labels are those of the data set, also those that a run with the split does not see: the figures say how good the
    targets are, and nothing is learnt from them.
    """
    labels = known_labels(targets, manifest)
    entropy, confidence = entropies(targets.probabilities), targets.probabilities.max(axis=1)
    right = targets.probabilities.argmax(axis=1) == labels

    def of(part: str, num_videos: int, rows: npt.NDArray[np.int64]) -> Part:
        known = rows[labels[rows] >= 0]
        means = _mean(entropy[rows]), _mean(confidence[rows])
        return Part(part, num_videos, len(rows), *means, num_known=len(known), agreement=_mean(right[known]))

    parts = [of("all", manifest.header.num_written, np.arange(len(targets)))]
    if split is not None:
        row_of = {key: row for row, key in enumerate(targets.key)}
        for part in PARTS:
            keys = split.keys_of(part)
            rows = np.array([row_of[key] for key in keys if key in row_of], np.int64)
            parts.append(of(part, len(keys), rows))
    return tuple(parts)


def least_sure(
    targets: Targets, split: LabelSplit | None, most: int, by: Measure = "entropy", per_class: bool = False
) -> tuple[Unsure, ...]:
    """The `most` videos of which the targets are least sure, the least sure first; equal ones by key.

    Of a split only the unlabelled videos that have no label are listed: never those of its test and validation parts.
    per_class: `most` of each predicted class.
    """
    places = np.arange(len(targets))
    if split is not None:
        asked = set(split.keys_of("unlabelled")) - set(split.keys_of("labelled"))
        places = np.array([row for row, key in enumerate(targets.key) if key in asked], np.int64)
    q = targets.probabilities[places]
    entropy, margin, predicted = entropies(q), margins(q), q.argmax(axis=1)
    if by not in MEASURES:
        raise InputError(f"--by {by}: expected one of {', '.join(MEASURES)}.")
    # Places rise with the keys, so equal figures stay sorted by key.
    order = np.argsort(-entropy if by == "entropy" else margin, kind="stable")
    if per_class:
        order = order[np.argsort(predicted[order], kind="stable")]
        classes = predicted[order]
        first_of_class = np.searchsorted(classes, classes)
        order = order[np.arange(len(order)) - first_of_class < most]
    else:
        order = order[:most]
    return tuple(
        Unsure(
            targets.key[places[row]],
            targets.classes[predicted[row]],
            float(q[row].max()),
            float(entropy[row]),
            float(margin[row]),
        )
        for row in order.tolist()
    )


def compare(first: Targets, second: Targets, manifest: Manifest) -> Comparison:
    """Compare two targets of one data set."""
    rows = pc.index_in(pa.array(second.key, pa.string()), value_set=pa.array(first.key, pa.string()))
    rows = pc.fill_null(rows, -1).to_numpy()
    shared = np.flatnonzero(rows >= 0)
    a, b = first.probabilities[rows[shared]], second.probabilities[shared]
    labels = known_labels(second, manifest)[shared]
    known = labels >= 0

    first_N, second_N = a.argmax(axis=1), b.argmax(axis=1)
    return Comparison(
        num_first=len(first),
        num_second=len(second),
        num_shared=len(shared),
        same_class=_mean(first_N == second_N),
        mean_distance=_mean(np.abs(a - b).sum(axis=1) / 2),
        agreement_first=_mean((first_N == labels)[known]),
        agreement_second=_mean((second_N == labels)[known]),
        num_known=int(known.sum()),
    )


def _mean(values: npt.NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else np.nan
