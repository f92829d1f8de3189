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
from numba.extending import overload

from kernels.cpu.panel import panel
from kernels.cpu.target import VNNI, compiled, mean_square_of, nearest_whole, widen
from kernels.quantize import PANEL, Quantized

LARGEST = 127 * 256  # of the 16-bit numbers: as two signed digits of base 256 it still fits


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


def _meet(w, number, laid, n, lines, vectors, panels):
    """`panel` for the bits of w."""


@overload(_meet, prefer_literal=True)
def _(w, number, laid, n, lines, vectors, panels):
    bits, many, wide = bits_of(w), vectors.literal_value, panels.literal_value

    def meet(w, number, laid, n, lines, vectors, panels):
        panel(w.words, w.scales, number, laid.digits, laid.offsets, laid.scales, n, lines, bits, many, wide)

    return meet


@compiled
def dot_rows(w, first, count, laid, y, column):
    """y[n, column + i] = w[first + i] · x[n] for i < count and all x in `laid`. y (N, ...) float32.

    Panels that begin before `first` or end behind first + count are computed whole, and cut.
    """
    vectors = laid.scales.shape[0]
    lines = np.empty((4, 2 * PANEL), np.float32)
    number, last = first // PANEL, (first + count - 1) // PANEL
    while number <= last:
        panels = 2 if number < last else 1
        begin = max(first, number * PANEL)
        end = min(first + count, (number + panels) * PANEL)
        n = 0
        while n < vectors:
            many = 1
            if vectors - n >= 4:
                many = 4
                _meet(w, number, laid, n, lines, 4, 1)
                if panels == 2:
                    _meet(w, number + 1, laid, n, lines[:, PANEL:], 4, 1)
            elif vectors - n >= 2:
                many = 2
                if panels == 2:
                    _meet(w, number, laid, n, lines, 2, 2)
                else:
                    _meet(w, number, laid, n, lines, 2, 1)
            elif panels == 2:
                _meet(w, number, laid, n, lines, 1, 2)
            else:
                _meet(w, number, laid, n, lines, 1, 1)
            for j in range(many):
                for row in range(begin, end):
                    y[n + j, column + row - first] = lines[j, row - number * PANEL]
            n += many
        number += panels
