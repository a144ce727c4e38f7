"""The fused encoder against a plain cosine transform, libjpeg-turbo and three decoders."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image
from scipy.fft import dctn, idctn

from manifests.gradient import Frame
from tgprep.decode.frames import Planes
from tgprep.decode.planes import centred, full_range, in_range
from tgprep.encode import jpeg_tables
from tgprep.encode.encode import gradient_of
from tgprep.encode.fused import PlaneEncoder, plane_encoder

Floats = npt.NDArray[np.float64]
Levels = npt.NDArray[np.int64]
SIZES = [(240, 320), (256, 340), (16, 16), (1, 1), (9, 3), (17, 33), (239, 321), (48, 1000)]


def picture(height: int, width: int, seed: int, low: int = 0, high: int = 255) -> Planes:
    """Smooth shapes with some noise, levels low..high."""
    generator = np.random.default_rng(seed)

    def plane(rows: int, columns: int) -> Frame:
        coarse = generator.integers(low, high + 1, (rows // 16 + 2, columns // 16 + 2), dtype=np.uint8)
        smooth = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC).astype(np.int64)
        return np.clip(smooth.reshape(rows, columns) + generator.integers(-9, 10, (rows, columns)), low, high).astype(
            np.uint8
        )

    half = (-(-height // 2), -(-width // 2))
    return Planes(plane(height, width), plane(*half), plane(*half))


def planes_of(jpeg: bytes) -> list[Frame]:
    """The planes as FFmpeg's decoder gives them."""
    (frame,) = av.CodecContext.create("mjpeg", "r").decode(av.Packet(jpeg))  # type: ignore[attr-defined]
    assert frame.format.name == "yuvj420p"
    return [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    ]


def ideal(plane: Floats, quality: int, *, chroma: bool) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """What a plane is after transform, quantisation and back, by scipy, not rounded to 8 bits; and where that is certain.

    It is not in a block with a number half-way between two levels: both are right.
    """
    height, width = plane.shape
    numbers, steps = quotients(plane, quality, chroma=chroma)
    certain = np.abs(numbers - np.floor(numbers) - 0.5).min(axis=(2, 3)) > 0.001
    back = idctn(np.round(numbers) * steps, axes=(2, 3), norm="ortho") + 128
    joined = back.transpose(0, 2, 1, 3).reshape(8 * back.shape[0], 8 * back.shape[1])
    pixels = np.clip(joined[:height, :width], 0, 255)
    return pixels, np.repeat(np.repeat(certain, 8, axis=0), 8, axis=1)[:height, :width]


def quotients(plane: Floats, quality: int, *, chroma: bool) -> tuple[Floats, Levels]:
    """What levels are the nearest integers of [rows, columns, 8, 8], by scipy; and the quantiser's steps [8, 8]."""
    height, width = plane.shape
    block = 8 if chroma else 16  # what a square of 16x16 pixels is in this plane
    padded = np.pad(plane, ((0, -height % block), (0, -width % block)), mode="edge")
    rows, columns = padded.shape[0] // 8, padded.shape[1] // 8
    blocks = padded.reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3) - 128
    steps = jpeg_tables.quantiser(quality, chroma=chroma).reshape(8, 8)
    return dctn(blocks, axes=(2, 3), norm="ortho") / steps, steps


