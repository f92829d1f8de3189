"""RMSNorm, gate and up, SwiGLU, down, residual: two phases, no one begins `down` before `gate_up` is done."""

import numpy as np

from kernels.cpu.attention_output import add_product
from kernels.cpu.crew import finish, take, wait
from kernels.cpu.gemv import dot_rows, place_normed, spread
from kernels.cpu.target import compiled, narrow

ROWS = 16  # of gate, and as many of up, per chunk


@compiled
def mlp(claim, x, gain, eps, gate_up, gate_up_bias, down, down_bias, hidden, out):
    """out = x + W_down·(silu(W_gate·rmsnorm(x) + b) · (W_up·rmsnorm(x) + b)) + b_down.

    x, out (N, E) bf16 bits or fp32; gain (E,), gate_up_bias (2F,), down_bias (E,) fp32, biases empty where
    there are none; gate_up, down as `gemv.matrix`; hidden: zeros laid out for `down`, shared, written;
    claim of two phases.
    """
    n_new, wide = x.shape[0], gate_up.shape[0] // 2
    laid = spread(gate_up, n_new)
    place_normed(x, gain, eps, laid)
    y = np.empty((n_new, 2 * ROWS), np.float32)
    shift = hidden.shape[1] - 1
    chunks = -(-wide // ROWS)
    chunk = take(claim, 0)
    while chunk < chunks:
        first = chunk * ROWS
        count = min(ROWS, wide - first)
        dot_rows(gate_up, first, count, laid, y, 0)
        dot_rows(gate_up, wide + first, count, laid, y, ROWS)
        for n in range(n_new):
            for i in range(count):
                gate, up = y[n, i], y[n, ROWS + i]
                if gate_up_bias.size:
                    gate += gate_up_bias[first + i]
                    up += gate_up_bias[wide + first + i]
                column = first + i
                swish = gate / (np.float32(1) + np.exp(-gate))
                hidden[n, column & shift, column >> shift] = narrow(swish * up, hidden)
        finish(claim, 0)
        chunk = take(claim, 0)
    wait(claim, 0, chunks)
    add_product(claim, 1, x, hidden, down, down_bias, out)
