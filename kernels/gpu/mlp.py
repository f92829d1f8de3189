"""The mlp of a layer in two launches: gate and up with SwiGLU, then down into the residual stream."""

import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.dependent import let_next_start, wait_for_previous
from kernels.gpu.gemv import accumulate, load_tile, low_rows, sum_up
from kernels.gpu.stream import Stream, add, divisors, load_squares, words_of
from kernels.gpu.tiles import Tile
from kernels.gpu.weights import GpuLayer


def gate_up(
    stream: Stream, layer: GpuLayer, hidden: Tensor, *, tile: Tile | None = None, dependent: bool
) -> None:
    """hidden = silu(W_gate·rmsnorm(x) + b_gate) · (W_up·rmsnorm(x) + b_up). hidden (B, F) bf16 or fp32,
    written.

    `stream` has to be scaled for the mlp's norm.
    """
    matrix, batch = layer.gate_up, len(stream.x)
    if hidden.shape != (batch, matrix.shape[0] // 2) or not hidden.is_contiguous():
        raise ValueError(f"hidden is {list(hidden.shape)}, not contiguous {[batch, matrix.shape[0] // 2]}")
    tile = matrix.tile(batch) if tile is None else tile
    gate_up_kernel[(tile.programs,)](
        words_of(stream.scaled),
        stream.squares,
        layer.library.norm_eps,
        matrix.words,
        matrix.scales,
        layer.library.weights.gate_up_bias,
        hidden,
        tile.steps(matrix.shape[1]),
        batch,
        **matrix.constants(tile, batch),
        DEPENDENT=dependent,
        num_warps=tile.warps,
        num_stages=1,
        maxnreg=tile.registers,
        launch_pdl=dependent,
    )


def down(
    hidden: Tensor,
    layer: GpuLayer,
    stream: Stream,
    next_gain: Tensor | None,
    *,
    tile: Tile | None = None,
    dependent: bool,
) -> None:
    """x += W_down·hidden + b_down, and what the next layer's norm needs, if there is one.

    hidden (B, F) bf16 or fp32, contiguous. Mutates `stream`.
    """
    bias = layer.library.weights.down_bias
    add(hidden, layer.down, bias, stream, next_gain, tile=tile, dependent=dependent)


@triton.jit
def gate_up_kernel(
    vectors,
    squares,
    eps,
    words,
    scales,
    bias,
    hidden,
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
    """Grid (programs,); a pair is a row of gate and the same one of up."""
    let_next_start(DEPENDENT)
    first = tl.program_id(0) * (ROWS // 2)
    stride = tl.num_programs(0) * (ROWS // 2)
    tile, scale = load_tile(words, scales, first, 0, M, C, HALF, FORM, GROUP, ROWS, K, WARPS)
    wait_for_previous(DEPENDENT)
    n = tl.arange(0, BATCH)[None, :]
    for this in range(first, PAIRS, stride):
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
        row, real = low_rows(this, tl.arange(0, ROWS // 2), HALF, ROWS)
        held = load_squares(squares, batch, C, BATCH)
        if bias is not None:
            gate_bias = tl.load(bias + row, mask=real, other=0.0).to(tl.float32)[:, None]
            up_bias = tl.load(bias + HALF + row, mask=real, other=0.0).to(tl.float32)[:, None]
        gate, up = sum_up(sums, FORM, ROWS, BATCH)
        divisor = divisors(held, eps, C)
        gate *= divisor
        up *= divisor
        if bias is not None:
            gate += gate_bias
            up += up_bias
        number = gate * tl.sigmoid(gate) * up
        places = hidden + n * HALF + row[:, None]
        tl.store(places, number.to(hidden.dtype.element_ty), mask=real[:, None] & (n < batch))
