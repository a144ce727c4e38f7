"""A trained run put to use by the commands: test, predict on raw videos, export, info, doctor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from cli.prep import main as tgprep
from cli.train import decode_children
from cli.train import main as tgtrain
from cli.train.decode_children import ViewJob, read_all
from tgtrain.config import load_recipe
from tgtrain.data.clip import ClipSettings
from tgtrain.doctor import examine
from tgtrain.run.summary import cost_of

TRAINING = (
    "optimiser.epochs=2", "batch.labelled=4", "batch.unlabelled=4", "data.size=48", "evaluate.every_epochs=1",
    "precise_bn.batches=2", "runtime.workers=0",
)  # fmt: skip


def call(main: Any, *words: object, expected: int = 0) -> Any:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == expected, done.output + (str(done.exception) if done.exception else "")
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Videos, a data set and a run of a few steps; do not change them."""
    root = tmp_path_factory.mktemp("use")
    before = Path.cwd()
    os.chdir(root)  # messages and defaults name places from here
    try:
        call(tgprep, "sample", "videos", "--num-classes", 2, "--num-groups", 4, "--clips-per-group", 1)
        call(tgprep, "extract", "videos", "dataset", "--threads", 1)
        call(tgprep, "split", "dataset", "--percent", 50, "--strategy", "stratified")
        sets = [word for text in TRAINING for word in ("--set", text)]
        call(tgtrain, "run", "dataset", "--recipe", "demo", "--out", "runs/demo", *sets)
        yield root
    finally:
        os.chdir(before)


def run_of(folder: Path) -> Path:
    return folder / "runs" / "demo"


def videos_of(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "videos").rglob("*") if path.suffix in (".avi", ".mp4", ".mkv", ".webm"))


def answers(output: str) -> dict[str, dict[str, Any]]:
    """By the name of the video file without its extension."""
    return {Path(each["video"]).stem: each for each in json.loads(output)["videos"]}


@pytest.mark.parametrize("modality", ["rgb", "both"])
def test_predict_gives_the_scores_of_a_test_up_to_jpeg(folder: Path, tmp_path: Path, modality: str) -> None:
    scores = tmp_path / "scores.parquet"
    call(tgtrain, "test", run_of(folder), "--views", "3x3", "--modality", modality, "--predictions", scores)
    tested = {row["key"].split("/")[1]: row["scores"] for row in pq.read_table(scores).to_pylist()}
    wanted = [path for path in videos_of(folder) if path.stem in tested]
    done = call(tgtrain, "predict", run_of(folder), *wanted, "--views", "3x3", "--modality", modality, "--json")
    found = answers(done.stdout)
    assert found.keys() == tested.keys()
    for stem, row in tested.items():
        got = {each["label"]: each["score"] for each in found[stem]["top"]}
        spread = max(row) - min(row)
        np.testing.assert_allclose([got[0], got[1]], row, atol=0.15 * spread + 0.05)
        assert sum(each["probability"] for each in found[stem]["top"]) == pytest.approx(1, abs=1e-5)


def test_a_run_of_two_networks_is_tested_with_each_and_with_both(folder: Path) -> None:
    run = run_of(folder)
    together = json.loads(call(tgtrain, "test", run, "--views", "2x3", "--json").stdout)
    files = {name: json.loads((run / f"test-2x3{name}.json").read_bytes()) for name in ("", "-tg", "-both")}
    shown = call(tgtrain, "test", run, "--views", "2x3").stdout
    assert "rgb       tg     both" in shown
    for name, modality in (("", "rgb"), ("-tg", "tg"), ("-both", "both")):
        alone = json.loads(call(tgtrain, "test", run, "--views", "2x3", "--modality", modality, "--json").stdout)
        assert json.loads((run / f"test-2x3{name}.json").read_bytes()) == files[name]
        assert alone["top1@2x3"] == files[name]["top1@2x3"] == together.get(modality, together)["top1@2x3"]


