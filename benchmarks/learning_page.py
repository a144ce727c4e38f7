"""Write docs/results.md, its charts and the table of README from benchmarks/results/learning.json (see benchmarks/learning.py).

    python benchmarks/learning_page.py [--docs FOLDER]

The same results give the same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from learning import ALL_LABELS, DATA_SETS, MAIN_METHODS, METHODS, OTHER_METHODS, OUTPUT, DataSet
from matplotlib.figure import Figure

from tgtrain.report.plot import LIGHT
from tgtrain.report.statistics import McNemar, mcnemar, mean_and_deviation, standard_error_over_groups

DOCS = Path(__file__).parents[1] / "docs"
TITLES = {
    "supervised": "supervised, RGB",
    "supervised-tg": "supervised, TG",
    "fixmatch": "FixMatch",
    "uda": "UDA",
    "mvpl": "MvPL",
    "align-only": "alignment alone",
    "contrast-only": "contrast alone",
    "full": "whole method",
    "ema": "whole method, EMA teacher",
    "freematch": "whole method, FreeMatch thresholds",
    "targets": "whole method, targets of a first run",
    "best": "best",
}
NETWORKS = {"rgb": "RGB", "tg": "TG", "both": "both"}
Pair = tuple[tuple[str, str], tuple[str, str]]  # (method, network) twice
# What the method promises: that it is better than each of its parts and than labels alone.
PAIRS = (
    (("full", "rgb"), ("supervised", "rgb")),
    (("full", "rgb"), ("fixmatch", "rgb")),
    (("fixmatch", "rgb"), ("supervised", "rgb")),
    (("full", "tg"), ("supervised-tg", "tg")),
    (("full", "both"), ("supervised-tg", "tg")),
    # Of the parts, and past the paper: whether each is better than the whole method.
    *(
        ((method, network), ("full", network))
        for method in ("align-only", "contrast-only", "ema", "freematch", "targets")
        for network in ("rgb", "both")
    ),
    (("mvpl", "both"), ("full", "both")),
    (("best", "both"), ("full", "rgb")),
    (("best", "both"), ("full", "both")),
    (("best", "both"), ("supervised-tg", "tg")),
)


@dataclass(frozen=True)
class Runs:
    """The seeds of one method, one share of labels and one network on a data set, each over all folds."""

    right: dict[int, np.ndarray[Any, np.dtype[np.bool_]]]
    """By seed, whether each test video of all folds was right: bool[N]."""
    minutes: tuple[float, ...]

    def top1(self) -> list[float]:
        """Accuracy of each seed in percent."""
        return [100 * float(right.mean()) for right in self.right.values()]


@dataclass(frozen=True)
class Gain:
    """The first of a pair against the second."""

    points: str
    test: McNemar
    num_seeds: int


class Results:
    """The results file by data set, method, labels and network."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text())
        self.tests, self.cells = content["tests"], content["cells"]

    def of(self, data: DataSet, method: str, labels: int, network: str) -> Runs:
        """The complete seeds: those with every fold."""
        right, minutes = {}, []
        cells = [c for c in self.cells if (c["data"], c["method"], c["labels"]) == (data.name, method, labels)]
        for seed in sorted({cell["seed"] for cell in cells}):
            folds = {cell["fold"]: cell for cell in cells if cell["seed"] == seed and network in cell["predicted"]}
            if set(folds) == set(data.folds):
                rows = [
                    np.equal(folds[fold]["predicted"][network], self.tests[f"{data.name}/{fold}"]["labels"])
                    for fold in data.folds
                ]
                right[seed] = np.concatenate(rows)
                minutes += [folds[fold]["cpu_minutes"] for fold in data.folds]
        return Runs(right, tuple(minutes))

    def groups(self, data: DataSet) -> list[str]:
        """The group of every test video of all folds: a person, or one source of clips."""
        return [group for fold in data.folds for group in self.tests[f"{data.name}/{fold}"]["groups"]]


