"""The charts of a report: the logged quantities of one run by theme, or each quantity of several runs in one chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix

import numpy as np

from tgtrain.report.groups import Group
from tgtrain.report.plot import BOTTOM, LEFT, NUM_COLOURS, RIGHT, TOP, Line, Plot, draw, number, reduce_points
from tgtrain.report.run_data import Curve, RunData, metric_order

_SCALE = {"%": 100.0, "GB": 1 / 1024}  # from the logged value to the unit of a chart
_HIDDEN = {"epoch", "seconds_left", "loader_memory_mb", "num_bad"} | {
    f"train/num_{what}" for what in ("selected", "checked", "correct")
}


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure of the page."""

    title: str
    names: str  # of the quantities in the log
    at: str  # where the values of the legend are from
    note: str
    alt: str
    plot: Plot
    lines: tuple[Line, ...]
    # For the script that reads values with the pointer: axes as [start, end, low, high], values of each line (None: a gap).
    readout: dict[str, object]


@dataclass(frozen=True, slots=True)
class _Theme:
    """Quantities that share a chart."""

    title: str
    lines: Mapping[str, tuple[str, int]]  # name in the log -> label, colour
    note: str = ""
    unit: str = ""  # "%" for fractions
    axis: str = ""  # title of the value axis; "" for that of the chart
    may_log: bool = False
    zero: bool = False  # the value axis begins at 0
    marked: bool = False  # mark the start of the pseudo-label loss


_LABELLED_ACCURACY = _Theme(
    "Accuracy on labelled clips",
    {
        "train/labelled_top1_rgb": ("RGB top-1", 0),
        "train/labelled_top1_tg": ("TG top-1", 1),
        "train/labelled_top5_rgb": ("RGB top-5", 2),
        "train/labelled_top5_tg": ("TG top-5", 3),
    },
    "In the training batches, with augmentation and dropout.",
    "%",
    "accuracy",
    zero=True,
)
_PSEUDO_LABELS = {"train/mask_fraction": ("trusted", 2), "train/pseudo_precision": ("right among trusted", 3)}
_STEP_TIMES = {
    "seconds_per_step": ("steps alone", 4),
    "overall_seconds_per_step": ("mean since the start, with evaluations and checkpoints", 0),
}
_WAITING = {"waiting_share": ("Waiting for data", 3)}
_SPEED = (
    _Theme("Throughput", {"clips_per_second": ("Throughput", 2)}, "Training clips per second.", "clips/s", zero=True),
    _Theme("Waiting for data", _WAITING, "Share of the time that steps waited for clips.", "%", "share", zero=True),
    _Theme("Time per step", _STEP_TIMES, unit="s", axis="time", zero=True),
    _Theme(
        "Peak memory",
        {"memory_mb": ("Peak memory", 6)},
        "Of the GPU, or of the process on a CPU.",
        "GB",
        "memory",
        zero=True,
    ),
    _Theme("Power", {"gpu_watts": ("Power", 5)}, "Of a GPU, mean over all.", "W", zero=True),
)


def run_charts(run: RunData) -> tuple[Chart, ...]:
    """The charts of one run in reading order, without quantities that it did not log."""
    curves, charts = _named_curves(run), []
    for theme in _themes(run, curves):
        present = {name: style for name, style in theme.lines.items() if name in curves}
        lines = [
            _line(theme, name, label, curves[name], colour, dash)
            for dash, (name, (label, colour)) in enumerate(present.items())
        ]
        if lines:
            charts.append(_chart(theme, lines, [run]))
    return tuple(charts)