def test_predict_names_bad_videos_and_answers_the_others(folder: Path, tmp_path: Path) -> None:
    good = videos_of(folder)[0]
    shutil.copy(good, tmp_path / "good.avi")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "noise.mkv").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "notes.txt").write_text("no video")
    done = call(tgtrain, "predict", run_of(folder), tmp_path, tmp_path / "gone.mp4", "--json", expected=1)
    told = json.loads(done.stdout)
    assert [Path(each["video"]).name for each in told["videos"]] == ["good.avi"]
    assert {Path(each["video"]).name: each["reason"] for each in told["failed"]}.keys() == {
        "empty.mp4",
        "noise.mkv",
        "gone.mp4",
    }
    assert "the file is empty" in done.stderr
    assert (told["protocol"], told["modality"], told["step"]) == ("3x1", "rgb", 2)
    plain = call(tgtrain, "predict", run_of(folder), tmp_path / "good.avi", "--top", 1)
    lines = plain.stdout.splitlines()
    assert lines[0].endswith("good.avi")
    assert "%" in lines[1]
    assert len(lines) == 2


def test_predict_refuses_what_cannot_be_meant(folder: Path, tmp_path: Path) -> None:
    done = call(tgtrain, "predict", run_of(folder), tmp_path, expected=2)
    assert "holds no video files" in done.stderr
    assert "no run" in call(tgtrain, "predict", tmp_path, videos_of(folder)[0], expected=2).stderr
    done = call(tgtrain, "predict", run_of(folder), videos_of(folder)[0], "--views", "3x2", expected=2)
    assert "expected CLIPSxCROPS" in done.stderr


