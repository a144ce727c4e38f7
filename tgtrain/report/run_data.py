"""What a report shows of a run: its folder as values. A run that was killed or still trains can be read too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.records import InputError
from tgtrain.evaluate.results import TestResult, read_results
from tgtrain.run.checkpoint import every_checkpoint, step_of
from tgtrain.run.folder import CONFIG_NAME, METRICS_NAME, RunFacts, read_facts
from tgtrain.run.journal import read_metrics


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One logged quantity: step int64[N] rising, value float64[N]; NaN or infinite values are kept."""

    step: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        assert self.step.shape == self.value.shape, (self.step.shape, self.value.shape)

    def finite(self) -> Curve:
        """The curve without NaN and infinite values."""
        known = np.isfinite(self.value)
        return Curve(self.step[known], self.value[known])


@dataclass(frozen=True, slots=True)
class RunData:
    """A run folder as values."""

    folder: Path
    name: str
    facts: RunFacts
    train: Mapping[str, Curve]  # quantity -> curve
    evaluate: Mapping[str, Mapping[str, Curve]]  # part of the split -> metric -> curve
    class_records: tuple[Mapping[str, Any], ...]  # of kind `class`, as logged
    results: tuple[TestResult, ...]  # best protocol first
    steps_done: int  # the last step that is logged, tested or saved
    problems: tuple[str, ...]  # what could not be read, as sentences for the reader

    @property
    def finished(self) -> bool:
        """Whether all planned steps are done."""
        return self.steps_done >= self.facts.num_steps

    @property
    def device(self) -> str:
        """The GPU of the run, else its CPU; "" if unknown."""
        return str(self.facts.machine.get("device") or self.facts.machine.get("cpu", ""))

    def class_name(self, label: int) -> str:
        """Name of a class; `class N` for a label beyond the list."""
        return self.facts.data.classes[label] if 0 <= label < len(self.facts.data.classes) else f"class {label}"

    def median(self, name: str) -> float | None:
        """The median of the finite values of a train quantity; None if it has none."""
        values = self.train[name].finite().value if name in self.train else np.empty(0)
        return float(np.median(values)) if len(values) else None

    def last(self, name: str) -> float | None:
        """The last finite value of a train quantity; None if it has none."""
        values = self.train[name].finite().value if name in self.train else np.empty(0)
        return float(values[-1]) if len(values) else None


def read_runs(folders: Sequence[Path]) -> tuple[RunData, ...]:
    """Read several run folders.

    A folder that is named twice counts once. Runs of the same name are called by their paths.
    """
    unique = {folder.resolve(): folder for folder in folders}
    runs = [read_run(folder) for folder in unique.values()]
    names = [run.name for run in runs]
    return tuple(run if names.count(run.name) == 1 else replace(run, name=str(run.folder)) for run in runs)


def read_run(folder: Path) -> RunData:
    """Read a run folder; InputError if it is not one. Damaged lines and test files are left out and reported in `problems`."""
    if not (folder / CONFIG_NAME).is_file():
        raise InputError(_not_a_run(folder))
    facts = read_facts(folder)
    metrics = read_metrics(folder)
    problems: list[str] = []
    if metrics.cut_short:
        problems.append(f"The last line of {METRICS_NAME} was cut short while it was written, and is left out.")
    if metrics.num_damaged:
        lines = "1 line" if metrics.num_damaged == 1 else f"{metrics.num_damaged} lines"
        problems.append(f"{lines} of {METRICS_NAME} could not be read and left out of this page.")
    train = _curves([record for record in metrics.records if record["kind"] == "train"])
    evaluations = [record for record in metrics.records if record["kind"] == "evaluate"]
    parts = sorted({str(record.get("part", "test")) for record in evaluations})
    results = read_results(folder, problems)
    saved = (step_of(path) for path in every_checkpoint(folder))
    return RunData(
        folder=folder,
        name=folder.resolve().name,
        facts=facts,
        train=train,
        evaluate={part: _curves([r for r in evaluations if str(r.get("part", "test")) == part]) for part in parts},
        class_records=tuple(record for record in metrics.records if record["kind"] == "class"),
        results=results,
        steps_done=max([0, *(r["step"] for r in metrics.records), *(r.step for r in results), *saved]),
        problems=tuple(problems),
    )


def metric_order(name: str) -> tuple[int, str]:
    """Sort key of metrics such as `top1@1x1 (test)`: top-1, top-5, mean over classes, then others by name."""
    order = ("top1", "top5", "mean_class")
    metric = name.partition("@")[0]
    return order.index(metric) if metric in order else len(order), name


def _not_a_run(folder: Path) -> str:
    advice = "Name a folder that `tgtrain run` made, or leave RUN out for the newest one below ./runs."
    if not folder.exists():
        return f"No folder {folder}. {advice}"
    inside = sorted(path.parent for path in folder.glob(f"*/{CONFIG_NAME}"))
    if inside:
        examples = " ".join(map(str, inside[:3])) + " ..." * (len(inside) > 3)
        advice = (
            f"It holds {len(inside)} runs. Name one, or several to compare: tgtrain report {examples}; or print a table of all with "
            f"--table markdown."
        )
    return f"{folder} is not a run folder (no {CONFIG_NAME}). {advice}"


def _curves(records: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """A curve for each quantity. If a step was logged twice (a resumed run), its last record counts."""
    points: dict[str, dict[int, float]] = {}
    for step, record in sorted({record["step"]: record for record in records}.items()):
        for name, value in record.items():
            if name in ("kind", "step", "part") or not isinstance(value, int | float | None):
                continue
            points.setdefault(name, {})[step] = float("nan") if value is None else float(value)
    return {
        name: Curve(np.array(list(values), np.int64), np.array(list(values.values())))
        for name, values in points.items()
    }
