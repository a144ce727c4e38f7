"""`tgtrain run` on a terminal: a panel below the log; plain lines elsewhere; a mistake is told before torch is loaded."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from cli.terminal import Panel, folded
from cli.train import live, main
from cli.train.live import Display, following
from cli.train.run import run_name
from tests.extraction import REPOSITORY
from tests.terminal import Terminal
from tests.train.report.pages import write_run
from tests.train.support import setup_of, write_data_set
from tgtrain.run.journal import read_metrics
from tgtrain.train.observer import Accuracy, Observer

SMALL = (
    "data.clip_frames=4", "data.interval=2", "data.size=32", "batch.labelled=4", "batch.unlabelled=4", "model.width=2",
    "optimiser.epochs=3", "precise_bn.batches=1", "runtime.log_every=1", "runtime.workers=0", "evaluate.every_epochs=1",
)  # fmt: skip
VALUES = {
    "loss/total": 3.25, "loss/supervised_rgb": 1.0, "loss/supervised_tg": 1.0, "loss/pseudo_rgb": 0.25, "loss/align_stage1": 1.0,
    "train/mask_fraction": 0.25, "train/pseudo_precision": 0.5, "waiting_share": 0.04, "clips_per_second": 12.3,
    "memory_mb": 2048.0, "learning_rate": 0.05, "seconds_left": 9.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small data set; do not change it."""
    root = tmp_path_factory.mktemp("data") / "set"
    write_data_set(root)
    return root


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    return now


def on_screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Make stderr a terminal of 80 x 24; in the test itself, as each phase of it has another stderr."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setattr(sys, "stderr", shown := Screen())
    return shown


def lines_of(display: Display, width: int, height: int = 24) -> list[str]:
    """What the panel shows, without colours."""
    console = Console(width=width, height=height, file=io.StringIO())
    console.print(display.panel, end="")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in shown.rstrip("\n").split("\n")]


def accuracy(epoch: int, top1: float, network: str = "") -> Accuracy:
    return Accuracy(epoch, network, "test", 48, 8, {"top1@1x1": top1, "top5@1x1": 0.75, "mean_class@1x1": top1})


