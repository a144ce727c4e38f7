"""Weights to start from: files of every source are recognised, matched tensor by tensor, and refused if they do not fit."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from manifests.records import InputError
from tests.train.run.sources import (
    below,
    mmaction_name,
    plain_name,
    r3d_state,
    reference_file,
    torchvision_features,
    torchvision_name,
)
from tests.train.support import run, setup_of
from tgtrain.data.setup import Setup
from tgtrain.method.networks.model import build_model
from tgtrain.run.weights import Initial, identify, read_initial, table

TWO = ("model.depth=18", "model.width=4", "model.dropout=0.0")
ALONE = (*TWO, "model.streams=rgb", "model.projection=none", "method.align_stages=[]", "method.contrast=[]")
NUM_TENSORS = 100  # of an R3D-18: 20 convolutions, and BatchNorm with four each


def initial(root: Path, path: Path, *overrides: str) -> Initial:
    """What a new run starts from."""
    return read_initial(with_init(root, path, *overrides))


def with_init(root: Path, path: Path | str, *overrides: str) -> Setup:
    return identify(setup_of(root, *TWO, f'model.init="{path}"', *overrides), Path("no run"))


def started(setup: Setup) -> torch.nn.Module:
    model = build_model(setup.config.model)
    model.load_state_dict(read_initial(setup).tensors, strict=False)
    return model.eval()


def saved(folder: Path, content: object, name: str = "weights.pth", **options: Any) -> Path:
    torch.save(content, folder / name, **options)
    return folder / name


def test_torchvision_gives_the_features_of_its_network(data_set: Path, tmp_path: Path) -> None:
    state = r3d_state(torchvision_name)
    # The published file of 2019 has the format from before torch 1.6.
    path = saved(tmp_path, OrderedDict(state), _use_new_zipfile_serialization=False)
    setup = with_init(data_set, path)
    model, clips = started(setup), torch.randn(2, 3, 8, 48, 64)
    for view in ("rgb", "tg"):
        output = getattr(model(**{view: clips}), view)
        for ours, theirs in zip(output.features, torchvision_features(state, clips), strict=True):
            assert ours.shape == theirs.shape
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    (rgb, tg) = read_initial(setup).matched
    assert (rgb.num_matched, rgb.num_tensors, rgb.naming, rgb.prefix) == (NUM_TENSORS, NUM_TENSORS, "torchvision", "")
    assert rgb.classifier == tg.classifier == "new: 400 classes there, 3 here"
    assert rgb.left_over == ("fc.weight", "fc.bias")
    assert rgb.sha256 == setup.config.model.init_sha256
    assert len(rgb.sha256) == 64


def test_strides_and_epsilon_of_torchvision_are_others() -> None:
    """What docs/own_data.md says: same tensors, another function."""
    state, clips = r3d_state(torchvision_name), torch.randn(2, 3, 8, 48, 64)
    ours, theirs = torchvision_features(state, clips), torchvision_features(state, clips, strides="theirs")
    assert [tuple(stage.shape[2:]) for stage in ours] == [(4, 12, 16), (2, 6, 8), (1, 3, 4), (1, 2, 2)]
    assert [tuple(stage.shape[2:]) for stage in theirs] == [(8, 24, 32), (4, 12, 16), (2, 6, 8), (1, 3, 4)]
    other_eps = torchvision_features(state, clips, eps=1e-5)
    difference = (other_eps[3] - ours[3]).norm() / ours[3].norm()
    assert 0 < difference < 0.02


@pytest.mark.parametrize(
    ("prefix", "wrap"),
    [
        ("module.0.", lambda state: {"epoch": 400, "state_dict": {**state, **below("module.1.fc1.", {"weight": torch.ones(2)})}}),
        ("module.", lambda state: {"state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(5)}}}}),
        ("base_encoder.", lambda state: {"model": state}),
        ("a.b_c.7.", lambda state: {"net": {"inner": state}}),
        ("module.encoder_q.", lambda state: {**state, **below("module.encoder_k.", r3d_state(torchvision_name, seed=5))}),
    ],
    ids=["TCLR", "TimeBalance", "base_encoder", "any", "MoCo"],
)  # fmt: skip
def test_any_prefix_is_found(data_set: Path, tmp_path: Path, prefix: str, wrap: Any) -> None:
    state = r3d_state(torchvision_name, fc="other")
    matched = initial(data_set, saved(tmp_path, wrap(below(prefix, state))), *ALONE)
    assert torch.equal(matched.tensors["rgb.stage3.block1.bn2.running_var"], state["layer3.1.conv2.1.running_var"])
    (row,) = matched.matched
    assert row.num_matched == NUM_TENSORS
    assert row.prefix.endswith(prefix.rstrip("."))
    assert row.classifier == "new: the file has none"


def test_objects_that_trainers_save_beside_the_weights_are_left_out(data_set: Path, tmp_path: Path) -> None:
    """TCLR and TimeBalance save the scaler itself, and a learning rate that NumPy computed."""
    scaler = torch.amp.GradScaler("cpu")
    state = below("module.", r3d_state(torchvision_name))
    content = {"epoch": 3, "state_dict": state, "learning_rate": np.float64(1e-3) * 2, "amp_scaler": scaler,
               "args": argparse.Namespace(lr=1)}  # fmt: skip
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        assert initial(data_set, saved(tmp_path, content, **options), *ALONE).matched[0].num_matched == NUM_TENSORS


def test_the_checkpoint_of_the_reference_is_taken_whole(data_set: Path, tmp_path: Path) -> None:
    state = reference_file(tmp_path / "epoch_180.pth", classes=3)
    found = initial(data_set, tmp_path / "epoch_180.pth")
    for ours, theirs in {
        "rgb.stem.conv.weight": "backbone.conv1.conv.weight",
        "tg.stage2.block0.shortcut.bn.running_mean": "temp_backbone.layer2.0.downsample.bn.running_mean",
        "tg.stage4.block1.conv2.weight": "temp_backbone.layer4.1.conv2.conv.weight",
        "head_rgb.fc.weight": "cls_head.fc_cls.weight",
        "head_tg.fc.bias": "temp_sup_head.fc_cls.bias",
        "project_rgb.fc2.weight": "contrast_head_rgb.fcs.3.weight",
        "project_tg.bn3.running_mean": "contrast_head_tg.fcs.8.running_mean",
    }.items():
        assert torch.equal(found.tensors[ours], state[theirs]), ours
    setup = setup_of(data_set, *TWO)
    assert found.tensors.keys() == build_model(setup.config.model).state_dict().keys()
    assert [row.naming for row in found.matched] == ["MMAction2", "MMAction2"]
    assert found.matched[0].classifier == "kept: 3 classes there and here (the file does not name them)"
    # Its own second names of the BatchNorm layers of the contrast heads.
    assert all(name.startswith(("state_dict.contrast_head_rgb.norm", "state_dict.contrast_head_tg.norm"))
               for name in found.matched[0].left_over)  # fmt: skip
    # RGB alone, and TG from scratch.
    only = initial(data_set, tmp_path / "epoch_180.pth", "model.init_tg=scratch")
    assert not [name for name in only.tensors if "tg" in name]
    assert [row.network for row in only.matched] == ["rgb"]


def test_other_namings_and_module_prefix(data_set: Path, tmp_path: Path) -> None:
    state = below("module.backbone.", r3d_state(mmaction_name, fc="x"))
    assert initial(data_set, saved(tmp_path, {"state_dict": state}), *ALONE).matched[0].num_matched == NUM_TENSORS
    state = r3d_state(plain_name)
    found = initial(data_set, saved(tmp_path, {"state_dict": state}), *ALONE)
    assert torch.equal(found.tensors["rgb.stage2.block0.shortcut.conv.weight"], state["layer2.0.downsample.0.weight"])
    assert found.matched[0].num_matched == NUM_TENSORS


def test_pytorchvideo_slow_r50_fits_slowonly(data_set: Path, tmp_path: Path) -> None:
    slowonly = (*ALONE, "model.backbone=slowonly", "model.depth=50")
    model = build_model(setup_of(data_set, *slowonly).config.model, seed=3)
    state: dict[str, Tensor] = {}
    for name, value in model.get_submodule("rgb").state_dict().items():
        module, _, tensor = name.rpartition(".")
        parts = module.split(".")
        if parts[0] == "stem":  # ResNetBasicStem
            new = f"blocks.0.{parts[1].replace('bn', 'norm')}"
        else:  # ResStage.res_blocks: ResBlock of branch1_conv, branch1_norm, and branch2, a BottleneckBlock
            stage, block, *inner = parts
            where = f"blocks.{stage[-1]}.res_blocks.{block[5:]}."
            kind = inner[-1].rstrip("123").replace("bn", "norm")
            new = where + (
                f"branch1_{kind}" if inner[0] == "shortcut" else f"branch2.{kind}_{'abc'[int(inner[0][-1]) - 1]}"
            )
        state[f"{new}.{tensor}"] = value
    state |= {"blocks.5.proj.weight": torch.ones(3, 128), "blocks.5.proj.bias": torch.ones(3)}
    found = initial(data_set, saved(tmp_path, {"state_dict": below("module.0.r3d50.", state)}), *slowonly)
    assert found.matched[0].num_matched == found.matched[0].num_tensors
    assert torch.equal(found.tensors["head_rgb.fc.bias"], torch.ones(3))
    for name, value in model.get_submodule("rgb").state_dict().items():
        assert torch.equal(found.tensors[f"rgb.{name}"], value)


def test_safetensors_and_number_types(data_set: Path, tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    state = r3d_state(torchvision_name)
    save_file(state, tmp_path / "model.safetensors")
    setup = with_init(data_set, tmp_path / "model.safetensors", *ALONE)
    expected = read_initial(setup).tensors
    assert expected.keys() == build_model(setup.config.model).state_dict().keys() - {
        "head_rgb.fc.weight",
        "head_rgb.fc.bias",
    }
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        other = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
        save_file(other, tmp_path / "other.safetensors")
        for path in (tmp_path / "other.safetensors", saved(tmp_path, other)):
            found = initial(data_set, path, *ALONE).tensors
            assert {value.dtype for name, value in found.items() if "tracked" not in name} == {torch.float32}
            torch.testing.assert_close(
                found["rgb.stem.conv.weight"], expected["rgb.stem.conv.weight"], rtol=1e-2, atol=1e-2
            )
    whole = {name: value.to(torch.int8) for name, value in state.items()}
    with pytest.raises(InputError, match=r"(?s)0 of 100 tensors match.*100 misshapen, 2 left over.*int8 there"):
        initial(data_set, saved(tmp_path, whole), *ALONE)


def test_file_of_a_big_endian_machine_is_read(data_set: Path, tmp_path: Path) -> None:
    state = r3d_state(torchvision_name)
    swapped = {name: torch.from_numpy(value.numpy().byteswap()) for name, value in state.items()}
    little = saved(tmp_path, swapped, "little.pth")
    with zipfile.ZipFile(little) as source, zipfile.ZipFile(tmp_path / "big.pth", "w") as target:
        for entry in source.infolist():
            content = b"big" if entry.filename.endswith("byteorder") else source.read(entry)
            target.writestr(entry.filename, content)
    found = initial(data_set, tmp_path / "big.pth", *ALONE).tensors
    assert torch.equal(found["rgb.stem.conv.weight"], state["stem.0.weight"])


def r2plus1d(width: int = 4) -> dict[str, Tensor]:
    """Key names of torchvision's r2plus1d_18: Conv2Plus1D is a Sequential of four in place of a convolution."""
    state = {"stem.0.weight": torch.ones(3, 3, 1, 7, 7), "stem.3.weight": torch.ones(width, 3, 3, 1, 1)}
    for name, value in r3d_state(torchvision_name, width).items():
        if name.endswith(("conv1.0.weight", "conv2.0.weight")):
            start, out = name.removesuffix("weight"), value.shape[0]
            state |= {
                f"{start}0.weight": torch.ones(9, value.shape[1], 1, 3, 3),
                f"{start}3.weight": torch.ones(out, 9, 3, 1, 1),
            }
        elif not name.startswith("stem"):
            state[name] = value
    return state


