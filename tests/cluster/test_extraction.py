"""docs/cluster_extract.md on a real Slurm: an array job, killed tasks, a node that is lost, Dask workers of dask-jobqueue."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.slurm import NODES, Slurm, block_of, replaced
from tests.conftest import Reliability
from tests.extraction import tree

pytestmark = pytest.mark.long
PAGE = "cluster_extract.md"
SECTION = "Slurm of two nodes"


@pytest.fixture
def place(sample: Path, tmp_path: Path) -> Path:
    """The folder where jobs are submitted, with the videos and their lists."""
    for name in ("videos", "annotations"):
        (tmp_path / name).symlink_to(sample / name)
    return tmp_path


@pytest.fixture(scope="module")
def alone(sample: Path) -> dict[str, str]:
    """The files of one run without Slurm, without those of splits."""
    return shards(sample / "dataset")


def shards(out: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree(out).items() if not name.startswith("splits/")}


def array(cluster: Slurm, place: Path, *options: str) -> str:
    """Submit the array job of the page as it stands."""
    return cluster.submit(block_of(PAGE, "#SBATCH"), place, *options)


def begun(cluster: Slurm, place: Path, job: str, task: int) -> None:
    """Wait until a task of the array works."""
    cluster.read_until(place / f"slurm-{job}_{task}.out", "videos to extract")


def test_array_job_gives_the_same_bytes(
    cluster: Slurm, place: Path, alone: dict[str, str], reliability: Reliability
) -> None:
    job = array(cluster, place)
    assert len(cluster.wait(job, "COMPLETED")) == 16
    assert shards(place / "dataset") == alone
    reliability.record(
        SECTION, "extraction by an array job of 16 tasks, against one run", num_tasks=16, differing_files=0
    )


def test_killed_task_is_submitted_again_by_itself(
    cluster: Slurm, place: Path, alone: dict[str, str], reliability: Reliability
) -> None:
    job = array(cluster, place)
    begun(cluster, place, job, 1)
    cluster.call("scancel", "--signal=KILL", f"{job}_1")
    tasks = {facts["ArrayTaskId"]: facts["JobState"] for facts in cluster.wait(job, "COMPLETED", "FAILED", "CANCELLED")}
    assert tasks.pop("1") != "COMPLETED"
    assert set(tasks.values()) == {"COMPLETED"}
    done = subprocess.run(
        [sys.executable, "-m", "tgprep", "finalize", "dataset"], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "shards are missing" in done.stderr
    again = array(cluster, place, "--array=1")
    cluster.wait(again, "COMPLETED")
    assert shards(place / "dataset") == alone
    reliability.record(
        SECTION, "`scancel -s KILL` of a task of an array job, submitted again", num_kills=1, differing_files=0
    )


def test_tasks_of_a_lost_node_run_on_another(
    cluster: Slurm, place: Path, alone: dict[str, str], reliability: Reliability
) -> None:
    job = array(cluster, place)
    begun(cluster, place, job, 1)
    (facts,) = cluster.facts(f"{job}_1")
    lost = facts["NodeList"]
    cluster.call("scontrol", "update", f"NodeName={lost}", "State=DOWN", "Reason=test")
    tasks = cluster.wait(job, "COMPLETED")
    again = [facts for facts in tasks if facts["Restarts"] == "1"]
    assert again
    assert {facts["NodeList"] for facts in again} == set(NODES) - {lost}
    assert shards(place / "dataset") == alone
    reliability.record(SECTION, "a node set down during an array job", num_nodes_lost=1, differing_files=0)


def test_dask_workers_that_slurm_starts_and_ends(
    cluster: Slurm, place: Path, alone: dict[str, str], reliability: Reliability
) -> None:
    pytest.importorskip("dask_jobqueue", reason="the extra `dask` is not installed")
    workers = block_of(PAGE, "SLURMCluster(")
    (place / "workers.py").write_text(replaced(workers, ('interface="ib0"', 'interface="lo"')))
    (place / "run.sh").write_text(f"trap 'kill $(jobs -p)' EXIT\n{block_of(PAGE, 'python workers.py')}")
    with (place / "log").open("w") as log:
        run = subprocess.Popen(
            ["bash", "run.sh"], cwd=place, env=cluster.environment, stdout=log, stderr=log, start_new_session=True
        )
    cluster.until(lambda: running(cluster), (place / "log").read_text)
    job = running(cluster)[0]
    cluster.read_until(place / f"slurm-{job}.out", "Registered to:")  # and its threads take shards
    cluster.call("scancel", "--signal=KILL", job)
    assert run.wait(timeout=300) == 0, (place / "log").read_text()
    assert shards(place / "dataset") == alone
    reliability.record(SECTION, "Dask workers of dask-jobqueue, one job killed", num_kills=1, differing_files=0)


def running(cluster: Slurm) -> list[str]:
    return cluster.call("squeue", "--noheader", "--states=RUNNING", "--format=%i").split()
