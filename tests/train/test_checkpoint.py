"""Checkpoints: whole or not there, at least two, damaged ones passed over, never code."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from manifests.records import InputError
from tgtrain.checkpoint import Checkpoint, Identity, best, find, list_checkpoints, load, load_newest, mark_best, save

IDENTITY = Identity("d" * 64, "s" * 64, "model")


def state(step: int) -> Checkpoint:
    return Checkpoint(
        step, IDENTITY, {"w": torch.full((3,), float(step))}, {"state": {}, "param_groups": []}, {"scaler": {}}
    )


def test_round_trip(tmp_path: Path) -> None:
    path = save(tmp_path, state(7), keep=3)
    found = load(path)
    assert (found.step, found.identity) == (7, IDENTITY)
    assert torch.equal(found.model["w"], torch.full((3,), 7.0))
    assert {file.name for file in path.parent.iterdir()} == {"step-00000007.pt", "step-00000007.pt.sha256"}


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 8):
        path = save(tmp_path, state(step), keep=2)
        if step == 3:
            mark_best(tmp_path, path, "top1@1x1", 0.5)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"step-{step:08d}.pt" for step in (3, 6, 7)]
    found = best(tmp_path)
    assert found is not None
    assert (found[0].name, found[1]) == ("step-00000003.pt", 0.5)
    assert find(tmp_path, "best").name == "step-00000003.pt"
    assert find(tmp_path, "last").name == "step-00000007.pt"
    assert find(tmp_path, "step-00000006.pt").name == "step-00000006.pt"


@pytest.mark.parametrize("damage", ["flip", "cut", "no digest", "other digest"])
def test_a_damaged_newest_one_falls_back_and_says_so(tmp_path: Path, damage: str) -> None:
    save(tmp_path, state(1), keep=3)
    path = save(tmp_path, state(2), keep=3)
    content = path.read_bytes()
    sidecar = path.with_suffix(".pt.sha256")
    if damage == "flip":
        path.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "no digest":
        sidecar.unlink()
    else:
        sidecar.write_text("0" * 64)
    said: list[str] = []
    found = load_newest(tmp_path, said.append)
    assert found is not None
    assert found.step == 1
    assert "step-00000002.pt" in said[0]
    assert "Trying the one before" in said[0]


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    assert load_newest(tmp_path, print) is None
    for which in ("last", "best", "step-00000001.pt"):
        with pytest.raises(InputError, match="checkpoint"):
            find(tmp_path, which)


def test_a_kill_before_the_rename_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, state(1), keep=3)

    def killed(temporary: Path, path: Path) -> None:
        if path.suffix == ".pt":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("manifests.places.publish", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, state(2), keep=3)
    found = load_newest(tmp_path, print)
    assert found is not None
    assert found.step == 1
    assert load(save(tmp_path, state(2), keep=3)).step == 2


def test_loading_never_runs_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",))

    path = save(tmp_path, state(1), keep=3)
    import hashlib

    torch.save({"version": 1, "evil": Evil()}, path)
    path.with_suffix(".pt.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(pickle.UnpicklingError):
        load(path)
    assert not (tmp_path / "ran").exists()


def test_differences_of_identity_are_named() -> None:
    assert IDENTITY.differences(IDENTITY) == []
    other = replace(IDENTITY, data_digest="x" * 64)
    assert IDENTITY.differences(other) == ["data set dddddddddddd there, xxxxxxxxxxxx now"]
