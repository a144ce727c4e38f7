"""`tgtrain run s3://...` as a real process with loader workers: through all that a store does to it, the same course as from local disk."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from manifests.manifest_io import read_manifest
from tests.conftest import Reliability
from tests.extraction import wait_until
from tests.object_store import ObjectStore
from tests.train.support import TINY, run_outcome, write_data_set

NUM_STEPS = 12  # of TINY: four passes over the unlabelled videos
# Run the command line, and note the keys of each step's batch before the step is made.
_RECORDER = """
import json, sys
from pathlib import Path
import tgtrain.train.learner
place, made = Path(sys.argv[1]), tgtrain.train.learner.Learner.update
def noted(self, batch, *others):
    with place.open("a") as file:
        file.write(json.dumps([batch.step, batch.labelled.keys, batch.unlabelled.keys]) + chr(10))
    return made(self, batch, *others)
tgtrain.train.learner.Learner.update = noted
sys.argv = ["tgtrain", *sys.argv[2:]]
import cli.train
cli.train.main()
"""


@dataclass(frozen=True, slots=True)
class Data:
    """The same data set on disk and in the store, with one damaged shard. cache_gb: less than it holds, as much as a run asks for."""

    local: Path
    url: str
    damaged: str
    cache_gb: float


@dataclass(frozen=True, slots=True)
class Course:
    """What a run came to. keys: of each step. replaced: what it said of damaged samples."""

    outcome: dict[str, Any]
    keys: dict[int, Any]
    replaced: set[str]


@pytest.fixture(scope="module")
def data(store_server: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Data:
    local = tmp_path_factory.mktemp("run-remote") / "set"
    manifest, _ = write_data_set(local, num_shards=9)
    row = next(row for row in manifest.videos if row.subsets == ("train",))
    with (local / row.shard).open("r+b") as file:
        file.seek(row.members.rgb_offset)
        file.write(bytes(row.members.rgb_bytes))
    url = store_server.bucket("run-remote") + "/set"
    store_server.upload(local, url)
    total = sum(shard.num_bytes for shard in manifest.shards)
    return Data(local, url, row.shard, 0.47 * total / 1e9)


class Process:
    """A run that is going on."""

    def __init__(self, data: Data, folder: Path, cache: Path | None, workers: int = 2) -> None:
        self.folder, self.keys_file = folder, folder.with_suffix(".keys")
        settings = [
            *TINY,
            "evaluate.every_epochs=2",
            "data.block_shards=1",
            "runtime.max_bad_fraction=1",
            f"runtime.workers={workers}",
        ]
        words = ["run", data.url if cache else str(data.local), "--recipe", "demo", "--out", str(folder)]
        if cache:
            words += ["--cache", str(cache), "--cache-gb", str(data.cache_gb)]
        words += [word for text in settings for word in ("--set", text)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _RECORDER, str(self.keys_file), *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def keys(self) -> dict[int, Any]:
        """Of the steps so far; a step that was made twice must have had the same ones."""
        found: dict[int, Any] = {}
        for line in self.keys_file.read_text().splitlines() if self.keys_file.exists() else ():
            step, *keys = json.loads(line)
            assert found.setdefault(step, keys) == keys
        return found

    def wait_for_step(self, step: int) -> None:
        wait_until(lambda: self.process.poll() is not None or step in self.keys(), 120)
        assert self.process.poll() is None, self.process.communicate()

    def kill(self) -> str:
        self.process.send_signal(signal.SIGKILL)
        return self.process.communicate(timeout=60)[1]

    def finish(self) -> tuple[Course, str]:
        """The course of the run that ends by itself, and what it said."""
        said = self.process.communicate(timeout=240)[1]
        assert self.process.returncode == 0, said
        found = run_outcome(self.folder)
        for _, _, extra in (value for name, value in found["facts"].items() if name.endswith(".pt")):
            for name in ("cache", "cache_gb"):
                del extra["settings"]["runtime"][name]
        replaced = {line for line in said.splitlines() if line.startswith("damaged sample replaced")}
        return Course(found, self.keys(), replaced), said


@pytest.fixture(scope="module")
def expected(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Course:
    """The course of a run from local disk, without loader workers."""
    course, said = Process(data, tmp_path_factory.mktemp("local") / "run", None, workers=0).finish()
    assert list(course.keys) == list(range(NUM_STEPS))
    assert course.replaced
    assert "note" not in said
    return course


def trouble(store: ObjectStore, process: Process) -> None:
    """The server restarts during a request, then answers retries with 503, then with content that ends early."""
    gate = store.gate
    dropped, failed, cut = gate.num_dropped, gate.num_failed, gate.num_cut
    gate.shut()
    wait_until(lambda: gate.num_dropped > dropped or process.process.poll() is not None)
    time.sleep(1)
    gate.fail_next = gate.cut_next = 2
    gate.open()
    wait_until(lambda: (gate.num_failed, gate.num_cut) == (failed + 2, cut + 2) or process.process.poll() is not None)
    gate.fail_next = gate.cut_next = 0
    assert gate.num_dropped > dropped
    assert gate.num_failed == failed + 2
    assert gate.num_cut == cut + 2


def check_same(course: Course, expected: Course) -> None:
    assert course.keys == expected.keys
    assert course.outcome["facts"] == expected.outcome["facts"]
    tensors = expected.outcome["tensors"]
    assert course.outcome["tensors"].keys() == tensors.keys()
    assert not [name for name, value in course.outcome["tensors"].items() if not value.equal(tensors[name])]


def check_notes(said: str, data: Data) -> None:
    """One of each kind of trouble, from whichever process met it first."""
    notes = [line for line in said.splitlines() if line.startswith("note: ")]
    assert len([line for line in notes if "does not answer" in line]) == 1, said
    assert len([line for line in notes if f"{data.damaged} of {data.url} is damaged" in line]) == 1, said
    assert len([line for line in notes if data.url.rpartition("/")[0] in line]) == 2, said


def one_life(
    data: Data, store: ObjectStore, tmp_path: Path, expected: Course, troubled_at: int, killed_at: int
) -> None:
    """Trouble at one step, SIGKILL at a later one, when every video has been read; then the same command with another, empty cache, and trouble again."""
    store.gate.delay_seconds = 0.02
    try:
        first = Process(data, tmp_path / "run", tmp_path / "cache")
        first.wait_for_step(troubled_at)
        trouble(store, first)
        first.wait_for_step(killed_at)
        check_notes(first.kill(), data)
        second = Process(data, tmp_path / "run", tmp_path / "other-cache")
        wait_until(lambda: list((tmp_path / "other-cache").glob("*/*.tar")) or second.process.poll() is not None)
        trouble(store, second)
        course, said = second.finish()
    finally:
        store.gate.delay_seconds = 0.0
    check_notes(said, data)
    check_same(course, expected)
    held = [
        path.stat().st_size
        for path in (tmp_path / "other-cache" / "tgtrain-shards").iterdir()
        if path.suffix in (".tar", ".sample", ".damaged")
    ]
    assert 0 < sum(held) <= data.cache_gb * 1e9 < sum(shard.num_bytes for shard in read_manifest(data.local).shards)


def test_store_errors_a_kill_and_another_cache(
    data: Data, store: ObjectStore, tmp_path: Path, expected: Course
) -> None:
    one_life(data, store, tmp_path, expected, troubled_at=0, killed_at=7)


@pytest.mark.long
def test_store_errors_and_kills_at_random_steps(
    data: Data, store: ObjectStore, tmp_path: Path, expected: Course, reliability: Reliability
) -> None:
    draw = random.Random(4)
    for number in range(10):
        troubled_at = draw.randint(0, 3)
        (tmp_path / str(number)).mkdir()
        one_life(data, store, tmp_path / str(number), expected, troubled_at, draw.randint(4, 10))
    reliability.record(
        "Streaming",
        "`tgtrain run s3://` through latency, a restart of the server, 503 and cut answers, killed with -9 and gone on with an empty cache",
        num_kills=10, num_restarts=20, num_failed_answers=40, num_cut_answers=40, differing_checkpoints_and_metrics=0,
    )  # fmt: skip
