"""Every recipe against a table of the published configurations: what each changes of the main recipe, and nothing else."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from cli.train import main
from cli.train.recipes import recipe_row, recipe_rows
from tgtrain.config import flat_settings, load_recipe, recipe_names
from tgtrain.data.order import steps_per_epoch

MAIN = "ucf101-20"
NO_CONTRAST = {"method.contrast": [], "model.projection": "none"}
NO_ALIGN = {"method.align_stages": []}
ONE_VIEW = {
    "model.streams": "rgb", "method.labelled_weight": 1.0, "method.unlabelled_weight": 1.0, **NO_CONTRAST, **NO_ALIGN,
}  # fmt: skip
FIXMATCH = {"method.method": "fixmatch", **ONE_VIEW}


def lengths(epochs: int, rate: int, pseudo: int) -> dict[str, object]:
    """Epochs, and the warm-ups of the rate and of the pseudo-labels."""
    return {"optimiser.epochs": epochs, "optimiser.warmup_epochs": rate, "method.warmup_epochs": pseudo}


def ucf(percent: int) -> dict[str, object]:
    return {"data.percent": float(percent)}


def hmdb(percent: int) -> dict[str, object]:
    return {"data.dataset": "hmdb51", "data.percent": float(percent), "precise_bn.batches": 120, **lengths(360, 60, 60)}


def k400(percent: int, *sizes: int) -> dict[str, object]:
    batch = {"batch.labelled": 64, "batch.unlabelled": 64, "precise_bn.batch_clips": 40}  # 8 + 8 on each of 8 GPUs
    return {"data.dataset": "kinetics400", "data.percent": float(percent), **batch, **lengths(*sizes)}


MVPL = {
    "data.crop": "jitter", "data.shared_crop": False, "batch.labelled": 8, "batch.unlabelled": 32,
    "model.streams": "joint", "model.backbone": "slowonly", "model.depth": 50, "method.method": "mvpl",
    "augment.operations": "mvpl", "optimiser.epochs": 240, "optimiser.learning_rate": 0.1,
    "evaluate.average": "probabilities", "precise_bn.batch_clips": 40, **NO_CONTRAST, **NO_ALIGN, **ucf(10),
}  # fmt: skip

PUBLISHED: dict[str, dict[str, object]] = {
    **{f"ucf101-{p}": ucf(p) for p in (5, 10, 20, 50)},
    "hmdb51-40-180e": {**hmdb(40), **lengths(180, 30, 30)},
    **{f"hmdb51-{p}": hmdb(p) for p in (40, 50, 60)},
    "hmdb51-50-align-only": {**hmdb(50), **NO_CONTRAST},
    "hmdb51-50-contrast-only": {**hmdb(50), **NO_ALIGN},
    "hmdb51-50-fixmatch": {**hmdb(50), **FIXMATCH},
    "k400-10": k400(10, 90, 15, 15),
    "k400-1": k400(1, 45, 10, 10),
    "k400-1-align-only": {**k400(1, 45, 10, 10), **NO_CONTRAST},
    "k400-1-contrast-only": {**k400(1, 45, 10, 10), **NO_ALIGN},
    "k400-10-contrast-only": {**k400(10, 90, 15, 15), **NO_ALIGN},
    "k400-fixmatch-1-45e": {**k400(1, 45, 10, 10), **FIXMATCH},
    "k400-fixmatch-1-90e": {**k400(1, 90, 15, 15), **FIXMATCH, "evaluate.keep": 5},
    "k400-fixmatch-10-90e": {**k400(10, 90, 15, 15), **FIXMATCH, "evaluate.keep": 5},
    "k400-fixmatch-10-180e": {**k400(10, 180, 30, 15), **FIXMATCH},
    "ucf101-10-contrast-only": {**ucf(10), **NO_ALIGN},
    "ucf101-20-contrast-only": NO_ALIGN,
    **{
        f"ucf101-20-align{''.join(map(str, stages))}": {**NO_CONTRAST, "method.align_stages": stages}
        for stages in ([3], [2, 3], [1, 2, 3], [0, 1, 2, 3])
    },
    **{
        f"ucf101-20-align-{name}": {**NO_CONTRAST, "method.align_loss": kind}
        for name, kind in (("l1", "l1"), ("l2", "l2"), ("cos", "cosine"))
    },
    **{f"ucf101-20-pl-{view}": {**NO_CONTRAST, "method.pseudo_label_metric": view} for view in ("avg", "rgb", "tg")},
    **{
        f"ucf101-20-fixmatch-tau{t}": {**FIXMATCH, "method.threshold": t, "evaluate.keep": 10}
        for t in (0.3, 0.5, 0.7, 0.95)
    },
    **{f"ucf101-20-temp{t}": {"method.temperature": t} for t in (0.1, 0.2, 0.5, 1.0)},
    "ucf101-20-sharedhead": {"model.projection": "shared"},
    "ucf101-20-notricks": {**NO_CONTRAST, **lengths(180, 0, 0), "precise_bn.batches": 0},
    "ucf101-20-onlywarmuplr": {**NO_CONTRAST, **lengths(180, 30, 0), "precise_bn.batches": 0},
    "ucf101-20-fasttg": NO_CONTRAST,
    "ucf101-20-slowtg": {**NO_CONTRAST, "data.gradient": "slow"},
    "ucf101-20-slowtg-nopbn": {**NO_CONTRAST, "data.gradient": "slow", "precise_bn.batches": 0},
    "ucf101-20-flowxym": {"data.gradient": "flow"},
    "ucf101-20-flowxym-nopbn": {"data.gradient": "flow", "precise_bn.batches": 0},
    "ucf101-20-flow-only": {**FIXMATCH, "data.gradient": "flow", "model.streams": "tg", "precise_bn.batches": 0},
    "ucf101-10-mvpl": MVPL,
    "ucf101-10-mvpl-lr0.2": {**MVPL, "optimiser.learning_rate": 0.2},
    "ucf101-10-slowonly-fixmatch": {**MVPL, **FIXMATCH, "precise_bn.clips": "training"},
}
OTHERS = {  # named by the authors' scripts but not shipped, and our own
    "ucf101-10-fixmatch": {**ucf(10), **FIXMATCH},
    "ucf101-10-align-only": {**ucf(10), **NO_CONTRAST},
    "ucf101-20-fixmatch": FIXMATCH,
}
SUPERVISED = {
    **{f"ucf101-{p}": ucf(p) for p in (5, 10, 20, 50)},
    **{f"hmdb51-{p}": hmdb(p) for p in (40, 50, 60)},
    "k400-1": k400(1, 45, 10, 10),
    "k400-10": k400(10, 90, 15, 15),
}


FINETUNED = {
    "ucf101-10-finetune": {**ucf(10), **lengths(60, 6, 6)},
    "ucf101-20-finetune": lengths(60, 6, 6),
    "hmdb51-50-finetune": {**hmdb(50), **lengths(90, 10, 10)},
    "k400-1-finetune": k400(1, 30, 5, 5),
    "ucf101-10-supervised-finetune": {**ucf(10), **ONE_VIEW, "method.method": "supervised", **lengths(60, 6, 30)},
}

# The settings of VideoMAE's own script for UCF101, for 40 labelled videos of its 128; see the files.
VIDEOMAE = {
    "data.clip_frames": 16, "data.interval": 4, "data.test_size": 224, "data.test_clips": 5, "model.backbone": "videomae",
    "model.drop_path": 0.2, "model.position_frames": 16, "model.position_size": 224, "optimiser.name": "adamw",
    "optimiser.learning_rate": 5e-4 * 40 / 256, "optimiser.weight_decay": 0.05, "optimiser.layer_decay": 0.7,
    "optimiser.clip_norm": 0.0, "evaluate.average": "probabilities", "runtime.precision": "bfloat16",
    "runtime.checkpoint_activations": True, **ucf(10),
}  # fmt: skip
TRANSFORMERS = {
    "ucf101-10-videomae-supervised": {**VIDEOMAE, **ONE_VIEW, "method.method": "supervised", **lengths(100, 5, 30)},
    "ucf101-10-videomae-fixmatch": {**VIDEOMAE, **FIXMATCH, "method.teacher": "ema", **lengths(100, 5, 5)},
    "ucf101-10-videomae-ltg": {**VIDEOMAE, **lengths(100, 5, 5)},
}


def differing(name: str) -> dict[str, object]:
    main, own = flat_settings(load_recipe(MAIN)), flat_settings(load_recipe(name))
    spoken = ("name", "description", "reproduces", "published")
    return {key: value for key, value in own.items() if key not in spoken and value != main[key]}


def effective(wanted: dict[str, object]) -> dict[str, object]:
    """Without what the main recipe has too."""
    main = flat_settings(load_recipe(MAIN))
    return {key: value for key, value in wanted.items() if main[key] != value}


def test_table_has_all_published_configurations() -> None:
    # 51 in all, and k400-1 which was never shipped.
    assert len(PUBLISHED) - len({"k400-1"}) == 51


@pytest.mark.parametrize("name", [*PUBLISHED, *OTHERS])
def test_a_recipe_changes_what_the_configuration_changes(name: str) -> None:
    assert differing(name) == effective({**PUBLISHED, **OTHERS}[name])


# Of the reference on 8 GPUs: training videos, steps of an epoch, clips of a pass of precise BatchNorm.
LENGTHS = {
    "ucf101-20": (9_537, 238, 8_000), "ucf101-10-mvpl": (9_537, 298, 8_000),
    "ucf101-10-slowonly-fixmatch": (9_537, 298, 8_000), "k400-1": (240_436, 3_756, 8_000),
    "k400-fixmatch-10-180e": (240_436, 3_756, 8_000), "hmdb51-40": (5_236, 131, 4_800),
}  # fmt: skip


@pytest.mark.parametrize("name", LENGTHS)
def test_epochs_and_precise_batch_norm_are_as_long_as_the_reference(name: str) -> None:
    num_videos, num_steps, num_clips = LENGTHS[name]
    config = load_recipe(name)
    # The reference pads HMDB51 to 5,240 videos by repeating four, which makes one step more (docs/migrating.md).
    ours = steps_per_epoch(num_videos, config.batch.unlabelled)
    assert ours == (130 if name == "hmdb51-40" else num_steps)
    batch_norm = config.precise_bn
    assert batch_norm.batches * (batch_norm.batch_clips or config.batch.labelled) == num_clips


@pytest.mark.parametrize("name", SUPERVISED)
def test_every_split_has_supervised_baselines_of_the_same_length(name: str) -> None:
    wanted = effective({**SUPERVISED[name], **ONE_VIEW, "method.method": "supervised"})
    weak, strong = differing(f"{name}-supervised"), differing(f"{name}-supervised-strong")
    for each in (weak, strong, wanted):
        each.pop("method.unlabelled_weight", None)  # nothing uses it
    assert weak == wanted
    assert strong == {**wanted, "augment.labelled": "strong"}


@pytest.mark.parametrize("name", FINETUNED)
def test_a_recipe_from_weights_is_shorter_at_a_tenth_of_the_rate(name: str) -> None:
    changes = {**FINETUNED[name], "model.init": "required", "optimiser.learning_rate": 0.02}
    got = differing(name)
    for each in (got, changes):
        each.pop("method.unlabelled_weight", None)  # of the supervised one: nothing uses it
    assert got == effective(changes)
    recipe = recipe_row(name)
    assert recipe.config.optimiser.learning_rate == load_recipe(recipe.parent).optimiser.learning_rate / 10
    assert recipe.config.optimiser.epochs < load_recipe(recipe.parent).optimiser.epochs
    assert "Not run yet" in recipe.config.description
    assert not recipe.config.published


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_recipes_of_the_transformer_are_those_of_videomae(name: str) -> None:
    got, wanted = differing(name), effective(TRANSFORMERS[name])
    got.pop("method.unlabelled_weight", None)
    wanted.pop("method.unlabelled_weight", None)
    rate = wanted.pop("optimiser.learning_rate") * (1 if name.endswith("supervised") else 2)
    assert got.pop("optimiser.learning_rate") == pytest.approx(rate, rel=0.01)
    assert got == wanted
    config = load_recipe(name)
    assert (config.model.hidden_size, config.model.layers, config.model.heads) == (768, 12, 12)
    assert "Not run yet" in config.description
    assert not config.published


def test_only_demo_recipes_ship_besides() -> None:
    known = {
        *PUBLISHED,
        *TRANSFORMERS,
        *OTHERS,
        *FINETUNED,
        *(f"{name}-supervised{end}" for name in SUPERVISED for end in ("", "-strong")),
    }
    assert all(name.startswith("demo") for name in set(recipe_names()) - known)


def test_a_recipe_has_a_published_figure_only_with_a_source_at_hand() -> None:
    confirmed = {
        "ucf101-5": "44.8", "ucf101-10": "62.4", "hmdb51-40": "46.5", "hmdb51-50": "48.4",
        "ucf101-10-supervised": "24.0", "hmdb51-40-supervised": "18.0", "hmdb51-50-supervised": "30.7",
    }  # fmt: skip
    for name in recipe_names():
        said = load_recipe(name).published
        if name in confirmed:
            assert confirmed[name] in said
            assert "as quoted by" in said
        else:
            assert not said, name


def test_every_published_recipe_names_its_configuration() -> None:
    for name in [*PUBLISHED, "ucf101-10-fixmatch", "ucf101-10-align-only"]:
        assert load_recipe(name).reproduces, name
    assert not load_recipe("demo").reproduces  # it speaks of the parent and is not inherited


def test_rows_name_the_parent_and_what_differs() -> None:
    row = recipe_row("ucf101-20-slowtg-nopbn")
    assert (row.parent, row.changes, row.config.data.percent) == ("ucf101-20-slowtg", ("precise_bn.batches=0",), 20)
    names = [row.config.name for row in recipe_rows()]
    assert sorted(names) == sorted(recipe_names())
    assert names.index("ucf101-5") < names.index("ucf101-10") < names.index("ucf101-50")
    assert recipe_row("ucf101-5").changes == ()  # another data set or percentage alone


def test_table_has_one_line_a_recipe_in_a_pipe() -> None:
    lines = CliRunner().invoke(main, ["recipes"]).output.splitlines()
    assert len(lines) == 1 + len(recipe_names())
    (line,) = [line for line in lines if line.startswith("k400-1 ")]
    assert line.split(maxsplit=3)[1:] == [
        "kinetics400", "1", "k400-10: method.warmup_epochs=10 optimiser.epochs=45 optimiser.warmup_epochs=10",
    ]  # fmt: skip


def test_one_recipe_says_what_it_reproduces_and_its_figure() -> None:
    said = CliRunner().invoke(main, ["recipes", "ucf101-20"], env={"COLUMNS": "300"}).output
    assert "# reproduces: ucf101_main, 20 %\n" in said
    assert "# published: no figure" in said
    said = CliRunner().invoke(main, ["recipes", "ucf101-10"], env={"COLUMNS": "300"}).output
    assert "# published: top-1 62.4 % (LTG, CVPR 2022, as quoted by SeFAR" in said
    said = CliRunner().invoke(main, ["recipes", "ucf101-20-temp0.1"], env={"COLUMNS": "300"}).output
    assert "# extends: ucf101-20, changes: method.temperature=0.1\n" in said
    assert "# published: no figure" in said
