"""Folders that transformers' `save_pretrained` wrote, as weights to start from: config.json, and the tensors beside it.

Only JSON and tensors are read: no code in a folder is run, nothing is downloaded, and transformers is not needed.
"""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

from manifests.files import read_json
from manifests.records import InputError
from tgtrain.method.augment.apply import MEAN, STD
from tgtrain.method.networks.settings import ModelSettings
from tgtrain.run.folder import CONFIG_NAME

_FILES = ("model.safetensors", "pytorch_model.bin")
_MOST_BYTES = 1 << 20  # of a JSON file
# Our setting for each of its names, with the value that a file which lacks it means (VideoMAEConfig).
_SETTINGS = {
    "hidden_size": ("hidden_size", 768),
    "num_hidden_layers": ("layers", 12),
    "num_attention_heads": ("heads", 12),
    "intermediate_size": ("intermediate_size", 3072),
    "patch_size": ("patch", 16),
    "tubelet_size": ("tubelet", 2),
}
# What our network has no setting for.
_FIXED = {"num_channels": 3, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "qv_bias": True, "qkv_bias": True}


def weights_of(folder: Path) -> Path | None:
    """The file of weights in a folder of transformers; None for another folder. InputError if it has none, or several."""
    present = [folder / name for name in _FILES if (folder / name).is_file()]
    if _config(folder) is None:
        if present and not (folder / "checkpoints").is_dir():
            raise InputError(
                f"{folder} holds {present[0].name} without a {CONFIG_NAME} that can be read and names the type of its network."
            )
        return None
    if present:
        return present[0]
    raise InputError(
        f"{folder} holds no {' and no '.join(_FILES)}. If its weights are in several parts (model-00001-of-…), write them as one: "
        "model.save_pretrained(FOLDER, max_shard_size='100GB')."
    )


def require_same_network(path: Path, model: ModelSettings) -> None:
    """InputError if the config.json beside a file of weights describes another network than the settings."""
    config = _config(path.parent)
    if config is None:
        return
    kind = config["model_type"]
    if kind != "videomae":
        raise InputError(
            f"{path.parent} holds a network of the type {kind!r:.100}; of transformers' networks videomae alone is read."
        )
    here = {name: getattr(model, name) for name, _ in _SETTINGS.values()}
    here["intermediate_size"] = here["intermediate_size"] or 4 * model.hidden_size
    there = {name: _whole(config.get(key, default)) for key, (name, default) in _SETTINGS.items()}
    different = {f"model.{name}": (value, here[name]) for name, value in there.items() if value != here[name]}
    if not model.is_transformer:
        different = {"model.backbone": ("videomae", model.backbone), **different}
    lines = [f"{name}: {value!s:.50} there, {own} here" for name, (value, own) in different.items()]
    fixed = _FIXED
    if "VideoMAEForVideoClassification" in str(config.get("architectures")):
        fixed = {**fixed, "use_mean_pooling": True}
    others = [
        f"{key}: {config[key]!s:.50} there, {value} here, which has no setting"
        for key, value in fixed.items()
        if config.get(key, value) != value
    ]
    if lines or others:
        options = " ".join(f"--set {shlex.quote(f'{name}={value!s:.50}')}" for name, (value, _) in different.items())
        advice = "Use other weights." if others else f"Use the same: {options}"
        raise InputError(
            f"{path.parent / CONFIG_NAME} describes another network than the settings:\n  "
            + "\n  ".join([*lines, *others])
            + f"\n{advice}"
        )
    _require_same_normalisation(path.parent)


def classes_of(path: Path) -> tuple[str, ...] | None:
    """The classes that the config.json beside a file of weights names; None if it names none."""
    config = _config(path.parent) or {}
    names = config.get("id2label")
    if not isinstance(names, dict) or set(names) != set(map(str, range(len(names)))):
        return None
    classes = [names[str(number)] for number in range(len(names))]
    # transformers calls classes without a name LABEL_0 and so on.
    known = all(isinstance(name, str) for name in classes) and len(set(classes)) == len(classes)
    return tuple(classes) if known and classes != [f"LABEL_{n}" for n in range(len(classes))] else None


def _config(folder: Path) -> dict[str, Any] | None:
    """The config.json of a folder of transformers; None if it has none."""
    try:
        config = read_json(folder / CONFIG_NAME, _MOST_BYTES)
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) and isinstance(config.get("model_type"), str) else None


def _whole(value: object) -> object:
    """One number for both sides of a square patch."""
    return value[0] if isinstance(value, list) and value and value == value[:1] * len(value) else value


def _require_same_normalisation(folder: Path) -> None:
    """InputError if preprocessor_config.json says that the weights expect pictures normalised in another way."""
    try:
        given = read_json(folder / "preprocessor_config.json", _MOST_BYTES)
    except (OSError, ValueError):
        return
    for key, own in (("image_mean", MEAN), ("image_std", STD)):
        values = given.get(key) if isinstance(given, dict) else None
        if not isinstance(values, list):
            continue
        pairs = list(zip(values, own, strict=False))
        same = len(values) == 3 and all(
            isinstance(a, float | int) and math.isclose(255 * a, b, rel_tol=1e-3) for a, b in pairs
        )
        if not same:
            raise InputError(
                f"{folder / 'preprocessor_config.json'}: {key} is {values!r:.100}, and clips are normalised by that of ImageNet, "
                f"{[round(value / 255, 3) for value in own]}, as VideoMAE's are. Use weights that were trained so."
            )
