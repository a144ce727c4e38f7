"""The test results in a run's folder, written and read here: test-NAME.json, and the predictions beside it as Parquet.

The JSON object holds the facts of the test (checkpoint, rule, step, part, average; model if it is the teacher), protocol, modality, num_videos, num_bad, the
metrics (`top1@10x3` and so on, fractions 0..1), per_class (label, class_name, videos, accuracy) and the confusion matrix.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.files import atomic_write, read_bytes, read_json
from manifests.manifest_io import json_bytes
from manifests.parquet import parquet_table
from manifests.records import InputError
from tgtrain.evaluate import metrics
from tgtrain.evaluate.score import Floats, Modality
from tgtrain.method.networks.settings import View

_MODALITIES = ("rgb", "both", "tg")  # in the order in which reports show them: what is published first
_METRICS = ("top1", "top5", "mean_class")
_PROTOCOL = re.compile(r"[0-9]{1,6}x[0-9]{1,6}")
_LARGEST = 2**40  # count or label


@dataclass(frozen=True, slots=True)
class EvalProtocol:
    """How many views of every video are scored: clips x crops."""

    num_clips: int
    num_crops: int

    @property
    def protocol(self) -> str:
        """The name that metrics carry, such as `10x3`."""
        return f"{self.num_clips}x{self.num_crops}"

    @property
    def num_views(self) -> int:
        """Views of a video."""
        return self.num_clips * self.num_crops


@dataclass(frozen=True, slots=True)
class Result:
    """Scores of the N videos that could be read, and what follows from them."""

    views: EvalProtocol
    modality: Modality
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    """int64[N]."""
    scores: npt.NDArray[np.float32]
    """float32[N, K], mean over the views and networks."""
    bad: tuple[str, ...]
    """What is wrong with each video that could not be read."""
    of_networks: Mapping[View, Floats] = field(default_factory=dict)
    """Scores of each network that was run, as `scores`, which is their mean."""
    rgb_features: Floats | None = None
    """float32[N, C], pooled output of the last stage, mean over the views; None if not requested, as with `tg_features`."""
    tg_features: Floats | None = None

    def network(self, view: View) -> Result:
        """The result of one of the networks alone."""
        return replace(self, modality=view, scores=self.of_networks[view])

    def known(self) -> Result:
        """The result of the videos whose label is known: the unlabelled part may hold others."""
        rows = np.flatnonzero(self.labels >= 0)
        if len(rows) == len(self.labels):
            return self
        alone = {view: scores[rows] for view, scores in self.of_networks.items()}
        keys = tuple(self.keys[row] for row in rows)
        return replace(
            self,
            keys=keys,
            labels=self.labels[rows],
            scores=self.scores[rows],
            of_networks=alone,
            rgb_features=None,
            tg_features=None,
        )

    def named(self) -> dict[str, float]:
        """Metrics by their name with protocol, fractions 0..1. With 5 classes or fewer top5 is always 1."""
        protocol = self.views.protocol
        return {
            f"top1@{protocol}": metrics.top_k_accuracy(self.scores, self.labels, 1),
            f"top5@{protocol}": metrics.top_k_accuracy(self.scores, self.labels, 5),
            f"mean_class@{protocol}": metrics.mean_class_accuracy(self.confusion()),
        }

    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts [K, K], row = truth, column = prediction."""
        return metrics.confusion_matrix(metrics.predicted_classes(self.scores), self.labels, len(self.classes))

    def top_confusions(self, most: int) -> list[tuple[str, str, int, int]]:
        """The `most` frequent errors: (class, predicted class, count, videos of the class); equal counts by label."""
        confusion = self.confusion()
        wrong = confusion - np.diag(np.diag(confusion))
        pairs = sorted(((-int(wrong[t, p]), int(t), int(p)) for t, p in np.argwhere(wrong)))[:most]
        return [(self.classes[t], self.classes[p], -count, int(confusion[t].sum())) for count, t, p in pairs]

    def to_dict(self) -> dict[str, Any]:
        """The content of test-NAME.json besides the facts of the test."""
        confusion = self.confusion()
        accuracy = metrics.per_class_accuracy(confusion)
        num_videos = confusion.sum(axis=1)
        return {
            "protocol": self.views.protocol,
            "modality": self.modality,
            "num_videos": len(self.keys),
            "num_bad": len(self.bad),
            **self.named(),
            "per_class": [
                {"label": label, "class_name": name, "videos": int(count), "accuracy": float(share)}
                for label, (name, count, share) in enumerate(zip(self.classes, num_videos, accuracy, strict=True))
                if count
            ],
            "confusion": confusion.tolist(),
        }


