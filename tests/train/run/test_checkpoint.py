"""Checkpoints: complete or absent, at least two, damaged ones skipped, and no code is run by loading."""

from __future__ import annotations

import hashlib
import io
import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from manifests.machine import peak_memory_mb
from manifests.records import InputError
from tgtrain.data.setup import Identity
from tgtrain.run.checkpoint import (
    Checkpoint,
    DamagedError,
    Measured,
    archive_newer,
    best,
    find,
    finish_save,
    list_checkpoints,
    load,
    load_newest,
    save,
)

IDENTITY = Identity("d" * 64, "s" * 64, "model")


def state(step: int, value: float | None = None) -> Checkpoint:
    return Checkpoint(
        step, IDENTITY, {"w": torch.full((3,), float(step))}, {"state": {}, "param_groups": []}, {"scaler": {}},
        None if value is None else Measured("top1@1x1", value),
    )  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    path = save(tmp_path, state(7), keep=3)
    found = load(path)
    assert (found.step, found.identity) == (7, IDENTITY)
    assert torch.equal(found.model["w"], torch.full((3,), 7.0))
    assert {file.name for file in path.parent.iterdir()} == {"step-00000007.pt", "step-00000007.pt.sha256"}


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 8):
        save(tmp_path, state(step, 0.5 if step in (3, 5) else 0.1), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"step-{step:08d}.pt" for step in (3, 6, 7)]
    found = best(tmp_path)
    assert found is not None
    assert (found.path.name, found.value) == ("step-00000003.pt", 0.5)
    assert find(tmp_path, "best").name == "step-00000003.pt"
    assert find(tmp_path, "last").name == "step-00000007.pt"
    assert find(tmp_path, "step-00000006.pt").name == "step-00000006.pt"


@pytest.mark.parametrize("damage", ["flip", "cut", "no digest", "other digest"])
def test_damaged_newest_falls_back_and_is_logged(tmp_path: Path, damage: str) -> None:
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
        patch.setattr("manifests.disk.publish", killed)
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
    torch.save({"version": 1, "evil": Evil()}, path)
    path.with_suffix(".pt.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(DamagedError, match="no checkpoint of this program"):
        load(path)
    assert not (tmp_path / "ran").exists()


def rezipped(content: bytes, change: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """The archive of a checkpoint with other bytes in entries whose name ends so."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(buffer, "w", method) as after:
        for entry in before.infolist():
            new = next((value for end, value in change.items() if entry.filename.endswith(end)), before.read(entry))
            after.writestr(entry.filename, new)
    return buffer.getvalue()


class Calls:
    """Pickled as the call of a class or function with arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_hostile_checkpoints_are_refused_and_cost_little(tmp_path: Path) -> None:
    path = save(tmp_path, state(1), keep=3)
    good = path.read_bytes()
    raw = torch.load(path, weights_only=True)
    endless: list[Any] = []
    endless.append(endless)
    numel = pickle.dumps(3, 2)[2:-1]  # the size of the tensor, and a larger one in its place
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    hostile = {
        "compressed": rezipped(good, {"data/0": bytes(300_000_000)}, zipfile.ZIP_DEFLATED),
        "larger than its record": rezipped(good, {"data.pkl": pickled.replace(numel, pickle.dumps(10**9, 2)[2:-1])}),
        "bytes without end": saved({**raw, "extra": {"x": Calls(bytearray, 10**12)}}),
        "memory without end": saved({**raw, "extra": {"x": Calls(torch.FloatStorage, 10**11)}}),
        "a view without end": saved({**raw, "model": {"w": torch.zeros(1).expand(10**9)}}),
        "holds itself": saved({**raw, "extra": {"x": endless}}),
        "a set": saved({**raw, "extra": {"x": {1}}}),
        "no dict": saved([raw]),
        "step": saved({**raw, "step": "1"}),
        "negative step": saved({**raw, "step": -1}),
        "model": saved({**raw, "model": {"w": 3}}),
        "optimiser": saved({**raw, "optimiser": None}),
        "settings": saved({**raw, "extra": {"settings": []}}),
        "counts": saved({**raw, "extra": {"num_read": "many"}}),
        "identity": saved({**raw, "identity": {"data_digest": 1, "split_digest": 2, "model": 3}}),
        "measured": saved({**raw, "measured": {"metric": 1, "value": "x"}}),
        "two pickles": rezipped(good, {}) + b"",
        "old format": b"\x80\x02" + pickled[2:],
        "no archive": b"PK\x03\x04" + bytes(100),
    }
    with zipfile.ZipFile(buffer := io.BytesIO(good), "a") as archive:
        archive.writestr("archive/other.pkl", pickled)
    hostile["two pickles"] = buffer.getvalue()
    for name, content in hostile.items():
        path.write_bytes(content)
        path.with_suffix(".pt.sha256").write_text(hashlib.sha256(content).hexdigest())
        del content
        before = peak_memory_mb()
        with pytest.raises(DamagedError, match="is no checkpoint of this program"):
            load(path)
        assert peak_memory_mb() - before < 100, name


def test_identity_differences() -> None:
    assert IDENTITY.differences(IDENTITY) == []
    other = replace(IDENTITY, data_digest="x" * 64)
    assert IDENTITY.differences(other) == ["data set dddddddddddd there, xxxxxxxxxxxx now"]


def names(run: Path) -> list[str]:
    return [path.name for path in list_checkpoints(run)]


def test_kill_before_best_json_is_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, state(1, 0.2), keep=2)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tgtrain.run.checkpoint.json_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, state(2, 0.9), keep=2)
    found_best = best(tmp_path)
    assert found_best is not None
    assert (found_best.path.name, found_best.value) == ("step-00000001.pt", 0.2)
    found = load_newest(tmp_path, print)
    assert found is not None
    finish_save(tmp_path, found, keep=2)
    found_best = best(tmp_path)
    assert found_best is not None
    assert (found_best.path.name, found_best.value) == ("step-00000002.pt", 0.9)


