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
from tgtrain.report.calibration import Calibration, calibrate
from tgtrain.report.charts import Chart, compared_charts, run_charts
from tgtrain.report.classes import ClassRow, Confusion, Pair, class_rows, confusion_view, interval95, top_confusions
from tgtrain.report.clips import Gallery, make_gallery
from tgtrain.report.compare import Comparison, Setting, compare, run_settings
from tgtrain.report.cost import Cost, cost_of
from tgtrain.report.difference import MAX_LISTED, MAX_SHOWN, Difference, differences
from tgtrain.report.facts import Facts, facts_of
from tgtrain.report.groups import Group, GroupRow, group_rows, group_runs
from tgtrain.report.plot import DARK, HEIGHT, LIGHT, WIDTH
from tgtrain.report.pseudo import PseudoLabels, pseudo_labels
from tgtrain.report.run_data import RunData, read_runs
from tgtrain.run.folder import NOTHING_TYPED, Typed

REPORT_NAME = "report.html"
_NETWORKS = {"rgb": "RGB network", "tg": "TG network", "both": "Both, fused"}
_LARGE_CHARTS = (
    "Accuracy",
    "Pseudo-labels",
)  # or "Accuracy: top1@1x1 (test)", "Pseudo-labels: trusted" of several runs


@dataclass(frozen=True, slots=True)
class Network:
    """The accuracy of one network, or of both together, in the test that is shown first. None if it was not tested so."""

    name: str
    modality: str
    accuracy: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that the template shows. `comparison` and what follows it is of several runs, what comes last of one."""

    title: str
    facts: tuple[Facts, ...]
    costs: tuple[Cost, ...]
    colours: tuple[int, ...]  # of each run
    charts: tuple[Chart, ...]
    classes: tuple[ClassRow, ...]
    class_columns: tuple[str, ...]
    gallery: Gallery
    comparison: Comparison | None
    groups: tuple[Group, ...]
    group_rows: tuple[GroupRow, ...]
    differences: tuple[Difference, ...]
    networks: tuple[Network, ...]
    pseudo: PseudoLabels | None
    calibration: Calibration | None
    confusion: Confusion | None
    pairs: tuple[Pair, ...]
    settings: Mapping[str, Sequence[Setting]]

    @property
    def large_charts(self) -> list[Chart]:
        """The charts that are never folded."""
        return [chart for chart in self.charts if _is_large(chart)]

    @property
    def other_charts(self) -> list[Chart]:
        """All others."""
        return [chart for chart in self.charts if not _is_large(chart)]


def _is_large(chart: Chart) -> bool:
    theme, _, name = chart.title.partition(": ")
    return theme in _LARGE_CHARTS and not name.startswith(("top5", "mean_class"))


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
    environment.filters["points"] = lambda fraction: f"{100 * fraction:+.1f}"
    environment.filters["hours"] = _hours
    environment.filters["gigabytes"] = lambda value: "–" if value is None else f"{value:.3g} GiB"
    return environment.get_template("report.html.j2").render(
        page=page, light=LIGHT, dark=DARK, chart_size=(WIDTH, HEIGHT), most_shown=MAX_SHOWN, most_listed=MAX_LISTED
    )


def _page(runs: Sequence[RunData], typed: Typed) -> Page:
    run, is_single = runs[0], len(runs) == 1
    shared = _shared_results(runs)
    best = [run.results[0] if run.results else None for run in runs]
    tested = shared[0] if is_single and shared else None
    groups = group_runs(runs)
    found = () if is_single else differences(runs, shared, groups)
    wanted = [video.key for each in found for only in (each.only_first, each.only_second) for video in only[:MAX_SHOWN]]
    return Page(
        title=run.name if is_single else f"{len(runs)} runs compared",
        facts=tuple(facts_of(run) for run in runs),
        costs=tuple(cost_of(run) for run in runs),
        colours=tuple(
            next(place for place, group in enumerate(groups) if member in group.members) for member in range(len(runs))
        ),
        charts=run_charts(run) if is_single else compared_charts(runs, groups),
        classes=class_rows(run, shared) if shared else (),
        class_columns=tuple(
            f"top1@{result.protocol}" if is_single else f"{run.name}, top1@{result.protocol}"
            for run, result in zip(runs, shared, strict=False)
        ),
        gallery=make_gallery(runs, shared or best, typed, wanted),
        comparison=None if is_single else compare(runs),
        groups=groups,
        group_rows=group_rows(groups, shared) if shared and len(groups) < len(runs) else (),
        differences=found,
        networks=_networks(run) if is_single else (),
        pseudo=pseudo_labels(run) if is_single else None,
        calibration=calibrate(tested),
        confusion=confusion_view(run, tested) if tested else None,
        pairs=top_confusions(run, tested) if tested else (),
        settings=run_settings(run) if is_single else {},
    )


def _networks(run: RunData) -> tuple[Network, ...]:
    """The networks of a run of two, by the test that is shown first; () for a run of one."""
    if not run.results or run.facts.config.model.streams != "two":
        return ()
    first = run.results[0]
    alike = {
        result.modality: result
        for result in reversed(run.results)
        if (result.protocol, result.part, result.step, result.is_teacher, result.batch_norm)
        == (first.protocol, first.part, first.step, first.is_teacher, first.batch_norm)
    }
    networks = []
    for modality, name in _NETWORKS.items():
        result = alike.get(modality)
        accuracy = result.metric("top1") if result else None
        interval = interval95(accuracy, result.num_videos) if result and accuracy is not None else None
        networks.append(Network(name, modality, accuracy, interval))
    return tuple(networks)


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


def _hours(value: float | None) -> str:
    """Device hours; below one in minutes, too."""
    if not value:
        return "not logged"
    return f"{value:,.1f} device hours" if value >= 1 else f"{value:.2g} device hours ({60 * value:.2g} min)"
