"""Runs that start from weights: what they begin with, what stays frozen, and how they resume without the file."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from click.testing import CliRunner
from torch import Tensor

from cli.train import main
from manifests.records import InputError
from tests.train.run.sources import Rename, mmaction_name, r3d_state, reference_file, torchvision_name
from tests.train.support import ALONE, SMALL, equal, run, setup_of, weights
from tgtrain.data.loader import worker_context
from tgtrain.ranks.distributed import Ranks
from tgtrain.report.page import write_report
from tgtrain.run.checkpoint import list_checkpoints, load
from tgtrain.run.folder import read_facts
from tgtrain.train.learner import Learner
from tgtrain.train.trainer import train

SMALL_NETWORK = ("model.depth=10", "model.width=4")


def state_of(rename: Rename, **options: Any) -> dict[str, Tensor]:
    return r3d_state(rename, blocks=1, **options)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with torchvision's names."""
    path = tmp_path_factory.mktemp("weights") / "r3d.pth"
    torch.save(state_of(torchvision_name), path)
    return path


def words(root: Path, out: Path, *options: str) -> list[str]:
    settings = [word for setting in (*SMALL, *SMALL_NETWORK) for word in ("--set", setting)]
    return ["run", str(root), "--recipe", "demo", "--out", str(out), *settings, "--max-steps", "2", *options]


def tgtrain(*command: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(command))
    return done.exit_code, done.output


def test_option_prints_the_table_and_the_run_knows_its_file(data_set: Path, tmp_path: Path, file: Path) -> None:
    out = tmp_path / "run"
    code, said = tgtrain(*words(data_set, out, "--init", str(file)))
    assert code == 0, said
    (row, other) = read_facts(out).weights
    assert (row.network, other.network, row.path) == ("rgb", "tg", str(file))
    said = " ".join(said.split())  # prose is folded
    assert f"weights of rgb from {file} (names of torchvision, sha256 {row.sha256[:16]}):" in said
    assert said.index("weights of rgb") < said.index("step 2")
    assert "classifier new: 400 classes there, 3 here" in said
    assert "tensors: 60 of 60 matched, 0 missing, 0 misshapen, 2 left over" in said
    assert "left over: fc.weight, fc.bias" in said
    config = json.loads((out / "config.json").read_text())["config"]["model"]
    assert (config["init"], config["init_sha256"], config["init_tg_sha256"]) == (str(file), row.sha256, row.sha256)
    code, shown = tgtrain("info", str(out))
    assert f"rgb: 60 of 60 tensors from {file} (sha256 {row.sha256[:16]}), classifier new" in shown
    assert json.loads(tgtrain("info", str(out), "--json")[1])["weights"][1]["num_matched"] == 60
    page = write_report([out]).read_text()
    assert row.sha256 in page
    assert str(file) in page


def test_every_tensor_of_the_file_is_where_training_begins(data_set: Path, tmp_path: Path) -> None:
    """With a rate near 0, two steps leave the weights where they began."""
    state = reference_file(tmp_path / "epoch_180.pth", classes=3, blocks=1)
    slow = (
        "optimiser.learning_rate=1e-12",
        "optimiser.weight_decay=0",
        "precise_bn.batches=0",
        f'model.init="{tmp_path}/epoch_180.pth"',
    )
    run(data_set, tmp_path / "run", *SMALL_NETWORK, *slow, max_steps=1)
    now = weights(tmp_path / "run")
    for ours, theirs in {"rgb.stage1.block0.conv2.weight": "backbone.layer1.0.conv2.conv.weight",
                         "tg.stage4.block0.shortcut.conv.weight": "temp_backbone.layer4.0.downsample.conv.weight",
                         "head_rgb.fc.weight": "cls_head.fc_cls.weight", "head_tg.fc.weight": "temp_sup_head.fc_cls.weight",
                         "project_tg.fc3.weight": "contrast_head_tg.fcs.6.weight"}.items():  # fmt: skip
        torch.testing.assert_close(now[f"model.{ours}"], state[theirs], rtol=1e-5, atol=1e-6)
    run(data_set, tmp_path / "scratch", *SMALL_NETWORK, *slow, "model.init_tg=scratch", max_steps=1)
    run(data_set, tmp_path / "plain", *SMALL_NETWORK, *slow[:3], max_steps=1)
    mixed, plain = weights(tmp_path / "scratch"), weights(tmp_path / "plain")
    for name in ("model.tg.stem.conv.weight", "model.head_tg.fc.weight"):
        torch.testing.assert_close(mixed[name], plain[name])
    assert torch.equal(mixed["model.rgb.stem.conv.weight"], now["model.rgb.stem.conv.weight"])