def test_no_valid_checkpoint_is_refused_with_all_names(tmp_path: Path) -> None:
    for step in (1, 2):
        path = save(tmp_path, state(step), keep=2)
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"step-00000002\.pt is damaged.*step-00000001\.pt is damaged.*Restore one"):
        load_newest(tmp_path, print)


def test_missing_checkpoints_are_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, state(1, 0.5), keep=2)
    path.unlink()
    with pytest.raises(InputError, match="names a best checkpoint and holds none"):
        load_newest(tmp_path, print)


def test_newer_format_is_refused_not_skipped(tmp_path: Path) -> None:
    save(tmp_path, state(1), keep=2)
    path = save(tmp_path, state(2), keep=2)
    raw = torch.load(path, weights_only=True)
    torch.save({**raw, "version": 2}, path)
    path.with_suffix(".pt.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    for read in (lambda: load_newest(tmp_path, print), lambda: load(path)):
        with pytest.raises(InputError, match="format version 2, this program reads 1") as caught:
            read()
        assert not isinstance(caught.value, DamagedError)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"   "])
def test_invalid_digest_file_is_damage(tmp_path: Path, content: bytes) -> None:
    path = save(tmp_path, state(1), keep=2)
    path.with_suffix(".pt.sha256").write_bytes(content)
    with pytest.raises(DamagedError, match="no sha256 beside it"):
        load(path)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"checkpoint": 3, "value": 1}', b'{"checkpoint": "x", "value": []}']
)
def test_damaged_best_json_is_ignored(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, state(1, 0.5), keep=2)
    (tmp_path / "checkpoints" / "best.json").write_bytes(content)
    assert best(tmp_path) is None


def test_content_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, state(1), keep=2)
    for content in (b"text", b"", *(pickled(value) for value in ([], {"version": 1}, {"version": 1, "step": "x"}, 3))):
        path.write_bytes(content)
        path.with_suffix(".pt.sha256").write_text(hashlib.sha256(content).hexdigest())
        with pytest.raises(DamagedError, match="no checkpoint of this program"):
            load(path)


def pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_later_checkpoints_are_archived_and_best_is_found_again(tmp_path: Path) -> None:
    for step, value in ((1, 0.3), (2, 0.2), (3, 0.9), (4, 0.1)):
        save(tmp_path, state(step, value), keep=9)
    (tmp_path / "metrics.jsonl").write_text("all\n")
    aside = archive_newer(tmp_path, 2)
    assert aside is not None
    assert names(tmp_path) == ["step-00000001.pt", "step-00000002.pt"]
    found_best = best(tmp_path)
    assert found_best is not None
    assert (found_best.path.name, found_best.value) == ("step-00000001.pt", 0.3)
    assert load(aside / "step-00000003.pt").step == 3
    assert (aside / "metrics.jsonl").read_text() == "all\n"
    assert archive_newer(tmp_path, 2) is None
    save(tmp_path, state(3, 0.4), keep=9)
    assert archive_newer(tmp_path, 0) not in (None, aside)
    assert best(tmp_path) is None
    assert not (tmp_path / "checkpoints" / "best.json").exists()


def test_full_disk_leaves_older_checkpoints(tmp_path: Path) -> None:
    """In another process, because the limit on file sizes cannot be raised again."""
    save(tmp_path, state(1, 0.5), keep=2)
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    code = (
        "import resource, sys; from pathlib import Path; from dataclasses import replace; import torch\n"
        "from tgtrain.run.checkpoint import load, save\n"
        "found = load(Path(sys.argv[1]) / 'checkpoints' / 'step-00000001.pt')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))\n"
        "try:\n    save(Path(sys.argv[1]), replace(found, step=2, model={'w': torch.zeros(99_999)}), 2)\n"
        "except OSError as error:\n    print(error.strerror)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n"
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before