def test_the_panel_shows_a_run_at_any_width(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_screen(monkeypatch)
    display = Display()
    display.doing("loading PyTorch")
    assert lines_of(display, 80) == ["loading PyTorch"]
    display.began(tmp_path, 0, 60, (208, 26), 2)
    shown = lines_of(display, 80)
    assert shown[1].startswith("step 0 of 60 (208 in all)  epoch 1 of 8  0 s")
    assert shown[-1] == "starting: 2 loader processes, the first batch"
    assert not any("left" in line for line in shown)
    clock[0] += 30  # the loader starts, which is no part of the time left
    for step in range(1, 27):
        display.stepped(step)
        display.logged(step, 208, 0, VALUES)
        clock[0] += 2
    for epoch, top1 in enumerate((0.125, 0.5, 0.25), start=1):
        display.evaluated(accuracy(epoch, top1))
    display.doing("evaluating test videos", 12, 48)
    shown = lines_of(display, 80)
    assert set(shown[0]) <= set("━╸╺ ")
    # 34 steps of 52/25 s are left.
    assert shown[1] == "step 26 of 60 (208 in all)  epoch 1 of 8  lr 0.05  1 min 22 s, 1 min 11 s left"
    assert "loss 3.250   supervised 2.000  pseudo 0.250  align 1.000" in shown
    assert "pseudo-labels 25 % kept, 50 % right  data wait 4 %  12.3 clips/s  memory 2.0 GiB" in shown
    assert [line.split() for line in shown if "%" in line and "." in line.split()[2]][1][-1] == "best"
    assert shown[-1] == "evaluating test videos: 12 of 48"
    for width in (30, 60, 120):
        assert max(map(len, lines_of(display, width))) <= width
    short = lines_of(display, 80, height=10)
    assert len(short) < 10
    assert any(line.endswith("best") for line in short)  # the best stays
    display.close()


def test_it_is_drawn_twice_a_second_at_most(
    clock: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_screen(monkeypatch)
    display = Display()
    display.began(tmp_path, 0, 1000, (1000, 100), 0)
    drawn: list[float] = []
    monkeypatch.setattr(Panel, "draw", lambda self: drawn.append(clock[0]))
    for step in range(1, 501):
        display.stepped(step)
        clock[0] += 0.01
    assert len(drawn) == 9
    display.close()


def test_warnings_scroll_past_and_a_narrower_terminal_leaves_nothing(
    clock: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = on_screen(monkeypatch)
    display = Display()
    display.began(tmp_path, 0, 10, (10, 5), 0)
    display.stepped(1)
    display.warn("note: a class has no video")
    print("warning of a library", file=sys.stderr)
    display.panel.draw()
    last = screen.getvalue().split("\x1b[2K")[-1]
    assert "step 1 of 10" in last
    before = screen.getvalue()
    assert (
        before.index("note: a class has no video")
        < before.index("warning of a library")
        < before.rindex("step 1 of 10")
    )
    display.panel.live.console.width = 40
    screen.truncate(screen.seek(0))
    num_lines, wrapped = len(display.panel.widths), sum(width > 40 for width in display.panel.widths)
    assert wrapped
    display.panel.draw()
    assert screen.getvalue().count("\x1b[1A") == num_lines - 1 + wrapped
    display.close()


@pytest.mark.parametrize(
    ("quiet", "said"), [(False, ["news", "beware", "epoch 1: top1@1x1 50.00 %"]), (True, ["beware"])]
)
def test_without_a_terminal_there_are_lines(quiet: bool, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with following(quiet=quiet) as observer:
        assert type(observer) is Observer
        observer.news("news")
        observer.warn("beware")
        observer.evaluated(accuracy(1, 0.5))
    lines = capsys.readouterr().err.splitlines()
    assert [line[: len(text)] for line, text in zip(lines, said, strict=True)] == said
    with following(quiet=False, is_main=False) as observer:
        observer.news("news")
        observer.warn("beware")
    assert not capsys.readouterr().err


def test_prose_is_folded_between_words() -> None:
    text = f"a note about {'/a/path/' * 20} and " + " ".join(f"{number}.{number}" for number in range(1000, 1030))
    lines = folded(text).split("\n")
    assert " ".join(line.strip() for line in lines) == text
    assert all(len(line) < 100 or " " not in line.strip() for line in lines)


def test_a_resumed_run_shows_its_earlier_evaluations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    on_screen(monkeypatch)
    record = {"kind": "evaluate", "step": 3, "epoch": 0, "part": "test", "top1@1x1": 0.5, "mean_class@1x1": 0.25}
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps(record | {"teacher_top1@1x1": 0.75, "teacher_mean_class@1x1": 0.5}) + "\n"
    )
    display = Display()
    display.began(tmp_path, 3, 6, (6, 3), 0)
    shown = [line.split() for line in lines_of(display, 80)]
    assert ["1", "3", "50.00", "%", "25.00", "%", "student"] in shown
    assert ["1", "3", "75.00", "%", "50.00", "%", "teacher", "best"] in shown  # which a run with a teacher is judged by
    display.close()


def test_a_run_on_a_terminal(data_set: Path, tmp_path: Path) -> None:
    """Two epochs of three: the panel takes the place of the lines, what was said stays, and metrics.jsonl is that of any run."""
    words = ("run", data_set, "--recipe", "demo", *(word for text in SMALL for word in ("--set", text)))
    terminal = Terminal(80, *words, "--max-steps", "6", program="train", folder=tmp_path, NO_COLOR="1")
    try:
        assert terminal.read_to_the_end(300) == 0, terminal.shown
    finally:
        terminal.close()
    assert max(len(line) for line in terminal.lines if not line.startswith("Next: ")) <= 80
    assert "loading PyTorch" in terminal.shown
    assert not any(re.match(r"step \d+/", line) for line in terminal.lines)  # the lines of a log
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", terminal.shown)
    assert "Stopped at step 6 of 9 (--max-steps); the same command without it goes on." in terminal.shown
    end = terminal.lines[-8:]
    assert sum(bool(re.match(r" +[12] +[36] +", line)) for line in end) == 2, end
    assert sum(line.endswith("best") for line in end) == 1
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")  # the cursor is given back
    records = read_metrics(next((tmp_path / "runs").iterdir())).records
    assert [record["step"] for record in records if record["kind"] == "train"] == list(range(1, 7))
    assert [record["step"] for record in records if record["kind"] == "evaluate"] == [3, 6]


WRONG = {
    "run --epochs 3 --lr=0.1 --recipe demo": "  tgtrain run --set optimiser.epochs=3 --set optimiser.learning_rate=0.1 --recipe demo",
    "run --batch 8": "--set batch.labelled=8 --set batch.unlabelled=8",
    "run --seed 3": "tgtrain run --set runtime.seed=3",
    "sweep --seed 3": "--seeds",
    "run --optimizer.momentum 0.8": "--set optimiser.momentum=0.8",
    "run --nonsense": "No such option",
    "run nowhere": "nowhere",
    "run {data} --set optimizer.epohcs=3": "nearest valid key: optimiser.epochs",
    "run {data} --set optimizer.epochs=many": "optimiser.epochs (--set)",
    "run {data} --recipe dmo": "Nearest: demo",
    "run {data} --split nothing": "nothing",
    "test nowhere": "nowhere is no run",
    "info nowhere": "nowhere is no run",
    "export nowhere": "nowhere is no run",
    "predict nowhere video.avi": "nowhere is no run",
    "test --views 3x2": "expected CLIPSxCROPS",
    "test --part labeled": "is not one of 'test', 'validation', 'unlabelled'",
    "recipes dmo": "Nearest: demo",
}


def test_wrong_usage_is_told_before_torch_is_loaded(data_set: Path, tmp_path: Path) -> None:
    code = (
        "import json, sys; from click.testing import CliRunner; from cli.train import main\n"
        "said = {}\n"
        "for line in json.load(sys.stdin):\n"
        "    done = CliRunner().invoke(main, line.split(), prog_name='tgtrain')\n"
        "    said[line] = [done.exit_code, done.output, 'torch' in sys.modules]\n"
        "print(json.dumps(said))"
    )
    lines = {line.format(data=data_set): expected for line, expected in WRONG.items()}
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(list(lines)), cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for line, (exit_code, output, has_torch) in json.loads(done.stdout).items():
        assert exit_code == 2, (line, output)
        assert lines[line] in output, (line, output)
        assert not has_torch, line
    assert not list(tmp_path.iterdir())


def test_another_seed_has_a_folder_of_its_own(data_set: Path) -> None:
    assert run_name(setup_of(data_set, recipe="demo")).startswith("demo-p50")
    assert run_name(setup_of(data_set, "runtime.seed=2", recipe="demo")).endswith("-seed2")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ru", {"run"}),
        ("run --recipe demo-", {"demo-best", "demo-fixmatch", "demo-supervised"}),
        ("run --set optimiser.mom", {"optimiser.momentum="}),
        ("run {data} --split p", {"p50-stratified-s0-f1"}),
        ("info runs/f", {"runs/first"}),
        ("report runs/first runs/f", {"runs/first"}),
        ("test --part un", {"unlabelled"}),
    ],
)
def test_the_shell_completes(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, expected: set[str]
) -> None:
    write_run(tmp_path / "runs" / "first")
    monkeypatch.chdir(tmp_path)
    given = ["tgtrain", *words.format(data=data_set).split()]
    values = {"_TGTRAIN_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(given), "COMP_CWORD": str(len(given) - 1)}
    done = CliRunner().invoke(main, [], env=values, prog_name="tgtrain", complete_var="_TGTRAIN_COMPLETE")
    assert {line.partition(",")[2] for line in done.output.splitlines()} == expected
