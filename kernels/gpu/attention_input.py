"""What attention is given, in one launch: q, and the new keys and values where the cache has its pages.

    q, k = rope(norm?(W·rmsnorm(x) + b)), v = W·rmsnorm(x) + b

A pair of rows is what RoPE turns together, i and i + D/2 of a head. A norm of q and k needs the whole head, which
several programs share: they hand in what they have, and the last one to come norms, turns and writes it.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.api import AttentionShape, LayerCache
from kernels.gpu.arrivals import last_of
from kernels.gpu.dependent import let_next_start, wait_for_previous
from kernels.gpu.gemv import load_tile, load_vectors, low_rows, multiply
from kernels.gpu.rows import Rows
from kernels.gpu.stream import Stream, divisors, words_of
from kernels.gpu.tiles import Tile
from kernels.gpu.weights import GpuLayer


@dataclass(frozen=True, slots=True)
class NormScratch:
    """Heads that wait for their norm: `raw` (B, H + K, D) fp32, `counters` (H + K,) int32, zero between launches."""

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
    """q (B, H, D) of any float dtype is written, and `cache` at the rows' positions; a row that rests has none.

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
    N: tl.constexpr,
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
    held = load_vectors(vectors, 0, batch, C, K, WARPS, N)
    n = tl.arange(0, N)
    position = tl.load(positions + n, mask=n < batch, other=-1)
    there = position >= 0
    page = tl.load(pages + n * table_width + position // PAGE, mask=there, other=0)
    slot = page.to(tl.int64) * PAGE + position % PAGE
    TILES: tl.constexpr = (HALF + ROWS // 2 - 1) // (ROWS // 2)  # of a head
    for this in range(first, PAIRS, stride):
        head = this // (TILES * (ROWS // 2))
        row, real = low_rows(this, tl.arange(0, ROWS // 2), HALF, ROWS)
        i = row - head * (2 * HALF)
        c, s = _angles(cos, sin, position, i, there[None, :] & real[:, None] & (head < HEADS + KV_HEADS), HALF)
        low, high, tile, scale, held = multiply(
            tile,
            scale,
            held,
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
            N,
        )
        divisor = divisors(squares, batch, eps, C, N)[None, :]
        low *= divisor
        high *= divisor
        if bias is not None:
            low += tl.load(bias + row, mask=real, other=0.0).to(tl.float32)[:, None]
            high += tl.load(bias + row + HALF, mask=real, other=0.0).to(tl.float32)[:, None]
        inside = real[:, None] & (n < batch)[None, :]
        if q_norm is None:
            _write_head(low, high, c, s, head, i, n, slot, inside, there, q, keys, values, HALF, HEADS, KV_HEADS)
        elif head >= HEADS + KV_HEADS:
            _write_head(low, high, c, s, head, i, n, slot, inside, there, q, keys, values, HALF, HEADS, KV_HEADS)
        else:
            place = raw + (n[None, :] * (HEADS + KV_HEADS) + head) * (2 * HALF) + i[:, None]
            tl.store(place, low, mask=inside)
            tl.store(place + HALF, high, mask=inside)
            if last_of(counters + head, TILES):
                i = tl.arange(0, triton.next_power_of_2(HALF))
                inside = (i < HALF)[:, None] & (n < batch)[None, :]
                place = raw + (n[None, :] * (HEADS + KV_HEADS) + head) * (2 * HALF) + i[:, None]
                low = tl.load(place, mask=inside, other=0.0, cache_modifier=".cg")
                high = tl.load(place + HALF, mask=inside, other=0.0, cache_modifier=".cg")
                mean = tl.sum(low * low + high * high, axis=0) / (2 * HALF)
                divisor = tl.rsqrt(mean + eps)[None, :]
                gains = q_norm if head < HEADS else k_norm
                low *= divisor * tl.load(gains + i, mask=i < HALF, other=0.0).to(tl.float32)[:, None]
                high *= divisor * tl.load(gains + i + HALF, mask=i < HALF, other=0.0).to(tl.float32)[:, None]
                c, s = _angles(cos, sin, position, i, there[None, :] & (i < HALF)[:, None], HALF)
                _write_head(
                    low, high, c, s, head, i, n, slot, inside, there, q, keys, values, HALF, HEADS, KV_HEADS
                )


@triton.jit
def _angles(cos, sin, position, i, mask, HALF: tl.constexpr):
    """cos and sin (pairs, N) of the positions; 1 and 0, which turn nothing, where `mask` is not."""
    places = position.to(tl.int64)[None, :] * HALF + i[:, None]
    return tl.load(cos + places, mask=mask, other=1.0), tl.load(sin + places, mask=mask, other=0.0)


@triton.jit
def _write_head(
    low,
    high,
    c,
    s,
    head,
    i,
    n,
    slot,
    inside,
    there,
    q,
    keys,
    values,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
):
    """Turned by c and s, to q, or to the cache where the row has a position."""
    turned_low = low * c - high * s
    turned_high = high * c + low * s
    if head < HEADS:
        place = q + (n[None, :] * HEADS + head) * (2 * HALF) + i[:, None]
        tl.store(place, turned_low.to(q.dtype.element_ty), mask=inside)
        tl.store(place + HALF, turned_high.to(q.dtype.element_ty), mask=inside)
    else:
        pool = keys if head < HEADS + KV_HEADS else values
        kv_head = (head - HEADS) % KV_HEADS
        place = pool + (slot[None, :] * KV_HEADS + kv_head) * (2 * HALF) + i[:, None]
        written = inside & there[None, :]
        tl.store(place, turned_low.to(keys.dtype.element_ty), mask=written)
        tl.store(place + HALF, turned_high.to(keys.dtype.element_ty), mask=written)
