"""The JPEG tables and the coded levels, against the standard's own tables and libjpeg-turbo."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg

from tests.prep.encode import annex_k
from tests.prep.encode.support import levels_of, picture, quotients
from tgprep.encode import jpeg_tables
from tgprep.encode.fused import PlaneEncoder


def test_tables_are_those_of_the_standard() -> None:
    assert jpeg_tables.ZIGZAG.tolist() == annex_k.NATURAL.tolist()
    for quality in (1, 25, 49, 50, 51, 95, 100):
        for chroma in (False, True):
            expected = annex_k.quantiser(quality, chroma=chroma).ravel().tolist()
            assert jpeg_tables.quantiser(quality, chroma=chroma).tolist() == expected
    tables = jpeg_tables.LUMA_DC, jpeg_tables.CHROMA_DC, jpeg_tables.LUMA_AC, jpeg_tables.CHROMA_AC
    for table, (standard, samples) in zip(tables, annex_k.SAMPLES, strict=True):
        codes = annex_k.codes(standard)
        assert {f"{code:0{bits}b}": symbol for symbol, (code, bits) in table.codes().items()} == codes
        assert samples.items() <= {symbol: code for code, symbol in codes.items()}.items()


def test_header_is_that_of_libjpeg_turbo() -> None:
    """Same tables, same segments: a quality means the same as elsewhere."""
    for quality in (1, 25, 50, 90, 95, 100):
        planes = picture(24, 40, 8)
        other = simplejpeg.encode_jpeg_yuv_planes(planes.y, planes.cb, planes.cr, quality)
        start = jpeg_tables.header(24, 40, quality)
        scan = start.rindex(b"\xff\xda")
        restarts = start[scan - 6 : scan]
        assert restarts == b"\xff\xdd\x00\x04\x00\x03"  # libjpeg-turbo writes no markers
        plain = start[: scan - 6] + start[scan:]
        assert other[: len(plain)] == plain
        ours, _ = PlaneEncoder(24, 40, quality, limited=False).encode(planes.y, planes.cb, planes.cr)
        assert ours[: len(start)] == start


def test_restart_intervals_divide_a_row() -> None:
    """Of UCF101 (320), of short side 256 (340), of 720p and 1080p, of sizes without a short divisor, and of small pictures."""
    columns = (20, 22, 80, 120, 16, 21, 23, 26, 27, 4094, 1, 2, 3, 4, 5)
    assert [jpeg_tables.restart_interval(count) for count in columns] == [
        4, 11, 4, 4, 4, 7, 23, 13, 9, 23, 1, 2, 3, 4, 5,
    ]  # fmt: skip


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 3), (17, 33), (33, 500)])
@pytest.mark.parametrize("quality", [1, 95, 100])
def test_every_level_is_the_nearest(quality: int, height: int, width: int, limited: bool) -> None:
    """Of two pictures of noise, of two in black and white only, and of their gradients."""
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
        both = zip(levels_of(jpeg, height, width), levels_of(gradient, height, width), strict=True)
        for number, (levels, of_gradient) in enumerate(both):
            low, high = ranges[number]
            before, after = (np.clip(planes[number], low, high).astype(np.float64) for planes in pictures)
            neutral = 128 if number else low  # stays where it is as the range is spread, black as 0
            full = (after - neutral) * factors[number] + (128 if number else 0)
            moved = (before - after) * factors[number] / 2 + (127.75 if number else 127.25)
            for each, plane in ((levels, full), (of_gradient, moved)):
                assert np.abs(each - quotients(plane, quality, chroma=number > 0)[0]).max() < 0.501, f"plane {number}"
