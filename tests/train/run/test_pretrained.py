"""Folders of transformers as weights to start from: every form of them, what disagrees, and folders of strangers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel

from manifests.records import InputError
from tests.train.support import setup_of
from tgtrain.data.setup import Setup
from tgtrain.method.networks.model import build_model
from tgtrain.run.weights import Initial, identify, read_initial

SIZES = {"hidden_size": 32, "layers": 2, "heads": 4, "patch": 8, "intermediate_size": 48}
NETWORK = ("model.backbone=videomae", *(f"model.{name}={value}" for name, value in SIZES.items()), "model.dropout=0.0")
CONFIG = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 8, "intermediate_size": 48,
    "image_size": 32, "num_frames": 4, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 4, "decoder_intermediate_size": 32,
}  # fmt: skip
NUM_TENSORS = 2 + 2 * 15 + 2


def written(folder: Path, kind: Any = VideoMAEForVideoClassification, **changes: Any) -> Any:
    """A network with random values in a folder of its own."""
    torch.manual_seed(5)
    network = kind(VideoMAEConfig(**{**CONFIG, **changes})).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.3)
    network.save_pretrained(folder)
    return network


def with_init(root: Path, path: Path, *changes: str) -> Setup:
    return identify(
        setup_of(root, *NETWORK, f'model.init="{path}"', *changes, recipe="demo-supervised"), Path("no run")
    )


def started(setup: Setup) -> Any:
    model = build_model(setup.config.model)
    model.load_state_dict(read_initial(setup).tensors, strict=False)
    return model.eval()


def refusal(root: Path, path: Path, *changes: str) -> str:
    with pytest.raises(InputError) as caught:
        read_initial(with_init(root, path, *changes))
    return str(caught.value)


def test_a_classifier_gives_the_logits_of_transformers(data_set: Path, tmp_path: Path) -> None:
    network = written(tmp_path / "net", num_labels=3)
    setup = with_init(data_set, tmp_path / "net")
    (row,) = read_initial(setup).matched
    assert (row.num_matched, row.num_tensors, row.num_missing, row.left_over) == (NUM_TENSORS, NUM_TENSORS, 0, ())
    assert row.naming.startswith("transformers")
    assert row.classifier == "kept: 3 classes there and here (the file does not name them)"
    assert Path(row.path).name == "model.safetensors"
    assert row.sha256 == setup.config.model.init_sha256
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        expected = network(clips.transpose(1, 2)).logits
        torch.testing.assert_close(started(setup)(rgb=clips).rgb.logits_BK, expected, rtol=1e-5, atol=1e-5)


def renamed(folder: Path, old: bool, prefix: str = "") -> None:
    """Give the biases of attention the names of transformers 4 or 5, whichever this version writes."""
    state = load_file(folder / "model.safetensors")
    pairs = [(".query.bias", ".q_bias"), (".value.bias", ".v_bias")]
    for new, before in pairs:
        give, take = (before, new) if old else (new, before)
        state = {name.replace(take, give): value.clone() for name, value in state.items()}
    save_file({f"{prefix}{name}": value for name, value in state.items()}, folder / "model.safetensors")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", [VideoMAEForVideoClassification, VideoMAEForPreTraining, VideoMAEModel])
def test_every_class_and_both_generations_of_names(data_set: Path, tmp_path: Path, kind: Any, old: bool) -> None:
    network = written(tmp_path, kind, use_mean_pooling=kind is VideoMAEForVideoClassification, num_labels=7)
    renamed(tmp_path, old)
    initial = read_initial(with_init(data_set, tmp_path))
    (row,) = initial.matched
    has_norm = kind is VideoMAEForVideoClassification
    assert row.num_matched == NUM_TENSORS - 2 * (not has_norm)
    assert row.missing == (() if has_norm else ("rgb.fc_norm.weight", "rgb.fc_norm.bias"))
    assert row.naming == ("transformers 4" if old else "transformers")
    assert row.classifier == ("new: 7 classes there, 3 here" if has_norm else "new: the file has none")
    body = getattr(network, "videomae", network)
    name = "encoder.layer.1.attention.attention.value.bias"
    assert torch.equal(initial.tensors[f"rgb.{name}"], body.get_parameter(name))
    assert any("decoder" in left for left in row.left_over) == (kind is VideoMAEForPreTraining)


def test_both_views_start_from_a_folder_and_from_a_run(data_set: Path, tmp_path: Path) -> None:
    written(
        tmp_path / "net",
        id2label={0: "class2", 1: "class0", 2: "class1"},
        label2id={"class2": 0, "class0": 1, "class1": 2},
    )
    setup = setup_of(data_set, *NETWORK, f'model.init="{tmp_path / "net"}"')
    initial = read_initial(identify(setup, Path("no run")))
    assert [row.network for row in initial.matched] == ["rgb", "tg"]
    weight = load_file(tmp_path / "net" / "model.safetensors")["classifier.weight"]
    assert torch.equal(initial.tensors["head_tg.fc.weight"], weight[[1, 2, 0]])
    assert initial.matched[0].classifier == "kept: the same 3 classes"
    # The same tensors in a checkpoint of ours, below `model.`.
    state = {f"model.{name}": value for name, value in build_model(setup.config.model, seed=3).state_dict().items()}
    torch.save(state, tmp_path / "own.pt")
    (rgb, tg) = read_initial(with_own(data_set, tmp_path / "own.pt")).matched
    assert (rgb.prefix, tg.prefix, rgb.num_matched) == ("model.rgb", "model.tg", NUM_TENSORS)


def with_own(root: Path, path: Path) -> Setup:
    return identify(setup_of(root, *NETWORK, f'model.init="{path}"'), Path("no run"))


def test_weights_of_another_size_are_one_message_with_the_settings_to_type(data_set: Path, tmp_path: Path) -> None:
    written(tmp_path)
    said = refusal(data_set, tmp_path, "model.hidden_size=16", "model.heads=2", "model.intermediate_size=0")
    assert f"{tmp_path}/config.json describes another network than the settings:" in said
    assert "model.hidden_size: 32 there, 16 here" in said
    assert "Use the same: --set model.hidden_size=32 --set model.heads=4 --set model.intermediate_size=48" in said
    said = refusal(data_set, tmp_path, "model.backbone=r3d")
    assert "model.backbone: videomae there, r3d here" in said
    # Positions have no weights: those of other clips are made anew.
    assert read_initial(with_init(data_set, tmp_path, "data.size=64", "data.clip_frames=8")).matched[0].num_missing == 0
    # The options that it names are accepted.
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    assert "does not fit the network rgb (videomae, hidden_size 16, layers 2" in refusal(
        data_set, tmp_path / "model.safetensors", "model.hidden_size=16"
    )
    for change, message in (
        ({"hidden_act": "relu"}, "hidden_act: relu there, gelu here, which has no setting\nUse other weights."),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps: 1e-06 there, 1e-12 here"),
        ({"use_mean_pooling": False}, "use_mean_pooling: False there, True here"),
        ({"model_type": "vivit"}, "a network of the type 'vivit'"),
        ({"patch_size": "8; rm"}, "model.patch: 8; rm there, 8 here\nUse the same: --set 'model.patch=8; rm'"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        assert message in refusal(data_set, tmp_path)


def test_pictures_normalised_in_another_way_are_refused(data_set: Path, tmp_path: Path) -> None:
    written(tmp_path)
    own = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(own))
    assert read_initial(with_init(data_set, tmp_path)).matched
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**own, "image_mean": [0.5, 0.5, 0.5]}))
    assert "image_mean is [0.5, 0.5, 0.5], and clips are normalised by that of ImageNet" in refusal(data_set, tmp_path)


def test_folders_of_strangers_run_nothing(data_set: Path, tmp_path: Path) -> None:
    network = written(tmp_path)
    (tmp_path / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = json.loads((tmp_path / "config.json").read_text())
    remote = {"auto_map": {"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"}}
    (tmp_path / "config.json").write_text(json.dumps({**config, **remote}))
    assert read_initial(with_init(data_set, tmp_path)).matched[0].num_matched == NUM_TENSORS
    (tmp_path / "model.safetensors").unlink()
    assert "holds no model.safetensors and no pytorch_model.bin. If its weights are in several parts" in refusal(
        data_set, tmp_path
    )
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    assert isinstance(read_initial(with_init(data_set, tmp_path)), Initial)

    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"a": Evil()}, tmp_path / "pytorch_model.bin")
    assert "no code in it is run" in refusal(data_set, tmp_path)
    assert not (tmp_path / "ran").exists()
    for damaged in (b"{", b"[1]", b"\xff", b'{"model_type": 3}'):
        (tmp_path / "config.json").write_bytes(damaged)
        assert "holds pytorch_model.bin without a config.json that can be read" in refusal(data_set, tmp_path)
