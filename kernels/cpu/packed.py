"""y = W·x for int8 and int4 weights packed as `kernels.quantize` says: whole numbers until a group is summed.

A vector x is written in fixed point, group by group: x ≈ scale · number with 16 bits, which is 30 times finer
than rounding it to bf16. The products of a group are then summed exactly, in int32, and only the sums meet
the two scales, in fp32. Lanes are rows of W. Where a CPU multiplies bytes (AVX512_VNNI) the number is split
into two digits of base 256, high and low, and each product takes two instructions for four columns; elsewhere
pairs of columns are multiplied as int16. Both give the same bits, and so does any batch.
"""

from typing import NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from kernels.cpu.target import (
    LANES,
    VNNI,
    call,
    compiled,
    everywhere,
    fetch_ahead,
    mean_square_of,
    multiply_pairs,
    nearest_whole,
    widen,
)
from kernels.quantize import PANEL, Quantized

_F32, _I16, _I32, _I64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS, _SHORTS = (ir.VectorType(kind, LANES) for kind in (_F32, _I32, _I16))
_REGISTERS = PANEL // LANES  # that hold one word of a panel's rows

LARGEST = 127 * 256  # of the 16-bit numbers: as two signed digits of base 256 it still fits


# Bytes ahead that are asked for of int4, which takes long enough over a line for the CPU's own prefetching to
# fall behind: one thread of an EPYC reads 15 GB/s without, 20 with. int8 gains nothing (19 and 19).
AHEAD = 16384


class Int8(NamedTuple):
    """`words` (panels, words, 16) uint32, `scales` (panels, groups, 16) bf16 bits, `rows` without padding."""

    words: np.ndarray
    scales: np.ndarray
    rows: int


class Int4(NamedTuple):
    """As `Int8`."""

    words: np.ndarray
    scales: np.ndarray
    rows: int


class Fixed(NamedTuple):
    """Vectors in fixed point, laid out for one matrix of `bits`; C is padded to whole groups.

    `digits` (N, 2, C) int8, high before low; or (N, 1, C) int16, of four columns 0, 2, 1, 3. `offsets`
    (N, groups) int32: minus the sum of a group's numbers times what stands for 0 in W. `scales` (N, groups).
    """

    digits: np.ndarray
    offsets: np.ndarray
    scales: np.ndarray
    zero: int


def packed(weight: Quantized) -> Int8 | Int4:
    """A packed matrix as `dot_rows` takes it; nothing is copied."""
    words = weight.words.contiguous().numpy().view(np.uint32)
    scales = weight.scales.contiguous().view(torch.int16).numpy().view(np.uint16)
    return (Int8 if weight.format.bits == 8 else Int4)(words, scales, weight.shape[0])


def bits_of(kind):
    """Of one number in a matrix of this numba type."""
    return 8 if kind.instance_class is Int8 else 4


def _bits(w):
    """Of one number, as a constant of the compiled code."""


@overload(_bits)
def _(w):
    bits = bits_of(w)
    return lambda w: bits