def compared_charts(runs: Sequence[RunData], groups: Sequence[Group]) -> tuple[Chart, ...]:
    """One chart for each quantity, with a line for each group of runs that logged it, in the same colour in all charts.

    The line of several runs is their mean, with their range as a band.
    """
    curves = [_named_curves(run) for run in runs]
    themes = [_themes(run, named) for run, named in zip(runs, curves, strict=True)]
    order = {theme.title: place for place, theme in enumerate(themes[0])}
    quantities = {name: (theme, label) for own in themes for theme in own for name, (label, _) in theme.lines.items()}
    charts = []
    for name, (theme, label) in sorted(quantities.items(), key=lambda item: order.get(item[1][0].title, len(order))):
        lines = [
            _group_line(theme, name, group.name, own, place)
            for place, group in enumerate(groups)
            if (own := [curves[member][name] for member in group.members if name in curves[member]])
        ]
        # A note that differs between the runs (another threshold) is left out.
        notes = {other.note for own in themes for other in own if other.title == theme.title}
        title = theme.title if label == theme.title else f"{theme.title}: {label}"
        note = theme.note if len(notes) == 1 else ""
        if lines:
            charts.append(_chart(replace(theme, title=title, note=note, marked=False), lines, runs))
    return tuple(charts)


def _themes(run: RunData, names: Mapping[str, Curve]) -> list[_Theme]:
    """All themes in reading order, also those without a quantity of this run."""
    method, clip_norm = run.facts.config.method, run.facts.config.optimiser.clip_norm
    rule = f"passes the threshold {method.threshold:g}"
    if method.threshold_rule != "fixed":
        rule = f"{method.threshold_rule} trusts"
    trusted = f"Share of unlabelled clips whose pseudo-label {rule}, and how many of those are right, as far as their class is known."
    gradient_note = f"L2 norm of all gradients{f' before clipping at {clip_norm:g}' if clip_norm else ''}."
    accuracies = sorted((name for name in names if "@" in name), key=metric_order)
    themes = [
        _Theme(
            "Accuracy",
            {name: (name, colour) for colour, name in enumerate(accuracies)},
            "One centre clip and crop of every video, while training.",
            "%",
            "accuracy",
            zero=True,
        ),
        *_loss_themes(names),
        _LABELLED_ACCURACY,
        _Theme("Pseudo-labels", _PSEUDO_LABELS, trusted, "%", "share", zero=True, marked=True),
        _Theme("Learning rate", {"learning_rate": ("Learning rate", 4)}, zero=True),
        _Theme("Gradient norm", {"grad_norm": ("Gradient norm", 5)}, gradient_note, axis="L2 norm", may_log=True),
        *_SPEED,
    ]
    known = _HIDDEN.union(*(theme.lines for theme in themes))
    return [*themes, *(_Theme(name, {name: (name, 7)}) for name in names if name not in known)]


def _loss_themes(names: Mapping[str, Curve]) -> list[_Theme]:
    total = {"loss/total": ("Total loss", 2)}
    align = [name for name in names if name.startswith("loss/align_stage")]
    contrast = [name for name in names if name.startswith("loss/contrast_")]
    supervised, pseudo, fairness = (
        {f"loss/{term}_rgb": ("RGB", 0), f"loss/{term}_tg": ("TG", 1)} for term in ("supervised", "pseudo", "fairness")
    )
    return [
        _Theme("Total loss", total, "Sum of all terms, weights applied.", marked=True),
        _Theme("Supervised loss", supervised, "Cross-entropy of the labelled clips."),
        _Theme("Pseudo-label loss", pseudo, "Cross-entropy of strong views with trusted pseudo-labels.", marked=True),
        _Theme(
            "Fairness term", fairness, "Of FreeMatch, weight applied: against a model that predicts some classes alone."
        ),
        _Theme(
            "Alignment loss",
            {name: (f"stage {name[-1]}", int(name[-1]) - 1) for name in align},
            "Distance of RGB features to TG features, by stage.",
        ),
        _Theme(
            "Contrast loss",
            {name: (name.removeprefix("loss/contrast_"), 4 + k) for k, name in enumerate(contrast)},
            "How well RGB and TG of the same clip are matched.",
        ),
    ]


def _named_curves(run: RunData) -> dict[str, Curve]:
    """All curves of a run, with evaluations as `top1@1x1 (test)`; precision is a gap where nothing was trusted."""
    curves = {
        f"{name} ({part})": curve
        for part, named in run.evaluate.items()
        for name, curve in named.items()
        if "@" in name
    }
    curves.update(run.train)
    precision = curves.get("train/pseudo_precision")
    checked = curves.get("train/num_checked", curves.get("train/num_selected"))  # older runs have the second alone
    if precision is not None and checked is not None:
        without = np.isin(precision.step, checked.step[checked.value == 0])
        curves["train/pseudo_precision"] = replace(precision, value=np.where(without, np.nan, precision.value))
    return {name: curve for name, curve in curves.items() if len(curve.finite().step)}


