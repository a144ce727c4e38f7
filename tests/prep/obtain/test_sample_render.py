"""Pictures of the sample: shapes wrap at the edges, and one frame does not show the class while several do."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

import tgprep.obtain.sample_render
from tests.prep.obtain.support import decode
from tgprep.obtain.sample import SampleSettings, render_sample, sample_videos, video_frames
from tgprep.obtain.sample_paths import displacement
from tgprep.obtain.sample_render import draw_sprite, make_scene, make_sprite, opacity, radius_share

Features = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def test_shapes_wrap_at_the_edges() -> None:
    """What leaves at an edge enters at the opposite one: a shape at the corner is the middle one, rolled."""
    sprite = make_sprite(np.random.default_rng(3), np.zeros(3, np.float32), 64)
    pictures = []
    for x, y in ((0.5, 0.5), (0.0, 0.0), (0.0, 0.5), (0.5, 0.0)):
        canvas = np.zeros((64, 96, 3), np.float32)
        draw_sprite(canvas, sprite, np.array([x, y, 0.6, 0.1]))
        pictures.append(np.roll(canvas, (int((0.5 - y) * 64), int((0.5 - x) * 96)), (0, 1)))
    for other in pictures[1:]:
        np.testing.assert_allclose(other, pictures[0], atol=1e-3)
    rows, columns = np.nonzero(pictures[0].sum(axis=2))
    radius = radius_share(0.6) * 64
    assert max(abs(rows - 31.5).max(), abs(columns - 47.5).max()) <= radius + 1
    assert max(abs(rows - 31.5).max(), abs(columns - 47.5).max()) > 0.7 * radius


def test_sizes_grow_and_fade_only_at_their_ends() -> None:
    sizes = np.linspace(0, 1, 200, endpoint=False)
    radii = np.array([radius_share(size) for size in sizes])
    assert np.all(np.diff(radii) > 0)
    assert 2 * radii.max() < 1
    assert opacity(0.0) == 0
    assert all(opacity(size) == 1 for size in sizes[(sizes > 0.04) & (sizes < 0.93)])


def test_background_has_no_seam() -> None:
    """Neighbours across the edge differ no more than neighbours inside, so a drifting background shows no line."""
    for seed in range(8):
        tile = make_scene(np.random.default_rng(seed), 60, 80).background
        for axis in (0, 1):
            inside = np.abs(np.diff(tile, axis=axis)).mean()
            across = np.abs(np.take(tile, 0, axis) - np.take(tile, -1, axis)).mean()
            assert across < 2 * inside


LEAK = SampleSettings(num_groups=32, clips_per_group=1, width=80, height=60, min_frames=36, max_frames=36, seed=11)
NUM_TEST_GROUPS = 14
SINGLE_FRAMES = (0, 9, 18, 27, 35)


def frame_features(frame: npt.NDArray[np.uint8]) -> Features:
    """Features of one picture: coarse picture, colour histogram, gradient strengths by place and direction, compression noise."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float64)
    coarse = cv2.resize(frame, (10, 8), interpolation=cv2.INTER_AREA).astype(np.float64).ravel() / 8
    colours = np.concatenate([np.histogram(frame[..., c], 8, (0, 256))[0] for c in range(3)]) / 50
    gy, gx = np.gradient(grey)
    strength, direction = np.hypot(gx, gy), np.arctan2(gy, gx) % np.pi
    oriented = [
        np.where((direction // (np.pi / 4)).astype(int) % 4 == k, strength, 0).reshape(4, 15, 4, 20).mean(axis=(1, 3))
        for k in range(4)
    ]
    high = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1.0))
    # The brightest things are the shapes: where they are and how far they reach.
    shape = strength > np.quantile(strength, 0.9)
    rows, columns = np.nonzero(shape)
    moments = [rows.mean(), rows.std(), columns.mean(), columns.std()]
    fine = [high.mean(), np.median(high), np.quantile(high, 0.9)]
    return np.concatenate([coarse, colours, np.ravel(oriented), fine, moments])