def levels_of(jpeg: bytes, height: int, width: int) -> list[Levels]:
    """The levels [rows, columns, 8, 8] of every plane, bit by bit; between the last of them and EOI there are ones, fewer than eight."""
    start = len(jpeg_tables.header(height, width, 95))
    coded, end = jpeg[start:-2], jpeg[-2:]
    assert end == b"\xff\xd9"
    assert coded.count(b"\xff") == coded.count(b"\xff\x00")
    bits = "".join(f"{byte:08b}" for byte in coded.replace(b"\xff\x00", b"\xff"))
    at = 0

    def symbol(table: jpeg_tables.HuffmanTable) -> int:
        nonlocal at
        found = words[id(table)]
        length = next(length for length in range(1, 17) if bits[at : at + length] in found)
        at += length
        return found[bits[at - length : at]]

    def value(size: int) -> int:
        nonlocal at
        at += size
        read = int(bits[at - size : at] or "0", 2)
        return read if not size or read >> size - 1 else read - (1 << size) + 1

    luma = (jpeg_tables.LUMA_DC, jpeg_tables.LUMA_AC)
    chroma = (jpeg_tables.CHROMA_DC, jpeg_tables.CHROMA_AC)
    words = {id(t): {f"{code:0{size}b}": each for each, (code, size) in t.codes().items()} for t in (*luma, *chroma)}
    rows, columns = -(-height // 16), -(-width // 16)
    levels = [np.zeros((rows * n, columns * n, 64), np.int64) for n in (2, 1, 1)]
    direct = [0, 0, 0]
    for row, column in np.ndindex(rows, columns):
        parts = [(0, 2 * row + y, 2 * column + x) for y in (0, 1) for x in (0, 1)]
        for plane, *place in (*parts, (1, row, column), (2, row, column)):
            dc, ac = chroma if plane else luma
            direct[plane] += value(symbol(dc))
            block = levels[plane][*place]
            block[0], position = direct[plane], 1
            while position < 64 and (found := symbol(ac)):
                position += found >> 4
                block[jpeg_tables.ZIGZAG[position]] = value(found & 15)
                position += 1
    assert len(bits) - at < 8
    assert "0" not in bits[at:]
    return [found.reshape(*found.shape[:2], 8, 8) for found in levels]


def assert_is(jpeg: bytes, expected: list[Floats], quality: int) -> None:
    """Decoded, every plane is the ideal one up to the decoder's own rounding."""
    for number, (found, plane) in enumerate(zip(planes_of(jpeg), expected, strict=True)):
        wanted, certain = ideal(plane, quality, chroma=number > 0)
        assert found.shape == wanted.shape
        errors = (found - wanted)[certain]
        if errors.size:
            assert np.abs(errors).max() < 1.6, f"plane {number}"
            assert abs(float(errors.mean())) < (0.1 if np.unique(found).size > 50 else 0.55), f"plane {number}"
        assert np.abs(found - wanted).mean() < 0.5 + 0.3 * quality_steps(quality)


def quality_steps(quality: int) -> float:
    return float(jpeg_tables.quantiser(quality, chroma=False)[0]) / 8


@pytest.mark.parametrize("quality", [1, 50, 95, 100])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_picture_is_what_its_transform_quantised_gives(height: int, width: int, quality: int) -> None:
    planes = picture(height, width, 1)
    jpeg, none = PlaneEncoder(height, width, quality, limited=False).encode(planes.y, planes.cb, planes.cr)
    assert none is None
    assert_is(jpeg, [plane.astype(np.float64) for plane in (planes.y, planes.cb, planes.cr)], quality)


@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_limited_range_is_spread_to_full_range(height: int, width: int, quality: int) -> None:
    planes = picture(height, width, 2)  # with levels outside 16..235, which are clipped
    jpeg, _ = PlaneEncoder(height, width, quality, limited=True).encode(planes.y, planes.cb, planes.cr)
    luma = (np.clip(planes.y, 16, 235) - 16.0) * 255 / 219
    chroma = [(np.clip(plane, 16, 240) - 128.0) * 255 / 224 + 128 for plane in (planes.cb, planes.cr)]
    assert_is(jpeg, [luma, *chroma], quality)


@pytest.mark.parametrize("limited", [False, True])
def test_a_gradient_is_that_of_the_two_pictures(limited: bool) -> None:
    one, two = picture(239, 321, 3), picture(239, 321, 4)
    encoder = PlaneEncoder(239, 321, 95, limited=limited)
    encoder.encode(one.y, one.cb, one.cr)
    _, jpeg = encoder.encode(two.y, two.cb, two.cr)
    assert jpeg is not None
    first, second = (
        in_range(Planes(planes.y, planes.cb, planes.cr, limited=limited), limited=False) for planes in (one, two)
    )
    plain = gradient_of(first, second)
    assert isinstance(plain, Planes)
    other = planes_of(simplejpeg.encode_jpeg_yuv_planes(plain.y, plain.cb, plain.cr, 95))
    for found, libjpeg, floored in zip(planes_of(jpeg), other, (plain.y, plain.cb, plain.cr), strict=True):
        assert abs(float(np.mean(found, dtype=np.float64) - floored.mean())) < 0.3
        own, plainly = (float(np.square(each - floored.astype(np.float64)).mean()) for each in (found, libjpeg))
        assert own < 1.1 * plainly + 0.2
    spread = (255 / 219, 255 / 224, 255 / 224) if limited else (1.0, 1.0, 1.0)
    bounds = ((16, 235), (16, 240), (16, 240)) if limited else ((0, 255),) * 3
    pairs = zip((one.y, one.cb, one.cr), (two.y, two.cb, two.cr), spread, bounds, (127.25, 127.75, 127.75), strict=True)
    exact = [
        (np.clip(a, *bound).astype(np.float64) - np.clip(b, *bound)) * factor / 2 + zero
        for a, b, factor, bound, zero in pairs
    ]
    assert_is(jpeg, exact, 95)


def test_no_motion_is_127_and_neutral_chroma_is_128() -> None:
    planes = picture(48, 64, 5)
    for quality in (75, 90, 95, 100):
        encoder = PlaneEncoder(48, 64, quality, limited=False)
        encoder.encode(planes.y, planes.cb, planes.cr)
        _, jpeg = encoder.encode(planes.y, planes.cb, planes.cr)
        assert jpeg is not None
        levels = [np.unique(plane).tolist() for plane in planes_of(jpeg)]
        assert levels == [[127], [128], [128]], quality


@pytest.mark.parametrize("quality", [1, 95, 100])
def test_noise_and_edges_between_black_and_white(quality: int) -> None:
    """Levels as large, and runs of bits as long, as they can be; many bytes 0xFF to be stuffed."""
    generator = np.random.default_rng(6)
    noise = (generator.integers(0, 2, (64, 96)) * 255).astype(np.uint8)
    board = (np.indices((64, 96)).sum(axis=0) % 2 * 255).astype(np.uint8)
    stripes = (np.indices((64, 96))[1] // 4 % 2 * 255).astype(np.uint8)
    for y in (noise, board, stripes, np.full_like(noise, 255), np.zeros_like(noise)):
        half = np.ascontiguousarray(y[:32, :48])
        encoder = PlaneEncoder(64, 96, quality, limited=False)
        jpeg, _ = encoder.encode(y, half, half)
        assert_is(jpeg, [y.astype(np.float64), half.astype(np.float64), half.astype(np.float64)], quality)
        _, gradient = encoder.encode(255 - y, half, half)
        assert gradient is not None
        assert len(planes_of(gradient)) == 3


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 3), (17, 33), (33, 500)])
@pytest.mark.parametrize("quality", [1, 95, 100])
def test_every_level_is_the_nearest_one(quality: int, height: int, width: int, limited: bool) -> None:
    """Of two pictures of noise, of two of black and white alone, and of their gradients."""
    generator = np.random.default_rng(14)
    ranges = ((16, 235), (16, 240), (16, 240)) if limited else ((0, 255),) * 3
    factors = (255 / 219, 255 / 224, 255 / 224) if limited else (1.0, 1.0, 1.0)
    half = (-(-height // 2), -(-width // 2))
    for choices in (np.arange(256, dtype=np.uint8), np.array([0, 255], np.uint8)):
        pictures = [[generator.choice(choices, shape) for shape in ((height, width), half, half)] for _ in range(2)]
        encoder = PlaneEncoder(height, width, quality, limited=limited)
        encoder.encode(*pictures[0])
        jpeg, gradient = encoder.encode(*pictures[1])
        assert gradient is not None
        found = zip(levels_of(jpeg, height, width), levels_of(gradient, height, width), strict=True)
        for number, (levels, of_gradient) in enumerate(found):
            low, high = ranges[number]
            before, after = (np.clip(picture[number], low, high).astype(np.float64) for picture in pictures)
            neutral = 128 if number else low  # stays where it is as the range is spread, black as 0
            full = (after - neutral) * factors[number] + (128 if number else 0)
            moved = (before - after) * factors[number] / 2 + (127.75 if number else 127.25)
            for each, plane in ((levels, full), (of_gradient, moved)):
                assert np.abs(each - quotients(plane, quality, chroma=number > 0)[0]).max() < 0.501, f"plane {number}"


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_four_decoders_take_it(height: int, width: int) -> None:
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


def test_it_begins_as_libjpeg_turbo_begins() -> None:
    """Same tables, same segments: what a quality means is what it means elsewhere."""
    for quality in (1, 25, 50, 90, 95, 100):
        planes = picture(24, 40, 8)
        other = simplejpeg.encode_jpeg_yuv_planes(planes.y, planes.cb, planes.cr, quality)
        start = jpeg_tables.header(24, 40, quality)
        assert other[: len(start)] == start
        own, _ = PlaneEncoder(24, 40, quality, limited=False).encode(planes.y, planes.cb, planes.cr)
        assert own[: len(start)] == start


def test_real_frames_are_nearer_than_through_libjpeg_turbo_and_no_larger(shared: object) -> None:
    path = shared / "videos" / "ucf101" / "Punch" / "v_Punch_g01_c03.avi"  # type: ignore[operator]
    with av.open(str(path)) as container:
        frames = [
            [np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[: p.height, : p.width].copy() for p in frame.planes]
            for frame in container.decode(video=0)
        ]
    encoder = plane_encoder(240, 320, 95, limited=True)
    own, other, errors = 0, 0, []
    for y, cb, cr in frames[:20]:
        exact = (np.clip(y, 16, 235) - 16.0) * 255 / 219
        jpeg, _ = encoder.encode(y, cb, cr)
        full = full_range(y, cb, cr)
        plain = simplejpeg.encode_jpeg_yuv_planes(full.y, full.cb, full.cr, 95)
        own, other = own + len(jpeg), other + len(plain)
        errors.append([float(np.square(planes_of(each)[0] - exact).mean()) for each in (jpeg, plain)])
    assert np.mean(errors, axis=0)[0] < np.mean(errors, axis=0)[1]
    assert own <= other


def test_rows_may_lie_apart_and_a_restart_forgets() -> None:
    planes, later = picture(50, 70, 9), picture(50, 70, 10)
    encoder = plane_encoder(50, 70, 95, limited=False)
    first, _ = encoder.encode(planes.y, planes.cb, planes.cr)
    second = encoder.encode(later.y, later.cb, later.cr)

    def apart(plane: Frame) -> Frame:
        wide = np.zeros((plane.shape[0], 128), np.uint8)
        wide[:, : plane.shape[1]] = plane
        return wide[:, : plane.shape[1]]

    again = plane_encoder(50, 70, 95, limited=False)
    assert again is encoder
    assert again.encode(apart(planes.y), apart(planes.cb), apart(planes.cr)) == (first, None)
    assert again.encode(apart(later.y), apart(later.cb), apart(later.cr)) == second
    without = PlaneEncoder(50, 70, 95, limited=False, gradients=False)
    assert without.encode(planes.y, planes.cb, planes.cr) == (first, None)
    assert without.encode(later.y, later.cb, later.cr) == (second[0], None)


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_chroma_of_the_left_pixel_is_taken_to_the_middle(height: int, width: int, limited: bool) -> None:
    plain, left = (PlaneEncoder(height, width, 95, limited=limited) for _ in range(2))
    for seed in (12, 13):
        planes = picture(height, width, seed)
        moved = plain.encode(planes.y, centred(planes.cb), centred(planes.cr))
        assert left.encode(planes.y, planes.cb, planes.cr, left=True) == moved


def test_the_same_bytes_on_every_machine() -> None:
    """Change ENCODER_VERSION with these."""
    encoder = PlaneEncoder(90, 130, 95, limited=True)
    steps = np.arange(90 * 130, dtype=np.int64).reshape(90, 130)
    digest = hashlib.sha256()
    for number in range(3):
        y = ((steps * (7 + number) + steps**2 // 300) % 256).astype(np.uint8)
        frame, gradient = encoder.encode(y, y[:45, :65], y[45:, 65:])
        digest.update(frame + (gradient or b""))
    assert jpeg_tables.ENCODER_VERSION == 1
    assert digest.hexdigest() == "90bc7f83e62e1b5cce2f3688db4880aa1e0dcb9820da358d1d0f0c380b8b18a7"


def test_a_plane_of_one_column_may_have_any_stride() -> None:
    column = np.arange(20, dtype=np.uint8).reshape(1, 20)
    turned = np.rot90(column, 3)
    assert turned.shape == (20, 1)
    half = np.full((10, 1), 128, np.uint8)
    encoder = PlaneEncoder(20, 1, 95, limited=False)
    assert encoder.encode(turned, half, half)[0] == encoder.encode(np.array(turned.tolist(), np.uint8), half, half)[0]


def test_what_cannot_be_encoded_is_refused() -> None:
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


def test_code_that_cannot_be_kept_is_compiled_all_the_same(tmp_path: Path) -> None:
    """A cache of damaged files, as a torn write or a full disk leaves it: a message, and the same bytes."""
    script = (
        "import hashlib, numpy as np; from tgprep.encode.fused import PlaneEncoder, prepare; prepare(); "
        "y = np.arange(48 * 64, dtype=np.int64).reshape(48, 64).astype(np.uint8); "
        "print(hashlib.sha256(PlaneEncoder(48, 64, 95, limited=True).encode(y, y[:24, :32], y[24:, 32:])[0]).hexdigest())"
    )

    def run() -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", script]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)

    first = run()
    kept = [path for path in tmp_path.rglob("*.nb?") if path.is_file()]
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:40])
    again = run()
    assert again.stdout == first.stdout
    assert "compiled anew" in again.stderr
    assert "compiled anew" not in run().stderr  # what was damaged is whole again


def test_what_is_compiled_is_loaded_without_waiting_for_others(tmp_path: Path) -> None:
    """A held lock, as sixteen workers that start at once would queue at: it is not asked for once the code is kept."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept"), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", "from tgprep.encode.fused import prepare; prepare()"]
    subprocess.run(command, env=environment, check=True, timeout=300)
    (lock,) = tmp_path.glob("tgprep-compile-*.lock")
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        subprocess.run(command, env=environment, check=True, timeout=40)  # less than it would wait
