"""The report: one self-contained HTML page about one run, or several compared. `tgtrain report` calls `write_report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from manifests.disk import made_folder
from manifests.files import atomic_write
from manifests.records import InputError
from tgtrain.evaluate.results import TestResult
from tgtrain.report.charts import Chart, compared_charts, run_charts
from tgtrain.report.classes import ClassRow, Confusion, Pair, class_rows, confusion_view, top_confusions
from tgtrain.report.clips import Gallery, make_gallery
from tgtrain.report.compare import Comparison, Setting, compare, run_settings
from tgtrain.report.facts import Facts, facts_of
from tgtrain.report.plot import DARK, LIGHT
from tgtrain.report.run_data import RunData, read_runs
from tgtrain.run.folder import NOTHING_TYPED, Typed

REPORT_NAME = "report.html"


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that the template shows. `comparison` is None for one run; `settings` and `confusion` are of one run."""

    title: str
    facts: tuple[Facts, ...]
    charts: tuple[Chart, ...]
    classes: tuple[ClassRow, ...]
    class_columns: tuple[str, ...]
    gallery: Gallery
    comparison: Comparison | None
    confusion: Confusion | None
    pairs: tuple[Pair, ...]
    settings: Mapping[str, Sequence[Setting]]


def write_report(folders: Sequence[Path], output: Path | None = None, typed: Typed = NOTHING_TYPED) -> Path:
    """Write the page about these runs and return its path. The same runs give the same bytes.

    typed: where the data of the first run is.
    output: by default report.html in the run's folder or, for several runs, in the current folder.
    Raises InputError if a folder is not a run, OSError if the page cannot be written.
    """
    runs = read_runs(folders)
    if output is None:
        output = runs[0].folder / REPORT_NAME if len(runs) == 1 else Path(REPORT_NAME)
    if output.is_dir():
        raise InputError(f"--output {output} is a folder. Name a file in it, for example {output / REPORT_NAME}.")
    text = render(_page(runs, typed))
    with made_folder(output.parent), atomic_write(output) as file:
        file.write(text.encode(errors="backslashreplace"))
    return output


def render(page: Page) -> str:
    """The page as HTML. Text of the user is escaped by the template engine; the confusion map is markup of this package."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tgtrain.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment.get_template("report.html.j2").render(page=page, light=LIGHT, dark=DARK)


def _page(runs: Sequence[RunData], typed: Typed) -> Page:
    run, is_single = runs[0], len(runs) == 1
    shared = _shared_results(runs)
    best = [run.results[0] if run.results else None for run in runs]
    tested = shared[0] if is_single and shared else None
    pairs = top_confusions(run, tested) if tested else ()
    return Page(
        title=run.name if is_single else f"{len(runs)} runs compared",
        facts=tuple(facts_of(run) for run in runs),
        charts=run_charts(run) if is_single else compared_charts(runs),
        classes=class_rows(run, shared) if shared else (),
        class_columns=tuple(
            f"top1@{result.protocol}" if is_single else f"{run.name}, top1@{result.protocol}"
            for run, result in zip(runs, shared, strict=False)
        ),
        gallery=make_gallery(runs, shared or best, pairs, typed),
        comparison=None if is_single else compare(runs),
        confusion=confusion_view(run, tested) if tested else None,
        pairs=pairs,
        settings=run_settings(run) if is_single else {},
    )


def _shared_results(runs: Sequence[RunData]) -> list[TestResult]:
    """A test of each run, all by the best protocol, modality and part that every run has; [] if there is none."""
    by_kind = [{(r.protocol, r.modality, r.part): r for r in reversed(run.results)} for run in runs]
    for result in runs[0].results:
        kind = (result.protocol, result.modality, result.part)
        if all(kind in results for results in by_kind):
            return [results[kind] for results in by_kind]
    return []


def _percent(fraction: float | None) -> str:
    if fraction is None:
        return "–"
    return "< 0.1 %" if 0 < fraction < 0.0005 else f"{100 * fraction:.1f} %"
