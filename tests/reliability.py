"""What the long tests measured, kept as JSON and as a page for people: see `Reliability`. A part of tests/conftest.py.

`pytest --reliability` (what `make check-long` runs) merges the records of the tests that passed into
benchmarks/results/reliability.json, where those of other runs stay, and writes docs/reliability.md from all of them. Without
the option nothing is written.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results" / "reliability.json"
PAGE = REPOSITORY / "docs" / "reliability.md"
_PACKAGES = ("av", "simplejpeg", "numba", "numpy", "pyarrow", "joblib", "fsspec", "s3fs", "distributed", "torch")
_HEAD = """# Reliability

What was done to the programs to break them, and what came of it. This page is written by `make check-long` from what the
long tests recorded (benchmarks/results/reliability.json); every figure is of tests that passed, on the machine and date named. A
small repeat of each runs in the gate.
"""

Figure = int | float | str | list[float]


@dataclass(slots=True)
class Reliability:
    """Takes the figures of one test; they count only if it passes.

    `reliability.record("Training", "kill -9 at a random step, then the same command", num_kills=3, at_seconds=[1.2])`:
    section and name make one line of docs/reliability.md. Several tests (or parameters of one) may record the same line:
    figures named `num_...` and `lost_...`, `duplicated_...` or `differing_...` are added up, `peak_...` and `longest_...`
    keep the largest, lists are joined and shown as their range, of others the last counts. Names end in their unit.
    """

    records: list[tuple[str, str, dict[str, Figure]]] = field(default_factory=list)

    def record(self, section: str, name: str, **figures: Figure) -> None:
        """Note the figures of one line of the page."""
        self.records.append((section, name, figures))


def combine(before: dict[str, Figure], more: dict[str, Figure]) -> dict[str, Figure]:
    """Figures of several tests that record the same line, see `Reliability`."""
    merged: dict[str, Any] = dict(before)
    for name, value in more.items():
        old = merged.get(name)
        if old is None:
            merged[name] = value
        elif isinstance(value, list):
            merged[name] = [*old, *value]
        elif name.split("_")[0] in ("num", "lost", "duplicated", "differing"):
            merged[name] = old + value
        elif name.split("_")[0] in ("peak", "longest"):
            merged[name] = max(old, value)
        else:
            merged[name] = value
    return merged


def circumstances() -> dict[str, str]:
    """Date, machine and versions."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    except OSError:
        pass
    versions = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{cpu}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}",
        "versions": ", ".join(versions),
    }


def merge(stored: list[dict[str, Any]], made: list[tuple[str, str, dict[str, Figure]]]) -> list[dict[str, Any]]:
    """The stored records with those just made in the place of older ones of the same section and name."""
    new: dict[tuple[str, str], dict[str, Figure]] = {}
    for section, name, figures in made:
        new[section, name] = combine(new.get((section, name), {}), figures)
    where = circumstances()
    kept = [entry for entry in stored if (entry["section"], entry["name"]) not in new]
    fresh = [{"section": s, "name": n, "figures": figures, **where} for (s, n), figures in new.items()]
    return sorted([*kept, *fresh], key=lambda entry: (entry["section"], entry["name"]))


def page(records: list[dict[str, Any]]) -> str:
    """The records as Markdown: a section each, a line a record; machines and versions once, below."""
    places = list(dict.fromkeys((r["date"], r["machine"], r["versions"]) for r in records))
    text = [_HEAD]
    for section in dict.fromkeys(entry["section"] for entry in records):
        text += [f"\n## {section}\n\n| what | figures | run |\n|---|---|---|\n"]
        for entry in records:
            if entry["section"] == section:
                shown = "; ".join(f"{_label(name)} {_value(value)}" for name, value in entry["figures"].items())
                run = places.index((entry["date"], entry["machine"], entry["versions"])) + 1
                text += [f"| {entry['name']} | {shown} | {run} |\n"]
    text += ["\n## Runs\n\n| run | date | machine | versions |\n|---|---|---|---|\n"]
    text += [f"| {number} | {' | '.join(place)} |\n" for number, place in enumerate(places, 1)]
    return "".join(text)


def _label(name: str) -> str:
    return name.removeprefix("num_").replace("_", " ")


def _value(value: Figure) -> str:
    if isinstance(value, list):
        return f"{min(value):g} to {max(value):g} ({len(value)} values)" if value else "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else value


def write(made: list[tuple[str, str, dict[str, Figure]]]) -> None:
    """Merge what was recorded into the results, and write the page."""
    stored = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else []
    records = merge(stored, made)
    RESULTS.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", "utf-8")
    PAGE.write_text(page(records), "utf-8")
