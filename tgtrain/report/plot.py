"""Line charts over training steps: SVG pictures by matplotlib that follow the light or dark theme of the reader."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from tgtrain.report.run_data import Curve

WIDTH, HEIGHT = 384, 228
LEFT, RIGHT, TOP, BOTTOM = 48, 376, 26, 186  # edges of the plot in SVG units, from the left and from the top
NUM_COLOURS = 8
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.6, 1.4), (7, 2, 1.6, 2))  # in line widths
_MAX_POINTS = 240
_MAX_DOTS = 40
_LOG_RATIO = 60.0
_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # the same input gives the same bytes

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a chart. The style sheet of the page takes the colours of the lines from here."""

    text: str
    grid: str
    lines: tuple[str, ...]


LIGHT = Theme(
    "#626b76",
    "#e8ebef",
    ("#2b62d9", "#d56a10", "#0d857b", "#b03a9b", "#6a4fd3", "#bf3b3b", "#6f7f0e", "#66707c"),
)
DARK = Theme(
    "#98a2ae",
    "#2a3038",
    ("#7ea6ff", "#ff9f52", "#4fcabd", "#ea86d6", "#ad98ff", "#ff8b85", "#bccb4e", "#a6b0bc"),
)
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "tgtrain",
    "path.simplify": False,
    "font.size": 10.5,
    "font.sans-serif": ["DejaVu Sans", "Arial"],
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": LIGHT.text,
    "axes.linewidth": 0.9,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.ymargin": 0.06,
    "grid.color": LIGHT.grid,
    "grid.linewidth": 1.0,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.labelcolor": LIGHT.text,
    "ytick.labelcolor": LIGHT.text,
    "xtick.major.pad": 5,
    "ytick.major.pad": 5,
}
# matplotlib writes the light colours; in a dark page the picture replaces each by its dark one.
_DARK_RULES = "".join(
    f'[style*="{kind}: {light}"] {{ {kind}: {dark} !important }} '
    for light, dark in zip((LIGHT.text, LIGHT.grid, *LIGHT.lines), (DARK.text, DARK.grid, *DARK.lines), strict=True)
    for kind in ("stroke", "fill")
)
_DARK_STYLE = f"@media screen and (prefers-color-scheme: dark) {{ {_DARK_RULES}}}"


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """A curve as drawn, at most 240 points. Each value is a mean; low and high are the range of the merged values."""

    step: npt.NDArray[np.int64]
    value: Floats
    low: Floats
    high: Floats
    num_merged: int


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One curve of a chart. Dashes distinguish lines without colour (print, colour blindness)."""

    label: str
    name: str  # of the quantity in the log
    points: Points
    last: str  # the last value, with its unit
    last_step: int
    colour: int
    dash: int = 0
    band: bool = False  # show the range of the values that a point is the mean of

    @property
    def dashes(self) -> tuple[float, ...]:
        """Lengths of strokes and gaps in line widths; () for a solid line."""
        return DASHES[self.dash % len(DASHES)]


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawn chart: a picture as data URI, and the ranges of its axes for reading values with the pointer."""

    picture: str
    x: tuple[float, float]
    y: tuple[float, float]
    log: bool  # whether the value axis is logarithmic


