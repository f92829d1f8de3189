"""Grouped-query attention over paged keys and values, online softmax, split over cached positions.

A chunk is `SPLIT` positions of one query with all its heads, so that keys and values are read once and in
order, and few heads still keep all threads busy. The splits begin at fixed positions: what a row attends to
and in which order sums run does not depend on its neighbours or on the number of threads.
"""

import numpy as np

from kernels.cpu.blend import blend, prefetch
from kernels.cpu.crew import finish, take, wait
from kernels.cpu.gemv import VECTORS, tile
from kernels.cpu.target import LANES, compiled, exp_of_negative, largest_of, sum_of

SPLIT = 128  # positions per chunk: 256 KB of bf16 keys and values at 8 heads of 64
AHEAD = 8  # positions whose keys are asked for while others are worked on
BLOCK = 64  # positions that meet all query heads of a group while they are in the nearest cache


@compiled
def attention(
    claim, q, keys, values, n_kv_heads, pages, first_page, page_size, positions, window, partial, out
):
    """softmax(q·kᵀ/√D)·v over each query's own positions, causal, within the window.

    q, out (N, H, D) fp32; keys, values (L·K, D) float32 or (L·K, D/2) pairs of bf16; pages: the pages of all
    rows, int64, those of query n from first_page[n] on; positions (N,) int64; window: how many latest
    positions are seen, or 0 for all; partial (all splits, H, halves, padded + LANES) fp32, shared, written:
    per head the weighted values, even and odd columns apart for pairs, then their weights' sum and the
    largest score; claim of two phases.
    """
    n_new, n_heads = q.shape[:2]
    halves, padded = partial.shape[2], partial.shape[3] - LANES
    chunks = 0
    for n in range(n_new):
        chunks += splits(positions[n], window)
    laid = np.zeros((n_heads, halves, padded), np.float32)
    slots = np.empty(SPLIT, np.int64)
    chunk = take(claim, 0)
    while chunk < chunks:
        n, split = 0, chunk
        while split >= splits(positions[n], window):
            split -= splits(positions[n], window)
            n += 1
        _lay(q[n], laid)
        oldest = max(0, positions[n] + 1 - window) if window else 0
        begin = (oldest // SPLIT + split) * SPLIT
        end = min(begin + SPLIT, positions[n] + 1)
        begin = max(begin, oldest)
        state = partial[chunk]
        state[:] = np.float32(0)
        state[:, 0, padded + 1] = np.float32(-np.inf)
        for position in range(begin, end):
            page = position // page_size
            slot = pages[first_page[n] + page] * page_size + position - page * page_size
            slots[position - begin] = slot
        for start in range(0, end - begin, BLOCK):
            _see(laid, keys, values, n_kv_heads, slots[start : end - begin], state)
        finish(claim, 0)
        chunk = take(claim, 0)
    wait(claim, 0, chunks)
    query = take(claim, 1)
    while query < n_new:
        first = 0
        for n in range(query):
            first += splits(positions[n], window)
        _merge(partial[first : first + splits(positions[query], window)], out[query])
        finish(claim, 1)
        query = take(claim, 1)
    wait(claim, 1, n_new)


@compiled
def splits(position, window):
    """How many splits the query at `position` has."""
    oldest = max(0, position + 1 - window) if window else 0
    return position // SPLIT - oldest // SPLIT + 1


@compiled
def _lay(q, laid):
    """laid = q / √D, columns apart as in `gemv.spread`. q (H, D), laid (H, halves, padded) fp32."""
    shift = laid.shape[1] - 1
    scale = np.float32(1) / np.sqrt(np.float32(q.shape[1]))
    for head in range(q.shape[0]):
        for d in range(q.shape[1]):
            laid[head, d & shift, d >> shift] = q[head, d] * scale


@compiled
def _see(laid, keys, values, n_kv_heads, slots, state):
    """Let all heads of one query see the first `BLOCK` of `slots`; `state` is its part of `partial`."""
    count = min(BLOCK, slots.size)
    n_heads, padded = laid.shape[0], laid.shape[2]
    group = n_heads // n_kv_heads
    weights = np.full((n_heads, BLOCK), np.float32(-np.inf), np.float32)
    fades = np.empty(n_heads, np.float32)
    index = np.empty((n_kv_heads, BLOCK), np.int64)
    for kv in range(n_kv_heads):
        for i in range(count):
            index[kv, i] = slots[i] * n_kv_heads + kv
    # Position by position, not head by head: 128 bytes of every kilobyte would leave prefetching no pattern.
    for i in range(0, count, 4):
        for position in range(i, min(i + 4, count)):
            prefetch(values, index[0, position], n_kv_heads)
            if position + AHEAD < slots.size:
                prefetch(keys, slots[position + AHEAD] * n_kv_heads, n_kv_heads)
        for kv in range(n_kv_heads):
            _scores(keys, index[kv], i, min(4, count - i), laid, kv * group, (kv + 1) * group, weights)
    for head in range(n_heads):
        row = weights[head]
        before = state[head, 0, padded + 1]
        largest = max(before, largest_of(row, BLOCK))
        for i in range(BLOCK):
            row[i] = exp_of_negative(row[i] - largest)
        fades[head] = exp_of_negative(before - largest)
        state[head, 0, padded] = state[head, 0, padded] * fades[head] + sum_of(row)
        state[head, 0, padded + 1] = largest
    for kv in range(n_kv_heads):
        head, beyond = kv * group, (kv + 1) * group
        while beyond - head >= 4:
            blend(values, index[kv], count, weights, fades, state, head, 4)
            head += 4
        while head < beyond:
            blend(values, index[kv], count, weights, fades, state, head, 1)
            head += 1


@compiled
def _scores(keys, index, first, count, laid, head, beyond, scores):
    """scores[h, first + i] = keys[index[first + i]] · laid[h] for h in head:beyond, i < count <= 4."""
    while beyond - head >= VECTORS:
        if count == 4:
            tile(keys, index, first, laid, head, scores, first, 4, VECTORS, 0)
        else:
            for i in range(first, first + count):
                tile(keys, index, i, laid, head, scores, i, 1, VECTORS, 0)
        head += VECTORS
    while head < beyond:
        if count == 4:
            tile(keys, index, first, laid, head, scores, first, 4, 1, 0)
        else:
            for i in range(first, first + count):
                tile(keys, index, i, laid, head, scores, i, 1, 1, 0)
        head += 1


@compiled
def _merge(partial, out):
    """The splits of one query (S, H, halves, padded + LANES) as its result (H, D)."""
    n_heads, dim = out.shape
    shift, padded = partial.shape[2] - 1, partial.shape[3] - LANES
    for head in range(n_heads):
        largest = np.float32(-np.inf)
        for split in range(partial.shape[0]):
            largest = max(largest, partial[split, head, 0, padded + 1])
        total = np.float32(0)
        out[head, :] = np.float32(0)
        for split in range(partial.shape[0]):
            weight = exp_of_negative(partial[split, head, 0, padded + 1] - largest)
            total += weight * partial[split, head, 0, padded]
            for d in range(dim):
                out[head, d] += weight * partial[split, head, d & shift, d >> shift]
        for d in range(dim):
            out[head, d] /= total
