"""Settings and pairs of settings as a table: Markdown for a README, LaTeX (booktabs) for a paper, CSV for programs.

Names may come from runs of strangers: each form escapes what has a meaning in it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from manifests.console import visible
from manifests.records import InputError
from tgtrain.report.pairs import Pair, compare_pairs
from tgtrain.report.run_data import read_runs
from tgtrain.report.settings import METRICS, Gathered, Setting, Wanted, gather
from tgtrain.report.statistics import Spread
from tgtrain.run.folder import CONFIG_NAME

Form = Literal["markdown", "latex", "csv"]
Shown = Literal["settings", "pairs", "both"]
_TITLES = {"top1": "top-1", "top5": "top-5", "mean_class": "mean class"}
_MARKDOWN = re.compile(r"([\\`*_\[\]#|~$!])")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "[": "{[}", "]": "{]}", "–": "--", "±": r"$\pm$",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as plain text, before they are escaped. The first `num_texts` columns are names, the others figures."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_texts: int


@dataclass(frozen=True, slots=True)
class Written:
    """A table as text, and whether all runs are in it."""

    text: str
    left_out: tuple[str, ...]
    """A sentence for each run that is not in it."""


def write_table(folders: Sequence[Path], wanted: Wanted, form: Form, shown: Shown = "both") -> Written:
    """The table of all runs in these folders (runs, or folders with runs below them). InputError as `gather` raises it."""
    if form == "csv" and shown == "both":
        raise InputError("A CSV file holds one table: choose --show settings or --show pairs.")
    gathered = gather(read_runs(runs_in(folders)), wanted)
    pairs = compare_pairs(gathered.settings) if shown != "settings" else ()
    if form == "csv":
        return Written(settings_csv(gathered) if shown == "settings" else pairs_csv(pairs), gathered.left_out)
    write = _markdown if form == "markdown" else _latex
    return Written(write(gathered, pairs, shown), gathered.left_out)


def runs_in(folders: Sequence[Path]) -> list[Path]:
    """The folders that are runs, and in place of each other folder all runs below it, in order of their names."""
    found: list[Path] = []
    for folder in folders:
        if (folder / CONFIG_NAME).is_file():
            found.append(folder)
            continue
        inside = sorted(
            (path.parent for path in folder.glob(f"**/{CONFIG_NAME}")), key=lambda path: _natural(str(path))
        )
        if not inside:
            raise InputError(
                f"{folder} is no run, and no run lies below it. `tgtrain run` and `tgtrain sweep` make runs."
            )
        found += inside
    return found


def _natural(text: str) -> list[tuple[int, str]]:
    """A sort key by which p5 comes before p10, and `demo_p5` before `demo-supervised_p5`."""
    parts = re.split(r"(\d+)", text.replace("_", "\0"))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def settings_table(gathered: Gathered) -> Table:
    """One row a setting, in percent."""
    metrics = [metric for metric in METRICS if any(setting.spread(metric) for setting in gathered.settings)]
    published = ["published"] * any(setting.published for setting in gathered.settings)
    rows = [
        (
            setting.name, setting.labels, *([setting.published or "–"] if published else []), str(len(setting.measured)),
            *(_percent(setting.spread(metric)) for metric in metrics),
        )
        for setting in gathered.settings
    ]  # fmt: skip
    titles = ("setting", "labels", *published, "runs", *(_TITLES[metric] for metric in metrics))
    return Table(titles, tuple(rows), 2 + len(published))


def pairs_table(pairs: Sequence[Pair]) -> Table:
    """One row a pair of settings."""
    titles = (
        "first",
        "second",
        "runs",
        "videos",
        "only first right",
        "only second right",
        "p",
        "p (Holm)",
        "difference",
    )
    rows = []
    for pair in pairs:
        figures = ("–",) * 5
        if pair.test is not None:
            error = "" if pair.standard_error is None else f" ± {100 * pair.standard_error:.2f}"
            figures = (
                str(pair.test.only_first), str(pair.test.only_second), _p_value(pair.test.p), _p_value(pair.p_holm),
                f"{100 * pair.difference:+.2f}{error}",
            )  # fmt: skip
        rows.append((pair.first, pair.second, str(pair.num_runs), str(pair.num_rows), *figures))
    return Table(titles, tuple(rows), 2)


def captions(gathered: Gathered, pairs: Sequence[Pair], shown: Shown) -> tuple[list[str], list[str]]:
    """The sentences above the table, and the notes below it."""
    above = [f"Accuracy in %: {gathered.measurement.text()}."]
    if shown != "pairs":
        above.append("Mean ± standard deviation (of a sample) over runs, which differ in seed and split alone.")
    if gathered.common:
        above.append(f"In all rows: {', '.join(gathered.common)}.")
    notes = [f"Left out: {text}" for text in gathered.left_out] + list(gathered.notes)
    changed = [setting.name for setting in gathered.settings if setting.published and not setting.as_published]
    if changed and shown != "pairs":
        notes.append(
            "A published figure is that of the unchanged recipe with its data set and its labels; these rows have others: "
            f"{', '.join(changed)}."
        )
    if shown != "settings" and pairs:
        above.append(
            "Pairs: exact McNemar test, two-sided, over the videos of runs with the same split and seed, pooled; Holm corrects for the "
            "number of pairs. The pooled p takes a video under several seeds as several; the standard error beside the difference "
            "(in points) takes it as one."
        )
        notes += [f"{pair.first} and {pair.second}: {note}." for pair in pairs for note in pair.notes]
    return above, notes


def _markdown(gathered: Gathered, pairs: Sequence[Pair], shown: Shown) -> str:
    above, notes = captions(gathered, pairs, shown)
    parts = [" ".join(map(markdown_text, above))]
    parts += [markdown_table(table) for table in _tables(gathered, pairs, shown)]
    parts += ["\n".join(f"- {markdown_text(note)}" for note in notes)] if notes else []
    return "\n\n".join(parts) + "\n"


def _latex(gathered: Gathered, pairs: Sequence[Pair], shown: Shown) -> str:
    above, notes = captions(gathered, pairs, shown)
    parts = ["% \\usepackage{booktabs} \\usepackage[T1]{fontenc}"]
    parts += [f"% {_one_line(text)}" for text in above]
    parts += [latex_table(table) for table in _tables(gathered, pairs, shown)]
    parts += [f"% {_one_line(note)}" for note in notes]
    return "\n".join(parts) + "\n"


def _tables(gathered: Gathered, pairs: Sequence[Pair], shown: Shown) -> list[Table]:
    return [settings_table(gathered)] * (shown != "pairs") + [pairs_table(pairs)] * bool(pairs)


def markdown_table(table: Table) -> str:
    """The table as GitHub renders it."""
    rule = ["---"] * table.num_texts + ["---:"] * (len(table.titles) - table.num_texts)
    rows = [list(map(markdown_text, row)) for row in (table.titles, *table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))


def latex_table(table: Table) -> str:
    """The table as a tabular of booktabs."""
    columns = "l" * table.num_texts + "r" * (len(table.titles) - table.num_texts)
    titles, *rows = (" & ".join(map(latex_text, row)) + r" \\" for row in (table.titles, *table.rows))
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        titles,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def settings_csv(gathered: Gathered) -> str:
    """One row a setting. Accuracies are fractions 0..1; deviations are empty for a single run."""
    how = gathered.measurement
    titles = ["setting", "recipe", "changes", "labels", "network", "num_runs", "seeds", "splits"]
    titles += [f"{metric}_{kind}" for metric in METRICS for kind in ("mean", "deviation")]
    titles += ["published", "source", "views", "part", "checkpoint", "average", "batch_norm", "data_set"]
    rows = []
    for setting in gathered.settings:
        spreads = [setting.spread(metric) for metric in METRICS]
        facts = [each.run.facts for each in setting.measured]
        figure, source = published_parts(setting)
        rows.append([
            setting.name, setting.recipe, "; ".join(setting.changes), setting.labels, setting.network, len(setting.measured),
            " ".join(map(str, sorted({fact.config.runtime.seed for fact in facts}))),
            " ".join(sorted({fact.split.name for fact in facts})),
            *(value for spread in spreads for value in ((spread.mean, spread.deviation) if spread else (None, None))),
            figure, source, how.views, how.part, how.checkpoint, how.average, how.batch_norm, how.data_set,
        ])  # fmt: skip
    return _csv(titles, rows)


def pairs_csv(pairs: Sequence[Pair]) -> str:
    """One row a pair. Differences are fractions; figures are empty if nothing could be compared."""
    titles = ["first", "second", "num_runs", "num_videos", "only_first_right", "only_second_right", "p", "p_holm"]
    titles += ["difference", "standard_error", "notes"]
    rows = []
    for pair in pairs:
        figures: list[object] = [None] * 6
        if pair.test is not None:
            figures = [
                pair.test.only_first,
                pair.test.only_second,
                pair.test.p,
                pair.p_holm,
                pair.difference,
                pair.standard_error,
            ]
        rows.append([pair.first, pair.second, pair.num_runs, pair.num_rows, *figures, "; ".join(pair.notes)])
    return _csv(titles, rows)


def published_parts(setting: Setting) -> tuple[str, str]:
    """The published figure and its source, which stands in brackets behind it."""
    match = re.fullmatch(r"(.*?) \((.*)\)\.?", setting.published, re.DOTALL)
    return (match[1], match[2]) if match else (setting.published, "")


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is."""
    escaped = _MARKDOWN.sub(r"\\\1", _one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def latex_text(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def _csv(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(titles)
    # A spreadsheet takes a text that begins like this for a formula.
    writer.writerows(
        [
            ("'" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else "")
            + _one_line(str("" if value is None else value))
            for value in row
        ]
        for row in rows
    )
    return file.getvalue()


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))


def _percent(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    deviation = "" if spread.deviation is None else f" ± {100 * spread.deviation:.2f}"
    return f"{100 * spread.mean:.2f}{deviation}"


def _p_value(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}"
