"""docs/cluster.md on a real Slurm: training and tests of two nodes, requeued, killed, on a lost node, out of time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cli.train import main
from tests.cluster.slurm import NODES, Slurm, block_of, replaced
from tests.conftest import Reliability
from tests.train.support import TINY, equal, run, weights, write_data_set
from tgtrain.run.checkpoint import every_checkpoint, load

PAGE = "cluster.md"
SETS = " ".join(
    f"--set {text}" for text in (*TINY, "optimiser.epochs=6", "evaluate.every_epochs=2", "runtime.workers=0")
)
ENDLESS = ("optimiser.epochs=6", "optimiser.epochs=100000")
# One process a node: this machine has few cores, and no GPU.
SMALL_JOB = ("--ntasks-per-node=1", "--gres=none", "--cpus-per-task=2")
SECTION = "Slurm of two nodes"


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("slurm") / "dataset"
    write_data_set(root)
    return root


@pytest.fixture
def place(data_set: Path, tmp_path: Path) -> Path:
    """The folder where a job is submitted, with the data set at `dataset`."""
    (tmp_path / "dataset").symlink_to(data_set)
    return tmp_path


@pytest.fixture(scope="module")
def whole(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of the same training without a pause, by two processes of this machine."""
    out = tmp_path_factory.mktemp("whole") / "run"
    words = ["tgtrain", "run", str(data_set), "--recipe", "demo", *SETS.split(), "--out", str(out), "--devices", "2"]
    subprocess.run(words, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return weights(out)


def script(*more: tuple[str, str]) -> str:
    """The job of the page with a small network in place of the published recipe."""
    text = block_of(PAGE, "#SBATCH", "tgtrain run dataset")
    return replaced(text, ("--recipe ucf101-20", f"--recipe demo {SETS}"), *more)


def log_of(place: Path, job: str) -> Path:
    return place / f"slurm-{job}.out"


def pid_of_task(cluster: Slurm, job: str, task: int) -> int:
    """The process of a task of the job's step, of which each node has one."""
    for line in cluster.call("scontrol", "listpids", f"{job}.0", NODES[task]).splitlines()[1:]:
        pid, *_, number = line.split()
        if number == str(task):
            return int(pid)
    raise AssertionError(f"no task {task} of {job}")


def test_the_tasks_of_srun_share_a_test(cluster: Slurm, data_set: Path, tmp_path: Path) -> None:
    """The nodes have names that do not resolve: their address is asked of Slurm."""
    run(data_set, tmp_path / "run", "optimiser.epochs=1", "evaluate.every_epochs=1", "precise_bn.batches=0")
    words = ("test", str(tmp_path / "run"), "--views", "1x1", "--json")
    shared = cluster.call("srun", "--nodes=2", "tgtrain", *words)
    alone = CliRunner().invoke(main, words, catch_exceptions=False).stdout
    assert json.loads(shared)["confusion"] == json.loads(alone)["confusion"]


@pytest.mark.long
def test_the_job_saves_at_the_signal_requeues_itself_and_finishes(
    cluster: Slurm, place: Path, whole: dict[str, torch.Tensor], reliability: Reliability
) -> None:
    job = cluster.submit(script(), place, *SMALL_JOB)
    cluster.read_until(log_of(place, job), "step 3/")
    cluster.call("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1 sends: to the batch shell alone
    cluster.until(lambda: cluster.facts(job)[0]["Restarts"] == "1", lambda: log_of(place, job).read_text())
    (facts,) = cluster.wait(job, "COMPLETED")
    assert (facts["Restarts"], facts["ExitCode"]) == ("1", "0:0")
    said = log_of(place, job).read_text()
    assert said.count("Saved at step") == said.count("resumed at step") == 1, said
    assert equal(weights(place / "runs" / "main"), whole)
    reliability.record(
        SECTION, "training by `srun`, saved at SIGUSR1, requeued, finished", num_requeues=1, differing_files=0
    )


@pytest.mark.long
def test_killed_tasks_end_the_job_and_the_same_script_resumes(
    cluster: Slurm, place: Path, whole: dict[str, torch.Tensor], reliability: Reliability
) -> None:
    one = cluster.submit(script(), place, *SMALL_JOB)
    cluster.read_until(log_of(place, one), "step 7/")
    os.kill(pid_of_task(cluster, one, 1), signal.SIGKILL)  # as the kernel does when memory is short
    cluster.wait(one, "FAILED")
    assert "This is typically caused" not in log_of(place, one).read_text()  # gloo's advice on what it cannot know

    every = cluster.submit(script(), place, *SMALL_JOB)
    assert "resumed at step 6 of 18" in cluster.read_until(log_of(place, every), "step 13/")
    cluster.call("scancel", "--signal=KILL", f"{every}.0")
    cluster.wait(every, "FAILED")

    last = cluster.submit(script(), place, *SMALL_JOB)
    cluster.wait(last, "COMPLETED")
    assert "resumed at step 12 of 18" in log_of(place, last).read_text()
    assert equal(weights(place / "runs" / "main"), whole)
    reliability.record(
        SECTION, "training: one task killed, then all by `scancel -s KILL`", num_kills=2, differing_files=0
    )


@pytest.mark.long
def test_lost_node_requeues_the_job(
    cluster: Slurm, place: Path, whole: dict[str, torch.Tensor], reliability: Reliability
) -> None:
    job = cluster.submit(script(), place, *SMALL_JOB)
    cluster.read_until(log_of(place, job), "step 7/")
    cluster.call("scontrol", "update", f"NodeName={NODES[1]}", "State=DOWN", "Reason=test")
    (facts,) = cluster.wait(job, "PENDING")
    assert facts["Restarts"] == "1"
    cluster.call("scontrol", "update", f"NodeName={NODES[1]}", "State=RESUME")
    cluster.wait(job, "COMPLETED")
    resumed = re.search(r"resumed at step (\d+) of 18", log_of(place, job).read_text())
    assert resumed is not None
    assert (
        int(resumed[1]) >= 6
    )  # the checkpoint of the last evaluation, or a newer one: what is left of the job gets SIGTERM
    assert equal(weights(place / "runs" / "main"), whole)
    reliability.record(
        SECTION, "a node set down during training, requeued by Slurm", num_nodes_lost=1, differing_files=0
    )


@pytest.mark.long
def test_time_limit_saves_with_and_without_the_signal(cluster: Slurm, place: Path, reliability: Reliability) -> None:
    """Slurm's own signals: USR1 before the limit (up to a minute earlier than asked for), or only the SIGTERM of the limit."""
    endless = script(ENDLESS, ("USR1@300", "USR1@30"))
    job = cluster.submit(endless, place, *SMALL_JOB, "--time=3")
    cluster.until(lambda: cluster.facts(job)[0]["Restarts"] == "1", lambda: log_of(place, job).read_text())
    said = cluster.read_until(log_of(place, job), "resumed at step")
    cluster.call("scancel", job)
    assert said.count("Saved at step") == 1

    late = cluster.submit(endless, place, *SMALL_JOB, "--time=2", "--signal=B:URG@5")  # which nothing heeds
    cluster.wait(late, "TIMEOUT")
    said = log_of(place, late).read_text()
    assert "resumed at step" in said
    # The tasks save while srun is ending, so nobody prints it.
    last_step = int(re.findall(r"^step (\d+)/", said, re.MULTILINE)[-1])
    cluster.until(lambda: load(every_checkpoint(place / "runs" / "main")[-1]).step >= last_step, lambda: said)
    reliability.record(SECTION, "training at its time limit: saved, resumed", num_limits=2, lost_runs=0)


@pytest.mark.long
def test_array_of_runs_trains_a_cell_in_each_task(cluster: Slurm, sample: Path, tmp_path: Path) -> None:
    """Two of the nine cells; one is asked to stop, and requeues itself alone."""
    (tmp_path / "dataset").symlink_to(sample / "dataset")
    text = block_of(PAGE, "#SBATCH", "tgtrain sweep dataset")
    text = replaced(text, ("--recipe ucf101-20", f"--recipe demo {SETS}"))
    job = cluster.submit(text, tmp_path, "--array=0,5", "--gres=none", "--cpus-per-task=1")
    log = tmp_path / f"slurm-{job}_5.out"
    cluster.read_until(log, "step 2/")
    cluster.call("scancel", "--batch", "--signal=USR1", f"{job}_5")
    cluster.until(lambda: cluster.facts(f"{job}_5")[0]["Restarts"] == "1", log.read_text)
    tasks = cluster.wait(job, "COMPLETED")
    assert {facts["ArrayTaskId"]: facts["Restarts"] for facts in tasks} == {"0": "0", "5": "1"}
    assert len(list(tmp_path.rglob("metrics.jsonl"))) == 2
