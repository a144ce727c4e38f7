"""The inner loops of `tgprep.jpeg`, compiled by numba: planes -> cosine transform -> quantised numbers -> entropy-coded bits.

A plane is cut into blocks of 8x8 pixels. LANES neighbouring blocks of a row of blocks make a chunk, which is stored number by number:
`chunk[(8 * u + v) * LANES + lane]`, u and v the horizontal and vertical frequency. Every loop over lanes is then one of vector instructions.
All results are integers or single IEEE operations in a fixed order: the same bytes on every machine.

Legend of array arguments: coefficients float32[64 * LANES * chunks], scaled as the transform of Arai, Agui and Nakajima leaves them;
levels int16, the quantised numbers; marks uint16[4 * LANES * chunks], per block the zigzag positions of levels that are not 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

LANES = 48

_F = np.float32
_U = np.uint64
_C2 = _F(0.541196100)  # sqrt(2) * (cos(pi / 8) - cos(3 pi / 8)) / sqrt(2), and so on: the constants of that transform
_C4 = _F(0.707106781)
_C6 = _F(0.382683433)
_C8 = _F(1.306562965)
# Adding 1.5 * 2^23 leaves a float's nearest integer in its lowest bits.
_ROUNDING = _F(12582912.0)
_ROUNDING_BITS = np.int32(0x4B400000)


_inner = njit(error_model="numpy", forceinline=True)


def _entry(function: Any) -> Any:
    """Compile on the first call, keeping the machine code on disk where there is a place for it."""
    try:
        return njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # neither beside this file nor in the user's folder
        return njit(error_model="numpy")(function)


# Plain loads and stores: numba's own would look for negative indices, which keeps loops from becoming vector instructions.
@intrinsic
def _get(typing_context: Any, array: Any, index: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load(builder.gep(data, [arguments[1]], inbounds=True))

    return array.dtype(array, types.int64), code


@intrinsic
def _put(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.store(arguments[2], builder.gep(data, [arguments[1]], inbounds=True))
        return context.get_dummy_value()

    return types.void(array, types.int64, array.dtype), code


@intrinsic
def _put_big_endian(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Eight bytes from `index` on, the highest first."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        builder.store(builder.bswap(arguments[2]), place, align=1)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint64), code


@intrinsic
def _eight_bytes(typing_context: Any, array: Any, index: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return types.uint64(array, types.int64), code


@intrinsic
def _put_eight_bytes(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        builder.store(arguments[2], place, align=1)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint64), code


@intrinsic
def _byte(typing_context: Any, address: Any, index: Any) -> Any:
    """The byte at a place in memory, `index` bytes behind `address`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        return builder.load(builder.gep(start, [arguments[1]], inbounds=True))

    return types.uint8(types.int64, types.int64), code


