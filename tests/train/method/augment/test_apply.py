"""Augmentation: what plans are drawn, and that a clip's strong view is its own plan, step by step, whatever the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from manifests.records import InputError
from tgtrain.method.augment import apply as augment
from tgtrain.method.augment.apply import apply_strong, normalise, slow_gradient
from tgtrain.method.augment.plan import (
    GEOMETRIC_OPS,
    SIGNED_OPS,
    StrongOp,
    StrongPlan,
    StrongSettings,
    StrongStep,
    amount_at,
    draw_run_signs,
    draw_strong_plan,
    draw_strong_plans,
)
from tgtrain.randomness import Choice, Stream, sample_seed

MAIN = StrongSettings()
PINNED = [
    ("SHEAR_X", 15.471000000000002, 0.5, 0.5),
    ("POSTERIZE", 3, 0.5, 0.5),
    ("SHEAR_X", 15.471000000000002, 0.5, 0.5),
    ("COLOR", 1.7200000000000002, 0.5, 0.5),
    ("SHEAR_Y", 15.471000000000002, 0.5, 0.5),
    ("EQUALIZE", 0.0, 0.5, 0.5),
    ("SHEAR_X", -15.471000000000002, 0.5, 0.5),
    ("SHEAR_Y", -15.471000000000002, 0.5, 0.5),
    ("TRANSLATE_X", 0.18000000000000002, 0.5, 0.5),
    ("TRANSLATE_Y", -0.18000000000000002, 0.5, 0.5),
    ("ROTATE", -27.0, 0.5, 0.5),
    ("POSTERIZE", 3, 0.5, 0.5),
    ("SOLARIZE", 230, 0.5, 0.5),
    ("COLOR", 1.7200000000000002, 0.5, 0.5),
    ("CONTRAST", 1.7200000000000002, 0.5, 0.5),
    ("BRIGHTNESS", 1.7200000000000002, 0.5, 0.5),
    ("SHARPNESS", 1.7200000000000002, 0.5, 0.5),
    ("AUTOCONTRAST", 0.0, 0.5, 0.5),
    ("EQUALIZE", 0.0, 0.5, 0.5),
    ("INVERT", 0.0, 0.5, 0.5),
    ("CUTOUT", 0.18000000000000002, 0.41391685843787707, 0.681737210520863),
]


def generators(count: int, choice: int = Choice.STRONG_RGB) -> Iterator[np.random.Generator]:
    return (sample_seed(9, Stream.UNLABELLED, number, "Punch/v_Punch_g01_c03", choice) for number in range(count))


def some_clips(count: int, frames: int = 3, side: int = 33, seed: int = 0) -> Tensor:
    """Smooth noise, so that neighbours differ and geometry shows, with the whole range of values."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3 * frames, side // 4, side // 4, generator=random)
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    clips = fine.mul(256).clamp(0, 255).to(torch.uint8).view(count, frames, 3, side, side)
    return clips.permute(0, 1, 3, 4, 2).contiguous()


def one_step(op: StrongOp, sign: int = 1) -> StrongPlan:
    return StrongPlan((StrongStep(op, sign * amount_at(op, 0.9)),))


# Plans


def test_amounts_are_those_of_the_recipe() -> None:
    """Figures of the paper's configuration: level 9 of 10 of MMAction2's default list."""
    expected = {
        StrongOp.SHEAR_X: 15.471,
        StrongOp.SHEAR_Y: 15.471,
        StrongOp.TRANSLATE_X: 0.18,
        StrongOp.TRANSLATE_Y: 0.18,
        StrongOp.ROTATE: 27.0,
        StrongOp.POSTERIZE: 3,
        StrongOp.SOLARIZE: 230,
        StrongOp.COLOR: 1.72,
        StrongOp.CONTRAST: 1.72,
        StrongOp.BRIGHTNESS: 1.72,
        StrongOp.SHARPNESS: 1.72,
        StrongOp.AUTOCONTRAST: 0,
        StrongOp.EQUALIZE: 0,
        StrongOp.INVERT: 0,
        StrongOp.CUTOUT: 0.18,
    }
    assert list(expected) == list(StrongOp)
    assert {op: amount_at(op, 0.9) for op in StrongOp} == pytest.approx(expected, abs=1e-12)


def test_every_pair_is_equally_likely_and_in_the_order_of_the_list() -> None:
    plans = [draw_strong_plan(rng, MAIN) for rng in generators(8400)]
    counts = Counter(tuple(step.op for step in plan.steps) for plan in plans)
    assert set(counts) == set(combinations(StrongOp, 2))  # 105 pairs, 80 times each, chi-square of 104 degrees
    assert sum((count - 80) ** 2 / 80 for count in counts.values()) < 104 + 4 * np.sqrt(208)


