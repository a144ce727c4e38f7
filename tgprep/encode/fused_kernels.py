"""The inner loops of `tgprep.encode.fused`, compiled by numba: planes, cosine transform, quantised levels, entropy-coded bits.

A plane is cut into blocks of 8x8 pixels. LANES neighbouring blocks of a row of blocks make a chunk, which is stored frequency
by frequency: `chunk[(8 * u + v) * LANES + lane]`, u and v the horizontal and vertical frequency. Eight lanes are one vector;
the code for vectors is emitted instruction by instruction (`_Eight`), as automatic vectorisation of short rows is unreliable.
All kernels are in this one file, because numba invalidates its cached machine code by the file that holds a function.

All results are integers or single IEEE operations in a fixed order: the same bytes on every machine. The machine must be
little-endian: four pixels are read as one word, the first in its lowest bits, and eight bytes of code are swapped when written.

Array arguments: coefficients float32[64 * LANES * chunks], scaled as the transform of Arai, Agui and Nakajima leaves them;
levels int16, the quantised coefficients; marks uint16[4 * LANES * chunks], per block the zigzag positions of nonzero levels.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from tgprep.encode.jpeg_tables import ZIGZAG

LANES = 48
STEPS = 2048  # no step between two DC levels is larger
QUICK = 128  # levels from -QUICK to QUICK - 1 have their code and bits in one table
_RST0, _EOI = 0xD0, 0xD9  # markers
PLACES = (ZIGZAG % 8 * 8 + ZIGZAG // 8) * LANES  # zigzag position to offset in a chunk

_U = np.uint64
_C2 = 0.541196100  # sqrt(2) * (cos(pi / 8) - cos(3 pi / 8)) / sqrt(2), and so on: the constants of that transform
_C4 = 0.707106781
_C6 = 0.382683433
_C8 = 1.306562965
_LONG = ir.IntType(64)
_FLOATS, _INTS, _SHORTS = (ir.VectorType(kind, 8) for kind in (ir.FloatType(), ir.IntType(32), ir.IntType(16)))


_inner = njit(error_model="numpy", forceinline=True)


def _entry(function: Any) -> Any:
    """Compile on the first call; cache the machine code on disk if there is a place for it."""
    try:
        return njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # neither beside this file nor in the user's folder
        return njit(error_model="numpy")(function)


@dataclass(frozen=True, slots=True)
class _Array:
    """An array argument in the code being generated."""

    context: Any
    builder: Any
    kind: Any  # the array's type
    value: Any

    def pointer(self, index: Any, element: Any = None) -> Any:
        """Pointer to an item, or to a value of another type there."""
        data = self.context.make_array(self.kind)(self.context, self.builder, self.value).data
        if element is None:
            return self.builder.gep(data, [index], inbounds=True)
        return self.builder.bitcast(self.builder.gep(data, [index]), element.as_pointer())

    def vector(self, index: Any, count: int = 8) -> Any:
        """Pointer to `count` neighbours, as one vector."""
        return self.pointer(index, ir.VectorType(self.context.get_data_type(self.kind.dtype), count))

    def eight(self, index: Any) -> _Eight:
        """Load eight neighbours."""
        return _Eight(self.builder, self.builder.load(self.vector(index), align=4))

    def broadcast(self, index: Any) -> _Eight:
        """Load one number into all eight lanes."""
        number, lane = self.builder.load(self.pointer(index)), ir.Constant(ir.IntType(32), 0)
        one = self.builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), number, lane)
        return _Eight(self.builder, self.builder.shuffle_vector(one, one, ir.Constant(_INTS, [0] * 8)))


@dataclass(frozen=True, slots=True)
class _Eight:
    """A vector of eight floats in the code being generated: arithmetic on it emits instructions."""

    builder: Any
    value: Any

    def __add__(self, other: _Eight) -> _Eight:
        return _Eight(self.builder, self.builder.fadd(self.value, other.value))

    def __sub__(self, other: _Eight) -> _Eight:
        return _Eight(self.builder, self.builder.fsub(self.value, other.value))

    def __mul__(self, other: _Eight | float) -> _Eight:
        factor = other.value if isinstance(other, _Eight) else ir.Constant(_FLOATS, [float(np.float32(other))] * 8)
        return _Eight(self.builder, self.builder.fmul(self.value, factor))

    def store(self, array: _Array, index: Any) -> None:
        self.builder.store(self.value, array.vector(index), align=4)

    def store_nearest(self, array: _Array, index: Any) -> None:
        """Store the nearest integers as int16: adding 1.5 * 2^23 leaves them in the lowest bits of a float."""
        moved = self.builder.fadd(self.value, ir.Constant(_FLOATS, [12582912.0] * 8))
        bits = self.builder.bitcast(moved, _INTS)
        nearest = self.builder.trunc(bits, _SHORTS)  # 1.5 * 2^23 itself has zeros there
        self.builder.store(nearest, array.vector(index), align=2)


def _instruction(signature: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Make an intrinsic of a function that emits instructions: emit(builder, *arguments), arrays as `_Array`.

    signature: from the types of the arguments, as they are given, to the signature.
    """

    def decorate(emit: Callable[..., Any]) -> Any:
        def typed(typing_context: Any, *given: Any) -> Any:
            def code(context: Any, builder: Any, resolved: Any, values: Any) -> Any:
                arguments = (
                    _Array(context, builder, kind, value) if isinstance(kind, types.Array) else value
                    for kind, value in zip(resolved.args, values, strict=True)
                )
                result = emit(builder, *arguments)
                return context.get_dummy_value() if result is None else result

            return signature(*given), code

        # Numba matches arguments by name: those of `emit`, with the context in place of the builder.
        typed.__signature__ = inspect.signature(emit)  # type: ignore[attr-defined]
        return intrinsic(typed)

    return decorate


