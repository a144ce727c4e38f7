"""Helpers of the tests of JPEG files: pictures, and decoders of planes and of levels."""

from __future__ import annotations

import re

import av
import cv2
import numpy as np
import numpy.typing as npt
from scipy.fft import dctn

from manifests.gradient import Frame
from tests.prep.encode import annex_k
from tgprep.decode.frames import Planes

Floats = npt.NDArray[np.float64]
Levels = npt.NDArray[np.int64]


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
    """The planes of a JPEG file, decoded by FFmpeg."""
    (frame,) = av.CodecContext.create("mjpeg", "r").decode(av.Packet(jpeg))  # type: ignore[attr-defined]
    assert frame.format.name == "yuvj420p"
    return [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    ]


def quotients(plane: Floats, quality: int, *, chroma: bool) -> tuple[Floats, Levels]:
    """The coefficients [rows, columns, 8, 8] divided by the quantiser's steps, by scipy, and the steps [8, 8]."""
    height, width = plane.shape
    block = 8 if chroma else 16  # the side of a square of 16x16 pixels in this plane
    padded = np.pad(plane, ((0, -height % block), (0, -width % block)), mode="edge")
    rows, columns = padded.shape[0] // 8, padded.shape[1] // 8
    blocks = padded.reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3) - 128
    steps = annex_k.quantiser(quality, chroma=chroma)
    return dctn(blocks, axes=(2, 3), norm="ortho") / steps, steps


def levels_of(jpeg: bytes, height: int, width: int) -> list[Levels]:
    """The levels [rows, columns, 8, 8] of every plane, decoded bit by bit with the tables of the standard.

    After each restart interval there must be ones, fewer than eight, and the next marker.
    """
    start = jpeg.index(b"\xff\xda") + 14  # the segment SOS of three components
    interval = int.from_bytes(jpeg[start - 16 : start - 14], "big")  # the segment DRI is the one before
    pieces = re.split(rb"\xff([^\x00])", jpeg[start:])
    bits, at = "", 0

    def symbol(table: dict[str, int]) -> int:
        nonlocal at
        length = next(length for length in range(1, 17) if bits[at : at + length] in table)
        at += length
        return table[bits[at - length : at]]

    def value(size: int) -> int:
        nonlocal at
        at += size
        read = int(bits[at - size : at] or "0", 2)
        return read if not size or read >> size - 1 else read - (1 << size) + 1

    luma = annex_k.codes(annex_k.DC_LUMINANCE), annex_k.codes(annex_k.AC_LUMINANCE)
    chroma = annex_k.codes(annex_k.DC_CHROMINANCE), annex_k.codes(annex_k.AC_CHROMINANCE)
    rows, columns = -(-height // 16), -(-width // 16)
    levels = [np.zeros((rows * n, columns * n, 64), np.int64) for n in (2, 1, 1)]
    direct = [0, 0, 0]
    for number, (row, column) in enumerate(np.ndindex(rows, columns)):
        if number % interval == 0:
            assert "0" not in bits[at:]
            assert len(bits) - at < 8
            bits, at = "".join(f"{byte:08b}" for byte in pieces.pop(0).replace(b"\xff\x00", b"\xff")), 0
            is_last = number + interval == rows * columns
            assert pieces.pop(0)[0] == (0xD9 if is_last else 0xD0 + number // interval % 8)
            direct = [0, 0, 0]
        parts = [(0, 2 * row + y, 2 * column + x) for y in (0, 1) for x in (0, 1)]
        for plane, *place in (*parts, (1, row, column), (2, row, column)):
            dc, ac = chroma if plane else luma
            direct[plane] += value(symbol(dc))
            block = levels[plane][*place]
            block[0], position = direct[plane], 1
            while position < 64 and (run_and_size := symbol(ac)):
                position += run_and_size >> 4
                block[annex_k.NATURAL[position]] = value(run_and_size & 15)
                position += 1
    assert pieces == [b""]
    assert len(bits) - at < 8
    assert "0" not in bits[at:]
    return [plane.reshape(*plane.shape[:2], 8, 8) for plane in levels]