def test_a_run_without_init_is_what_it_was(data_set: Path, tmp_path: Path) -> None:
    setup = setup_of(data_set)
    assert "init" not in setup.identity.model
    assert "freeze" not in setup.identity.model  # checkpoints of earlier versions name their model without these
    run(data_set, tmp_path / "run", max_steps=1)
    assert read_facts(tmp_path / "run").weights == ()


def test_own_runs_and_checkpoints_start_others(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "base", max_steps=2)
    (checkpoint,) = list_checkpoints(tmp_path / "base")
    for number, path in enumerate((tmp_path / "base", checkpoint)):
        run(data_set, tmp_path / f"run{number}", f'model.init="{path}"', max_steps=1)
        assert {row.path for row in read_facts(tmp_path / f"run{number}").weights} == {str(checkpoint)}
    assert equal(weights(tmp_path / "run0"), weights(tmp_path / "run1"))
    # The run goes on: another one that began from its checkpoint of then is the same, whether that is still there or not.
    run(data_set, tmp_path / "base", max_steps=3)
    for path in (tmp_path / "run0" / "checkpoints").iterdir():
        path.unlink()  # as if it was killed before its first checkpoint
    run(data_set, tmp_path / "run0", f'model.init="{tmp_path / "base"}"', max_steps=1)
    run(data_set, tmp_path / "base", max_steps=12)
    assert not checkpoint.exists()
    for number in range(2):
        run(data_set, tmp_path / f"run{number}", f'model.init="{(tmp_path / "base", checkpoint)[number]}"', max_steps=2)
    assert equal(weights(tmp_path / "run0"), weights(tmp_path / "run1"))
    checkpoint = list_checkpoints(tmp_path / "base")[0]
    # RGB alone, and TG alone, from a run of both; TG from another file than RGB.
    one = ("model.projection=none", "method.align_stages=[]", "method.contrast=[]")
    for view in ("rgb", "tg"):
        setup = setup_of(data_set, f"model.streams={view}", *one, f'model.init="{checkpoint}"')
        train(setup, tmp_path / view, ALONE, max_steps=1, log=lambda text: None)
        (row,) = read_facts(tmp_path / view).weights
        assert (row.network, row.prefix) == (view, f"model.{view}")
    run(
        data_set,
        tmp_path / "both",
        f'model.init="{tmp_path / "rgb"}"',
        f'model.init_tg="{tmp_path / "tg"}"',
        max_steps=1,
    )
    assert [Path(row.path).parent.parent.name for row in read_facts(tmp_path / "both").weights] == ["rgb", "tg"]
    run(data_set, tmp_path / "only tg", f'model.init_tg="{tmp_path / "tg"}"', max_steps=1)
    assert [row.network for row in read_facts(tmp_path / "only tg").weights] == ["tg"]


def test_a_run_resumes_without_the_file_and_notices_another(data_set: Path, tmp_path: Path, file: Path) -> None:
    own = tmp_path / "own.pth"
    own.write_bytes(file.read_bytes())
    init = (*SMALL_NETWORK, f'model.init="{own}"')
    run(data_set, tmp_path / "whole", *init, max_steps=6)
    run(data_set, tmp_path / "run", *init, max_steps=3)
    torch.save(state_of(torchvision_name, seed=4), own)
    with pytest.raises(InputError, match=r"own.pth has changed since .*run began: sha256 .* now, .* then"):
        run(data_set, tmp_path / "run", *init, max_steps=6)
    own.unlink()
    # The same file elsewhere, and no other one, nor another start of TG.
    for changed in (f'model.init="{file}"', *init[-1:]):
        assert run(data_set, tmp_path / "run", *SMALL_NETWORK, changed, max_steps=4).step == 4
    for changed in ("model.init_tg=scratch", 'model.init=""', "model.freeze_stages=1"):
        with pytest.raises(InputError, match="holds a run with other settings: model"):
            run(data_set, tmp_path / "run", *SMALL_NETWORK, f'model.init="{file}"', changed, max_steps=6)
    run(data_set, tmp_path / "run", *init, max_steps=6)
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    # A run that was killed before its first checkpoint needs the file again.
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"No file .*own.pth|own.pth cannot be read"):
        run(data_set, tmp_path / "run", *init, max_steps=6)


