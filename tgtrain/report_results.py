"""The test results in a run's folder: test-PROTOCOL.json, and beside each the predictions as Parquet."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

_MODALITIES = ("rgb", "both", "tg")  # what is published comes first
_METRICS = ("top1", "top5", "mean_class")


@dataclass(frozen=True, slots=True)
class ClassScore:
    """Accuracy of one class, 0..1, over its test videos."""

    label: int
    name: str
    num_videos: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a test said about one video."""

    key: str
    label: int
    prediction: int


@dataclass(frozen=True, slots=True, eq=False)
class TestResult:
    """One test-*.json. metrics: name with protocol -> fraction 0..1. confusion int64[K, K], row = truth; None if absent.

    num_videos: counted; num_bad: besides them, could not be read. average: what of the views was averaged, "" unknown.
    """

    protocol: str
    modality: str
    part: str
    checkpoint: str
    step: int
    num_videos: int
    num_bad: int
    average: str
    metrics: Mapping[str, float]
    classes: tuple[ClassScore, ...]
    confusion: npt.NDArray[np.int64] | None
    predictions: tuple[Prediction, ...]

    @property
    def num_views(self) -> int:
        """Clips times crops of a video."""
        clips, _, crops = self.protocol.partition("x")
        return int(clips) * int(crops) if clips.isdigit() and crops.isdigit() else 0

    def metric(self, name: str) -> float | None:
        """top1, top5 or mean_class under this protocol; None where the file has no number."""
        return self.metrics.get(f"{name}@{self.protocol}")


def read_results(folder: Path, problems: list[str]) -> tuple[TestResult, ...]:
    """The test results of a run, best protocol first; what cannot be read is left out and named in `problems`."""
    results = []
    for path in sorted(folder.glob("test-*.json")):
        try:
            results.append(_result(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
            problems.append(
                f"{path.name} could not be read and is left out ({error}). `tgtrain test {folder}` writes it anew."
            )
    return tuple(
        sorted(results, key=lambda r: (r.part != "test", -r.num_views, _rank(r.modality), -r.step, r.checkpoint))
    )


def _rank(modality: str) -> int:
    return _MODALITIES.index(modality) if modality in _MODALITIES else len(_MODALITIES)


def _result(path: Path) -> TestResult:
    raw = json.loads(path.read_bytes())
    protocol = str(raw["protocol"])
    confusion = np.array(raw.get("confusion") or [], np.int64)
    found = {name: _number(raw.get(name)) for name in (f"{metric}@{protocol}" for metric in _METRICS)}
    top1, num_videos = found[f"top1@{protocol}"], int(raw["num_videos"])
    if not 0 <= top1 <= 1 or num_videos < 1:
        raise ValueError(
            f"top1@{protocol} is {top1} over {num_videos} videos, expected a fraction of at least one video"
        )
    return TestResult(
        protocol=protocol,
        modality=str(raw.get("modality", "rgb")),
        part=str(raw.get("part", "test")),
        checkpoint=str(raw.get("checkpoint", "")),
        step=int(raw.get("step", 0)),
        num_videos=num_videos,
        num_bad=int(raw.get("num_bad", 0)),
        average=str(raw.get("average", "")),
        metrics={
            name: value
            for name, value in found.items()
            if math.isfinite(value) and not (name.startswith("top5@") and 0 < len(confusion) <= 5)  # 100 % by nature
        },
        classes=tuple(
            ClassScore(int(row["label"]), str(row["class_name"]), int(row["videos"]), _number(row["accuracy"]))
            for row in raw.get("per_class", [])
        ),
        confusion=confusion if confusion.ndim == 2 and confusion.shape[0] == confusion.shape[1] > 0 else None,
        predictions=_predictions(path.with_suffix(".parquet")),
    )


def _predictions(path: Path) -> tuple[Prediction, ...]:
    if not path.is_file():
        return ()
    table = pq.read_table(path, columns=["key", "label", "prediction"])
    columns = (table.column(name).to_pylist() for name in ("key", "label", "prediction"))
    return tuple(Prediction(str(key), int(label), int(guess)) for key, label, guess in zip(*columns, strict=True))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
