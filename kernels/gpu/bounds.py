"""Bins, masses and keys of scores, and the search for a bound among a few: what the filters are made of.

A score is a logit, penalised, over the temperature; its distance is what the row's highest score is above it.
"""

import triton
import triton.language as tl

from kernels.gpu.ranking import LOWEST, key_of, score_of
from kernels.gpu.select import penalised, tempered

# Bins are the leading bits of 1 + distance as a float: 256 in each doubling, the first 1/256 wide, up to a
# distance of 255, where the mass is 0 in fp32. Of 128k normal logits a bound's own bin has some hundred.
_BIN_SHIFT = tl.constexpr(15)
BINS = tl.constexpr(2048)
# Mass is exp(-distance) in units of 2^-44: the sum of 2^18 of them fits into 63 bits.
_MASS_UNITS = tl.constexpr(2.0**44)
CHUNK = tl.constexpr(256)  # scores of a list that one program takes at a time
_WAYS = tl.constexpr(16)  # bounds that it tries at a time: four bits of the bound each time


@triton.jit
def load_scores(logits, seen, penalty, row, token, inside, heat, V: tl.constexpr):
    """The row's scores of `token`, -inf where not `inside`. A `heat` of 0 leaves the logits as they are."""
    at = row * V + token
    score = tl.load(logits + at, mask=inside, other=float("-inf"))
    if seen is not None:
        before = tl.load(seen + at, mask=inside, other=0)
        score = penalised(score, before, tl.load(penalty + row))
    return tempered(score, heat)


@triton.jit
def load_peak(ranks, row, heat, PROGRAMS: tl.constexpr, WIDTH: tl.constexpr):
    """The row's highest score, from what the head's programs found: the highest penalised logits."""
    program = tl.arange(0, WIDTH)
    best = tl.load(ranks + row * PROGRAMS + program, mask=program < PROGRAMS, other=LOWEST)
    return tempered(score_of(tl.max(best, 0)), heat)


@triton.jit
def bin_of(distance):
    """It never falls as the distance grows, from 0; 0 … BINS-1 for any bits at all."""
    above_one = (1.0 + distance).to(tl.int32, bitcast=True) - 0x3F800000
    return tl.minimum(tl.maximum(above_one >> _BIN_SHIFT, 0), BINS - 1)


@triton.jit
def mass_of(distance):
    """A score's share of its row's softmax, int64, of any scale."""
    return (tl.exp(-distance) * _MASS_UNITS).to(tl.int64)


@triton.jit
def share_of(top_p, mass):
    """The least whole number that is not below top_p · mass: of a nucleus's tokens less lies before each."""
    return tl.ceil(top_p * mass.to(tl.float64)).to(tl.int64)


@triton.jit
def mass_from(scores, count, peak, bin, bound):
    """The mass of those of `count` listed scores that are in `bin` and of a key of `bound` or above."""
    lanes = tl.arange(0, CHUNK)
    total = tl.zeros((CHUNK,), tl.int64)
    for start in range(0, count, CHUNK):
        there = start + lanes < count
        score = tl.load(scores + start + lanes, mask=there, other=float("-inf"))
        counted = there & (bin_of(peak - score) == bin) & (key_of(score) >= bound)
        total += tl.where(counted, mass_of(peak - score), 0)
    return tl.sum(total, 0)


@triton.jit
def bound_of(scores, count, peak, first, last, needed, BY_MASS: tl.constexpr):
    """The highest key such that the listed scores at or above it, of bins first … last, are `needed` or more.

    They are counted, or BY_MASS weighed; all together are at least as many. `count` scores are listed.
    """
    lanes = tl.arange(0, CHUNK)
    lowest = tl.full((CHUNK,), 1 << 31, tl.int64)
    highest = tl.full((CHUNK,), -(1 << 31), tl.int64)
    for start in range(0, count, CHUNK):
        there = start + lanes < count
        key = key_of(tl.load(scores + start + lanes, mask=there, other=0.0))
        lowest = tl.minimum(lowest, tl.where(there, key, lowest))
        highest = tl.maximum(highest, tl.where(there, key, highest))
    low = tl.min(lowest, 0)  # enough are at or above `low`, too few at or above `high`
    high = tl.max(highest, 0) + 1
    while high - low > 1:
        step = (high - low + _WAYS - 1) // _WAYS
        tried = low + step * (1 + tl.arange(0, _WAYS))
        above = tl.zeros((CHUNK, _WAYS), tl.int64)  # transposed, its sums take ten times the shuffles
        for start in range(0, count, CHUNK):
            there = start + lanes < count
            score = tl.load(scores + start + lanes, mask=there, other=float("-inf"))
            bin = bin_of(peak - score)
            weight = (there & (bin >= first) & (bin <= last)).to(tl.int64)
            if BY_MASS:
                weight *= mass_of(peak - score)
            above += tl.where(key_of(score)[:, None] >= tried[None, :], weight[:, None], 0)
        low += step * tl.sum((tl.sum(above, 0) >= needed).to(tl.int64), 0)
        high = tl.minimum(high, low + step)
    return low
