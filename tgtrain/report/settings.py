"""Runs gathered by setting: those that differ by seed and split alone, all measured alike, are values of one mean.

A setting is what a run computes (the recipe with all its settings) and how its labels were chosen, without the seed and the
fold. Runs that were measured differently are never averaged, nor compared: `gather` refuses them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from manifests.records import InputError
from tgtrain.config import Config, flat_settings, load_recipe
from tgtrain.evaluate.results import TestResult
from tgtrain.report.run_data import RunData
from tgtrain.report.statistics import Spread, mean_and_deviation
from tgtrain.run.folder import RunFacts, SplitFacts, is_free

METRICS = ("top1", "top5", "mean_class")
_OF_ONE_FOLD = ("seed", "fold", "dataset", "dataset_digest", "order", "list_")  # provenance that a setting leaves out
_MOST_NAMES = 4  # of runs in a message


@dataclass(frozen=True, slots=True)
class Measurement:
    """How accuracy was measured. Names of fields are those of messages."""

    views: str
    network: str
    part: str
    checkpoint: str
    average: str
    batch_norm: str
    data_set: str

    def text(self) -> str:
        """All of it, for a reader."""
        networks = {"rgb": "RGB network", "tg": "TG network", "both": "mean of both networks", "": "each network"}
        extra = f"; BatchNorm {self.batch_norm}" if self.batch_norm else ""
        return (
            f"{self.views} (clips x crops) of the {self.part} videos, {networks.get(self.network, self.network)}, "
            f"{self.checkpoint} checkpoint, mean of {self.average or 'unknown scores'}{extra}; data set {self.data_set}"
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user chooses; None for what all runs have."""

    views: str | None = None
    network: str | None = None
    """rgb, tg or both; `each` makes a row of every network."""
    part: str = "test"


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A run with the test that counts."""

    run: RunData
    result: TestResult

    @property
    def cell(self) -> tuple[str, int]:
        """Digest of the split, and seed: what differs between the runs of a setting."""
        return self.run.facts.split.digest, self.run.facts.config.runtime.seed


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """A row of the table."""

    name: str
    """The recipe and what makes this row differ from others of it."""
    recipe: str
    changes: tuple[str, ...]
    """`section.key=value` for each setting that differs from the shipped recipe of this name."""
    labels: str
    """How many videos have labels, for a reader."""
    network: str
    published: str
    """The published figure of the recipe with its source; "" if there is none."""
    as_published: bool
    """Whether settings, data set and percentage are those of that figure."""
    measured: tuple[Measured, ...]

    def spread(self, metric: str) -> Spread | None:
        """Mean and deviation of a metric over the runs, fractions 0..1; None if not every run has it."""
        values = [value for each in self.measured if (value := each.result.metric(metric)) is not None]
        return mean_and_deviation(values) if len(values) == len(self.measured) else None


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """All settings, how they were measured, and what the reader must know."""

    measurement: Measurement
    settings: tuple[Setting, ...]
    common: tuple[str, ...]
    """`section.key=value` that all rows have in place of their recipe's value."""
    left_out: tuple[str, ...]
    """A sentence for each run that is not counted."""
    notes: tuple[str, ...]


def gather(runs: Sequence[RunData], wanted: Wanted) -> Gathered:
    """Group runs by their setting. Runs that have not finished or were not tested as wanted are left out, and named.

    InputError if the others were not measured alike, if the same setting, split and seed occurs twice, or none is left.
    """
    left_out: list[str] = []
    measured_by_run: list[tuple[RunData, dict[Measurement, TestResult]]] = []
    for run in runs:
        if not run.finished:
            left_out.append(f"{run.name}: not finished, step {run.steps_done} of {run.facts.num_steps}.")
            continue
        found = _measurements(run, wanted)
        if found:
            measured_by_run.append((run, found))
        else:
            left_out.append(_untested(run, wanted))
    if not measured_by_run:
        raise InputError("No run of these can be counted:\n  " + "\n  ".join(left_out))
    measurement, chosen = _measured_alike(measured_by_run, wanted)
    groups: dict[str, list[Measured]] = {}
    for each in chosen:
        network = each.result.modality if wanted.network == "each" else ""
        groups.setdefault(setting_key(each.run.facts, network), []).append(each)
    for group in groups.values():
        _require_different_cells(group)
    _require_same_networks(chosen)
    settings, common = _named(list(groups.values()))
    return Gathered(measurement, settings, common, tuple(left_out), tuple(_notes(chosen)))