def mc3(width: int = 4) -> dict[str, Tensor]:
    """torchvision's mc3_18: Conv3DNoTemporal in layer2 to layer4."""
    state = r3d_state(torchvision_name, width)
    return {name: value[:, :, :1] if name[:6] in ("layer2", "layer3", "layer4") and value.dim() == 5 and value.shape[2] == 3 else value
            for name, value in state.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (r2plus1d(), "torchvision's r2plus1d_18"),
        (mc3(), "torchvision's mc3_18"),
        ({"conv1.weight": torch.ones(4, 3, 7, 7), "bn1.weight": torch.ones(4), "layer1.0.conv1.weight": torch.ones(4, 4, 3, 3)},
         "a network for images"),
        ({"blocks.0.attn.qkv.weight": torch.ones(6, 2), "head.weight": torch.ones(3, 2)}, "a transformer"),
        (r3d_state(torchvision_name, width=8), "set model.backbone and its size"),
        (r3d_state(torchvision_name, blocks=1), "60 of 100 tensors match"),
        ({"x": torch.ones(2)}, "0 of 100 tensors match"),
    ],
    ids=["r2plus1d_18", "mc3_18", "images", "transformer", "width", "depth", "nothing"],
)  # fmt: skip
def test_other_networks_are_refused_with_the_table(
    data_set: Path, tmp_path: Path, state: dict[str, Tensor], kind: str
) -> None:
    with pytest.raises(InputError) as caught:
        initial(data_set, saved(tmp_path, state), *ALONE)
    message = str(caught.value)
    for part in (kind, "weights.pth", "of 100 tensors", "expected 80%", "classifier new"):
        assert part in message
    assert "missing" in message or "misshapen" in message


