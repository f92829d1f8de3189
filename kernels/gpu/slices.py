"""Logits of a slice of the vocabulary: W·rmsnorm(x) for SLICE rows of W, in one of two ways.

One row of dense weights is products and sums in fp32, its vector kept in registers; all else runs on tensor
cores, where what a row yields does not depend on how many there are. Weights are read as 32-bit words, a tile
ahead, the first before the launch waits for the one before it. A word is taken apart only when its turn has
come: carried as 16-bit numbers, words read ahead are waited for at once (seen in the SASS of sm_90).
"""

import triton
import triton.language as tl
from triton import knobs

from kernels.gpu.dependent import wait_for_previous

# The interpreter multiplies the bits of bf16 numbers as integers.
_INTERPRETED = tl.constexpr(knobs.runtime.interpret)


@triton.jit
def _number(word, place: tl.constexpr, BITS: tl.constexpr, DTYPE: tl.constexpr):
    """Column `place` of each word, dense of DTYPE (BITS 32 or 16) or packed (8 or 4), as fp32."""
    if BITS == 32:
        return word.to(tl.float32, bitcast=True)
    elif BITS == 16:
        return (word >> (16 * place)).to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32)
    else:
        # int8: bytes in the order of the columns; int4: lower halves of four bytes, then their upper halves.
        SHIFT: tl.constexpr = place * 8 if BITS == 8 else place % 4 * 8 + place // 4 * 4
        return (((word >> SHIFT) & ((1 << BITS) - 1)) - (1 << (BITS - 1))).to(tl.float32)


@triton.jit
def slice_by_sums(
    x,
    norm,
    words,
    logits,
    eps,
    first,
    V: tl.constexpr,
    E: tl.constexpr,
    BITS: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    SLICE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Writes logits (V,) fp32 of the tokens first … first + SLICE-1, of one row x (E,) and dense W (V, E).

    A tile is TILE rows of W; WIDTH, a power of two, is at least the words of one.
    """
    PER_WORD: tl.constexpr = 32 // BITS
    LENGTH: tl.constexpr = E // PER_WORD
    word = tl.arange(0, WIDTH)
    within = word < LENGTH
    token = first + tl.arange(0, TILE)
    at = words + token[:, None].to(tl.int64) * LENGTH + word[None, :]
    ahead = tl.load(at, mask=(token < V)[:, None] & within[None, :], other=0)
    even_gain = tl.load(norm + word * PER_WORD, mask=within, other=0.0).to(tl.float32)
    odd_gain = tl.load(norm + word * PER_WORD + PER_WORD - 1, mask=within, other=0.0).to(tl.float32)
    wait_for_previous(DEPENDENT)
    even = tl.load(x + word * PER_WORD, mask=within, other=0.0).to(tl.float32)
    odd = tl.load(x + word * PER_WORD + PER_WORD - 1, mask=within, other=0.0).to(tl.float32)
    squares = even * even
    if PER_WORD == 2:
        squares += odd * odd
    scale = tl.rsqrt(tl.sum(squares, 0) / E + eps)
    even *= scale * even_gain
    odd *= scale * odd_gain
    for start in range(0, tl.minimum(SLICE, V - first), TILE):
        tile = ahead
        at += TILE * LENGTH
        coming = (token + TILE < V) & (start + TILE < SLICE)
        ahead = tl.load(at, mask=coming[:, None] & within[None, :], other=0)
        products = _number(tile, 0, BITS, DTYPE) * even[None, :]
        if PER_WORD == 2:
            products += _number(tile, 1, BITS, DTYPE) * odd[None, :]
        tl.store(logits + token, tl.sum(products, 1), mask=token < V)
        token += TILE


@triton.jit
def _tile(
    words,
    first,
    start,
    more,
    V: tl.constexpr,
    LENGTH: tl.constexpr,
    BITS: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Words start … start + CHUNK-1 of the rows first … first + TILE-1 of W, (TILE, CHUNK)."""
    token = first + tl.arange(0, TILE)
    word = start + tl.arange(0, CHUNK)
    line = token[:, None].to(tl.int64)
    if BITS < 16:  # panels of 16 rows, which lie side by side in memory
        at = (line // 16 * LENGTH + word[None, :]) * 16 + line % 16
    else:
        at = line * LENGTH + word[None, :]
    return tl.load(words + at, mask=(token < V)[:, None] & (word < LENGTH)[None, :] & more, other=0)


@triton.jit
def slice_by_dots(
    x,
    norm,
    words,
    scales,
    logits,
    eps,
    first,
    B: tl.constexpr,
    V: tl.constexpr,
    E: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    DTYPE: tl.constexpr,
    LENGTH: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
    SLICE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Writes logits (B, V) fp32 of the tokens first … first + SLICE-1, of x (B, E), B <= 16, and any W.

    LENGTH words are a row of W. Products are of numbers rounded to DTYPE, packed ones with their scale.
    """
    PER_WORD: tl.constexpr = 32 // BITS
    row = tl.arange(0, 16)
    exists = row < B
    ahead = _tile(words, first, 0, True, V, LENGTH, BITS, TILE, CHUNK)
    wait_for_previous(DEPENDENT)
    squares = tl.zeros((16, CHUNK), tl.float32)
    for start in range(0, E, CHUNK):
        column = start + tl.arange(0, CHUNK)
        there = exists[:, None] & (column < E)[None, :]
        part = tl.load(x + row[:, None] * E + column[None, :], mask=there, other=0.0).to(tl.float32)
        squares += part * part
    scale = tl.rsqrt(tl.sum(squares, 1) / E + eps)
    for begin in range(0, tl.minimum(SLICE, V - first), TILE):
        sums = tl.zeros((TILE, 16), tl.float32)
        token = first + begin + tl.arange(0, TILE)
        for start in range(0, LENGTH, CHUNK):
            tile = ahead
            turn = start + CHUNK >= LENGTH
            ahead = _tile(
                words,
                first + tl.where(turn, begin + TILE, begin),
                tl.where(turn, 0, start + CHUNK),
                (begin + TILE < SLICE) | (start + CHUNK < LENGTH),
                V,
                LENGTH,
                BITS,
                TILE,
                CHUNK,
            )
            word = start + tl.arange(0, CHUNK)
            if BITS < 16:
                line = token[:, None]
                GROUPS: tl.constexpr = LENGTH * PER_WORD // GROUP
                group = (line // 16 * GROUPS + (word * PER_WORD // GROUP)[None, :]) * 16 + line % 16
                stretch = tl.load(
                    scales + group, mask=(token < V)[:, None] & (word < LENGTH)[None, :], other=0.0
                ).to(tl.float32)
            for place in tl.static_range(PER_WORD):
                numbers = _number(tile, place, BITS, DTYPE)
                if BITS < 16:
                    numbers *= stretch
                column = word * PER_WORD + place
                within = column < E
                gain = tl.load(norm + column, mask=within, other=0.0).to(tl.float32)
                vectors = tl.load(
                    x + row[None, :] * E + column[:, None], mask=within[:, None] & exists[None, :], other=0.0
                ).to(tl.float32)
                vectors *= gain[:, None] * scale[None, :]
                numbers, vectors = numbers.to(DTYPE), vectors.to(DTYPE)
                if _INTERPRETED:
                    numbers, vectors = numbers.to(tl.float32), vectors.to(tl.float32)
                sums = tl.dot(numbers, vectors, sums, input_precision="tf32x3")
        tl.store(
            logits + row[None, :] * V + token[:, None],
            sums,
            mask=exists[None, :] & (token < V)[:, None],
        )