def _on_arrays(*given: Any) -> Any:
    return types.void(*(kind if isinstance(kind, types.Array) else types.int64 for kind in given))


# Plain loads and stores, without numba's own check for negative indices, which prevents vector instructions.
@_instruction(lambda array, index: array.dtype(array, types.int64))
def _get(builder: Any, array: _Array, index: Any) -> Any:
    return builder.load(array.pointer(index))


@_instruction(lambda array, index, value: types.void(array, types.int64, array.dtype))
def _put(builder: Any, array: _Array, index: Any, value: Any) -> None:
    builder.store(value, array.pointer(index))


@_instruction(lambda array, index: types.uint64(array, types.int64))
def _eight_bytes(builder: Any, array: _Array, index: Any) -> Any:
    return builder.load(array.pointer(index, _LONG), align=1)


@_instruction(lambda array, index, value: types.void(array, types.int64, types.uint64))
def _put_eight_bytes(builder: Any, array: _Array, index: Any, value: Any) -> None:
    builder.store(value, array.pointer(index, _LONG), align=1)


@_instruction(lambda array, index, value: types.void(array, types.int64, types.uint64))
def _put_big_endian(builder: Any, array: _Array, index: Any, value: Any) -> None:
    """Store eight bytes, the highest first."""
    builder.store(builder.bswap(value), array.pointer(index, _LONG), align=1)


@_instruction(lambda address, index: types.uint8(types.int64, types.int64))
def _byte(builder: Any, address: Any, index: Any) -> Any:
    """Load the byte at `address` + `index`."""
    start = builder.inttoptr(address, ir.IntType(8).as_pointer())
    return builder.load(builder.gep(start, [index], inbounds=True))


@_instruction(lambda value: types.uint64(types.uint64))
def _leading_zeros(builder: Any, value: Any) -> Any:
    return builder.ctlz(value, ir.Constant(ir.IntType(1), 0))


@_instruction(lambda value: types.uint64(types.uint64))
def _trailing_zeros(builder: Any, value: Any) -> Any:
    return builder.cttz(value, ir.Constant(ir.IntType(1), 0))


def _further(builder: Any, index: Any, step: int) -> Any:
    return builder.add(index, ir.Constant(_LONG, step))


def _transform(numbers: Sequence[_Eight]) -> tuple[_Eight, ...]:
    """Transform eight numbers to eight frequencies: 29 additions, 5 products (Arai, Agui and Nakajima, 1988)."""
    a, b, c, d, e, f, g, h = numbers
    ah, bg, cf, de = a + h, b + g, c + f, d + e
    h, g, f, e = a - h, b - g, c - f, d - e
    even0, even1, even2, even3 = ah + de, bg + cf, bg - cf, ah - de
    turned = (even2 + even3) * _C4
    odd0, odd1, odd2 = e + f, f + g, g + h
    shared = (odd0 - odd2) * _C6
    low, high, middle = odd0 * _C2 + shared, odd2 * _C8 + shared, odd1 * _C4
    plus, minus = h + middle, h - middle
    first = even0 + even1, plus + high, even3 + turned, minus - low
    return (*first, even0 - even1, minus + low, even3 - turned, plus - high)


