"""The page of reliability: figures combined over tests, older records kept, failed tests left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability import combine, merge, page

pytest_plugins = ["pytester"]


def test_figures_of_several_tests_are_combined() -> None:
    first = {"num_kills": 2, "peak_mb": 80.0, "at_seconds": [1.0], "settings": "a", "lost": 0}
    second = {"num_kills": 3, "peak_mb": 70.0, "at_seconds": [0.5, 2.0], "settings": "b", "lost": 1}
    assert combine(first, second) == {
        "num_kills": 5,
        "peak_mb": 80.0,
        "at_seconds": [1.0, 0.5, 2.0],
        "settings": "b",
        "lost": 1,
    }


def test_a_run_replaces_its_own_lines_and_keeps_others() -> None:
    old = {"date": "2026-01-01", "machine": "m", "versions": "v"}
    stored = [
        {"section": "A", "name": "x", "figures": {"num_kills": 1}, **old},
        {"section": "B", "name": "y", "figures": {"num_kills": 1000, "at_seconds": [0.5, 2.0]}, **old},
    ]
    merged = merge(stored, [("A", "x", {"num_kills": 7})])
    assert [(entry["name"], entry["figures"]) for entry in merged] == [
        ("x", {"num_kills": 7}),
        ("y", stored[1]["figures"]),
    ]
    text = page(merged)
    assert "| x | kills 7 | 1 |" in text
    assert "| y | kills 1,000; at seconds 0.5 to 2 (2 values) | 2 |" in text
    assert "| 2 | 2026-01-01 | m | v |" in text


def test_only_passed_tests_count(pytester: pytest.Pytester) -> None:
    repository = Path(__file__).resolve().parent.parent
    pytester.makeini(f"[pytest]\npythonpath = {repository}\nmarkers =\n    gpu: x")
    pytester.makeconftest(
        "from tests.conftest import *\nimport tests.reliability as r\nfrom pathlib import Path\n"
        "r.RESULTS, r.PAGE = Path('results.json'), Path('page.md')\n"
    )
    pytester.makepyfile(
        "def test_good(reliability):\n    reliability.record('S', 'good', num_kills=1)\n"
        "def test_bad(reliability):\n    reliability.record('S', 'bad', num_kills=1)\n    assert False\n"
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1, failed=1)
    assert not (pytester.path / "page.md").exists()
    pytester.runpytest_inprocess("--reliability").assert_outcomes(passed=1, failed=1)
    text = (pytester.path / "page.md").read_text()
    assert "good" in text
    assert "| bad |" not in text
