"""`tgtrain sweep`: real runs of a grid that are killed, stopped, shared by two sweeps, and that fail."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.train import main
from cli.train.sweep_children import environments
from manifests.locks import lock_file
from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import make_split, write_split
from manifests.splits.settings import SplitSettings
from tests.conftest import Reliability
from tests.train.support import equal, read_until, weights, write_data_set

TINY = (
    "data.clip_frames=2", "data.interval=1", "data.size=32", "batch.labelled=2", "batch.unlabelled=2", "model.width=2",
    "optimiser.epochs=4", "optimiser.warmup_epochs=0", "method.warmup_epochs=0", "precise_bn.batches=0", "runtime.workers=0",
    "evaluate.every_epochs=2", "runtime.log_every=1",
)  # fmt: skip
SETS = [word for text in TINY for word in ("--set", text)]
SPLIT, OTHER = "p50-stratified-s0-f1", "p50-stratified-s1-f1"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with two splits, one without test videos besides; do not change it."""
    root = tmp_path_factory.mktemp("sweep") / "set"
    write_data_set(root)
    manifest = read_manifest(root)
    write_split(root, make_split(manifest, SplitSettings(percent=50, strategy="stratified", seed=1)))
    return root


def words(data: Path, folder: Path, *more: str) -> list[str]:
    return ["sweep", str(data), "--recipe", "demo", "--out", str(folder), *SETS, *more]


def call(*arguments: object, expected: int = 0) -> Result:
    done = CliRunner().invoke(main, [str(word) for word in arguments], catch_exceptions=False)
    assert done.exit_code == expected, done.output
    return done


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tgtrain", *arguments],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], expected: int = 0) -> tuple[str, str]:
    out, said = process.communicate(timeout=900)
    assert process.returncode == expected, said
    assert "Traceback" not in said
    return out, said


