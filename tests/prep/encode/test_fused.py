"""The fused encoder against a plain cosine transform, libjpeg-turbo and four decoders."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image
from scipy.fft import idctn

from manifests.gradient import Frame
from tests.prep.encode import annex_k
from tests.prep.encode.support import Floats, picture, planes_of, quotients
from tgprep.decode.frames import Planes
from tgprep.decode.planes import gradient_of, midway, to_range
from tgprep.encode import jpeg_tables
from tgprep.encode.fused import PlaneEncoder, picture_encoder

SIZES = [(240, 320), (256, 340), (16, 16), (1, 1), (9, 3), (17, 33), (239, 321), (48, 1000)]


def ideal(plane: Floats, quality: int, *, chroma: bool) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """A plane after transform, quantisation and back, by scipy, not rounded to 8 bits; and where that is certain.

    It is not certain in a block with a coefficient half-way between two levels: both are right.
    """
    height, width = plane.shape
    numbers, steps = quotients(plane, quality, chroma=chroma)
    certain = np.abs(numbers - np.floor(numbers) - 0.5).min(axis=(2, 3)) > 0.001
    back = idctn(np.round(numbers) * steps, axes=(2, 3), norm="ortho") + 128
    joined = back.transpose(0, 2, 1, 3).reshape(8 * back.shape[0], 8 * back.shape[1])
    pixels = np.clip(joined[:height, :width], 0, 255)
    return pixels, np.repeat(np.repeat(certain, 8, axis=0), 8, axis=1)[:height, :width]


def assert_planes(jpeg: bytes, expected: list[Floats], quality: int) -> None:
    """Check that every decoded plane is the ideal one up to the decoder's own rounding."""
    tolerance = 0.5 + 0.3 * annex_k.quantiser(quality, chroma=False)[0, 0] / 8
    for number, (decoded, plane) in enumerate(zip(planes_of(jpeg), expected, strict=True)):
        exact, certain = ideal(plane, quality, chroma=number > 0)
        assert decoded.shape == exact.shape
        errors = (decoded - exact)[certain]
        if errors.size:
            assert np.abs(errors).max() < 1.6, f"plane {number}"
            assert abs(float(errors.mean())) < (0.1 if np.unique(decoded).size > 50 else 0.55), f"plane {number}"
        assert np.abs(decoded - exact).mean() < tolerance


@pytest.mark.parametrize("quality", [1, 50, 95, 100])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_picture_equals_its_quantised_transform(height: int, width: int, quality: int) -> None:
    planes = picture(height, width, 1)
    jpeg, none = PlaneEncoder(height, width, quality, limited=False).encode(planes.y, planes.cb, planes.cr)
    assert none is None
    assert_planes(jpeg, [plane.astype(np.float64) for plane in (planes.y, planes.cb, planes.cr)], quality)


@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_limited_range_becomes_full_range(height: int, width: int, quality: int) -> None:
    planes = picture(height, width, 2)  # also levels outside 16..235, which are clipped
    jpeg, _ = PlaneEncoder(height, width, quality, limited=True).encode(planes.y, planes.cb, planes.cr)
    luma = (np.clip(planes.y, 16, 235) - 16.0) * 255 / 219
    chroma = [(np.clip(plane, 16, 240) - 128.0) * 255 / 224 + 128 for plane in (planes.cb, planes.cr)]
    assert_planes(jpeg, [luma, *chroma], quality)