def motion_features(frames: list[npt.NDArray[np.uint8]]) -> Features:
    """Features of the change from frame to frame: one affine motion of the picture per pair (least squares), summed up over time."""
    found = []
    y, x = np.mgrid[-1:1:60j, -1:1:80j]
    soft = [cv2.GaussianBlur(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), (0, 0), 2.0).astype(np.float64) for f in frames]
    for before, after in zip(soft[::2], soft[1::2], strict=False):
        gy, gx = np.gradient((before + after) / 2)
        gt = after - before
        weight = gx**2 + gy**2
        centre_x, centre_y = (float((weight * place).sum() / weight.sum()) for place in (x, y))
        u, v = x - centre_x, y - centre_y
        terms = np.stack([gx, gy, gx * u + gy * v, gy * u - gx * v]).reshape(4, -1)
        found.append(
            [*np.linalg.lstsq(terms @ terms.T + np.eye(4), -terms @ gt.ravel(), rcond=None)[0], np.abs(gt).mean()]
        )
    values = np.array(found)
    signs = np.abs(np.sign(values).mean(axis=0))
    return np.concatenate(
        [values.mean(axis=0), values.std(axis=0), np.abs(values).mean(axis=0), np.median(values, axis=0), signs]
    )


def held_out_accuracy(train: tuple[Features, Labels], test: tuple[Features, Labels], num_classes: int) -> float:
    """Kernel ridge regression (Gaussian kernel, median distance) from features to classes, scored on `test`."""
    mean, scale = train[0].mean(axis=0), train[0].std(axis=0) + 1e-9
    a, b = (np.clip((part[0] - mean) / scale, -4, 4) for part in (train, test))
    between = [np.maximum((p**2).sum(1)[:, None] + (a**2).sum(1)[None] - 2 * p @ a.T, 0) for p in (a, b)]
    width = np.median(between[0])
    kernel, kernel_test = (np.exp(-2 * d / width) for d in between)
    weights = np.linalg.solve(kernel + 0.1 * np.eye(len(a)), np.eye(num_classes)[train[1]] - 1 / num_classes)
    return float(((kernel_test @ weights).argmax(axis=1) == test[1]).mean())


def parts(per_video: Features) -> tuple[tuple[Features, Labels], tuple[Features, Labels]]:
    """(train, test) by group, from float64[videos, looks, features] in the order of `sample_videos(LEAK)`."""
    videos = sample_videos(LEAK)
    labels = np.array([LEAK.class_names.index(video.class_name) for video in videos])
    tested = np.array([video.group <= NUM_TEST_GROUPS for video in videos])
    looks, size = per_video.shape[1:]
    train, test = ((per_video[rows].reshape(-1, size), np.repeat(labels[rows], looks)) for rows in (~tested, tested))
    return train, test


def chance_bound(num_trials: int, chance: float, level: float) -> float:
    """The share of hits that guessing exceeds with a probability of at most `level`: exact binomial tail."""
    tail = 0.0
    for hits in range(num_trials, -1, -1):
        tail += math.comb(num_trials, hits) * chance**hits * (1 - chance) ** (num_trials - hits)
        if tail > level:
            return hits / num_trials
    return 0.0


@pytest.mark.long
def test_single_frame_does_not_show_the_class_but_motion_does(tmp_path: Path) -> None:
    """From the files themselves, so that a codec that treats moving things otherwise would be found too."""
    clips = [decode(file) for file in render_sample(tmp_path / "videos", LEAK)]
    looks = np.array([[frame_features(frames[k]) for k in SINGLE_FRAMES] for frames in clips])
    from_frame = held_out_accuracy(*parts(looks), LEAK.num_classes)
    from_motion = held_out_accuracy(*parts(np.array([[motion_features(frames)] for frames in clips])), LEAK.num_classes)
    # Frames of one video are not independent: the bound counts videos.
    bound = chance_bound(LEAK.num_classes * NUM_TEST_GROUPS, 1 / LEAK.num_classes, 0.005)
    print(f"single frame {from_frame:.3f}, bound {bound:.3f}, motion {from_motion:.3f}")
    assert from_frame <= bound
    assert from_motion > 2 * bound


def test_classifier_finds_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the uniform start of the paths, single frames do show the class: the test above can fail."""
    monkeypatch.setattr(
        tgprep.obtain.sample_render,
        "path",
        lambda *motion: (np.array([0.5, 0.5, 0.3, 0.0]) + displacement(*motion)) % 1,
    )
    looks = []
    for video in sample_videos(LEAK):
        frames = list(itertools.islice(video_frames(video, LEAK), SINGLE_FRAMES[2] + 1))
        looks.append([frame_features(frames[k]) for k in SINGLE_FRAMES[:3]])
    from_frame = held_out_accuracy(*parts(np.array(looks)), LEAK.num_classes)
    print(f"single frame with a leak {from_frame:.3f}")
    assert from_frame > 1.5 * chance_bound(LEAK.num_classes * NUM_TEST_GROUPS, 1 / LEAK.num_classes, 0.005)
