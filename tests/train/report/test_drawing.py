"""The charts of the report page: points are where the labels say, and a long run stays small."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.report.pages import log, parse, records, write_run
from tgtrain.report.page import write_report
from tgtrain.report.plot import BOTTOM, DARK, LEFT, LIGHT, RIGHT, TOP, Line, draw, reduce_points
from tgtrain.report.run_data import Curve


def line_of(values: list[float], step: tuple[int, ...] = (100, 200, 400), colour: int = 0, dash: int = 0) -> Line:
    return Line("a", "a", reduce_points(Curve(np.array(step), np.array(values))), "", step[-1], colour, dash)


def svg_of(picture: str) -> str:
    kind, _, content = picture.partition(",")
    assert kind == "data:image/svg+xml;base64"
    return base64.b64decode(content).decode()


def plotted(svg: str) -> tuple[list[tuple[float, float]], dict[float, float], dict[float, float]]:
    """Points of the first curve, and the positions of labelled values along x and y, read from the SVG alone."""
    curve = re.search(rf'<path d="([^"]*)" style="fill: none; stroke: {LIGHT.lines[0]}', svg)
    assert curve
    points = [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", curve[1])]
    lines = [float(y) for y in re.findall(rf'<path d="M 48 ([\d.]+) \nL 376 [\d.]+ \n"[^>]*stroke: {LIGHT.grid}', svg)]
    labels = re.findall(r'text-anchor: (middle|end)[^>]* x="([\d.]+)"[^>]*>([\d.,]+)', svg)
    across = {float(text.replace(",", "")): float(x) for anchor, x, text in labels if anchor == "middle"}
    up = [float(text.replace(",", "")) for anchor, _, text in labels if anchor == "end"]
    return points, across, dict(zip(up, lines, strict=True))


@pytest.mark.parametrize(("values", "may_log"), [([1.0, 3.0, 2.0], False), ([100.0, 1.0, 10.0], True)])
def test_points_are_where_the_tick_labels_say(values: list[float], may_log: bool) -> None:
    plot = draw([line_of(values)], may_log=may_log)
    points, across, up = plotted(svg_of(plot.picture))
    assert plot.log == may_log
    scale = np.log10 if may_log else np.asarray
    (x0, px0), (x1, px1) = sorted(across.items())[0], sorted(across.items())[-1]
    (y0, py0), (y1, py1) = sorted(up.items())[0], sorted(up.items())[-1]
    for (x, y), step, value in zip(points, (100, 200, 400), values, strict=True):
        assert x == pytest.approx(px0 + (step - x0) / (x1 - x0) * (px1 - px0), abs=0.2)
        share = (scale(value) - scale(y0)) / (scale(y1) - scale(y0))
        assert y == pytest.approx(py0 + share * (py1 - py0), abs=0.2)
        # The axes for the pointer, which the page carries beside the picture, agree with the picture.
        share = (scale(value) - scale(plot.y[0])) / (scale(plot.y[1]) - scale(plot.y[0]))
        assert y == pytest.approx(BOTTOM + share * (TOP - BOTTOM), abs=0.2)
        assert x == pytest.approx(LEFT + step / plot.x[1] * (RIGHT - LEFT), abs=0.2)


def test_matplotlib_settings_of_a_user_have_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    before = draw([line_of([1.0, 3.0, 2.0])])
    changes = {"axes.facecolor": "red", "lines.linewidth": 9.0, "font.size": 30.0, "svg.fonttype": "path"}
    for name, value in changes.items():
        monkeypatch.setitem(matplotlib.rcParams, name, value)
    assert draw([line_of([1.0, 3.0, 2.0])]) == before


def test_each_theme_has_its_colours_and_text_stays_text() -> None:
    plot = draw([line_of([k, 2.0 * k, k], colour=k, dash=k) for k in range(1, 8)], marks=[150.0])
    svg = svg_of(plot.picture)
    drawn, rules = svg[svg.index("</style>") :], svg[: svg.index("</style>")]
    assert set(re.findall(r"#[0-9a-f]{6}", drawn)) == {LIGHT.text, LIGHT.grid, *LIGHT.lines[1:]}
    for light, dark in zip((LIGHT.text, LIGHT.grid, *LIGHT.lines), (DARK.text, DARK.grid, *DARK.lines), strict=True):
        assert f'[style*="stroke: {light}"] {{ stroke: {dark} !important }}' in rules
    assert "<text" in svg


@pytest.mark.parametrize(
    "values", [[0.0, 0.0, 0.0], [2.0, 2.0, 2.0], [float("nan"), 1.0, float("nan")], [-3.0, -1.0, -2.0]]
)
def test_constant_and_negative_values_and_gaps_have_an_axis(values: list[float]) -> None:
    for zero in (False, True):
        low, high = draw([line_of(values)], zero=zero, may_log=True).y
        finite = np.array(values)[np.isfinite(values)]
        assert low < high
        assert low <= finite.min()
        assert finite.max() <= high


@given(
    st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=1, max_size=1500),
    st.integers(1, 50),
)
def test_merged_points_keep_their_range_and_position(values: list[float], interval: int) -> None:
    step = np.arange(1, len(values) + 1, dtype=np.int64) * interval
    curve = Curve(step, np.array(values))
    points = reduce_points(curve)
    assert len(points.value) <= 240
    assert (np.diff(points.step) > 0).all()
    finite = curve.value[np.isfinite(curve.value)]
    assert np.isfinite(points.value).any() == bool(len(finite))
    if len(finite):
        assert np.nanmin(points.low) == finite.min()
        assert np.nanmax(points.high) == finite.max()
        known = np.isfinite(points.value)
        slack = 1e-6
        assert (points.low[known] - slack <= points.value[known]).all()
        assert (points.value[known] <= points.high[known] + slack).all()
        for place in range(len(points.value)):  # each is the mean of its neighbours
            own = curve.value[place * points.num_merged : (place + 1) * points.num_merged]
            own = own[np.isfinite(own)]
            if len(own):
                assert points.value[place] == pytest.approx(own.mean(), abs=1e-6)


def test_long_run_stays_small(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=0)
    log(folder, [{**records("ltg", step)[0], "loss/total": float(step)} for step in range(1, 5001)])
    path = write_report([folder])
    assert path.stat().st_size < 600_000
    assert "Up to 21 log lines share a point" in parse(path).words
