"""A kernel that does nothing but read: the limit of everything that has to read its weights."""

import triton
import triton.language as tl


@triton.jit
def read_kernel(data, out, count, BLOCK: tl.constexpr, AHEAD: tl.constexpr):
    """out[program], int64: modulo 2^32 the sum of the words that the program reads."""
    places = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.int32)
    stride = tl.num_programs(0) * (BLOCK * AHEAD)
    for first in range(tl.program_id(0) * (BLOCK * AHEAD), count, stride):
        for step in tl.static_range(AHEAD):
            total += tl.load(data + (places + (first + step * BLOCK)), eviction_policy="evict_first")
    tl.store(out + tl.program_id(0), tl.sum(total.to(tl.int64), 0))
