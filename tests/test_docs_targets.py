"""docs/targets.md: the commands of the page run, in their order, on a small data set; rounds of self-training are real runs."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.prep import main as prep
from cli.train import main as train
from manifests.manifest_io import read_manifest
from manifests.splits.label_split import read_split
from manifests.targets.target_file import list_targets, read_targets
from tests.train.support import TINY, write_data_set

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "targets.md").read_text("utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SHORT = [word for setting in (*TINY, "optimiser.epochs=2", "runtime.workers=0") for word in ("--set", setting)]
ONE_VIEW = ["--views", "1x1"]


def call(line: str, *more: str) -> str:
    program, *words = shlex.split(line)
    done = CliRunner().invoke({"tgprep": prep, "tgtrain": train}[program], [*words, *more], catch_exceptions=False)
    assert done.exit_code == 0, f"{line}\n{done.output}"
    return done.output


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_data_set(tmp_path / "dataset")
    call("tgtrain run --recipe demo --out runs/first", *SHORT)
    keys = read_split("dataset").keys_of("unlabelled")
    Path("scores.csv").write_text("key,class0,class1,class2\n" + "".join(f"{key},0.5,0.25,0.25\n" for key in keys))
    done = []
    for block in BLOCKS:
        for line in block.splitlines():
            if "logits.parquet" in line:
                line = line.replace("logits.parquet", "scores.csv").replace("0.01", "0.5")
            more = {"tgtrain run": ["--recipe", "demo", *SHORT], "tgtrain test": ONE_VIEW}.get(
                " ".join(line.split()[:2]), []
            )
            done.append((line, call(line, *more)))
    assert len(done) == 15
    said = dict(done)
    assert "soft targets first: for 12 of 12 unlabelled videos" in said[done[2][0]]
    assert set(list_targets("dataset")) == {"first", "mean", "mine", "vlm"}
    # The run of the third command learnt from the targets, and knows them.
    config = json.loads(Path("runs/second/config.json").read_bytes())
    assert config["targets"]["name"] == "first"
    lines = [json.loads(line) for line in Path("runs/second/metrics.jsonl").read_text().splitlines()]
    assert all(line["loss/soft_rgb"] > 0 for line in lines if line["kind"] == "train")
    # The second round knows of the first.
    mean = read_targets("dataset", "mean", read_manifest("dataset").header.classes)
    facts = json.loads(mean.provenance["file_2_run"])
    assert (facts["run"], facts["targets"]) == ("runs/second", "first")
    assert facts["targets_digest"] == config["targets"]["digest"]
    # What was asked for got its labels.
    with Path("ask.csv").open() as file:
        asked = {row["key"] for row in csv.DictReader(file)}
    parent, grown = (
        read_split("dataset", json.loads(Path("runs/first/config.json").read_bytes())["split"]["name"]),
        read_split("dataset", "grown"),
    )
    assert set(grown.keys_of("labelled")) == {*parent.keys_of("labelled"), *asked}
    assert len(asked) == 3
    assert asked <= set(re.findall(r'"key":"([^"]+)"', Path("ask.html").read_text("utf-8")))


def test_the_script_for_a_model_stops_without_one(tmp_path: Path) -> None:
    """It is named on the page; without the model it loads nothing, and writes nothing."""
    command = re.search(r"^python (benchmarks/\S+)", PAGE, re.MULTILINE)
    assert command
    write_data_set(tmp_path / "dataset", groups=3)
    (tmp_path / "model").mkdir()
    for content, message in ((None, "holds no model"), ("{}", "transformers|cannot be loaded")):
        if content is not None:
            (tmp_path / "model" / "config.json").write_text(content)
        done = subprocess.run(
            [sys.executable, ROOT / command[1], tmp_path / "dataset", tmp_path / "model", "--output", tmp_path / "o.parquet"],
            capture_output=True, text=True, check=False, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert done.returncode == 1
        assert re.match(f"Error: .*({message})", done.stderr), done.stderr
        assert not (tmp_path / "o.parquet").exists()
