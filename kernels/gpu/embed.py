"""The first kernel of a step: the embedding of each row's token becomes the residual stream."""

import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.dependent import let_next_start, wait_for_previous
from kernels.quantize import PANEL, Matrix

_TILE = 1024  # columns of a program: what takes the time is the wait for the token, then for its row


def embed(tokens: Tensor, table: Matrix, out: Tensor, *, dependent: bool) -> None:
    """out[b] = table[tokens[b]]; zeros for a negative token.

    tokens (B,) int32; table (V, E) of floats, contiguous, or packed; out (B, E) of any float dtype, written.
    """
    rows, columns = out.shape
    if table.shape[1] != columns or len(tokens) != rows:
        raise ValueError(
            f"out {list(out.shape)} does not fit {len(tokens)} rows of a table of {list(table.shape)}"
        )
    grid = (rows, triton.cdiv(columns, _TILE))
    if isinstance(table, Tensor):
        if not table.is_contiguous():
            raise ValueError("the embedding must be contiguous")
        dense_kernel[grid](tokens, table, out, columns, TILE=_TILE, DEPENDENT=dependent, launch_pdl=dependent)
        return
    packed_kernel[grid](
        tokens,
        table.words,
        table.scales,
        out,
        columns,
        table.words.shape[1],
        BITS=table.format.bits,
        GROUP=table.format.group,
        PANEL=PANEL,
        TILE=_TILE,
        DEPENDENT=dependent,
        launch_pdl=dependent,
    )


@triton.jit
def dense_kernel(tokens, table, out, columns, TILE: tl.constexpr, DEPENDENT: tl.constexpr):
    """A row of floats."""
    let_next_start(DEPENDENT)
    wait_for_previous(DEPENDENT)
    row = tl.program_id(0)
    token = tl.load(tokens + row).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = column < columns
    numbers = tl.load(table + token * columns + column, mask=inside & (token >= 0), other=0.0)
    tl.store(out + row * columns + column, numbers.to(out.dtype.element_ty), mask=inside)


@triton.jit
def packed_kernel(
    tokens,
    words,
    scales,
    out,
    columns,
    words_per_row,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    PANEL: tl.constexpr,
    TILE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """A row of a packed matrix: of every word one number."""
    let_next_start(DEPENDENT)
    wait_for_previous(DEPENDENT)
    PER_WORD: tl.constexpr = 32 // BITS
    row = tl.program_id(0)
    token = tl.load(tokens + row).to(tl.int64)
    panel, within = token // PANEL, token % PANEL
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    there = (column < columns) & (token >= 0)
    word = tl.load(words + (panel * words_per_row + column // PER_WORD) * PANEL + within, mask=there, other=0)
    groups = words_per_row * PER_WORD // GROUP
    scale = tl.load(scales + (panel * groups + column // GROUP) * PANEL + within, mask=there, other=0.0)
    # int8: bytes in the order of the columns; int4: lower halves of four bytes, then their upper halves.
    place = column % PER_WORD
    shift = place * 8 if BITS == 8 else place % 4 * 8 + place // 4 * 4
    number = ((word >> shift) & ((1 << BITS) - 1)) - (1 << (BITS - 1))
    value = number.to(tl.float32) * scale.to(tl.float32)
    tl.store(out + row * columns + column, value.to(out.dtype.element_ty), mask=column < columns)
