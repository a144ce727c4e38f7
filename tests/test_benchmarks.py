"""The scripts of benchmarks/ that users run: the proof on a GPU (its dry run on a CPU), and the comparison of the methods."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def script(*words: str | Path, expected: int = 0) -> str:
    """Run a script in the repository and return what it printed."""
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == expected, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_gpu_proof_runs_dry_on_a_cpu_and_goes_on(tmp_path: Path) -> None:
    proof = ("bash", "benchmarks/gpu_proof.sh", "--device", "cpu", "--tiny", "--out", tmp_path)
    assert "no time left" in script(*proof, "--minutes", "0", expected=1)
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


def test_gpu_proof_refuses_unknown_arguments(tmp_path: Path) -> None:
    assert "unknown argument --fast" in script("bash", "benchmarks/gpu_proof.sh", "--fast", expected=2)
