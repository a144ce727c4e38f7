"""The settings of a run with what differs from its recipe, and several runs side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manifests.records import InputError
from tgtrain.config import load_recipe
from tgtrain.report.facts import evaluations
from tgtrain.report.run_data import RunData


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting as text. recipe: what the shipped recipe says, "" where the same; special: differs from the defaults."""

    name: str
    value: str
    recipe: str
    special: bool


@dataclass(frozen=True, slots=True)
class SettingsGroup:
    """The settings of one section."""

    name: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """A row over all runs: values as text, and whether the runs differ."""

    name: str
    values: tuple[str, ...]
    differs: bool


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    """A metric, its value for every run (None: not measured), and the highest of them."""

    name: str
    values: tuple[float | None, ...]
    best: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side."""

    metrics: tuple[ComparedMetric, ...]
    settings: tuple[ComparedRow, ...]
    warnings: tuple[str, ...]


def settings_groups(run: RunData) -> tuple[SettingsGroup, ...]:
    """All settings by section, with what differs from the shipped recipe of that name and from the defaults."""
    recipe, defaults = _shipped(run, run.recipe), _shipped(run, "ucf101-20")
    groups: dict[str, list[Setting]] = {}
    for key, value in run.settings.items():
        section, dot, name = key.partition(".")
        if not dot:
            continue  # name, description and published stand elsewhere
        told = _text(recipe[key]) if key in recipe and recipe[key] != value else ""
        groups.setdefault(section, []).append(
            Setting(name, _text(value), told, key in defaults and defaults[key] != value)
        )
    return tuple(SettingsGroup(section, tuple(settings)) for section, settings in groups.items())


def compare(runs: Sequence[RunData]) -> Comparison:
    """Headline figures of every run under the names they were measured by, and the settings that differ."""
    found = [_named_values(run) for run in runs]
    metrics = []
    for name in sorted({name for values in found for name in values}, key=_column_order):
        values = tuple(named.get(name) for named in found)
        metrics.append(ComparedMetric(name, values, max(value for value in values if value is not None)))
    keys = dict.fromkeys(key for run in runs for key in run.settings if "." in key)
    rows = []
    for key in keys:
        texts = tuple(_text(run.settings[key]) if key in run.settings else "–" for run in runs)
        rows.append(ComparedRow(key, texts, len(set(texts)) > 1))
    return Comparison(tuple(metrics), tuple(rows), _comparison_warnings(runs))


def _comparison_warnings(runs: Sequence[RunData]) -> tuple[str, ...]:
    warnings = []
    if len({run.data.digest for run in runs}) > 1:
        warnings.append("The runs used different data sets, so their accuracies are not comparable directly.")
    elif len({run.split.digest for run in runs}) > 1:
        warnings.append("The runs used different splits: other labelled or other test videos.")
    unfinished = [run.name for run in runs if run.steps_done < run.num_steps]
    if unfinished:
        warnings.append(f"Not finished: {', '.join(unfinished)}.")
    protocols = {tuple(sorted({result.protocol for result in run.results})) for run in runs}
    if len(protocols) > 1:
        warnings.append("Not all runs were tested by the same protocols; only figures in one row compare.")
    warnings += [f"{run.name}: {problem}" for run in runs for problem in run.problems]
    return tuple(warnings)


def _named_values(run: RunData) -> dict[str, float]:
    """`top1@10x3` -> value of tests on the test part by RGB; others carry part and network in the name."""
    named: dict[str, float] = {}
    for result in run.results:
        extra = [result.modality] * (result.modality != "rgb") + [result.part] * (result.part != "test")
        for name, value in result.metrics.items():
            named.setdefault(f"{name} ({', '.join(extra)})" if extra else name, value)
    for part in run.evaluate:
        for last in evaluations(run, part, 0)[:1]:
            named.update({f"{entry.name} (last while training, {part})": entry.value for entry in last.accuracies})
    return named


def _column_order(name: str) -> tuple[bool, int, int, str]:
    metric, _, rest = name.partition("@")
    clips, _, crops = rest.split(" ")[0].partition("x")
    views = int(clips) * int(crops) if clips.isdigit() and crops.isdigit() else 0
    order = ("top1", "top5", "mean_class")
    return "while training" in name, -views, order.index(metric) if metric in order else len(order), name


def _shipped(run: RunData, name: str) -> dict[str, Any]:
    """The settings of a shipped recipe for as many classes as the run has; empty where there is none of that name."""
    if not name or name.endswith(".toml"):
        return {}
    try:
        config = load_recipe(name, num_classes=len(run.data.classes) or None)
    except InputError:
        return {}
    return {
        f"{section}.{key}": value
        for section, content in config.to_dict().items()
        if isinstance(content, Mapping)
        for key, value in content.items()
    }


def _text(value: Any) -> str:
    """As a user would write it in a recipe, strings without quotes."""
    if isinstance(value, str):
        return value or "–"
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value) or "none"
    return json.dumps(value)