def _line(theme: _Theme, name: str, label: str, curve: Curve, colour: int, dash: int) -> Line:
    points = reduce_points(curve, _SCALE.get(theme.unit, 1.0))
    value = float(curve.finite().value[-1]) * _SCALE.get(theme.unit, 1.0)
    text = f"{value:.1f}" if theme.unit == "%" else number(value)
    last = f"{text} {theme.unit}".rstrip()
    return Line(label, name, points, last, int(curve.step[-1]), colour % NUM_COLOURS, dash)


def _group_line(theme: _Theme, name: str, label: str, curves: Sequence[Curve], place: int) -> Line:
    """The mean of some curves at the steps of the one with most of them, and their range; where one has ended, that of the others."""
    if len(curves) == 1:
        return _line(theme, name, label, curves[0], place, place + place // NUM_COLOURS)
    step = max((curve.step for curve in curves), key=len)
    known = [curve.finite() for curve in curves]
    values = np.array([np.interp(step, each.step, each.value, left=np.nan, right=np.nan) for each in known])
    count = np.isfinite(values).sum(axis=0)
    mean = np.where(count > 0, np.nansum(values, axis=0) / np.maximum(count, 1), np.nan)
    line = _line(theme, name, label, Curve(step, mean), place, place + place // NUM_COLOURS)
    scale = _SCALE.get(theme.unit, 1.0)
    low = reduce_points(Curve(step, np.fmin.reduce(values)), scale).low
    high = reduce_points(Curve(step, np.fmax.reduce(values)), scale).high
    return replace(line, points=replace(line.points, low=low, high=high), band=True)


def _chart(theme: _Theme, lines: Sequence[Line], runs: Sequence[RunData]) -> Chart:
    # The step after which the pseudo-label loss counts, of runs that have it and a warm-up.
    starts = [
        run.facts.config.method.warmup_epochs * run.facts.steps_per_epoch
        for run in runs
        if theme.marked and run.facts.config.method.uses_unlabelled
    ]
    marks = [step for step in starts if step]
    title = f"{theme.axis or theme.title[0].lower() + theme.title[1:]}{f', {theme.unit}' * bool(theme.unit)}"
    plot = draw(lines, "%" * (theme.unit == "%"), title=title, may_log=theme.may_log, zero=theme.zero, marks=marks)
    notes = [theme.note] * bool(theme.note)
    last_steps = {line.last_step for line in lines}
    if marks and marks[0] < max(last_steps):
        notes.append("Dashed line: the pseudo-label loss starts.")
    if plot.log:
        notes.append("Logarithmic scale.")
    names = list(dict.fromkeys(line.name for line in lines if "@" not in line.name))
    # Names with the same beginning are shortened: `loss/pseudo_rgb, _tg`.
    head = commonprefix(names).rpartition("_")[0]  # noqa: RUF071 (by characters, as meant)
    names[1:] = [name.removeprefix(head) for name in names[1:]]
    last = ", ".join(f"{line.label} {line.last}" for line in lines)
    per_epoch = {run.facts.steps_per_epoch for run in runs}
    return Chart(
        title=theme.title,
        names=", ".join(names),
        at=f"last, step {last_steps.pop():,}" if len(last_steps) == 1 else "last",
        note=" ".join(notes),
        alt=f"Line chart: {theme.title} over steps. Last values: {last}",
        plot=plot,
        lines=tuple(lines),
        readout={
            "x": [LEFT, RIGHT, *plot.x],
            "y": [BOTTOM, TOP, *plot.y],
            "log": plot.log,
            "unit": f" {theme.unit}".rstrip(),
            "per_epoch": per_epoch.pop() if len(per_epoch) == 1 else 0,  # 0: the runs differ
            "lines": [
                {
                    "colour": line.colour,
                    "step": line.points.step.tolist(),
                    "value": [float(f"{v:.5g}") if np.isfinite(v) else None for v in line.points.value.tolist()],
                }
                for line in lines
            ],
        },
    )
