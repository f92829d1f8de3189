"""The residual stream of a decode step, and the kernels that write it.

The RMSNorm before a matrix is divided among kernels. Who writes x also writes gain · x of the norm that comes
next, rounded to what products take, and sums of squares: then whoever multiplies reads numbers that need no
work, at the first moment it can, and divides its sums instead of its vectors. In place of the norm's own pass
over x by every program that is one load and a few shuffles, 8 rows cost no more than one, and rounding is the
reference's but for its order: gain · x is rounded once.

    rmsnorm(x, gain)·w = (gain · x)·w / sqrt(mean(x²) + eps)
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.dependent import let_next_start, wait_for_previous
from kernels.gpu.gemv import accumulate, load_tile, low_rows, sum_up
from kernels.gpu.tiles import MOST_ROWS, Tile
from kernels.gpu.weights import GpuMatrix

SQUARES = 16  # columns whose squares are summed up together, whatever the tile
_SQUARES = tl.constexpr(SQUARES)


@dataclass(frozen=True, slots=True)
class Stream:
    """`x` (B, E) fp32; `scaled` (B, E), x times the next norm's gain; `squares` (B, ⌈E/16⌉) fp32."""

    x: Tensor
    scaled: Tensor
    squares: Tensor

    @classmethod
    def make(cls, rows: int, hidden: int, operand: torch.dtype, device: torch.device) -> "Stream":
        """For `rows` rows, `scaled` in `operand`."""
        if not 1 <= rows <= MOST_ROWS:
            raise ValueError(f"decode kernels take 1 to {MOST_ROWS} rows, not {rows}")
        return cls(
            torch.empty(rows, hidden, dtype=torch.float32, device=device),
            torch.empty(rows, hidden, dtype=operand, device=device),
            torch.empty(rows, -(-hidden // SQUARES), dtype=torch.float32, device=device),
        )


def words_of(vectors: Tensor) -> Tensor:
    """Vectors as `kernels.gpu.gemv` takes them: bf16 in words of two. Raises `ValueError` for fp16."""
    if vectors.dtype == torch.float16:
        raise ValueError("vectors are kept in bf16 or fp32, not in fp16, whose range they may leave")
    return vectors.view(torch.int32) if vectors.dtype == torch.bfloat16 else vectors


def begin(x: Tensor, gain: Tensor, stream: Stream, *, dependent: bool) -> None:
    """Makes the stream of x (B, E), any float dtype, contiguous, before a norm of `gain` (E,). Mutates
    `stream`.
    """
    rows, hidden = stream.x.shape
    if x.shape != stream.x.shape or not x.is_contiguous():
        raise ValueError(f"x is {list(x.shape)}; this stream takes contiguous {[rows, hidden]}")
    begin_kernel[(rows, triton.cdiv(hidden, 1024))](
        x,
        gain,
        stream.x,
        stream.scaled,
        stream.squares,
        E=hidden,
        DEPENDENT=dependent,
        num_warps=4,
        launch_pdl=dependent,
    )


def add(
    vectors: Tensor,
    weight: GpuMatrix,
    bias: Tensor | None,
    stream: Stream,
    gain: Tensor | None,
    *,
    tile: Tile | None = None,
    dependent: bool,
) -> None:
    """x += W·vectors + bias, and what the next norm, of `gain` (E,), needs; without one only x is written.

    vectors (B, C) bf16 or fp32, bias (E,). Mutates `stream`.
    """
    batch, (hidden, columns) = len(vectors), weight.shape
    if vectors.shape != (batch, columns) or not vectors.is_contiguous():
        raise ValueError(f"vectors are {list(vectors.shape)}; the matrix takes contiguous [B, {columns}]")
    if stream.x.shape != (batch, hidden):
        raise ValueError(f"a stream {list(stream.x.shape)} cannot take sums {[batch, hidden]}")
    tile = weight.tile(batch) if tile is None else tile
    add_kernel[(tile.programs,)](
        words_of(vectors),
        weight.words,
        weight.scales,
        bias,
        gain,
        stream.x,
        stream.scaled,
        stream.squares,
        tile.steps(columns),
        batch,
        **weight.constants(tile, batch),
        DEPENDENT=dependent,
        num_warps=tile.warps,
        num_stages=1,
        maxnreg=tile.registers,
        launch_pdl=dependent,
    )


@triton.jit
def load_squares(squares, batch, E: tl.constexpr, BATCH: tl.constexpr):
    """(BATCH, ⌈E/16⌉ and zeros) fp32, for `divisors`."""
    T: tl.constexpr = (E + _SQUARES - 1) // _SQUARES
    n = tl.arange(0, BATCH)[:, None]
    t = tl.arange(0, triton.next_power_of_2(T))[None, :]
    return tl.load(squares + n * T + t, mask=(n < batch) & (t < T), other=0.0)


@triton.jit
def divisors(squares, eps, E: tl.constexpr):
    """1 / sqrt(mean(x²) + eps) of every row: (1, BATCH) fp32."""
    return tl.rsqrt(tl.sum(squares, axis=1) / E + eps)[None, :]


@triton.jit
def begin_kernel(x, gain, out, scaled, squares, E: tl.constexpr, DEPENDENT: tl.constexpr):
    """Grid (B, ⌈E/1024⌉)."""
    let_next_start(DEPENDENT)
    row = tl.program_id(0)
    group = tl.program_id(1) * 64 + tl.arange(0, 64)
    column = group[:, None] * _SQUARES + tl.arange(0, _SQUARES)[None, :]
    factor = tl.load(gain + column, mask=column < E, other=0.0).to(tl.float32)
    wait_for_previous(DEPENDENT)
    number = tl.load(x + row * E + column, mask=column < E, other=0.0).to(tl.float32)
    tl.store(out + row * E + column, number, mask=column < E)
    tl.store(scaled + row * E + column, (number * factor).to(scaled.dtype.element_ty), mask=column < E)
    T: tl.constexpr = (E + _SQUARES - 1) // _SQUARES
    tl.store(squares + row * T + group, tl.sum(number * number, axis=1), mask=group < T)


@triton.jit
def add_kernel(
    vectors,
    words,
    scales,
    bias,
    gain,
    x,
    scaled,
    squares,
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
    DEPENDENT: tl.constexpr,
):
    """Grid (programs,): tiles are dealt out one after another."""
    let_next_start(DEPENDENT)
    first = tl.program_id(0) * (ROWS // 2)
    stride = tl.num_programs(0) * (ROWS // 2)
    tile, scale = load_tile(words, scales, first, 0, M, C, HALF, FORM, GROUP, ROWS, K, WARPS)
    wait_for_previous(DEPENDENT)
    pair = tl.arange(0, ROWS // 2)
    n = tl.arange(0, BATCH)[None, :]
    T: tl.constexpr = (M + _SQUARES - 1) // _SQUARES
    for this in range(first, PAIRS, stride):
        row, _ = low_rows(this, pair, HALF, ROWS)
        places = n * M + row[:, None]
        low_inside = (n < batch) & (pair >= 0)[:, None]
        high_inside = low_inside
        if M % ROWS != 0:
            low_inside = low_inside & (row < M)[:, None]
            high_inside = high_inside & (row + HALF < M)[:, None]
        low_x = tl.load(x + places, mask=low_inside, other=0.0)
        high_x = tl.load(x + places + HALF, mask=high_inside, other=0.0)
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
        if bias is not None:
            low_x += tl.load(bias + row, mask=row < M, other=0.0).to(tl.float32)[:, None]
            high_x += tl.load(bias + row + HALF, mask=row + HALF < M, other=0.0).to(tl.float32)[:, None]
        if gain is not None:
            low_gain = tl.load(gain + row, mask=row < M, other=0.0).to(tl.float32)[:, None]
            high_gain = tl.load(gain + row + HALF, mask=row + HALF < M, other=0.0).to(tl.float32)[:, None]
        low, high = sum_up(sums, FORM, ROWS, BATCH)
        low += low_x
        high += high_x
        tl.store(x + places, low, mask=low_inside)
        tl.store(x + places + HALF, high, mask=high_inside)
        if gain is not None:
            tl.store(scaled + places, (low * low_gain).to(scaled.dtype.element_ty), mask=low_inside)
            tl.store(scaled + places + HALF, (high * high_gain).to(scaled.dtype.element_ty), mask=high_inside)
            # Rows beyond the matrix are zero: nothing was loaded for them.
            group = this // (ROWS // 2) * (ROWS // _SQUARES)
            if ROWS == _SQUARES:
                sums = tl.sum(low * low + high * high, axis=0)
                tl.store(squares + n * T + group, sums[None, :], mask=n < batch)
            else:
                G: tl.constexpr = ROWS // 2 // _SQUARES
                g = group + tl.arange(0, G)[:, None]
                sums = tl.sum(tl.reshape(low * low, (G, _SQUARES, BATCH)), axis=1)
                tl.store(squares + n * T + g, sums, mask=(n < batch) & (g < T))
                sums = tl.sum(tl.reshape(high * high, (G, _SQUARES, BATCH)), axis=1)
                tl.store(squares + n * T + g + G, sums, mask=(n < batch) & (g + G < T))
