"""Two commands that write into one data set or folder: the second names the owner of the first, and both end well."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from manifests.disk import held_folder
from tests.extraction import environment
from tests.object_store import ObjectStore
from tests.reliability import Reliability
from tests.writers import WRITERS, Writer, files_in, leftovers
from tgprep.extract.work_folder import exclusive

DATA_SET = {
    "split": "data",
    "split-import": "data",
    "card": "data",
    "add": "few",
    "retry": "failed",
    "repair": "damaged",
    "extract": "data",
    "task": "data",
    "import": "data",
    "merge": "data",
    "drop": "few",
    "relabel": "few",
}
FOLDER = {"materialise": "plain", "export": "frames", "sample": "videos"}
# Each changes a finished data set; {p}/few lacks two videos.
SAME = {
    "split": Writer("prep", "split {p}/few --percent 25"),
    "split-import": Writer("prep", "split {p}/few --import {b}/list.txt --name p25-s0-f1 --overwrite"),
    "add": Writer("prep", "extract {b}/videos {p}/few --add --threads 2 --videos-per-shard 2"),
    "retry": Writer("prep", "extract {b}/videos {p}/few --retry-failed --threads 2 --videos-per-shard 2"),
    "repair": Writer("prep", "check {p}/few --repair --against {b}/some --threads 2"),
    "materialise": Writer("prep", "split {p}/few --materialise p50-s0-f1 --output {p}/plain"),
    "export": Writer("prep", "export {p}/few {p}/frames"),
    "card": Writer("prep", "card {p}/few"),
    "drop": Writer("prep", "drop {p}/few --keys {b}/keys.txt"),
    "relabel": Writer("prep", "relabel {p}/few --from {b}/labels.csv"),
    "check": Writer("prep", "check {p}/few"),
}


@pytest.mark.parametrize("name", [*DATA_SET, *FOLDER])
def test_a_held_data_set_or_folder_is_left_alone(name: str, inputs: Path, tmp_path: Path) -> None:
    """It is held by this process, which the message names. The same command then finishes, and leaves no lock behind."""
    WRITERS[name].prepare(tmp_path, inputs)
    out = tmp_path / (DATA_SET | FOLDER)[name]
    hold: AbstractContextManager[object] = held_folder(out) if name in FOLDER else exclusive(out)
    with hold:
        journal = out / ".tgprep" / "done" / "shard-000009.tar.json"
        if name in DATA_SET:
            journal.parent.mkdir()
            journal.write_text("of a living extraction")
        before = files_in(tmp_path)
        code, text = WRITERS[name].run(tmp_path, inputs)
        assert code == 2, text
        assert f"{out} is in use by process {os.getpid()} on {os.uname().nodename}" in text
        after = files_in(tmp_path)
        assert {path: after[path] for path in after if "lock-task" not in path} == before
        journal.unlink(missing_ok=True)
    if name in ("split", "repair", "export"):
        code, text = WRITERS[name].run(tmp_path, inputs)
        assert code == 0, text
        assert not (out / ".tgprep").exists()
        assert not (out / ".tgprep-lock").exists()


def test_a_data_set_whose_splits_lead_elsewhere_is_not_written_to(inputs: Path, tmp_path: Path) -> None:
    WRITERS["add"].prepare(tmp_path, inputs)
    (tmp_path / "mine").mkdir()
    (tmp_path / "few" / "splits").symlink_to(tmp_path / "mine")
    code, text = SAME["split"].run(tmp_path, inputs)
    assert code == 2, text
    assert "is a link that leads out of" in text
    assert not list((tmp_path / "mine").iterdir())


def test_a_split_in_a_store_respects_the_claim_of_an_extraction(inputs: Path, store: ObjectStore) -> None:
    place = store.bucket("claimed") + "/data"
    copy = [
        sys.executable,
        "-c",
        f"import fsspec; fsspec.filesystem('s3').put('{inputs}/few/', '{place}/', recursive=True)",
    ]
    subprocess.run(copy, env=environment(), check=True)
    command = [sys.executable, "-P", "-m", "tgprep", "split", place, "--percent", "25"]
    with exclusive(place):
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert (done.returncode, f"in use by process {os.getpid()}" in done.stderr) == (2, True)
    assert subprocess.run(command, env=environment(), check=False).returncode == 0
    assert not [name for name in store.tree(place) if ".tgprep" in name]


@pytest.mark.long
@pytest.mark.parametrize(("first", "second"), list(itertools.combinations_with_replacement(SAME, 2)))
def test_two_at_once(first: str, second: str, inputs: Path, tmp_path: Path, reliability: Reliability) -> None:
    """Both end with success or one message; run again one after the other, they give what they give alone."""
    WRITERS["add"].prepare(tmp_path, inputs)
    assert Writer("prep", "split {p}/few --percent 50").run(tmp_path, inputs)[0] == 0
    seconds = random.Random(first + second).uniform(0, 1)
    one = SAME[first].start(tmp_path, inputs)
    time.sleep(seconds)
    two = SAME[second].start(tmp_path, inputs)
    num_refused = 0
    for process in (one, two):
        text = "".join(process.communicate(timeout=300))
        assert "Traceback" not in text
        refused = "is in use by process" in text
        num_refused += refused
        assert process.returncode == (2 if refused else 0), text
    assert not leftovers(tmp_path)
    for name in (first, second):
        code, text = SAME[name].run(tmp_path, inputs)
        assert code == 0 or "another data set" in text or "another split" in text, text
    code, text = SAME["check"].run(tmp_path, inputs)
    assert code == 0, text
    assert not leftovers(tmp_path)
    assert not (tmp_path / "few" / ".tgprep").exists()
    reliability.record(
        "Data set", "two commands at once on one data set, each pair", num_pairs=1, num_refused=num_refused
    )