def write_test(run: Path, result: Result, facts: dict[str, Any]) -> Path:
    """Write test-NAME.parquet and test-NAME.json into a run, and return the latter's path. NAME starts with the protocol."""
    path = run / (
        f"test-{result.views.protocol}"
        + ("" if result.modality == "rgb" else f"-{result.modality}")
        + ("" if facts["part"] == "test" else f"-{facts['part']}")
        + ("-teacher" if facts.get("model") == "teacher" else "")
        + ("-precise-bn" if "batch_norm" in facts else "")
        + ".json"
    )
    write_predictions(path.with_suffix(".parquet"), result, {"run": str(run), **facts})
    with atomic_write(path) as file:
        file.write(json_bytes({**facts, **result.to_dict()}))
    return path


def write_predictions(path: Path, result: Result, facts: dict[str, Any] | None = None) -> None:
    """Write one row a video: key, label, class_name, prediction, predicted_class, scores (float32[K]).

    The metadata of the schema say what the scores are: protocol, modality, classes, and the facts.
    """
    predicted = metrics.predicted_classes(result.scores)
    columns = {
        "prediction": pa.array(predicted, pa.int32()),
        "predicted_class": pa.array([result.classes[label] for label in predicted], pa.string()),
        "scores": pa.array(list(result.scores), pa.list_(pa.float32())),
    }
    _write_videos(path, result, columns, facts or {})


def write_features(path: Path, result: Result, facts: dict[str, Any] | None = None) -> None:
    """Write one row a video: key, label, class_name, and rgb_features, tg_features (float32[C]) as requested."""
    columns = {
        name: pa.array(list(rows), pa.list_(pa.float32()))
        for name, rows in (("rgb_features", result.rgb_features), ("tg_features", result.tg_features))
        if rows is not None
    }
    _write_videos(path, result, columns, facts or {})


def _write_videos(path: Path, result: Result, columns: dict[str, Any], facts: dict[str, Any]) -> None:
    table = pa.table(
        {
            "key": pa.array(result.keys, pa.string()),
            "label": pa.array(result.labels, pa.int32()),
            "class_name": pa.array(
                [result.classes[label] if label >= 0 else "" for label in result.labels], pa.string()
            ),
            **columns,
        }
    )
    metadata = {"protocol": result.views.protocol, "modality": result.modality, "classes": result.classes, **facts}
    with atomic_write(path) as file:
        pq.write_table(table.replace_schema_metadata({"tgtrain": json.dumps(metadata)}), file)


@dataclass(frozen=True, slots=True)
class ClassScore:
    """Accuracy of one class, 0..1, over its test videos."""

    label: int
    name: str
    num_videos: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predicted class of one video."""

    key: str
    label: int
    prediction: int


@dataclass(frozen=True, slots=True, eq=False)
class TestResult:
    """One test-NAME.json as read, with the predictions beside it."""

    protocol: str
    modality: str
    part: str
    checkpoint: str
    step: int
    num_videos: int
    """Videos that were counted."""
    num_bad: int
    """Videos that could not be read."""
    average: str
    """What was averaged over the views; "" if unknown."""
    rule: str
    """How the checkpoint was chosen: last, best or named; "" if unknown (a file of an older version)."""
    batch_norm: str
    """What was done to the BatchNorm statistics before; "" for those of the checkpoint."""
    is_teacher: bool
    """Whether the EMA teacher was tested."""
    metrics: Mapping[str, float]
    """Fractions 0..1 by name with protocol."""
    classes: tuple[ClassScore, ...]
    confusion: npt.NDArray[np.int64] | None
    """int64[K, K], row = truth; None if the file has none."""
    predictions: tuple[Prediction, ...]
    table: Path | None = None
    """The file of the predictions."""

    @property
    def num_views(self) -> int:
        """Clips times crops of a video."""
        clips, _, crops = self.protocol.partition("x")
        return int(clips) * int(crops) if clips.isdigit() and crops.isdigit() else 0

    def metric(self, name: str) -> float | None:
        """top1, top5 or mean_class under this protocol; None if the file has no number."""
        return self.metrics.get(f"{name}@{self.protocol}")


def read_results(run: Path, problems: list[str]) -> tuple[TestResult, ...]:
    """Read the test results of a run, best protocol first; unreadable ones are left out and described in `problems`."""
    results = []
    for path in sorted(run.glob("test-*.json")):
        try:
            results.append(_read_test(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            problems.append(
                f"{path.name} could not be read and is left out ({error}). `tgtrain test {run}` writes it again."
            )
    shown = {modality: place for place, modality in enumerate(_MODALITIES)}

    def place_of(result: TestResult) -> tuple[Any, ...]:
        modality = shown.get(result.modality, len(shown))
        order = (result.part != "test", -result.num_views, modality)
        return *order, not result.is_teacher, -result.step, result.checkpoint

    return tuple(sorted(results, key=place_of))


def read_confidences(result: TestResult) -> dict[str, float]:
    """The probability of the predicted class of each video, 0..1, by key; {} if the scores are not stored, or damaged.

    That is the softmax of mean logits, or the mean of probabilities, whichever the test averaged.
    """
    try:
        table = parquet_table(read_bytes(result.table), columns=["key", "scores"]) if result.table else None
        rows = pa.array([]) if table is None else table["scores"].combine_chunks()
        if table is None or not pa.types.is_list(rows.type) or len(set(rows.value_lengths().to_pylist())) != 1:
            return {}
        scores = rows.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(rows), -1)
    except (OSError, ValueError, TypeError):
        return {}
    if not scores.size or not np.isfinite(scores).all():
        return {}
    if result.average != "probabilities":
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    highest = scores.max(axis=1).clip(0, 1).tolist()
    return dict(zip(map(str, table["key"].to_pylist()), highest, strict=True))


def read_test_metrics(run: Path) -> dict[str, dict[str, float]]:
    """Metrics and step of each test of a run, by the file's name without .json; InputError if one is damaged."""
    tests = {}
    for path in sorted(run.glob("test-*.json")):
        try:
            raw = read_json(path)
            figures = {name: float(value) for name, value in raw.items() if name.partition("@")[0] in _METRICS}
            tests[path.stem] = {**figures, "step": float(int(raw.get("step", -1)))}
        except (OSError, ValueError, TypeError, AttributeError, OverflowError):
            raise InputError(f"{path} is damaged. Remove it, or run `tgtrain test {run}` again.") from None
    return tests


