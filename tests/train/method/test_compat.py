"""The quirks of the reference code, one by one: what each brings back, and that none is on by default."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from cli.train import main as tgtrain
from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import read_split
from tgtrain.config import load_recipe, recipe_names
from tgtrain.data.build import step_dataset
from tgtrain.data.clip import plan_eval
from tgtrain.data.order import Draw, RepeatedOrder, StreamOrder, replayed_key
from tgtrain.data.setup import Setup, prepare
from tgtrain.evaluate.batch_norm import recompute_batch_norm
from tgtrain.method.augment.apply import normalise
from tgtrain.method.networks.model import build_model
from tgtrain.randomness import Stream
from tgtrain.ranks.distributed import Ranks
from tgtrain.run.checkpoint import list_checkpoints, load
from tgtrain.train.trainer import train

ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = (
    "data.clip_frames=4", "data.interval=2", "data.size=32", "batch.labelled=4", "batch.unlabelled=4", "model.width=4",
    "optimiser.epochs=4", "optimiser.warmup_epochs=1", "method.warmup_epochs=1", "precise_bn.batches=2",
    "evaluate.every_epochs=2", "runtime.log_every=2", "runtime.workers=0",
)  # fmt: skip


def setup_of(root: Path, *overrides: str, recipe: str = "demo") -> Setup:
    manifest = read_manifest(root)
    return prepare(str(root), read_split(root), manifest, load_recipe(recipe, [*SMALL, *overrides], num_classes=3))


def quirk(name: str) -> str:
    return f'compat.quirks=["{name}"]'


def test_no_recipe_has_a_quirk() -> None:
    assert all(load_recipe(name).compat.quirks == () for name in recipe_names())


def test_an_unknown_quirk_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"compat\.quirks \(--set\).*'fixed_signs'.*'running_statistics'"):
        load_recipe("demo", [quirk("fixed_sign")])


def test_signs_are_drawn_once_a_run(data_set: Path) -> None:
    signs: dict[tuple[str, int], set[float]] = {}
    changes = (quirk("fixed_signs"), "augment.num_ops=15", "runtime.seed=1")
    dataset = step_dataset(setup_of(data_set, *changes), ALONE)
    for step in range(4):
        batch = dataset[step]
        for view, plans in (("rgb", batch.strong_rgb), ("tg", batch.strong_tg)):
            for done in (done for plan in plans for done in plan.steps[:5]):
                signs.setdefault((view, int(done.op)), set()).add(done.amount)
    assert set(signs) == {(view, op) for view in ("rgb", "tg") for op in range(5)}
    assert all(len(amounts) == 1 for amounts in signs.values())
    assert any(signs["rgb", op] != signs["tg", op] for op in range(5))  # each view draws its own


def test_operations_are_replayed_by_every_loader_process_and_gpu() -> None:
    # Plainly: 8 GPUs of 4 loader processes each; every process draws its operations from the same sequence.
    batch = 40
    for step in range(12):
        for place in range(batch):
            turn, slot = replayed_key(Draw(0, 0, step * batch + place), batch)
            worker_batch, place_on_gpu = step // 4, place % 5
            assert (turn, slot) == (worker_batch, f"slot {place_on_gpu}")


def test_replayed_plans_repeat_for_four_steps_whatever_the_videos(data_set: Path) -> None:
    plain, replayed = (
        step_dataset(setup_of(data_set, "batch.unlabelled=8", *more), ALONE)
        for more in ((), (quirk("replayed_operations"),))
    )
    first = replayed[0].strong_rgb
    assert len(set(first)) == 1  # 8 clips on 8 GPUs: one slot each
    assert all(replayed[step].strong_rgb == first for step in (1, 2, 3))
    assert replayed[4].strong_rgb != first
    assert replayed[0].strong_tg != first  # RGB and TG are drawn apart
    assert len(set(plain[0].strong_rgb)) > 1


def test_the_labelled_order_is_one_permutation_cut_into_whole_batches() -> None:
    order, plain = RepeatedOrder(11, 3, 7, Stream.LABELLED, 5), StreamOrder(11, 3, 7, Stream.LABELLED)
    once = [draw.video for step in range(4) for draw in plain.draws(step)][:9]  # 11 // 3 batches of the first pass
    for epoch in range(3):
        seen = [draw.video for step in range(5 * epoch, 5 * epoch + 5) for draw in order.draws(step)]
        assert seen == (once + once)[:15]  # restarted when exhausted, and with the epoch
    passes = [order.draws(step)[0].pass_index for step in range(10)]
    assert passes == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]  # clips are drawn anew each time round
    assert [draw.position for draw in order.draws(4)] == [12, 13, 14]
    with pytest.raises(InputError, match="do not fill a batch of 12"):
        RepeatedOrder(11, 12, 7, Stream.LABELLED, 5)


def test_the_labelled_order_of_a_run_follows_the_quirk(data_set: Path) -> None:
    dataset = step_dataset(setup_of(data_set, quirk("fixed_labelled_order")), ALONE)
    per_epoch = len(dataset.unlabelled.videos) // 4 if dataset.unlabelled else 0
    assert dataset[0].labelled.keys == dataset[per_epoch].labelled.keys == dataset[2 * per_epoch].labelled.keys
    clips = [dataset[step].labelled.rgb for step in (0, per_epoch)]
    assert clips[0] is not None
    assert clips[1] is not None
    assert not torch.equal(clips[0], clips[1])


def test_uda_targets_carry_gradient() -> None:
    assert load_recipe("demo-fixmatch", ["method.method=uda"]).method.uda_detach
    assert not load_recipe("demo-fixmatch", ["method.method=uda", quirk("uda_gradient")]).method.uda_detach


def test_hmdb51_has_101_outputs(data_set: Path) -> None:
    assert load_recipe("hmdb51-40", num_classes=51).model.num_classes == 51
    assert load_recipe("hmdb51-40", [quirk("hmdb51_101_classes")], num_classes=51).model.num_classes == 101
    with pytest.raises(InputError, match="fits HMDB51, the recipe is for ucf101"):
        load_recipe("ucf101-20", [quirk("hmdb51_101_classes")], num_classes=101)
    setup = setup_of(data_set, quirk("hmdb51_101_classes"))
    assert (len(setup.classes), setup.classes[3], setup.classes[-1]) == (101, "unused-3", "unused-100")


def test_precise_batch_norm_may_see_clips_cut_as_in_training(data_set: Path) -> None:
    found = []
    for clips in ("centre", "training"):
        setup = setup_of(data_set, f"precise_bn.clips={clips}")
        model = build_model(setup.config.model)
        recompute_batch_norm(model, setup, ALONE)
        found.append(model.state_dict()["rgb.stem.bn.running_mean"])
    assert not torch.equal(*found)


def test_checkpoints_hold_running_statistics(data_set: Path, tmp_path: Path) -> None:
    # Precise statistics of the last mark are those of its weights, measured anew; running ones are something else.
    for name, same in (("precise", True), ("running", False)):
        more = () if same else (quirk("running_statistics"),)
        setup = setup_of(data_set, *more)
        train(setup, tmp_path / name, ALONE, log=lambda text: None)
        saved = load(list_checkpoints(tmp_path / name)[-1])
        assert saved.extra["precise_bn"] is same
        model = build_model(setup.config.model)
        model.load_state_dict(saved.model)
        recompute_batch_norm(model, setup, ALONE)
        again = model.state_dict()["rgb.stem.bn.running_mean"]
        assert torch.allclose(again, saved.model["rgb.stem.bn.running_mean"]) is same


def test_a_test_may_measure_the_statistics_first(data_set: Path, tmp_path: Path) -> None:
    """Of a checkpoint with running averages it then gives what one gives that was saved with measured statistics."""
    scores = {}
    for name, more in (("precise", ()), ("running", (quirk("running_statistics"),))):
        train(setup_of(data_set, *more), tmp_path / name, ALONE, log=lambda text: None)
        for again in ((), ("--precise-bn",)):
            done = CliRunner().invoke(tgtrain, ["test", str(tmp_path / name), "--views", "1x1", *again])
            assert done.exit_code == 0, done.output
            assert ("holds running averages" in done.stderr) is (name == "running" and not again)
            table = pq.read_table(tmp_path / name / f"test-1x1{'-precise-bn' if again else ''}.parquet")
            scores[name, bool(again)] = np.array(table["scores"].to_pylist())
    np.testing.assert_array_equal(scores["running", True], scores["precise", True])
    np.testing.assert_allclose(scores["running", True], scores["precise", False], rtol=1e-5)
    assert not np.allclose(scores["running", False], scores["precise", False], rtol=1e-3)


def test_strong_labelled_clips_are_learnt_from(data_set: Path) -> None:
    from tgtrain.data.device import views_of

    weak, strong = (
        step_dataset(setup_of(data_set, f"augment.labelled={view}", recipe="demo-supervised"), ALONE)[0]
        for view in ("weak", "strong")
    )
    assert weak.labelled.keys == strong.labelled.keys
    assert weak.labelled_rgb == ()
    assert len(strong.labelled_rgb) == len(strong.labelled.keys)
    seen = [views_of(batch, slow=False).labelled.rgb for batch in (weak, strong)]
    assert seen[0] is not None
    assert seen[1] is not None
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize(("asked", "used"), [(2, 2), (200, 3)])
def test_precise_statistics_of_a_run_are_plain_means_over_centre_clips(data_set: Path, asked: int, used: int) -> None:
    """Against torch's own cumulative average (momentum None) of the first layer, over clips read one by one."""
    setup = setup_of(data_set, f"precise_bn.batches={asked}")
    model = build_model(setup.config.model)
    recompute_batch_norm(model, setup, ALONE)
    places = setup.videos("train")
    assert len(places) == 12  # 3 batches of 4
    order = StreamOrder(len(places), 4, setup.config.runtime.seed, 2)
    plain = torch.nn.BatchNorm3d(4, momentum=None)
    seen = set()
    fresh = build_model(setup.config.model)
    for number in range(used):
        clips = []
        for draw in order.draws(number):
            seen.add(draw.video)
            place = setup.reader.index[places[draw.video]]
            first = (place.num_frames - 4 * 2 + 1) // 2  # the middle one of all starts
            (plan,) = plan_eval(place.num_frames, place.height, place.width, setup.clip)
            assert plan.frames == tuple(range(first, first + 8, 2))
            clips.append(normalise(torch.from_numpy(setup.reader.read(places[draw.video], plan).rgb)[None]))
        with torch.no_grad():
            plain(fresh.rgb.stem.conv(torch.cat(clips)))  # type: ignore[operator, union-attr]
    assert len(seen) == 4 * used  # every video once
    found = model.state_dict()
    assert plain.running_mean is not None
    assert plain.running_var is not None
    torch.testing.assert_close(found["rgb.stem.bn.running_mean"], plain.running_mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["rgb.stem.bn.running_var"], plain.running_var, rtol=1e-4, atol=1e-5)
