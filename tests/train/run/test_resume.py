"""Resume, roll back, begin from another run: the folder always holds one course of training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from manifests.manifest_io import file_sha256
from manifests.records import InputError
from tests.train.support import ALONE, equal, records, run, setup_of, weights
from tgtrain.ranks.distributed import Ranks
from tgtrain.run.checkpoint import best, list_checkpoints, load
from tgtrain.run.folder import owned
from tgtrain.train.trainer import RunError, train

EVERY_EPOCH = "evaluate.every_epochs=1"
KEEP_ALL = "evaluate.keep=9"


@pytest.fixture(scope="module")
def whole(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with all its checkpoints; copy it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(data_set, folder, EVERY_EPOCH, KEEP_ALL)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def steps(folder: Path) -> list[int]:
    return [int(path.stem[5:]) for path in list_checkpoints(folder)]


def say_into(said: list[str], data_set: Path, folder: Path, *overrides: str, **options: object) -> None:
    train(setup_of(data_set, EVERY_EPOCH, KEEP_ALL, *overrides), folder, ALONE, log=said.append, **options)  # type: ignore[arg-type]


def test_roll_back_archives_later_checkpoints_and_reaches_the_same_end(data_set: Path, whole: Path, copy: Path) -> None:
    assert steps(copy) == [3, 6, 9, 12]
    said: list[str] = []
    say_into(said, data_set, copy, resume="step-00000003.pt", max_steps=6)
    assert any("archived in" in text for text in said)
    assert steps(copy) == [3, 6]
    assert [record["step"] for record in records(copy, "evaluate")] == [3, 6]
    aside = copy / "checkpoints" / "set-aside-1"
    assert {path.name for path in aside.glob("*.pt")} == {f"step-{step:08d}.pt" for step in (6, 9, 12)}
    assert len((aside / "metrics.jsonl").read_text().splitlines()) == len(
        (whole / "metrics.jsonl").read_text().splitlines()
    )
    found, known = best(copy), {record["step"]: record["top1@1x1"] for record in records(whole, "evaluate")}
    assert found is not None
    assert (found.path.name, found.value) == (
        ("step-00000003.pt", known[3]) if known[3] >= known[6] else ("step-00000006.pt", known[6])
    )
    # The same command again resumes instead of rolling back, because a requeued job repeats it.
    say_into(said, data_set, copy, resume=str(copy / "checkpoints" / "step-00000003.pt"))
    assert any("was begun from step-00000003.pt before and goes on" in text for text in said)
    assert steps(copy) == [3, 6, 9, 12]
    assert equal(weights(copy), weights(whole))


def test_another_run_begins_from_a_checkpoint_and_keeps_it(data_set: Path, whole: Path, tmp_path: Path) -> None:
    named = str(whole / "checkpoints" / "step-00000006.pt")
    before = {path.name: file_sha256(path) for path in whole.rglob("*.pt")}
    say_into([], data_set, tmp_path / "new", resume=named, max_steps=7)
    assert steps(tmp_path / "new") == [6, 7]
    say_into([], data_set, tmp_path / "new", resume=named)
    assert equal(weights(tmp_path / "new"), weights(whole))
    assert {path.name: file_sha256(path) for path in whole.rglob("*.pt")} == before
    with pytest.raises(InputError, match=r"has its own checkpoints \(step-00000006.pt to step-00000012.pt\)"):
        say_into([], data_set, tmp_path / "new", resume=str(whole / "checkpoints" / "step-00000003.pt"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimiser.learning_rate=0.07", r"optimiser.learning_rate: [\d.]+ there, 0.07 asked"),
        ("model.width=8", "something else: model.width: 4 there, 8 asked[.]$"),
        ("runtime.seed=5", "runtime.seed: 0 there, 5 asked"),
    ],
)
def test_checkpoint_of_other_settings_is_refused(
    data_set: Path, whole: Path, tmp_path: Path, override: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        say_into([], data_set, tmp_path / "new", override, resume=str(whole / "checkpoints" / "step-00000006.pt"))
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_of_another_data_set_is_refused(
    make_data_set: Callable[..., Path], whole: Path, tmp_path: Path
) -> None:
    other = make_data_set("other", num_frames=21)
    with pytest.raises(InputError, match=r"data set \w+ there, \w+ now"):
        say_into([], other, tmp_path / "new", resume=str(whole / "checkpoints" / "step-00000006.pt"))


def test_damaged_checkpoints_are_archived(data_set: Path, whole: Path, copy: Path) -> None:
    newest = list_checkpoints(copy)[-1]
    newest.write_bytes(newest.read_bytes()[:-9])
    said: list[str] = []
    say_into(said, data_set, copy)
    assert any("step-00000012.pt is damaged" in text for text in said)
    assert (copy / "checkpoints" / "set-aside-1" / "step-00000012.pt").is_file()
    assert equal(weights(copy), weights(whole))


def test_run_with_only_damaged_checkpoints_is_refused_unchanged(data_set: Path, copy: Path) -> None:
    for path in list_checkpoints(copy):
        path.write_bytes(b"x")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(InputError, match=r"step-00000012.pt is damaged.*step-00000003.pt is damaged.*begin at step 0"):
        say_into([], data_set, copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.name != ".lock"} == before


def test_start_killed_before_config_json_starts_again(data_set: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").write_text("process 1")
    (folder / ".tmp-0123-config.json").write_text("{")
    run(data_set, folder, max_steps=1)
    assert not list(folder.glob(".tmp-*"))


def test_folder_filled_by_another_process_is_checked_again(
    data_set: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (copy / "config.json").read_bytes()

    def filled(setup: object, ranks: object) -> None:
        (copy / "config.json").write_bytes(config)

    (copy / "config.json").unlink()
    for entry in copy.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    monkeypatch.setattr("tgtrain.train.trainer.step_dataset", filled)
    with pytest.raises(InputError, match="holds a run with other settings: runtime.seed: 0 there, 3 asked"):
        say_into([], data_set, copy, "runtime.seed=3")


def test_other_block_shards_are_refused_with_a_hint(data_set: Path, copy: Path) -> None:
    """As of a run on a URL that resumes from a local copy: by its folder, and by its checkpoint elsewhere."""
    before = "data.block_shards: 0 there, 32 asked"
    how = "To resume from either: --set data.block_shards=0."
    with pytest.raises(InputError, match=f"holds a run with other settings: {before}.*{how}"):
        say_into([], data_set, copy, "data.block_shards=32")
    (copy / "config.json").unlink()
    checkpoint = copy / "checkpoints" / "step-00000003.pt"
    with pytest.raises(InputError, match=f"belongs to something else: {before}.*{how}"):
        say_into([], data_set, copy.with_name("new"), "data.block_shards=32", resume=str(checkpoint))
    with pytest.raises(InputError) as caught:
        say_into([], data_set, copy.with_name("new"), "runtime.seed=3", resume=str(checkpoint))
    assert "block_shards" not in str(caught.value)


def test_ranks_with_different_checkpoints_are_refused(data_set: Path, copy: Path) -> None:
    class Others(Ranks):
        def gather(self, value: object) -> list[object]:
            return [value, 3]

    with pytest.raises(InputError, match="it must be one folder, shared by all"):
        train(setup_of(data_set, EVERY_EPOCH, KEEP_ALL), copy, Others(0, 1, ALONE.device), log=lambda text: None)


def test_not_finite_weights_stop_on_every_rank(data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.optim.SGD.step

    def step(self: torch.optim.SGD, *args: object) -> object:
        done = real(self, *args)  # type: ignore[arg-type]
        if len(list_checkpoints(tmp_path / "run")) == 1:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(float("nan"))
        return done

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    with pytest.raises(RunError, match="no finite number"):
        run(data_set, tmp_path / "run", EVERY_EPOCH, "runtime.log_every=99", max_steps=4)
    assert steps(tmp_path / "run") == [3]
    assert all(value.isfinite().all() for value in load(list_checkpoints(tmp_path / "run")[-1]).model.values())


def test_lock_creates_the_folder(tmp_path: Path) -> None:
    with owned(tmp_path / "a" / "b"):
        assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [".lock"]
    with pytest.raises(InputError, match="Name another folder with --out"), owned(Path("/proc/nothing")):
        pass


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b"", "is damaged"),
        (b"[]", "is not what this version writes"),
        (b'{"config": 3}', "is not what this version writes"),
        ({"data": 3}, r"data: Input should be an object"),
        ({"num_steps": "many"}, "num_steps"),
        ({"split": {"name": "x"}}, "split.digest: Field required"),
        ({"config": {"nope": {"x": 1}}}, "nope.x"),
        ({"config": {"model": 3}}, "model"),
        ({"config": {"a.b": 3}}, "a.b"),
    ],
)
def test_damaged_config_json_is_named(copy: Path, damage: object, said: str, data_set: Path) -> None:
    path = copy / "config.json"
    if isinstance(damage, dict):
        damage = json.dumps({**json.loads(path.read_bytes()), **damage}).encode()
    assert isinstance(damage, bytes)
    path.write_bytes(damage)
    with pytest.raises(InputError, match=said):
        say_into([], data_set, copy)