@pytest.mark.long
def test_failed_stopped_and_killed_sweep_is_finished_by_two_at_once(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    longer = ["--set", "optimiser.epochs=12", "--set", "evaluate.every_epochs=6"]
    grid = words(data, folder, "--split", SPLIT, "--seeds", "1,2", "--test", "1x1", *longer)
    first, second = (f"demo_{SPLIT}_s{seed}" for seed in (1, 2))

    # A cell fails, because another process holds its run, and the other goes on, until a signal comes.
    with lock_file(folder / first / ".lock", str(folder / first)):
        stopped = start([*grid, "--jobs", "2"])
        said = read_until(stopped, f"{second}: step 3/")
        said += "" if f"{first}: failed" in said else read_until(stopped, f"{first}: failed")
        stopped.send_signal(signal.SIGTERM)
        out, said = finish(stopped, 143)
    assert f"failed: {first}: tgtrain run ended with 2: Error: {folder / first} is in use by process" in said
    assert f"{second}: Saved at step" in said
    assert [line.split() for line in out.splitlines()] == [["0", "failed", first], ["1", "begun", second]]

    # Two sweeps go on at once while what the killed one has started may still be saving.
    killed = start(grid)
    read_until(killed, f"{first}: step 20/")  # of 72, before the first checkpoint: it saves when it notices the kill
    killed.kill()
    finish(killed, -signal.SIGKILL)
    for out, _ in [finish(process) for process in [start(grid), start(grid)]]:
        for name in (first, second):
            assert f"tested     {name}  top1@1x1 rgb " in out
    for name in (first, second):
        log = (folder / "logs" / f"{name}.log").read_text()
        assert log.count("Next: tgtrain test") == 1  # trained to its end once
        assert "resumed at step" in log
        assert (folder / name / "test-1x1-both.json").is_file()
    assert not (folder / ".locks").exists()

    # All is done: nothing is started.
    logs = {path: path.read_bytes() for path in (folder / "logs").iterdir()}
    done = call(*grid, "--json")
    assert [cell["state"] for cell in json.loads(done.stdout)["cells"]] == ["tested", "tested"]
    assert "is trained" not in done.stderr
    assert {path: path.read_bytes() for path in (folder / "logs").iterdir()} == logs
    table = call("report", folder, "--table", "csv").stdout.splitlines()
    assert len(table) == 2
    assert table[1].startswith("demo,demo,")
    assert f",2,1 2,{SPLIT}," in table[1]
    # Without the other settings it would be another run in the same folder.
    said = call(*words(data, folder, "--split", SPLIT, "--seeds", "1"), expected=2).stderr
    assert "holds a run with other settings: optimiser.epochs: 12 there, 4 asked" in said


@pytest.mark.long
def test_kills_at_random_moments(data: Path, tmp_path: Path, reliability: Reliability) -> None:
    """Sweeps that are killed again and again, then finished: each run has the weights and the test of an undisturbed one."""
    names = [f"demo_{SPLIT}_s{seed}" for seed in (1, 2)]
    grid = ("--split", SPLIT, "--seeds", "1,2", "--test", "1x1", "--jobs", "2")
    began = time.monotonic()
    finish(start(words(data, tmp_path / "whole", *grid)))
    seconds = time.monotonic() - began
    draw = random.Random(5)
    at_seconds: list[float] = []
    number = 0
    while len(at_seconds) < 20:
        number += 1
        folder = tmp_path / f"sweep{number}"
        for _ in range(3):
            killed = start(words(data, folder, *grid))
            moment = draw.uniform(0.1, 1.0) * seconds
            time.sleep(moment)
            killed.kill()
            killed.communicate(timeout=300)
            at_seconds += [round(moment, 2)] * (killed.returncode == -signal.SIGKILL)
        finish(start(words(data, folder, *grid)))
        for name in names:
            assert equal(weights(folder / name), weights(tmp_path / "whole" / name))
            for path in (tmp_path / "whole" / name).glob("test-*.json"):
                assert (folder / name / path.name).read_bytes() == path.read_bytes()
    reliability.record(
        "Training", "kill -9 of a sweep of two cells at random moments, then the same command",
        num_kills=len(at_seconds), num_sweeps=number, differing_weights_and_tests=0, at_seconds=at_seconds,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--recipe", "dmo"], "No recipe 'dmo'. Nearest: demo"),
        (["--split", "nothing"], "nothing"),
        (["--seeds", "1,x"], "--seeds 1,x: expected whole numbers"),
        (["--seeds", "1,1"], "different numbers"),
        (["--seeds", ""], "expected whole numbers"),
        (["--vary", "method.treshold=0.5,0.6"], "nearest valid key: method.threshold"),
        (["--vary", "method.threshold=0.5,high"], "method.threshold"),
        (["--vary", "method.threshold"], "expected section.key=VALUE,VALUE"),
        (["--vary", "runtime.seed=1,2"], "--seeds 1,2,3"),
        (["--vary", "optimiser.epochs=1,2"], "--set gives it, too"),
        (["--vary", "method.threshold=0.5,0.50"], "are the same"),
        (["--seeds", "1,2", "--set", "runtime.seed=3"], "--seeds gives it, too"),
        (["--test", "10"], "10: expected CLIPSxCROPS"),
        (["--task", "1"], "this sweep has 1 cell, 0 to 0"),
        (["--devices", "4"], "cannot share evenly"),
        (["--devices", "many"], "--devices many"),
        (["--vary", "runtime.accumulate=1,3"], "batch.labelled is 2"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_the_first_run(data: Path, tmp_path: Path, more: list[str], said: str) -> None:
    done = call(*words(data, tmp_path / "runs", *more), expected=2)
    assert said in done.stderr
    assert done.stderr.count("Error:") == 1
    assert done.stdout == ""
    assert not (tmp_path / "runs").exists()


def test_folders_that_hold_something_else_are_refused(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    (folder / f"demo_{SPLIT}_s0").mkdir(parents=True)
    (folder / f"demo_{SPLIT}_s0" / "notes.txt").touch()
    assert f"demo_{SPLIT}_s0" in call(*words(data, folder, "--split", SPLIT), expected=2).stderr
    (tmp_path / "config.json").write_text("{}")
    assert "is the folder of a run" in call(*words(data, tmp_path), expected=2).stderr
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "logs").symlink_to(tmp_path)
    assert "is a link to" in call(*words(data, tmp_path / "linked"), expected=2).stderr
    (tmp_path / "linked" / "logs").unlink()
    (tmp_path / "linked" / "logs").mkdir()
    (tmp_path / "linked" / "logs" / f"demo_{OTHER}_s0.log").symlink_to(tmp_path / "file")
    call(*words(data, tmp_path / "linked", "--split", OTHER), expected=2)
    assert not (tmp_path / "file").exists()
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in call(*words(data, tmp_path / "file"), expected=2).stderr


def test_split_without_test_videos_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_data_set(root)
    manifest = read_manifest(root)
    split: Any = make_split(
        manifest, SplitSettings(percent=50, strategy="stratified", pool="official", name="untested")
    )
    split = dataclasses.replace(split, test=split.test & False, validation=split.test)
    write_split(root, split)
    said = call(*words(root, tmp_path / "runs", "--split", "untested", "--split", SPLIT), expected=2).stderr
    assert "Split untested has no test videos" in said


def test_list_numbers_the_cells_seed_by_seed(data: Path, tmp_path: Path) -> None:
    more = ["--split", SPLIT, "--split", OTHER, "--vary", "data.area=[0.5, 1.0],[0.7, 1.0]"]
    done = call(*words(data, tmp_path / "runs", *more, "--seeds", "0,7", "--list"))
    areas = ("data.area-0.5,1.0", "data.area-0.7,1.0")
    names = [f"demo_{split}_s{seed}_{area}" for seed in (0, 7) for split in (SPLIT, OTHER) for area in areas]
    assert done.stdout.splitlines() == [f"{number}  not begun  {name}" for number, name in enumerate(names)]
    one = call(*words(data, tmp_path / "runs", *more, "--seeds", "0,7", "--list", "--task", "5")).stdout
    assert one == f"5  not begun  {names[5]}\n"
    assert not (tmp_path / "runs").exists()


def test_jobs_share_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    said: list[str] = []
    assert environments(1, 1, ["0", "1"], 8, said.append) == ({},)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments(2, 2, ["4", "5", "6", "7"], 8, said.append)] == [
        "4,5",
        "6,7",
    ]
    assert environments(2, 1, [], 8, said.append) == ({"OMP_NUM_THREADS": "4"},) * 2
    assert said == []
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments(3, 1, ["GPU-a", "GPU-b"], 8, said.append)] == [
        "GPU-a",
        "GPU-b",
        "GPU-a",
    ]
    assert said == ["note: 3 cells at a time share 2 GPUs"]
    with pytest.raises(InputError, match="need 4 GPUs, and 3 are visible"):
        environments(2, 2, ["0", "1", "2"], 8, said.append)


def test_one_of_several_processes_starts_no_sweep(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert "without torchrun or srun" in call(*words(data, tmp_path / "runs", "--list"), expected=2).stderr
