"""Prefill attention: the new tokens of a batch over their rows' cached positions, causal, within the window.

A program takes one key/value head and a tile of consecutive queries of one row; the query heads of that head
stand side by side in it, so that a short chunk of few tokens still fills a tile. Blocks of positions that no
query of the tile sees are not read, those that all see are not masked. FlashAttention-2, arXiv 2307.08691.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.api import AttentionShape, Layout
from kernels.gpu.attention_scratch import base_2_scale, block_of, check_heads, stages_of, width_of
from kernels.gpu.online_softmax import absorb


def _queries(longest: int, head_dim: int, cache: torch.dtype) -> int:
    """Queries of a tile, where a row has up to `longest` of one key/value head: one of two kernels compiled.

    Few queries make small tiles: eight programs read the same positions sooner than one does. The large tile
    is what the registers of eight warps hold, of fp32 numbers in halves.
    """
    numbers = 2048 if cache == torch.float32 else 16384
    return 16 if longest <= 128 else min(max(numbers // width_of(head_dim), 16), 128)


@dataclass(frozen=True, slots=True)
class PrefillTiles:
    """How the queries of a layout are cut up: made once a forward for all its layers, one copy to the device.

    `table` (tiles, 5) int32: the row's first query among the N, how many it has, the position of that query,
    where its pages start in `pages`, and the tile's first query, counted over heads of a group within tokens.
    The tile with most positions comes first: the last to end are then short. `pages` int32, of all rows.
    """

    table: Tensor
    pages: Tensor
    queries: int
    page_size: int

    @classmethod
    def make(
        cls, layout: Layout, shape: AttentionShape, cache: torch.dtype, device: torch.device
    ) -> "PrefillTiles":
        """For layers of `shape`, whatever their window, and a cache of dtype `cache` on `device`."""
        group = shape.n_heads // shape.n_kv_heads
        longest = max(row.stop - row.start for row in layout.rows) * group
        queries = _queries(longest, shape.head_dim, cache)
        records: list[tuple[int, ...]] = []
        held = 0
        for row in layout.rows:
            new = row.stop - row.start
            records += (
                (row.start, new, row.length - new, held, first) for first in range(0, new * group, queries)
            )
            held += len(row.pages)
        records.sort(key=lambda record: -(record[2] + record[4] // group))
        pages = [row.pages for row in layout.rows]
        return cls(
            torch.tensor(records, dtype=torch.int32).to(device),
            (pages[0] if len(pages) == 1 else torch.cat(pages)).to(torch.int32),
            queries,
            layout.page_size,
        )


@triton.jit
def prefill_kernel(
    q,
    keys,
    values,
    tiles,
    pages,
    out,
    SCALE: tl.constexpr,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK: tl.constexpr,
    QUERIES: tl.constexpr,
):
    """Grid (K, tiles): heads of one tile side by side, because they read neighbouring memory."""
    kv = tl.program_id(0)
    tile = tiles + tl.program_id(1) * 5
    start = tl.load(tile)
    new = tl.load(tile + 1)
    before = tl.load(tile + 2)
    table = pages + tl.load(tile + 3)
    low = tl.load(tile + 4)
    query = low + tl.arange(0, QUERIES)
    dims = tl.arange(0, WIDTH)
    inside = (query < new * GROUP)[:, None] & (dims < DIM)[None, :]
    vector = ((start + query // GROUP).to(tl.int64) * KV_HEADS + kv) * GROUP + query % GROUP
    at = vector[:, None] * DIM + dims[None, :]
    x = tl.load(q + at, mask=inside, other=0.0)
    newest = before + query // GROUP
    oldest = newest - (WINDOW - 1)
    earliest = before + low // GROUP
    latest = before + tl.minimum((low + QUERIES - 1) // GROUP, new - 1)
    begin = 0
    common = 0  # from here to `earliest` all queries see all positions
    if WINDOW:
        begin = tl.maximum(earliest - (WINDOW - 1), 0)
        some = tl.maximum(latest - (WINDOW - 1) - begin, 0)
        common = begin + tl.cdiv(some, BLOCK) * BLOCK
    parting = common + tl.maximum(earliest + 1 - common, 0) // BLOCK * BLOCK
    mixed = tl.zeros((QUERIES, WIDTH), tl.float32)
    highest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    keys += kv * DIM
    values += kv * DIM
    STRIDE: tl.constexpr = KV_HEADS * DIM
    if WINDOW:
        end = tl.minimum(common, latest + 1)
        mixed, highest, total = absorb(
            x,
            mixed,
            highest,
            total,
            oldest,
            newest,
            keys,
            values,
            table,
            begin,
            end,
            SCALE,
            STRIDE,
            DIM,
            BLOCK,
            PAGE,
            WHOLE=False,
            OLDEST=True,
            NEWEST=True,
        )
    mixed, highest, total = absorb(
        x,
        mixed,
        highest,
        total,
        oldest,
        newest,
        keys,
        values,
        table,
        common,
        parting,
        SCALE,
        STRIDE,
        DIM,
        BLOCK,
        PAGE,
        WHOLE=True,
        OLDEST=False,
        NEWEST=False,
    )
    mixed, highest, total = absorb(
        x,
        mixed,
        highest,
        total,
        oldest,
        newest,
        keys,
        values,
        table,
        parting,
        latest + 1,
        SCALE,
        STRIDE,
        DIM,
        BLOCK,
        PAGE,
        WHOLE=False,
        OLDEST=WINDOW > 0,
        NEWEST=True,
    )
    mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]  # what pads the tile may have seen nothing
    tl.store(out + at, mixed.to(out.dtype.element_ty), mask=inside)


def prefill_attention(
    q: Tensor, keys: Tensor, values: Tensor, tiles: PrefillTiles, shape: AttentionShape, out: Tensor
) -> None:
    """out = softmax(q·kᵀ/√D)·v of the layout's new tokens, over their rows' positions up to their own.

    q (N, H, D), keys and values (L, K, D), out (N, H, D), contiguous, of any float dtype; keys and values of
    one. `tiles` of the layout of these N. Mutates `out`. Raises `ValueError` for shapes that do not fit
    together.
    """
    check_heads(q, keys, values, shape, out)
    wide = shape.window is not None and shape.head_dim > 64  # two masks: registers for half a block are left
    block = block_of(shape.head_dim) // (2 if wide or keys.dtype == torch.float32 else 1)
    prefill_kernel[(shape.n_kv_heads, len(tiles.table))](
        q,
        keys,
        values,
        tiles.table,
        tiles.pages,
        out,
        SCALE=base_2_scale(shape.head_dim),
        GROUP=shape.n_heads // shape.n_kv_heads,
        KV_HEADS=shape.n_kv_heads,
        DIM=shape.head_dim,
        WIDTH=width_of(shape.head_dim),
        PAGE=tiles.page_size,
        WINDOW=shape.window or 0,
        BLOCK=block,
        QUERIES=tiles.queries,
        num_warps=8 if tiles.queries > 16 or keys.dtype == torch.float32 else 4,
        num_stages=stages_of(block, shape.head_dim, keys.dtype),
    )
