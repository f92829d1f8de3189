"""Top-k, top-p and min-p, exactly, in two launches behind the head; the draw is Gumbel-max over what is kept.

All three keep what is at or above some score. `narrow_kernel` sorts a row's scores into bins by their
distance from the highest, counts them (top-k) and adds up their mass (top-p), and finds the bins that the two
bounds fall into. `choose_kernel` draws among the scores that are kept for sure and lists those of the bounds'
own bins; the last program of a row finds the bounds in that list, and ends the row's step.

Sums are of integers, which do not depend on the order in which atomics arrive: what is kept is deterministic.
Of equal scores at a bound all are kept; the host's nucleus keeps some of them, its top-k all. Rows without
top-k and top-p need no bins.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.arrivals import last_of
from kernels.gpu.bounds import (
    BINS,
    CHUNK,
    bin_of,
    bound_of,
    load_peak,
    load_scores,
    mass_from,
    mass_of,
    share_of,
)
from kernels.gpu.dependent import let_next_start, wait_for_previous
from kernels.gpu.random import gumbel
from kernels.gpu.ranking import LOWEST, key_of, ranked, token_of
from kernels.gpu.select import Partials, log_sum_exp
from kernels.gpu.selection import Selection
from kernels.gpu.step import StepState, advance

_TILE = 2048  # scores of a program: 63 programs for a row of 128k, of 8 warps with two 128-bit loads a thread
_WARPS = 8


@dataclass(frozen=True, slots=True)
class FilterScratch:
    """What the two launches hand each other, for B rows.

    `counts` (B, bins) int32, `masses` (B, bins) int64: zero before and after.
    `limits` (B, 8) int64: the first bin that is not kept as a whole; top-k's bin; the first and the last bin
    that top-p's bound may be in; how many of its bin top-k keeps; the mass before that bin; the mass before
    top-p's first bin; unused.
    `listed` (B, V) fp32 and `listed_tokens` (B, V) int32: scores of the bounds' bins, in any order;
    `listed_counts` (B,) int32 of them, zero before and after.
    `best` (B,) int64: the best ranked that is kept for sure; the lowest number before and after.
    `arrived` (B,) int32: programs that are done, zero before and after.
    """

    counts: Tensor
    masses: Tensor
    limits: Tensor
    listed: Tensor
    listed_tokens: Tensor
    listed_counts: Tensor
    best: Tensor
    arrived: Tensor

    @classmethod
    def make(cls, rows: int, vocabulary: int, device: torch.device) -> "FilterScratch":
        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            counts=zeros(rows, BINS.value, dtype=torch.int32),
            masses=zeros(rows, BINS.value, dtype=torch.int64),
            limits=zeros(rows, 8, dtype=torch.int64),
            listed=zeros(rows, vocabulary, dtype=torch.float32),
            listed_tokens=zeros(rows, vocabulary, dtype=torch.int32),
            listed_counts=zeros(rows, dtype=torch.int32),
            best=torch.full((rows,), LOWEST.value, dtype=torch.int64, device=device),
            arrived=zeros(rows, dtype=torch.int32),
        )


def select_filtered(
    logits: Tensor,
    selection: Selection,
    state: StepState,
    positions: Tensor,
    partials: Partials,
    scratch: FilterScratch,
    *,
    dependent: bool,
) -> None:
    """Chooses each row's token and ends the step, from the head's `logits` (B, V) fp32 and `partials`.

    Mutates `state`, `positions`, `selection.seen` and, in between, `scratch`.
    """
    rows, vocabulary = logits.shape
    programs = partials.ranks.shape[1]
    grid = (triton.cdiv(vocabulary, _TILE), rows)
    inputs = (
        logits,
        positions,
        selection.temperature,
        selection.top_k,
        selection.top_p,
        selection.penalty,
        selection.seen,
        partials.ranks,
        scratch.limits,
        scratch.arrived,
    )
    options = {
        "V": vocabulary,
        "TILE": _TILE,
        "PROGRAMS": programs,
        "WIDTH": triton.next_power_of_2(programs),
        "DEPENDENT": dependent,
        "num_warps": _WARPS,
        "launch_pdl": dependent,
    }
    narrow_kernel[grid](*inputs, scratch.counts, scratch.masses, **options)
    choose_kernel[grid](
        *inputs,
        selection.min_p,
        selection.seeds,
        selection.streams,
        partials.values,
        scratch.listed,
        scratch.listed_tokens,
        scratch.listed_counts,
        scratch.best,
        state.tokens,
        state.steps,
        state.ring,
        B=rows,
        RING=len(state.ring),
        **options,
    )


@triton.jit
def narrow_kernel(
    logits,
    positions,
    temperature,
    top_k,
    top_p,
    penalty,
    seen,
    ranks,
    limits,
    arrived,
    counts,
    masses,
    V: tl.constexpr,
    TILE: tl.constexpr,
    PROGRAMS: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Fills the row's bins; the last program reads them, clears them and leaves the row's `limits`."""
    let_next_start(DEPENDENT)
    wait_for_previous(DEPENDENT)
    row = tl.program_id(1)
    heat = tl.load(temperature + row)
    k = tl.load(top_k + row)
    p = tl.load(top_p + row)
    by_count = (k > 0) & (k < V)
    by_mass = p < 1.0
    if (tl.load(positions + row) >= 0) & (heat > 0) & (by_count | by_mass):
        token = tl.program_id(0) * TILE + tl.arange(0, TILE)
        inside = token < V
        score = load_scores(logits, seen, penalty, row, token, inside, heat, V)
        distance = load_peak(ranks, row, heat, PROGRAMS, WIDTH) - score
        at = row * BINS + bin_of(distance)
        if by_count:
            tl.atomic_add(counts + at, 1, mask=inside, sem="relaxed")
        if by_mass:
            mass = mass_of(distance)
            tl.atomic_add(masses + at, mass, mask=inside & (mass > 0), sem="relaxed")
        if last_of(arrived + row, tl.num_programs(0)):
            _leave_limits(counts + row * BINS, masses + row * BINS, limits + row * 8, k, p, by_count, by_mass)


