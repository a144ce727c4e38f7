"""Runs of the transformer by the commands: they learn, resume to the same bits, are tested and exported, and need their extra."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from cli.train import main
from manifests.records import InputError
from tests.train.support import ALONE, equal, records, run, setup_of, weights
from tgtrain.evaluate.batch_norm import recompute_batch_norm
from tgtrain.report.page import write_report
from tgtrain.run.checkpoint import list_checkpoints, load
from tgtrain.run.trained import read_trained
from tgtrain.train.estimate import of_training
from tgtrain.train.learner import Learner
from tgtrain.train.preflight import require_room, require_settings

NETWORK = (
    "model.backbone=videomae", "model.hidden_size=32", "model.layers=2", "model.heads=2", "model.patch=8",
    "model.drop_path=0.3", "optimiser.name=adamw", "optimiser.learning_rate=0.002", "optimiser.layer_decay=0.75",
    "optimiser.weight_decay=0.05", "data.test_size=0", "evaluate.every_epochs=1", "optimiser.epochs=2", "runtime.log_every=1",
)  # fmt: skip
WAYS = {
    "supervised, bfloat16, kept inputs": (
        "demo-supervised", "runtime.precision=bfloat16", "runtime.checkpoint_activations=true",
    ),
    "fixmatch with a teacher": ("demo-fixmatch", "method.teacher=ema", "method.teacher_decay=0.8", "method.warmup_epochs=0"),
    "uda in parts": ("demo-fixmatch", "method.method=uda", "runtime.accumulate=2", "method.warmup_epochs=0"),
    "ltg in parts": ("demo", "runtime.accumulate=2", "method.warmup_epochs=0", "model.stage_layers=[1, 1, 2, 2]"),
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of RGB and TG; do not change it."""
    folder = tmp_path_factory.mktemp("transformer") / "run"
    run(data_set, folder, *NETWORK)
    return folder


def call(*words: object, expected: int = 0) -> Any:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == expected, done.output + (str(done.exception) if done.exception else "")
    return done


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_run_resumes_to_the_same_bits(data_set: Path, tmp_path: Path, way: str) -> None:
    recipe, *changes = WAYS[way]
    run(data_set, tmp_path / "whole", *NETWORK, *changes, recipe=recipe)
    for stop in (2, None):
        run(data_set, tmp_path / "parts", *NETWORK, *changes, recipe=recipe, max_steps=stop)
    found = weights(tmp_path / "whole")
    assert equal(weights(tmp_path / "parts"), found)
    assert any(name.endswith(".exp_avg_sq") for name in found)
    assert any(name.startswith("teacher.") for name in found) == ("teacher" in way)
    lines = records(tmp_path / "whole", "train")
    terms = {name for name in lines[-1] if name.startswith("loss/")}
    assert {"loss/supervised_rgb"} <= terms
    if recipe == "demo":
        assert {"loss/align_stage1", "loss/align_stage4", "loss/contrast_crossview_sameclip", "loss/pseudo_tg"} <= terms
    # Each group has its own rate.
    groups = load(list_checkpoints(tmp_path / "whole")[-1]).optimiser["param_groups"]
    assert {round(group["lr"] / lines[-1]["learning_rate"], 4) for group in groups} == {1.0, 0.75, 0.5625, 0.4219}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.05}