def _zeros(leading: bool) -> Any:
    def typed(typing_context: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            count = builder.ctlz if leading else builder.cttz
            return count(arguments[0], ir.Constant(ir.IntType(1), 0))

        return types.uint64(types.uint64), code

    return intrinsic(typed)


_leading_zeros = _zeros(True)
_trailing_zeros = _zeros(False)


@_inner
def _transform(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
    """Eight numbers to eight frequencies: 29 additions, 5 products (Arai, Agui and Nakajima, 1988)."""
    ah, bg, cf, de = a + h, b + g, c + f, d + e
    h, g, f, e = a - h, b - g, c - f, d - e
    even0, even1, even2, even3 = ah + de, bg + cf, bg - cf, ah - de
    turned = (even2 + even3) * _C4
    odd0, odd1, odd2 = e + f, f + g, g + h
    shared = (odd0 - odd2) * _C6
    low, high, middle = _C2 * odd0 + shared, _C8 * odd2 + shared, odd1 * _C4
    plus, minus = h + middle, h - middle
    return (
        even0 + even1,
        plus + high,
        even3 + turned,
        minus - low,
        even0 - even1,
        minus + low,
        even3 - turned,
        plus - high,
    )


@_inner
def _pad(
    address: int, stride: int, height: int, width: int, low: Any, high: Any, centre: bool, padded: Any, rows: int, columns: int
) -> None:  # fmt: skip
    """Copy a plane of bytes into whole blocks, its last row and column repeated, levels clipped to low..high.

    centre: each sample goes a quarter of the way to the next one of its row.
    """
    for y in range(height):
        source, target = address + y * stride, y * columns
        if centre:
            for x in range(width - 1):
                moved = (
                    np.int32(3) * np.int32(_byte(source, x)) + np.int32(_byte(source, x + 1)) + np.int32(2)
                ) >> np.int32(2)
                _put(padded, target + x, min(max(np.uint8(moved), low), high))
        else:
            for x in range(width - 1):
                _put(padded, target + x, min(max(_byte(source, x), low), high))
        last = min(max(_byte(source, width - 1), low), high)
        for x in range(width - 1, columns):
            _put(padded, target + x, last)
    for y in range(height, rows):
        for x in range(columns):
            _put(padded, y * columns + x, _get(padded, (height - 1) * columns + x))


@_inner
def _horizontal(words: Any, at: int, stride: int, lanes: int, work: Any) -> None:
    """Eight rows of `lanes` blocks, two words of four pixels each -> work[(8 * u + y) * LANES + lane]."""
    for y in range(8):
        row = at + y * stride
        for lane in range(lanes):
            left, right = _get(words, row + 2 * lane), _get(words, row + 2 * lane + 1)
            f0, f1, f2, f3, f4, f5, f6, f7 = _transform(
                _F(np.int32(left & 255)),
                _F(np.int32((left >> 8) & 255)),
                _F(np.int32((left >> 16) & 255)),
                _F(np.int32(left >> 24)),
                _F(np.int32(right & 255)),
                _F(np.int32((right >> 8) & 255)),
                _F(np.int32((right >> 16) & 255)),
                _F(np.int32(right >> 24)),
            )
            to = y * LANES + lane
            _put(work, to, f0)
            _put(work, to + 8 * LANES, f1)
            _put(work, to + 16 * LANES, f2)
            _put(work, to + 24 * LANES, f3)
            _put(work, to + 32 * LANES, f4)
            _put(work, to + 40 * LANES, f5)
            _put(work, to + 48 * LANES, f6)
            _put(work, to + 56 * LANES, f7)


@_inner
def _vertical(work: Any, lanes: int, coefficients: Any, base: int) -> None:
    for u in range(8):
        for lane in range(lanes):
            at = u * 8 * LANES + lane
            f0, f1, f2, f3, f4, f5, f6, f7 = _transform(
                _get(work, at),
                _get(work, at + LANES),
                _get(work, at + 2 * LANES),
                _get(work, at + 3 * LANES),
                _get(work, at + 4 * LANES),
                _get(work, at + 5 * LANES),
                _get(work, at + 6 * LANES),
                _get(work, at + 7 * LANES),
            )
            to = base + at
            _put(coefficients, to, f0)
            _put(coefficients, to + LANES, f1)
            _put(coefficients, to + 2 * LANES, f2)
            _put(coefficients, to + 3 * LANES, f3)
            _put(coefficients, to + 4 * LANES, f4)
            _put(coefficients, to + 5 * LANES, f5)
            _put(coefficients, to + 6 * LANES, f6)
            _put(coefficients, to + 7 * LANES, f7)


@_inner
def _level(coefficient: Any, scale: Any) -> Any:
    return np.float32(coefficient * scale + _ROUNDING).view(np.int32) - _ROUNDING_BITS


@_inner
def _quantise(chunk: Any, lanes: int, shift: Any, scale: Any, levels: Any, base: int) -> None:
    """Levels of one chunk, to levels[base:]."""
    for number in range(64):
        factor, at = scale[number], number * LANES
        for lane in range(lanes):
            _put(levels, base + at + lane, np.int16(_level(_get(chunk, at + lane), factor)))
    for lane in range(lanes):
        _put(levels, base + lane, np.int16(_level(_get(chunk, lane) + shift, scale[0])))


@_inner
def _quantise_gradient(
    chunk: Any, lanes: int, earlier: Any, place: int, shift: Any, scale: Any, levels: Any, base: int
) -> None:
    """Levels of earlier[place:] less a chunk, which takes its place."""
    for lane in range(lanes):
        difference = _get(earlier, place + lane) - _get(chunk, lane)
        _put(levels, base + lane, np.int16(_level(difference + shift, scale[0])))
        _put(earlier, place + lane, _get(chunk, lane))
    for number in range(1, 64):
        factor, at = scale[number], number * LANES
        for lane in range(lanes):
            later = _get(chunk, at + lane)
            _put(levels, base + at + lane, np.int16(_level(_get(earlier, place + at + lane) - later, factor)))
            _put(earlier, place + at + lane, later)


@_inner
def _bit(levels: Any, at: int, bit: Any) -> Any:
    return bit if _get(levels, at) != 0 else np.uint16(0)


@_inner
def _mark(levels: Any, base: int, lanes: int, places: Any, marks: Any) -> None:
    """Which levels of one chunk are not 0: four words of 16 zigzag positions a lane."""
    lanes = (lanes + 15) // 16 * 16
    for word in range(4):
        to = base // 16 + word * LANES
        for lane in range(lanes):
            _put(marks, to + lane, np.uint16(0))
        for first in range(0, 16, 4):
            a, b = base + places[16 * word + first], base + places[16 * word + first + 1]
            c, d = base + places[16 * word + first + 2], base + places[16 * word + first + 3]
            bit = np.uint16(1 << first)
            for lane in range(lanes):
                found = (
                    _bit(levels, a + lane, bit)
                    | _bit(levels, b + lane, np.uint16(bit << 1))
                    | _bit(levels, c + lane, np.uint16(bit << 2))
                    | _bit(levels, d + lane, np.uint16(bit << 3))
                )
                _put(marks, to + lane, _get(marks, to + lane) | found)


@_inner
def _analyse(
    where: Any, row: int, size: Any, clip: Any, shifts: Any, scales: Any, places: Any, padded: Any, work: Any, coefficients: Any,
    levels: Any, marks: Any, with_gradient: bool, centre: bool,
) -> None:  # fmt: skip
    """One plane of a row of squares, and of the gradient from the picture before it."""
    height, width, rows, columns, first, place = size[0], size[1], size[2], size[3], size[4], size[5]
    top = 8 * rows * row
    _pad(
        where[0] + top * where[1],
        where[1],
        min(height - top, 8 * rows),
        width,
        clip[0],
        clip[1],
        centre,
        padded,
        8 * rows,
        8 * columns,
    )
    words = padded.view(np.uint32)
    base, kept = first, place + row * rows * -(-columns // LANES) * 64 * LANES
    for block_row in range(rows):
        for column in range(0, columns, LANES):
            lanes = min(LANES, columns - column) // 8 * 8
            _horizontal(words, block_row * 16 * columns + 2 * column, 2 * columns, lanes, work[0])
            _vertical(work[0], lanes, work[1], 0)
            _quantise(work[1], lanes, shifts[0], scales[0], levels[0], base)
            _mark(levels[0], base, lanes, places, marks[0])
            if with_gradient:
                _quantise_gradient(work[1], lanes, coefficients, kept, shifts[1], scales[1], levels[1], base)
                _mark(levels[1], base, lanes, places, marks[1])
            elif coefficients.shape[0]:
                for number in range(64 * LANES):
                    _put(coefficients, kept + number, _get(work[1], number))
            base += 64 * LANES
            kept += 64 * LANES


@_inner
def _flush(out: Any, at: int, bits: Any, count: Any) -> Any:
    """Write the whole bytes among the `count` lowest bits; gives where to go on and how many bits are left."""
    _put_big_endian(out, at, bits << ((_U(64) - count) & _U(63)))
    return at + np.int64(count >> _U(3)), count & _U(7)


@_inner
def _append(bits: Any, count: Any, code: Any) -> Any:
    length = code & _U(31)
    return (bits << length) | (code >> _U(5)), count + length


@_inner
def _with_value(codes: Any, first: int, level: int) -> Any:
    """The code of a level's size, counted from codes[first], with the level behind it."""
    sign = level >> 63
    size = _U(64) - _leading_zeros(_U((level ^ sign) - sign))
    return _U(_get(codes, first + np.int64(size))) | ((_U(level + sign) & ((_U(1) << size) - _U(1))) << _U(5))


@_inner
def _write_run(raw: Any, end: int, bits: Any, count: Any, run: Any, codes: Any, kind: int) -> Any:
    """Write what waits and the code for 16 zeros as often as it fits into a run; gives what is left of it."""
    end, count = _flush(raw, end, bits, count)
    while run > _U(15):
        bits, count = _append(bits, count, _U(_get(codes, 512 * kind + 0xF0)))
        end, count = _flush(raw, end, bits, count)
        run -= _U(16)
    return end, bits, count, run


@_inner
def _write(levels: Any, marks: Any, order: Any, codes: Any, quick: Any, places: Any, raw: Any, state: Any) -> None:
    """Entropy-code a row of squares to raw. state: int64[6], where to go on, bits left over and their count, the last DC level of each plane."""
    end, bits, count = state[0], _U(state[1]), _U(state[2])
    last_y, last_cb, last_cr = state[3], state[4], state[5]
    for number in range(order.shape[0]):
        base, part, mark = order[number, 0], order[number, 1], order[number, 2]
        kind = np.int64(part > 0)
        direct = np.int64(_get(levels, base))
        step = direct - (last_y if part == 0 else last_cb if part == 1 else last_cr)
        if part == 0:
            last_y = direct
        elif part == 1:
            last_cb = direct
        else:
            last_cr = direct
        bits, count = _append(bits, count, _with_value(codes, 512 * kind + 256, step))
        end, count = _flush(raw, end, bits, count)
        left = _U(_get(marks, mark)) | (_U(_get(marks, mark + LANES)) << _U(16))
        left |= (_U(_get(marks, mark + 2 * LANES)) << _U(32)) | (_U(_get(marks, mark + 3 * LANES)) << _U(48))
        left &= ~_U(1)
        last = _U(0)
        while left:
            # Two at a time: the bits of both wait for one store (7 + 2 * 26 at most).
            position = _trailing_zeros(left)
            left &= left - _U(1)
            run = position - last - _U(1)
            last = position
            level = np.int64(_get(levels, base + _get(places, np.int64(position))))
            if run < _U(16) and _U(level + 32) < _U(64):
                code = _U(_get(quick, 1024 * kind + np.int64(run << _U(6)) + level + 32))
            else:
                end, bits, count, run = _write_run(raw, end, bits, count, run, codes, kind)
                code = _with_value(codes, 512 * kind + np.int64(run << _U(4)), level)
            bits, count = _append(bits, count, code)
            if left:
                position = _trailing_zeros(left)
                left &= left - _U(1)
                run = position - last - _U(1)
                last = position
                level = np.int64(_get(levels, base + _get(places, np.int64(position))))
                if run < _U(16) and _U(level + 32) < _U(64):
                    code = _U(_get(quick, 1024 * kind + np.int64(run << _U(6)) + level + 32))
                else:
                    end, bits, count, run = _write_run(raw, end, bits, count, run, codes, kind)
                    code = _with_value(codes, 512 * kind + np.int64(run << _U(4)), level)
                bits, count = _append(bits, count, code)
            end, count = _flush(raw, end, bits, count)
        if last != _U(63):
            bits, count = _append(bits, count, _U(_get(codes, 512 * kind)))
    end, count = _flush(raw, end, bits, count)
    state[0], state[1], state[2], state[3], state[4], state[5] = (
        end,
        np.int64(bits),
        np.int64(count),
        last_y,
        last_cb,
        last_cr,
    )


@_inner
def _close(raw: Any, state: Any, out: Any, at: int) -> Any:
    """Fill up the last byte with ones; everything to out[at:]."""
    end, bits, count = state[0], _U(state[1]), _U(state[2])
    if count:
        _put(raw, end, np.uint8((bits << (_U(8) - count)) | ((_U(1) << (_U(8) - count)) - _U(1))))
        end += 1
    return _stuff(raw, 0, end, out, at)


@_entry
def encode(
    where: Any, rows: int, size: Any, clip: Any, shifts: Any, scales: Any, places: Any, padded: Any, work: Any, coefficients: Any,
    levels: Any, marks: Any, order: Any, codes: Any, quick: Any, raw: Any, out: Any, at: int, with_gradient: bool, left: bool,
) -> Any:  # fmt: skip
    """A picture, and where wanted the gradient from the one before, to out[0, at:] and out[1, at:]; gives where both end, EOI included.

    Row by row of squares of 16x16 pixels, so that what passes between the steps stays in the processor's nearest memory.
    An axis of length 3 is Y, Cb, Cr; one of length 2 picture and gradient, or luma and chroma tables.
    where: int64[3, 2], address of a plane's bytes and the distance of its rows. rows: of squares. size: int64[3, 6], height, width, rows of blocks in a row of squares,
    columns of blocks (a multiple of 8), place of the first number in levels, and in coefficients. clip: uint8[3, 2], the levels of black and
    white. scales: float32[3, 2, 64]: level = coefficient * scale, to the nearest integer. shifts: float32[3, 2], added to the coefficient of frequency 0 before.
    left: chroma is that of the left of two pixels. places: int64[64], zigzag position -> place in a chunk. padded uint8, work float32[2, 64 * LANES], levels, marks and
    raw uint8[2, ...]: scratch. coefficients: of the picture before, replaced by this one's; none where no
    gradient is ever wanted.
    order: int64[blocks, 3], blocks of a row of squares in the order of the file: their place in levels, plane, place in marks.
    codes: uint32[2 * 512], code * 32 + bits, of AC symbols at 0..255, of DC sizes from 256; codes lie above room for the bits of their value, which
    are counted. quick: uint32[2 * 1024], the same with the value, of AC levels -32..31 behind 0..15 zeros.
    """
    states = np.zeros((2, 6), np.int64)
    for row in range(rows):
        for plane in range(3):
            _analyse(
                where[plane], row, size[plane], clip[plane], shifts[plane], scales[plane], places, padded, work, coefficients,
                levels, marks, with_gradient, left and plane > 0,
            )  # fmt: skip
        _write(levels[0], marks[0], order, codes, quick, places, raw[0], states[0])
        if with_gradient:
            _write(levels[1], marks[1], order, codes, quick, places, raw[1], states[1])
    end = _close(raw[0], states[0], out[0], at)
    return end, _close(raw[1], states[1], out[1], at) if with_gradient else at


@_inner
def _stuff(raw: Any, start: int, end: int, out: Any, at: int) -> int:
    """Copy bytes, a zero behind each 0xFF, then the marker EOI."""
    position = start
    while position < end:
        eight = _eight_bytes(raw, position)
        # The highest bit of a byte is set in both only where the byte is 0xFF.
        if position + 8 <= end and not (
            eight & ((eight & _U(0x7F7F7F7F7F7F7F7F)) + _U(0x0101010101010101)) & _U(0x8080808080808080)
        ):
            _put_eight_bytes(out, at, eight)
            position += 8
            at += 8
            continue
        for position in range(position, min(position + 8, end)):  # noqa: B020
            byte = _get(raw, position)
            _put(out, at, byte)
            at += 1
            if byte == 0xFF:
                _put(out, at, np.uint8(0))
                at += 1
        position += 1
    _put(out, at, np.uint8(0xFF))
    _put(out, at + 1, np.uint8(0xD9))
    return at + 2


def keep_nothing() -> None:
    """Compile `encode` anew at its next call, in memory alone."""
    global encode
    encode = njit(error_model="numpy")(encode.py_func)
