"""Scores against the reference's figures and against slow plain counting."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgtrain.evaluate.metrics import (
    confusion_matrix,
    mean_class_accuracy,
    per_class_accuracy,
    predicted_classes,
    top_k_accuracy,
)


def test_figures_of_the_reference(shared: Path) -> None:
    expected = json.loads((shared / "golden" / "pipeline.json").read_text())["metrics"]
    random = np.random.RandomState(5)
    scores, labels = random.standard_normal((40, 7)), random.randint(0, 6, 40)
    assert [top_k_accuracy(scores, labels, k) for k in (1, 5)] == pytest.approx(expected["top1_top5"], rel=1e-12)
    confusion = confusion_matrix(predicted_classes(scores), labels, 7)
    assert mean_class_accuracy(confusion) == pytest.approx(expected["mean_class"], rel=1e-12)


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_against_plain_counting(num_videos: int, num_classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Few different scores, so that ties occur.
    scores = random.integers(0, 4, (num_videos, num_classes)).astype(np.float32)
    labels = random.integers(0, num_classes, num_videos)
    for k in range(1, num_classes + 2):
        hits = 0
        for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
            ranking = sorted(range(num_classes), key=lambda c: (-row[c], c))
            hits += label in ranking[:k]
        assert top_k_accuracy(scores, labels, k) == pytest.approx(hits / num_videos)

    predictions = predicted_classes(scores)
    confusion = confusion_matrix(predictions, labels, num_classes)
    assert confusion.sum() == num_videos
    accuracies = []
    for true in range(num_classes):
        of_class = [p for p, t in zip(predictions.tolist(), labels.tolist(), strict=True) if t == true]
        for predicted in range(num_classes):
            assert confusion[true, predicted] == of_class.count(predicted)
        if of_class:
            assert per_class_accuracy(confusion)[true] == pytest.approx(of_class.count(true) / len(of_class))
            accuracies.append(of_class.count(true) / len(of_class))
        else:
            assert np.isnan(per_class_accuracy(confusion)[true])
            if true in predictions:
                accuracies.append(0.0)
    assert mean_class_accuracy(confusion) == pytest.approx(sum(accuracies) / len(accuracies))


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        (np.zeros((3, 2)), np.zeros(2, int)),
        (np.zeros((0, 2)), np.zeros(0, int)),
        (np.zeros(3), np.zeros(3, int)),
        (np.array([[0.0, np.nan]]), np.zeros(1, int)),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(scores: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected scores|not finite"):
        top_k_accuracy(scores, labels, 1)
