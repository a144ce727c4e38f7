"""The tables of baseline JPEG (ITU-T T.81, Annex K) and the bytes before a picture's entropy-coded data.

Legend: 4:2:0, three components (Y, Cb, Cr); luma tables for Y, chroma tables for Cb and Cr. Indices within a block are natural,
`8 * v + u` with v the vertical frequency, unless "zigzag" is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.int64]

MAX_SIDE = 65500  # largest picture that libjpeg reads
ENCODER_VERSION = 2  # of `tgprep.encode.fused`: raised whenever the same pictures give other bytes

# Natural indices in zigzag order: along the diagonals, turning at each end.
ZIGZAG: Table = np.array(
    sorted(range(64), key=lambda at: (at // 8 + at % 8, at // 8 if (at // 8 + at % 8) % 2 else at % 8))
)

# Annex K.1, for quality 50 of the Independent JPEG Group's scale.
_LUMA = """
    16 11 10 16 24 40 51 61   12 12 14 19 26 58 60 55   14 13 16 24 40 57 69 56   14 17 22 29 51 87 80 62
    18 22 37 56 68 109 103 77   24 35 55 64 81 104 113 92   49 64 78 87 103 121 120 101   72 92 95 98 112 100 103 99
"""
_CHROMA = """
    17 18 24 47 99 99 99 99   18 21 26 66 99 99 99 99   24 26 56 99 99 99 99 99   47 66 99 99 99 99 99 99
    99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99
"""


def quantiser(quality: int, *, chroma: bool) -> Table:
    """Quantiser steps int64[64] of a quality from 1 to 100, as libjpeg scales them (baseline: 1..255)."""
    if not 1 <= quality <= 100:
        raise ValueError(f"quality: got {quality}, expected 1 to 100")
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = np.array((_CHROMA if chroma else _LUMA).split(), np.int64)
    return np.clip((steps * scale + 50) // 100, 1, 255)


@dataclass(frozen=True, slots=True)
class HuffmanTable:
    """A Huffman table as JPEG files store it."""

    counts: tuple[int, ...]  # numbers of codes of 1 to 16 bits
    symbols: bytes  # in the order of their codes

    def codes(self) -> dict[int, tuple[int, int]]:
        """(code, number of bits) by symbol."""
        codes, code, at = {}, 0, 0
        for bits, count in enumerate(self.counts, start=1):
            for symbol in self.symbols[at : at + count]:
                codes[symbol] = (code, bits)
                code += 1
            at += count
            code <<= 1
        return codes


def _symbols(words: str) -> bytes:
    """Bytes from hexadecimal words; `a..b` stands for all from a to b."""
    symbols: list[int] = []
    for word in words.split():
        first, _, last = word.partition("..")
        symbols.extend(range(int(first, 16), int(last or first, 16) + 1))
    return bytes(symbols)


# Annex K.3.
LUMA_DC = HuffmanTable((0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0), bytes(range(12)))
CHROMA_DC = HuffmanTable((0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0), bytes(range(12)))
LUMA_AC = HuffmanTable(
    (0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125),
    _symbols(
        "01..03 00 04 11 05 12 21 31 41 06 13 51 61 07 22 71 14 32 81 91 a1 08 23 42 b1 c1 15 52 d1 f0 24 33 62 72 82"
        " 09 0a 16..1a 25..2a 34..3a 43..4a 53..5a 63..6a 73..7a 83..8a 92..9a a2..aa b2..ba c2..ca d2..da e1..ea f1..fa"
    ),
)
CHROMA_AC = HuffmanTable(
    (0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119),
    _symbols(
        "00..03 11 04 05 21 31 06 12 41 51 07 61 71 13 22 32 81 08 14 42 91 a1 b1 c1 09 23 33 52 f0 15 62 72 d1"
        " 0a 16 24 34 e1 25 f1 17..1a 26..2a 35..3a 43..4a 53..5a 63..6a 73..7a 82..8a 92..9a a2..aa b2..ba c2..ca d2..da"
        " e2..ea f2..fa"
    ),
)


def restart_interval(columns: int) -> int:
    """Squares of 16x16 pixels from one restart marker to the next, for pictures of so many columns of them: few, but a part of a row.

    Intervals lie below one another, so that a reader can cut out the rectangle of them that it needs. The smallest divisor from four on:
    shorter ones would cost more bytes than the 1.5 % of the usual sizes.
    """
    return next(interval for interval in range(min(4, columns), columns + 1) if columns % interval == 0)


def header(height: int, width: int, quality: int) -> bytes:
    """Everything before the entropy-coded data of a JFIF picture in 4:2:0, SOI to SOS. Sizes: 1 to MAX_SIDE pixels."""
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(f"a JPEG picture has 1 to {MAX_SIDE} rows and columns, got {width}x{height}")
    parts = [b"\xff\xd8", _segment(0xE0, b"JFIF\0", (1, 1, 0, 0, 1, 0, 1, 0, 0))]
    for number, chroma in enumerate((False, True)):
        parts.append(_segment(0xDB, [number], quantiser(quality, chroma=chroma)[ZIGZAG]))
    components = ((1, 0x22, 0), (2, 0x11, 1), (3, 0x11, 1))  # number, sampling factors, quantiser
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    parts.append(_segment(0xC0, [8], size, [3], *components))
    for slot, table in ((0x00, LUMA_DC), (0x10, LUMA_AC), (0x01, CHROMA_DC), (0x11, CHROMA_AC)):
        parts.append(_segment(0xC4, [slot], table.counts, table.symbols))
    parts.append(_segment(0xDD, restart_interval(-(-width // 16)).to_bytes(2, "big")))
    parts.append(_segment(0xDA, (3, 1, 0x00, 2, 0x11, 3, 0x11, 0, 63, 0)))
    return b"".join(parts)


def _segment(marker: int, *values: Iterable[int]) -> bytes:
    body = b"".join(bytes(int(value) for value in part) for part in values)
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body
