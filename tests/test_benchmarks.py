"""The scripts of benchmarks/ that users run: the proof on a GPU (its dry run on a CPU), and the comparison of the methods."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.train.support import write_data_set

ROOT = Path(__file__).parents[1]


def script(*words: str | Path, expected: int = 0) -> str:
    """Run a script in the repository and return what it printed."""
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == expected, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.long
def test_gpu_proof_runs_dry_on_a_cpu_and_goes_on(tmp_path: Path) -> None:
    proof = ("bash", "benchmarks/gpu_proof.sh", "--device", "cpu", "--tiny", "--out", tmp_path)
    script(*proof)
    results: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
    assert set(results["steps"]) >= {"trainer", "trainer, accumulate 2", "trainer, activation checkpointing"}
    assert all(row["peak_gib"] > 0 for row in results["steps"].values())
    whole, halved = (results["steps"][name]["estimated_gib"] for name in ("trainer", "trainer, accumulate 2"))
    assert halved == pytest.approx(whole / 2, abs=0.1)
    learnt = results["learning"]
    assert {name: set(networks) for name, networks in learnt.items()} == {
        "ucf101-10": {"rgb", "tg", "both"},
        "ucf101-10-fixmatch": {"rgb"},
        "ucf101-10-supervised": {"rgb"},
    }
    assert script(*proof).count("done before") == 6


def test_gpu_proof_without_time_names_every_part(tmp_path: Path) -> None:
    proof = ("bash", "benchmarks/gpu_proof.sh", "--device", "cpu", "--tiny", "--out", tmp_path, "--minutes", "0")
    printed = script(*proof, expected=1)
    assert "not done: tests steps sample learn learn-fixmatch learn-supervised" in printed
    assert json.loads((tmp_path / "results.json").read_text()) == {"steps": {}, "learning": {}}


def test_gpu_proof_refuses_unknown_arguments(tmp_path: Path) -> None:
    assert "unknown argument --fast" in script("bash", "benchmarks/gpu_proof.sh", "--fast", expected=2)


def test_results_page_is_that_of_the_results(tmp_path: Path) -> None:
    docs = ROOT / "docs"
    script(sys.executable, "benchmarks/learning_page.py", "--docs", tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in docs.glob("results*"))
    assert (tmp_path / "results.md").read_bytes() == (docs / "results.md").read_bytes()


def test_demo_result_shows_interval_chance_and_comparison(tmp_path: Path) -> None:
    for network, right in (("rgb", 60), ("tg", 70), ("both", 80)):
        test = {"modality": network, "part": "test", "protocol": "3x1", "num_videos": 108, "top1@3x1": right / 108}
        (tmp_path / f"test-3x1-{network}.json").write_text(json.dumps({**test, "per_class": [{}] * 6}))
    printed = script(sys.executable, "benchmarks/demo_result.py", tmp_path)
    assert "RGB 56 % (95 % interval 46 to 65)" in printed
    assert "chance is 17 %" in printed
    assert re.search(
        r"full [\d.]+ ± [\d.]+ % \(\d seeds\); fixmatch .* seeds\); supervised .* seeds\): RGB at \d+ % labels", printed
    )
    assert "docs/results.md" in printed


def test_open_dataset_is_compared_with_the_loader_of_the_trainer(tmp_path: Path) -> None:
    write_data_set(tmp_path / "set", groups=20)
    short = ("--repeats", "1", "--batches", "1", "--workers", "0", "--output", tmp_path / "library.json")
    script(sys.executable, "-m", "benchmarks.library", tmp_path / "set", *short)
    row = json.loads((tmp_path / "library.json").read_text())["ways"]["0 workers"]
    assert set(row) == {"clips_per_second", "clips_per_core_second"}
    assert all(figures["open_dataset / trainer"] > 0.2 and figures["trainer"] > 0 for figures in row.values())


@pytest.mark.long
def test_a_cell_of_the_comparison_is_trained_once(tmp_path: Path) -> None:
    choice = ("--data", "sample", "--method", "supervised", "--labels", "10", "--minutes", "0.1")
    learning = (sys.executable, "benchmarks/learning.py", "--work", tmp_path / "work", *choice)
    script(*learning, "--output", tmp_path / "learning.json")
    results: dict[str, Any] = json.loads((tmp_path / "learning.json").read_text())
    (cell,) = results["cells"]
    test = results["tests"]["sample/1"]
    assert (cell["method"], cell["labels"], cell["seed"], len(test["keys"])) == ("supervised", 10, 1, 216)
    right = sum(map(int.__eq__, cell["predicted"]["rgb"], test["labels"]))
    assert cell["top1"]["rgb"] == pytest.approx(100 * right / 216, abs=0.01)
    labelled = pq.read_table(tmp_path / "work/sample/fold-1/splits/p10-stratified-s1-f1.parquet").to_pylist()
    assert not {row["key"] for row in labelled if row["labelled"]} & set(test["keys"])
    assert script(*learning, "--output", tmp_path / "learning.json").count("supervised_p10-s1") == 0
