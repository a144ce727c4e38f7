"""The tables of ITU-T T.81 (JPEG), typed from the standard: not those of the encoder under test."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Figure A.6: the place of each frequency (row v, column u) in the zigzag sequence.
ZIGZAG_SEQUENCE = """
     0  1  5  6 14 15 27 28
     2  4  7 13 16 26 29 42
     3  8 12 17 25 30 41 43
     9 11 18 24 31 40 44 53
    10 19 23 32 39 45 52 54
    20 22 33 38 46 51 55 60
    21 34 37 47 50 56 59 61
    35 36 48 49 57 58 62 63
"""
# Table K.1 and Table K.2: quantisation of luminance and chrominance.
LUMINANCE = """
    16  11  10  16  24  40  51  61
    12  12  14  19  26  58  60  55
    14  13  16  24  40  57  69  56
    14  17  22  29  51  87  80  62
    18  22  37  56  68 109 103  77
    24  35  55  64  81 104 113  92
    49  64  78  87 103 121 120 101
    72  92  95  98 112 100 103  99
"""
CHROMINANCE = """
    17  18  24  47  99  99  99  99
    18  21  26  66  99  99  99  99
    24  26  56  99  99  99  99  99
    47  66  99  99  99  99  99  99
    99  99  99  99  99  99  99  99
    99  99  99  99  99  99  99  99
    99  99  99  99  99  99  99  99
    99  99  99  99  99  99  99  99
"""
# Table K.3 to Table K.6 in the form of K.3.3: the numbers of codes of 1 to 16 bits, and the symbols in the order of codes.
DC_LUMINANCE = "00 01 05 01 01 01 01 01 01 00 00 00 00 00 00 00", "00 01 02 03 04 05 06 07 08 09 0A 0B"
DC_CHROMINANCE = "00 03 01 01 01 01 01 01 01 01 01 00 00 00 00 00", "00 01 02 03 04 05 06 07 08 09 0A 0B"
AC_LUMINANCE = (
    "00 02 01 03 03 02 04 03 05 05 04 04 00 00 01 7D",
    """
    01 02 03 00 04 11 05 12 21 31 41 06 13 51 61 07 22 71 14 32 81 91 A1 08 23 42 B1 C1 15 52 D1 F0
    24 33 62 72 82 09 0A 16 17 18 19 1A 25 26 27 28 29 2A 34 35 36 37 38 39 3A 43 44 45 46 47 48 49
    4A 53 54 55 56 57 58 59 5A 63 64 65 66 67 68 69 6A 73 74 75 76 77 78 79 7A 83 84 85 86 87 88 89
    8A 92 93 94 95 96 97 98 99 9A A2 A3 A4 A5 A6 A7 A8 A9 AA B2 B3 B4 B5 B6 B7 B8 B9 BA C2 C3 C4 C5
    C6 C7 C8 C9 CA D2 D3 D4 D5 D6 D7 D8 D9 DA E1 E2 E3 E4 E5 E6 E7 E8 E9 EA F1 F2 F3 F4 F5 F6 F7 F8
    F9 FA
    """,
)
AC_CHROMINANCE = (
    "00 02 01 02 04 04 03 04 07 05 04 04 00 01 02 77",
    """
    00 01 02 03 11 04 05 21 31 06 12 41 51 07 61 71 13 22 32 81 08 14 42 91 A1 B1 C1 09 23 33 52 F0
    15 62 72 D1 0A 16 24 34 E1 25 F1 17 18 19 1A 26 27 28 29 2A 35 36 37 38 39 3A 43 44 45 46 47 48
    49 4A 53 54 55 56 57 58 59 5A 63 64 65 66 67 68 69 6A 73 74 75 76 77 78 79 7A 82 83 84 85 86 87
    88 89 8A 92 93 94 95 96 97 98 99 9A A2 A3 A4 A5 A6 A7 A8 A9 AA B2 B3 B4 B5 B6 B7 B8 B9 BA C2 C3
    C4 C5 C6 C7 C8 C9 CA D2 D3 D4 D5 D6 D7 D8 D9 DA E2 E3 E4 E5 E6 E7 E8 E9 EA F2 F3 F4 F5 F6 F7 F8
    F9 FA
    """,
)
# Rows of Table K.3 to Table K.6, to check the codes that `codes` makes of the lists above.
SAMPLES = (
    (DC_LUMINANCE, {0x00: "00", 0x05: "110", 0x0B: "111111110"}),
    (DC_CHROMINANCE, {0x00: "00", 0x03: "110", 0x0B: "11111111110"}),
    (AC_LUMINANCE, {0x00: "1010", 0x01: "00", 0x11: "1100", 0xF0: "11111111001", 0xFA: "1111111111111110"}),
    (AC_CHROMINANCE, {0x00: "00", 0x01: "01", 0x11: "1011", 0xF0: "1111111010", 0xFA: "1111111111111110"}),
)

NATURAL = np.argsort([int(place) for place in ZIGZAG_SEQUENCE.split()])  # zigzag position to 8 * v + u


def codes(table: tuple[str, str]) -> dict[str, int]:
    """Huffman code in binary digits to symbol, by the procedure of Annex C: codes of a length count up, longer ones go on."""
    counts, symbols = ([int(word, 16) for word in part.split()] for part in table)
    lengths = [bits for bits, count in enumerate(counts, start=1) for _ in range(count)]
    result, code, previous = {}, 0, lengths[0]
    for length, symbol in zip(lengths, symbols, strict=True):
        code <<= length - previous
        result[f"{code:0{length}b}"] = symbol
        code, previous = code + 1, length
    return result


def quantiser(quality: int, *, chroma: bool) -> npt.NDArray[np.int64]:
    """Steps [8, 8] of a quality on the scale of the Independent JPEG Group, whose 50 are the tables of the standard."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = [(int(step) * percent + 50) // 100 for step in (CHROMINANCE if chroma else LUMINANCE).split()]
    return np.clip(np.array(steps), 1, 255).reshape(8, 8)