def spread(runs: Runs) -> str:
    """Mean ± deviation over seeds, in percent."""
    found = mean_and_deviation(runs.top1())
    return f"{found.mean:.1f}" + ("" if found.deviation is None else f" ± {found.deviation:.1f}")


def accuracy_rows(results: Results, data: DataSet) -> Iterator[str]:
    """One row for each share of labels and method that has a complete seed."""
    for labels in (*sorted(data.labels), ALL_LABELS):
        for method in METHODS:
            runs = {network: results.of(data, method, labels, network) for network in NETWORKS}
            known = [each for each in runs.values() if each.right]
            if not known:
                continue
            cells = [spread(each) if each.right else "" for each in runs.values()]
            error = standard_errors(results, data, known[-1] if runs["rgb"].right == {} else runs["rgb"])
            minutes = sum(known[0].minutes) / len(known[0].minutes)
            seeds = len(known[0].right)
            yield f"| {labels} % | {TITLES[method]} | {' | '.join(cells)} | {error} | {seeds} | {minutes:.1f} |"


def standard_errors(results: Results, data: DataSet, runs: Runs) -> str:
    """The standard error of the accuracy over the groups of the test videos, in percent."""
    rows = np.concatenate(list(runs.right.values()))
    error = standard_error_over_groups(rows, results.groups(data) * len(runs.right))
    return "" if error is None else f"{100 * error:.1f}"


def gain(results: Results, data: DataSet, labels: int, pair: Pair) -> Gain | None:
    """How much better the first of a pair is, over the seeds that both have; None without one."""
    one, other = (results.of(data, method, labels, network) for method, network in pair)
    seeds = sorted(one.right.keys() & other.right.keys())
    if not seeds:
        return None
    a, b = (np.concatenate([runs.right[seed] for seed in seeds]) for runs in (one, other))
    difference = a.astype(float) - b.astype(float)
    error = standard_error_over_groups(difference, results.groups(data) * len(seeds))
    points = f"{100 * difference.mean():+.1f}" + ("" if error is None else f" ± {100 * error:.1f}")
    return Gain(points, mcnemar(a, b), len(seeds))


def summary_rows(results: Results) -> Iterator[str]:
    """For each data set and share of labels, what unlabelled videos add to RGB and to TG."""
    for data in DATA_SETS.values():
        for labels in sorted(data.labels):
            gains = [gain(results, data, labels, pair) for pair in (PAIRS[0], PAIRS[1], PAIRS[3])]
            if any(gains):
                cells = [f"{each.points} ({each.num_seeds})" if each else "" for each in gains]
                yield f"| {data.name} | {labels} % | {' | '.join(cells)} |"


def pair_rows(results: Results, data: DataSet) -> Iterator[str]:
    """One row for each pair of methods under the same labels, over the seeds that both have."""
    for labels in sorted(data.labels):
        for (first, first_network), (second, second_network) in PAIRS:
            found = gain(results, data, labels, ((first, first_network), (second, second_network)))
            if found is None:
                continue
            names = f"{TITLES[first]} ({NETWORKS[first_network]}) | {TITLES[second]} ({NETWORKS[second_network]})"
            test = found.test
            p = "< 0.001" if test.p < 0.001 else f"{test.p:.3f}"
            counts = f"{test.only_first} : {test.only_second}"
            yield f"| {labels} % | {names} | {found.points} | {counts} | {p} | {found.num_seeds} |"