def test_signs_and_places_are_drawn_for_every_clip() -> None:
    steps = [step for rng in generators(4000) for step in draw_strong_plan(rng, MAIN).steps]
    for op in SIGNED_OPS:
        amounts = np.array([step.amount for step in steps if step.op is op])
        assert set(np.abs(amounts)) == {amount_at(op, 0.9)}
        assert 0.42 < np.mean(amounts > 0) < 0.58
    cutouts = [step for step in steps if step.op is StrongOp.CUTOUT]
    for places in zip(*((step.centre_y, step.centre_x) for step in cutouts), strict=True):
        assert np.abs(np.histogram(places, bins=4, range=(0, 1))[0] / len(places) - 0.25).max() < 0.08
    assert {step.fill for step in cutouts} == {128}
    assert {step.fill for step in steps if step.op is not StrongOp.CUTOUT} == {0}


def test_signs_can_be_fixed_for_a_run() -> None:
    signs = draw_run_signs(next(generators(1)))
    assert signs == draw_run_signs(next(generators(1)))
    assert len({draw_run_signs(rng) for rng in generators(200)}) == 32
    steps = [s for rng in generators(500) for s in draw_strong_plan(rng, StrongSettings(fixed_signs=signs)).steps]
    for op, sign in zip(SIGNED_OPS, signs, strict=True):
        assert {step.amount for step in steps if step.op is op} == {sign * amount_at(op, 0.9)}


def test_views_are_independent_unless_geometry_is_shared() -> None:
    def pairs(share: bool) -> list[tuple[StrongPlan, StrongPlan]]:
        both = zip(generators(6300), generators(6300, Choice.STRONG_TG), strict=True)
        return [draw_strong_plans(rgb, tg, StrongSettings(shared_geometry=share)) for rgb, tg in both]

    assert np.mean([rgb == tg for rgb, tg in pairs(False)]) < 0.02
    shared = pairs(True)
    for rgb, tg in shared:
        assert [s for s in rgb.steps if s.op in GEOMETRIC_OPS] == [s for s in tg.steps if s.op in GEOMETRIC_OPS]
        assert len(tg.steps) == 2
    # Seen alone, the TG plans are still evenly drawn pairs.
    counts = Counter(tuple(step.op for step in tg.steps) for _, tg in shared)
    assert set(counts) == set(combinations(StrongOp, 2))
    assert sum((count - 60) ** 2 / 60 for count in counts.values()) < 104 + 4 * np.sqrt(208)
    only_colour = [(r, t) for r, t in shared if not any(s.op in GEOMETRIC_OPS for s in r.steps)]
    assert np.mean([rgb == tg for rgb, tg in only_colour]) < 0.1


def test_a_plan_is_pinned() -> None:
    """A resumed run must draw what the interrupted one would have drawn, also with a later version."""
    rng = sample_seed(0, Stream.UNLABELLED, 0, "Diving/v_Diving_g01_c03", Choice.STRONG_RGB)
    steps = [step for num_ops in (2, 2, 2, 15) for step in draw_strong_plan(rng, StrongSettings(num_ops=num_ops)).steps]
    assert [(step.op.name, step.amount, step.centre_y, step.centre_x) for step in steps] == PINNED


@given(st.integers(0, 15), st.integers(0, 10**6))
def test_operations_are_never_repeated(num_ops: int, number: int) -> None:
    rng = sample_seed(number, 0, 0, "a/b", 0)
    ops = [step.op for step in draw_strong_plan(rng, StrongSettings(num_ops=num_ops)).steps]
    assert len(ops) == len(set(ops)) == num_ops
    assert ops == sorted(ops)