@triton.jit
def _leave_limits(counts, masses, limits, k, p, by_count, by_mass):
    bins = tl.arange(0, BINS)
    count = tl.load(counts + bins)
    mass = tl.load(masses + bins)
    tl.store(counts + bins, tl.zeros_like(count))
    tl.store(masses + bins, tl.zeros_like(mass))
    # top-k: the first bin with which there are k or more.
    k_bin = tl.where(by_count, tl.sum((tl.cumsum(count, 0) < k).to(tl.int32), 0), BINS)
    needed = k - tl.sum(tl.where(bins < k_bin, count, 0), 0)
    # top-p: a share of what top-k keeps, which lies between the mass before top-k's bin and that with it.
    before = tl.cumsum(mass, 0) - mass
    least = tl.sum(tl.where(bins < k_bin, mass, 0), 0)
    most = tl.sum(tl.where(bins <= k_bin, mass, 0), 0)
    first = tl.maximum(tl.sum((before < share_of(p, least)).to(tl.int32), 0) - 1, 0)
    last = tl.sum((before < share_of(p, most)).to(tl.int32), 0) - 1
    first = tl.where(by_mass, first, BINS)
    tl.store(limits, tl.minimum(k_bin, first).to(tl.int64))
    tl.store(limits + 1, k_bin.to(tl.int64))
    tl.store(limits + 2, first.to(tl.int64))
    tl.store(limits + 3, last.to(tl.int64))
    tl.store(limits + 4, needed.to(tl.int64))
    tl.store(limits + 5, least)
    tl.store(limits + 6, tl.sum(tl.where(bins < first, mass, 0), 0))