def _measurements(run: RunData, wanted: Wanted) -> dict[Measurement, TestResult]:
    """The tests of a run that could count, best first."""
    found: dict[Measurement, TestResult] = {}
    for result in run.results:
        is_last = result.step >= run.facts.num_steps
        rule = result.rule if result.rule in ("last", "best") else "last" if is_last else f"step {result.step}"
        if rule == "last" and not is_last:  # the run went on after it
            continue
        if result.part != wanted.part or wanted.views not in (None, result.protocol):
            continue
        if (
            wanted.network not in (None, "each", result.modality)
            or result.is_teacher != run.facts.config.method.tests_teacher
        ):
            continue
        data = run.facts.data
        measurement = Measurement(
            result.protocol, result.modality, result.part, rule, result.average, result.batch_norm,
            f"{data.dataset} {data.digest[:12]}",
        )  # fmt: skip
        found.setdefault(measurement, result)
    return dict(sorted(found.items(), key=lambda entry: bool(entry[0].batch_norm)))


def _untested(run: RunData, wanted: Wanted) -> str:
    named = (wanted.views, wanted.network if wanted.network != "each" else "")
    details = " ".join(filter(None, named))
    where = f"on the {wanted.part} part{f' ({details})' if details else ''}"
    has = ", ".join(f"{r.protocol} {r.modality} {r.part} of step {r.step}" for r in run.results[:_MOST_NAMES])
    problems = " ".join(run.problems)
    reason = f"no test of its last step {where}, only {has}." if has else f"not tested {where} yet."
    return f"{run.name}: {reason} `tgtrain test {run.folder}` makes one.{' ' + problems if problems else ''}"


def _measured_alike(
    runs: Sequence[tuple[RunData, Mapping[Measurement, TestResult]]], wanted: Wanted
) -> tuple[Measurement, list[Measured]]:
    """The best measurement that all runs have, and the test of each that it is; InputError if there is none."""

    def without_network(measurement: Measurement) -> Measurement:
        return replace(measurement, network="") if wanted.network == "each" else measurement

    kinds = [dict.fromkeys(map(without_network, found)) for _, found in runs]
    common = [kind for kind in kinds[0] if all(kind in others for others in kinds)]
    if not common:
        raise InputError(_differences(runs))
    (first, *_) = common
    return first, [
        Measured(run, result)
        for run, found in runs
        for measurement, result in found.items()
        if without_network(measurement) == first
    ]


def _differences(runs: Sequence[tuple[RunData, Mapping[Measurement, TestResult]]]) -> str:
    """The message about runs that were measured differently: what differs, and which run has which value."""
    lines = []
    for field in fields(Measurement):
        holders: dict[tuple[str, ...], list[str]] = {}
        for run, found in runs:
            values = tuple(sorted({str(getattr(measurement, field.name)) or "none" for measurement in found}))
            holders.setdefault(values, []).append(run.name)
        if not set.intersection(*map(set, holders)):
            texts = (f"{' or '.join(values)} ({_names(names)})" for values, names in holders.items())
            lines.append(f"{field.name.replace('_', ' ')}: {', '.join(texts)}")
    if not lines:
        holders = {}
        for run, found in runs:
            holders.setdefault(tuple(measurement.text() for measurement in found), []).append(run.name)
        lines = [f"{_names(names)}: {' | '.join(values)}" for values, names in holders.items()]
    return (
        "The runs were not measured alike, so a mean or a comparison of them would have no meaning. What differs:\n  "
        + "\n  ".join(lines)
        + "\nChoose one with --protocol 10x3, --modality rgb|tg|both|each or --part, name fewer runs, or measure them alike with "
        "`tgtrain test RUN`."
    )


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def setting_key(facts: RunFacts, network: str = "") -> str:
    """The identity of the setting of a run. network: part of it, if each has a row of its own."""
    return json.dumps([_computed(facts.config), _label_rule(facts.split), network], sort_keys=True)


def setting_names(facts: Sequence[RunFacts]) -> list[str]:
    """A name of each setting: its recipe, and at most three of the settings in which it differs from others of that recipe."""
    configs = [_computed(each.config) | {"labels": _labels_text(each.split)} for each in facts]
    rivals = [[k for k, values in enumerate(configs) if values["name"] == own["name"]] for own in configs]
    return [
        " ".join([str(own["name"]), *_different(configs, rivals[place], place)[:3]])
        for place, own in enumerate(configs)
    ]


def _computed(config: Config) -> dict[str, Any]:
    """`section.key` -> value of all settings that change what a run computes, and the name of the recipe; without the seed."""
    settings = flat_settings(config)
    return {key: value for key, value in settings.items() if key != "runtime.seed" and not is_free(f"{key}:")}


def _label_rule(split: SplitFacts) -> dict[str, str]:
    """How labels were chosen, without what differs from fold to fold."""
    rule = {key: value for key, value in split.provenance.items() if not key.startswith(_OF_ONE_FOLD)}
    return rule if "percent" in rule or "per_class" in rule else {**rule, "share": f"{_share(split):.2g}"}