def chart(results: Results, data: DataSet, docs: Path) -> Path | None:
    """Accuracy over the share of labels, a line for each method and its better-known network."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    methods = (*MAIN_METHODS, *OTHER_METHODS)
    shown = [(method, "tg" if method == "supervised-tg" else "rgb") for method in methods] + [("full", "tg")]
    drawn = 0
    for number, (method, network) in enumerate(shown):
        points = [(labels, results.of(data, method, labels, network)) for labels in sorted(data.labels)]
        points = [(labels, runs) for labels, runs in points if runs.right]
        if not points:
            continue
        drawn += 1
        stats = [mean_and_deviation(runs.top1()) for _, runs in points]
        name = TITLES[method] + (f", {NETWORKS[network]}" if method == "full" else "")
        shift = 1 + 0.012 * (number - len(shown) / 2)  # so that bars of equal shares do not hide each other
        axes.errorbar(
            [labels * shift for labels, _ in points],
            [each.mean for each in stats],
            [each.deviation or 0 for each in stats],
            label=name,
            color=LIGHT.lines[methods.index(method)],
            marker="os^Dv<>Ph"[number],
            linestyle="--" if network == "tg" else "-",
            capsize=3,
        )
    if not drawn:
        return None
    axes.axhline(100 / num_classes(results, data), color=LIGHT.text, linestyle=":", label="chance")
    axes.set_xscale("log")
    axes.set_xticks(sorted(data.labels), [f"{labels} %" for labels in sorted(data.labels)])
    axes.minorticks_off()
    axes.set(xlabel="labelled training videos", ylabel="top-1 in percent", ylim=(0, 100))
    axes.grid(axis="y", color=LIGHT.grid)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
    path = docs / f"results_{data.name}.svg"
    figure.savefig(path, facecolor="white", metadata={"Date": None})
    return path


def num_classes(results: Results, data: DataSet) -> int:
    """Classes of the test videos."""
    return len({label for fold in data.folds for label in results.tests[f"{data.name}/{fold}"]["labels"]})


ABOUT = {
    "sample": "Rendered here (`tgprep sample --seed 2026`): 6 classes that differ only in motion, 552 training and 216 test videos of as many "
    "actors, 80 x 60. No setting was chosen on them.",
    "weizmann": "The Weizmann actions: 10 classes, 9 people, 90 clips. One person is left out in turn; a seed's figure pools the "
    "nine folds. One label a class is 10 %, two are 20 %; 5 % would be the same as 10 %.",
    "ucf101-3": "Three classes of UCF101 (official fold 1): 108 training and 42 test clips.",
    "gestures": "Body gestures: 15 classes, 10 people, 315 training and 135 test clips, test people unseen. Left and right are mirror "
    "images, so clips are not flipped.",
}


def repeats(results: Results) -> str:
    """The whole method at 10 % with the same seeds, twice: on the processor of most runs, and later on another.

    The second runs are those of `learning.py --method full --labels 10 --output benchmarks/results/learning_repeats.json`.
    """
    again = Results(OUTPUT.with_name("learning_repeats.json"))
    found = []
    for data in (DATA_SETS["sample"], DATA_SETS["ucf101-3"]):
        runs = [
            [spread(each.of(data, "full", 10, network)) for each in (results, again)] for network in ("rgb", "both")
        ]
        found.append(f"{data.name} RGB {' and then '.join(runs[0])}, both {' and then '.join(runs[1])}")
    return "; ".join(found)


def page(results: Results, docs: Path) -> str:
    """The whole page as Markdown."""
    processors = sorted({cell["processor"] for cell in results.cells})
    cost = json.loads(OUTPUT.with_name("learning_cost.json").read_text())["of a training"]
    introduction = INTRODUCTION.format(
        processors=", ".join(processors), num_runs=len(results.cells), cost=cost, repeats=repeats(results)
    )
    parts = ["# Does it help? Methods, labels and seeds on small data sets", introduction, SUMMARY]
    parts[-1] += "\n".join(summary_rows(results))
    for data in DATA_SETS.values():
        rows = list(accuracy_rows(results, data))
        if not rows:
            continue
        parts.append(f"## {data.name}\n\n{ABOUT[data.name]}")
        if picture := chart(results, data, docs):
            parts.append(f"![Accuracy over the share of labels on {data.name}]({picture.name})")
        head = "| labels | method | RGB | TG | both | error | seeds | minutes |\n|---|---|---|---|---|---|---|---|\n"
        parts.append(head + "\n".join(rows))
        if pairs := list(pair_rows(results, data)):
            head = "| labels | first | second | gain | only first : only second right | p | seeds |\n|---|---|---|---|---|---|---|\n"
            parts.append(head + "\n".join(pairs))
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """\
Written by `python benchmarks/learning_page.py` from `benchmarks/results/learning.json`: {num_runs} runs of
`python benchmarks/learning.py` with the small network of recipe `demo` (R3D-10, 8 channels, 48 pixels), on one thread of
{processors}. All methods but "best" have the settings of recipe `demo` and, on one data set, the same number of epochs (about 600 to
1,600 steps). "Whole method" is that recipe: alignment, contrast and pseudo-labels. "Best" is recipe `demo-best` (wider networks, TG labels, no
contrast, strong views apart) with 12 % fewer epochs. These figures compare methods under equal settings; they say nothing about the published
ones, which need a GPU ([recipes.md](recipes.md)).

