"""Decode attention: one new token a row over its own cached positions, in one launch.

out = softmax(q·kᵀ/√D)·v, grouped heads, paged cache, within the window. A program takes one row, one
key/value head with all its query heads, and one of `splits` parts of the positions; the last program of a row
and head to finish puts the parts together. A part is a multiple of a block of positions, and there are as
many parts as blocks up to `splits`: programs beyond that return at once, and a row of one part is written by
its only program. How a row is divided depends on its own length only, so its result does not depend on its
neighbours, to the bit.
"""

import triton
import triton.language as tl
from torch import Tensor

from kernels.api import AttentionShape
from kernels.gpu.arrivals import last_of
from kernels.gpu.attention_scratch import (
    AttentionScratch,
    base_2_scale,
    block_of,
    check_heads,
    merged_at_once,
    most_splits,
    stages_of,
    warps_of,
    width_of,
)
from kernels.gpu.dependent import let_next_start, wait_for_previous
from kernels.gpu.online_softmax import attend, merge
from kernels.gpu.rows import Rows


@triton.jit
def parts_of(begin, end, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """Into how many parts the positions begin … end-1 are divided: none where there are none."""
    return tl.minimum(tl.maximum(tl.cdiv(end - begin, BLOCK), 0), SPLITS)


@triton.jit
def part_of(split, begin, end, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """From where to where part `split` of `parts_of` goes: whole blocks, as even as they go."""
    blocks = tl.cdiv(end - begin, BLOCK)
    few = blocks < SPLITS  # then a block each, and the quotient below need not divide by a variable
    start = tl.where(few, split, split * blocks // SPLITS) * BLOCK
    stop = tl.where(few, split + 1, (split + 1) * blocks // SPLITS) * BLOCK
    return begin + start, tl.minimum(begin + stop, end)


@triton.jit(do_not_specialize=["table_width"])
def decode_kernel(
    q,
    keys,
    values,
    positions,
    pages,
    parts,
    sums,
    counters,
    out,
    table_width,
    SCALE: tl.constexpr,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    PARTS: tl.constexpr,
    QUERIES: tl.constexpr,
    TILE: tl.constexpr,
    AT_ONCE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Grid (K, B, splits): the last parts, which short rows lack, come last. `WINDOW` 0: none."""
    let_next_start(DEPENDENT)
    wait_for_previous(DEPENDENT)
    row = tl.program_id(1)
    split = tl.program_id(2)
    pair = row * KV_HEADS + tl.program_id(0)
    end = tl.load(positions + row) + 1
    begin = 0
    if WINDOW:
        begin = tl.maximum(end - WINDOW, 0)
    count = parts_of(begin, end, SPLITS, BLOCK)  # 0 for a row that rests
    if split < count:
        start, stop = part_of(split, begin, end, SPLITS, BLOCK)
        head = tl.arange(0, QUERIES)
        dims = tl.arange(0, WIDTH)
        inside = (head < GROUP)[:, None] & (dims < DIM)[None, :]
        cell = head[:, None] * DIM + dims[None, :]
        queries = tl.load(q + pair * GROUP * DIM + cell, mask=inside, other=0.0)
        at = tl.program_id(0) * DIM
        mixed, share = attend(
            queries,
            begin,
            keys + at,
            values + at,
            pages + row * table_width,
            start,
            stop,
            SCALE,
            KV_HEADS * DIM,
            DIM,
            BLOCK,
            PAGE,
            OLDEST=False,
        )
        if count == 1:
            tl.store(out + pair * GROUP * DIM + cell, mixed.to(out.dtype.element_ty), mask=inside)
        else:
            own = pair * SPLITS * GROUP
            tl.store(parts + (own + split * GROUP) * DIM + cell, mixed, mask=inside)
            tl.store(sums + own + head * SPLITS + split, share, mask=head < GROUP)
            if last_of(counters + pair, count):
                each = tl.arange(0, TILE)
                merged = merge(
                    parts + own * DIM,
                    sums + own,
                    count,
                    each,
                    each < GROUP,
                    GROUP,
                    DIM,
                    SPLITS,
                    PARTS,
                    WIDTH,
                    AT_ONCE,
                )
                real = (each < GROUP)[:, None] & (dims < DIM)[None, :]
                target = out + (pair * GROUP + each)[:, None] * DIM + dims[None, :]
                tl.store(target, merged.to(out.dtype.element_ty), mask=real)


def decode_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    rows: Rows,
    shape: AttentionShape,
    scratch: AttentionScratch,
    out: Tensor,
    *,
    dependent: bool,
) -> None:
    """out = softmax(q·kᵀ/√D)·v of one new token a row, over the row's cached positions up to its own.

    q (B, H, D), keys and values (L, K, D), out (B, H, D), contiguous, of any float dtype; keys and values
    of one. Mutates `out`, except for rows that rest, and `scratch`. Raises `ValueError` for shapes that
    do not fit together.
    """
    check_heads(q, keys, values, shape, out)
    batch, group = len(rows), shape.n_heads // shape.n_kv_heads
    if len(q) != batch or scratch.sums.shape[0] < batch:
        raise ValueError(f"{len(q)} queries and scratch for {scratch.sums.shape[0]} rows, but {batch} rows")
    tile, block = triton.next_power_of_2(group), block_of(shape.head_dim)
    # With these two from the shape alone, sums run in one order whatever the scratch's number of parts.
    most, at_once = most_splits(shape.n_kv_heads), merged_at_once(tile, shape.head_dim)
    decode_kernel[(shape.n_kv_heads, batch, scratch.splits)](
        q,
        keys,
        values,
        rows.positions,
        rows.pages,
        scratch.parts,
        scratch.sums,
        scratch.counters,
        out,
        rows.pages.stride(0),
        SCALE=base_2_scale(shape.head_dim),
        GROUP=group,
        KV_HEADS=shape.n_kv_heads,
        DIM=shape.head_dim,
        WIDTH=width_of(shape.head_dim),
        PAGE=rows.page_size,
        WINDOW=shape.window or 0,
        BLOCK=block,
        SPLITS=scratch.splits,
        PARTS=triton.next_power_of_2(max(most, scratch.splits)),
        QUERIES=max(tile, 16),
        TILE=tile,
        AT_ONCE=at_once,
        DEPENDENT=dependent,
        num_warps=warps_of(keys.dtype),
        num_stages=stages_of(block, shape.head_dim, keys.dtype),
        launch_pdl=dependent,
    )
