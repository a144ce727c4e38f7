"""Accuracy by class, and the confusion matrix as a table (few classes) or a map (many)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tgtrain.evaluate.results import ClassScore, TestResult
from tgtrain.report.maps import shaded_map
from tgtrain.report.run_data import RunData

MAX_TABLE_CLASSES = 16
MAX_CONFUSIONS = 8
_NUM_LEVELS = 10


@dataclass(frozen=True, slots=True)
class Confusion:
    """The classes that occur as truth or prediction, with `rows` for a table or else `svg` and `readout` for a map."""

    names: tuple[str, ...]
    num_left_out: int
    # Of each cell the count, its share of the videos of the true class, and the shade from 0 (none) to 10.
    rows: tuple[tuple[tuple[int, float, int], ...], ...] = ()
    svg: str = ""
    readout: dict[str, object] | None = None  # for the script that reads cells with the pointer


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
    """A row of the table of classes."""

    name: str
    num_videos: int
    accuracies: tuple[float | None, ...]  # one for each compared result; None if the class has no videos there
    taken_for: str  # the most frequent wrong class, with its count


def confusion_view(run: RunData, result: TestResult) -> Confusion | None:
    """The matrix as the page shows it; None if the result has none or it is empty."""
    if result.confusion is None or not result.confusion.any():
        return None
    present = np.flatnonzero(result.confusion.sum(axis=0) + result.confusion.sum(axis=1))
    counts = result.confusion[np.ix_(present, present)]
    sums = counts.sum(axis=1)
    names = tuple(run.class_name(int(label)) for label in present)
    num_left_out = len(result.confusion) - len(names)
    share = counts / np.maximum(sums, 1)[:, None]
    level = np.ceil(share * _NUM_LEVELS).astype(int)
    if len(names) <= MAX_TABLE_CLASSES:
        rows = zip(counts.tolist(), share.tolist(), level.tolist(), strict=True)
        return Confusion(names, num_left_out, tuple(tuple(zip(*row, strict=True)) for row in rows))
    cells = [[t, p, int(counts[t, p])] for t, p in np.argwhere(counts).tolist()]
    readout: dict[str, object] = {"names": names, "cells": cells, "sums": sums.tolist()}
    label = f"Confusion matrix of {len(names)} classes: rows are the true classes, columns the predicted ones; the table of classes holds the figures"
    return Confusion(names, num_left_out, svg=shaded_map(share, label), readout=readout)


def top_confusions(run: RunData, result: TestResult, limit: int | None = MAX_CONFUSIONS) -> tuple[Pair, ...]:
    """The most frequent confusions, most frequent first; equal counts by label. limit: None for all."""
    if result.confusion is None:
        return ()
    sums = result.confusion.sum(axis=1).tolist()
    wrong = result.confusion - np.diag(np.diag(result.confusion))
    cells = sorted((-int(wrong[t, p]), t, p) for t, p in np.argwhere(wrong).tolist())
    return tuple(Pair(t, p, run.class_name(t), run.class_name(p), -count, sums[t]) for count, t, p in cells[:limit])


def class_rows(run: RunData, results: Sequence[TestResult]) -> tuple[ClassRow, ...]:
    """Accuracy by class, weakest first by the first result, for one result or several side by side."""
    taken_for: dict[int, str] = {}  # by label
    for pair in top_confusions(run, results[0], None):
        taken_for.setdefault(pair.truth, f"{pair.prediction_name} ({pair.count})")
    scores: dict[str, dict[int, ClassScore]] = {}
    for column, result in enumerate(results):
        for score in result.classes:
            scores.setdefault(score.name, {})[column] = score
    rows = []
    for name, by_column in scores.items():
        accuracies = [by_column[column].accuracy if column in by_column else math.nan for column in range(len(results))]
        rows.append(
            ClassRow(
                name,
                max(score.num_videos for score in by_column.values()),
                tuple(value if math.isfinite(value) else None for value in accuracies),
                taken_for.get(by_column[0].label, "") if 0 in by_column else "",
            )
        )
    return tuple(sorted(rows, key=lambda row: 2.0 if row.accuracies[0] is None else row.accuracies[0]))


def majority_share(result: TestResult) -> float | None:
    """Accuracy of always predicting the most frequent class."""
    counts = [score.num_videos for score in result.classes]
    return max(counts) / sum(counts) if sum(counts) else None


def interval95(fraction: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a fraction of `count` independent videos."""
    z = 1.959964
    centre = fraction + z * z / (2 * count)
    half = z * math.sqrt(fraction * (1 - fraction) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