@triton.jit
def choose_kernel(
    logits,
    positions,
    temperature,
    top_k,
    top_p,
    penalty,
    seen,
    ranks,
    limits,
    arrived,
    min_p,
    seeds,
    streams,
    values,
    listed,
    listed_tokens,
    listed_counts,
    best,
    tokens,
    steps,
    ring,
    B: tl.constexpr,
    V: tl.constexpr,
    TILE: tl.constexpr,
    PROGRAMS: tl.constexpr,
    WIDTH: tl.constexpr,
    RING: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Draws among what is kept for sure; the last program adds what is kept of the bounds' bins."""
    let_next_start(DEPENDENT)
    wait_for_previous(DEPENDENT)
    row = tl.program_id(1)
    position = tl.load(positions + row)
    step = tl.load(steps + row)
    heat = tl.load(temperature + row)
    seed = tl.load(seeds + row)
    stream = tl.load(streams + row)
    least = tl.load(min_p + row)
    k = tl.load(top_k + row)
    p = tl.load(top_p + row)
    limits += row * 8
    by_count = (heat > 0) & (k > 0) & (k < V)
    by_mass = (heat > 0) & (p < 1.0)
    # Of a row without bounds, for which no limits were left, all bins are kept.
    bounded = by_count | by_mass
    sure_end = tl.where(bounded, tl.load(limits), BINS)
    k_bin = tl.where(bounded, tl.load(limits + 1), BINS)
    first = tl.where(bounded, tl.load(limits + 2), BINS)
    last = tl.minimum(tl.load(limits + 3), k_bin)
    peak = load_peak(ranks, row, heat, PROGRAMS, WIDTH)
    listed += row * V
    listed_tokens += row * V
    if position >= 0:
        token = tl.program_id(0) * TILE + tl.arange(0, TILE)
        inside = token < V
        score = load_scores(logits, seen, penalty, row, token, inside, heat, V)
        bin = bin_of(peak - score)
        at_bounds = inside & ((bin == k_bin) | ((bin >= first) & (bin <= last)))
        found = tl.sum(at_bounds.to(tl.int32), 0)
        if found > 0:
            at = tl.atomic_add(listed_counts + row, found, sem="relaxed")
            at += tl.cumsum(at_bounds.to(tl.int32), 0) - 1
            tl.store(listed + at, score, mask=at_bounds)
            tl.store(listed_tokens + at, token, mask=at_bounds)
        sure = inside & (bin < sure_end) & (tl.exp(score - peak) >= least)
        if tl.sum(sure.to(tl.int32), 0) > 0:  # mostly not, and a draw takes a hundred instructions
            rank = ranked(_drawn(score, seed, stream, position, token, heat), token)
            tl.atomic_max(best + row, tl.max(tl.where(sure, rank, LOWEST), 0), sem="relaxed")
    if last_of(arrived + row, tl.num_programs(0)):
        rows = row + tl.arange(0, 1)
        exists = rows < B
        highest, logsumexp = log_sum_exp(values, rows, exists, B, PROGRAMS, WIDTH)
        winner = tl.load(best + row)
        count = tl.load(listed_counts + row)
        tl.store(best + row, LOWEST)
        tl.store(listed_counts + row, 0)
        if count > 0:
            bound = _bound(listed, count, limits, peak, p, k_bin, first, last, by_count, by_mass)
            lanes = tl.arange(0, CHUNK)
            for start in range(0, count, CHUNK):
                there = start + lanes < count
                score = tl.load(listed + start + lanes, mask=there, other=float("-inf"))
                token = tl.load(listed_tokens + start + lanes, mask=there, other=0)
                kept = there & (key_of(score) >= bound) & (tl.exp(score - peak) >= least)
                rank = ranked(_drawn(score, seed, stream, position, token, heat), token)
                winner = tl.maximum(winner, tl.max(tl.where(kept, rank, LOWEST), 0))
        chosen = token_of(winner, V) + tl.arange(0, 1)
        logit = tl.load(logits + row * V + chosen)
        advance(
            rows,
            exists,
            position,
            step,
            chosen,
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


@triton.jit
def _drawn(score, seed, stream, position, token, heat):
    """Score plus noise; a greedy row's score as it is. The token drawn will stand behind `position`."""
    return tl.where(heat > 0, score + gumbel(seed, stream, position + 1, token), score)


@triton.jit
def _bound(listed, count, limits, peak, p, k_bin, first, last, by_count, by_mass):
    """The key that a listed score must have, or one above it, to be kept by top-k and top-p."""
    bound = LOWEST
    mass = tl.load(limits + 5)
    if by_count:
        bound = bound_of(listed, count, peak, k_bin, k_bin, tl.load(limits + 4), False)
        mass += mass_from(listed, count, peak, k_bin, bound)
    if by_mass:
        needed = share_of(p, mass) - tl.load(limits + 6)
        bound = tl.maximum(bound, bound_of(listed, count, peak, first, last, needed, True))
    return bound
