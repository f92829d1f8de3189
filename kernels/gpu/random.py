"""Random numbers keyed by (seed, row, position) alone: a row's draws do not depend on its neighbours.

Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC'11): key = the 64 bits of
the seed, counter = (token, position, row, 0).
"""

import math

import triton
import triton.language as tl

_LN_2 = tl.constexpr(math.log(2))  # the hardware has logarithms to base 2; tl.log takes 25 instructions


@triton.jit
def gumbel(seed, row, position, tokens):
    """-log(-log u), u uniform in (0, 1), for each of `tokens`: argmax(logit + gumbel) draws from softmax.

    `seed` int64, `row`, `position`, `tokens` int32 of shapes that broadcast.
    """
    high, low, _, _ = tl.philox(seed, tokens, position, row, tokens * 0)
    # 1 - u, of 64 bits: with 32 alone, tokens of a probability below 1e-9 would come too often or never.
    rest = high.to(tl.float32) * 2.0**-32 + (low.to(tl.float32) + 0.5) * 2.0**-64
    u = (high ^ 0xFFFFFFFF).to(tl.float32) * 2.0**-32 + 2.0**-33
    # -log u by its series where u rounds the digits of `rest` away: the smallest of them decide who wins.
    series = rest + rest * rest * (0.5 + rest * (1.0 / 3.0 + rest * 0.25))
    waiting = tl.where(rest < 2.0**-6, series, -_LN_2 * tl.log2(u))
    return -_LN_2 * tl.log2(waiting)
