"""Strong operations: against the golden outputs of imgaug, and against Pillow and OpenCV on a real frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from tgtrain.method.augment import operations as strong_ops

Frame = npt.NDArray[np.uint8]
Operation = Callable[[Tensor], Tensor]

SHEAR_DEGREES = 15.471
TRANSLATE = 0.18
ROTATE_DEGREES = 27.0
FACTOR = 1.72


def run(operation: Operation, frame: Frame) -> Frame:
    """An operation on one frame, seen as one clip of one frame."""
    planes = torch.from_numpy(frame).permute(2, 0, 1).contiguous()
    return np.ascontiguousarray(operation(planes[None, None])[0, 0].permute(1, 2, 0).numpy())


def affine(matrix: strong_ops.Affine) -> Operation:
    return lambda clips: strong_ops.affine(clips, torch.tensor([matrix] * len(clips)))


def with_number(operation: Callable[[Tensor, Tensor], Tensor], number: float) -> Operation:
    return lambda clips: operation(clips, torch.tensor([number] * len(clips)))


def geometric(width: int, height: int) -> dict[str, Operation]:
    operations = {}
    for name, sign in (("pos", 1), ("neg", -1)):
        operations[f"shear_x_{name}"] = affine(strong_ops.shear_x_affine(sign * SHEAR_DEGREES))
        operations[f"shear_y_{name}"] = affine(strong_ops.shear_y_affine(sign * SHEAR_DEGREES))
        operations[f"translate_x_{name}"] = affine(strong_ops.translate_affine(sign * TRANSLATE * width, 0.0))
        operations[f"translate_y_{name}"] = affine(strong_ops.translate_affine(0.0, sign * TRANSLATE * height))
        operations[f"rotate_{name}"] = affine(strong_ops.rotate_affine(sign * ROTATE_DEGREES))
    return operations


COLOUR: dict[str, Operation] = {
    "posterize": with_number(strong_ops.posterize, 3),
    "solarize": with_number(strong_ops.solarize, 230),
    "solarize_as_built": with_number(strong_ops.solarize, 230),
    "color": with_number(strong_ops.color, FACTOR),
    "contrast": with_number(strong_ops.contrast, FACTOR),
    "brightness": with_number(strong_ops.brightness, FACTOR),
    "sharpness": with_number(strong_ops.sharpness, FACTOR),
    "autocontrast": strong_ops.autocontrast,
    "equalize": strong_ops.equalize,
    "invert": strong_ops.invert,
}
GEOMETRIC = geometric(64, 64)


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Frame]:
    with np.load(shared / "golden" / "strong_ops.npz") as figures:
        return {name: figures[name] for name in figures}


@pytest.fixture(scope="module")
def real_frame(shared: Path) -> Frame:
    """The tenth frame of a UCF101 video, RGB, 240 x 320: not square, so that x and y cannot be mixed up."""
    capture = cv2.VideoCapture(str(shared / "videos" / "ucf101" / "Diving" / "v_Diving_g01_c03.avi"))
    frame = None
    for _ in range(10):
        read, frame = capture.read()
        assert read
    capture.release()
    assert frame is not None
    return np.ascontiguousarray(frame[:, :, ::-1])


def test_every_golden_output_has_an_operation(golden: dict[str, Frame]) -> None:
    assert set(golden) - {"input"} == {*GEOMETRIC, *COLOUR}


@pytest.mark.parametrize("name", COLOUR)
def test_colour_operations_reproduce_the_golden_bytes(golden: dict[str, Frame], name: str) -> None:
    """Stricter than asked (1 grey level, equalize 4): imgaug calls Pillow here, and so must we give its bytes."""
    np.testing.assert_array_equal(run(COLOUR[name], golden["input"]), golden[name])


@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometric_operations_reproduce_the_golden_outputs(golden: dict[str, Frame], name: str) -> None:
    """Inside the image, 2 pixels of border left out: the two interpolate differently by under half a grey level."""
    got = run(GEOMETRIC[name], golden["input"])[2:-2, 2:-2].astype(int)
    assert np.abs(got - golden[name][2:-2, 2:-2]).mean() < 0.5
    opposite = name.replace("pos", "neg") if name.endswith("pos") else name.replace("neg", "pos")
    assert np.abs(got - golden[opposite][2:-2, 2:-2]).mean() > 5  # the figure can tell the signs apart


@pytest.mark.parametrize("name", geometric(320, 240))
def test_geometry_matches_opencv_on_a_real_frame(real_frame: Frame, name: str) -> None:
    """The centre and the signs spelt out again, as forward maps, for cv2.warpAffine (which counts in 1/32 pixels)."""
    sign = 1 if name.endswith("pos") else -1
    height, width = real_frame.shape[:2]
    forward = np.eye(3)
    angle = np.deg2rad(sign * (ROTATE_DEGREES if "rotate" in name else SHEAR_DEGREES))
    if "shear_x" in name:
        forward[0, 1] = -np.tan(angle)
    elif "shear_y" in name:
        forward[1, 0] = np.tan(angle)
    elif "translate_x" in name:
        forward[0, 2] = sign * TRANSLATE * width
    elif "translate_y" in name:
        forward[1, 2] = sign * TRANSLATE * height
    else:
        forward[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    to_centre = np.array([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, 1]])
    whole = np.linalg.inv(to_centre) @ forward @ to_centre
    expected = cv2.warpAffine(real_frame, whole[:2], (width, height), flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0))
    difference = np.abs(run(geometric(width, height)[name], real_frame).astype(int) - expected)
    assert difference.mean() < 0.5
    assert np.quantile(difference, 0.999) <= 8


def pillow(name: str, number: float) -> Callable[[Image.Image], Image.Image]:
    enhancers = {
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "brightness": ImageEnhance.Brightness,
        "sharpness": ImageEnhance.Sharpness,
    }
    operations: dict[str, Callable[[Image.Image], Image.Image]] = {
        "posterize": lambda image: ImageOps.posterize(image, int(number)),
        "solarize": lambda image: ImageOps.solarize(image, int(number)),
        "autocontrast": ImageOps.autocontrast,
        "equalize": ImageOps.equalize,
        "invert": ImageOps.invert,
    }
    return operations[name] if name in operations else lambda image: enhancers[name](image).enhance(number)


CASES = [
    *(
        (name, number)
        for name in ("color", "contrast", "brightness", "sharpness")
        for number in (0.1, 0.9, 1.0, 1.72, 1.9)
    ),
    *(("posterize", bits) for bits in (1, 3, 8)),
    *(("solarize", threshold) for threshold in (0, 1, 128, 230, 255, 256)),
    ("autocontrast", 0),
    ("equalize", 0),
    ("invert", 0),
]
WITHOUT_NUMBER = {"autocontrast": strong_ops.autocontrast, "equalize": strong_ops.equalize, "invert": strong_ops.invert}


def ours(name: str, number: float) -> Operation:
    return WITHOUT_NUMBER[name] if name in WITHOUT_NUMBER else with_number(getattr(strong_ops, name), number)


@pytest.mark.parametrize(("name", "number"), CASES)
def test_colour_operations_give_pillows_bytes_on_a_real_frame(real_frame: Frame, name: str, number: float) -> None:
    for frame in (real_frame, real_frame[50:120, 100:163] // 2 + 60, real_frame[:7, :5]):
        frame = np.ascontiguousarray(frame)
        np.testing.assert_array_equal(run(ours(name, number), frame), pillow(name, number)(Image.fromarray(frame)))


@settings(deadline=None, max_examples=80)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24), st.just(3)), elements=st.integers(0, 255)),
    st.sampled_from([case for case in CASES if case[0] not in ("sharpness", "contrast")]),
)
def test_colour_operations_give_pillows_bytes_on_any_image(frame: Frame, case: tuple[str, float]) -> None:
    np.testing.assert_array_equal(run(ours(*case), frame), pillow(*case)(Image.fromarray(frame)))


def test_all_values_through_brightness_and_every_stretch() -> None:
    """Exhaustive where floats could cut off to the level below: all factors' products, all pairs of extremes."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)[:, :, None].repeat(3, axis=2)
    for factor in np.arange(0.1, 1.95, 0.05):
        expected = ImageEnhance.Brightness(Image.fromarray(ramp)).enhance(float(factor))
        np.testing.assert_array_equal(run(with_number(strong_ops.brightness, float(factor)), ramp), expected)
    for low in range(0, 250, 7):
        for high in range(low, 256, 5):
            clipped = ramp.clip(low, high)
            expected = ImageOps.autocontrast(Image.fromarray(clipped))
            np.testing.assert_array_equal(run(strong_ops.autocontrast, clipped), expected)


