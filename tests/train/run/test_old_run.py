"""A data set and a run folder that an older version wrote: this version resumes, tests and reports them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tgtrain.run.checkpoint import list_checkpoints, load

FIXTURE = Path(__file__).parents[2] / "fixtures" / "old_run"
SETTINGS = (
    "data.clip_frames=2", "data.interval=2", "data.size=16", "data.test_size=16", "data.test_clips=2", "batch.labelled=2", "batch.unlabelled=2",
    "model.width=2", "model.dropout=0.5", "optimiser.epochs=4", "optimiser.warmup_epochs=1", "method.warmup_epochs=1",
    "method.threshold=0.2", "precise_bn.batches=2", "evaluate.every_epochs=2", "evaluate.keep=2", "runtime.log_every=1",
    "runtime.workers=0", "runtime.device=cpu",
)  # fmt: skip


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """A copy of the run folder, with its data set beside it."""
    shutil.copytree(FIXTURE, tmp_path / "old")
    config = tmp_path / "old" / "run" / "config.json"
    facts = json.loads(config.read_bytes())
    facts["data"]["root"] = str(tmp_path / "old" / "dataset")
    config.write_text(json.dumps(facts))
    return tmp_path / "old" / "run"


def tgtrain(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tgtrain", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_an_old_run_resumes_to_the_same_weights(old_run: Path) -> None:
    expected = json.loads((FIXTURE / "resumed.json").read_bytes())
    overrides = [word for setting in SETTINGS for word in ("--set", setting)]
    said = tgtrain("run", str(old_run.parent / "dataset"), "--recipe", "demo", "--out", str(old_run), *overrides)
    assert "resumed at step 4 of 8" in said
    last = load(list_checkpoints(old_run)[-1])
    assert last.step == expected["step"]
    assert last.measured is not None
    assert last.measured.metric == expected["measured"]["metric"]
    momenta = {f"momentum.{number}": state["momentum_buffer"] for number, state in last.optimiser["state"].items()}
    tensors = {**last.model, **momenta}
    assert tensors.keys() == expected["sums_and_norms"].keys()
    # Equal bit for bit on one kind of CPU; another kind rounds otherwise.
    for name, (total, norm) in expected["sums_and_norms"].items():
        if "running_" in name:
            continue  # measured over other pixels and batches today; training does not use them
        value = torch.as_tensor(tensors[name]).double()
        assert value.square().sum().sqrt().item() == pytest.approx(norm, rel=1e-3, abs=1e-6), name
        assert value.sum().item() == pytest.approx(total, abs=1e-3 * norm + 1e-6), name
    steps = [json.loads(line)["step"] for line in (old_run / "metrics.jsonl").read_text().splitlines()]
    assert (steps[0], steps[-1]) == (1, 8)
    assert steps == sorted(steps)


def test_an_old_run_is_tested_to_the_same_figures(old_run: Path) -> None:
    before = json.loads((old_run / "test-2x1.json").read_bytes())
    (old_run / "test-2x1.json").unlink()
    tgtrain("test", str(old_run), "--views", "2x1")
    now = json.loads((old_run / "test-2x1.json").read_bytes())
    assert {name: now[name] for name in before} == before  # what later versions add stands besides


def test_an_old_run_is_reported_and_summarised(old_run: Path) -> None:
    tgtrain("report", str(old_run))
    page = (old_run / "report.html").read_text(encoding="utf-8")
    assert "MoveDown" in page
    assert "MoveUp" in page
    assert "could not be read" not in page
    summary = json.loads(tgtrain("info", str(old_run), "--json").partition("\n}\n")[0] + "\n}")
    assert (summary["state"], summary["step"], summary["num_steps"]) == ("stopped", 4, 8)
    assert summary["best_checkpoint"] == "step-00000004.pt"
    assert summary["tests"]["test-2x1"]["top1@2x1"] == 0.5