def test_a_few_missing_tensors_are_reported(data_set: Path, tmp_path: Path) -> None:
    state = r3d_state(torchvision_name)
    for name in [name for name in state if name.startswith("layer4.1.conv2")]:
        del state[name]
    state["layer4.1.conv1.0.weight"] = torch.ones(2, 2, 3, 3, 3)
    state["extra.weight"] = torch.ones(3)
    found = initial(data_set, saved(tmp_path, state), *ALONE)
    (row,) = found.matched
    assert (row.num_matched, row.num_missing) == (94, 5)
    assert row.missing[0] == "rgb.stage4.block1.conv2.weight"
    assert row.misshapen == ("rgb.stage4.block1.conv1.weight (2x2x3x3x3 float32 there, 32x32x3x3x3 here)",)
    assert set(row.left_over) == {"fc.weight", "fc.bias", "extra.weight"}
    text = "\n".join(table(found.matched))
    for part in (
        "94 of 100 matched, 5 missing, 1 misshapen, 3 left over",
        "missing: rgb.stage4",
        "and 1 more",
        "32x32x3x3x3 here",
        "left over: ",
        row.sha256[:16],
    ):
        assert part in text
    # 80 of 100 are enough, 79 are not.
    full = r3d_state(torchvision_name)
    names = [name for name in full if "tracked" not in name and "fc" not in name]
    for name in names[:20]:
        del full[name]
    assert initial(data_set, saved(tmp_path, full), *ALONE).matched[0].num_matched == 80
    del full[names[20]]
    with pytest.raises(InputError, match="79 of 100"):
        initial(data_set, saved(tmp_path, full), *ALONE)


