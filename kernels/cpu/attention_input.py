"""RMSNorm, QKV, bias or qk-norm, rotary embedding, cache write: one head is one chunk."""

import numpy as np

from kernels.cpu.crew import finish, take, wait
from kernels.cpu.product import dot_rows, place_normed, spread
from kernels.cpu.target import compiled, mean_square_of, narrow


@compiled
def attention_input(claim, x, gain, eps, w, bias, q_norm, k_norm, cos, sin, slots, q, keys, values):
    """q = rope(norm?(W_q·rmsnorm(x) + b_q)); keys and values likewise, written to `slots` of the cache.

    x (N, E) bf16 bits or fp32; gain (E,), q_norm, k_norm (D,) and bias ((H + 2K)·D,) fp32, empty where the
    layer has none; w as `product` takes it, rows in the order q, k, v; cos, sin (N, D/2) fp32; slots (N,)
    int64; q (N, H, D) fp32, written; keys, values (L, K, D) bf16 bits or fp32, written.
    """
    n_new, n_heads, dim = q.shape
    n_kv_heads = keys.shape[1]
    chunks = n_heads + 2 * n_kv_heads
    laid = spread(w, n_new)
    place_normed(x, gain, eps, laid)
    head_of = np.empty((n_new, dim), np.float32)
    chunk = take(claim, 0)
    while chunk < chunks:
        dot_rows(w, chunk * dim, dim, laid, head_of, 0)
        for n in range(n_new):
            head = head_of[n]
            if bias.size:
                for d in range(dim):
                    head[d] += bias[chunk * dim + d]
            if chunk < n_heads:
                _normalise(head, q_norm, eps)
                _turn(head, cos[n], sin[n])
                for d in range(dim):
                    q[n, chunk, d] = head[d]
            elif chunk < n_heads + n_kv_heads:
                _normalise(head, k_norm, eps)
                _turn(head, cos[n], sin[n])
                for d in range(dim):
                    keys[slots[n], chunk - n_heads, d] = narrow(head[d], keys)
            else:
                for d in range(dim):
                    values[slots[n], chunk - n_heads - n_kv_heads, d] = narrow(head[d], values)
        finish(claim, 0)
        chunk = take(claim, 0)
    wait(claim, 0, chunks)


@compiled
def _normalise(head, gain, eps):
    """head = gain · head / sqrt(mean(head²) + eps), unless gain is empty."""
    if not gain.size:
        return
    scale = np.float32(1) / np.sqrt(mean_square_of(head) + eps)
    for d in range(head.size):
        head[d] *= scale * gain[d]


@compiled
def _turn(head, cos, sin):
    """Rotary embedding on halves: dimension i turns with dimension i + D/2."""
    half = head.size // 2
    for d in range(half):
        low, high = head[d], head[d + half]
        head[d] = low * cos[d] - high * sin[d]
        head[d + half] = high * cos[d] + low * sin[d]
