"""`tgtrain bench`: figures of real data sets of every form, one screen, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.prep import main as tgprep
from cli.train import main as tgtrain
from cli.train.bench import _advice
from tests.object_store import ObjectStore
from tests.train.support import write_data_set
from tgtrain.train.bench import Balance, LoaderFigure, StepFigure

SMALL = (
    "data.clip_frames=4", "data.interval=2", "data.size=32", "batch.labelled=2", "batch.unlabelled=2", "model.depth=10",
    "model.width=4",
)  # fmt: skip
SETS = [word for text in SMALL for word in ("--set", text)]


def bench(root: object, *words: str, expected: int = 0) -> Any:
    done = CliRunner().invoke(tgtrain, ["bench", str(root), "--seconds", "0.1", *SETS, *words])
    assert done.exit_code == expected, done.output + (str(done.exception) if done.exception else "")
    return done


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bench") / "set"
    write_data_set(place)
    return place


def test_json_has_the_promised_keys(root: Path) -> None:
    found = json.loads(bench(root, "--workers", "1", "--json").stdout)
    assert found["loader_clips_per_second"] > 0
    assert found["step_clips_per_second"] > 0
    assert found["bottleneck"] == (
        "loader" if found["loader_clips_per_second"] < found["step_clips_per_second"] else "step"
    )
    assert found["workers"] == 1
    assert found["recipe"] == "ucf101-20"
    assert found["clip"] == {"frames": 4, "size": 32, "views": ["rgb", "tg"]}
    assert found["batch_clips"] == 4
    assert [figure["workers"] for figure in found["loaders"]] == [1]


def test_default_clip_is_the_published_one(root: Path) -> None:
    networks = ("batch.labelled=1", "batch.unlabelled=1", "model.depth=10", "model.width=4")
    words = [word for text in networks for word in ("--set", text)]
    done = CliRunner().invoke(tgtrain, ["bench", str(root), "--seconds", "0.1", "--workers", "0", "--json", *words])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["clip"] == {"frames": 8, "size": 224, "views": ["rgb", "tg"]}


def test_one_screen_of_80_columns(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = bench(root, "--recipe", "demo")
    lines = done.stdout.splitlines()
    assert len(lines) < 24
    shown = [line for line in lines if str(root) not in line]
    assert max(map(len, shown)) <= 80, max(shown, key=len)
    assert "clip: 4 RGB + 4 TG frames at 32 x 32" in done.stdout
    assert "Bottleneck: the " in done.stdout
    assert "20 % headroom" in done.stdout or "this device" in done.stdout


@pytest.mark.parametrize(
    ("rates", "workers", "cores", "said"),
    [
        ({1: 110, 2: 105}, 1, 2, "About 3 loader processes would have 20 % headroom, but this process may use 2 cores. As many as cores: --set runtime.workers=2"),
        ({1: 105, 2: 110}, 2, 2, "About 3 loader processes would have 20 % headroom, but this process may use 2 cores."),
        ({1: 105}, 1, 1, "About 2 loader processes would have 20 % headroom, but this process may use 1 core."),
        ({1: 110, 2: 200}, 1, 2, "About 2 loader processes would have 20 % headroom: --set runtime.workers=2"),
        ({1: 40, 2: 80, 4: 160, 8: 320}, 8, 8, "About 3 loader processes would have 20 % headroom: --set runtime.workers=3"),
        ({0: 300}, 0, 2, "About 1 loader process would have 20 % headroom: --set runtime.workers=1"),
        ({1: 110, 2: 130}, 2, 2, "The loader has 20 % headroom."),
        ({8: 400}, 8, 2, "About 3 loader processes would have 20 % headroom, but this process may use 2 cores."),
        ({0: 50}, 0, 4, "About 3 loader processes feed this device: --set runtime.workers=3"),
        ({0: 90, 1: 130}, 0, 4, "About 1 loader process feeds this device: --set runtime.workers=1"),
        ({1: 40, 2: 50}, 2, 2, "About 3 loader processes would feed this device, but this process may use 2 cores: it needs more of them, or smaller clips."),
    ],
)  # fmt: skip
def test_advice_never_exceeds_the_cores(rates: dict[int, int], workers: int, cores: int, said: str) -> None:
    """Beside a step of 100 clips a second."""
    loaders = tuple(LoaderFigure(count, clips, 1.0, 0.1) for count, clips in rates.items())
    assert _advice(Balance(loaders, StepFigure(80, 80, 5, 4.0), workers), cores) == said


@pytest.mark.parametrize(
    ("options", "sets"),
    [
        (("--store", "video"), ()),
        (("--gradient", "derived"), ("--set", "data.gradient=slow")),
        (("--flow", "dis"), ("--set", "data.gradient=flow")),
    ],
    ids=["video", "derived", "flow"],
)
def test_every_form_of_data_set(options: tuple[str, ...], sets: tuple[str, ...], tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "set"
    for words in (
        ["sample", str(videos), "--num-classes", "2", "--num-groups", "3", "--clips-per-group", "1"],
        ["extract", str(videos), str(out), "--threads", "1", *options],
        ["split", str(out), "--percent", "50", "--strategy", "stratified"],
    ):
        done = CliRunner().invoke(tgprep, words)
        assert done.exit_code == 0, done.output
    found = json.loads(bench(out, "--workers", "0", "--json", *sets).stdout)
    assert found["loader_clips_per_second"] > 0


def test_streams_are_measured_too(root: Path) -> None:
    found = json.loads(bench(root, "--workers", "1", "--set", "data.reader=stream", "--json").stdout)
    assert found["loader_clips_per_second"] > 0


def test_a_data_set_in_a_store(root: Path, store: ObjectStore, tmp_path: Path) -> None:
    url = store.bucket("bench") + "/set"
    store.upload(root, url)
    done = bench(url, "--workers", "1", "--cache", str(tmp_path / "cache"), "--cache-gb", "1")
    assert "Shards came through the cache" in done.stdout
    assert list((tmp_path / "cache").iterdir())


def test_invalid_options_are_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No data set at" in bench(tmp_path / "none", expected=2).output
    assert "unlike" in bench(root, "--split", "unlike", expected=2).output
    assert "No recipe 'demos'. Nearest: demo" in bench(root, "--recipe", "demos", expected=2).output
    assert "nearest valid key: data.size" in bench(root, "--set", "data.sise=3", expected=2).output
    assert "-1 is not in the range" in bench(root, "--workers", "-1", expected=2).output
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start it without torchrun" in bench(root, expected=2).output
    monkeypatch.delenv("WORLD_SIZE")
    task = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    for name, value in task.items():
        monkeypatch.setenv(name, value)
    assert "start it without torchrun or srun" in bench(root, expected=2).output


def test_missing_split_is_explained(tmp_path: Path) -> None:
    write_data_set(tmp_path / "set")
    for path in (tmp_path / "set" / "splits").iterdir():
        path.unlink()
    assert "tgprep split" in bench(tmp_path / "set", expected=2).output
