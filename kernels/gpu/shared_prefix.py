"""Decode attention of rows that begin with the same cached positions: parallel samples of one prompt.

The prefix's keys and values are read once for all rows: its programs take the queries of all rows of one
key/value head as one matrix. Other programs of the same launch take the rows' own positions, as in
`attention`. A second launch puts each row's parts together by their log2 sums; the last program of the first
could, but one multiprocessor reads the parts of 8 rows, 270 KB at D = 128, no faster than a launch takes. How
a row is divided depends on its neighbours here, and so do the last bits of its result: between two choices
as likely as each other, a row may choose otherwise than alone.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.api import AttentionShape
from kernels.gpu.attention import part_of, parts_of
from kernels.gpu.attention_scratch import (
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

_PROGRAMS = (
    128  # for the prefix: one for each of an H200's 132 multiprocessors, as each makes a part of all rows
)
_MOST_SPLITS = 32
# What an H200 reads in about 2 µs (4.8 TB/s by its data sheet), taken for what the second launch costs; not
# measured. In bf16 8 rows of the 8B's shape save as much from 293 shared positions on, of the 1B's from 586.
_LAUNCH_BYTES = 8 << 20


def most_shared_queries(cache: torch.dtype) -> int:
    """Rows times query heads of one key/value head: the tallest matrix that registers hold."""
    return 32 if cache == torch.float32 else 128


def pays(rows: int, prefix: int, shape: AttentionShape, cache: torch.dtype) -> bool:
    """Whether `rows` rows can read the `prefix` positions that they share once for all, and had better do so.

    What they would read again in a layer is set against the bytes that one launch more is worth.
    """
    if rows < 2 or rows * (shape.n_heads // shape.n_kv_heads) > most_shared_queries(cache):
        return False
    seen = prefix if shape.window is None else min(prefix, shape.window)
    again = (rows - 1) * seen * 2 * shape.n_kv_heads * shape.head_dim * cache.itemsize
    return again >= _LAUNCH_BYTES


@dataclass(frozen=True, slots=True)
class SharedPrefixScratch:
    """What the programs of the two launches hand each other; those that follow one another may share it.

    `parts` (B, K, S, G, D), `sums` (B, K, G, S) fp32: results of a row's parts and their log2 weight, first
    those of the prefix, up to `prefix_splits`, then those of its own positions.
    """

    parts: Tensor
    sums: Tensor
    prefix_splits: int

    @classmethod
    def make(
        cls, rows: int, shape: AttentionShape, max_prefix: int, max_own: int, device: torch.device
    ) -> "SharedPrefixScratch":
        """For up to `rows` rows that share up to `max_prefix` positions, with up to `max_own` others each.

        Longer ones work, in fewer parts.
        """
        block = block_of(shape.head_dim)
        prefix = min(max(_PROGRAMS // shape.n_kv_heads, 1), _MOST_SPLITS, max(-(-max_prefix // block), 1))
        own = min(most_splits(rows * shape.n_kv_heads), -(-max_own // block))
        return cls.of_splits(rows, shape, prefix, own, device)

    @classmethod
    def of_splits(
        cls, rows: int, shape: AttentionShape, prefix: int, own: int, device: torch.device
    ) -> "SharedPrefixScratch":
        """The prefix in up to `prefix` parts, the rest of each row in up to `own`."""
        heads, group = (rows, shape.n_kv_heads), shape.n_heads // shape.n_kv_heads
        return cls(
            torch.empty(*heads, prefix + own, group, shape.head_dim, dtype=torch.float32, device=device),
            torch.empty(*heads, group, prefix + own, dtype=torch.float32, device=device),
            prefix,
        )

    @property
    def splits(self) -> int:
        """The most parts of a row, of the prefix and its own."""
        return self.sums.shape[3]


@triton.jit
def _shared(positions, prefix, ROWS: tl.constexpr, ROW_TILE: tl.constexpr, WINDOW: tl.constexpr):
    """The first of the prefix's positions that any row sees, its end, and a row that does not rest.

    Where all rest, nothing is seen, and the row is `ROWS`.
    """
    end = tl.load(prefix)
    row = tl.arange(0, ROW_TILE)
    ends = tl.load(positions + row, mask=row < ROWS, other=-1) + 1
    awake = ends > end
    oldest = tl.zeros((ROW_TILE,), tl.int32)
    if WINDOW:
        oldest = tl.maximum(ends - WINDOW, 0)
    return tl.min(tl.where(awake, oldest, end), 0), end, tl.min(tl.where(awake, row, ROWS), 0)


@triton.jit(do_not_specialize=["table_width"])
def shared_parts_kernel(
    q,
    keys,
    values,
    positions,
    pages,
    prefix,
    parts,
    sums,
    table_width,
    SCALE: tl.constexpr,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    OWN_SPLITS: tl.constexpr,
    ROW_TILE: tl.constexpr,
    QUERIES: tl.constexpr,
    OWN_QUERIES: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Grid (K, SPLITS + OWN_SPLITS·B): first the prefix's parts, then the first parts of all rows, …"""
    let_next_start(DEPENDENT)
    wait_for_previous(DEPENDENT)
    MOST: tl.constexpr = SPLITS + OWN_SPLITS
    kv = tl.program_id(0)
    split = tl.program_id(1)
    dims = tl.arange(0, WIDTH)
    begin, shared, reader = _shared(positions, prefix, ROWS, ROW_TILE, WINDOW)
    count = parts_of(begin, shared, SPLITS, BLOCK)
    if split < SPLITS:
        if split < count:
            start, stop = part_of(split, begin, shared, SPLITS, BLOCK)
            query = tl.arange(0, QUERIES)
            row = query // GROUP
            inside = query < ROWS * GROUP
            oldest = tl.zeros((QUERIES,), tl.int32)
            if WINDOW:
                oldest = tl.load(positions + row, mask=inside, other=0) + 1 - WINDOW
            pair = row * KV_HEADS + kv
            real = inside[:, None] & (dims < DIM)[None, :]
            at = (pair * GROUP + query % GROUP)[:, None] * DIM + dims[None, :]
            mixed, share = attend(
                tl.load(q + at, mask=real, other=0.0),
                oldest,
                keys + kv * DIM,
                values + kv * DIM,
                pages + reader * table_width,
                start,
                stop,
                SCALE,
                KV_HEADS * DIM,
                DIM,
                BLOCK,
                PAGE,
                OLDEST=WINDOW > 0,
            )
            at = ((pair * MOST + split) * GROUP + query % GROUP)[:, None] * DIM + dims[None, :]
            tl.store(parts + at, mixed, mask=real)
            tl.store(sums + (pair * GROUP + query % GROUP) * MOST + split, share, mask=inside)
    else:
        own = (split - SPLITS) % ROWS
        piece = (split - SPLITS) // ROWS
        end = tl.load(positions + own) + 1
        first = shared
        if WINDOW:
            first = tl.maximum(shared, end - WINDOW)
        if piece < parts_of(first, end, OWN_SPLITS, BLOCK):
            start, stop = part_of(piece, first, end, OWN_SPLITS, BLOCK)
            head = tl.arange(0, OWN_QUERIES)
            mine = own * KV_HEADS + kv
            cell = head[:, None] * DIM + dims[None, :]
            whole = (head < GROUP)[:, None] & (dims < DIM)[None, :]
            mixed, share = attend(
                tl.load(q + mine * GROUP * DIM + cell, mask=whole, other=0.0),
                first,
                keys + kv * DIM,
                values + kv * DIM,
                pages + own * table_width,
                start,
                stop,
                SCALE,
                KV_HEADS * DIM,
                DIM,
                BLOCK,
                PAGE,
                OLDEST=False,
            )
            tl.store(parts + (mine * MOST + count + piece) * GROUP * DIM + cell, mixed, mask=whole)
            tl.store(sums + (mine * GROUP + head) * MOST + count + piece, share, mask=head < GROUP)


