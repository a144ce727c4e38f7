"""Recipes resolve, say every mistake at once, and survive the round trip through a run's folder."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from manifests.records import InputError
from tgtrain.config import config_from_dict, differences, load_recipe, recipe_names

PUBLISHED = {  # epochs, learning-rate warm-up, pseudo-label warm-up, labelled batch, precise-BN batches
    "ucf101-5": (180, 30, 30, 40, 200),
    "ucf101-10": (180, 30, 30, 40, 200),
    "ucf101-20": (180, 30, 30, 40, 200),
    "ucf101-50": (180, 30, 30, 40, 200),
    "hmdb51-40": (360, 60, 60, 40, 120),
    "hmdb51-50": (360, 60, 60, 40, 120),
    "hmdb51-60": (360, 60, 60, 40, 120),
    "k400-1": (45, 10, 10, 64, 200),
    "k400-10": (90, 15, 15, 64, 200),
}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_resolves_and_round_trips(name: str) -> None:
    config = load_recipe(name, num_classes=7)
    assert config.name == name
    assert config.description
    assert config.model.num_classes == 7
    assert config_from_dict(config.to_dict(), "a run") == config


@pytest.mark.parametrize("name", PUBLISHED)
def test_main_recipes_are_the_published_ones(name: str) -> None:
    config = load_recipe(name)
    numbers = (
        config.optimiser.epochs, config.optimiser.warmup_epochs, config.method.warmup_epochs,
        config.batch.labelled, config.precise_bn.batches,
    )  # fmt: skip
    assert numbers == PUBLISHED[name]
    assert config.batch.unlabelled == config.batch.labelled
    assert (config.method.threshold, config.method.temperature) == (0.3, 0.5)
    assert (config.method.labelled_weight, config.method.unlabelled_weight) == (0.5, 0.5)
    assert config.method.align_stages == (0, 1, 2, 3)
    assert config.method.contrast == ("crossview_sameclip",)
    optimiser = config.optimiser
    assert (optimiser.learning_rate, optimiser.momentum, optimiser.weight_decay, optimiser.clip_norm) == (
        0.2,
        0.9,
        1e-4,
        40,
    )
    assert (config.data.clip_frames, config.data.interval, config.data.size) == (8, 8, 224)
    assert (config.data.test_clips, config.data.test_crops) == (10, 3)
    assert (config.model.backbone, config.model.depth, config.model.width, config.model.dropout) == ("r3d", 18, 64, 0.5)
    assert name.rpartition("-")[2] == f"{config.data.percent:g}"


def test_baselines_differ_where_they_should() -> None:
    fixmatch, supervised = load_recipe("ucf101-20-fixmatch"), load_recipe("ucf101-20-supervised")
    assert (fixmatch.model.streams, fixmatch.method.method, fixmatch.method.threshold) == ("rgb", "fixmatch", 0.3)
    assert (fixmatch.method.labelled_weight, fixmatch.method.unlabelled_weight) == (1.0, 1.0)
    assert not fixmatch.method.align_stages
    assert not fixmatch.method.contrast
    assert not supervised.method.uses_unlabelled


def test_overrides_are_typed_and_later_ones_win() -> None:
    config = load_recipe(
        "demo", ["optimiser.epochs=3", "optimiser.epochs=4", "method.align_stages=[3]", "method.align_loss=l1"]
    )
    assert (config.optimiser.epochs, config.method.align_stages, config.method.align_loss) == (4, (3,), "l1")


def test_all_mistakes_come_in_one_message_with_the_nearest_key() -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(
            "ucf101-20",
            [
                "optimiser.epoch=3",
                "data.size=2",
                "method.threshold=2",
                "model.depth=34",
                "nonsense",
                "batch.labelled=many",
            ],
        )
    message = str(caught.value)
    for part in (
        "optimiser.epoch (--set): no such setting; nearest valid key: optimiser.epochs",
        "data.size (--set)",
        "got 2",
        "threshold: got 2",
        "depth: got 34, expected 10 or 18",
        "--set nonsense: expected section.key=value",
        "batch.labelled (--set)",
    ):
        assert part in message


def test_custom_recipe_extends_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "ucf101-10"\n[optimiser]\nepochs = 9\n[model]\nwidth = 16\nnum_classes = 5\n')
    config = load_recipe(str(path), num_classes=3)
    assert (config.name, config.optimiser.epochs, config.data.percent, config.model.width) == ("mine", 9, 10, 16)
    assert config.model.num_classes == 5  # a recipe may fix it, as the reference does for HMDB51
    path.write_text('extends = "ucf101-10"\n[optimisr]\nepochs = 9\n')
    with pytest.raises(
        InputError, match=r"optimisr.epochs \(.*mine.toml\): no such setting; nearest valid key: optimiser.epochs"
    ):
        load_recipe(str(path))
    path.write_bytes(b"\xef\xbb\xbf" + b'extends = "ucf101-10"\r\n[optimiser]\r\nepochs = 9\r\n')
    assert load_recipe(str(path)).optimiser.epochs == 9
    path.write_bytes('extends = "ucf101-10"  # caf\u00e9\n'.encode("latin-1"))
    with pytest.raises(InputError, match=r"mine.toml, line 1: byte 29 \(0xe9\) is not UTF-8"):
        load_recipe(str(path))
    path.write_text("epochs = [")
    with pytest.raises(InputError, match="not valid TOML"):
        load_recipe(str(path))
    path.write_text(f'extends = "{path}"\n')
    with pytest.raises(InputError, match="in a circle"):
        load_recipe(str(path))


def test_recipes_extend_one_another_within_bounds(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"r{number}.toml").write_text(f'extends = "r{number + 1}.toml"\n')
    (tmp_path / "r40.toml").write_text('extends = "demo"\n')
    assert load_recipe(str(tmp_path / "r27.toml")).name == "r27"
    with pytest.raises(InputError, match="more than 16 recipes extend one another"):
        load_recipe(str(tmp_path / "r0.toml"))
    folder = tmp_path / "deep"
    folder.mkdir()
    for parent in ("../deep/../deep/own.toml", "own.toml", f"{folder}/own.toml"):
        (folder / "own.toml").write_text(f'extends = "{parent}"\n')
        with pytest.raises(InputError, match="in a circle"):
            load_recipe(str(folder / "own.toml"))
    os.mkfifo(folder / "pipe.toml")
    for parent in (
        "pipe.toml",
        "../deep",
        "/dev/zero",
        "../../../../../../../../etc/passwd",
        "x\\u0000.toml",
        "n" * 5000,
    ):
        (folder / "own.toml").write_text(f'extends = "{parent}"\n')
        with pytest.raises((InputError, OSError), match="No recipe|File name too long"):
            load_recipe(str(folder / "own.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a" + ".a" * 100_000 + " = 1", "dots in one line"),
        ("x = 1\n" * 200_000, "characters"),
        ("a = " + "[" * 100_000, "not valid TOML"),
        ("a = " + "{a = " * 40_000, "not valid TOML"),
        ("\n".join(f"[section{number}]" for number in range(10_000)), "no such setting"),
        ("[data]\nsize = 0x" + "f" * 200_000, "got a int without end"),
        ("[data]\nsize" + ".a" * 100 + " = 1", "data.size"),
        (f"[data]\n{'k' * 200_000} = 1", "no such setting"),
        (f"[data]\ncrop = '{'v' * 200_000}'", "data.crop"),
    ],
)
def test_recipes_of_strangers_cost_little(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bomb.toml"
    path.write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message) as caught:
            load_recipe(str(path))
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 20_000


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"No recipe 'ucf101-02'. Nearest: .*ucf101-20"):
        load_recipe("ucf101-02")


def test_settings_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(InputError, match="contrast expects separate or shared"):
        load_recipe("ucf101-20", ["model.projection=none"])


def test_differences_name_key_and_both_values() -> None:
    before, now = load_recipe("demo"), load_recipe("demo", ["optimiser.epochs=5"])
    assert differences(before, before) == []
    assert differences(before, now) == [f"optimiser.epochs: {before.optimiser.epochs} there, 5 asked"]


def test_a_config_of_an_earlier_version_may_name_a_quirk_that_is_the_default_now() -> None:
    values = load_recipe("demo").to_dict()
    values["compat"]["quirks"] = ["precise_bn_rgb_only", "fixed_signs"]
    config = config_from_dict(values, "config.json")
    assert config.compat.quirks == ("fixed_signs",)
    assert config.precise_bn.tg == "running"
