"""Attention of some queries over some cached positions of one row, and how parts of it are put together.

For query i and the positions j that it sees, with z_ij = q_i·k_j / √D · log2(e):

    part:   o_i = Σ_j 2^(z_ij - s_i) v_j,   s_i = log2 Σ_j 2^z_ij
    whole:  o_i = Σ_p 2^(s_ip - s_i) o_ip,  s_i = log2 Σ_p 2^s_ip   over the parts p

Base 2, because that is what the hardware has. A query that sees nothing in a part has o = 0, s = -inf there.
Functions to be called from kernels; nothing here knows how the work is divided. Online softmax: Milakov and
Gimelshein, arXiv 1805.02867; parts and their merging: Flash-Decoding, Dao et al., 2023.
"""

import triton
import triton.language as tl
from triton import knobs

# The interpreter multiplies the bits of bf16 numbers as integers and cuts fp32 off instead of rounding it.
INTERPRETED = tl.constexpr(knobs.runtime.interpret)
# fp32 caches: three products of the numbers' halves, 22 of 24 bits, at an eighth of the instructions of FMA.
PRECISION = tl.constexpr("tf32x3")


@triton.jit
def matmul(a, b, accumulator):
    """accumulator + a·b on tensor cores, a rounded to b's element type. Any float (M, K), (K, N), fp32."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    else:
        a = a.to(b.dtype)
    return tl.dot(a, b, accumulator, input_precision=PRECISION)


@triton.jit
def absorb(
    q,
    mixed,
    highest,
    total,
    oldest,
    newest,
    keys,
    values,
    pages,
    begin,
    end,
    SCALE: tl.constexpr,
    STRIDE: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
    WHOLE: tl.constexpr,
    OLDEST: tl.constexpr,
    NEWEST: tl.constexpr,
):
    """Σ_j 2^(z_ij - m_i) v_j, m_i / SCALE, Σ_j 2^(z_ij - m_i), with begin … end-1 now among the positions j.

    q (M, W); `mixed` (M, W), `highest`, `total` (M,) fp32: these three before, m_i the highest z_ij. `keys`,
    `values` point at the pool's first vector of the head, vectors of the next slot `STRIDE` elements on;
    `pages` at the row's page table. W is `DIM` or the power of two above it, q's surplus columns zero.
    `SCALE` = log2(e) / √D. `WHOLE`: end - begin is a multiple of `BLOCK`. With `OLDEST` query i sees no
    position before oldest[i], with `NEWEST` none after newest[i] < end; without, these are unused.
    """
    dims = tl.arange(0, q.shape[1])
    places = tl.arange(0, BLOCK)
    # The table is read a block ahead: with its own load in the loop, the pipeliner spends its stages on page
    # numbers and has one block of keys and values in flight instead of two or three.
    page = tl.load(pages + (begin + places) // PAGE, mask=begin + places < end, other=0)
    for first in range(begin, end, BLOCK):
        position = first + places
        held = position < end
        slot = page.to(tl.int64) * PAGE + position % PAGE  # pools may have more than 2^31 elements
        ahead = position + BLOCK
        page = tl.load(pages + ahead // PAGE, mask=ahead < end, other=0)
        at = slot[:, None] * STRIDE + dims[None, :]
        if WHOLE and q.shape[1] == DIM:
            k = tl.load(keys + at)
            v = tl.load(values + at)
        else:
            inside = held[:, None] & (dims < DIM)[None, :]
            k = tl.load(keys + at, mask=inside, other=0.0)
            v = tl.load(values + at, mask=inside, other=0.0)
        scores = matmul(q, tl.trans(k), tl.zeros((q.shape[0], BLOCK), tl.float32))
        if OLDEST:
            scores = tl.where(position[None, :] >= oldest[:, None], scores, float("-inf"))
        if NEWEST:
            scores = tl.where(position[None, :] <= newest[:, None], scores, float("-inf"))
        elif not WHOLE:
            scores = tl.where(held[None, :], scores, float("-inf"))
        peak = tl.maximum(highest, tl.max(scores, 1))
        base = peak
        if OLDEST:
            base = tl.where(peak == float("-inf"), 0.0, peak)  # nothing seen yet: -inf - -inf is not a number
        weights = tl.exp2(scores * SCALE - (base * SCALE)[:, None])
        fade = tl.exp2((highest - base) * SCALE)
        total = total * fade + tl.sum(weights, 1)
        mixed = matmul(weights, v, mixed * fade[:, None])
        highest = peak
    return mixed, highest, total


@triton.jit
def attend(
    q,
    oldest,
    keys,
    values,
    pages,
    begin,
    end,
    SCALE: tl.constexpr,
    STRIDE: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
    OLDEST: tl.constexpr,
):
    """o (M, W) and s (M,), fp32, of the queries q (M, W) over begin … end-1; the rest as in `absorb`."""
    mixed = tl.zeros((q.shape[0], q.shape[1]), tl.float32)
    highest = tl.full((q.shape[0],), float("-inf"), tl.float32)
    total = tl.zeros((q.shape[0],), tl.float32)
    mixed, highest, total = absorb(
        q,
        mixed,
        highest,
        total,
        oldest,
        end,
        keys,
        values,
        pages,
        begin,
        end,
        SCALE,
        STRIDE,
        DIM,
        BLOCK,
        PAGE,
        WHOLE=False,
        OLDEST=OLDEST,
        NEWEST=False,
    )
    total = tl.where(total > 0, total, 1.0)
    return mixed / total[:, None], highest * SCALE + tl.log2(total)


@triton.jit
def merge(
    parts,
    sums,
    count,
    query,
    inside,
    STRIDE: tl.constexpr,
    DIM: tl.constexpr,
    MOST: tl.constexpr,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """o (T, W), fp32, of the queries `query` (T,) where `inside`, from their first `count` parts.

    `parts` (≥ count, STRIDE, DIM), `sums` (STRIDE, MOST) fp32, written by other programs: read from the L2
    cache, not from what this multiprocessor remembers. `PARTS`: a power of two, `MOST` or more. `AT_ONCE` of
    them are in flight together. Other queries come out as zeros.
    """
    part = tl.arange(0, PARTS)
    # Parts lie side by side, and so in one warp: the two sums need no barrier.
    mask = (part < count)[None, :] & inside[:, None]
    at = query[:, None] * MOST + part[None, :]
    shares = tl.load(sums + at, mask=mask, other=float("-inf"), cache_modifier=".cg")
    share, piece = _some_parts(parts, sums, count, 0, query, inside, STRIDE, DIM, MOST, WIDTH, AT_ONCE)
    peak = tl.max(shares, 1)
    base = tl.where(peak == float("-inf"), 0.0, peak)
    total = tl.sum(tl.exp2(shares - base[:, None]), 1)
    whole = base + tl.log2(tl.where(total > 0, total, 1.0))
    mixed = tl.zeros((AT_ONCE, query.shape[0], WIDTH), tl.float32)
    for first in range(0, count, AT_ONCE):
        mixed += tl.exp2(share - whole[None, :])[:, :, None] * piece
        ahead = first + AT_ONCE
        share, piece = _some_parts(
            parts, sums, count, ahead, query, inside, STRIDE, DIM, MOST, WIDTH, AT_ONCE
        )
    return tl.sum(mixed, 0)


@triton.jit
def _some_parts(
    parts,
    sums,
    count,
    first,
    query,
    inside,
    STRIDE: tl.constexpr,
    DIM: tl.constexpr,
    MOST: tl.constexpr,
    WIDTH: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """s (AT_ONCE, T) and o (AT_ONCE, T, W) of the parts from `first` on; weightless zeros past `count`."""
    part = first + tl.arange(0, AT_ONCE)
    dims = tl.arange(0, WIDTH)
    mask = (part < count)[:, None] & inside[None, :]
    at = query[None, :] * MOST + part[:, None]
    share = tl.load(sums + at, mask=mask, other=float("-inf"), cache_modifier=".cg")
    at = (part[:, None] * STRIDE + query[None, :]) * DIM
    mask = mask[:, :, None]
    if DIM != WIDTH:
        mask = mask & (dims < DIM)[None, None, :]
    piece = tl.load(parts + at[:, :, None] + dims[None, None, :], mask=mask, other=0.0, cache_modifier=".cg")
    return share, piece
