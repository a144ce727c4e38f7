"""Clip: frame indices and crop boxes against the golden figures and slow plain versions of the reference's rules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.records import InputError
from tgtrain.config import load_recipe
from tgtrain.data.clip import (
    ClipPlan,
    ClipSettings,
    clip_indices,
    eval_starts,
    plan_eval,
    plan_train,
    slow_indices,
    train_starts,
)
from tgtrain.data.crop import (
    CropBox,
    Size,
    centre_crop,
    random_resized_crop,
    reference_pixels,
    short_side_size,
    three_crops,
    to_stored_frame,
)
from tgtrain.data.setup import clip_settings
from tgtrain.randomness import sample_seed

MAIN = ClipSettings()
RGB_ONLY = ClipSettings(gradient="none")
PINNED = ClipPlan(
    frames=(42, 50, 58, 66, 74, 82, 90, 98),
    tg_frames=(42, 50, 58, 66, 74, 82, 90, 98),
    gradient="fast",
    resized=None,
    boxes=(CropBox(top=13, left=3, height=204, width=240),),
    flip=True,
    tg_boxes=(CropBox(top=13, left=3, height=204, width=240),),
    tg_flip=True,
    output_size=224,
)
quick = settings(deadline=None, max_examples=60)
frame_counts = st.integers(2, 400)
sides = st.integers(16, 700)


def generators(count: int) -> Iterator[np.random.Generator]:
    """Generators of the kind that plans get: one a video and pass."""
    return (sample_seed(3, 1, number, "Diving/v_Diving_g01_c03", 0) for number in range(count))


def train_clips(num_frames: int, recipe: ClipSettings, rng: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    """Frame indices of training clips."""
    return tuple(clip_indices(start, num_frames, recipe) for start in train_starts(num_frames, recipe, rng))


def eval_clips(num_frames: int, recipe: ClipSettings, num_clips: int) -> tuple[tuple[int, ...], ...]:
    """Frame indices of the clips of a test."""
    return tuple(clip_indices(start, num_frames, recipe) for start in eval_starts(num_frames, recipe, num_clips))


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((shared / "golden" / "pipeline.json").read_text())
    return figures


def as_box(figures: dict[str, int]) -> CropBox:
    return CropBox(**figures)


# Frames


def test_validation_clips_match_golden_figures(golden: dict[str, Any]) -> None:
    assert golden["val_clip"]
    for num_frames, clips in golden["val_clip"].items():
        assert [list(eval_clips(int(num_frames), MAIN, 1)[0])] == clips


def test_test_clips_match_golden_figures(golden: dict[str, Any]) -> None:
    assert golden["test_clips"]
    for num_frames, clips in golden["test_clips"].items():
        assert [list(clip) for clip in eval_clips(int(num_frames), MAIN, 10)] == clips


def test_training_clips_stay_in_golden_bounds(golden: dict[str, Any]) -> None:
    assert golden["train_clip_bounds"]
    for num_frames, bounds in golden["train_clip_bounds"].items():
        clips = np.array([plan_train(int(num_frames), 240, 320, MAIN, rng)[0].frames for rng in generators(2500)])
        assert [clips[:, 0].min(), clips[:, 0].max()] == bounds["first_index"]
        assert [clips.min(), clips.max()] == bounds["any_index"]
        assert len(np.unique(clips[:, 0])) == bounds["distinct_starts"]


def test_every_start_is_equally_likely() -> None:
    """100 frames: 99 usable, 36 starts; chi-square with 35 degrees of freedom stays under 35 + 4 sqrt(70)."""
    starts = [plan_train(100, 240, 320, MAIN, rng)[0].frames[0] for rng in generators(7200)]
    counts = np.bincount(starts, minlength=36)
    assert ((counts - 200.0) ** 2 / 200).sum() < 35 + 4 * np.sqrt(70)


@quick
@given(frame_counts, st.integers(1, 12), st.integers(1, 10), st.integers(0, 10**6))
def test_training_indices_stay_inside_and_keep_the_interval(n: int, length: int, interval: int, number: int) -> None:
    recipe = ClipSettings(clip_frames=length, interval=interval)
    (clip,) = train_clips(n, recipe, sample_seed(number, 0, 0, "a/b", 0))
    assert len(clip) == length
    assert all(0 <= index < n for index in clip)
    assert all((later - index) % n == interval % n for index, later in pairwise(clip))
    if n >= length * interval:
        assert list(clip) == sorted(clip)  # a video long enough is never wrapped


@quick
@given(frame_counts, st.integers(0, 10**6))
def test_only_rgb_may_use_the_last_frame(num_frames: int, number: int) -> None:
    (plan,) = plan_train(num_frames, 240, 320, MAIN, sample_seed(number, 0, 0, "a/b", 0))
    assert plan.tg_frames == plan.frames
    assert max(plan.tg_frames) <= num_frames - 2
    (plan,) = plan_train(num_frames, 240, 320, RGB_ONLY, sample_seed(number, 0, 0, "a/b", 0))
    assert plan.tg_frames == ()


def test_segments_cut_the_starts_into_equal_parts() -> None:
    recipe = ClipSettings(num_clips=3)
    starts = np.array([[clip[0] for clip in train_clips(100, recipe, rng)] for rng in generators(1500)])
    # 37 starts in 3 parts of 12: the last start, 36, belongs to no part (as in the reference).
    assert starts.min(axis=0).tolist() == [0, 12, 24]
    assert starts.max(axis=0).tolist() == [11, 23, 35]


def test_uniform_clips_come_from_all_starts_in_any_order() -> None:
    recipe = ClipSettings(num_clips=2, clip_spread="uniform")
    starts = np.array([[clip[0] for clip in train_clips(100, recipe, rng)] for rng in generators(1500)])
    assert starts.min(axis=0).tolist() == [0, 0]
    assert starts.max(axis=0).tolist() == [36, 36]
    assert 0.4 < np.mean(starts[:, 0] < starts[:, 1]) < 0.6
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.1


def test_more_clips_than_starts() -> None:
    recipe = ClipSettings(num_clips=4)
    starts = {tuple(clip[0] for clip in train_clips(65, recipe, rng)) for rng in generators(300)}
    assert starts == {(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 1), (0, 1, 1, 1), (1, 1, 1, 1)}
    assert train_clips(64, recipe, next(generators(1))) == ((0, 8, 16, 24, 32, 40, 48, 56),) * 4


def test_slow_tg_is_spread_over_the_clip() -> None:
    assert slow_indices(clip_indices(5, 200, MAIN)) == (5, 12, 19, 26, 33, 40, 47, 54, 61)
    assert slow_indices(clip_indices(0, 40, MAIN)) == (0, 2, 4, 6, 8, 10, 12, 14, 16)
    assert slow_indices(clip_indices(0, 29, MAIN)) == (0, 3, 7, 10, 14, 17, 20, 24, 27)  # 3.375 apart
    assert slow_indices(clip_indices(10, 62, MAIN)) == (10, 9, 8, 8, 7, 6, 6, 5, 4)  # the last frame is the fifth
    recipe = ClipSettings(clip_frames=4, interval=5, gradient="slow")
    (plan,) = plan_train(20, 240, 320, recipe, next(generators(1)))
    assert plan.frames == (0, 5, 10, 15)
    assert plan.tg_frames == (0, 4, 8, 11, 15)  # 3.75 apart, a half rounded to even


@quick
@given(frame_counts, st.sampled_from([1, 3]), st.integers(1, 10))
def test_eval_rgb_is_independent_of_tg(num_frames: int, crops: int, clips: int) -> None:
    both = plan_eval(num_frames, 240, 320, MAIN, clips, crops)
    alone = plan_eval(num_frames, 240, 320, RGB_ONLY, clips, crops)
    assert [plan.frames for plan in both] == [plan.frames for plan in alone]
    assert all(max(plan.tg_frames) <= num_frames - 2 for plan in both)
    assert all(tg in (k, k - 1) for plan in both for k, tg in zip(plan.frames, plan.tg_frames, strict=True))
    assert len(both) == clips
    assert all(len(plan.boxes) == crops for plan in both)


def test_a_network_of_gradients_alone_is_tested_on_frames_that_have_one() -> None:
    alone = ClipSettings(gradient="flow", rgb=False)
    for num_frames, start in ((64, 0), (65, 0), (66, 1), (100, 18)):  # of n - 1 frames, as in the reference
        (plan,) = plan_eval(num_frames, 240, 320, alone)
        assert plan.frames == plan.tg_frames == clip_indices(start, num_frames - 1, alone)


# Boxes


def test_resize_and_crops_match_golden_figures(golden: dict[str, Any]) -> None:
    assert golden["resize_and_crops"]
    for name, figures in golden["resize_and_crops"].items():
        width, height = map(int, name.split("x"))
        resized = short_side_size(height, width, 256)
        assert resized == Size(**figures["short256"])
        assert [centre_crop(resized, 224)] == [as_box(box) for box in figures["centre224"]]
        assert list(three_crops(resized, 256)) == [as_box(box) for box in figures["three256"]]
        (one,) = plan_eval(100, height, width, MAIN)
        stored = to_stored_frame(centre_crop(resized, 224), resized, Size(height, width))
        assert (one.resized, one.boxes, one.output_size) == (None, (stored,), 224)
        (three,) = plan_eval(100, height, width, MAIN, 1, 3)
        assert (three.resized, three.boxes, three.output_size) == (resized, three_crops(resized, 256), 256)


@quick
@given(sides, sides, st.integers(8, 320), st.integers(0, 10**6), st.sampled_from(["resized", "jitter"]))
def test_boxes_are_inside_the_stored_frame(height: int, width: int, size: int, number: int, crop: Any) -> None:
    recipe = ClipSettings(size=size, crop=crop)
    (plan,) = plan_train(90, height, width, recipe, sample_seed(number, 0, 0, "a/b", 0))
    (box,) = plan.boxes
    assert box.top + box.height <= height
    assert box.left + box.width <= width
    assert plan.resized is None
    (plan,) = plan_eval(90, height, width, recipe, 1, 3)
    assert plan.resized is not None
    for box in plan.boxes:
        assert (box.height, box.width) == (plan.output_size, plan.output_size)
        assert box.top + box.height <= plan.resized.height
        assert box.left + box.width <= plan.resized.width


def test_input_size_scales_the_pipeline() -> None:
    assert [reference_pixels(256, size) for size in (224, 112, 64, 16)] == [256, 128, 73, 18]
    assert reference_pixels(320, 224) == 320


def slow_resized_crop(image: Size, random: np.random.RandomState) -> tuple[float, float, float, float]:
    """The rule of MMAction2's RandomResizedCrop in plain numpy with its own generator: top, left, height, width."""
    aspects = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3), size=10))
    areas = random.uniform(0.08, 1.0, size=10) * image.height * image.width
    widths, heights = np.round(np.sqrt(areas * aspects)).astype(int), np.round(np.sqrt(areas / aspects)).astype(int)
    fits = np.flatnonzero((widths <= image.width) & (heights <= image.height))
    if len(fits) == 0:
        side = min(image.height, image.width)
        return (image.height - side) // 2, (image.width - side) // 2, side, side
    width, height = widths[fits[0]], heights[fits[0]]
    return random.randint(image.height - height + 1), random.randint(image.width - width + 1), height, width