@_instruction(_on_arrays)
def _eight_rows(builder: Any, words: _Array, at: Any, work: _Array, to: Any) -> None:
    """Transform one row of eight blocks, 16 words of four pixels, to work[8 * u * LANES + to:], its frequencies u."""
    row = builder.load(words.vector(at, 16), align=1)
    # Take the words apart: one vector for each of the eight columns, a lane for each block.
    pixels = []
    for half in (0, 1):
        four = builder.shuffle_vector(row, row, ir.Constant(_INTS, list(range(half, 16, 2))))
        for bits in (0, 8, 16, 24):
            moved = builder.lshr(four, ir.Constant(_INTS, [bits] * 8))
            pixel = builder.sitofp(builder.and_(moved, ir.Constant(_INTS, [255] * 8)), _FLOATS)
            pixels.append(_Eight(builder, pixel))
    for u, frequency in enumerate(_transform(pixels)):
        frequency.store(work, _further(builder, to, 8 * u * LANES))


def _columns(builder: Any, work: _Array, at: Any) -> tuple[_Eight, ...]:
    return _transform([work.eight(_further(builder, at, y * LANES)) for y in range(8)])


def _put_levels(
    builder: Any, frequencies: Sequence[_Eight], shift: _Array, scale: _Array, u: Any, levels: _Array, to: Any
) -> None:
    """Quantise the frequencies 8 * u to 8 * u + 7 of eight blocks to levels[to:]."""
    for v, frequency in enumerate(frequencies):
        if v == 0:
            frequency += shift.broadcast(u)
        index = builder.add(builder.mul(u, ir.Constant(_LONG, 8)), ir.Constant(_LONG, v))
        level = frequency * scale.broadcast(index)
        level.store_nearest(levels, _further(builder, to, v * LANES))


@_instruction(_on_arrays)
def _eight_columns(
    builder: Any, work: _Array, at: Any, u: Any, shift: _Array, scale: _Array, levels: _Array, to: Any
) -> None:
    """Transform eight rows of work[at:] and quantise them to levels[to:], the frequencies 8 * u to 8 * u + 7."""
    _put_levels(builder, _columns(builder, work, at), shift, scale, u, levels, to)


@_instruction(_on_arrays)
def _eight_columns_of_two(
    builder: Any, work: _Array, at: Any, u: Any, shifts: _Array, scales: _Array, levels: _Array, other_levels: _Array, to: Any,
    earlier: _Array, place: Any,
) -> None:  # fmt: skip
    """The same, and quantise earlier[place:] minus these frequencies to other_levels[to:]; they then replace it.

    shifts: [2 * 8], scales: [2 * 64], for picture and gradient.
    """
    frequencies = _columns(builder, work, at)
    # The frequencies of the previous picture are replaced by those of this one.
    places = [_further(builder, place, v * LANES) for v in range(8)]
    before = [earlier.eight(index) for index in places]
    for index, frequency in zip(places, frequencies, strict=True):
        frequency.store(earlier, index)
    # TG is affine: its frequencies are the differences, with another scale and shift.
    differences = [previous - following for previous, following in zip(before, frequencies, strict=True)]
    _put_levels(builder, frequencies, shifts, scales, u, levels, to)
    _put_levels(builder, differences, shifts, scales, _further(builder, u, 8), other_levels, to)


@_instruction(_on_arrays)
def _eight_marks(builder: Any, levels: _Array, base: Any, marks: _Array, to: Any) -> None:
    """Mark the nonzero levels[base:] of eight lanes: a word for each 16 zigzag positions, at marks[to:] and every LANES after."""
    nothing = ir.Constant(_SHORTS, [0] * 8)
    for word in range(4):
        bits = nothing
        for bit, place in enumerate(PLACES[16 * word : 16 * word + 16]):
            level = builder.load(levels.vector(_further(builder, base, int(place))), align=2)
            nonzero = builder.icmp_signed("!=", level, nothing)
            bits = builder.or_(bits, builder.select(nonzero, ir.Constant(_SHORTS, [1 << bit] * 8), nothing))
        builder.store(bits, marks.vector(_further(builder, to, word * LANES)), align=2)


