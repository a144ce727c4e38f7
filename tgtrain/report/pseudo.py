"""Pseudo-labels of each class over the epochs: how many were kept, how many of those were right, and what share of the class they find.

Shape letters: E epochs, C columns of a map (neighbouring epochs summed), K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tgtrain.report.maps import shaded_map
from tgtrain.report.run_data import RunData

_QUANTITIES = ("num_predicted", "num_selected", "num_checked", "num_correct", "num_true")
_MAX_COLUMNS = 48
_MAX_NAMES = 32  # classes whose names stand beside a map
_MAX_CLASSES, _MAX_EPOCHS = 100_000, 100_000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PseudoMap:
    """One picture: rows are classes, columns epochs."""

    title: str
    note: str
    svg: str


@dataclass(frozen=True, slots=True)
class PseudoRow:
    """A class in the last epoch. Shares are None where nothing is known."""

    name: str
    num_true: int
    kept: float
    kept_per_true: float | None
    right: float | None  # of those kept whose class is known
    found: float | None  # of the clips of the class, those with a right label that is kept


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    """The pseudo-labels of a run by class, the class that finds least first."""

    epoch: int  # the last one, from 1
    kept: float  # in it the share of all labels that is kept
    right: float | None  # of those kept and known the share that is right
    rows: tuple[PseudoRow, ...]
    names: tuple[str, ...]  # of the rows of the maps; () if they are too many to show
    maps: tuple[PseudoMap, ...]
    columns: tuple[str, ...]  # epochs of a column
    warnings: tuple[str, ...]
    readout: Mapping[str, object]  # for the script


def pseudo_labels(run: RunData) -> PseudoLabels | None:
    """What the records `class` of a run say; None if there are none."""
    epochs, counts_QEK = _counts(run)
    if not epochs:
        return None
    counts = dict(zip(_QUANTITIES, counts_QEK, strict=True))
    last = {name: value[-1] for name, value in counts.items()}
    knows_truth = bool(counts["num_true"].any())
    found_K = _ratio(last["num_correct"], last["num_true"])
    # Most of a class without a right label comes first; classes that do not occur come last.
    order = np.lexsort((np.arange(len(found_K)), last["num_selected"], np.nan_to_num(found_K, nan=2.0)))
    rows = tuple(
        PseudoRow(
            run.class_name(int(k)),
            round(last["num_true"][k]),
            float(last["num_selected"][k]),
            _known(last["num_selected"][k], last["num_true"][k]),
            _known(last["num_correct"][k], last["num_checked"][k]),
            _known(last["num_correct"][k], last["num_true"][k]),
        )
        for k in order
    )
    merged, columns = _columns(epochs, {name: value[:, order] for name, value in counts.items()})
    names = [row.name for row in rows]
    total = {name: float(value.sum()) for name, value in last.items()}
    return PseudoLabels(
        epoch=epochs[-1] + 1,
        kept=total["num_selected"] / max(total["num_predicted"], 1),
        right=_known(total["num_correct"], total["num_checked"]),
        rows=rows,
        names=tuple(names) if len(names) <= _MAX_NAMES else (),
        maps=_maps(merged, knows_truth),
        columns=columns,
        warnings=tuple(_warnings(rows)) if knows_truth else (),
        readout={
            "names": names,
            "columns": columns,
            **{name: np.round(value.T, 1).tolist() for name, value in merged.items()},
        },
    )


def _counts(run: RunData) -> tuple[list[int], Floats]:
    """The epochs that have records, and their counts [Q, E, K], summed over views; what a record lacks is 0."""
    place_of = {name: place for place, name in enumerate(run.facts.data.classes)}
    epochs: dict[int, dict[tuple[int, str], Mapping[str, Any]]] = {}
    for record in run.class_records:
        epoch, label = record.get("epoch"), place_of.get(str(record.get("class")))
        if isinstance(epoch, int) and 0 <= epoch < _MAX_EPOCHS and label is not None:
            epochs.setdefault(epoch, {})[label, str(record.get("view", ""))] = record
    counts = np.zeros((len(_QUANTITIES), len(epochs), min(len(place_of), _MAX_CLASSES)))
    for place, (_, records) in enumerate(sorted(epochs.items())):
        for (label, _), record in records.items():
            known = dict(record)
            if "num_selected" not in known:  # a run of an older version
                known["num_selected"] = _count(known.get("trusted")) * _count(known.get("num_predicted"))
            counts[:, place, label] += [_count(known.get(name)) for name in _QUANTITIES]
    return sorted(epochs), counts


def _count(value: object) -> float:
    return max(0.0, float(value)) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _columns(epochs: Sequence[int], counts: Mapping[str, Floats]) -> tuple[dict[str, Floats], tuple[str, ...]]:
    """The counts with neighbouring epochs summed, so that at most 48 columns are left, and what each column shows."""
    each = -(-len(epochs) // _MAX_COLUMNS)
    cuts = range(0, len(epochs), each)
    spans = [(epochs[cut], epochs[min(cut + each, len(epochs)) - 1]) for cut in cuts]
    columns = tuple(f"epoch {a + 1}" if a == b else f"epochs {a + 1} to {b + 1}" for a, b in spans)
    return {name: np.add.reduceat(value, cuts, axis=0) for name, value in counts.items()}, columns


def _maps(counts: Mapping[str, Floats], knows_truth: bool) -> tuple[PseudoMap, ...]:
    kept = counts["num_selected"]
    if not knows_truth:
        share = _ratio(kept, counts["num_predicted"])
        note = "Of the labels that named the class, the share that was kept. The true classes of these videos are not known."
        return (PseudoMap("Kept", note, shaded_map(share.T, "Share of the pseudo-labels kept, by class and epoch")),)
    per_true, right = _ratio(kept, counts["num_true"]), _ratio(counts["num_correct"], counts["num_checked"])
    found = _ratio(counts["num_correct"], counts["num_true"])
    return (
        PseudoMap(
            "Kept",
            "Labels kept for the class, for each clip that is truly of it. Orange: more than there are, so the class takes from others.",
            shaded_map(per_true.T, "Kept pseudo-labels for each clip of the class, by class and epoch"),
        ),
        PseudoMap(
            "Right",
            "Share of the kept labels that is right. Red: labels were kept and none is right. Grey: none was kept.",
            shaded_map(right.T, "Share of kept pseudo-labels that is right, by class and epoch", marks_zero=True),
        ),
        PseudoMap(
            "Share of the truth",
            "Share of the clips of the class that has a kept label which is right.",
            shaded_map(found.T, "Share of the clips of a class with a right label, by class and epoch"),
        ),
    )


def _warnings(rows: Sequence[PseudoRow]) -> list[str]:
    """The classes that training has lost, and those that take over, in the last epoch."""
    present = [row for row in rows if row.num_true]
    lost = [row.name for row in present if not row.found]
    greedy = sorted((row for row in present if row.kept > 1.5 * row.num_true), key=lambda row: -row.kept / row.num_true)
    lines = []
    if lost and any(row.kept for row in rows):
        lines.append(f"{_named(len(lost))} no right label that is kept: {_listed(lost)}.")
    if greedy:
        texts = [f"{row.name} ({row.kept / row.num_true:.1f} times)" for row in greedy]
        lines.append(f"{_named(len(greedy))} over 1.5 times as many labels kept as there are clips: {_listed(texts)}.")
    return lines


def _named(count: int) -> str:
    return "1 class has" if count == 1 else f"{count} classes have"


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _ratio(part: Floats, whole: Floats) -> Floats:
    """part / whole, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _known(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None