@pytest.mark.parametrize("limited", [False, True])
def test_gradient_of_two_pictures(limited: bool) -> None:
    one, two = picture(239, 321, 3), picture(239, 321, 4)
    encoder = PlaneEncoder(239, 321, 95, limited=limited)
    encoder.encode(one.y, one.cb, one.cr)
    _, jpeg = encoder.encode(two.y, two.cb, two.cr)
    assert jpeg is not None
    first, second = (
        to_range(Planes(planes.y, planes.cb, planes.cr, limited=limited), limited=False) for planes in (one, two)
    )
    plain = gradient_of(first, second)
    assert isinstance(plain, Planes)
    other = planes_of(simplejpeg.encode_jpeg_yuv_planes(plain.y, plain.cb, plain.cr, 95))
    for fused, libjpeg, floored in zip(planes_of(jpeg), other, (plain.y, plain.cb, plain.cr), strict=True):
        assert abs(float(np.mean(fused, dtype=np.float64) - floored.mean())) < 0.3
        error, libjpeg_error = (float(np.square(each - floored.astype(np.float64)).mean()) for each in (fused, libjpeg))
        assert error < 1.1 * libjpeg_error + 0.2
    spread = (255 / 219, 255 / 224, 255 / 224) if limited else (1.0, 1.0, 1.0)
    bounds = ((16, 235), (16, 240), (16, 240)) if limited else ((0, 255),) * 3
    pairs = zip((one.y, one.cb, one.cr), (two.y, two.cb, two.cr), spread, bounds, (127.25, 127.75, 127.75), strict=True)
    exact = [
        (np.clip(a, *bound).astype(np.float64) - np.clip(b, *bound)) * factor / 2 + zero
        for a, b, factor, bound, zero in pairs
    ]
    assert_planes(jpeg, exact, 95)


def test_no_motion_is_127_and_chroma_128() -> None:
    planes = picture(48, 64, 5)
    for quality in (75, 90, 95, 100):
        encoder = PlaneEncoder(48, 64, quality, limited=False)
        encoder.encode(planes.y, planes.cb, planes.cr)
        _, jpeg = encoder.encode(planes.y, planes.cb, planes.cr)
        assert jpeg is not None
        levels = [np.unique(plane).tolist() for plane in planes_of(jpeg)]
        assert levels == [[127], [128], [128]], quality


