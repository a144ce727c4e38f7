"""Accuracy by class and what is taken for what: the confusion matrix as a table or, with many classes, as a map."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tgtrain.evaluate.results import ClassScore, TestResult
from tgtrain.report.run_data import RunData

MOST_TABLE_CLASSES = 16
MOST_CONFUSIONS = 8
_NUM_LEVELS = 10


@dataclass(frozen=True, slots=True)
class Cell:
    """count: videos; share: of the videos of its true class, 0..1; level: 0 (none) to 10, for the shade."""

    count: int
    share: float
    level: int


@dataclass(frozen=True, slots=True)
class Confusion:
    """The classes that occur as truth or prediction. rows: the table (few classes), svg and readout: the map (many)."""

    names: tuple[str, ...]
    num_left_out: int
    rows: tuple[tuple[Cell, ...], ...]
    svg: str
    readout: dict[str, object]


@dataclass(frozen=True, slots=True)
class Pair:
    """A confusion: `count` of the `num_videos` videos of class `truth` were taken for `prediction`."""

    truth: int
    prediction: int
    truth_name: str
    prediction_name: str
    count: int
    num_videos: int


@dataclass(frozen=True, slots=True)
class ClassRow:
    """A row of the table of classes; accuracies: one per compared result, None where the class has no videos there."""

    name: str
    num_videos: int
    accuracies: tuple[float | None, ...]
    taken_for: str


def class_names(run: RunData, result: TestResult | None = None) -> tuple[str, ...]:
    """Names by label, as many as the confusion matrix has rows; labels beyond the class list are named by number."""
    size = len(result.confusion) if result is not None and result.confusion is not None else 0
    names = dict(enumerate(run.data.classes))
    names.update({score.label: score.name for score in (result.classes if result else ())})
    size = max(size, max(names, default=-1) + 1)
    return tuple(names.get(label, f"class {label}") for label in range(size))


def confusion_view(run: RunData, result: TestResult) -> Confusion | None:
    """The matrix as the page shows it, or None where the result has none or is empty."""
    if result.confusion is None or not result.confusion.any():
        return None
    counts = result.confusion
    kept = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    counts = counts[np.ix_(kept, kept)]
    every = class_names(run, result)
    names = tuple(every[label] for label in kept)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    level = np.where(counts > 0, np.ceil(share * _NUM_LEVELS), 0).astype(int)
    small = len(names) <= MOST_TABLE_CLASSES
    rows = tuple(
        tuple(Cell(int(counts[t, p]), float(share[t, p]), int(level[t, p])) for p in range(len(names)))
        for t in range(len(names) if small else 0)
    )
    cells = [[int(t), int(p), int(counts[t, p])] for t, p in np.argwhere(counts)] if not small else []
    readout: dict[str, object] = {"names": list(names), "cells": cells, "sums": counts.sum(axis=1).tolist()}
    return Confusion(
        names, len(every) - len(names), rows, "" if small else _map(level, names), {} if small else readout
    )


def top_confusions(run: RunData, result: TestResult, most: int = MOST_CONFUSIONS) -> tuple[Pair, ...]:
    """The most frequent confusions, most frequent first; equal counts by label."""
    if result.confusion is None:
        return ()
    names, sums = class_names(run, result), result.confusion.sum(axis=1)
    wrong = result.confusion - np.diag(np.diag(result.confusion))
    places = sorted(map(tuple, np.argwhere(wrong).tolist()), key=lambda place: (-wrong[place], place))
    return tuple(Pair(t, p, names[t], names[p], int(wrong[t, p]), int(sums[t])) for t, p in places[:most])


def class_rows(runs: Sequence[RunData], results: Sequence[TestResult]) -> tuple[ClassRow, ...]:
    """Accuracy by class, weakest first (by the first result), for one result or several side by side."""
    scores: dict[str, dict[int, ClassScore]] = defaultdict(dict)
    for place, result in enumerate(results):
        for score in result.classes:
            scores[score.name][place] = score
    taken = _taken_for(runs[0], results[0])
    rows = [
        ClassRow(
            name,
            max(score.num_videos for score in found.values()),
            tuple(_finite(found.get(place)) for place in range(len(results))),
            taken.get(name, ""),
        )
        for name, found in scores.items()
    ]
    return tuple(sorted(rows, key=lambda row: 2.0 if row.accuracies[0] is None else row.accuracies[0]))


def majority_share(result: TestResult) -> float | None:
    """Share of the most frequent class: what always naming it would score."""
    counts = [score.num_videos for score in result.classes]
    return max(counts) / sum(counts) if sum(counts) else None


def interval95(fraction: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a fraction of `count` independent videos."""
    z = 1.959964
    centre = fraction + z * z / (2 * count)
    half = z * math.sqrt(fraction * (1 - fraction) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _finite(score: ClassScore | None) -> float | None:
    return score.accuracy if score is not None and math.isfinite(score.accuracy) else None


def _taken_for(run: RunData, result: TestResult) -> dict[str, str]:
    """Per class the wrong class that was named most often, with its count."""
    if result.confusion is None:
        return {}
    names, found = class_names(run, result), {}
    for label, counts in enumerate(result.confusion):
        wrong = counts.copy()
        wrong[label] = 0
        if wrong.any():
            found[names[label]] = f"{names[int(wrong.argmax())]} ({wrong.max()})"
    return found


def _map(level_KK: np.ndarray, names: Sequence[str]) -> str:
    """The matrix as an <svg> of one unit a class; one path a shade, so that 400 classes stay small."""
    size = len(names)
    paths = []
    for level in range(1, _NUM_LEVELS + 1):
        squares = "".join(f"M{p} {t}h1v1h-1z" for t, p in np.argwhere(level_KK == level).tolist())
        if squares:
            paths.append(f'<path fill-opacity="{0.08 + 0.92 * level / _NUM_LEVELS:.2f}" d="{squares}"/>')
    return (
        f'<svg class="map" viewBox="0 0 {size} {size}" role="img" aria-label="Confusion matrix of {size} classes: rows are '
        f'the true classes, columns the predicted ones; the table of classes holds the figures">{"".join(paths)}</svg>'
    )