@pytest.mark.long
def test_test_info_export_report_and_bench(data_set: Path, finished: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores.parquet"
    call("test", finished, "--views", "2x3", "--modality", "both", "--predictions", scores)
    assert len(pq.read_table(scores)) == 6
    cost = json.loads(call("info", finished, "--json").output)["cost"]
    assert min(cost["gmacs_per_clip"], cost["gmacs_per_video"]) > 0
    for form in ("onnx", "torch"):
        said = json.loads(call("export", finished, "--format", form, "--output", tmp_path / form, "--json").output)
        assert 0 <= said["largest_difference"] < 1e-4
        assert said["input"] == ["batch", 4, 32, 32, 3]
    assert (
        "32, 32, 3] -> logits" in call("export", finished, "--format", "torch", "--output", tmp_path / "again").output
    )
    assert "videomae" in write_report([finished]).read_text()
    sets = [word for text in NETWORK for word in ("--set", text)]
    small = ("data.clip_frames=4", "data.size=32", "batch.labelled=4", "batch.unlabelled=4", "runtime.workers=0")
    sets += [word for text in small for word in ("--set", text)]
    assert "Bottleneck" in call("bench", data_set, "--recipe", "demo", *sets, "--seconds", 0.1).output


def test_precise_batch_norm_has_nothing_to_do(data_set: Path, finished: Path) -> None:
    trained = read_trained(finished)
    assert trained.precise_bn
    setup = setup_of(data_set, *NETWORK, "precise_bn.batches=3")
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    assert recompute_batch_norm(trained.model, setup, ALONE).num_batches == 0
    assert equal(dict(trained.model.state_dict()), before)
    # A batch of one clip is enough without BatchNorm, and the projection of the contrast has some.
    one = ("batch.labelled=1", "batch.unlabelled=1")
    require_settings(setup_of(data_set, *NETWORK, *one, recipe="demo-supervised").config, ALONE)
    with pytest.raises(InputError, match="BatchNorm has a single value per channel"):
        require_settings(setup_of(data_set, *NETWORK, "batch.labelled=1", "batch.unlabelled=1", "method.weak_forward=apart",
                                  "method.align_stages=[]", "method.contrast=[]", "model.projection=none",
                                  "model.backbone=r3d", "optimiser.name=sgd", "data.size=16").config, ALONE)  # fmt: skip


def test_adamw_takes_room_for_two_momenta(data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    for name in ("sgd", "adamw"):
        monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 0})())
        with pytest.raises(InputError) as caught:
            require_room(
                tmp_path, setup_of(data_set, *NETWORK, "model.hidden_size=512", f"optimiser.name={name}").config
            )
        said.append(int(str(caught.value).split("checkpoints of ")[1].split()[0]))
    assert said[1] == pytest.approx(1.5 * said[0], rel=0.02)


def test_state_of_adamw_from_a_gpu_is_restored_here(data_set: Path, finished: Path) -> None:
    """A fused kernel keeps its step count on the device; here another kernel is used."""
    found = load(list_checkpoints(finished)[-1])
    for group in found.optimiser["param_groups"]:
        group["fused"] = True
    learner = Learner(setup_of(data_set, *NETWORK).config, ALONE, steps_per_epoch=3)
    learner.load(found)
    assert {group["fused"] for group in learner.optimiser.param_groups} == {None}
    state = learner.optimiser.state_dict()["state"]
    assert all(torch.equal(state[number]["exp_avg"], of["exp_avg"]) for number, of in found.optimiser["state"].items())
    assert {float(of["step"]) for of in state.values()} == {float(found.step)}


def test_without_the_extra_nothing_is_written_and_other_runs_do_not_import_it(data_set: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['transformers'] = None\n"  # an import of it fails
        "from click.testing import CliRunner\n"
        "from cli.train import main\n"
        "for words in (sys.argv[1:], [*sys.argv[1:-1], sys.argv[-1] + '2', '--set', 'model.backbone=videomae']):\n"
        "    done = CliRunner().invoke(main, words); print(done.exit_code, done.output[-400:])\n"
    )
    small = (
        "data.clip_frames=4",
        "data.size=32",
        "batch.labelled=4",
        "batch.unlabelled=4",
        "model.width=2",
        "runtime.workers=0",
    )
    words = ["run", str(data_set), "--recipe", "demo-supervised", "--max-steps", "1"]
    words += [word for text in small for word in ("--set", text)] + ["--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    first, _, second = done.stdout.partition("\n2 ")
    assert first.startswith("0 "), done.stdout + done.stderr
    assert (tmp_path / "run" / "checkpoints").is_dir()
    assert "model.backbone=videomae needs the package transformers" in second
    assert "pip install 'tgprep[vit]'" in second
    assert "Traceback" not in second
    assert not (tmp_path / "run2").exists()


@pytest.mark.parametrize("network", [NETWORK, ("model.depth=10",)])
def test_memory_of_kept_inputs_in_bfloat16_is_known_beforehand(data_set: Path, network: tuple[str, ...]) -> None:
    """The blocks are computed twice in half precision, of tensors without values, too."""
    half = (*network, "runtime.precision=bfloat16", "data.size=64", "batch.labelled=48")
    plain, saving = (
        of_training(
            setup_of(data_set, *half, f"runtime.checkpoint_activations={each}", recipe="demo-supervised").config
        )
        for each in ("false", "true")
    )
    assert 0 < saving.device_bytes < plain.device_bytes
    assert saving.flops > plain.flops
