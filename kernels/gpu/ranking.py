"""Scores and tokens as one integer, so that the best of many is a maximum: no ties, no order of arrival."""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-(2**63))  # below every rank


@triton.jit
def key_of(score):
    """int64, in the range of an int32, in the order of the floats."""
    bits = score.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def ranked(score, token):
    """int64 in the order of the scores; of equal ones the lowest token ranks highest."""
    return (key_of(score) << 32) | (0x7FFFFFFF - token).to(tl.int64)


@triton.jit
def token_of(rank, V: tl.constexpr):
    """The token of `ranked`; some token of the vocabulary for any other number."""
    token = 0x7FFFFFFF - (rank & 0xFFFFFFFF).to(tl.int32)
    return tl.minimum(tl.maximum(token, 0), V - 1)


@triton.jit
def score_of(rank):
    """The score of `ranked`."""
    key = (rank >> 32).to(tl.int32)
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