def _read_test(path: Path) -> TestResult:
    raw = read_json(path)
    protocol = str(raw["protocol"])
    if not _PROTOCOL.fullmatch(protocol):
        raise ValueError(f"protocol is {protocol!r:.100}, expected clips x crops")
    confusion = np.array(raw.get("confusion") or [], np.int64)
    if confusion.size and not 0 <= confusion.min() <= confusion.max() <= _LARGEST:
        raise ValueError("confusion holds counts that are out of range")
    values = {name: _number(raw.get(name)) for name in (f"{metric}@{protocol}" for metric in _METRICS)}
    # Without these two a report has nothing to show; all else has a default, for files of older versions.
    top1, num_videos = values[f"top1@{protocol}"], int(raw["num_videos"])
    if not 0 <= top1 <= 1 or num_videos < 1:
        raise ValueError(
            f"top1@{protocol} is {top1} over {num_videos} videos, expected a fraction of at least one video"
        )
    table = path.with_suffix(".parquet")
    columns = ["key", "label", "prediction"]
    rows = parquet_table(read_bytes(table), columns=columns).to_pylist() if table.is_file() else []
    predictions = tuple(Prediction(str(row["key"]), int(row["label"]), int(row["prediction"])) for row in rows)
    classes = tuple(
        ClassScore(int(row["label"]), str(row["class_name"]), int(row["videos"]), _number(row["accuracy"]))
        for row in raw.get("per_class", [])
    )
    labels = [label for entry in predictions for label in (entry.label, entry.prediction)]
    counts = [count for entry in classes for count in (entry.label, entry.num_videos)]
    if not all(0 <= number <= _LARGEST for number in (*labels, *counts, num_videos)):
        raise ValueError("a label or a count is out of range")
    return TestResult(
        protocol=protocol,
        modality=str(raw.get("modality", "rgb")),
        part=str(raw.get("part", "test")),
        checkpoint=str(raw.get("checkpoint", "")),
        step=int(raw.get("step", 0)),
        num_videos=num_videos,
        num_bad=int(raw.get("num_bad", 0)),
        average=str(raw.get("average", "")),
        rule=str(raw.get("rule", "")),
        batch_norm=str(raw.get("batch_norm", "")),
        is_teacher=raw.get("model") == "teacher",
        metrics={
            name: value
            for name, value in values.items()
            if math.isfinite(value) and not (name.startswith("top5@") and 0 < len(confusion) <= 5)  # always 100 %
        },
        classes=classes,
        confusion=confusion if confusion.ndim == 2 and confusion.shape[0] == confusion.shape[1] > 0 else None,
        predictions=predictions,
        table=table if predictions else None,
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