def largest_gap(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Two-sample Kolmogorov-Smirnov statistic."""
    values = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize("image", [Size(256, 341), Size(597, 256)], ids=["ucf101", "tall"])
def test_random_resized_crop_distribution_matches_the_reference(image: Size) -> None:
    count = 3000
    random = np.random.RandomState(0)
    expected = np.array([slow_resized_crop(image, random) for _ in range(count)])
    boxes = [random_resized_crop(image, rng) for rng in generators(count)]
    got = np.array([(box.top, box.left, box.height, box.width) for box in boxes], dtype=float)
    for measure in (
        lambda b: b[:, 0],
        lambda b: b[:, 1],
        lambda b: b[:, 2],
        lambda b: b[:, 3],
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 3] / b[:, 2],
        lambda b: b[:, 1] + b[:, 3] / 2,
    ):
        # 1.95 sqrt(2 / count): a gap that equal distributions exceed once in a thousand draws.
        assert largest_gap(measure(expected), measure(got)) < 1.95 * np.sqrt(2 / count)


def test_crop_that_never_fits_is_the_centre_square() -> None:
    box = random_resized_crop(Size(20, 200), next(generators(1)), area_range=(0.9, 1.0))
    assert box == CropBox(0, 90, 20, 20)


def test_one_resize_equals_two() -> None:
    """Every pixel of the output comes from the same place of the frame, within the rounding of edges to pixels."""
    stored = Size(240, 320)
    rows, columns = np.mgrid[0:240, 0:320].astype(np.float32)
    resized = short_side_size(240, 320, 256)
    for rng in generators(50):
        box = random_resized_crop(resized, rng)
        back = to_stored_frame(box, resized, stored)
        for coordinates in (rows, columns):
            whole = cv2.resize(coordinates, (resized.width, resized.height))
            twice = cv2.resize(whole[box.top : box.top + box.height, box.left : box.left + box.width], (224, 224))
            once = cv2.resize(
                coordinates[back.top : back.top + back.height, back.left : back.left + back.width], (224, 224)
            )
            assert np.abs(twice - once).max() < 1.0


def test_jitter_crops_a_square_from_a_short_side_of_256_to_320() -> None:
    recipe = ClipSettings(crop="jitter", shared_crop=False)
    plans = [plan_train(100, 240, 320, recipe, rng)[0] for rng in generators(800)]
    boxes = [box for plan in plans for box in (*plan.boxes, *plan.tg_boxes)]
    # 224 of a short side of 256 .. 320 is 210 .. 168 of 240 stored pixels, give or take the rounding of the edges.
    assert {box.height for box in boxes} == set(range(168, 211))
    assert all(abs(box.height - box.width) <= 2 for box in boxes)
    assert min(box.left for box in boxes) == 0
    assert max(box.left + box.width for box in boxes) == 320


@pytest.mark.parametrize("flip", [True, False])
def test_a_recipe_may_leave_clips_unmirrored(flip: bool) -> None:
    recipe = clip_settings(load_recipe("ucf101-20", [f"data.flip={str(flip).lower()}", "data.shared_crop=false"]))
    plans = [plan_train(100, 240, 320, recipe, rng)[0] for rng in generators(40)]
    assert any(plan.flip or plan.tg_flip for plan in plans) is flip


def test_views_share_crop_and_flip_by_default() -> None:
    plans = [plan_train(100, 240, 320, MAIN, rng)[0] for rng in generators(300)]
    assert all((plan.boxes, plan.flip) == (plan.tg_boxes, plan.tg_flip) for plan in plans)
    assert 0.4 < np.mean([plan.flip for plan in plans]) < 0.6
    apart = [plan_train(100, 240, 320, ClipSettings(shared_crop=False), rng)[0] for rng in generators(300)]
    assert np.mean([plan.boxes == plan.tg_boxes for plan in apart]) < 0.02
    assert 0.4 < np.mean([plan.flip == plan.tg_flip for plan in apart]) < 0.6


def test_clips_of_one_video_have_their_own_crops() -> None:
    first, second = plan_train(300, 240, 320, ClipSettings(num_clips=2), next(generators(1)))
    assert first.boxes != second.boxes


def test_plans_are_reproducible() -> None:
    def plan(pass_index: int) -> ClipPlan:
        return plan_train(180, 240, 320, MAIN, sample_seed(0, 1, pass_index, "Diving/v_Diving_g01_c03", 0))[0]

    assert plan(0) == plan(0)
    assert plan(0) != plan(1)
    assert plan(0) == PINNED


def test_invalid_arguments_are_rejected() -> None:
    rng = next(generators(1))
    with pytest.raises(InputError, match="1 frame, a clip with gradient 'fast' needs at least 2"):
        plan_train(1, 240, 320, MAIN, rng)
    with pytest.raises(InputError, match="0 frames"):
        plan_eval(0, 240, 320, RGB_ONLY)
    with pytest.raises(InputError, match="1 or 3 crops"):
        plan_eval(100, 240, 320, MAIN, 10, 2)
    for wrong in ({"interval": 0}, {"area": (0.0, 1.0)}, {"aspect_range": (2.0, 1.0)}, {"flip_probability": 1.5}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ClipSettings(**wrong)  # type: ignore[arg-type]


def test_three_crops_of_a_given_size() -> None:
    (plan,) = plan_eval(64, 240, 320, ClipSettings(size=64, test_size=64), num_crops=3)
    assert plan.output_size == 64
    assert plan.resized == Size(64, 85)
    assert [(box.top, box.left, box.height, box.width) for box in plan.boxes] == [
        (0, 0, 64, 64), (0, 20, 64, 64), (0, 10, 64, 64)
    ]  # fmt: skip
    (centre,) = plan_eval(64, 240, 320, ClipSettings(size=64, test_size=64))
    assert centre.boxes == (CropBox(13, 53, 211, 211),)  # 64 of 73 rows, in pixels of the stored frame
