"""Work that does not fit into memory is refused before its first step, with figures and ways out that hold; --force tries it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.train import main as tgtrain
from manifests.machine import memory_bytes
from tests.train.support import write_data_set
from tgtrain.train import estimate

SMALL = ("data.clip_frames=4", "data.size=32", "batch.labelled=4", "batch.unlabelled=4", "model.width=4", "optimiser.epochs=1")  # fmt: skip
SETS = [word for text in (*SMALL, "runtime.workers=0", "precise_bn.batches=1") for word in ("--set", text)]


def tgtrain_(*words: object, expected: int = 0) -> Any:
    done = CliRunner().invoke(tgtrain, [str(word) for word in words])
    assert done.exit_code == expected, done.output + (str(done.exception) if done.exception else "")
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set and a run."""
    base = tmp_path_factory.mktemp("memory")
    write_data_set(base / "set")
    done = tgtrain_("run", base / "set", "--recipe", "demo", "--out", base / "run", *SETS)
    assert re.search(
        r"estimate: about \d+\.\d GB of memory \(.* this process may use\); all steps take at least \d+ ", done.output
    )
    return base


def limited(monkeypatch: pytest.MonkeyPatch, gigabytes: float) -> None:
    """Give this process so much more than it holds, as a control group would."""
    held = estimate.resident_mb(estimate.os.getpid()) * 2**20
    monkeypatch.setattr(estimate, "memory_bytes", lambda: held + gigabytes * 1e9)


def test_a_batch_beyond_this_machine_is_refused(place: Path, tmp_path: Path) -> None:
    """With the machine's own limit: a batch that no machine holds."""
    number = 2 ** max(8, round(memory_bytes() / 50e6).bit_length())
    sets = ("--set", f"batch.labelled={number}", "--set", f"batch.unlabelled={number}", "--set", "runtime.workers=0")
    done = tgtrain_("run", place / "set", "--recipe", "ucf101-20", "--out", tmp_path / "run", *sets, expected=2)
    assert f"A step of ucf101-20 on {number} + {number} videos takes about" in done.output
    assert "GB this process may use; all steps take at least" in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "run").exists()


def test_each_way_out_is_one(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 1.5)
    wide = ("--set", "model.width=8", "--set", "data.size=224", "--set", "data.clip_frames=8")
    words = (
        "run",
        place / "set",
        "--recipe",
        "ucf101-20",
        *SETS,
        *wide,
        "--set",
        "batch.labelled=16",
        "--set",
        "batch.unlabelled=16",
    )
    done = tgtrain_(*words, "--out", tmp_path / "no", expected=2)
    assert not (tmp_path / "no").exists()
    ways = re.findall(r"--set (\S+) takes", done.output)
    assert {way.partition("=")[0] for way in ways} >= {"runtime.accumulate", "data.size"}
    assert "--recipe demo" in done.output
    assert "--force tries" in done.output
    monkeypatch.setattr("tgtrain.train.trainer.train", _begun)
    for way in ways:
        with pytest.raises(_BegunError):
            CliRunner().invoke(tgtrain, [str(word) for word in (*words, "--set", way)], catch_exceptions=False)
    with pytest.raises(_BegunError):
        CliRunner().invoke(tgtrain, [str(word) for word in (*words, "--force")], catch_exceptions=False)


class _BegunError(Exception):
    """Training would begin."""


def _begun(*args: object, **options: object) -> None:
    raise _BegunError


def test_test_and_predict_are_refused_and_their_ways_out_hold(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 0.55)
    (video := place / "one.avi").write_bytes(b"no video")
    for words in (("test", place / "run"), ("predict", place / "run", video, "--workers", 1)):
        large = (*words, "--views", "400x3", "--batch-views", 4096)
        done = tgtrain_(*large, expected=2)
        assert re.search(
            r"with 400x3 views takes about [\d.]+ GB of memory, and [\d.]+ GB this process may use", done.output
        )
        assert "--force tries" in done.output
        assert "Traceback" not in done.output
        assert "--batch-views " in done.output
    assert not list((place / "run").glob("test-400x3*"))
    monkeypatch.undo()
    tgtrain_("test", place / "run", "--views", "1x1", "--batch-views", 1)
    limited(monkeypatch, 0.01)
    tgtrain_("test", place / "run", "--views", "1x1", expected=2)
    tgtrain_("test", place / "run", "--views", "1x1", "--force")


def test_bench_measures_the_part_of_the_batch_that_fits(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = (
        "--set",
        "data.size=112",
        "--set",
        "batch.labelled=64",
        "--set",
        "batch.unlabelled=64",
        "--set",
        "model.width=8",
    )
    words = ("bench", place / "set", "--recipe", "demo", *SETS, *sets, "--workers", 0, "--seconds", 0.1)
    limited(monkeypatch, 0.1)
    done = tgtrain_(*words, expected=2)
    assert "The smallest step of demo, with 0 loader processes, takes about" in done.output
    limited(monkeypatch, 0.6)
    assert re.search(r"measured with \d+ of 128", tgtrain_(*words).output)


def test_a_sweep_is_refused_before_its_first_cell(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several cells at a time share the memory."""
    limited(monkeypatch, 1.0)
    words = (
        "sweep",
        place / "set",
        "--recipe",
        "demo",
        "--seeds",
        "1,2,3,4,5,6",
        *SETS,
        "--out",
        tmp_path / "sweep",
        "--list",
    )
    tgtrain_(*words)
    done = tgtrain_(*words, "--jobs", 6, expected=2)
    assert "of memory, 6 processes together" in done.output
    assert not (tmp_path / "sweep").exists()
    tgtrain_(*words, "--jobs", 6, "--force")