def test_cutout_fills_its_box_alone() -> None:
    clips = torch.randint(0, 256, (3, 2, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[2, 3, 6, 10], [-3, 25, 4, 33], [15, 30, 20, 31]])
    got = strong_ops.cutout(clips, boxes, 128)
    expected = clips.clone()
    expected[0, :, :, 2:6, 3:10] = 128
    expected[1, :, :, :4, 25:] = 128  # the third box lies outside
    assert torch.equal(got, expected)


def all_operations() -> dict[str, Operation]:
    return {
        **GEOMETRIC,
        **COLOUR,
        "cutout": lambda clips: strong_ops.cutout(clips, torch.tensor([[4, 5, 12, 13]] * len(clips)), 128),
    }


@pytest.mark.parametrize("name", all_operations())
def test_a_clip_is_the_same_alone_and_in_a_batch_and_frames_are_on_their_own(name: str) -> None:
    """Bit for bit; each frame of a clip gives what it gives as a clip of one frame."""
    operation = all_operations()[name]
    random = torch.Generator().manual_seed(1)
    clips = torch.randint(0, 200, (5, 3, 3, 37, 41), dtype=torch.uint8, generator=random)
    untouched = clips.clone()
    together = operation(clips)
    assert torch.equal(clips, untouched)
    assert together.dtype == torch.uint8
    assert together.is_contiguous()
    for number in range(5):
        assert torch.equal(operation(clips[number : number + 1])[0], together[number])
        for frame in range(3):
            assert torch.equal(operation(clips[number : number + 1, frame : frame + 1])[0, 0], together[number, frame])


@pytest.mark.parametrize("name", ["posterize", "solarize", "color", "contrast", "brightness", "sharpness"])
def test_every_clip_has_its_own_number(name: str) -> None:
    operation: Any = getattr(strong_ops, name)
    numbers = [1, 3, 7] if name == "posterize" else [0, 100, 256] if name == "solarize" else [0.3, 1.0, 1.8]
    clips = torch.randint(0, 256, (3, 2, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    together = operation(clips, torch.tensor(numbers))
    for place, number in enumerate(numbers):
        assert torch.equal(operation(clips[place : place + 1], torch.tensor([number]))[0], together[place])
    assert not torch.equal(together[0], operation(clips, torch.tensor(numbers[::-1]))[0])


def test_affine_without_motion_changes_nothing() -> None:
    clips = torch.randint(0, 256, (2, 2, 3, 33, 47), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(affine(strong_ops.translate_affine(0.0, 0.0))(clips), clips)
    moved = affine(strong_ops.translate_affine(5.0, -2.0))(clips)
    assert torch.equal(moved[..., :-2, 5:], clips[..., 2:, :-5])
    assert moved[..., :5].max() == 0
    assert moved[..., -2:, :].max() == 0