@pytest.mark.parametrize("quality", [1, 95, 100])
def test_noise_and_sharp_edges(quality: int) -> None:
    """The largest levels and the longest runs of bits; many bytes 0xFF to be stuffed."""
    generator = np.random.default_rng(6)
    noise = (generator.integers(0, 2, (64, 96)) * 255).astype(np.uint8)
    board = (np.indices((64, 96)).sum(axis=0) % 2 * 255).astype(np.uint8)
    stripes = (np.indices((64, 96))[1] // 4 % 2 * 255).astype(np.uint8)
    for y in (noise, board, stripes, np.full_like(noise, 255), np.zeros_like(noise)):
        half = np.ascontiguousarray(y[:32, :48])
        encoder = PlaneEncoder(64, 96, quality, limited=False)
        jpeg, _ = encoder.encode(y, half, half)
        assert_planes(jpeg, [y.astype(np.float64), half.astype(np.float64), half.astype(np.float64)], quality)
        _, gradient = encoder.encode(255 - y, half, half)
        assert gradient is not None
        assert len(planes_of(gradient)) == 3


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_four_decoders_read_it(height: int, width: int) -> None:
    planes = picture(height, width, 7)
    jpeg, _ = PlaneEncoder(height, width, 95, limited=False).encode(planes.y, planes.cb, planes.cr)
    rgb = simplejpeg.decode_jpeg(jpeg, colorspace="RGB", strict=True)
    assert rgb.shape == (height, width, 3)
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    assert np.abs(bgr[..., ::-1].astype(int) - rgb).max() <= 1
    with Image.open(io.BytesIO(jpeg)) as image:
        image.load()
        assert (image.size, image.mode) == ((width, height), "RGB")
    assert planes_of(jpeg)[0].shape == (height, width)


def test_real_frames_are_nearer_and_no_larger_than_by_libjpeg_turbo(shared: Path) -> None:
    path = shared / "videos" / "ucf101" / "Punch" / "v_Punch_g01_c03.avi"
    with av.open(str(path)) as container:
        frames = [
            [np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[: p.height, : p.width].copy() for p in frame.planes]
            for frame in container.decode(video=0)
        ]
    encoder = PlaneEncoder(240, 320, 95, limited=True)
    num_bytes, libjpeg_bytes, errors = 0, 0, []
    for y, cb, cr in frames[:20]:
        exact = (np.clip(y, 16, 235) - 16.0) * 255 / 219
        jpeg, _ = encoder.encode(y, cb, cr)
        full = to_range(Planes(y, cb, cr, limited=True), limited=False)
        plain = simplejpeg.encode_jpeg_yuv_planes(full.y, full.cb, full.cr, 95)
        num_bytes, libjpeg_bytes = num_bytes + len(jpeg), libjpeg_bytes + len(plain)
        errors.append([float(np.square(planes_of(each)[0] - exact).mean()) for each in (jpeg, plain)])
    assert np.mean(errors, axis=0)[0] < np.mean(errors, axis=0)[1]
    assert num_bytes <= libjpeg_bytes


def test_one_encoder_a_video() -> None:
    """Rows with a stride, a second video of the same size, and no gradients."""
    planes, later = picture(50, 70, 9), picture(50, 70, 10)
    encode = picture_encoder(95, gradients=True)
    (first, nothing), second = encode(planes), encode(later)
    assert nothing is None
    assert second[1] is not None

    def strided(plane: Frame) -> Frame:
        wide = np.zeros((plane.shape[0], 128), np.uint8)
        wide[:, : plane.shape[1]] = plane
        return wide[:, : plane.shape[1]]

    encode_again = picture_encoder(95, gradients=True)
    for each, files in ((planes, (first, None)), (later, second)):
        assert encode_again(Planes(strided(each.y), strided(each.cb), strided(each.cr))) == files
    without = picture_encoder(95, gradients=False)
    assert [without(planes), without(later)] == [(first, None), (second[0], None)]


def test_range_of_the_first_picture_holds_for_the_video() -> None:
    one, two = picture(16, 16, 20, 16, 235), picture(16, 16, 21, 16, 235)
    limited = [Planes(planes.y, planes.cb, planes.cr, limited=True) for planes in (one, two)]
    encode = picture_encoder(95, gradients=True)
    first, second = encode(limited[0]), encode(to_range(limited[1], limited=False))
    encode = picture_encoder(95, gradients=True)
    assert first == encode(limited[0])
    assert second == encode(to_range(to_range(limited[1], limited=False), limited=True))


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_left_chroma_is_moved_midway(height: int, width: int, limited: bool) -> None:
    plain, left = (PlaneEncoder(height, width, 95, limited=limited) for _ in range(2))
    for seed in (12, 13):
        planes = picture(height, width, seed)
        moved = plain.encode(planes.y, midway(planes.cb), midway(planes.cr))
        assert left.encode(planes.y, planes.cb, planes.cr, left=True) == moved


def test_same_bytes_on_every_machine() -> None:
    """Raise ENCODER_VERSION when these change."""
    encoder = PlaneEncoder(90, 130, 95, limited=True)
    steps = np.arange(90 * 130, dtype=np.int64).reshape(90, 130)
    digest = hashlib.sha256()
    for number in range(3):
        y = ((steps * (7 + number) + steps**2 // 300) % 256).astype(np.uint8)
        frame, gradient = encoder.encode(y, y[:45, :65], y[45:, 65:])
        digest.update(frame + (gradient or b""))
    assert jpeg_tables.ENCODER_VERSION == 2
    assert digest.hexdigest() == "1d2a94a57cf4c3c8eb3fe064a74fa2ed98bfd1509637a4cc3364ac6fc1843722"


def test_one_column_with_any_stride() -> None:
    column = np.arange(20, dtype=np.uint8).reshape(1, 20)
    turned = np.rot90(column, 3)
    assert turned.shape == (20, 1)
    half = np.full((10, 1), 128, np.uint8)
    encoder = PlaneEncoder(20, 1, 95, limited=False)
    assert encoder.encode(turned, half, half)[0] == encoder.encode(np.array(turned.tolist(), np.uint8), half, half)[0]


def test_wrong_planes_are_refused() -> None:
    planes = picture(16, 16, 11)
    encoder = PlaneEncoder(16, 16, 95, limited=False)
    with pytest.raises(ValueError, match=r"expected rows of uint8\(8, 8\), got uint8\(16, 16\)"):
        encoder.encode(planes.y, planes.y, planes.cr)
    with pytest.raises(ValueError, match="expected rows"):
        encoder.encode(planes.y.astype(np.int16), planes.cb, planes.cr)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected rows"):
        encoder.encode(np.asfortranarray(planes.y), planes.cb, planes.cr)
    with pytest.raises(ValueError, match="quality: got 0"):
        PlaneEncoder(16, 16, 0, limited=False)
    with pytest.raises(ValueError, match="1 to 65500 rows"):
        PlaneEncoder(16, 65501, 95, limited=False)