def draw(
    lines: Sequence[Line],
    unit: str = "",
    *,
    title: str = "",
    may_log: bool = False,
    zero: bool = False,
    marks: Sequence[float] = (),
) -> Plot:
    """Draw curves over steps.

    unit: written at the value axis, for example "%". title: of the value axis.
    may_log: use a logarithmic value axis if all values are positive and span a ratio over 60.
    zero: begin the value axis at 0; otherwise only if the lowest value is at most 0.6 of the highest.
    marks: steps to mark by a dashed vertical line.
    """
    with style.context(["default", _STYLE]):  # a matplotlibrc of the user has no effect
        figure, axes = _figure(title, "training steps")
        for line in lines:
            points, colour = line.points, LIGHT.lines[line.colour % NUM_COLOURS]
            if line.band or (len(lines) == 1 and points.num_merged > 1):  # a band shows the range of the merged values
                axes.fill_between(points.step, points.low, points.high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(
                points.step,
                points.value,
                color=colour,
                linewidth=1.7,
                linestyle=(0, line.dashes) if line.dashes else "-",
                marker="o" if len(points.step) <= _MAX_DOTS else None,
                markersize=4,
                clip_on=False,
            )
        log = _set_axes(axes, unit, may_log, zero)
        for step in marks:
            axes.axvline(step, color=LIGHT.text, linewidth=0.9, dashes=(2, 3))
        picture = _picture(figure)
    return Plot(picture, axes.get_xlim(), axes.get_ylim(), log)


def draw_reliability(confidence: Sequence[float], accuracy: Sequence[float]) -> str:
    """A reliability diagram as data URI: of each bin the share that is right over its mean probability, both 0..1, and the diagonal."""
    with style.context(["default", _STYLE]):
        figure, axes = _figure("right, %", "probability of the answer, %")
        axes.plot([0, 100], [0, 100], color=LIGHT.text, linewidth=0.9, dashes=(2, 3))
        across, up = 100 * np.asarray(confidence), 100 * np.asarray(accuracy)
        axes.vlines(across, across, up, color=LIGHT.lines[1], linewidth=2.2)
        axes.plot(across, up, color=LIGHT.lines[0], linewidth=1.7, marker="o", markersize=5, clip_on=False)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=5))
        axes.get_xticklabels()[-1].set_horizontalalignment("right")  # it would be cut at the edge
        return _picture(figure)


def _figure(title: str, below: str) -> tuple[Figure, Axes]:
    """An empty chart with the titles of its axes."""
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
    axes = figure.add_axes((LEFT / WIDTH, 1 - BOTTOM / HEIGHT, (RIGHT - LEFT) / WIDTH, (BOTTOM - TOP) / HEIGHT))
    axes.set_xlabel(below, color=LIGHT.text, fontsize=10, labelpad=3)
    figure.text(4 / WIDTH, 1 - 12 / HEIGHT, title, color=LIGHT.text, fontsize=10)
    return figure, axes


def _picture(figure: Figure) -> str:
    """The chart as data URI, in the colours of the reader's theme."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata=_METADATA)
    svg = buffer.getvalue().decode().replace("</style>", f"{_DARK_STYLE}</style>", 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def reduce_points(curve: Curve, factor: float = 1.0) -> Points:
    """Merge neighbours into their mean until at most 240 points are left; values that are not finite become gaps (NaN)."""
    value = np.where(np.isfinite(curve.value), curve.value, np.nan) * factor
    num_merged = -(-len(value) // _MAX_POINTS) or 1
    cuts = np.arange(0, len(value), num_merged)
    counts = np.add.reduceat(np.isfinite(value).astype(int), cuts)
    mean = np.add.reduceat(np.nan_to_num(value), cuts) / np.maximum(counts, 1)
    mean[counts == 0] = np.nan
    last = np.minimum(cuts + num_merged, len(value)) - 1
    step = (curve.step[cuts] + curve.step[last]) // 2 if num_merged > 1 else curve.step
    return Points(step, mean, np.fmin.reduceat(value, cuts), np.fmax.reduceat(value, cuts), num_merged)


def number(value: float) -> str:
    """Format a value for a chart or legend: 4 significant digits, thousands separated, no exponent above 0.0001."""
    if not np.isfinite(value):
        return "none"
    if value and abs(value) < 1e-4:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _set_axes(axes: Axes, unit: str, may_log: bool, zero: bool) -> bool:
    """Set ranges and tick labels from the drawn lines; gives whether the value axis is logarithmic."""
    low, high = axes.dataLim.intervaly
    log = bool(may_log and low > 0 and high > _LOG_RATIO * low and np.isfinite(high))
    if log:
        axes.set_yscale("log")
    elif 0 <= low <= 0.6 * high or (zero and low >= 0):
        axes.set_ylim(0, axes.get_ylim()[1] if high else 1.0)
    if unit == "%":
        axes.set_ylim(top=min(100.0, axes.get_ylim()[1]))
    axes.set_xlim(0, max(1, axes.dataLim.xmax))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(numticks=5) if log else MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{number(value)} {unit}".rstrip()))
    return log
