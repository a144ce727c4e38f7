"""The sequence of videos and clips over steps: the same for any ranks and workers, through a kill and a resume with others."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests.manifest_io import read_manifest
from manifests.splits.label_split import read_split
from tests.reliability import Reliability
from tests.train.data.sequence_worker import SETTINGS, shown
from tgtrain.config import load_recipe
from tgtrain.data.build import step_dataset
from tgtrain.data.setup import prepare
from tgtrain.ranks.distributed import Ranks

STEPS = 9  # more than two passes over the labelled videos, and several over the unlabelled ones
ROOT = Path(__file__).parents[3]


def start(
    data: Path, out: Path, first: int, world_size: int, workers: int, killed_at: int, settings: tuple[str, ...]
) -> tuple[list[int], str]:
    """Run the ranks to their end: exit codes, and what they said last."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [str(data), str(out), str(first), str(STEPS), str(workers), str(killed_at), *settings]
    processes = []
    for rank in range(world_size):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
        environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}}
        command = [sys.executable, "-m", "tests.train.data.sequence_worker", *arguments]
        with out.with_name(f"rank-{rank}.log").open("w") as log:
            processes.append(subprocess.Popen(command, env=environment, cwd=ROOT, stderr=log, start_new_session=True))
    try:
        codes = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not left_over({process.pid for process in processes}), "loader processes outlived their rank"
    return codes, "\n".join(out.with_name(f"rank-{rank}.log").read_text()[-2000:] for rank in range(world_size))


def left_over(sessions: set[int]) -> list[str]:
    """Processes of these sessions that are still there after a while."""
    found: list[str] = []
    for _ in range(200):
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                facts = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(facts[3]) in sessions and facts[0] != "Z":
                    found.append((entry / "cmdline").read_text())
            except OSError:
                continue
        if not found:
            break
        time.sleep(0.1)
    return found


def expected(data: Path, settings: tuple[str, ...]) -> list[Any]:
    """What one process without loader workers is given."""
    import torch

    config = load_recipe("demo", (*SETTINGS, *settings), num_classes=3)
    setup = prepare(str(data), read_split(data), read_manifest(data), config)
    dataset = step_dataset(setup, Ranks(0, 1, torch.device("cpu")))
    return [[step, *shown(dataset[step])] for step in range(STEPS)]


def check(data: Path, folder: Path, plan: list[tuple[int, int]], seed: int, settings: tuple[str, ...] = ()) -> int:
    """plan: (world size, workers) of each life of the run; every life but the last is killed at a random step.

    Gives the number of clips that were compared with those of one process.
    """
    out = folder / "sequence.jsonl"
    random = np.random.default_rng(seed)
    done = 0
    for number, (world_size, workers) in enumerate(plan):
        last = number == len(plan) - 1
        killed_at = STEPS if last else int(random.integers(done + 1, STEPS - len(plan) + number + 2))
        codes, said = start(data, out, done, world_size, workers, killed_at, settings)
        assert (codes == [0] * world_size) if last else (codes[-1] == -9 and 0 not in codes), (codes, said)
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        # A batch that all ranks were given was written, unless the kill came between the two.
        assert len(lines) in ((STEPS,) if last else (killed_at, killed_at - 1))
        done = len(lines)
    assert lines == expected(data, settings)
    for stream, size in ((1, 4), (2, 8)):
        assert all(len(line[stream]) == size for line in lines)
    keys = [key for line in lines for key, _ in line[2]]
    videos = len(set(keys))
    for begin in range(0, len(keys) - videos + 1, videos):
        assert len(set(keys[begin : begin + videos])) == videos, "every video once a pass, through kill and resume"
    return sum(len(line[1]) + len(line[2]) for line in lines)


def test_killed_rank_and_resume_with_other_ranks(data_set: Path, tmp_path: Path) -> None:
    check(data_set, tmp_path, [(2, 1), (1, 2)], seed=0)


@pytest.mark.long
def test_blocks_with_killed_rank_and_resume(make_data_set: Callable[..., Path], tmp_path: Path) -> None:
    """The order is another than that of a local data set, and as independent of who reads it."""
    data, blocks = make_data_set(num_shards=6), ("data.block_shards=2",)
    assert [line[2] for line in expected(data, blocks)] != [line[2] for line in expected(data, ())]
    check(data, tmp_path, [(4, 1), (2, 0)], 4, blocks)


@pytest.mark.long
@pytest.mark.parametrize(
    "plan", [[(1, 0), (2, 1), (4, 1)], [(4, 0), (1, 2), (2, 2)], [(4, 2), (4, 1)], [(2, 0), (4, 1), (1, 1)]]
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_kills_and_world_sizes(
    data_set: Path, tmp_path: Path, plan: list[tuple[int, int]], seed: int, reliability: Reliability
) -> None:
    num_clips = check(data_set, tmp_path, plan, seed)
    reliability.record(
        "Streaming",
        "a rank killed with -9 at a random step, then other numbers of ranks (1, 2, 4) and loader workers (0, 1, 2)",
        num_kills=len(plan) - 1,
        num_resumes=len(plan) - 1,
        num_clips=num_clips,
        differing_clips=0,
    )
