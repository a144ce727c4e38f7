"""What a report shows of a run: its folder read into values, forgiving where a run was killed or is still going."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.records import InputError
from tgtrain.evaluate.results import TestResult, read_results
from tgtrain.run.folder import CONFIG_NAME, METRICS_NAME, read_facts


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One logged quantity: step int64[N] rising, value float64[N]; NaN or infinite where the run logged that."""

    step: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        assert self.step.shape == self.value.shape, (self.step.shape, self.value.shape)


@dataclass(frozen=True, slots=True)
class DataFacts:
    """The data set as the run found it. pictures: `320x240` -> number of videos."""

    root: str
    dataset: str
    digest: str
    num_videos: int
    num_frames: int
    classes: tuple[str, ...]
    pictures: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """The split and how many videos its parts have."""

    name: str
    digest: str
    labelled: int
    unlabelled: int
    validation: int
    test: int
    provenance: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RunData:
    """A run's folder. settings: `section.key` -> value. train: quantity -> curve; evaluate: part -> metric -> curve.

    results: best protocol first. num_steps: planned; steps_done: the last step that left a trace. problems: for the reader.
    """

    folder: Path
    name: str
    settings: Mapping[str, Any]
    data: DataFacts
    split: SplitFacts
    versions: Mapping[str, str]
    machine: Mapping[str, str]
    world_size: int
    num_steps: int
    steps_per_epoch: int
    started: str
    train: Mapping[str, Curve]
    evaluate: Mapping[str, Mapping[str, Curve]]
    results: tuple[TestResult, ...]
    steps_done: int
    problems: tuple[str, ...]

    @property
    def recipe(self) -> str:
        """Name of the recipe, "" where the settings name none."""
        return str(self.settings.get("name", ""))

    @property
    def device(self) -> str:
        """What it ran on: the GPU, else the CPU; "" where the run did not say."""
        return self.machine.get("device", "") or self.machine.get("cpu", "")

    def last(self, name: str) -> float | None:
        """The last finite value of a train quantity."""
        curve = self.train.get(name)
        finite = curve.value[np.isfinite(curve.value)] if curve is not None else np.empty(0)
        return float(finite[-1]) if len(finite) else None

    def median(self, name: str) -> float | None:
        """The median of the finite values of a train quantity."""
        curve = self.train.get(name)
        finite = curve.value[np.isfinite(curve.value)] if curve is not None else np.empty(0)
        return float(np.median(finite)) if len(finite) else None