@triton.jit
def merge_kernel(
    positions,
    prefix,
    parts,
    sums,
    out,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    OWN_SPLITS: tl.constexpr,
    ROW_TILE: tl.constexpr,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    AT_ONCE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Grid (K, B)."""
    let_next_start(DEPENDENT)
    wait_for_previous(DEPENDENT)
    MOST: tl.constexpr = SPLITS + OWN_SPLITS
    row = tl.program_id(1)
    pair = row * KV_HEADS + tl.program_id(0)
    begin, shared, _reader = _shared(positions, prefix, ROWS, ROW_TILE, WINDOW)
    end = tl.load(positions + row) + 1
    if end > shared:
        first = shared
        if WINDOW:
            first = tl.maximum(shared, end - WINDOW)
        head = tl.arange(0, TILE)
        dims = tl.arange(0, WIDTH)
        mixed = merge(
            parts + pair * MOST * GROUP * DIM,
            sums + pair * MOST * GROUP,
            parts_of(begin, shared, SPLITS, BLOCK) + parts_of(first, end, OWN_SPLITS, BLOCK),
            head,
            head < GROUP,
            GROUP,
            DIM,
            MOST,
            PARTS,
            WIDTH,
            AT_ONCE,
        )
        real = (head < GROUP)[:, None] & (dims < DIM)[None, :]
        at = (pair * GROUP + head)[:, None] * DIM + dims[None, :]
        tl.store(out + at, mixed.to(out.dtype.element_ty), mask=real)


def shared_prefix_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    rows: Rows,
    shape: AttentionShape,
    scratch: SharedPrefixScratch,
    out: Tensor,
    *,
    dependent: bool,
) -> None:
    """`attention.decode_attention` of rows whose first `rows.prefix` positions hold the same keys and values.

    Not checked: the rows' pages must agree on the prefix, as those of forks do; it is read through one row's.
    A row without a position of its own counts as one that rests. Mutates `out`, except for rows that rest,
    and `scratch`. Raises `ValueError` for shapes that do not fit together, and for more than
    `most_shared_queries`.
    """
    check_heads(q, keys, values, shape, out)
    batch, group = len(rows), shape.n_heads // shape.n_kv_heads
    if len(q) != batch or scratch.sums.shape[0] < batch:
        raise ValueError(f"{len(q)} queries and scratch for {scratch.sums.shape[0]} rows, but {batch} rows")
    prefix = rows.prefix
    if prefix is None or prefix.dtype != torch.int32 or prefix.numel() != 1:
        given = None if prefix is None else f"{list(prefix.shape)} {prefix.dtype}"
        raise ValueError(f"the prefix is {given}, not one int32")
    most = most_shared_queries(keys.dtype)
    if batch * group > most:
        raise ValueError(f"{batch} rows are {batch * group} queries for a head; a shared prefix takes {most}")
    queries, tile = triton.next_power_of_2(batch * group), triton.next_power_of_2(group)
    block = block_of(shape.head_dim)
    if queries == 128:  # as many leave registers for half a block
        block //= 2
    if keys.dtype == torch.float32:  # and numbers in halves for a quarter
        block = max(block // 4, 16)
    own_splits = scratch.splits - scratch.prefix_splits
    same = {
        "ROWS": batch,
        "GROUP": group,
        "KV_HEADS": shape.n_kv_heads,
        "DIM": shape.head_dim,
        "WIDTH": width_of(shape.head_dim),
        "WINDOW": shape.window or 0,
        "BLOCK": block,
        "SPLITS": scratch.prefix_splits,
        "OWN_SPLITS": own_splits,
        "ROW_TILE": triton.next_power_of_2(batch),
        "DEPENDENT": dependent,
        "launch_pdl": dependent,
    }
    shared_parts_kernel[(shape.n_kv_heads, scratch.prefix_splits + own_splits * batch)](
        q,
        keys,
        values,
        rows.positions,
        rows.pages,
        prefix,
        scratch.parts,
        scratch.sums,
        rows.pages.stride(0),
        SCALE=base_2_scale(shape.head_dim),
        PAGE=rows.page_size,
        QUERIES=max(queries, 16),
        OWN_QUERIES=max(tile, 16),
        num_warps=8 if queries > 32 else warps_of(keys.dtype),
        num_stages=stages_of(block, shape.head_dim, keys.dtype),
        **same,
    )
    merge_kernel[(shape.n_kv_heads, batch)](
        rows.positions,
        prefix,
        scratch.parts,
        scratch.sums,
        out,
        PARTS=triton.next_power_of_2(scratch.splits),
        TILE=tile,
        AT_ONCE=merged_at_once(tile, shape.head_dim),
        num_warps=4,
        **same,
    )
