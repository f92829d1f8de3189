"""The next token of each row, chosen where its logits were made: greedy, or drawn by Gumbel-max.

A program of the head leaves a `Partials` entry of its part of the vocabulary for each row; the last one picks
among them and ends the step. So neither kind reads the logits a second time. What top-k,
top-p and min-p exclude is known only once all logits are: `kernels.gpu.filters`.

Order and meaning are those of transformers: repetition penalty, temperature, then the filters. Of equal
scores the lowest token wins. Logits that are not finite choose some token of the vocabulary.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.random import gumbel
from kernels.gpu.ranking import LOWEST, ranked, token_of
from kernels.gpu.step import advance

_LEAST = tl.constexpr(-3e38)  # below every logit, and finite: a difference of two is a number


@dataclass(frozen=True, slots=True)
class Partials:
    """What the head's programs found in their slices of the vocabulary, of each of B rows.

    `ranks` (B, programs) int64: the best score and its token, as `kernels.gpu.ranking` has them.
    `values` (3, B, programs) fp32: that token's logit; the highest logit h; Σ exp(logit - h).
    `arrived` (1,) int32: programs that are done, zero between launches.
    """

    ranks: Tensor
    values: Tensor
    arrived: Tensor

    @classmethod
    def make(cls, rows: int, programs: int, device: torch.device) -> "Partials":
        return cls(
            torch.empty(rows, programs, dtype=torch.int64, device=device),
            torch.empty(3, rows, programs, dtype=torch.float32, device=device),
            torch.zeros(1, dtype=torch.int32, device=device),
        )


@triton.jit
def penalised(logit, seen, penalty):
    """Of a token seen before, logit / penalty where positive, logit · penalty where negative (CTRL)."""
    less = tl.where(logit > 0, tl.div_rn(logit, penalty), logit * penalty)
    return tl.where(seen != 0, less, logit)


@triton.jit
def tempered(logit, temperature):
    """logit / temperature, rounded as IEEE says, as on the host: else near ties would fall otherwise.

    A greedy row's logits stay as they are.
    """
    return tl.div_rn(logit, tl.where(temperature > 0, temperature, 1.0))


@triton.jit
def nothing(ROWS: tl.constexpr):
    """(ranks, logits, highest, totals), (ROWS,) each, of no tokens: what `taken_in` begins with."""
    ranks = tl.full((ROWS,), LOWEST, tl.int64)
    logits = tl.zeros((ROWS,), tl.float32)
    highest = tl.full((ROWS,), _LEAST, tl.float32)
    return ranks, logits, highest, tl.zeros((ROWS,), tl.float32)


@triton.jit
def taken_in(
    ranks,
    chosen,
    highest,
    totals,
    logits,
    first,
    end,
    positions,
    temperature,
    penalty,
    seeds,
    streams,
    seen,
    B: tl.constexpr,
    ROWS: tl.constexpr,
    V: tl.constexpr,
    COUNT: tl.constexpr,
    NOISE: tl.constexpr,
):
    """The four of `nothing` with the tokens first … end-1, at most COUNT, of `logits` (B, V) fp32.

    A score is the penalised logit; with NOISE, of rows that have a temperature, that over it plus noise.
    """
    row = tl.arange(0, ROWS)
    token = first + tl.arange(0, COUNT)
    exists = row < B
    inside = exists[:, None] & (token < end)[None, :]
    at = row[:, None] * V + token[None, :]
    logit = tl.load(logits + at, mask=inside, other=float("-inf"))
    score = logit
    if seen is not None:
        share = tl.load(penalty + row, mask=exists, other=1.0)
        score = penalised(score, tl.load(seen + at, mask=inside, other=0), share[:, None])
    if NOISE:
        heat = tl.load(temperature + row, mask=exists, other=0.0)[:, None]
        seed = tl.load(seeds + row, mask=exists, other=0)[:, None]
        stream = tl.load(streams + row, mask=exists, other=0)[:, None]
        position = tl.load(positions + row, mask=exists, other=0)[:, None] + 1
        noise = gumbel(seed, stream, position, token[None, :])
        score = tl.where(heat > 0, tempered(score, heat) + noise, score)
    rank = ranked(score, tl.broadcast_to(token[None, :], (ROWS, COUNT)))
    best = tl.max(rank, 1)
    its_logit = tl.max(tl.where(rank == best[:, None], logit, float("-inf")), 1)
    higher = tl.maximum(highest, tl.max(logit, 1))
    total = tl.sum(tl.exp(logit - higher[:, None]), 1)
    totals = totals * tl.exp(highest - higher) + total
    chosen = tl.where(best > ranks, its_logit, chosen)
    return tl.maximum(ranks, best), chosen, higher, totals


@triton.jit
def hand_in(
    ranks,
    logits,
    highest,
    totals,
    program,
    all_ranks,
    all_values,
    B: tl.constexpr,
    ROWS: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """Writes this program's entry of `Partials`."""
    row = tl.arange(0, ROWS)
    exists = row < B
    entry = row * PROGRAMS + program
    tl.store(all_ranks + entry, ranks, mask=exists)
    tl.store(all_values + entry, logits, mask=exists)
    tl.store(all_values + B * PROGRAMS + entry, highest, mask=exists)
    tl.store(all_values + 2 * B * PROGRAMS + entry, totals, mask=exists)


@triton.jit
def log_sum_exp(values, row, exists, B: tl.constexpr, PROGRAMS: tl.constexpr, WIDTH: tl.constexpr):
    """(highest logit, log Σ exp logit) of some rows (R,), from all programs' entries."""
    program = tl.arange(0, WIDTH)
    at = B * PROGRAMS + row[:, None] * PROGRAMS + program[None, :]
    there = exists[:, None] & (program < PROGRAMS)[None, :]
    part = tl.load(values + at, mask=there, other=float("-inf"))
    total = tl.load(values + B * PROGRAMS + at, mask=there, other=0.0)
    highest = tl.where(exists, tl.max(part, 1), 0.0)
    whole = tl.sum(total * tl.exp(part - highest[:, None]), 1)
    return highest, highest + tl.log(tl.where(exists, whole, 1.0))


@triton.jit
def settle(
    positions,
    tokens,
    steps,
    ring,
    seen,
    ranks,
    values,
    B: tl.constexpr,
    ROWS: tl.constexpr,
    V: tl.constexpr,
    PROGRAMS: tl.constexpr,
    WIDTH: tl.constexpr,
    RING: tl.constexpr,
):
    """The best of all programs' entries is each row's token; ends the step.

    WIDTH is the power of two that PROGRAMS need. All is loaded before anything is made of it: on a GPU each
    load behind another costs the step 0.4 µs.
    """
    row = tl.arange(0, ROWS)
    exists = row < B
    position = tl.load(positions + row, mask=exists, other=-1)
    step = tl.load(steps + row, mask=exists, other=0)
    program = tl.arange(0, WIDTH)
    there = exists[:, None] & (program < PROGRAMS)[None, :]
    at = row[:, None] * PROGRAMS + program[None, :]
    rank = tl.load(ranks + at, mask=there, other=LOWEST)
    logit = tl.load(values + at, mask=there, other=float("-inf"))
    highest, logsumexp = log_sum_exp(values, row, exists, B, PROGRAMS, WIDTH)
    best = tl.max(rank, 1)
    logit = tl.max(tl.where(rank == best[:, None], logit, float("-inf")), 1)
    token = token_of(best, V)
    advance(
        row,
        exists,
        position,
        step,
        token,
        logit,
        highest,
        logsumexp,
        positions,
        tokens,
        steps,
        ring,
        seen,
        B,
        V,
        RING,
    )