def read_run(folder: Path) -> RunData:
    """Read a run's folder.

    Raises InputError where it is none; damaged lines and test files are named in `problems` and left out.
    """
    if not (folder / CONFIG_NAME).is_file():
        raise InputError(_no_run(folder))
    facts = read_facts(folder)
    problems: list[str] = []
    try:
        settings = _flat(facts["config"])
        data, split = _data_facts(facts["data"]), _split_facts(facts["split"])
        num_steps, steps_per_epoch = int(facts["num_steps"]), int(facts["steps_per_epoch"])
        world_size = int(facts.get("world_size", 1))
        versions, machine = _texts(facts.get("versions", {})), _texts(facts.get("machine", {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{folder / CONFIG_NAME} has another form than this version reads ({type(error).__name__}: {error}). "
            f"Use the version of tgtrain that made the run."
        ) from None
    train, evaluate = _read_metrics(folder / METRICS_NAME, problems)
    results = read_results(folder, problems)
    return RunData(
        folder=folder,
        name=folder.resolve().name,
        settings=settings,
        data=data,
        split=split,
        versions=versions,
        machine=machine,
        world_size=world_size,
        num_steps=num_steps,
        steps_per_epoch=max(1, steps_per_epoch),
        started=str(facts.get("started", "")),
        train=train,
        evaluate=evaluate,
        results=results,
        steps_done=_steps_done(folder, train, evaluate, results),
        problems=tuple(problems),
    )


def read_runs(folders: Sequence[Path]) -> tuple[RunData, ...]:
    """Read several runs; a folder named twice counts once, and runs of one name are told apart by their paths."""
    unique = {folder.resolve(): folder for folder in folders}
    runs = [read_run(folder) for folder in unique.values()]
    names = [run.name for run in runs]
    return tuple(run if names.count(run.name) == 1 else replace(run, name=str(run.folder)) for run in runs)


def _no_run(folder: Path) -> str:
    if not folder.exists():
        return f"No folder {folder}. Name a folder that `tgtrain run` made, or leave RUN out for the newest one below ./runs."
    inside = sorted(path.parent for path in folder.glob(f"*/{CONFIG_NAME}")) if folder.is_dir() else []
    if inside:
        some = " ".join(str(path) for path in inside[:3]) + (" ..." if len(inside) > 3 else "")
        return (
            f"{folder} is no run folder (no {CONFIG_NAME}), but holds {len(inside)}. Name one, or several to compare: "
            f"tgtrain report {some}"
        )
    return (
        f"{folder} is no run folder (no {CONFIG_NAME}). Name a folder that `tgtrain run` made, "
        f"or leave RUN out for the newest one below ./runs."
    )


def _read_metrics(path: Path, problems: list[str]) -> tuple[dict[str, Curve], dict[str, dict[str, Curve]]]:
    """Curves by name, and by part for evaluations. Where a step was logged twice (a resumed run), the last line counts."""
    train: dict[int, dict[str, Any]] = {}
    evaluate: dict[str, dict[int, dict[str, Any]]] = {}
    num_damaged = 0
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    *whole, torn = text.split("\n")  # a line that is still being written has no end yet
    if torn.strip() and not _is_json(torn):
        problems.append(f"The last line of {path.name} was cut short while it was written, and is left out.")
        torn = ""
    for line in filter(str.strip, [*whole, torn]):
        try:
            record = json.loads(line)
            kind, step = record["kind"], int(record["step"])
        except (ValueError, TypeError, KeyError):
            num_damaged += 1
            continue
        if kind == "train":
            train[step] = record
        elif kind == "evaluate":
            evaluate.setdefault(str(record.get("part", "test")), {})[step] = record
    if num_damaged:
        lines = "1 line" if num_damaged == 1 else f"{num_damaged} lines"
        problems.append(f"{lines} of {path.name} could not be read and {'is' if num_damaged == 1 else 'are'} left out.")
    return _curves(train), {part: _curves(records) for part, records in sorted(evaluate.items())}


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _curves(records: dict[int, dict[str, Any]]) -> dict[str, Curve]:
    points: dict[str, list[tuple[int, float]]] = {}
    for step in sorted(records):
        for name, value in records[step].items():
            if name not in ("kind", "step", "part") and isinstance(value, int | float):
                points.setdefault(name, []).append((step, float(value)))
    return {
        name: Curve(np.array([step for step, _ in pairs], np.int64), np.array([value for _, value in pairs]))
        for name, pairs in points.items()
    }


def _steps_done(
    folder: Path,
    train: Mapping[str, Curve],
    evaluate: Mapping[str, Mapping[str, Curve]],
    results: Sequence[TestResult],
) -> int:
    curves = [*train.values(), *(curve for part in evaluate.values() for curve in part.values())]
    steps = [0, *(int(curve.step[-1]) for curve in curves if len(curve.step)), *(result.step for result in results)]
    for path in folder.glob("checkpoints/step-*.pt"):
        number = path.stem.removeprefix("step-")
        steps.append(int(number) if number.isdigit() else 0)
    return max(steps)


def _data_facts(raw: Mapping[str, Any]) -> DataFacts:
    return DataFacts(
        root=str(raw["root"]),
        dataset=str(raw["dataset"]),
        digest=str(raw["digest"]),
        num_videos=int(raw["num_videos"]),
        num_frames=int(raw["num_frames"]),
        classes=tuple(str(name) for name in raw["classes"]),
        pictures={str(size): int(count) for size, count in raw.get("pictures", {}).items()},
    )


def _split_facts(raw: Mapping[str, Any]) -> SplitFacts:
    parts = {part: int(raw[part]) for part in ("labelled", "unlabelled", "validation", "test")}
    return SplitFacts(
        name=str(raw["name"]), digest=str(raw["digest"]), **parts, provenance=_texts(raw.get("provenance", {}))
    )


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in values.items()}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}.{inner}": content for inner, content in value.items()})
        else:
            flat[name] = value
    return flat
