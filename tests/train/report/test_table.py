"""Tables of settings: means over seeds and folds, what is refused, pairs of settings, and three ways to write them."""

from __future__ import annotations

import csv
import io
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.train.report import report
from tests.train.report.pages import write_run, write_test
from tgtrain.report.statistics import holm

KEYS = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]  # keys of the ten test videos


def make_tested(
    folder: Path, right: int, *, seed: int = 0, fold: int = 1, recipe: str = "demo", sets: tuple[str, ...] = (),
    protocol: str = "10x3", modality: str = "rgb", steps: int = 24, keys: list[str] | None = KEYS, percent: str = "20",
    **options: Any,
) -> Path:  # fmt: skip
    """A finished run with `right` of its ten test videos right: the first ones."""
    if not folder.exists():
        options.setdefault("split_digest", f"{fold}" * 64)
        write_run(
            folder, recipe=recipe, overrides=(f"runtime.seed={seed}", *sets), steps=steps, split=f"p{percent}-s{seed}-f{fold}",
            **options,
        )  # fmt: skip
        edit(
            folder / "config.json",
            lambda facts: facts["split"].update(provenance={"percent": percent, "fold": str(fold), "seed": str(seed)}),
        )
    write_test(folder, [[right, 10 - right], [0, 0]], protocol=protocol, modality=modality, step=24, keys=keys)
    return folder


def edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def table(*words: object, expected: int = 0) -> Result:
    done = CliRunner().invoke(report, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == expected, done.output
    return done


def rows(done: Result) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(done.stdout)))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two settings of two seeds and two folds."""
    right = {"demo": [6, 7, 5, 8], "demo-supervised": [4, 5, 4, 3]}
    for recipe, counts in right.items():
        for (seed, fold), count in zip([(1, 1), (2, 1), (1, 2), (2, 2)], counts, strict=True):
            make_tested(tmp_path / "sweep" / f"{recipe}_f{fold}_s{seed}", count, seed=seed, fold=fold, recipe=recipe)
    return tmp_path / "sweep"


def test_mean_and_deviation_over_seeds_and_folds(sweep: Path) -> None:
    ltg, supervised = rows(table(sweep, "--table", "csv"))
    assert (ltg["setting"], ltg["num_runs"], ltg["seeds"], ltg["labels"]) == ("demo", "4", "1 2", "20 %")
    for row, counts in ((ltg, [0.6, 0.7, 0.5, 0.8]), (supervised, [0.4, 0.5, 0.4, 0.3])):
        assert float(row["top1_mean"]) == pytest.approx(statistics.mean(counts))
        assert float(row["top1_deviation"]) == pytest.approx(statistics.stdev(counts))
    assert ltg["top5_mean"] == ""  # two classes: always 100 %
    assert (ltg["views"], ltg["part"], ltg["checkpoint"], ltg["average"]) == ("10x3", "test", "last", "logits")
    shown = table(sweep, "--table", "markdown").stdout
    assert "| demo | 20 % | 4 | 65.00 ± 12.91 |" in shown
    assert "10x3 (clips x crops) of the test videos, RGB network, last checkpoint, mean of logits" in shown
    assert "top-5" not in shown


def test_pairs_are_pooled_over_runs_of_the_same_split_and_seed(sweep: Path) -> None:
    (pair,) = rows(table(sweep, "--table", "csv", "--show", "pairs"))
    # Of ten videos each run has the first ones right: 2 + 2 + 1 + 5 that only the first has.
    assert (pair["only_first_right"], pair["only_second_right"], pair["num_runs"], pair["num_videos"]) == (
        "10",
        "0",
        "4",
        "40",
    )
    assert float(pair["p"]) == pytest.approx(2 / 2**10)  # scipy.stats.binomtest(0, 10).pvalue
    assert float(pair["difference"]) == pytest.approx(10 / 40)
    # Ten videos, each four times: their sums of differences less the mean are 4 times the deviation of the ten means.
    means = [sum(a <= k < b for a, b in ((4, 6), (5, 7), (4, 5), (3, 8))) / 4 for k in range(10)]
    assert float(pair["standard_error"]) == pytest.approx(statistics.stdev(means) / 10**0.5)
    make_tested(sweep / "demo-fixmatch_f1_s1", 6, seed=1, recipe="demo-fixmatch")
    first, second, third = rows(table(sweep, "--table", "csv", "--show", "pairs"))
    assert (third["first"], third["second"], third["num_runs"]) == ("demo-fixmatch", "demo-supervised", "1")
    assert [float(each["p_holm"]) for each in (first, second, third)] == holm(
        [float(each["p"]) for each in (first, second, third)]
    )
    assert float(second["p_holm"]) == pytest.approx(3 * 2 / 2**10)


def test_pairs_without_predictions_or_partners_say_so(sweep: Path) -> None:
    (sweep / "demo_f1_s1" / "test-10x3.parquet").unlink()
    done = table(sweep, "--table", "markdown")
    assert "no predictions of demo\\_f1\\_s1" in done.stdout
    (row,) = rows(table(sweep, "--table", "csv", "--show", "pairs"))
    assert (row["num_runs"], row["num_videos"]) == ("3", "30")
    make_tested(sweep / "other", 5, seed=9, recipe="demo-fixmatch")
    assert "no split and seed in common" in table(sweep, "--table", "markdown").stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": "1x1"}, r"views: 10x3 (demo_f1_s1, demo_f1_s2, demo_f2_s1, demo_f2_s2), 1x1 (odd)"),
        ({"modality": "tg"}, "network: rgb (demo_f1_s1, demo_f1_s2, demo_f2_s1, demo_f2_s2), tg (odd)"),
        ({"digest": "e" * 64}, "data set: folder dddddddddddd (demo_f1_s1, demo_f1_s2, demo_f2_s1, demo_f2_s2), folder eeeeeeeeeeee (odd)"),
        ({"result": {"average": "probabilities"}}, "average: logits (demo_f1_s1, demo_f1_s2, demo_f2_s1, demo_f2_s2), probabilities (odd)"),
        ({"result": {"rule": "best"}}, "checkpoint: last (demo_f1_s1, demo_f1_s2, demo_f2_s1, demo_f2_s2), best (odd)"),
        ({"result": {"step": 20}}, "checkpoint: last (demo_f1_s1, demo_f1_s2, demo_f2_s1, demo_f2_s2), step 20 (odd)"),
        ({"result": {"batch_norm": "measured for this test"}}, "batch norm: none (demo_f1_s1"),
    ],
)  # fmt: skip
def test_runs_that_were_measured_differently_are_refused(sweep: Path, change: dict[str, Any], said: str) -> None:
    result = change.pop("result", {})
    odd = make_tested(sweep / "odd", 5, seed=3, **change)
    for path in odd.glob("test-*.json"):
        edit(path, lambda content: content.update(result))
    runs = [*sweep.glob("demo_*"), odd]
    done = table(*sorted(runs), "--table", "markdown", expected=2)
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("Error:") == 1


def test_the_user_chooses_among_what_the_runs_have(sweep: Path) -> None:
    for folder in sweep.iterdir():
        make_tested(folder, 9, protocol="1x1")
        make_tested(folder, 8, modality="both")
    assert rows(table(sweep, "--table", "csv"))[0]["views"] == "10x3"
    assert rows(table(sweep, "--table", "csv", "--protocol", "1x1"))[0]["top1_mean"] == "0.9"
    assert rows(table(sweep, "--table", "csv", "--modality", "both"))[0]["top1_mean"] == "0.8"
    each = rows(table(sweep, "--table", "csv", "--modality", "each"))
    assert [(row["setting"], row["network"]) for row in each] == [
        ("demo rgb", "rgb"), ("demo both", "both"), ("demo-supervised rgb", "rgb"), ("demo-supervised both", "both"),
    ]  # fmt: skip
    (sweep / "demo_f1_s1" / "test-10x3-both.json").unlink()
    assert "demo_f1_s1 has no test of both" in table(sweep, "--table", "csv", "--modality", "each", expected=2).stderr
    done = table(sweep, "--table", "csv", "--modality", "both", expected=1)
    assert (
        "left out: demo_f1_s1: no test of its last step on the test part (both), only 10x3 rgb test of step 24"
        in done.stderr
    )
    assert rows(done)[0]["num_runs"] == "3"


def test_unfinished_and_untested_runs_are_named_and_left_out(sweep: Path) -> None:
    write_run(sweep / "half", steps=8)
    write_run(sweep / "untested", steps=24)
    edit(
        sweep / "demo_f2_s2" / "test-10x3.json", lambda content: content.update(step=8, rule="last")
    )  # trained further since
    done = table(sweep, "--table", "markdown", expected=1)
    for reason in (
        "half: not finished, step 8 of 24.",
        "untested: not tested on the test part yet",
        "demo_f2_s2: no test",
    ):
        assert f"left out: {reason}" in done.stderr
        assert "- Left out: " + reason.replace("_", "\\_") in done.stdout
    assert "| demo | 20 % | 3 |" in done.stdout
    assert "No run of these can be counted" in table(sweep / "half", "--table", "csv", expected=2).stderr


def test_settings_are_named_by_what_differs(tmp_path: Path) -> None:
    for seed in (1, 2):
        for threshold in ("0.6", "0.9"):  # 0.6 is the recipe's
            sets = (f"method.threshold={threshold}", "optimiser.epochs=9", f"runtime.workers={seed}")
            make_tested(tmp_path / f"{threshold}-{seed}", 5, seed=seed, sets=sets)
    make_tested(tmp_path / "ten", 5, seed=1, sets=("optimiser.epochs=9",), percent="10")
    found = rows(table(tmp_path, "--table", "csv"))
    assert [(row["setting"], row["labels"], row["num_runs"]) for row in found] == [
        ("demo method.threshold=0.6", "20 %", "2"), ("demo method.threshold=0.9", "20 %", "2"), ("demo method.threshold=0.6", "10 %", "1"),
    ]  # fmt: skip
    assert found[2]["top1_deviation"] == ""
    assert "In all rows: optimiser.epochs=9." in table(tmp_path, "--table", "markdown").stdout


def test_other_rules_of_labels_are_other_settings(tmp_path: Path) -> None:
    for name, provenance in {
        "all": {"percent": "20", "unlabelled": "all"},
        "rest": {"percent": "20", "unlabelled": "rest"},
        "list-1": {"made": "imported", "list_labelled": "one sha256 1"},
        "list-2": {"made": "imported", "list_labelled": "two sha256 2"},
    }.items():
        folder = make_tested(tmp_path / name, 5, seed=2 * name.endswith("2"))
        edit(folder / "config.json", lambda facts, rule=provenance: facts["split"].update(provenance=rule))
    found = {row["setting"]: (row["labels"], row["num_runs"]) for row in rows(table(tmp_path, "--table", "csv"))}
    assert found == {
        "demo unlabelled=all": ("20 %", "1"), "demo made=imported": ("20 %", "2"), "demo unlabelled=rest": ("20 %", "1"),
    }  # fmt: skip


def test_the_same_cell_twice_is_refused(sweep: Path) -> None:
    shutil.copytree(sweep / "demo_f1_s1", sweep / "copy")
    assert "one result would count twice" in table(sweep, "--table", "csv", expected=2).stderr
    assert table(sweep / "demo_f1_s1", sweep / "demo_f1_s1", "--table", "csv").exit_code == 0  # the same folder


def test_published_figure_stands_with_its_source(tmp_path: Path) -> None:
    make_tested(tmp_path / "a", 5, recipe="ucf101-10", percent="10")
    (row,) = rows(table(tmp_path, "--table", "csv"))
    assert (row["published"], row["source"]) == (
        "top-1 62.4 %",
        "LTG, CVPR 2022, as quoted by SeFAR, arXiv 2501.01245, table 2",
    )
    assert (
        "| ucf101-10 | 10 % | top-1 62.4 % (LTG, CVPR 2022, as quoted by SeFAR, arXiv 2501.01245, table 2) | 1 | 50.00 |"
        in table(tmp_path, "--table", "markdown").stdout
    )
    make_tested(tmp_path / "b", 5, recipe="ucf101-10", sets=("optimiser.epochs=2",), percent="10")
    done = table(tmp_path, "--table", "markdown")
    assert (
        "these rows have others: ucf101-10 optimiser.epochs=180, ucf101-10 optimiser.epochs=2." in done.stdout
    )  # not on UCF101
    for folder in ("a", "b"):
        edit(tmp_path / folder / "config.json", lambda facts: facts["data"].update(dataset="ucf101"))
    assert "these rows have others: ucf101-10 optimiser.epochs=2." in table(tmp_path, "--table", "markdown").stdout


HOSTILE = "=cmd|`x` $a$ <b> \\input{/etc/passwd} 50% _u_ [l](j) #1 & ~^ \x1b[2J\nsecond \u202eline"


def test_names_of_strangers_are_escaped(tmp_path: Path) -> None:
    folder = make_tested(tmp_path / "a", 5)
    edit(folder / "config.json", lambda facts: facts["config"].update(name=HOSTILE, published=HOSTILE))
    make_tested(tmp_path / "b", 4)
    markdown = table(tmp_path, "--table", "markdown").stdout
    line = next(line for line in markdown.splitlines() if line.startswith("| =cmd"))
    assert line.startswith(
        r"| =cmd\|\`x\` \$a\$ &lt;b&gt; \\input{/etc/passwd} 50% \_u\_ \[l\](j) \#1 &amp; \~^ \\u001b\[2J second \\u202eline |"
    )
    latex = table(tmp_path, "--table", "latex").stdout
    line = next(line for line in latex.splitlines() if line.startswith("=cmd"))
    assert line.startswith(
        r"=cmd\textbar{}`x` \$a\$ \textless{}b\textgreater{} \textbackslash{}input\{/etc/passwd\} 50\% \_u\_ {[}l{]}(j) \#1 \& "
        r"\textasciitilde{}\textasciicircum{} \textbackslash{}u001b{[}2J second \textbackslash{}u202eline & "
    )
    assert all(line.startswith(("%", "\\", "demo", "=cmd", "setting", "first")) for line in latex.splitlines())
    for row in rows(table(tmp_path, "--table", "csv")):
        assert row["setting"] == "demo" or row["setting"].startswith("'=cmd|`x` $a$ <b>")
    assert "\x1b" not in markdown + latex


def test_latex_is_a_tabular_of_booktabs(sweep: Path) -> None:
    text = table(sweep, "--table", "latex").stdout
    lines = text.splitlines()
    assert r"\begin{tabular}{llrrr}" in lines
    assert r"demo & 20 \% & 4 & 65.00 $\pm$ 12.91 & 65.00 $\pm$ 12.91 \\" in lines
    for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"):
        assert lines.count(command) == 2
    begun, width = False, 0
    for line in lines:
        if line.startswith(r"\begin{tabular}"):
            begun, width = True, len(line.split("{")[2].rstrip("}"))
        elif line.startswith(r"\end"):
            begun = False
        elif begun and line.endswith(r"\\"):
            assert line.count(" & ") == width - 1
        else:
            assert line.startswith("%") or begun


def test_table_goes_into_a_file_and_options_need_it(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sweep.parent)
    assert table(sweep, "--table", "latex", "--output", "t.tex").stdout == "t.tex\n"
    assert Path("t.tex").read_text() == table(sweep, "--table", "latex").stdout
    for words, said in (
        ((sweep, "--protocol", "10x3"), "add --table"),
        ((sweep, "--table", "csv", "--protocol", "ten"), "expected CLIPSxCROPS"),
        ((sweep, "--table", "csv", "--show", "both"), "one table"),
        ((sweep, "--table", "csv", "--data", "x"), "leave --data"),
        (("nothing", "--table", "csv"), "nothing is no run"),
        ((sweep, "--table", "csv", "--output", "no/such/t.csv"), "folder that exists"),
    ):  # fmt: skip
        assert said in table(*words, expected=2).stderr
    Path("runs").symlink_to(sweep)
    assert len(rows(table("--table", "csv"))) == 2


def test_a_damaged_test_file_is_named(sweep: Path) -> None:
    (sweep / "demo_f1_s1" / "test-10x3.json").write_text("{")
    done = table(sweep, "--table", "markdown", expected=1)
    assert "left out: demo_f1_s1: not tested on the test part yet" in done.stderr
    assert "test-10x3.json could not be read" in done.stderr
