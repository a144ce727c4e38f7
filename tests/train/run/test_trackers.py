"""Trackers get every value once, over kills and resumes; one that does not answer neither stops nor slows a run; no secret leaves."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manifests.records import InputError
from tests.train.report.pages import write_run
from tests.train.support import TINY, read_until, run
from tgtrain.log_settings import LogSettings
from tgtrain.run import trackers
from tgtrain.run.journal import Journal, send_missed
from tgtrain.run.trackers import require_trackers

TO_MLFLOW = LogSettings(to=("mlflow",), project="tests")
TO_WANDB = LogSettings(to=("wandb",), project="tests")
VALUES = {"loss/total": 5.0, "learning_rate": 0.2, "epoch": 0}
NAMES = {"loss/total", "train/learning_rate", "train/epoch"}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take long to load a library."""
    monkeypatch.setattr(trackers, "LAST_SECONDS", 120.0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an MLflow store in a folder."""
    pytest.importorskip("mlflow", reason="needs the extra `mlflow`")
    address = (tmp_path / "store").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    return address


def runs_in(address: str, project: str = "tests") -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(address)
    experiment = client.get_experiment_by_name(project)
    return [] if experiment is None else client.search_runs([experiment.experiment_id])


def steps_in(address: str, name: str, project: str = "tests") -> list[int]:
    """Every step at which the only run has a value of that name, as often as it has one."""
    from mlflow import MlflowClient

    (found,) = runs_in(address, project)
    return sorted(metric.step for metric in MlflowClient(address).get_metric_history(found.info.run_id, name))


def write(folder: Path, settings: LogSettings, resumed: int, steps: list[int], *, complete: bool = False) -> list[str]:
    """Log values as a run does that resumes and makes these steps; returns what it notes."""
    notes: list[str] = []
    journal = Journal(folder, resumed, False, notes.append, settings)
    for step in steps:
        journal.write("train", step, VALUES)
        journal.write("evaluate", step, {"top1@1x1": 0.5, "part": "test"})
    journal.close(complete)
    return notes


def test_mlflow_gets_every_value_once(store: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a run", steps=0)
    assert write(folder, TO_MLFLOW, 0, [2, 4, 6]) == []
    (first,) = runs_in(store)
    assert first.info.status == "KILLED"
    assert set(first.data.metrics) == NAMES | {"evaluate/top1_1x1"}
    assert first.data.params["optimiser.epochs"] == str(json.loads((folder / "config.json").read_bytes())["config"]["optimiser"]["epochs"])  # fmt: skip
    assert (first.info.run_name, first.data.params["dataset_digest"]) == ("a run", "d" * 64)
    # Killed after step 6 and resumed at step 4: step 6 is made again.
    assert write(folder, TO_MLFLOW, 4, [6, 8], complete=True) == []
    (second,) = runs_in(store)
    assert (second.info.run_id, second.info.status) == (first.info.run_id, "FINISHED")
    for name in (*NAMES, "evaluate/top1_1x1"):
        assert steps_in(store, name) == [2, 4, 6, 8]
    assert not (folder / "tensorboard").exists()


def test_a_run_that_goes_on_with_mlflow_brings_its_history(store: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=8)
    write(folder, TO_MLFLOW, 8, [9])
    assert steps_in(store, "loss/total") == list(range(1, 10))
    (folder / "trackers.json").write_text('{"id": "../x"')  # damaged: another run is made there, and nothing is lost
    write(folder, TO_MLFLOW, 9, [])
    assert len(runs_in(store)) == 2


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_tracker_that_does_not_answer(
    store: str, silent_server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_silent: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = silent_server if is_silent else closed.getsockname()[1]
    monkeypatch.setattr(trackers, "LAST_SECONDS", 1.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:geheim1@127.0.0.1:{port}")
    folder = write_run(tmp_path / "run", steps=0)
    notes: list[str] = []
    journal = Journal(folder, 0, False, notes.append, TO_MLFLOW)
    began = time.perf_counter()
    for step in range(1, 201):
        journal.write("train", step, VALUES)
    assert time.perf_counter() - began < 1  # 5 ms a line, on a machine that does other things besides
    began = time.perf_counter()
    journal.close(complete=True)
    assert time.perf_counter() - began < 5
    *before, last = notes
    assert last == "note: mlflow did not take the values of 200 lines of metrics.jsonl; the same command sends them."
    if not is_silent:
        assert len(before) == 1
        assert before[0].startswith("note: mlflow does not take values (")
    assert "geheim1" not in "".join(notes)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setattr(trackers, "LAST_SECONDS", 60.0)
    send_missed(folder, 200, 200, TO_MLFLOW, notes.append)
    assert len(notes) == len(before) + 1
    assert steps_in(store, "loss/total") == list(range(1, 201))


def test_no_secret_leaves(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = ("data.shards=pipe:curl -H 'Authorization: geheim1' {shard}", "runtime.cache=/home/geheim2", "model.init=s3://k:geheim3@b/w.pth")  # fmt: skip
    folder = write_run(tmp_path / "run", steps=0, overrides=hidden, root="https://me:geheim4@host/data")
    write(folder, TO_MLFLOW, 0, [1])
    assert steps_in(store, "loss/total") == [1]
    for path in (tmp_path / "store").rglob("*"):
        assert "geheim" not in str(path)
        assert path.is_dir() or b"geheim" not in path.read_bytes(), path
    assert b"geheim" not in (folder / "trackers.json").read_bytes()
    monkeypatch.setenv("WANDB_API_KEY", "geheim5")
    said = trackers._without_secrets("no answer from\nhttps://me:gehe@im6@host:5000/api?sig=geheim7 with geheim5")
    assert said == "no answer from https://***@host:5000/api?sig=*** with ***"


@pytest.mark.parametrize(
    ("name", "plain"),
    [("top1@1x1", "top1_1x1"), ("class/Moving/kept", "class/Moving/kept"), ("class/../x//y", "class/_/x/_/y"),
     ("class/走る, 1/kept", "class/走る_ 1/kept"), ("class/" + "x" * 500, "class/" + "x" * 80)],
)  # fmt: skip
def test_names_are_those_that_trackers_take(name: str, plain: str) -> None:
    assert trackers._plain_names({name: 1.0}) == {plain: 1.0}


def test_mistakes_are_found_before_the_run_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    require_trackers(LogSettings())
    monkeypatch.setitem(trackers._PACKAGES, "mlflow", "sys")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI does not say where its server is: export "):
        require_trackers(TO_MLFLOW)
    monkeypatch.setitem(trackers._PACKAGES, "mlflow", "no_such_package")
    with pytest.raises(
        InputError, match=r"log.to names mlflow, which is not installed: pip install 'tgprep\[mlflow\]'"
    ):
        require_trackers(TO_MLFLOW)


def test_a_training_is_one_run_there(store: str, data_set: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    more = ("log.to=['mlflow','tensorboard']", "log.project=tests", "runtime.log_every=1", "optimiser.epochs=2")
    run(data_set, folder, *more, max_steps=2)
    (folder / "checkpoints").rename(tmp_path / "gone")  # as if it had been killed before the checkpoint
    run(data_set, folder, *more)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    wanted = [line["step"] for line in lines if line["kind"] == "train"]
    assert steps_in(store, "loss/total") == wanted
    assert len(wanted) >= 2
    assert runs_in(store)[0].info.status == "FINISHED"
    assert list((folder / "tensorboard").glob("events*"))
    run(data_set, folder, "optimiser.epochs=2", "runtime.log_every=1")  # another place to log is no other run


@pytest.mark.long
def test_two_processes_that_are_killed_are_one_run(store: str, data_set: Path, tmp_path: Path) -> None:
    words = [
        "run", str(data_set), "--recipe", "demo", "--out", str(tmp_path / "run"), "--devices", "2",
        *(word for text in (*TINY, "log.to=['mlflow']", "log.project=tests") for word in ("--set", text)),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tgtrain", *words]
    for step in (3, 7):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        read_until(process, f"step {step}/")
        process.kill()
        process.communicate()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert steps_in(store, "loss/total") == [line["step"] for line in lines if line["kind"] == "train"]


def wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: blocks of 32 KiB with parts of records, as in the log of LevelDB."""
    place, parts = 7, b""  # after the header of the file
    while place + 7 <= len(content):
        if (left := 2**15 - place % 2**15) < 7:
            place += left
            continue
        size, kind = struct.unpack_from("<HB", content, place + 4)
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the extra `wandb`")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = write_run(tmp_path / "run", steps=0, overrides=("runtime.cache=/home/geheim",))
    assert write(folder, TO_WANDB, 0, [2, 4, 6]) == []
    assert write(folder, TO_WANDB, 4, [6, 8], complete=True) == []
    rows: Counter[tuple[str, str]] = Counter()
    numbers: list[int] = []
    settings: set[str] = set()
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    assert len({path.name for path in files}) == 1  # two parts of one run
    for path in files:
        records: list[Any] = []
        until = time.monotonic() + 60  # the process of the library writes the end of the file
        while not records or not records[-1].HasField("exit"):
            assert time.monotonic() < until
            time.sleep(0.1)
            records = [Record.FromString(part) for part in wandb_records(path.read_bytes())]
        assert b"geheim" not in path.read_bytes()
        for record in records:
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            rows.update((name, items["step"]) for name in items if name in NAMES)
            numbers += [int(items["_step"])] if "_step" in items else []
            settings |= {item.key or "/".join(item.nested_key) for item in record.run.config.update}
    assert rows == Counter((name, str(step)) for name in NAMES for step in (2, 4, 6, 8))
    assert numbers == list(range(8))  # of the rows, over both parts
    assert {"optimiser.epochs", "dataset_digest"} <= settings
