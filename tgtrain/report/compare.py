"""The settings of a run with what differs from its recipe, and several runs side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifests.records import InputError
from tgtrain.config import flat_settings, load_recipe
from tgtrain.evaluate.results import TestResult
from tgtrain.report.facts import evaluations
from tgtrain.report.run_data import RunData, metric_order
from tgtrain.report.statistics import holm, mcnemar

SIGNIFICANT = 0.05
# What a recipe leaves open and a run decides by itself: that it is decided is no change.
_AUTOMATIC = {"data.block_shards": -1, "model.init_sha256": "", "model.init_tg_sha256": ""}


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting as text."""

    name: str
    value: str
    recipe: str  # the value in the shipped recipe, "" if the same
    special: bool  # whether it differs from the main recipe, ucf101-20


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side: a row for each metric or setting, with the value of each run."""

    metrics: Mapping[str, Sequence[float | None]]  # None for a run that did not measure it
    best: Mapping[str, int]
    """For a metric the run that has significantly more videos right than every other one; absent where none has."""
    different: Mapping[str, Sequence[str]]  # settings that differ, as text
    same: Mapping[str, Sequence[str]]  # the others
    warnings: Sequence[str]


def run_settings(run: RunData) -> dict[str, list[Setting]]:
    """All settings by section, with what differs from the shipped recipe and from the main one."""
    recipe, main = _shipped(run, run.facts.config.name), _shipped(run, "ucf101-20")
    sections: dict[str, list[Setting]] = {}
    for key, value in _settings(run).items():
        section, _, name = key.partition(".")
        if key in _AUTOMATIC and recipe.get(key) == _AUTOMATIC[key]:  # nobody has changed it
            recipe = {**recipe, key: value}
            main = {**main, key: value}
        published = _text(recipe[key]) if recipe.get(key, value) != value else ""
        sections.setdefault(section, []).append(Setting(name, _text(value), published, main.get(key, value) != value))
    return sections


def compare(runs: Sequence[RunData]) -> Comparison:
    """The accuracies of all runs under the names that they were measured by, the settings, and what limits comparison."""
    named = [_accuracies(run) for run in runs]
    names = sorted({name for values in named for name in values}, key=_row_order)
    settings = [_settings(run) for run in runs]
    rows = {key: [_text(values[key]) for values in settings] for key in settings[0]}
    return Comparison(
        metrics={name: [values.get(name) for values in named] for name in names},
        best=_best(runs),
        different={key: values for key, values in rows.items() if len(set(values)) > 1},
        same={key: values for key, values in rows.items() if len(set(values)) == 1},
        warnings=_warnings(runs),
    )


def _best(runs: Sequence[RunData]) -> dict[str, int]:
    """The best run by top-1 of each test on the test part, where paired tests say that it is: all exact McNemar tests against the
    others have p below 0.05, corrected for their number (Holm).
    """
    best: dict[str, int] = {}
    for name in {name for run in runs for name in _accuracies(run) if name.startswith("top1@")}:
        results = [_tests(run).get(name) for run in runs]
        answers = [{each.key: each.prediction == each.label for each in r.predictions} if r else {} for r in results]
        keys = sorted(set(answers[0]).intersection(*answers[1:]))
        if not keys or any(len(of_run) != len(keys) for of_run in answers):
            continue
        rights = np.array([[of_run[key] for key in keys] for of_run in answers])
        first = int(rights.sum(axis=1).argmax())
        others = [place for place in range(len(runs)) if place != first]
        if max(holm([mcnemar(rights[first], rights[place]).p for place in others])) < SIGNIFICANT:
            best[name] = first
    return best


def _settings(run: RunData) -> dict[str, Any]:
    """`section.key` -> value. Name, description and published figure of a recipe appear elsewhere on the page."""
    return {key: value for key, value in flat_settings(run.facts.config).items() if "." in key}


def _warnings(runs: Sequence[RunData]) -> list[str]:
    warnings = []
    if len({run.facts.data.digest for run in runs}) > 1:
        warnings.append("The runs used different data sets, so their accuracies are not comparable directly.")
    elif len({run.facts.split.digest for run in runs}) > 1:
        warnings.append("The runs used different splits: other labelled or other test videos.")
    unfinished = [run.name for run in runs if not run.finished]
    if unfinished:
        warnings.append(f"Not finished: {', '.join(unfinished)}.")
    if len({frozenset(result.protocol for result in run.results) for run in runs}) > 1:
        warnings.append("Not all runs were tested by the same protocols; only figures in one row compare.")
    return warnings + [f"{run.name}: {problem}" for run in runs for problem in run.problems]


def _tests(run: RunData) -> dict[str, TestResult]:
    """The test that each metric is of: `top1@10x3` for RGB on the test part; names of others carry the part and the network."""
    named: dict[str, TestResult] = {}
    for result in run.results:
        extra = [result.modality] * (result.modality != "rgb") + [result.part] * (result.part != "test")
        extra += ["student"] * (result.is_teacher != run.facts.config.method.tests_teacher)
        for name in result.metrics:
            named.setdefault(f"{name} ({', '.join(extra)})" if extra else name, result)
    return named


def _accuracies(run: RunData) -> dict[str, float]:
    """Every accuracy by its name, see `_tests`."""
    named = {name: result.metrics[name.partition(" ")[0]] for name, result in _tests(run).items()}
    for part in run.evaluate:
        for last in evaluations(run, part)[:1]:
            named.update({f"{entry.name} (last while training, {part})": entry.value for entry in last.accuracies})
    return named


def _row_order(name: str) -> tuple[bool, int, int, str]:
    """Tests before evaluations while training, more views first, then by metric."""
    clips, _, crops = name.partition("@")[2].split(" ")[0].partition("x")
    views = int(clips) * int(crops) if clips.isdigit() and crops.isdigit() else 0
    return "while training" in name, -views, *metric_order(name)


def _shipped(run: RunData, name: str) -> dict[str, Any]:
    """The settings of a shipped recipe for the classes of the run; empty if there is none of that name."""
    try:
        return flat_settings(load_recipe(name, num_classes=len(run.facts.data.classes) or None))
    except InputError:
        return {}


def _text(value: Any) -> str:
    """A value as it is written in a recipe, strings without quotes."""
    if isinstance(value, str):
        return value or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return json.dumps(value)
