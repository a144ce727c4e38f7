"""Line charts as inline SVG: matplotlib lays them out, the page's style sheet colours them (light, dark, print).

Colours are drawn as stand-ins and replaced by CSS variables; text stays text, in the page's own font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from tgtrain.report.run_data import Curve

NUM_COLOURS = 8
WIDTH, HEIGHT = 384, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 376, 12, 172  # the plot's edges, SVG units from the left and the top
_MOST_POINTS = 240
_MOST_DOTS = 40
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.6, 1.4), (7, 2, 1.6, 2))  # in line widths
_GRID, _TEXT = "#5eedf0", "#5eedf1"
_LOG_RATIO = 60.0


Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One curve of a chart. colour, dash: 0..; with dashes lines differ without colour too (print, colour blindness)."""

    label: str
    curve: Curve
    colour: int
    dash: int = 0


@dataclass(frozen=True, slots=True)
class Axis:
    """Where values lie: `low` at SVG unit `start`, `high` at `end`; evenly, or by their logarithm."""

    start: float
    end: float
    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """A curve as drawn: at most 240 points; value is the mean of those that share one, low and high their range."""

    step: npt.NDArray[np.int64]
    value: Floats
    low: Floats
    high: Floats
    num_merged: int


@dataclass(frozen=True, slots=True, eq=False)
class Plot:
    """A drawn chart: an <svg> element, and what reading values off it with the pointer needs."""

    svg: str
    x: Axis
    y: Axis
    points: tuple[Points, ...]


def draw(
    lines: Sequence[Line],
    alt: str,
    *,
    percent: bool = False,
    may_log: bool = False,
    zero: bool = False,
    marks: Sequence[float] = (),
) -> Plot:
    """Draw curves over steps.

    alt: text for those who do not see the chart. percent: values are fractions, shown in percent. marks: steps to mark by a
    dashed vertical line. may_log: take a logarithmic value axis where all values are positive and span a ratio over 60.
    zero: begin the value axis at 0; else only where the lowest value is at most 0.6 of the highest. Same input, same output.
    """
    points = tuple(reduce_points(line.curve, 100.0 if percent else 1.0) for line in lines)
    settings: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "tgtrain",
        "path.simplify": False,
        "font.size": 10.5,
    }
    with style.context(["default", settings]):  # not the user's matplotlibrc: a page looks the same everywhere
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        FigureCanvasSVG(figure)
        edges = (_LEFT / WIDTH, 1 - _BOTTOM / HEIGHT, (_RIGHT - _LEFT) / WIDTH, (_BOTTOM - _TOP) / HEIGHT)
        axes = figure.add_axes(edges)
        log = _scale(axes, points, percent, may_log, zero)
        _frame(axes, log, percent)
        for step in marks:
            if axes.get_xlim()[0] < step < axes.get_xlim()[1]:
                axes.axvline(step, color=_TEXT, linewidth=0.9, dashes=(2, 3), clip_on=False)
        for line, drawn in zip(lines, points, strict=True):
            _curve(axes, line, drawn, band=len(lines) == 1)
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Plot(
        svg=_inline(buffer.getvalue().decode(), alt),
        x=Axis(_LEFT, _RIGHT, left, right),
        y=Axis(_BOTTOM, _TOP, bottom, top, log),
        points=points,
    )


