"""What attention is given, in one launch: q, and the new keys and values where the cache has its pages.

    q, k = rope(norm?(W·rmsnorm(x) + b)), v = W·rmsnorm(x) + b

A pair of rows is what RoPE turns together, i and i + D/2 of a head. A norm of q and k needs the whole head,
which several programs share: they hand in what they have, and the last one to come norms, turns and writes
it.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.api import AttentionShape, LayerCache
from kernels.gpu.arrivals import last_of
from kernels.gpu.dependent import let_next_start, wait_for_previous
from kernels.gpu.gemv import accumulate, load_tile, low_rows, sum_up
from kernels.gpu.rows import Rows
from kernels.gpu.stream import Stream, divisors, load_squares, words_of
from kernels.gpu.tiles import Tile
from kernels.gpu.weights import GpuLayer


@dataclass(frozen=True, slots=True)
class NormScratch:
    """Heads that wait for their norm: `raw` (B, H + K, D) fp32, `counters` (H + K,) int32, zero
    afterwards.
    """

    raw: Tensor
    counters: Tensor

    @classmethod
    def make(cls, rows: int, shape: AttentionShape, device: torch.device) -> "NormScratch":
        heads = shape.n_heads + shape.n_kv_heads
        return cls(
            torch.empty(rows, heads, shape.head_dim, dtype=torch.float32, device=device),
            torch.zeros(heads, dtype=torch.int32, device=device),
        )


def attention_input(
    stream: Stream,
    layer: GpuLayer,
    cache: LayerCache,
    rows: Rows,
    q: Tensor,
    scratch: NormScratch,
    *,
    tile: Tile | None = None,
    dependent: bool,
) -> None:
    """q (B, H, D) of any float dtype is written, and `cache` at the rows' positions; a row that rests has
    none.

    `stream` has to be scaled for the layer's first norm. Mutates `q`, `cache` and `scratch`.
    """
    matrix, shape, weights, batch = layer.qkv, layer.shape, layer.library.weights, len(rows)
    heads, pool = (batch, shape.n_heads, shape.head_dim), (shape.n_kv_heads, shape.head_dim)
    if q.shape != heads or not q.is_contiguous() or len(stream.x) != batch:
        raise ValueError(f"q {list(q.shape)} and {len(stream.x)} rows of a stream do not fit {batch} rows")
    if cache.keys.shape[1:] != pool or not (cache.keys.is_contiguous() and cache.values.is_contiguous()):
        raise ValueError(f"keys {list(cache.keys.shape)} are not a contiguous pool of {list(pool)}")
    tile = matrix.tile(batch) if tile is None else tile
    attention_input_kernel[(tile.programs,)](
        words_of(stream.scaled),
        stream.squares,
        layer.library.norm_eps,
        matrix.words,
        matrix.scales,
        weights.qkv_bias,
        weights.q_norm,
        weights.k_norm,
        rows.cos,
        rows.sin,
        rows.positions,
        rows.pages,
        rows.pages.stride(0),
        q,
        cache.keys,
        cache.values,
        scratch.raw,
        scratch.counters,
        tile.steps(matrix.shape[1]),
        batch,
        **matrix.constants(tile, batch),
        HEADS=shape.n_heads,
        KV_HEADS=shape.n_kv_heads,
        PAGE=rows.page_size,
        DEPENDENT=dependent,
        num_warps=tile.warps,
        num_stages=1,
        maxnreg=tile.registers,
        launch_pdl=dependent,
    )


@triton.jit
def attention_input_kernel(
    vectors,
    squares,
    eps,
    words,
    scales,
    bias,
    q_norm,
    k_norm,
    cos,
    sin,
    positions,
    pages,
    table_width,
    q,
    keys,
    values,
    raw,
    counters,
    steps,
    batch,
    PAIRS: tl.constexpr,
    M: tl.constexpr,
    C: tl.constexpr,
    HALF: tl.constexpr,
    FORM: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    K: tl.constexpr,
    WARPS: tl.constexpr,
    BATCH: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    PAGE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Grid (programs,); a tile lies within a head."""
    let_next_start(DEPENDENT)
    first = tl.program_id(0) * (ROWS // 2)
    stride = tl.num_programs(0) * (ROWS // 2)
    tile, scale = load_tile(words, scales, first, 0, M, C, HALF, FORM, GROUP, ROWS, K, WARPS)
    wait_for_previous(DEPENDENT)
    n = tl.arange(0, BATCH)
    TILES: tl.constexpr = (HALF + ROWS // 2 - 1) // (ROWS // 2)  # of a head
    for this in range(first, PAIRS, stride):
        head = this // (TILES * (ROWS // 2))
        row, real = low_rows(this, tl.arange(0, ROWS // 2), HALF, ROWS)
        i = row - head * (2 * HALF)
        # Anew for each tile: what is computed from it would else be kept in registers from one to the next.
        position = tl.load(positions + n, mask=n < batch, other=-1)
        sums, tile, scale = accumulate(
            tile,
            scale,
            words,
            scales,
            vectors,
            this,
            this + stride,
            steps,
            batch,
            PAIRS,
            M,
            C,
            HALF,
            FORM,
            GROUP,
            ROWS,
            K,
            WARPS,
            BATCH,
        )
        held = load_squares(squares, batch, C, BATCH)
        c, s = _angles(cos, sin, position, i, real & (head < HEADS + KV_HEADS), HALF)
        page = tl.load(pages + n * table_width + position // PAGE, mask=position >= 0, other=0)
        slot = tl.where(position >= 0, page * PAGE + position % PAGE, -1)
        if bias is not None:
            low_bias = tl.load(bias + row, mask=real, other=0.0).to(tl.float32)[:, None]
            high_bias = tl.load(bias + row + HALF, mask=real, other=0.0).to(tl.float32)[:, None]
        low, high = sum_up(sums, FORM, ROWS, BATCH)
        divisor = divisors(held, eps, C)
        low *= divisor
        high *= divisor
        if bias is not None:
            low += low_bias
            high += high_bias
        own = real[:, None] & (n < batch)[None, :]
        if q_norm is None or head >= HEADS + KV_HEADS:
            _write(low, high, c, s, head, i, own, slot, q, keys, values, HALF, HEADS, KV_HEADS, BATCH)
        else:
            place = raw + (n[None, :] * (HEADS + KV_HEADS) + head) * (2 * HALF) + i[:, None]
            tl.store(place, low, mask=own)
            tl.store(place + HALF, high, mask=own)
            if last_of(counters + head, TILES):
                _norm_and_write(
                    raw,
                    q_norm,
                    k_norm,
                    eps,
                    cos,
                    sin,
                    position,
                    slot,
                    head,
                    batch,
                    q,
                    keys,
                    values,
                    HALF,
                    HEADS,
                    KV_HEADS,
                    BATCH,
                )


@triton.jit
def _norm_and_write(
    raw,
    q_norm,
    k_norm,
    eps,
    cos,
    sin,
    position,
    slot,
    head,
    batch,
    q,
    keys,
    values,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    BATCH: tl.constexpr,
):
    """A whole head of q or k, as the programs handed it in."""
    n = tl.arange(0, BATCH)
    i = tl.arange(0, triton.next_power_of_2(HALF))
    real = i < HALF
    own = real[:, None] & (n < batch)[None, :]
    place = raw + (n[None, :] * (HEADS + KV_HEADS) + head) * (2 * HALF) + i[:, None]
    low = tl.load(place, mask=own, other=0.0, cache_modifier=".cg")
    high = tl.load(place + HALF, mask=own, other=0.0, cache_modifier=".cg")
    mean = tl.sum(low * low + high * high, axis=0) / (2 * HALF)
    gain = q_norm
    if head >= HEADS:
        gain = k_norm
    divisor = tl.rsqrt(mean + eps)[None, :]
    low *= divisor * tl.load(gain + i, mask=real, other=0.0).to(tl.float32)[:, None]
    high *= divisor * tl.load(gain + i + HALF, mask=real, other=0.0).to(tl.float32)[:, None]
    c, s = _angles(cos, sin, position, i, real, HALF)
    _write(low, high, c, s, head, i, own, slot, q, keys, values, HALF, HEADS, KV_HEADS, BATCH)


@triton.jit
def _angles(cos, sin, position, i, turned, HALF: tl.constexpr):
    """cos and sin (pairs, BATCH) at the positions; 1 and 0, which turn nothing, where pairs are not
    `turned`.
    """
    places = position.to(tl.int64)[None, :] * HALF + i[:, None]
    mask = (position >= 0)[None, :] & turned[:, None]
    return tl.load(cos + places, mask=mask, other=1.0), tl.load(sin + places, mask=mask, other=0.0)


@triton.jit
def _write(
    low,
    high,
    c,
    s,
    head,
    i,
    own,
    slot,
    q,
    keys,
    values,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    BATCH: tl.constexpr,
):
    """Pairs i of a head, turned by c and s: to q, or to the cache where the row has a slot."""
    turned_low = low * c - high * s
    turned_high = high * c + low * s
    if head < HEADS:
        place = q + (tl.arange(0, BATCH)[None, :] * HEADS + head) * (2 * HALF) + i[:, None]
        tl.store(place, turned_low.to(q.dtype.element_ty), mask=own)
        tl.store(place + HALF, turned_high.to(q.dtype.element_ty), mask=own)
    else:
        pool = keys
        if head >= HEADS + KV_HEADS:
            pool = values
        kv_head = (head - HEADS) % KV_HEADS
        place = pool + (slot.to(tl.int64)[None, :] * KV_HEADS + kv_head) * (2 * HALF) + i[:, None]
        written = own & (slot >= 0)[None, :]
        tl.store(place, turned_low.to(keys.dtype.element_ty), mask=written)
        tl.store(place + HALF, turned_high.to(keys.dtype.element_ty), mask=written)