@compiled
def spread(w, vectors):
    """Room for `vectors` x that W is to meet, all zeros."""
    groups, bits = w.scales.shape[1], _bits(w)
    return Fixed(
        _no_digits(vectors, w.words.shape[1] * 32 // bits),
        np.zeros((vectors, groups), np.int32),
        np.zeros((vectors, groups), np.float32),
        1 << (bits - 1),
    )


@compiled
def place(x, laid):
    """Write x (N, C), bf16 bits or float32, into `laid`."""
    wide = np.empty(x.shape[1], np.float32)
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            wide[c] = widen(x[n, c])
        _fix(wide, n, laid)


@compiled
def place_normed(x, gain, eps, laid):
    """Write gain · x / sqrt(mean(x²) + eps) into `laid`. x (N, E) bf16 bits or float32, gain (E,) fp32."""
    wide = np.empty(x.shape[1], np.float32)
    for n in range(x.shape[0]):
        scale = np.float32(1) / np.sqrt(mean_square_of(x[n]) + eps)
        for c in range(x.shape[1]):
            wide[c] = widen(x[n, c]) * scale * gain[c]
        _fix(wide, n, laid)


def _no_digits(vectors, columns):
    """Zeros for `Fixed.digits`."""


@overload(_no_digits)
def _(vectors, columns):
    if VNNI:
        return lambda vectors, columns: np.zeros((vectors, 2, columns), np.int8)
    return lambda vectors, columns: np.zeros((vectors, 1, columns), np.int16)


def _digits_of(number, c, digits):
    """Store a 16-bit number as column c of `digits`, one vector's."""


@overload(_digits_of)
def _(number, c, digits):
    if VNNI:

        def store(number, c, digits):
            digits[0, c] = np.int8((number + 128) >> 8)
            digits[1, c] = np.int8(number)  # its low byte, read as signed: what (number + 128) >> 8 leaves

    else:

        def store(number, c, digits):
            digits[0, (c & ~3) + ((c & 1) << 1) + ((c & 2) >> 1)] = np.int16(number)

    return store


@compiled
def _fix(x, n, laid):
    """Vector n of `laid` = x (C,) float32. What is not finite makes its group's scale, and sums, the same."""
    digits = laid.digits[n]
    groups = laid.scales.shape[1]
    group = digits.shape[1] // groups
    bits = x.view(np.int32)
    held = np.empty(1, np.int32)
    for g in range(groups):
        begin, end = g * group, min((g + 1) * group, x.size)
        largest = np.int32(0)  # of the magnitudes, compared as whole numbers: that is a loop of vectors
        for c in range(begin, end):
            largest = max(largest, np.int32(bits[c] & np.int32(0x7FFFFFFF)))
        held[0] = largest
        magnitude = held.view(np.float32)[0]
        if magnitude < np.float32(1e-30):  # its inverse might not be finite; all zero
            continue
        inverse = np.float32(LARGEST) / magnitude
        total = 0
        for c in range(begin, end):
            number = np.int32(nearest_whole(x[c] * inverse))
            _digits_of(number, c, digits)
            total += number
        laid.offsets[n, g] = -laid.zero * total
        laid.scales[n, g] = magnitude / np.float32(LARGEST)


@intrinsic(prefer_literal=True)
def panel(typing_context, words, scales, number, digits, offsets, fine, vector, y, bits, vectors):
    """y[j, :PANEL] = the rows of panel `number` · x[vector + j] for j < vectors.

    `bits`, `vectors` are literal; digits, offsets, fine as in `Fixed`; y (vectors or more, PANEL) float32.
    """
    if not isinstance(bits, types.IntegerLiteral) or not isinstance(vectors, types.IntegerLiteral):
        return None
    many, halves = vectors.literal_value, 8 // bits.literal_value

    def generate(context, builder, signature, args):
        bytes_ = ir.IntType(8).as_pointer()

        def array(index):
            made = context.make_array(signature.args[index])(context, builder, args[index])
            strides = cgutils.unpack_tuple(builder, made.strides)
            return builder.bitcast(made.data, bytes_), strides, cgutils.unpack_tuple(builder, made.shape)

        def load(base, offset, kind):
            pointer = builder.gep(base, [offset])
            return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=min(4, kind_bytes(kind)))

        def kind_bytes(kind):
            return 2 if kind is _SHORTS else 4

        w_base, w_strides, w_shape = array(0)
        s_base, s_strides, s_shape = array(1)
        w_base = builder.gep(w_base, [builder.mul(args[2], w_strides[0])])
        s_base = builder.gep(s_base, [builder.mul(args[2], s_strides[0])])
        (d_base, d_strides, _), (o_base, o_strides, _), (f_base, f_strides, _), (y_base, y_strides, _) = (
            array(index) for index in (3, 4, 5, 7)
        )
        places = [builder.add(args[6], _I64(j)) for j in range(many)]
        at_digits = [builder.gep(d_base, [builder.mul(place, d_strides[0])]) for place in places]
        at_offsets = [builder.gep(o_base, [builder.mul(place, o_strides[0])]) for place in places]
        at_fine = [builder.gep(f_base, [builder.mul(place, f_strides[0])]) for place in places]

        def variables(kind):
            return [[cgutils.alloca_once(builder, kind) for _ in range(many)] for _ in range(_REGISTERS)]

        totals, low, high = variables(_FLOATS), variables(_INTS), variables(_INTS)
        for r in range(_REGISTERS):
            for j in range(many):
                builder.store(ir.Constant(_FLOATS, None), totals[r][j])

        def add(r, four, quad):
            """Let four columns of every row, one in a byte, meet all x. `quad`: number of the four."""
            even, odd = None, None
            if not VNNI:
                mask, by = ir.Constant(_INTS, [0x00FF00FF] * LANES), ir.Constant(_INTS, [8] * LANES)
                even, odd = builder.and_(four, mask), builder.and_(builder.lshr(four, by), mask)
            for j in range(many):
                if VNNI:
                    offset = builder.shl(quad, _I64(2))
                    first = load(at_digits[j], offset, _I32)
                    second = load(at_digits[j], builder.add(offset, d_strides[1]), _I32)
                    for sums, digit in ((high[r][j], first), (low[r][j], second)):
                        terms = [builder.load(sums), four, everywhere(builder, digit)]
                        builder.store(call(builder, "llvm.x86.avx512.vpdpbusd.512", _INTS, terms), sums)
                else:
                    offset = builder.shl(quad, _I64(3))
                    for part, step in ((even, 0), (odd, 4)):
                        pair = everywhere(builder, load(at_digits[j], builder.add(offset, _I64(step)), _I32))
                        product = multiply_pairs(builder, part, pair)
                        builder.store(builder.add(builder.load(low[r][j]), product), low[r][j])

        per_group = builder.sdiv(w_shape[1], s_shape[1])
        nibbles = ir.Constant(_INTS, [0x0F0F0F0F] * LANES)
        with cgutils.for_range(builder, s_shape[1], intp=_I64) as group:
            at = builder.shl(group.index, _I64(2))
            if halves == 2:
                line = builder.mul(group.index, _I64(2 * PANEL))
                fetch_ahead(builder, builder.gep(s_base, [builder.add(line, _I64(AHEAD // 8))]))
            for j in range(many):
                offset = everywhere(builder, load(at_offsets[j], at, _I32))
                for r in range(_REGISTERS):
                    builder.store(offset, low[r][j])
                    builder.store(ir.Constant(_INTS, None), high[r][j])
            first = builder.mul(group.index, per_group)
            with cgutils.for_range(builder, per_group, intp=_I64) as loop:
                word = builder.add(first, loop.index)
                for r in range(_REGISTERS):
                    line = builder.add(builder.mul(word, _I64(4 * PANEL)), _I64(4 * LANES * r))
                    if halves == 2:
                        fetch_ahead(builder, builder.gep(w_base, [builder.add(line, _I64(AHEAD))]))
                    held = load(w_base, line, _INTS)
                    if halves == 1:
                        add(r, held, word)
                        continue
                    quad = builder.shl(word, _I64(1))
                    add(r, builder.and_(held, nibbles), quad)
                    upper = builder.lshr(held, ir.Constant(_INTS, [4] * LANES))
                    add(r, builder.and_(upper, nibbles), builder.add(quad, _I64(1)))
            for r in range(_REGISTERS):
                line = builder.add(builder.mul(group.index, _I64(2 * PANEL)), _I64(2 * LANES * r))
                scale = builder.zext(load(s_base, line, _SHORTS), _INTS)
                scale = builder.bitcast(builder.shl(scale, ir.Constant(_INTS, [16] * LANES)), _FLOATS)
                for j in range(many):
                    total = builder.load(low[r][j])
                    if VNNI:
                        eight = ir.Constant(_INTS, [8] * LANES)
                        total = builder.add(total, builder.shl(builder.load(high[r][j]), eight))
                    both = builder.fmul(scale, everywhere(builder, load(at_fine[j], at, _F32)))
                    terms = [builder.sitofp(total, _FLOATS), both, builder.load(totals[r][j])]
                    builder.store(call(builder, f"llvm.fmuladd.v{LANES}f32", _FLOATS, terms), totals[r][j])
        for r in range(_REGISTERS):
            for j in range(many):
                offset = builder.add(builder.mul(_I64(j), y_strides[0]), _I64(4 * LANES * r))
                pointer = builder.bitcast(builder.gep(y_base, [offset]), _FLOATS.as_pointer())
                builder.store(builder.load(totals[r][j]), pointer, align=4)
        return context.get_dummy_value()

    intp = types.intp
    arrays = (words, scales, intp, digits, offsets, fine, intp, y, bits, vectors)
    return types.void(*arrays), generate


def _meet(w, number, laid, n, lines, vectors):
    """`panel` for the bits of w."""


@overload(_meet, prefer_literal=True)
def _(w, number, laid, n, lines, vectors):
    bits, many = bits_of(w), vectors.literal_value

    def meet(w, number, laid, n, lines, vectors):
        panel(w.words, w.scales, number, laid.digits, laid.offsets, laid.scales, n, lines, bits, many)

    return meet


@compiled
def dot_rows(w, first, count, laid, y, column):
    """y[n, column + i] = w[first + i] · x[n] for i < count and all x in `laid`. y (N, ...) float32.

    Panels that begin before `first` or end behind first + count are computed whole, and cut.
    """
    vectors = laid.scales.shape[0]
    lines = np.empty((4, PANEL), np.float32)
    for number in range(first // PANEL, (first + count - 1) // PANEL + 1):
        begin = max(first, number * PANEL)
        end = min(first + count, (number + 1) * PANEL)
        n = 0
        while n < vectors:
            many = 4
            if vectors - n >= 4:
                _meet(w, number, laid, n, lines, 4)
            elif vectors - n >= 2:
                many = 2
                _meet(w, number, laid, n, lines, 2)
            else:
                many = 1
                _meet(w, number, laid, n, lines, 1)
            for j in range(many):
                for row in range(begin, end):
                    y[n + j, column + row - first] = lines[j, row - number * PANEL]
            n += many
