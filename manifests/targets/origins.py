"""Whose labels targets have seen: the runs that made them, and the targets that these runs learnt from."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
    for run, name, digest in _splits_of(root, targets, doubts):
        try:
            other = read_split(root, name) if is_split_name(name) else None
        except InputError:
            other = None
        if digest == split_digest(split):
            continue
        if other is None or split_digest(other) != digest:
            doubts.append(
                f"targets {targets.name} come from run {run} on split {name} ({digest[:12]}), which is not here any more: whether "
                f"it learnt labels of test videos of {split.name} cannot be checked"
            )
        elif shared := sorted(held_out.intersection(other.keys_of("labelled"))):
            errors.append(
                f"targets {targets.name} come from run {run} on split {name}, which learnt the labels of {len(shared)} test or "
                f"validation videos of split {split.name}, such as {shared[0]}: its accuracy would be no test's"
            )
    return errors, doubts


def _splits_of(root: str | Path, targets: Targets, doubts: list[str]) -> Iterator[tuple[str, str, str]]:
    """Run, name and digest of the split of every run behind targets, also those of earlier rounds."""
    waiting, seen = [targets], {targets_digest(targets)}
    while waiting and len(seen) <= _MOST_ROUNDS:
        current = waiting.pop()
        for name, text in current.provenance.items():
            if not (name.startswith("file_") and name.endswith("_run")):
                continue
            facts = _facts(text)
            yield facts.get("run", "?"), facts.get("split", "?"), facts.get("split_digest", "")
            earlier, digest = facts.get("targets", ""), facts.get("targets_digest", "")
            if not earlier or digest in seen:
                continue
            seen.add(digest)
            try:
                found = read_targets(root, earlier, current.classes)
            except InputError:
                found = None
            if found is None or targets_digest(found) != digest:
                doubts.append(
                    f"run {facts.get('run', '?')} learnt from targets {earlier} ({digest[:12]}), which are not here any more: whose "
                    "labels they have seen cannot be checked"
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