def test_a_decoder_that_crashes_hangs_or_grows_costs_one_video(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wild_decoder.py").write_text(
        "import os, time\n"
        "from tgprep.decode.open import open_video\n"
        "def decode(path):\n"
        "    if 'crash' in path.name: os.abort()\n"
        "    if 'hang' in path.name: time.sleep(600)\n"
        "    if 'grow' in path.name: kept = b'x' * (700 << 20); time.sleep(600)\n"
        "    return open_video(path, decoder='pyav', space='rgb', short_side=0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    paths = []
    monkeypatch.setattr(decode_children, "_MAX_MEMORY_MB", 600)
    for name in ("a", "crash", "b", "grow", "hang", "c"):
        paths.append(tmp_path / f"{name}.avi")
        shutil.copy(videos_of(folder)[0], paths[-1])
    job = ViewJob(paths[0], ClipSettings(size=32), 2, 1, True, True, 0, "wild_decoder:decode")
    replies = list(read_all(job, paths, children=1, deadline_seconds=6))
    large = "the decoder took over 600 MB of memory and was stopped"
    bad = ["", "the decoder crashed", "", large, "decoding took longer than 6 s", ""]
    assert [reply.bad for reply in replies] == bad
    assert len(replies[0].clips) == 2
    assert replies[0].clips[0].rgb.shape == (8, 32, 32, 3)
    np.testing.assert_array_equal(replies[0].clips[1].tg, replies[5].clips[1].tg)


def test_decoding_processes_import_no_torch(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "listing_decoder.py").write_text(
        "import sys\n"
        "def decode(path):\n"
        "    raise ValueError(sorted(name for name in sys.modules if name in ('torch', 'tgtrain.data.reader')))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    video = videos_of(folder)[0]
    job = ViewJob(video, ClipSettings(size=32), 1, 1, True, True, 0, "listing_decoder:decode")
    (reply,) = read_all(job, [video], children=1, deadline_seconds=60)
    assert reply.bad == "ValueError: ['tgtrain.data.reader']"


def test_an_interrupt_ends_predict_at_once_while_a_decoder_hangs(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "slow_decoder.py").write_text(
        "import time\nfrom pathlib import Path\n"
        f"def decode(path):\n    Path({str(tmp_path / 'begun')!r}).touch()\n    time.sleep(600)\n"
    )
    run = tmp_path / "run"
    shutil.copytree(run_of(folder), run)
    facts = json.loads((run / "config.json").read_text())
    facts["data"]["extraction"]["decoder"] = "slow_decoder:decode"
    (run / "config.json").write_text(json.dumps(facts))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tgtrain",
            "predict",
            str(run),
            str(videos_of(folder)[0].resolve()),
            "--decoder",
            "slow_decoder:decode",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 100
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.strip() == "Interrupted."


def test_two_processes_read_the_same_views_in_order(folder: Path) -> None:
    paths = videos_of(folder)[:5]
    job = ViewJob(paths[0], ClipSettings(size=32), 1, 3, True, False, 0, "pyav")
    one, two = (list(read_all(job, paths, children, 60)) for children in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert a.num_frames == b.num_frames > 0
        for view_a, view_b in zip(a.clips, b.clips, strict=True):
            np.testing.assert_array_equal(view_a.rgb, view_b.rgb)


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_an_exported_network_answers_as_the_model(folder: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / "network"
    done = call(tgtrain, "export", run_of(folder), "--format", form, "--output", path, "--json")
    told = json.loads(done.stdout)
    assert told["largest_difference"] < 1e-4
    assert (told["input"], told["num_classes"], told["size"]) == (["batch", 8, "height", "width", 3], 2, 48)
    # And by hand: pixels in, logits out, in another process that knows nothing of this package.
    clips = np.random.default_rng(1).integers(0, 256, (3, 8, 56, 56, 3), np.uint8)
    np.save(tmp_path / "clips.npy", clips)
    code = {
        "onnx": "import onnxruntime as o; s = o.InferenceSession({path!r}); a = s.run(None, {{'clips': c}})[0]; "
        "m = s.get_modelmeta().custom_metadata_map",
        "torch": "import torch; f = {{'tgtrain.json': ''}}; p = torch.export.load({path!r}, extra_files=f); "
        "a = p.module()(torch.from_numpy(c)).detach().numpy(); m = json.loads(f['tgtrain.json'])",
    }[form].format(path=str(path))
    script = (
        f"import json, numpy as np; c = np.load({str(tmp_path / 'clips.npy')!r}); {code}; "
        f"assert 'tgtrain' not in __import__('sys').modules; "
        f"print(json.dumps([a.tolist(), json.loads(m['classes']), json.loads(m['input'])]))"
    )
    if form == "torch":
        os.rename(path, path.with_suffix(".pt2"))  # noqa: PTH104
        script = script.replace(str(path), str(path.with_suffix(".pt2")))
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    got, classes, how = json.loads(ran.stdout)
    assert classes == told_classes(folder)
    assert (how["frames"], how["interval"], how["crop_pixels"]) == (8, 2, 48)

    from tgtrain.method.augment.apply import normalise
    from tgtrain.run.trained import read_trained

    with torch.no_grad():
        output = read_trained(run_of(folder)).model(rgb=normalise(torch.from_numpy(clips)))
    assert output.rgb is not None
    np.testing.assert_allclose(got, output.rgb.logits_BK.numpy(), rtol=1e-3, atol=1e-4)


def told_classes(folder: Path) -> list[str]:
    classes: list[str] = json.loads((run_of(folder) / "config.json").read_text())["data"]["classes"]
    return classes


def test_an_export_that_answers_otherwise_is_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tgtrain.evaluate import export

    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    done = call(tgtrain, "export", run_of(folder), "--format", "torch", "--output", tmp_path / "x.pt2", expected=1)
    assert "gives other logits than the model" in done.stderr
    assert not (tmp_path / "x.pt2").exists()


def test_export_without_its_packages_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    done = call(tgtrain, "export", run_of(folder), "--output", tmp_path / "x.onnx", expected=2)
    assert "pip install 'tgprep[export]'" in done.stderr
    done = call(tgtrain, "export", run_of(folder), "--output", tmp_path / "gone" / "x.onnx", expected=2)
    assert "a folder that exists" in done.stderr
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = call(tgtrain, "export", run_of(folder), "--output", tmp_path / "x.onnx")
    assert "not checked: onnxruntime is missing" in done.stderr


def test_info_tells_a_run(folder: Path) -> None:
    told = json.loads(call(tgtrain, "info", run_of(folder), "--json").stdout)
    assert (told["recipe"], told["state"], told["step"], told["num_steps"], told["epoch"]) == (
        "demo",
        "finished",
        2,
        2,
        2,
    )
    assert told["checkpoints"] == ["step-00000001.pt", "step-00000002.pt"]
    assert told["best_metric"] == "top1@1x1 on test"
    assert 0 <= told["best_value"] <= 1
    assert (told["data"]["num_videos"], told["data"]["num_classes"]) == (8, 2)
    assert told["split"]["name"].startswith("p50")
    shown = call(tgtrain, "info", run_of(folder)).stdout
    assert "finished, step 2 of 2, epoch 2 of 2" in shown
    assert "no run" in call(tgtrain, "info", folder, expected=2).stderr


def test_cost_of_the_published_models() -> None:
    ucf = load_recipe("ucf101-20", num_classes=101)
    cost = cost_of(ucf)
    assert (cost.parameters, cost.inference_parameters) == (68_013_130, 33_218_085)
    assert cost.gmacs_per_clip == pytest.approx(18.8, abs=0.05)
    assert cost.gmacs_per_video == pytest.approx(30 * cost.gmacs_per_clip * (256 / 224) ** 2, rel=0.02)
    mvpl = cost_of(load_recipe("ucf101-10-mvpl", num_classes=101))
    assert mvpl.inference_parameters == 31_634_496 + 206_949
    assert mvpl.gmacs_per_clip == pytest.approx(41.7, abs=0.05)
    alone = cost_of(replace(load_recipe("ucf101-20-fixmatch", num_classes=101)))
    assert alone.parameters == alone.inference_parameters == 33_218_085


def test_test_writes_features_and_prints_no_top5_of_two_classes(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    done = call(tgtrain, "test", run_of(folder), "--features", path, "--batch-views", 3)
    assert "top1@3x1" in done.stdout
    assert "top5" not in done.stdout
    table = pq.read_table(path)
    assert len(table) == 2
    assert table.column_names == ["key", "label", "class_name", "rgb_features", "tg_features"]
    done = call(tgtrain, "test", run_of(folder), "--features", tmp_path / "gone" / "f.parquet", expected=2)
    assert "a folder that exists" in done.stderr


def test_doctor_finds_this_machine_fit(tmp_path: Path) -> None:
    told = json.loads(call(tgtrain, "doctor", tmp_path, "--json").stdout)
    levels = {finding["name"]: finding["level"] for finding in told["findings"]}
    assert told["ok"]
    assert {levels[name] for name in ("python", "torch", "simplejpeg", "gloo")} == {"ok"}
    assert {"shared memory", "open files", "disk", "space", "processor", "memory", "video"} <= levels.keys()
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tgtrain import doctor

    monkeypatch.setattr(doctor, "SHARED_MEMORY_BYTES", 10**15)
    monkeypatch.setattr(doctor, "OPEN_FILES", 10**9)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    found = {finding.name: finding for finding in examine(tmp_path / "not" / "there")}
    assert found["simplejpeg"].level == "error"
    assert "pip install" in found["simplejpeg"].advice
    assert "--shm-size" in found["shared memory"].advice
    assert found["open files"].level == "warning"
    assert found["jpeg"].level == "error"  # a check that fails is a finding, not a traceback
    assert "Wrong: simplejpeg" in call(tgtrain, "doctor", tmp_path, expected=1).stdout
