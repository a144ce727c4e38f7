"""Damaged samples in a run: counted over all ranks, each logged once, judged at the same step by all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from cli.train import main as tgtrain
from manifests.manifest_io import read_manifest
from manifests.splits.label_split import read_split
from tests.train.support import ALONE, SMALL, records, setup_of
from tgtrain.data import loader
from tgtrain.data.build import step_dataset
from tgtrain.data.setup import Setup
from tgtrain.errors import RunError
from tgtrain.ranks.distributed import Ranks
from tgtrain.train.health import LEAST_CLIPS, Damage
from tgtrain.train.trainer import train


class TwoRanks(Ranks):
    """Rank 0 of two; the other one has read a hundred clips and found what the test says."""

    def gather(self, value: Any) -> list[Any]:
        return [value, (100, ["of the other"])]


def test_counts_are_summed_over_ranks_and_logged_once() -> None:
    damage = Damage(limit=0.0)
    said: list[str] = []
    damage.add(50, [])
    with pytest.raises(RunError, match=r"1 of 150 clips read were damaged.*allows 0 "):
        damage.join(TwoRanks(0, 2, torch.device("cpu")), said.append)
    assert said == ["damaged sample replaced: of the other"]


@pytest.mark.parametrize(
    ("num_read", "allowed"),  # at 1 %: that of 1,000 clips from the start, then of what was read
    [(1, 10), (200, 10), (LEAST_CLIPS, 10), (5_000, 50)],
)
def test_damaged_share_is_of_at_least_1000_clips(num_read: int, allowed: int) -> None:
    damage = Damage(limit=0.01)
    damage.add(num_read, [f"video {number}" for number in range(allowed)])
    damage.join(ALONE, lambda text: None)
    damage.add(0, ["one more"])
    with pytest.raises(RunError):
        damage.join(ALONE, lambda text: None)
    assert (damage.num_read, damage.num_bad) == (num_read, allowed + 1)


def test_zero_damage_limit() -> None:
    damage = Damage(limit=0.0)
    damage.add(10_000, [])
    damage.join(ALONE, lambda text: None)
    damage.add(1, ["a video"])
    with pytest.raises(RunError):
        damage.join(ALONE, lambda text: None)


def test_repeated_damage_counts_again_and_is_logged_once() -> None:
    damage = Damage(limit=1.0)
    said: list[str] = []
    for _ in range(3):
        damage.add(10, ["a video"])
        damage.join(ALONE, said.append)
    assert (damage.num_read, damage.num_bad, len(said)) == (30, 3, 1)


def ruin(root: Path, keys: set[str]) -> None:
    """Overwrite the frames of these videos with zeros."""
    for row in read_manifest(root).videos:
        if row.key in keys:
            with (root / row.shard).open("r+b") as shard:
                shard.seek(row.members.rgb_offset)
                shard.write(b"\0" * row.members.rgb_bytes)


def keys_read(setup: Setup, rank: int, world_size: int, num_steps: int) -> set[str]:
    dataset = step_dataset(setup, replace(ALONE, rank=rank, world_size=world_size))
    batches = [dataset[step] for step in range(num_steps)]
    return {key for batch in batches for part in (batch.labelled, batch.unlabelled) if part for key in part.keys}


def test_damage_on_one_rank_stops_both(make_data_set: Callable[..., Path], tmp_path: Path) -> None:
    """Process 1 alone meets it: process 0 names it, and both end at the same step with code 1, none waiting for the other."""
    root = make_data_set(groups=12)
    setup = setup_of(root)
    victim = min(keys_read(setup, 1, 2, 2) - keys_read(setup, 0, 2, 2))
    ruin(root, {victim})
    words = [
        "run", str(root), "--recipe", "demo", "--out", str(tmp_path / "run"),
        *(word for text in (*SMALL, "runtime.max_bad_fraction=0.0") for word in ("--set", text)),
    ]  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "tgtrain",
    ]
    done = subprocess.run(
        [*command, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count(f"damaged sample replaced: {victim} in ") == 1, done.stderr
    assert done.stderr.count("Error: 1 of 16 clips read were damaged") == 2, (
        done.stderr
    )  # of each process, after two steps
    assert "exitcode  : 1 " in done.stderr
    assert "Connection closed" not in done.stderr


def test_damage_in_a_test_of_two_ranks_keeps_the_result(make_data_set: Callable[..., Path], tmp_path: Path) -> None:
    """The first process alone ends with the code of a failure, once all is written: another one would have it killed before."""
    root = make_data_set()
    train(setup_of(root), tmp_path / "run", ALONE, max_steps=1, log=lambda text: None)
    victim = min(key for key, flag in zip(read_split(root).key, read_split(root).test, strict=True) if flag)
    ruin(root, {victim})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tgtrain", "test", str(tmp_path / "run"), "--views", "1x1", "--json"],
            env={
                **os.environ, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            },
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    (out, said), (_, other) = (process.communicate(timeout=300) for process in processes)
    assert [process.returncode for process in processes] == [1, 0], said + other
    assert f"not counted, damaged: {victim} in " in said
    assert sum(map(sum, json.loads(out)["confusion"])) == 5
    assert (tmp_path / "run" / "test-1x1.json").exists()


def test_damage_during_evaluation_is_logged(make_data_set: Callable[..., Path], tmp_path: Path) -> None:
    root = make_data_set(groups=12)
    split = read_split(root)
    tested = {key for key, flag in zip(split.key, split.test, strict=True) if flag}
    trained = {key for key, flag in zip(split.key, split.train, strict=True) if flag}
    ruin(root, {min(tested), max(tested), min(trained)})
    said: list[str] = []
    settings = (
        "runtime.max_bad_fraction=1.0",
        "optimiser.epochs=1",
        "optimiser.warmup_epochs=0",
        "precise_bn.batches=8",
    )
    train(setup_of(root, *settings), tmp_path / "run", ALONE, log=said.append)
    (evaluated,) = [line for line in said if "evaluation" in line]
    assert evaluated.startswith("the evaluation of 6 test videos left out 2 damaged videos, the first: ")
    assert min(tested) in evaluated
    (measured,) = [line for line in said if "precise BatchNorm" in line]
    assert measured.startswith(f"precise BatchNorm left out 1 damaged video, the first: {min(trained)} in ")
    (record,) = records(tmp_path / "run", "evaluate")
    assert record["num_bad"] == 2


def test_damage_during_batch_norm_of_a_test_is_logged(
    make_data_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_data_set()
    train(
        setup_of(root, "runtime.workers=2", "precise_bn.batches=3"),
        tmp_path / "run",
        ALONE,
        max_steps=1,
        log=lambda text: None,
    )
    victim = min(key for key, flag in zip(read_split(root).key, read_split(root).train, strict=True) if flag)
    ruin(root, {victim})
    workers: list[int] = []

    def without(dataset: Any, order: Any, number: int, pin: bool, *, num_in_use: int) -> Any:
        workers.append(number)
        return loader.item_loader(dataset, order, 0, pin)

    for module in ("batch_norm", "evaluate"):
        monkeypatch.setattr(f"tgtrain.evaluate.{module}.item_loader", without)
    words = ["test", str(tmp_path / "run"), "--views", "1x1", "--precise-bn"]
    done = CliRunner().invoke(tgtrain, words)
    assert done.exit_code == 0, done.output  # no video of the test is damaged
    assert f"precise BatchNorm left out 1 damaged video, the first: {victim} in " in done.output
    assert workers == [2, 2]  # for the statistics, and for the test