- **RGB, TG, both**: top-1 in percent of the test videos, 3 clips x 1 crop, last checkpoint; mean ± standard deviation over the seeds of
  draw and training.
- **error**: standard error of that accuracy over people or sources of clips (RGB, or the one network that the method has): what other
  test people would change.
- **minutes**: processor minutes of one training; "targets of a first run" needs a run of the whole method before it, which is not counted.
  Trainings ran beside other work, so minutes of different days differ by more than the methods do.
  Measured in turns (`benchmarks/learning_cost.py`), a training of "best" takes {cost:.2f} times the processor time of the whole method.
- **gain**: difference in points ± its standard error over people or sources, over the seeds that both methods have, so it can differ from that of the means
  above. p: exact McNemar test over all seeds; videos that appear under
  several seeds count as independent there, so trust the error of the gain first.
- **repeats**: the whole method at 10 %, trained again with the same seeds on another processor, which rounds otherwise, with a later version of
  this code, and on the sample with videos rendered anew, some of which came out a little otherwise at that time: {repeats}.
  These second runs are the first rounds of "targets of a first run"."""


SUMMARY = """\
## In short

What the whole method gains, in points ± standard error (seeds). What is not listed has not been run.

- At 5 and 10 % labels, unlabelled videos lift the RGB network above labels alone and above FixMatch, towards the TG network, its teacher.
- Recipe `demo-best`, tested by both networks, is more than 5 points above the whole method at 10 % on the sample and on Weizmann. On the three classes of
  UCF101 its gain is smaller than the error.
- An EMA teacher, FreeMatch's thresholds and soft targets of a first run, each alone on top of the whole method, help no network at 10 % on the
  sample. On Weizmann the teacher alone was run, and does not help either. On the three classes of UCF101 their gains are 4 to 6 points for RGB and
  smaller than two errors, and a repeat of the whole method moves its own figures there by 2 to 3 points. None of them is part of `demo-best`,
  which was chosen on other videos.
- At 20 % on the sample the unlabelled videos of the whole method do harm: labels alone and FixMatch are better, and alignment alone is, too.
- The TG network gains nothing at any share: it learns as much or more from the labels alone.
- Why, as far as it is known: the strong views set the BatchNorm statistics of the TG network, and each network of a pair has half the weight of labels
  that one alone has. Other settings of both gave more on other videos, with one seed ([beyond.md](beyond.md#what-was-tried-on-small-data)).

| data set | labels | RGB, over labels alone | RGB, over FixMatch | TG, over labels alone |
|---|---|---|---|---|
"""


def with_summary(readme: str, results: Results) -> str:
    """README with the table of the summary between its two marks."""
    begin, end = "<!-- results: written by benchmarks/learning_page.py -->", "<!-- end of results -->"
    head, rest = readme.split(begin)
    table = SUMMARY[SUMMARY.index("| data set") :] + "\n".join(summary_rows(results))
    return f"{head}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder to write to")
    docs = parser.parse_args().docs
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "tgtrain", "font.sans-serif": ["DejaVu Sans", "Arial"]}
    )
    results = Results(OUTPUT)
    (docs / "results.md").write_text(page(results, docs))
    if docs == DOCS:
        readme = docs.parent / "README.md"
        readme.write_text(with_summary(readme.read_text("utf-8"), results), "utf-8")


if __name__ == "__main__":
    main()
