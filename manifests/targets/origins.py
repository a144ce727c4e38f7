"""Whose labels targets have seen: the runs that made them, and the targets that these runs learnt from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from manifests.files import parse_json
from manifests.records import InputError
from manifests.splits.label_split import LabelSplit, read_split, split_digest
from manifests.splits.settings import is_split_name
from manifests.targets.target_file import Targets, read_targets, targets_digest

_MOST_ROUNDS = 64


def leaks(root: str | Path, targets: Targets, split: LabelSplit) -> tuple[list[str], list[str]]:
    """Whether the runs behind targets learnt labels of videos that `split` tests on: errors, and what cannot be checked.

    A run's predictions name its split, and the targets that it learnt from; so rounds are followed back to the first. Scores of
    other programs say nothing of that kind.
    """
    held_out = {*split.keys_of("test"), *split.keys_of("validation")}
    errors: list[str] = []
    doubts: list[str] = []
    for run in _all_runs(root, targets, doubts):
        if run.split_digest == split_digest(split):
            continue
        try:
            other = read_split(root, run.split) if is_split_name(run.split) else None
        except InputError:
            other = None
        if other is None or split_digest(other) != run.split_digest:
            doubts.append(
                f"targets {targets.name} come from {run.folder} on split {run.split} ({run.split_digest[:12]}), which is not here "
                f"any more: whether it learnt labels of test videos of {split.name} cannot be checked"
            )
        elif shared := sorted(held_out.intersection(other.keys_of("labelled"))):
            errors.append(
                f"targets {targets.name} come from {run.folder} on split {run.split}, which learnt the labels of {len(shared)} test "
                f"or validation videos of split {split.name}, such as {shared[0]}: a run with them would be tested on what it learnt"
            )
    return errors, doubts


@dataclass(frozen=True, slots=True)
class Run:
    """A run whose scores became targets; "" for what its predictions do not say."""

    folder: str
    split: str
    split_digest: str
    targets: str  # that the run itself learnt from
    targets_digest: str


def runs_of(targets: Targets) -> list[Run]:
    """The runs that targets were made of, in the order of their files."""
    runs = []
    for name in sorted(targets.provenance):
        if name.startswith("file_") and name.endswith("_run"):
            facts = _facts(targets.provenance[name])
            runs.append(Run(facts.get("run", ""), *(facts.get(each.name, "") for each in fields(Run)[1:])))
    return runs


def _all_runs(root: str | Path, targets: Targets, doubts: list[str]) -> Iterator[Run]:
    """Every run behind targets, also those of earlier rounds."""
    waiting, seen = [targets], {targets_digest(targets)}
    while waiting and len(seen) <= _MOST_ROUNDS:
        current = waiting.pop()
        for run in runs_of(current):
            yield run
            if not run.targets or run.targets_digest in seen:
                continue
            seen.add(run.targets_digest)
            try:
                found = read_targets(root, run.targets, current.classes)
            except InputError:
                found = None
            if found is None or targets_digest(found) != run.targets_digest:
                doubts.append(
                    f"{run.folder} learnt from targets {run.targets} ({run.targets_digest[:12]}), which are not here any more: "
                    "whose labels they have seen cannot be checked"
                )
            else:
                waiting.append(found)


def _facts(text: str) -> dict[str, str]:
    try:
        facts = parse_json(text)
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in facts.items()} if isinstance(facts, dict) else {}


def run_facts(origin: object) -> str:
    """What the provenance keeps of a run's predictions: a line of JSON; "" for a file of another program."""
    names = (
        "run", "checkpoint", "step", "part", "protocol", "modality", "average", "split", "split_digest", "targets",
        "targets_digest",
    )  # fmt: skip
    kept = (
        {name: origin[name] for name in names if isinstance(origin.get(name), str | int)}
        if isinstance(origin, dict)
        else {}
    )
    return json.dumps(kept, ensure_ascii=False, sort_keys=True)[:4000] if kept else ""
