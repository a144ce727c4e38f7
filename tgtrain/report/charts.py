"""Which charts a report has: the quantities of a run's log by theme, or each quantity of several runs over one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tgtrain.report.plot import DASHES, NUM_COLOURS, Axis, Line, Plot, draw, number
from tgtrain.report.run_data import Curve, RunData

_RGB, _TG = 0, 1  # colours: everywhere the same
_LOGGED = {"memory_gb": "memory_mb"}  # shown in another unit than logged


@dataclass(frozen=True, slots=True)
class LegendItem:
    """A line's label and last value as text; name: as the log calls the quantity. dashes: of its stroke, SVG units."""

    label: str
    name: str
    colour: int
    dashes: str
    last: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure of the page. names: of the quantities in the log. at: where the legend's values are from.

    readout: for the pointer, see `_readout`. num_merged: log lines that share a point.
    """

    title: str
    names: str
    at: str
    note: str
    svg: str
    legend: tuple[LegendItem, ...]
    readout: dict[str, object]
    num_merged: int


@dataclass(frozen=True, slots=True)
class _Theme:
    """Quantities that share a chart. lines: (name in the log, label, colour). unit: "%" for fractions, else as written."""

    title: str
    lines: tuple[tuple[str, str, int], ...]
    note: str = ""
    unit: str = ""
    may_log: bool = False
    zero: bool = False  # the value axis begins at 0: quantities that are compared as lengths
    marked: bool = False  # show where the pseudo-label loss starts


def run_charts(run: RunData) -> tuple[Chart, ...]:
    """The charts of one run, in reading order; quantities that it did not log are left out."""
    curves = _named_curves(run)
    charts = [_accuracy_chart(run)]
    for theme in _themes(run):
        present = [(name, label, colour) for name, label, colour in theme.lines if name in curves]
        if present:
            lines = [
                (name, Line(label, curves[name], colour, place)) for place, (name, label, colour) in enumerate(present)
            ]
            charts.append(_chart(theme, lines, [run]))
    return tuple(chart for chart in charts if chart is not None)


def compared_charts(runs: Sequence[RunData]) -> tuple[Chart, ...]:
    """One chart a quantity, with a line for each run that logged it; the colour of a run is its place."""
    charts = []
    curves = [_named_curves(run) for run in runs]
    accuracies = [_evaluations(run) for run in runs]
    for name in sorted({name for found in accuracies for name in found}, key=_metric_order):
        lines = [
            (name, Line(run.name, found[name], place, place + place // NUM_COLOURS))
            for place, (run, found) in enumerate(zip(runs, accuracies, strict=True))
            if name in found
        ]
        charts.append(_chart(_Theme(name, (), "Accuracy while training, one centre clip and crop.", "%"), lines, runs))
    for theme in _joined([_themes(run) for run in runs]):
        for name, label, _ in theme.lines:
            lines = [
                (name, Line(run.name, found[name], place, place + place // NUM_COLOURS))
                for place, (run, found) in enumerate(zip(runs, curves, strict=True))
                if name in found
            ]
            if lines:
                title = theme.title if label == theme.title else f"{theme.title}: {label}"
                charts.append(_chart(replace(theme, title=title, marked=False), lines, runs))
    return tuple(charts)


def _joined(themes: Sequence[Sequence[_Theme]]) -> list[_Theme]:
    """The themes of all runs with the quantities of each; a note that not all runs share (another threshold) is dropped."""
    joined: dict[str, _Theme] = {}
    for theme in (theme for own in themes for theme in own):
        before = joined.get(theme.title, theme)
        note = theme.note if before.note == theme.note else ""
        joined[theme.title] = replace(theme, lines=tuple(dict.fromkeys((*before.lines, *theme.lines))), note=note)
    return list(joined.values())


def _themes(run: RunData) -> tuple[_Theme, ...]:
    names = run.train
    threshold = run.settings.get("method.threshold")
    trusted = f"Share of unlabelled clips whose pseudo-label passes the threshold{f' {threshold:g}' if isinstance(threshold, float) else ''}, and how many of those are right."
    clip_norm = run.settings.get("optimiser.clip_norm")
    clipped = (
        f"L2 norm of all gradients before clipping at {clip_norm:g}." if clip_norm else "L2 norm of all gradients."
    )
    align = tuple(
        (name, f"stage {name[-1]}", int(name[-1]) - 1) for name in names if name.startswith("loss/align_stage")
    )
    contrast = _numbered(names, "loss/contrast_")
    themes = [
        _Theme("Total loss", (("loss/total", "Total loss", 2),), "Sum of all terms, weights applied.", marked=True),
        _Theme("Supervised loss", _views("loss/supervised"), "Cross-entropy of the labelled clips."),
        _Theme(
            "Pseudo-label loss",
            _views("loss/pseudo"),
            "Cross-entropy of strong views against trusted pseudo-labels.",
            marked=True,
        ),
        _Theme("Alignment loss", align, "Distance of RGB features to TG features, by stage."),
        _Theme("Contrast loss", contrast, "How well RGB and TG of a clip are told to belong together."),
        _Theme(
            "Accuracy on labelled clips",
            (
                ("train/labelled_top1_rgb", "RGB top-1", 0),
                ("train/labelled_top1_tg", "TG top-1", 1),
                ("train/labelled_top5_rgb", "RGB top-5", 2),
                ("train/labelled_top5_tg", "TG top-5", 3),
            ),
            "In the training batches, with augmentation and dropout.",
            "%",
        ),
        _Theme(
            "Pseudo-labels",
            (("train/mask_fraction", "trusted", 2), ("train/pseudo_precision", "right among trusted", 3)),
            trusted,
            "%",
            zero=True,
            marked=True,
        ),
        _Theme("Learning rate", (("learning_rate", "Learning rate", 4),), zero=True),
        _Theme("Gradient norm", (("grad_norm", "Gradient norm", 5),), clipped, may_log=True),
        _Theme(
            "Throughput", (("clips_per_second", "Throughput", 2),), "Training clips a second.", "clips/s", zero=True
        ),
        _Theme(
            "Waiting for data",
            (("waiting_share", "Waiting for data", 3),),
            "Share of the time that steps waited for clips.",
            "%",
            zero=True,
        ),
        _Theme(
            "Time per step",
            (
                ("seconds_per_step", "steps alone", 4),
                ("overall_seconds_per_step", "with evaluations and checkpoints, since the start", 0),
            ),
            "",
            "s",
            zero=True,
        ),
        _Theme(
            "Peak memory",
            (("memory_gb", "Peak memory", 6),),
            "Of the GPU where one is used, else of the process.",
            "GB",
            zero=True,
        ),
    ]
    known = {name for theme in themes for name, _, _ in theme.lines} | {
        "epoch", "memory_mb", "loader_memory_mb", "num_bad", "train/num_selected", "train/num_correct"
    }  # fmt: skip
    others = [_Theme(name, ((name, name, 7),), "") for name in names if name not in known]
    return (*themes, *others)


def _views(prefix: str) -> tuple[tuple[str, str, int], ...]:
    return ((f"{prefix}_rgb", "RGB", _RGB), (f"{prefix}_tg", "TG", _TG))


def _numbered(names: Mapping[str, Curve], prefix: str) -> tuple[tuple[str, str, int], ...]:
    found = [name for name in names if name.startswith(prefix)]
    return tuple((name, name.removeprefix(prefix), 4 + place) for place, name in enumerate(found))


def _named_curves(run: RunData) -> dict[str, Curve]:
    """The train curves as charts want them: memory in GB, precision only where something was trusted."""
    curves = dict(run.train)
    if "memory_mb" in curves:
        curves["memory_gb"] = replace(curves["memory_mb"], value=curves["memory_mb"].value / 1024)
    precision, selected = curves.get("train/pseudo_precision"), curves.get("train/num_selected")
    if precision is not None and selected is not None:
        none = np.isin(precision.step, selected.step[selected.value == 0])
        curves["train/pseudo_precision"] = replace(precision, value=np.where(none, np.nan, precision.value))
    return {name: curve for name, curve in curves.items() if np.isfinite(curve.value).any()}


def _evaluations(run: RunData) -> dict[str, Curve]:
    """`top1@1x1 (test)` -> curve."""
    return {
        f"{name} ({part})": curve
        for part, curves in run.evaluate.items()
        for name, curve in curves.items()
        if "@" in name and np.isfinite(curve.value).any()
    }


def _metric_order(name: str) -> tuple[int, str]:
    order = ("top1@", "top5@", "mean_class@")
    return next((place for place, start in enumerate(order) if name.startswith(start)), len(order)), name


def _accuracy_chart(run: RunData) -> Chart | None:
    found = _evaluations(run)
    if not found:
        return None
    names = sorted(found, key=_metric_order)
    lines = [(name, Line(name, found[name], place, place)) for place, name in enumerate(names)]
    return _chart(_Theme("Accuracy", (), "One centre clip and crop of every video, while training.", "%"), lines, [run])


def _chart(theme: _Theme, lines: Sequence[tuple[str, Line]], runs: Sequence[RunData]) -> Chart:
    percent = theme.unit == "%"
    marks = [float(mark) for run in runs for mark in _pseudo_start(run)] if theme.marked else []
    names = list(dict.fromkeys(_LOGGED.get(name, name).partition(" (")[0] for name, _ in lines))
    unit = f" {theme.unit}" if theme.unit else ""
    legend = []
    for name, line in lines:
        finite = line.curve.value[np.isfinite(line.curve.value)]
        last = (f"{100 * finite[-1]:.1f}" if percent else number(float(finite[-1]))) + unit if len(finite) else "none"
        dashes = " ".join(f"{2 * length:g}" for length in DASHES[line.dash % len(DASHES)])
        legend.append(LegendItem(line.label, name, line.colour % NUM_COLOURS, dashes, last))
    alt = f"Line chart: {theme.title} over steps. Last values: " + ", ".join(
        f"{item.label} {item.last}" for item in legend
    )
    plot = draw([line for _, line in lines], alt, percent=percent, may_log=theme.may_log, zero=theme.zero, marks=marks)
    notes = [theme.note] if theme.note else []
    last_step = max(int(line.curve.step[-1]) for _, line in lines)
    if marks and marks[0] < last_step:
        notes.append("Dashed line: the pseudo-label loss starts.")
    if plot.y.log:
        notes.append("Logarithmic scale.")
    merged = max(points.num_merged for points in plot.points)
    at = f"last, step {last_step:,}" if len({int(line.curve.step[-1]) for _, line in lines}) == 1 else "last"
    return Chart(
        theme.title,
        _together(names),
        at,
        " ".join(notes),
        plot.svg,
        tuple(legend),
        _readout(plot, lines, unit, runs),
        merged,
    )


def _together(names: Sequence[str]) -> str:
    """Names of the log, those that share a beginning folded: `loss/pseudo_rgb, _tg`."""
    head = names[0].rpartition("_")[0]
    if len(names) > 1 and head and all(name.startswith(f"{head}_") for name in names):
        return ", ".join([names[0], *(name.removeprefix(head) for name in names[1:])])
    return ", ".join(names)


def _pseudo_start(run: RunData) -> list[int]:
    """The step after which the pseudo-label loss counts, where there is such a loss and a warm-up."""
    epochs = run.settings.get("method.warmup_epochs", 0)
    unlabelled = run.settings.get("method.method") != "supervised"
    return [int(epochs) * run.steps_per_epoch] if unlabelled and isinstance(epochs, int) and epochs > 0 else []


def _readout(plot: Plot, lines: Sequence[tuple[str, Line]], unit: str, runs: Sequence[RunData]) -> dict[str, object]:
    """What reading values with the pointer needs, as JSON: both axes, and per line its steps and values (null: a gap).

    per_epoch: steps of an epoch, 0 where the runs differ in it.
    """
    per_epoch = {run.steps_per_epoch for run in runs}
    return {
        "x": _axis(plot.x),
        "y": _axis(plot.y),
        "log": plot.y.log,
        "unit": unit,
        "per_epoch": per_epoch.pop() if len(per_epoch) == 1 else 0,
        "lines": [
            {
                "colour": line.colour % NUM_COLOURS,
                "step": points.step.tolist(),
                "value": [float(f"{value:.5g}") if np.isfinite(value) else None for value in points.value.tolist()],
            }
            for (_, line), points in zip(lines, plot.points, strict=True)
        ],
    }


def _axis(axis: Axis) -> list[float]:
    return [float(f"{value:.7g}") for value in (axis.start, axis.end, axis.low, axis.high)]
