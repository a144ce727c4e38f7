"""Flow pictures: known motion found, the arithmetic against a plain loop, every picture size, the same bits each time."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from tgprep.encode.flow import FlowMethod, flow_estimator, flow_picture, quantise

METHODS: tuple[FlowMethod, ...] = ("dis", "farneback")


def texture(height: int, width: int) -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(5).integers(0, 256, (height, width), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 2.5), np.uint8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("down", "right"), [(0, 3), (2, 0), (-3, 2)])
def test_a_moved_picture_gives_its_motion(method: FlowMethod, down: int, right: int) -> None:
    picture = texture(120, 160)
    flow = flow_estimator(method)(picture, np.roll(picture, (down, right), axis=(0, 1)))
    inner = flow[24:-24, 24:-24].reshape(-1, 2)
    assert np.allclose(np.median(inner, axis=0), (right, down), atol=0.15)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 50), (3, 240), (240, 3), (7, 9), (15, 17), (12, 400), (500, 9), (33, 1000)]
)
def test_any_size_of_picture_has_flow(method: FlowMethod, size: tuple[int, int]) -> None:
    picture = texture(*size)
    flow = flow_estimator(method)(picture, np.roll(picture, 1, axis=1))
    assert flow.shape == (*size, 2)
    assert np.isfinite(flow).all()
    assert flow_picture(flow).shape == (*size, 3)


@pytest.mark.parametrize("method", METHODS)
def test_what_came_before_changes_nothing(method: FlowMethod) -> None:
    first, second = texture(64, 80), np.roll(texture(64, 80), 2, axis=0)
    used = flow_estimator(method)
    used(second, texture(64, 80)[::-1].copy())
    assert np.array_equal(used(first, second), flow_estimator(method)(first, second))


def test_eight_bits_are_those_of_the_flow_tools() -> None:
    pixels = np.array([-40, -20, -19.9, -0.1, 0, 0.1, 5, 19.99, 20, 99], np.float32)
    wanted = [math.floor((min(20, max(-20, value)) + 20) * 255 / 40) for value in pixels.tolist()]
    assert quantise(pixels).tolist() == wanted
    assert quantise(np.zeros(1, np.float32))[0] == 127


@pytest.mark.parametrize("uncentred", [False, True])
def test_the_picture_is_that_of_a_plain_loop(uncentred: bool) -> None:
    flow = np.random.default_rng(1).normal(0, 6, (9, 11, 2)).astype(np.float32)
    eight = quantise(flow).astype(np.float64)
    x, y = eight[..., 0], eight[..., 1]
    centre = 0.0 if uncentred else 127.5
    m = np.sqrt((x - centre) ** 2 + (y - centre) ** 2)
    wanted = [(plane - plane.min()) * 255 / (plane.max() - plane.min() + 1e-8) for plane in (m, y, x)]
    found = flow_picture(flow, uncentred=uncentred)
    for channel, plane in enumerate(wanted):
        # Cut to whole numbers: a float32 may fall on the other side of one.
        assert np.abs(found[..., channel] - np.floor(plane)).max() <= 1
        assert np.mean(found[..., channel] != np.floor(plane)) < 0.05


def test_the_authors_magnitude_is_long_where_nothing_moves() -> None:
    flow = np.zeros((8, 8, 2), np.float32)
    flow[0, 0] = (-20, -20)  # 0 in 8 bits
    flow[0, 1] = (3, 0)
    true, slip = flow_picture(flow), flow_picture(flow, uncentred=True)
    assert (true[0, 0, 0], true[4, 4, 0]) == (255, 0)
    assert slip[0, 0, 0] == 0
    assert slip[4, 4, 0] > 200


def test_a_still_picture_is_flat() -> None:
    assert not flow_picture(np.zeros((6, 7, 2), np.float32)).any()
