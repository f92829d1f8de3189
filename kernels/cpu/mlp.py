"""RMSNorm, gate and up, SwiGLU, down, residual: two phases, no one begins `down` before `gate_up` is done."""

import numpy as np

from kernels.cpu.attention_output import add_product
from kernels.cpu.crew import finish, take, wait
from kernels.cpu.product import dot_rows, place_normed, rows_of, spread
from kernels.cpu.target import compiled, exp_of_negative

ROWS = 64  # of gate, and as many of up, per chunk


@compiled
def mlp(claim, x, gain, eps, gate_up, gate_up_bias, down, down_bias, hidden, out):
    """out = x + W_down·(silu(W_gate·rmsnorm(x) + b) · (W_up·rmsnorm(x) + b)) + b_down.

    x, out (N, E) bf16 bits or fp32; gain (E,), gate_up_bias (2F,), down_bias (E,) fp32, biases empty where
    there are none; gate_up, down as `product` takes them; hidden (N, F) fp32, shared, written; claim of two
    phases.
    """
    n_new, wide = x.shape[0], rows_of(gate_up) // 2
    laid = spread(gate_up, n_new)
    place_normed(x, gain, eps, laid)
    y = np.empty((n_new, 2 * ROWS), np.float32)
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
                hidden[n, first + i] = gate * up * _sigmoid(gate)
        finish(claim, 0)
        chunk = take(claim, 0)
    wait(claim, 0, chunks)
    add_product(claim, 1, x, hidden, down, down_bias, out)


@compiled
def _sigmoid(x):
    """1 / (1 + exp(-x)), of the side where exp cannot overflow; 0 below -60."""
    e = exp_of_negative(-abs(x))
    return (np.float32(1) if x >= 0 else e) / (np.float32(1) + e)
