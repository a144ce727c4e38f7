"""The report: one self-contained HTML page about one run, or several compared. `tgtrain report` calls `write_report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.manifest_io import atomic_write
from manifests.records import InputError
from tgtrain.evaluate.results import TestResult
from tgtrain.report.charts import Chart, compared_charts, run_charts
from tgtrain.report.classes import ClassRow, Confusion, Pair, class_rows, confusion_view, top_confusions
from tgtrain.report.clips import Gallery, make_gallery
from tgtrain.report.compare import Comparison, SettingsGroup, compare, settings_groups
from tgtrain.report.facts import Facts, facts_of
from tgtrain.report.run_data import RunData, read_runs

REPORT_NAME = "report.html"


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that the template shows. For one run `comparison` is None; for several `settings` and `confusion` are absent."""

    title: str
    facts: tuple[Facts, ...]
    comparison: Comparison | None
    charts: tuple[Chart, ...]
    confusion: Confusion | None
    pairs: tuple[Pair, ...]
    classes: tuple[ClassRow, ...]
    class_columns: tuple[str, ...]
    gallery: Gallery
    settings: tuple[SettingsGroup, ...]

    @property
    def num_changed(self) -> int:
        """Settings that differ from the shipped recipe."""
        return sum(1 for group in self.settings for setting in group.settings if setting.recipe)


def write_report(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Write the page about these runs and give its path.

    output: None: report.html in the run's folder or, for several runs, in the current folder. The same runs give the same
    bytes. Raises InputError where a folder is no run or the page cannot be written.
    """
    runs = read_runs(folders)
    if output is None:
        output = runs[0].folder / REPORT_NAME if len(runs) == 1 else Path(REPORT_NAME)
    if output.is_dir():
        raise InputError(f"--output {output} is a folder. Name a file in it, for example {output / REPORT_NAME}.")
    text = render(make_page(runs))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(output) as file:
            file.write(text.encode())
    except OSError as error:
        raise InputError(f"Cannot write {output}: {error.strerror}. Name another place with --output.") from None
    return output


def make_page(runs: Sequence[RunData]) -> Page:
    """What the page says about these runs (at least one)."""
    best = [run.results[0] if run.results else None for run in runs]
    if len(runs) == 1:
        run, result = runs[0], best[0]
        pairs = top_confusions(run, result) if result else ()
        return Page(
            title=run.name,
            facts=(facts_of(run),),
            comparison=None,
            charts=run_charts(run),
            confusion=confusion_view(run, result) if result else None,
            pairs=pairs,
            classes=class_rows([run], [result]) if result else (),
            class_columns=(f"top1@{result.protocol}",) if result else (),
            gallery=make_gallery(runs, best, pairs),
            settings=settings_groups(run),
        )
    shared = _shared_results(runs)
    return Page(
        title=f"{len(runs)} runs compared",
        facts=tuple(facts_of(run) for run in runs),
        comparison=compare(runs),
        charts=compared_charts(runs),
        confusion=None,
        pairs=(),
        classes=class_rows(runs, shared) if shared else (),
        class_columns=tuple(f"{run.name}, top1@{result.protocol}" for run, result in zip(runs, shared, strict=False)),
        gallery=make_gallery(runs, shared or best, ()),
        settings=(),
    )


def render(page: Page) -> str:
    """The page as HTML. Names of the user are escaped by the template engine; charts are markup that this package made."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tgtrain.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment.get_template("report.html.j2").render(page=page)


def _percent(fraction: float | None) -> str:
    if fraction is None:
        return "–"
    return "< 0.1 %" if 0 < fraction < 0.0005 else f"{100 * fraction:.1f} %"


def _shared_results(runs: Sequence[RunData]) -> list[TestResult]:
    """One test of each run, all by the best protocol, modality and part that every run has; [] where there is none."""
    kinds = [{(r.protocol, r.modality, r.part): r for r in reversed(run.results)} for run in runs]
    for result in runs[0].results:
        kind = (result.protocol, result.modality, result.part)
        if all(kind in found for found in kinds):
            return [found[kind] for found in kinds]
    return []