def test_mistakes_are_named() -> None:
    for wrong in ({"num_ops": 16}, {"level": 1.5}, {"cutout_fill": 300}, {"fixed_signs": (1, -1)}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            StrongSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 plans"):
        apply_strong(some_clips(3), [one_step(StrongOp.INVERT)] * 2)


# Strong views


def test_single_steps_reproduce_the_golden_outputs(shared: Path) -> None:
    """Amounts, signs and grouping together: each operation at level 0.9 as a plan of one step."""
    with np.load(shared / "golden" / "strong_ops.npz") as figures:
        golden = {name: figures[name] for name in figures}
    clip = torch.from_numpy(golden.pop("input"))[None, None]
    golden.pop("solarize_as_built")
    for name, expected in golden.items():
        sign = -1 if name.endswith("_neg") else 1
        op = StrongOp[name.removesuffix("_pos").removesuffix("_neg").upper()]
        got = apply_strong(clip, [one_step(op, sign)])[0, 0].numpy().astype(int)
        if op in SIGNED_OPS:
            assert np.abs(got - expected)[2:-2, 2:-2].mean() < 0.5, name
        else:
            np.testing.assert_array_equal(got, expected, err_msg=name)


def pillow(frame: npt.NDArray[np.uint8], step: StrongStep) -> npt.NDArray[np.uint8]:
    image = Image.fromarray(frame)
    result = {
        StrongOp.POSTERIZE: lambda: ImageOps.posterize(image, int(step.amount)),
        StrongOp.SOLARIZE: lambda: ImageOps.solarize(image, int(step.amount)),
        StrongOp.COLOR: lambda: ImageEnhance.Color(image).enhance(step.amount),
        StrongOp.CONTRAST: lambda: ImageEnhance.Contrast(image).enhance(step.amount),
        StrongOp.BRIGHTNESS: lambda: ImageEnhance.Brightness(image).enhance(step.amount),
        StrongOp.SHARPNESS: lambda: ImageEnhance.Sharpness(image).enhance(step.amount),
        StrongOp.AUTOCONTRAST: lambda: ImageOps.autocontrast(image),
        StrongOp.EQUALIZE: lambda: ImageOps.equalize(image),
        StrongOp.INVERT: lambda: ImageOps.invert(image),
    }[step.op]()
    return np.asarray(result)


def test_two_steps_are_one_after_the_other_on_whole_grey_levels() -> None:
    """All 36 pairs of colour operations on a batch: what Pillow gives frame by frame, 8-bit images in between."""
    pairs = list(combinations([op for op in StrongOp if op not in GEOMETRIC_OPS], 2))
    clips = some_clips(len(pairs), frames=2)
    plans = [StrongPlan(tuple(StrongStep(op, amount_at(op, 0.9)) for op in pair)) for pair in pairs]
    got = apply_strong(clips, plans).numpy()
    for number, plan in enumerate(plans):
        for frame in range(2):
            expected = clips[number, frame].numpy()
            for step in plan.steps:
                expected = pillow(expected, step)
            np.testing.assert_array_equal(got[number, frame], expected, err_msg=str(plan))


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 12), st.integers(0, 10**6), st.integers(0, 5))
def test_a_strong_view_does_not_depend_on_the_batch(count: int, number: int, num_ops: int) -> None:
    """Bit for bit: alone, in another order, and grouped by operation as on a GPU."""
    rng = sample_seed(number, 0, 0, "a/b", 1)
    plans = [draw_strong_plan(rng, StrongSettings(num_ops=num_ops)) for _ in range(count)]
    clips = some_clips(count, seed=number)
    untouched = clips.clone()
    together = apply_strong(clips, plans)
    assert torch.equal(clips, untouched)
    for place in range(count):
        assert torch.equal(apply_strong(clips[place : place + 1], plans[place : place + 1])[0], together[place])
    assert torch.equal(apply_strong(clips.flip(0), plans[::-1]).flip(0), together)
    planes = clips.permute(0, 1, 4, 2, 3).contiguous()
    augment._run_plans(planes, plans)
    assert torch.equal(planes.permute(0, 1, 3, 4, 2), together)


def test_all_frames_of_a_clip_are_moved_alike() -> None:
    still = some_clips(4, frames=1).expand(4, 8, 33, 33, 3)
    plans = [draw_strong_plan(rng, MAIN) for rng in generators(4)]
    strong = apply_strong(still, plans)
    assert torch.equal(strong, strong[:, :1].expand_as(strong))
    assert not torch.equal(strong[:, 0], still[:, 0])


def test_plans_of_different_length_and_without_steps() -> None:
    clips = some_clips(3)
    invert, both = (
        one_step(StrongOp.INVERT),
        StrongPlan((*one_step(StrongOp.INVERT).steps, *one_step(StrongOp.INVERT).steps)),
    )
    got = apply_strong(clips, [StrongPlan(()), invert, both])
    assert torch.equal(got, torch.stack([clips[0], 255 - clips[1], clips[2]]))