def test_what_does_not_fit_is_refused_before_anything_is_written(data_set: Path, tmp_path: Path, file: Path) -> None:
    for options, said in {
        ("--init", str(file), "--set", "model.width=8"): "does not fit the network rgb (r3d, depth 10, width 8)",
        ("--init", str(tmp_path / "none.pth")): "No file",
        ("--set", "model.freeze_stages=1"): "expected weights to start from",
        ("--init", str(file), "--set", "model.freeze_stages=5"): "freeze_stages: got 5, expected 0 to 4",
        ("--set", "model.init_sha256=aa"): "none without init",
    }.items():
        code, shown = tgtrain(*words(data_set, tmp_path / "run", *options))
        assert code == 2
        assert said in shown
        assert "Traceback" not in shown
        assert not (tmp_path / "run").exists()


def test_finetune_recipes_name_what_they_lack(data_set: Path, tmp_path: Path) -> None:
    small = [word for setting in SMALL for word in ("--set", setting)]
    code, said = tgtrain("run", str(data_set), "--recipe", "ucf101-10-finetune", "--out", str(tmp_path / "run"), *small)
    assert code == 2
    assert "The recipe ucf101-10-finetune starts from weights: name them with --init PATH" in said
    assert not (tmp_path / "run").exists()


FROZEN = (
    "model.freeze_stages=2",
    "precise_bn.batches=2",
    "precise_bn.tg=joint",
    "evaluate.every_epochs=1",
    "runtime.log_every=1",
)


def parts(state: dict[str, Tensor], *starts: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.removeprefix("model.").startswith(starts)}


@pytest.mark.parametrize("extra", [(), ("runtime.accumulate=2",), ("runtime.checkpoint_activations=true",)])
def test_frozen_stages_keep_every_bit(data_set: Path, tmp_path: Path, file: Path, extra: tuple[str, ...]) -> None:
    """Weights and statistics of stem and two stages, through steps, precise BatchNorm and a resume."""
    init = (*SMALL_NETWORK, f'model.init="{file}"', *FROZEN, *extra)
    run(data_set, tmp_path / "run", *init, max_steps=3)
    run(data_set, tmp_path / "run", *init, max_steps=6)
    run(data_set, tmp_path / "whole", *init, max_steps=6)
    now = weights(tmp_path / "run")
    assert equal(now, weights(tmp_path / "whole"))
    state = state_of(torchvision_name)
    for view in ("rgb", "tg"):
        assert torch.equal(now[f"model.{view}.stem.bn.running_mean"], state["stem.1.running_mean"])
        assert int(now[f"model.{view}.stem.bn.num_batches_tracked"]) == 7
        for kind in ("running_var", "weight", "bias"):
            assert torch.equal(now[f"model.{view}.stage2.block0.bn2.{kind}"], state[f"layer2.0.conv2.1.{kind}"])
        assert torch.equal(now[f"model.{view}.stage1.block0.conv1.weight"], state["layer1.0.conv1.0.weight"])
        for name, their in (("stage3.block0.conv1.weight", "layer3.0.conv1.0.weight"),
                            ("stage3.block0.bn1.running_var", "layer3.0.conv1.1.running_var")):  # fmt: skip
            assert not torch.equal(now[f"model.{view}.{name}"], state[their])
        # Statistics of the others are those of precise BatchNorm, and their counters those of training alone.
        assert int(now[f"model.{view}.stage4.block0.bn1.num_batches_tracked"]) == 7 + 6 * (
            2 if "accumulate" in str(extra) else 1
        )
    assert load(list_checkpoints(tmp_path / "run")[-1]).extra["precise_bn"]