def test_files_without_counters_are_complete(data_set: Path, tmp_path: Path) -> None:
    """torch 0.4 and before had no num_batches_tracked."""
    state = {name: value for name, value in r3d_state(torchvision_name).items() if "tracked" not in name}
    (row,) = initial(data_set, saved(tmp_path, state), *ALONE).matched
    assert (row.num_matched, row.num_missing) == (NUM_TENSORS, 0)


def test_two_networks_that_fit_as_well_are_refused_by_name(data_set: Path, tmp_path: Path) -> None:
    one, other = r3d_state(torchvision_name), r3d_state(torchvision_name, seed=1)
    with pytest.raises(InputError, match=r"2 networks that fit rgb, below the names left, right"):
        initial(data_set, saved(tmp_path, {"left": one, "right": other}), *ALONE)
    assert initial(data_set, saved(tmp_path, {"left": one, "right": one}), *ALONE).matched[0].prefix == "left"


def test_files_that_are_no_weights_are_refused_and_run_nothing(data_set: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    good = saved(tmp_path, r3d_state(torchvision_name), "good.pth").read_bytes()
    old = saved(tmp_path, r3d_state(torchvision_name), "old.pth", _use_new_zipfile_serialization=False).read_bytes()
    name = b"\x80\x02c" + b"9" * 40_000 + b"\nx\n."  # torch's own message about it takes a minute
    hostile = {"state_dict": r3d_state(torchvision_name), "meta": Hostile()}
    huge = {"stem.0.weight": torch.zeros(1).expand(10**9)}
    files: dict[str, tuple[bytes, str]] = {
        "zip": (saved(tmp_path, hostile, "a").read_bytes(), r"it holds posix.system, and nothing but tensors"),
        "old": (saved(tmp_path, hostile, "a", _use_new_zipfile_serialization=False).read_bytes(), "posix.system"),
        "model": (saved(tmp_path, torch.nn.Linear(2, 2), "a").read_bytes(), "torch.nn.modules.linear.Linear"),
        "cut": (good[: len(good) // 2], "no file of weights that can be read"),
        "old cut": (old[: len(old) // 2], "no file of weights that can be read"),
        "cut early": (old[:300], "no file of weights that can be read"),
        "empty": (b"", "it begins with b''"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "it begins with b'version https://'"),
        "safetensors": ((2**40).to_bytes(8, "little") + b"{}", "it begins with"),
        "safetensors cut": ((40).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9],"data_of', "no file of weights"),
        "huge": (saved(tmp_path, huge, "a").read_bytes(), "larger than the file"),
        "long name": (name, "it names a class in 40002 characters"),
        "list": (saved(tmp_path, [torch.ones(2)], "a").read_bytes(), "it is a list that holds no tensor by name"),
    }  # fmt: skip
    for content, said in files.values():
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(InputError, match=said):
            initial(data_set, tmp_path / "bad.pth", *ALONE)
    with zipfile.ZipFile(tmp_path / "good.pth") as source, zipfile.ZipFile(tmp_path / "bad.pth", "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="it is compressed"):
        initial(data_set, tmp_path / "bad.pth", *ALONE)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_values_that_no_network_has_are_refused(data_set: Path, tmp_path: Path, value: float) -> None:
    state = r3d_state(torchvision_name)
    state["layer2.1.conv2.1.running_var"][1] = value
    with pytest.raises(
        InputError, match=r"layer2.1.conv2.1.running_var holds values that are not finite, or variances below 0"
    ):
        initial(data_set, saved(tmp_path, state), *ALONE)


def test_places_that_hold_no_file(data_set: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in {
        tmp_path / "none.pth": "No file .*none.pth to start from",
        tmp_path: "is no run and no file of weights",
        tmp_path / "pipe": "cannot be read",
        "https://example.org/r3d_18.pth": "curl -LO https://example.org/r3d_18.pth",
    }.items():
        with pytest.raises(InputError, match=said):
            with_init(data_set, path)


def test_sha256_in_a_recipe_is_required(data_set: Path, tmp_path: Path) -> None:
    path = saved(tmp_path, r3d_state(torchvision_name))
    digest = with_init(data_set, path).config.model.init_sha256
    assert with_init(data_set, path, f"model.init_sha256={digest}").config.model.init_sha256 == digest
    with pytest.raises(InputError, match=r"not the file that model.init_sha256 names: sha256 .*, expected aaaa"):
        with_init(data_set, path, f"model.init_sha256={'a' * 64}")


def test_classes_of_other_order_are_matched_by_name(data_set: Path, tmp_path: Path) -> None:
    run(data_set, tmp_path / "run", *TWO, "optimiser.epochs=1", "optimiser.warmup_epochs=0", "method.warmup_epochs=0")
    setup = with_init(data_set, tmp_path / "run")
    trained = read_initial(setup)
    assert trained.matched[0].classifier == "kept: the same 3 classes"
    assert trained.tensors.keys() == build_model(setup.config.model).state_dict().keys()
    header = setup.manifest.header
    turned = replace(setup, manifest=replace(setup.manifest, header=replace(header, classes=header.classes[::-1])))
    assert torch.equal(read_initial(turned).tensors["head_tg.fc.weight"], trained.tensors["head_tg.fc.weight"].flip(0))
    renamed = replace(setup, manifest=replace(setup.manifest, header=replace(header, classes=("class0", "b", "c"))))
    found = read_initial(renamed)
    assert found.matched[1].classifier == "new: 3 classes there, 3 here, of which 1 are the same"
    assert "head_tg.fc.weight" not in found.tensors
    # A copy elsewhere: only the number of classes is known. A damaged one is found by its sha256.
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("*.pt")
    shutil.copy(checkpoint, tmp_path / "copy.pt")
    assert "does not name them" in initial(data_set, tmp_path / "copy.pt").matched[0].classifier
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9] + bytes(9))
    with pytest.raises(InputError, match="is damaged: sha256"):
        initial(data_set, checkpoint)