@_inner
def _clipped(source: int, x: int, low: Any, high: Any) -> Any:
    return min(max(_byte(source, x), low), high)


@_inner
def _centred(source: int, x: int, low: Any, high: Any) -> Any:
    moved = (np.int32(3) * np.int32(_byte(source, x)) + np.int32(_byte(source, x + 1)) + np.int32(2)) >> np.int32(2)
    return min(max(np.uint8(moved), low), high)


@_inner
def _copy(level: Any, source: int, count: int, low: Any, high: Any, padded: Any, to: int) -> None:
    """Copy `count` samples of a row. The last 32 are copied twice, so that all go in vectors; a short row goes one by one."""
    in_vectors = count // 32 * 32
    for x in range(in_vectors):
        _put(padded, to + x, level(source, x, low, high))
    if in_vectors:
        for x in range(32):
            _put(padded, to + count - 32 + x, level(source, count - 32 + x, low, high))
    else:
        for x in range(count):
            _put(padded, to + x, level(source, x, low, high))


@_inner
def _pad(
    address: int, stride: int, height: int, width: int, low: Any, high: Any, centre: bool, padded: Any, rows: int, columns: int
) -> None:  # fmt: skip
    """Copy a plane of bytes into complete blocks, its last row and column repeated, levels clipped to low..high.

    centre: move each sample a quarter of the way to the next one of its row.
    """
    for y in range(height):
        source, target = address + y * stride, y * columns
        if centre:
            _copy(_centred, source, width - 1, low, high, padded, target)
        else:
            _copy(_clipped, source, width - 1, low, high, padded, target)
        last = _clipped(source, width - 1, low, high)
        for x in range(width - 1, columns):
            _put(padded, target + x, last)
    for y in range(height, rows):
        for x in range(columns):
            _put(padded, y * columns + x, _get(padded, (height - 1) * columns + x))


