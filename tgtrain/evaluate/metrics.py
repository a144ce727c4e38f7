"""Scores of a test set: top-k accuracy, mean class accuracy, confusion matrix. Pure numpy, no torch.

Shape letters: N videos, K classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]


def top_k_accuracy(scores_NK: Scores, labels_N: Labels, k: int) -> float:
    """Fraction of videos, 0..1, whose class is among the k highest scores; among equal scores the lower class comes first.

    Raises ValueError without videos, if shapes disagree or a score is not a finite number.
    """
    if scores_NK.ndim != 2 or labels_N.shape != scores_NK.shape[:1] or len(labels_N) == 0:
        raise ValueError(f"expected scores [N, K] and labels [N], N > 0; got {scores_NK.shape} and {labels_N.shape}")
    rows = np.flatnonzero(~np.isfinite(scores_NK).all(axis=1))
    if len(rows):
        raise ValueError(f"scores of {len(rows)} of {len(scores_NK)} videos are not finite, the first in row {rows[0]}")
    top_Nk = np.argsort(-scores_NK, axis=1, kind="stable")[:, :k]
    return float((top_Nk == labels_N[:, None]).any(axis=1).mean())


def predicted_classes(scores_NK: Scores) -> npt.NDArray[np.int64]:
    """The class of the highest score of each video [N]; among equal scores the lower class."""
    predictions_N: npt.NDArray[np.int64] = scores_NK.argmax(axis=1).astype(np.int64)
    return predictions_N


def confusion_matrix(predictions_N: Labels, labels_N: Labels, num_classes: int) -> npt.NDArray[np.int64]:
    """Counts [K, K]: row = true class, column = predicted class. Classes are 0 <= class < num_classes."""
    flat = labels_N.astype(np.int64) * num_classes + predictions_N
    return np.bincount(flat, minlength=num_classes * num_classes).reshape(num_classes, num_classes)


def per_class_accuracy(confusion_KK: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Fraction of each class's videos that are right [K]; NaN for a class without videos."""
    num_videos_K = confusion_KK.sum(axis=1)
    with np.errstate(invalid="ignore"):
        fraction_K: npt.NDArray[np.float64] = np.diag(confusion_KK) / num_videos_K
    return fraction_K


def mean_class_accuracy(confusion_KK: npt.NDArray[np.int64]) -> float:
    """Mean of the accuracies of the classes that occur in labels or predictions, 0..1, as the reference counts it.

    A class that is predicted but has no test videos counts 0. On a full test set this is the mean over all classes.
    """
    occurs_K = (confusion_KK.sum(axis=0) + confusion_KK.sum(axis=1)) > 0
    return float(np.nan_to_num(per_class_accuracy(confusion_KK)[occurs_K]).mean())
