"""The LM head: W_head·rmsnorm(x) for up to 16 rows, and the choice of the next token where the logits are made.

A program takes a slice of the vocabulary. Where tokens are selected, it sums its slice up for each row
(`kernels.gpu.select`), and the last program ends the step; with top-k, top-p or min-p `kernels.gpu.filters`
does. Logits go to memory in any case, 0.1 % of what is read: a slice's epilogue then has one logit a thread,
whatever way the sums were made.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.arrivals import last_of
from kernels.gpu.dependent import let_next_start, wait_for_previous
from kernels.gpu.filters import FilterScratch, select_filtered
from kernels.gpu.select import Kind, Partials, Selection, settle, summarise
from kernels.gpu.step import StepState
from kernels.quantize import Matrix


@dataclass(frozen=True, slots=True)
class GpuHead:
    """`norm` (E,) of any float dtype, `weight` (V, E) of floats or packed, `norm_eps`."""

    norm: Tensor
    weight: Matrix
    norm_eps: float


def slice_of(vocabulary: int, columns: int, rows: int) -> int:
    """Tokens of one program, a power of two.

    At least 256 KB of bf16, beside which norm and epilogue are small; and so few programs that the last one
    reads what all found in one go: 8192 numbers, 32 registers a thread.
    """
    tokens = max(64, triton.next_power_of_2((1 << 17) // columns))
    while triton.next_power_of_2(triton.cdiv(vocabulary, tokens)) * triton.next_power_of_2(rows) > 8192:
        tokens *= 2
    return tokens


@dataclass(frozen=True, slots=True)
class HeadScratch:
    """What a step's selection needs in between, for B rows: `logits` (B, V) fp32, `partials`, `filters`.

    After a step `logits` holds the model's own, before penalty and temperature.
    """

    logits: Tensor
    partials: Partials
    filters: FilterScratch | None

    @classmethod
    def make(cls, head: GpuHead, selection: Selection) -> "HeadScratch":
        rows, (vocabulary, columns) = len(selection), head.weight.shape
        device = head.norm.device
        programs = triton.cdiv(vocabulary, slice_of(vocabulary, columns, rows))
        return cls(
            torch.empty(rows, vocabulary, dtype=torch.float32, device=device),
            Partials.make(rows, programs, device),
            FilterScratch.make(rows, vocabulary, device) if selection.kind is Kind.FILTERED else None,
        )


def head_select(
    x: Tensor,
    head: GpuHead,
    selection: Selection,
    state: StepState,
    positions: Tensor,
    scratch: HeadScratch,
    *,
    dependent: bool,
) -> None:
    """Chooses the token behind `positions` (B,) int32 of each row from x (B, E), any float dtype; ends the step.

    Mutates `state`, `positions` (plus 1), `selection.seen` and `scratch`. A row of negative position rests.
    """
    rows, columns = x.shape
    vocabulary = head.weight.shape[0]
    size = slice_of(vocabulary, columns, rows)
    programs = triton.cdiv(vocabulary, size)
    width = triton.next_power_of_2(columns)
    select_kernel[(programs,)](
        x,
        head.norm,
        head.weight,
        scratch.logits,
        positions,
        selection.temperature,
        selection.penalty,
        selection.seeds,
        selection.streams,
        selection.seen,
        scratch.partials.values,
        scratch.partials.tokens,
        scratch.partials.arrived,
        state.tokens,
        state.steps,
        state.ring,
        head.norm_eps,
        B=rows,
        ROWS=triton.next_power_of_2(rows),
        V=vocabulary,
        E=columns,
        COLUMNS=width,
        TILE=8192 // width,
        SLICE=size,
        PROGRAMS=programs,
        PROGRAM_WIDTH=triton.next_power_of_2(programs),
        RING=len(state.ring),
        KIND=int(selection.kind),
        DEPENDENT=dependent,
        num_warps=4,
        launch_pdl=dependent,
    )
    if scratch.filters is not None:
        select_filtered(
            scratch.logits,
            selection,
            state,
            positions,
            scratch.partials,
            scratch.filters,
            dependent=dependent,
        )


@triton.jit
def _dense_slice(
    x,
    norm,
    weight,
    logits,
    eps,
    B: tl.constexpr,
    ROWS: tl.constexpr,
    V: tl.constexpr,
    E: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    SLICE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    first = tl.program_id(0) * SLICE
    column = tl.arange(0, COLUMNS)
    within = column < E
    line = tl.arange(0, TILE)
    at = weight + (first + line)[:, None].to(tl.int64) * E + column[None, :]
    ahead = tl.load(at, mask=(first + line < V)[:, None] & within[None, :], other=0.0)
    gain = tl.load(norm + column, mask=within, other=0.0).to(tl.float32)
    wait_for_previous(DEPENDENT)
    row = tl.arange(0, ROWS)
    there = (row < B)[:, None] & within[None, :]
    vector = tl.load(x + row[:, None] * E + column[None, :], mask=there, other=0.0).to(tl.float32)
    vector *= tl.rsqrt(tl.sum(vector * vector, 1) / E + eps)[:, None] * gain[None, :]
    for start in range(0, SLICE, TILE):
        tile = ahead
        token = first + start + line
        at += TILE * E
        coming = (token + TILE < V) & (start + TILE < SLICE)
        ahead = tl.load(at, mask=coming[:, None] & within[None, :], other=0.0)
        sums = tl.sum(tile.to(tl.float32)[None, :, :] * vector[:, None, :], 2)
        tl.store(
            logits + row[:, None] * V + token[None, :],
            sums,
            mask=(row < B)[:, None] & (token < V)[None, :],
        )


@triton.jit
def select_kernel(
    x,
    norm,
    weight,
    logits,
    positions,
    temperature,
    penalty,
    seeds,
    streams,
    seen,
    values,
    tokens,
    arrived,
    state_tokens,
    steps,
    ring,
    eps,
    B: tl.constexpr,
    ROWS: tl.constexpr,
    V: tl.constexpr,
    E: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    SLICE: tl.constexpr,
    PROGRAMS: tl.constexpr,
    PROGRAM_WIDTH: tl.constexpr,
    RING: tl.constexpr,
    KIND: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    let_next_start(DEPENDENT)
    _dense_slice(x, norm, weight, logits, eps, B, ROWS, V, E, COLUMNS, TILE, SLICE, DEPENDENT)
    tl.debug_barrier()  # all threads read the logits that few of them wrote
    program = tl.program_id(0)
    summarise(
        logits,
        program * SLICE,
        program,
        positions,
        temperature,
        penalty,
        seeds,
        streams,
        seen,
        values,
        tokens,
        B,
        ROWS,
        V,
        SLICE,
        PROGRAMS,
        KIND == 1,
    )
    if KIND < 2:  # else the filters end the step
        if last_of(arrived, PROGRAMS):
            settle(
                positions,
                state_tokens,
                steps,
                ring,
                seen,
                values,
                tokens,
                B,
                ROWS,
                V,
                PROGRAMS,
                PROGRAM_WIDTH,
                RING,
            )