@_inner
def _analyse(
    where: Any, row: int, size: Any, clip: Any, shifts: Any, scales: Any, padded: Any, work: Any, coefficients: Any,
    levels: Any, marks: Any, with_gradient: bool, centre: bool,
) -> None:  # fmt: skip
    """Transform and quantise one plane of a row of squares, and of the gradient from the previous picture."""
    height, width, rows, columns, first, place = size[0], size[1], size[2], size[3], size[4], size[5]
    top = 8 * rows * row
    address, num_rows = where[0] + top * where[1], min(height - top, 8 * rows)
    _pad(address, where[1], num_rows, width, clip[0], clip[1], centre, padded, 8 * rows, 8 * columns)
    words = padded.view(np.uint32)
    base, kept = first, place + row * rows * -(-columns // LANES) * 64 * LANES
    for block_row in range(rows):
        for column in range(0, columns, LANES):
            lanes = min(LANES, columns - column)
            # Rows first, into scratch space that fits the nearest cache; then columns, straight to levels.
            for y in range(8):
                for lane in range(0, lanes, 8):
                    at = (8 * block_row + y) * 2 * columns + 2 * (column + lane)
                    _eight_rows(words, at, work, y * LANES + lane)
            for lane in range(0, lanes, 8):
                for u in range(8):
                    at = 8 * u * LANES + lane
                    if coefficients.shape[0]:
                        _eight_columns_of_two(
                            work, at, u, shifts, scales, levels[0], levels[1], base + at, coefficients, kept + at
                        )
                    else:
                        _eight_columns(work, at, u, shifts, scales, levels[0], base + at)
                _eight_marks(levels[0], base + lane, marks[0], base // 16 + lane)
                if with_gradient:
                    _eight_marks(levels[1], base + lane, marks[1], base // 16 + lane)
            base += 64 * LANES
            kept += 64 * LANES


@_inner
def _flush(out: Any, at: int, bits: Any, count: Any) -> Any:
    """Write the complete bytes among the `count` lowest bits; return the next position and how many bits are left."""
    _put_big_endian(out, at, bits << ((_U(64) - count) & _U(63)))
    return at + np.int64(count >> _U(3)), count & _U(7)


@_inner
def _append(bits: Any, count: Any, code: Any) -> Any:
    length = code & _U(31)
    return (bits << length) | (code >> _U(5)), count + length


@_inner
def _with_value(codes: Any, first: int, level: int) -> Any:
    """The code of a level's size, counted from codes[first], followed by the level."""
    sign = level >> 63
    size = _U(64) - _leading_zeros(_U((level ^ sign) - sign))
    return _U(_get(codes, first + np.int64(size))) | ((_U(level + sign) & ((_U(1) << size) - _U(1))) << _U(5))


@_inner
def _write_run(raw: Any, end: int, bits: Any, count: Any, run: Any, codes: Any, kind: int) -> Any:
    """Write the pending bits and the code for 16 zeros as often as it fits into a run; return what is left of the run."""
    end, count = _flush(raw, end, bits, count)
    while run > _U(15):
        bits, count = _append(bits, count, _U(_get(codes, 256 * kind + 0xF0)))
        end, count = _flush(raw, end, bits, count)
        run -= _U(16)
    return end, bits, count, run


@_inner
def _write(
    levels: Any, marks: Any, order: Any, first: int, last: int, codes: Any, steps: Any, quick: Any, places: Any, raw: Any, dc: Any
) -> Any:  # fmt: skip
    """Entropy-code the blocks order[first:last] to raw, independent of those before, the last byte filled up with ones.

    Return the number of bytes. dc: int64[3], scratch space for the last DC level of each plane.
    """
    end, bits, count = 0, _U(0), _U(0)
    dc[:] = 0
    for number in range(first, last):
        base, part, mark = order[number, 0], order[number, 1], order[number, 2]
        kind = np.int64(part > 0)
        # DC: the difference from the previous block of the plane.
        direct = np.int64(_get(levels, base))
        step = direct - _get(dc, part)
        _put(dc, part, direct)
        bits, count = _append(bits, count, _U(_get(steps, 2 * STEPS * kind + step + STEPS)))
        end, count = _flush(raw, end, bits, count)
        # AC: visit nonzero levels only, by the 64 bits of marks; bit 0 is DC.
        left = _U(_get(marks, mark)) | (_U(_get(marks, mark + LANES)) << _U(16))
        left |= (_U(_get(marks, mark + 2 * LANES)) << _U(32)) | (_U(_get(marks, mark + 3 * LANES)) << _U(48))
        left &= ~_U(1)
        seen = _U(0)
        while left:
            # Two at a time: the bits of both (7 + 2 * 26 at most) fit one store.
            for _ in range(2):
                if left:
                    position = _trailing_zeros(left)
                    left &= left - _U(1)
                    run = position - seen - _U(1)
                    seen = position
                    level = np.int64(_get(levels, base + _get(places, np.int64(position))))
                    if run < _U(16) and _U(level + QUICK) < _U(2 * QUICK):
                        code = _U(_get(quick, 32 * QUICK * kind + np.int64(run) * (2 * QUICK) + level + QUICK))
                    else:
                        end, bits, count, run = _write_run(raw, end, bits, count, run, codes, kind)
                        code = _with_value(codes, 256 * kind + np.int64(run << _U(4)), level)
                    bits, count = _append(bits, count, code)
            end, count = _flush(raw, end, bits, count)
        # End of block, unless the last position was coded.
        if seen != _U(63):
            bits, count = _append(bits, count, _U(_get(codes, 256 * kind)))
    end, count = _flush(raw, end, bits, count)
    if count:
        _put(raw, end, np.uint8((bits << (_U(8) - count)) | ((_U(1) << (_U(8) - count)) - _U(1))))
        end += 1
    return end


@_inner
def _copy_stuffed(raw: Any, end: int, out: Any, at: Any, marker: int) -> Any:
    """Copy raw[:end] to out[at:] with a zero after each 0xFF, then a marker; return the next position."""
    position: Any = 0
    while position < end:
        # Eight bytes at once; what lies behind the end, or behind the first 0xFF, is overwritten by what comes next.
        eight = _eight_bytes(raw, position)
        _put_eight_bytes(out, at, eight)
        # Only for 0xFF is the highest bit of a byte set in both operands.
        full = eight & ((eight & _U(0x7F7F7F7F7F7F7F7F)) + _U(0x0101010101010101)) & _U(0x8080808080808080)
        count: Any = np.int64(_trailing_zeros(full) >> _U(3)) + 1 if full else 9
        if count <= end - position and count < 9:
            _put(out, at + count, np.uint8(0))
            position += count
            at += count + 1
        else:
            position += 8
            at += 8
    at -= position - end
    _put(out, at, np.uint8(0xFF))
    _put(out, at + 1, np.uint8(marker))
    return at + 2


@_entry
def encode(
    where: Any, rows: int, size: Any, clip: Any, shifts: Any, scales: Any, places: Any, padded: Any, work: Any, coefficients: Any,
    levels: Any, marks: Any, order: Any, interval: int, codes: Any, steps: Any, quick: Any, raw: Any, out: Any, at: int, with_gradient: bool,
    left: bool,
) -> Any:  # fmt: skip
    """Encode a picture, and TG from the previous one, to out[0, at:] and out[1, at:]; return where both end, EOI included.

    Row by row of squares of 16x16 pixels, so that intermediate values stay in the nearest cache.
    An axis of length 3 is Y, Cb, Cr; one of length 2 is picture and gradient, or luma and chroma tables.

    where: int64[3, 2], address of a plane's bytes and the stride of its rows. rows: number of rows of squares.
    size: int64[3, 6], height, width, rows of blocks in a row of squares, columns of blocks (a multiple of 8), first index in
        levels, first index in coefficients.
    clip: uint8[3, 2], the levels of black and white.
    shifts: float32[3, 2 * 8], added to coefficients of vertical frequency 0. scales: float32[3, 2 * 64]: level = nearest
        integer of coefficient * scale.
    places: int64[64], zigzag position to offset in a chunk.
    padded uint8[pixels of a row of squares], work float32[64 * LANES], levels int16[2, ...], marks uint16[2, ...], raw
        uint8[...]: scratch space. out: uint8[2, ...].
    coefficients: of the previous picture, replaced by this one's; empty if no gradient is ever needed.
    order: int64[blocks, 3], the blocks of a row of squares in the order of the file: index in levels, plane, index in marks.
    interval: blocks from one restart marker to the next, a divisor of their number.
    codes: uint32[2 * 256], code * 32 + bits, of AC symbols; codes lie above room for the bits of their value, which are counted.
    steps: uint32[2 * 2 * STEPS], the same with the value, of the step from one DC level to the next, from -STEPS on.
    quick: uint32[2 * 16 * 2 * QUICK], the same with the value, of AC levels after 0..15 zeros.
    left: chroma is sampled at the left of two pixels.
    """
    ends, dc = np.array([at, at]), np.zeros(3, np.int64)
    num_files = 2 if with_gradient else 1
    number, last_number = 0, rows * (order.shape[0] // interval)  # of intervals
    for row in range(rows):
        for plane in range(3):
            _analyse(
                where[plane], row, size[plane], clip[plane], shifts[plane], scales[plane], padded, work, coefficients,
                levels, marks, with_gradient, left and plane > 0,
            )  # fmt: skip
        # The file interleaves the planes square by square, so all three must be transformed by now.
        for first in range(0, order.shape[0], interval):
            marker = _RST0 + number % 8
            number += 1
            if number == last_number:
                marker = _EOI
            for file in range(num_files):
                end = _write(
                    levels[file], marks[file], order, first, first + interval, codes, steps, quick, places, raw, dc
                )
                ends[file] = _copy_stuffed(raw, end, out[file], ends[file], marker)
    return ends[0], ends[1]


def has_cached_code() -> bool:
    """Whether numba has cached machine code of this very file; it may turn out to be of another processor, or damaged."""
    cache_file = getattr(getattr(encode, "_cache", None), "_cache_file", None)
    with contextlib.suppress(Exception):  # no such methods in a later numba, a damaged index
        return bool(cache_file._load_index())  # type: ignore[union-attr]
    return False


def renew_code(*, cached: bool) -> None:
    """Let `encode` compile at its next call. cached: delete the cached machine code and cache it again; else in memory only."""
    global encode
    cache = getattr(encode, "_cache", None)
    folder, index = getattr(cache, "_cache_path", None), getattr(getattr(cache, "_cache_file", None), "_index_name", "")
    for path in Path(folder).glob(f"{Path(index).stem}.*") if cached and folder and index else ():
        with contextlib.suppress(OSError):
            path.unlink()
    encode = (_entry if cached else njit(error_model="numpy"))(getattr(encode, "py_func", encode))