def _share(split: SplitFacts) -> float:
    """Percentage of the train videos that have labels."""
    others = split.unlabelled + split.labelled * (split.provenance.get("unlabelled") == "rest")
    return 100 * split.labelled / max(others, split.labelled, 1)


def _labels_text(split: SplitFacts) -> str:
    rule = split.provenance
    if "percent" in rule:
        return f"{rule['percent']} %"
    return f"{rule['per_class']} a class" if "per_class" in rule else f"{_share(split):.2g} %"


def _require_different_cells(group: Sequence[Measured]) -> None:
    """InputError if a setting holds two runs of the same split and seed: one result would count twice."""
    seen: dict[tuple[str, int], Measured] = {}
    for each in group:
        if (other := seen.setdefault(each.cell, each)) is not each:
            raise InputError(
                f"{other.run.folder} and {each.run.folder} are the same setting, split ({each.run.facts.split.name}) and seed "
                f"({each.cell[1]}): one result would count twice. Name one of them, or train the other with another runtime.seed."
            )


def _require_same_networks(chosen: Sequence[Measured]) -> None:
    """InputError if a network of a setting was tested in some of its runs alone: the means would be of different runs."""
    of_setting: dict[str, set[str]] = {}
    of_run: dict[tuple[str, Path], set[str]] = {}
    for each in chosen:
        setting = setting_key(each.run.facts)
        of_setting.setdefault(setting, set()).add(each.result.modality)
        of_run.setdefault((setting, each.run.folder), set()).add(each.result.modality)
    for (setting, folder), own in of_run.items():
        if missing := sorted(of_setting[setting] - own):
            raise InputError(
                f"{folder} has no test of {' and '.join(missing)}, which other runs of the same setting have. `tgtrain test {folder}` "
                "makes all; or choose one with --modality."
            )


def _named(groups: Sequence[Sequence[Measured]]) -> tuple[tuple[Setting, ...], tuple[str, ...]]:
    """Settings with names that distinguish them, and the changes of recipes that all of them share."""
    configs = [_computed(group[0].run.facts.config) for group in groups]
    changes = [_changes(group[0]) for group in groups]
    common = [text for text in changes[0] if all(text in others for others in changes)]
    rules = [_label_rule(group[0].run.facts.split) for group in groups]
    settings = []
    for place, group in enumerate(groups):
        config = group[0].run.facts.config
        rivals = [other for other, values in enumerate(configs) if values["name"] == config.name]
        different = _different(configs, rivals, place)
        of_labels = [
            text
            for text in _different(rules, range(len(rules)), place)
            if not text.startswith(("percent", "per_class", "share")) and not text.endswith("=")
        ]
        own = [text for text in changes[place] if text not in common and text not in different]
        networks = {other[0].result.modality for other in groups}
        network = [group[0].result.modality] * (len(networks) > 1)
        settings.append(
            Setting(
                name=" ".join([config.name, *different, *own, *of_labels, *network]),
                recipe=config.name,
                changes=tuple(changes[place]),
                labels=_labels_text(group[0].run.facts.split),
                network=group[0].result.modality,
                published=config.published,
                as_published=not changes[place] and _fits(config, group[0].run.facts),
                measured=tuple(group),
            )
        )
    return tuple(settings), tuple(common)


def _fits(config: Config, facts: RunFacts) -> bool:
    """Whether a run used the data set and the percentage that the recipe was made for."""
    percent = facts.split.provenance.get("percent", f"{_share(facts.split):.2g}")
    return config.data.dataset in ("", facts.data.dataset) and f"{config.data.percent:g}" in ("0", percent)


def _different(values: Sequence[Mapping[str, Any]], rivals: Iterable[int], place: int) -> list[str]:
    """`key=value` of one of them for every key that has another value in any of the rivals."""
    own = values[place]
    return [
        f"{key}={_text(own.get(key, ''))}"
        for key in dict.fromkeys(key for rival in rivals for key in values[rival])
        if any(values[rival].get(key, "") != own.get(key, "") for rival in rivals)
    ]


def _changes(each: Measured) -> list[str]:
    """`section.key=value` for what differs from the shipped recipe; nothing for a recipe of the user."""
    config, now = each.run.facts.config, _computed(each.run.facts.config)
    try:
        before = _computed(load_recipe(config.name, num_classes=len(each.run.facts.data.classes) or None))
    except InputError:
        return []
    decided = {"data.block_shards"}  # by the place of the data set, if the recipe leaves it open
    return [f"{key}={_text(value)}" for key, value in now.items() if key not in decided and before.get(key) != value]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _notes(chosen: Sequence[Measured]) -> Iterable[str]:
    for each in chosen:
        if each.result.num_bad:
            yield f"{each.run.name}: {each.result.num_bad} {each.result.part} videos could not be read and are not counted."