def test_cutout_is_a_square_about_its_centre_cut_off_at_the_border() -> None:
    clips = torch.zeros(3, 2, 100, 100, 3, dtype=torch.uint8)
    centres = [(0.5, 0.5), (0.0, 0.3), (0.999, 0.999)]
    plans = [StrongPlan((StrongStep(StrongOp.CUTOUT, 0.18, y, x, 128),)) for y, x in centres]
    got = apply_strong(clips, plans)
    assert set(got.unique().tolist()) == {0, 128}
    areas = (got[:, 0, :, :, 0] > 0).sum(dim=(1, 2)).tolist()
    assert areas == [18 * 18, 9 * 18, 9 * 9]
    assert got[0, :, 41:59, 41:59].min() == 128


def test_shear_about_the_upper_edge_leaves_it_in_place() -> None:
    clips = some_clips(1, frames=1)
    across = apply_strong(clips, [StrongPlan((StrongStep(StrongOp.SHEAR_X, 5.0, centre_y=0.0),))])
    down = apply_strong(clips, [StrongPlan((StrongStep(StrongOp.SHEAR_Y, 5.0, centre_x=0.0),))])
    # The outermost pixels lie half a pixel from the edge and move by 0.04 pixels; the ends mix with what is outside.
    for got, edge in ((across, (0, 0, 0)), (down, (0, 0, slice(None), 0))):
        assert (got[edge][1:-1].int() - clips[edge][1:-1].int()).abs().max() < 4
        assert (got.int() - clips.int()).abs().max() > 40


def test_fill_comes_in_from_outside() -> None:
    clips = torch.full((1, 1, 20, 20, 3), 200, dtype=torch.uint8)
    for fill in (0, 128):
        step = StrongStep(StrongOp.TRANSLATE_X, 0.5, fill=fill)
        got = apply_strong(clips, [StrongPlan((step,))])[0, 0, :, :, 0]
        assert set(got[:, :10].flatten().tolist()) == {fill}
        assert set(got[:, 10:].flatten().tolist()) == {200}


# Normalisation


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7, 3), (1, 1, 1, 1, 3), (3, 8, 16, 16, 3)])
def test_normalise(shape: tuple[int, ...], channels_last: bool) -> None:
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    got = normalise(clips, channels_last)
    expected = (clips.numpy().astype(np.float64) - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    np.testing.assert_allclose(got.numpy(), expected.transpose(0, 4, 1, 2, 3), rtol=1e-5, atol=1e-6)
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=torch.channels_last_3d if channels_last else torch.contiguous_format)


def test_no_motion_is_a_little_above_zero_in_tg() -> None:
    """Mean and std of RGB are used for TG too: 127 becomes (0.06, 0.19, 0.41), as in the reference."""
    still = normalise(torch.full((1, 1, 1, 1, 3), 127, dtype=torch.uint8)).flatten()
    np.testing.assert_allclose(still.numpy(), [0.0569, 0.1877, 0.4091], atol=1e-4)


def test_normalise_in_inference_mode_leaves_training_usable() -> None:
    """The rows that are kept between calls must not make later training inputs unusable for autograd."""
    clips = some_clips(1, side=21)
    augment._normalising_rows.cache_clear()
    with torch.inference_mode():
        normalise(clips)
    weight = torch.ones(1, requires_grad=True)
    (normalise(clips) * weight).sum().backward()
    assert weight.grad is not None


def test_slow_gradient_is_following_minus_previous_in_floats() -> None:
    frames = torch.tensor([0, 255, 254, 0], dtype=torch.uint8).view(1, 4, 1, 1, 1).expand(1, 4, 2, 2, 3)
    assert slow_gradient(frames)[0, :, 0, 0, 0].tolist() == [255.0, 127.0, 0.5]
    assert normalise(slow_gradient(frames)).shape == (1, 3, 3, 2, 2)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_views_without_waiting() -> None:
    """Colour bytes are the same as on a CPU; interpolated ones may round the other way."""
    plans = [draw_strong_plan(rng, MAIN) for rng in generators(40)]
    clips = some_clips(40, frames=8, side=64)
    expected = apply_strong(clips, plans)
    on_gpu = clips.cuda()
    normalise(on_gpu)
    torch.cuda.set_sync_debug_mode("error")
    try:
        views = apply_strong(on_gpu, plans)
        normalised = normalise(views, channels_last=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for number, plan in enumerate(plans):
        difference = (views[number].cpu().int() - expected[number].int()).abs()
        if not any(step.op in SIGNED_OPS for step in plan.steps):
            assert difference.max() == 0, plan
        assert difference.float().mean() < 1, plan
    torch.testing.assert_close(normalised.cpu(), normalise(views.cpu()), rtol=1e-5, atol=1e-5)
