"""`tgtrain report` as a command: which run it takes, what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.train.report import report
from tgtrain.config import load_recipe

REPOSITORY = Path(__file__).resolve().parents[3]


def make_run(folder: Path, begun: float = 1_700_000_000.0) -> Path:
    folder.mkdir(parents=True)
    parts = {"labelled": 2, "unlabelled": 4, "validation": 0, "test": 2}
    facts = {
        "config": load_recipe("demo", num_classes=2).to_dict(),
        "data": {
            "root": "/nowhere",
            "dataset": "folder",
            "digest": "d" * 64,
            "num_videos": 6,
            "num_frames": 60,
            "classes": ["a", "b"],
            "pictures": {"64x48": 6},
        },
        "split": {"name": "half", "digest": "5" * 64, **parts, "provenance": {}},
        "versions": {},
        "machine": {},
        "world_size": 1,
        "num_steps": 10,
        "steps_per_epoch": 2,
        "started": "",
    }
    (folder / "config.json").write_text(json.dumps(facts))
    record = {"kind": "train", "step": 1, "epoch": 0, "loss/total": 1.5}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    os.utime(folder / "config.json", (begun, begun))
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_prints_the_path_of_the_page() -> None:
    make_run(Path("my-run"))
    result = CliRunner().invoke(report, ["my-run"], catch_exceptions=False)
    assert (result.exit_code, result.stdout) == (0, "my-run/report.html\n")
    assert Path("my-run/report.html").read_text().startswith("<!doctype html>")


def test_takes_the_newest_run_below_runs() -> None:
    make_run(Path("runs/old"), begun=1_700_000_000)
    make_run(Path("runs/group/new"), begun=1_700_000_900)
    make_run(Path("runs/older"), begun=1_600_000_000)
    make_run(Path("elsewhere"), begun=1_800_000_000)
    result = CliRunner().invoke(report, [], catch_exceptions=False)
    assert (result.exit_code, result.stdout) == (0, "runs/group/new/report.html\n")
    assert "run runs/group/new" in result.stderr


def test_without_any_run_it_says_how_to_make_one() -> None:
    result = CliRunner().invoke(report, [], catch_exceptions=False)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "tgtrain run" in result.stderr


def test_compares_several_runs_into_the_named_file() -> None:
    make_run(Path("one"))
    make_run(Path("two"))
    result = CliRunner().invoke(report, ["one", "two", "--output", "pages/both.html"], catch_exceptions=False)
    assert (result.exit_code, result.stdout) == (0, "pages/both.html\n")
    assert "2 runs compared" in Path("pages/both.html").read_text()
    assert not Path("one/report.html").exists()


def test_folder_that_is_no_run_is_an_input_error() -> None:
    Path("empty").mkdir()
    result = CliRunner().invoke(report, ["empty"], catch_exceptions=False)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: empty is not a run folder")
    assert result.stdout == ""


def test_help_loads_neither_torch_nor_matplotlib() -> None:
    code = "import sys, cli.train.report; print([name for name in ('torch', 'matplotlib', 'jinja2') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
