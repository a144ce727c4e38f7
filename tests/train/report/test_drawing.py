"""The charts of the report page: points where the labels say, small however long the run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.report.pages import log, parse, records, write_run
from tgtrain.report.page import write_report
from tgtrain.report.plot import Line, draw, reduce_points
from tgtrain.report.run_data import Curve


def plotted(svg: str) -> tuple[list[tuple[float, float]], dict[float, float], dict[float, float]]:
    """Points of the first curve, and the positions of labelled values along x and y, read from the SVG alone."""
    curve = re.search(r'<path d="([^"]*)" style="fill: none; stroke: var\(--s0\)', svg)
    assert curve
    points = [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", curve[1])]
    lines = [float(y) for y in re.findall(r'<path d="M 48 ([\d.]+) L 376 [\d.]+" style="[^"]*var\(--grid\)', svg)]
    labels = re.findall(r'text-anchor: (middle|end)[^>]* x="([\d.]+)" y="[\d.]+">([\d.,]+)', svg)
    across = {float(text.replace(",", "")): float(x) for anchor, x, text in labels if anchor == "middle"}
    up = [float(text.replace(",", "")) for anchor, _, text in labels if anchor == "end"]
    return points, across, dict(zip(up, lines, strict=True))


@pytest.mark.parametrize(("values", "may_log"), [([1.0, 3.0, 2.0], False), ([100.0, 1.0, 10.0], True)])
def test_points_lie_where_the_tick_labels_say(values: list[float], may_log: bool) -> None:
    plot = draw([Line("a", Curve(np.array([100, 200, 400]), np.array(values)), 0)], "a chart", may_log=may_log)
    points, across, up = plotted(plot.svg)
    assert plot.y.log == may_log
    scale = np.log10 if may_log else np.asarray
    (x0, px0), (x1, px1) = sorted(across.items())[0], sorted(across.items())[-1]
    (y0, py0), (y1, py1) = sorted(up.items())[0], sorted(up.items())[-1]
    for (x, y), step, value in zip(points, (100, 200, 400), values, strict=True):
        assert x == pytest.approx(px0 + (step - x0) / (x1 - x0) * (px1 - px0), abs=0.2)
        share = (scale(value) - scale(y0)) / (scale(y1) - scale(y0))
        assert y == pytest.approx(py0 + share * (py1 - py0), abs=0.2)
        # The pointer's axes, which the page carries beside the picture, agree with the picture.
        share = (scale(value) - scale(plot.y.low)) / (scale(plot.y.high) - scale(plot.y.low))
        assert y == pytest.approx(plot.y.start + share * (plot.y.end - plot.y.start), abs=0.2)


def test_a_user_s_matplotlib_settings_do_not_reach_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    line = Line("a", Curve(np.array([1, 2]), np.array([1.0, 2.0])), 0)
    before = draw([line], "a chart").svg
    for name, value in {
        "axes.facecolor": "red",
        "lines.linewidth": 9.0,
        "font.size": 30.0,
        "svg.fonttype": "path",
    }.items():
        monkeypatch.setitem(matplotlib.rcParams, name, value)
    assert draw([line], "a chart").svg == before


def test_colours_follow_the_page_and_text_stays_text() -> None:
    lines = [Line(f"{k}", Curve(np.array([1, 2]), np.array([k, 2.0 * k])), k, k) for k in range(1, 8)]
    svg = draw(lines, 'alt "quoted" <b>', marks=[1.5]).svg
    assert not re.search(r"#[0-9a-fA-F]{6}", svg)
    assert {f"var(--s{k})" for k in range(1, 8)} <= set(re.findall(r"var\(--s\d\)", svg))
    assert "<text" in svg
    assert 'aria-label="alt &quot;quoted&quot; &lt;b>"' in svg


@given(
    st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=1, max_size=1500),
    st.integers(1, 50),
)
def test_merged_points_keep_range_and_place(values: list[float], interval: int) -> None:
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
        for place in range(len(points.value)):  # each is the mean of its own neighbours
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
