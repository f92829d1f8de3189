"""O projection, bias, residual."""

import numpy as np

from kernels.cpu.crew import finish, take, wait
from kernels.cpu.product import dot_rows, place, spread
from kernels.cpu.target import compiled, narrow, widen

ROWS = 32  # of a matrix per chunk: 128 KB to 512 KB of bf16 weights, 10 to 40 µs


@compiled
def attention_output(claim, x, attended, w, bias, out):
    """out = x + W·attended + bias.

    x, out (N, E) bf16 bits or fp32, may be the same; attended (N, H·D) fp32; w as `product` takes it; bias
    (E,) fp32, or empty.
    """
    add_product(claim, 0, x, attended, w, bias, out)


@compiled
def add_product(claim, phase, x, vectors, w, bias, out):
    """out = x + W·vectors + bias, in the chunks of `phase`. vectors (N, C) fp32."""
    n_new, size = x.shape
    laid = spread(w, n_new)
    place(vectors, laid)
    chunks = -(-size // ROWS)
    y = np.empty((n_new, ROWS), np.float32)
    chunk = take(claim, phase)
    while chunk < chunks:
        first = chunk * ROWS
        count = min(ROWS, size - first)
        dot_rows(w, first, count, laid, y, 0)
        for n in range(n_new):
            for i in range(count):
                value = y[n, i]
                if bias.size:
                    value += bias[first + i]
                out[n, first + i] = narrow(widen(x[n, first + i]) + value, out)
        finish(claim, phase)
        chunk = take(claim, phase)
    wait(claim, phase, chunks)
