"""Top-k, top-p and min-p, exactly, in two launches behind the head; the draw is Gumbel-max over what is kept.

All three keep what is at or above some logit. `narrow` sorts the logits into bins by their distance from the
highest one, counts them (top-k) and adds up their probability mass (top-p), and finds the bins that the two
bounds fall into. `choose` draws among the logits that are kept for sure, sets those of the bounds' own bins
apart, and its last program of each row finds the bounds among them.

Sums are of integers, so that they do not depend on the order in which atomics arrive: the kept set is
deterministic. Of equal logits at a bound all are kept; the host's nucleus keeps some of them, its top-k all.
A row without top-k and top-p needs no bins.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.arrivals import last_of
from kernels.gpu.dependent import let_next_start, wait_for_previous
from kernels.gpu.random import gumbel
from kernels.gpu.select import Partials, Selection, log_sum_exp, penalised, tempered
from kernels.gpu.step import StepState, advance

# Bins are the leading bits of 1 + distance as a float: 256 in each doubling, the first 1/256 wide, up to a
# distance of 255, where the mass is 0 in fp32. Of normal logits, a bound's own bin holds some hundred of 128k.
_BIN_SHIFT = tl.constexpr(15)
_BINS = tl.constexpr(2048)
# Mass is exp(-distance) in units of 2^-44: the sum of 2^18 of them fits into 63 bits.
_MASS_UNITS = tl.constexpr(2.0**44)
_LOWEST = tl.constexpr(-(2**63))
_TILE = 2048  # logits of a program: 63 programs a row of 128k, of 8 warps with two 128-bit loads a thread
_CHUNK = tl.constexpr(256)  # open logits that the last program of a row takes at a time
_WAYS = tl.constexpr(16)  # bounds that it tries at a time: four bits of the bound each time


@dataclass(frozen=True, slots=True)
class FilterScratch:
    """What the two launches hand each other, for B rows; everything is as made again after a step.

    `counts` (B, bins) int32, `masses` (B, bins) int64: zero.
    `limits` (B, 8) int64: [the first bin that is not kept as a whole, top-k's bin, the first and the last bin
    that top-p's bound may be in, how many of its bin top-k keeps, the mass before that bin, the mass before
    top-p's first bin, unused].
    `open_scores` (B, V) fp32 and `open_tokens` (B, V) int32: what lies in the bounds' bins, in any order;
    `open_counts` (B,) int32 of them, zero.
    `best` (B,) int64: score and token of the best that is kept for sure; the lowest number.
    `arrived` (B,) int32: programs that are done, zero.
    """

    counts: Tensor
    masses: Tensor
    limits: Tensor
    open_scores: Tensor
    open_tokens: Tensor
    open_counts: Tensor
    best: Tensor
    arrived: Tensor

    @classmethod
    def make(cls, rows: int, vocabulary: int, device: torch.device) -> "FilterScratch":
        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            counts=zeros(rows, _BINS.value, dtype=torch.int32),
            masses=zeros(rows, _BINS.value, dtype=torch.int64),
            limits=zeros(rows, 8, dtype=torch.int64),
            open_scores=zeros(rows, vocabulary, dtype=torch.float32),
            open_tokens=zeros(rows, vocabulary, dtype=torch.int32),
            open_counts=zeros(rows, dtype=torch.int32),
            best=torch.full((rows,), torch.iinfo(torch.int64).min, device=device),
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
    programs = partials.tokens.shape[1]
    grid = (triton.cdiv(vocabulary, _TILE), rows)
    sizes = {
        "B": rows,
        "V": vocabulary,
        "TILE": _TILE,
        "PROGRAMS": programs,
        "WIDTH": triton.next_power_of_2(programs),
        "DEPENDENT": dependent,
    }
    shared = (
        logits,
        positions,
        selection.temperature,
        selection.top_k,
        selection.top_p,
        selection.penalty,
        selection.seen,
        partials.values,
        scratch.limits,
        scratch.arrived,
    )
    narrow_kernel[grid](*shared, scratch.counts, scratch.masses, **sizes, num_warps=8, launch_pdl=dependent)
    choose_kernel[grid](
        *shared,
        selection.min_p,
        selection.seeds,
        selection.streams,
        scratch.open_scores,
        scratch.open_tokens,
        scratch.open_counts,
        scratch.best,
        state.tokens,
        state.steps,
        state.ring,
        **sizes,
        RING=len(state.ring),
        num_warps=8,
        launch_pdl=dependent,
    )


@triton.jit
def _scores(logits, seen, penalty, row, token, inside, heat, V: tl.constexpr):
    """What the row's softmax is taken of: its logits, penalised, over the temperature. -inf outside."""
    at = row * V + token
    score = tl.load(logits + at, mask=inside, other=float("-inf"))
    if seen is not None:
        before = tl.load(seen + at, mask=inside, other=0)
        score = penalised(score, before, tl.load(penalty + row))
    return tempered(score, heat)


@triton.jit
def _peak(values, row, heat, PROGRAMS: tl.constexpr, WIDTH: tl.constexpr):
    """The highest of the row's scores: of a kind that is filtered, the head's best score is the penalised logit."""
    program = tl.arange(0, WIDTH)
    best = tl.load(values + row * PROGRAMS + program, mask=program < PROGRAMS, other=float("-inf"))
    return tempered(tl.max(best, 0), heat)


@triton.jit
def _bin(distance):
    """The bin of a distance >= 0: it never falls as the distance grows; 0 … BINS-1 for any bits at all."""
    above_one = (1.0 + distance).to(tl.int32, bitcast=True) - 0x3F800000
    return tl.minimum(tl.maximum(above_one >> _BIN_SHIFT, 0), _BINS - 1)


@triton.jit
def _mass(distance):
    return (tl.exp(-distance) * _MASS_UNITS).to(tl.int64)


@triton.jit
def _key(score):
    """int64 in the range of an int32, in the order of the floats."""
    bits = score.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _ranked(score, token):
    """int64 whose order is that of the scores, of equal ones the lowest token first."""
    return (_key(score) << 32) | (0x7FFFFFFF - token).to(tl.int64)


@triton.jit
def _share_of(top_p, mass):
    """The least whole mass that is not below top_p · mass: less than it must lie before a token of the nucleus."""
    return tl.ceil(top_p * mass.to(tl.float64)).to(tl.int64)


@triton.jit
def narrow_kernel(
    logits,
    positions,
    temperature,
    top_k,
    top_p,
    penalty,
    seen,
    values,
    limits,
    arrived,
    counts,
    masses,
    B: tl.constexpr,
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
        score = _scores(logits, seen, penalty, row, token, inside, heat, V)
        distance = _peak(values, row, heat, PROGRAMS, WIDTH) - score
        at = row * _BINS + _bin(distance)
        if by_count:
            tl.atomic_add(counts + at, 1, mask=inside, sem="relaxed")
        if by_mass:
            mass = _mass(distance)
            tl.atomic_add(masses + at, mass, mask=inside & (mass > 0), sem="relaxed")
        if last_of(arrived + row, tl.num_programs(0)):
            _leave_limits(row, k, p, by_count, by_mass, counts, masses, limits)


@triton.jit
def _leave_limits(row, k, p, by_count, by_mass, counts, masses, limits):
    bins = tl.arange(0, _BINS)
    count = tl.load(counts + row * _BINS + bins, cache_modifier=".cg")
    mass = tl.load(masses + row * _BINS + bins, cache_modifier=".cg")
    tl.store(counts + row * _BINS + bins, tl.zeros_like(count))
    tl.store(masses + row * _BINS + bins, tl.zeros_like(mass))
    # top-k: the first bin with which there are k or more.
    upto = tl.cumsum(count, 0)
    k_bin = tl.where(by_count, tl.sum((upto < k).to(tl.int32), 0), _BINS)
    needed = k - tl.sum(tl.where(bins < k_bin, count, 0), 0)
    # top-p's share is of what top-k keeps, which lies between the mass before top-k's bin and that with it.
    mass_before = tl.cumsum(mass, 0) - mass
    least = tl.sum(tl.where(bins < k_bin, mass, 0), 0)
    most = tl.sum(tl.where(bins <= k_bin, mass, 0), 0)
    first = tl.maximum(tl.sum((mass_before < _share_of(p, least)).to(tl.int32), 0) - 1, 0)
    last = tl.sum((mass_before < _share_of(p, most)).to(tl.int32), 0) - 1
    first = tl.where(by_mass, first, _BINS)
    last = tl.where(by_mass, last, _BINS)
    before_first = tl.sum(tl.where(bins < first, mass, 0), 0)
    limits += row * 8
    tl.store(limits, tl.minimum(k_bin, first).to(tl.int64))
    tl.store(limits + 1, k_bin.to(tl.int64))
    tl.store(limits + 2, first.to(tl.int64))
    tl.store(limits + 3, last.to(tl.int64))
    tl.store(limits + 4, needed.to(tl.int64))
    tl.store(limits + 5, least)
    tl.store(limits + 6, before_first)


@triton.jit
def choose_kernel(
    logits,
    positions,
    temperature,
    top_k,
    top_p,
    penalty,
    seen,
    values,
    limits,
    arrived,
    min_p,
    seeds,
    streams,
    open_scores,
    open_tokens,
    open_counts,
    best,
    state_tokens,
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
    """Draws among what is kept for sure; the last program adds what is kept of the bounds' bins, ends the step."""
    let_next_start(DEPENDENT)
    wait_for_previous(DEPENDENT)
    row = tl.program_id(1)
    position = tl.load(positions + row)
    heat = tl.load(temperature + row)
    seed = tl.load(seeds + row)
    stream = tl.load(streams + row)
    least = tl.load(min_p + row)
    k = tl.load(top_k + row)
    p = tl.load(top_p + row)
    by_count = (heat > 0) & (k > 0) & (k < V)
    by_mass = (heat > 0) & (p < 1.0)
    peak = _peak(values, row, heat, PROGRAMS, WIDTH)
    if position >= 0:
        token = tl.program_id(0) * TILE + tl.arange(0, TILE)
        inside = token < V
        score = _scores(logits, seen, penalty, row, token, inside, heat, V)
        distance = peak - score
        bin = _bin(distance)
        sure_end = _BINS
        if by_count | by_mass:
            sure_end = tl.load(limits + row * 8).to(tl.int32)
            is_open = inside & _in_bounds(bin, limits + row * 8)
            found = tl.sum(is_open.to(tl.int32), 0)
            if found > 0:
                at = tl.atomic_add(open_counts + row, found, sem="relaxed")
                at += row * V + tl.cumsum(is_open.to(tl.int32), 0) - 1
                tl.store(open_scores + at, score, mask=is_open)
                tl.store(open_tokens + at, token, mask=is_open)
        sure = inside & (bin < sure_end) & (tl.exp(-distance) >= least)
        if tl.sum(sure.to(tl.int32), 0) > 0:  # mostly not, and a draw takes a hundred instructions
            drawn = _drawn(score, seed, stream, position, token, heat)
            tl.atomic_max(
                best + row, tl.max(tl.where(sure, _ranked(drawn, token), _LOWEST), 0), sem="relaxed"
            )
    if last_of(arrived + row, tl.num_programs(0)):
        winner = tl.load(best + row, cache_modifier=".cg")
        tl.store(best + row, _LOWEST)
        found = tl.load(open_counts + row, cache_modifier=".cg")
        tl.store(open_counts + row, 0)
        if found > 0:
            winner = tl.maximum(
                winner,
                _best_open(
                    open_scores + row * V,
                    open_tokens + row * V,
                    found,
                    limits + row * 8,
                    peak,
                    p,
                    by_count,
                    by_mass,
                    least,
                    seed,
                    stream,
                    position,
                    heat,
                ),
            )
        token = 0x7FFFFFFF - (winner & 0xFFFFFFFF).to(tl.int32)
        token = tl.minimum(tl.maximum(token, 0), V - 1)
        logit = tl.load(logits + row * V + token)
        rows = row + tl.arange(0, 1)
        exists = rows < B
        highest, logsumexp = log_sum_exp(values, rows, exists, B, PROGRAMS, WIDTH)
        advance(
            rows,
            exists,
            token + tl.arange(0, 1),
            logit + tl.zeros((1,), tl.float32),
            highest,
            logsumexp,
            positions,
            state_tokens,
            steps,
            ring,
            seen,
            B,
            V,
            RING,
        )


@triton.jit
def _drawn(score, seed, stream, position, token, heat):
    """Score plus Gumbel noise; a greedy row's score as it is. The drawn token will stand behind `position`."""
    noise = gumbel(seed, stream, position + 1, token)
    return tl.where(heat > 0, score + noise, score)


@triton.jit
def _in_bounds(bin, limits):
    """Whether these bins are those that a bound falls into: what is in them is kept or not by its score."""
    k_bin = tl.load(limits + 1)
    return (bin == k_bin) | ((bin >= tl.load(limits + 2)) & (bin <= tl.load(limits + 3)) & (bin <= k_bin))


@triton.jit
def _best_open(
    scores,
    tokens,
    found,
    limits,
    peak,
    p,
    by_count,
    by_mass,
    least,
    seed,
    stream,
    position,
    heat,
):
    """The best ranked of the row's `found` open logits that top-k, top-p and min-p keep."""
    lanes = tl.arange(0, _CHUNK)
    k_bin = tl.load(limits + 1)
    bound = _LOWEST
    kept_mass = tl.load(limits + 5)
    if by_count:
        bound = _bound(scores, found, peak, k_bin, k_bin, tl.load(limits + 4), False)
        if by_mass:
            within = tl.zeros((_CHUNK,), tl.int64)
            for start in range(0, found, _CHUNK):
                there = start + lanes < found
                score = tl.load(scores + start + lanes, mask=there, other=float("-inf"))
                kept = there & (_bin(peak - score) == k_bin) & (_key(score) >= bound)
                within += tl.where(kept, _mass(peak - score), 0)
            kept_mass += tl.sum(within, 0)
    if by_mass:
        needed = _share_of(p, kept_mass) - tl.load(limits + 6)
        nucleus = _bound(scores, found, peak, tl.load(limits + 2), tl.load(limits + 3), needed, True)
        bound = tl.maximum(bound, nucleus)
    winner = tl.full((_CHUNK,), _LOWEST, tl.int64)
    for start in range(0, found, _CHUNK):
        there = start + lanes < found
        score = tl.load(scores + start + lanes, mask=there, other=float("-inf"))
        token = tl.load(tokens + start + lanes, mask=there, other=0)
        kept = there & (_key(score) >= bound) & (tl.exp(score - peak) >= least)
        drawn = _ranked(_drawn(score, seed, stream, position, token, heat), token)
        winner = tl.maximum(winner, tl.where(kept, drawn, _LOWEST))
    return tl.max(winner, 0)


@triton.jit
def _bound(scores, found, peak, first, last, needed, BY_MASS: tl.constexpr):
    """The highest key such that the open logits at or above it, of bins first … last, are `needed` or more.

    Counted, or BY_MASS weighed. All together they are at least as many.
    """
    lanes = tl.arange(0, _CHUNK)
    lowest = tl.full((_CHUNK,), 1 << 31, tl.int64)
    highest = tl.full((_CHUNK,), -(1 << 31), tl.int64)
    for start in range(0, found, _CHUNK):
        there = start + lanes < found
        key = _key(tl.load(scores + start + lanes, mask=there, other=0.0))
        lowest = tl.minimum(lowest, tl.where(there, key, lowest))
        highest = tl.maximum(highest, tl.where(there, key, highest))
    low = tl.min(lowest, 0)  # enough lie at or above `low`, too few at or above `high`
    high = tl.max(highest, 0) + 1
    while high - low > 1:
        step = (high - low + _WAYS - 1) // _WAYS
        tried = low + step * (1 + tl.arange(0, _WAYS))
        above = tl.zeros((_CHUNK, _WAYS), tl.int64)  # in this order few lanes share a sum
        for start in range(0, found, _CHUNK):
            there = start + lanes < found
            score = tl.load(scores + start + lanes, mask=there, other=float("-inf"))
            distance = peak - score
            bin = _bin(distance)
            weight = (there & (bin >= first) & (bin <= last)).to(tl.int64)
            if BY_MASS:
                weight *= _mass(distance)
            above += tl.where(_key(score)[:, None] >= tried[None, :], weight[:, None], 0)
        low += step * tl.sum((tl.sum(above, 0) >= needed).to(tl.int64), 0)
        high = tl.minimum(high, low + step)
    return low
