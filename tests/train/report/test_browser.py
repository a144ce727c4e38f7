"""The report page in a real browser."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import cv2
import pytest

from tests.train.report.pages import class_records
from tgtrain.report.page import write_report


@pytest.fixture
def browser(chromium: str, tmp_path: Path) -> list[str]:
    """The command of a headless Chromium."""
    switches = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars --window-size=1000,900"
    )
    quiet = "--disable-background-networking --disable-component-update --disable-sync"
    return [chromium, *switches.split(), *quiet.split(), f"--user-data-dir={tmp_path / 'profile'}"]


def browse(browser: list[str], *arguments: str) -> str:
    done = subprocess.run([*browser, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_browser_light_and_dark(run: Path, tmp_path: Path, browser: list[str]) -> None:
    page = write_report([run])
    brightness = {}
    for name, scheme in (("dark", 0), ("light", 1)):
        shot = tmp_path / f"{name}.png"
        browse(browser, f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={shot}", page.as_uri())
        picture = cv2.imread(str(shot))
        assert picture is not None
        assert picture.std() > 8  # something is drawn
        brightness[name] = float(picture.mean())
    assert brightness["dark"] < 60
    assert brightness["light"] > 200


def test_browser_reads_values_sorts_and_raises_no_error(run: Path, tmp_path: Path, browser: list[str]) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in class_records())
    html = write_report([run]).read_text()
    probe = """<script>
    const said = [];
    for (const fold of document.querySelectorAll("details")) fold.open = true;
    const chart = [...document.querySelectorAll("figure.chart")].find((f) => f.querySelector("h3").textContent === "Total loss");
    const plot = chart.querySelector(".plot");
    const box = plot.getBoundingClientRect();
    const at = (x) => new PointerEvent("pointermove", { clientX: box.left + x / 384 * box.width, clientY: box.top + 5 });
    plot.dispatchEvent(at(48 + 328 * 3 / 8));
    said.push(chart.querySelector(".at").textContent, chart.querySelector(".legend b").textContent);
    plot.dispatchEvent(new PointerEvent("pointerleave"));
    said.push(chart.querySelector(".at").textContent, chart.querySelector(".legend b").textContent);
    // With keys: from the end one to the left, to the beginning, and away.
    const press = (key) => plot.dispatchEvent(new KeyboardEvent("keydown", { key }));
    press("ArrowLeft"); said.push(chart.querySelector(".at").textContent);
    press("Home"); said.push(chart.querySelector(".at").textContent);
    press("Escape"); said.push(chart.querySelector(".at").textContent, String(plot.tabIndex));
    // The matrix of classes and epochs.
    const maps = document.querySelector(".maps");
    maps.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
    said.push(document.querySelector(".pseudo .at").textContent);
    const table = document.querySelector("#classes table.sortable");
    const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent).join(" ");
    said.push(names());
    table.tHead.rows[0].cells[2].querySelector("button").click();
    said.push(names(), String(document.documentElement.scrollWidth <= window.innerWidth));
    document.body.dataset.said = JSON.stringify(said);
    </script>"""
    copy = tmp_path / "probe.html"
    copy.write_text(html.replace("</body>", f"{probe}</body>"))
    dom = browse(browser, "--dump-dom", copy.as_uri())
    found = re.search(r'data-said="([^"]*)"', dom)
    assert found, "the page's script did not run to its end"
    said = json.loads(found[1].replace("&quot;", '"'))
    # Step 3 of 8 (the axis begins at 0), logged as 1 + 3/8; then the last step again.
    assert said == [
        *("step 3, epoch 3", "1.375", "last, step 8", "2"),
        *("step 7, epoch 7", "step 1, epoch 1", "last, step 8", "0"),
        "Moving, epoch 2: 1 of 2 labels kept; 2 clips of the class; 0 % of those kept right; share of the truth 0 %",
        *("Still Moving", "Moving Still", "true"),
    ]