def test_frozen_batch_norm_keeps_statistics_and_learns_the_rest(data_set: Path, tmp_path: Path, file: Path) -> None:
    init = (
        *SMALL_NETWORK,
        f'model.init="{file}"',
        *FROZEN,
        "model.freeze_stages=0",
        "model.freeze_batch_norm=true",
        "model.init_tg=scratch",
    )
    run(data_set, tmp_path / "run", *init, max_steps=6)
    now, state = weights(tmp_path / "run"), state_of(torchvision_name)
    for layer, their in (("stem.bn", "stem.1"), ("stage4.block0.bn2", "layer4.0.conv2.1")):
        for kind in ("running_mean", "running_var"):
            assert torch.equal(now[f"model.rgb.{layer}.{kind}"], state[f"{their}.{kind}"])
        assert not torch.equal(now[f"model.rgb.{layer}.weight"], state[f"{their}.weight"])
    # TG starts from scratch: nothing of it is frozen, and its statistics are measured.
    assert float(now["model.tg.stem.bn.running_mean"].abs().max()) > 0
    assert load(list_checkpoints(tmp_path / "run")[-1]).extra["precise_bn"]


def test_frozen_weights_get_no_gradient_and_no_momentum(data_set: Path, file: Path) -> None:
    setup = setup_of(data_set, *SMALL_NETWORK, f'model.init="{file}"', "model.freeze_stages=4")
    learner = Learner(setup.config, ALONE, 3)
    learner.network.train()
    learnt = {name for name, parameter in learner.model.named_parameters() if parameter.requires_grad}
    assert {name.partition(".")[0] for name in learnt} == {"head_rgb", "head_tg", "project_rgb", "project_tg"}
    assert sum(len(group["params"]) for group in learner.optimiser.param_groups) == len(learnt)
    training = {
        name for name, module in learner.model.named_modules() if module.training and not list(module.children())
    }
    assert not [name for name in training if name.startswith(("rgb.stage", "rgb.stem", "tg.stage", "tg.stem"))]


def test_joint_network_and_slowonly_start_from_the_reference(data_set: Path, tmp_path: Path) -> None:
    """MvPL: one backbone for both views, `backbone.*` in the reference."""
    state = {f"backbone.{name}": value for name, value in state_of(mmaction_name, fc="x").items()}
    torch.save({"state_dict": state}, tmp_path / "mvpl.pth")
    joint = (
        "model.streams=joint",
        "method.method=mvpl",
        "model.projection=none",
        "method.align_stages=[]",
        "method.contrast=[]",
    )
    run(
        data_set,
        tmp_path / "run",
        *SMALL_NETWORK,
        *joint,
        f'model.init="{tmp_path}/mvpl.pth"',
        "model.freeze_stages=1",
        max_steps=2,
    )
    (row,) = read_facts(tmp_path / "run").weights
    assert (row.network, row.prefix, row.num_matched) == ("net", "state_dict.backbone", 60)
    now = weights(tmp_path / "run")
    assert torch.equal(now["model.net.stage1.block0.conv2.weight"], state["backbone.layer1.0.conv2.conv.weight"])


LOW = (
    "optimiser.learning_rate=0.001",
    "optimiser.warmup_epochs=0",
    "data.size=48",
    "batch.labelled=8",
    "batch.unlabelled=8",
)


def on_one_rank(rank: int, root: str, folder: str, file: str) -> None:
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    setup = setup_of(Path(root), *SMALL_NETWORK, *FROZEN, *LOW, f'model.init="{file}"')
    train(setup, Path(folder) / "run", Ranks(rank, 2, torch.device("cpu")), max_steps=3, log=lambda text: None)
    dist.destroy_process_group()


def test_two_processes_start_from_the_same_and_reach_the_same(data_set: Path, tmp_path: Path, file: Path) -> None:
    worker_context()
    mp.start_processes(on_one_rank, args=(str(data_set), str(tmp_path), str(file)), nprocs=2, start_method="forkserver")
    run(data_set, tmp_path / "alone", *SMALL_NETWORK, *FROZEN, *LOW, f'model.init="{file}"', max_steps=3)
    pair, alone = weights(tmp_path / "run"), weights(tmp_path / "alone")
    frozen = parts(pair, "rgb.stem", "rgb.stage1", "rgb.stage2", "tg.stem", "tg.stage1", "tg.stage2")
    assert len(frozen) > 50
    assert equal(frozen, parts(alone, "rgb.stem", "rgb.stage1", "rgb.stage2", "tg.stem", "tg.stage1", "tg.stage2"))
    for name, value in alone.items():
        if name.startswith("model."):
            torch.testing.assert_close(pair[name].float(), value.float(), rtol=2e-2, atol=2e-3)