def reduce_points(curve: Curve, factor: float = 1.0) -> Points:
    """At most 240 points of a curve: neighbours are merged into their mean; not finite values become gaps (NaN)."""
    value = np.where(np.isfinite(curve.value), curve.value, np.nan) * factor
    num_merged = -(-len(value) // _MOST_POINTS) or 1
    cuts = np.arange(0, len(value), num_merged)
    counts = np.maximum(np.add.reduceat(np.isfinite(value).astype(int), cuts), 1)
    empty = np.logical_and.reduceat(np.isnan(value), cuts)
    mean = np.add.reduceat(np.nan_to_num(value), cuts) / counts
    low = np.fmin.reduceat(value, cuts)
    high = np.fmax.reduceat(value, cuts)
    mean[empty] = np.nan
    last = np.minimum(cuts + num_merged, len(value)) - 1
    step = (curve.step[cuts] + curve.step[last]) // 2 if num_merged > 1 else curve.step
    return Points(step.astype(np.int64), mean, low, high, num_merged)


def number(value: float) -> str:
    """A value as a chart or legend shows it: 4 significant digits, thousands apart, no exponent above 0.0001."""
    if not np.isfinite(value):
        return "none"
    if value and abs(value) < 1e-4:
        return f"{value:.2e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _scale(axes: Axes, points: Sequence[Points], percent: bool, may_log: bool, zero: bool) -> bool:
    """Set both ranges; gives whether the value axis is logarithmic."""
    steps = np.concatenate([drawn.step for drawn in points])
    first, last = float(steps.min()), float(steps.max())
    axes.set_xlim(min(first, 0.0), last if last > 0 else 1.0)
    single = len(points) == 1  # only then the range within merged points is drawn
    bounds = [edge for p in points for edge in ((p.low, p.high) if single else (p.value, p.value))]
    values = np.concatenate(bounds)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if may_log and low > 0 and high / low > _LOG_RATIO:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
        return True
    if 0 <= low <= 0.6 * high or zero:
        low = min(low, 0.0)
    room = 0.06 * ((high - low) or abs(high) or 1.0)
    top = high + room
    if percent and high <= 100:
        top = min(top, 100.0) if high > 0 else 1.0
    axes.set_ylim(low if low == 0 else low - room, top)
    return False


def _frame(axes: Axes, log: bool, percent: bool) -> None:
    """Grid, tick labels and base line."""
    axes.patch.set_visible(False)
    axes.figure.patch.set_visible(False)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=_TEXT, linewidth=0.9)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=_GRID, linewidth=1, clip_on=False)
    axes.tick_params(bottom=False, left=False, labelcolor=_TEXT, pad=5, which="both")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(numticks=5) if log else MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_minor_locator(NullLocator())
    unit = " %" if percent else ""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{number(value)}{unit}"))


def _curve(axes: Axes, line: Line, points: Points, band: bool) -> None:
    colour = f"#5eed{line.colour % NUM_COLOURS:02x}"
    known = np.isfinite(points.value)
    if band and points.num_merged > 1:
        x = np.concatenate([points.step[known], points.step[known][::-1]])
        y = np.concatenate([points.high[known], points.low[known][::-1]])
        axes.fill(x, y, color=colour, alpha=0.18, linewidth=0, clip_on=False)
    axes.plot(
        points.step,
        points.value,
        color=colour,
        linewidth=1.7,
        linestyle=(0, dashes) if (dashes := DASHES[line.dash % len(DASHES)]) else "-",
        solid_joinstyle="round",
        dash_joinstyle="round",
        clip_on=False,
    )
    if len(points.step) <= _MOST_DOTS:
        # A dot is a stroke without length and with round ends: one path like the others, without shared symbols.
        x, y = (np.repeat(values[known].astype(float), 3) for values in (points.step, points.value))
        y[2::3] = np.nan
        axes.plot(x, y, color=colour, linewidth=5, solid_capstyle="round", clip_on=False)


def _inline(document: str, alt: str) -> str:
    """matplotlib's document as an element of a page: no ids, no style sheet that would reach the page, short numbers."""
    body = re.sub(r"<(defs|metadata)>.*?</\1>", "", document[document.index("<svg") :], flags=re.DOTALL)
    body = body[body.index(">") + 1 :]
    body = re.sub(r' (id|clip-path)="[^"]*"', "", body)
    body = re.sub(r"; font-family: [^;\"]*|stroke-linejoin: miter; ", "", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d+", _short, tag[0]), body)
    body = re.sub(r"#5eed0([0-9a-f])", r"var(--s\1)", body)
    body = body.replace(_GRID, "var(--grid)").replace(_TEXT, "var(--muted)")
    body = re.sub(r"\s*\n\s*", " ", body).replace("> <", "><").replace(' "', '"')
    quoted = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{quoted}">{body}'


def _short(found: re.Match[str]) -> str:
    return f"{float(found[0]):.1f}".removesuffix(".0")
