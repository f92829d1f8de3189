"""The LM head: W_head·rmsnorm(x) for up to 16 rows, and the choice of the next token where logits are made.

A program takes a slice of the vocabulary. Where tokens are selected, it sums its slice up for each row
(`kernels.gpu.select`), and the last program ends the step; with top-k, top-p or min-p `kernels.gpu.filters`
does. Logits go to memory in any case, 0.1 % of what is read: a slice's summary then has one logit a thread,
whatever way the sums were made.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.arrivals import last_of
from kernels.gpu.dependent import let_next_start
from kernels.gpu.filters import select_filtered
from kernels.gpu.head_scratch import DTYPES, Division, GpuHead, HeadScratch
from kernels.gpu.select import settle, summarise
from kernels.gpu.selection import Kind, Selection
from kernels.gpu.slices import slice_by_dots, slice_by_sums
from kernels.gpu.step import StepState
from kernels.quantize import Quantized

_MOST_ROWS = 16
_WARPS = 8
_TILE_WORDS = (
    8192  # 32 KB ahead a program: two on each of 132 multiprocessors are 1.6 times what 4.8 TB/s take
)
_CHUNK = 64  # words of a row that one round of dot products takes


def head_logits(x: Tensor, head: GpuHead, out: Tensor, *, dependent: bool) -> None:
    """out = W_head·rmsnorm(x). x (B, E) of any float dtype, B <= 16, contiguous; out (B, V) fp32, written."""
    _check(x, head, out)
    division = Division.of(head, len(x))
    head_kernel[(division.programs,)](
        *_inputs(x, head, out),
        *(None for _ in range(12)),  # what a selection takes
        **_options(head, len(x), division, dependent),
        ROWS=1,
        PROGRAM_WIDTH=1,
        RING=1,
        KIND=None,
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
    """Chooses each row's token from x (B, E), B <= 16, any float dtype, contiguous; ends the step.

    `positions` (B,) int32: where the tokens that x comes of stand; the chosen ones stand one further.
    Negative for a row that rests. Mutates `state`, `positions` (plus 1), `selection.seen` and `scratch`.
    """
    _check(x, head, scratch.logits)
    rows = len(x)
    if selection.kind is Kind.FILTERED and scratch.filters is None:
        raise ValueError("filters need a scratch made for them")
    division = Division.of(head, rows)
    head_kernel[(division.programs,)](
        *_inputs(x, head, scratch.logits),
        positions,
        selection.temperature,
        selection.penalty,
        selection.seeds,
        selection.streams,
        selection.seen,
        scratch.partials.ranks,
        scratch.partials.values,
        scratch.partials.arrived,
        state.tokens,
        state.steps,
        state.ring,
        **_options(head, rows, division, dependent),
        ROWS=triton.next_power_of_2(rows),
        PROGRAM_WIDTH=triton.next_power_of_2(division.programs),
        RING=len(state.ring),
        KIND=int(selection.kind),
    )
    if selection.kind is Kind.FILTERED:
        assert scratch.filters is not None
        select_filtered(
            scratch.logits,
            selection,
            state,
            positions,
            scratch.partials,
            scratch.filters,
            dependent=dependent,
        )


def _check(x: Tensor, head: GpuHead, out: Tensor) -> None:
    rows, (vocabulary, columns) = len(x), head.weight.shape
    if not 1 <= rows <= _MOST_ROWS:
        raise ValueError(f"1 to {_MOST_ROWS} rows are taken, not {rows}")
    if x.shape != (rows, columns) or not x.is_contiguous():
        raise ValueError(f"x is {list(x.shape)}; the head takes contiguous (B, {columns})")
    if out.shape != (rows, vocabulary) or out.dtype != torch.float32 or not out.is_contiguous():
        raise ValueError(f"logits are {list(out.shape)} {out.dtype}, not [{rows}, {vocabulary}] float32")


def _inputs(x: Tensor, head: GpuHead, out: Tensor) -> tuple[Any, ...]:
    scales = head.weight.scales if isinstance(head.weight, Quantized) else None
    return x, head.norm, head.words, scales, out, head.norm_eps


def _options(head: GpuHead, rows: int, division: Division, dependent: bool) -> dict[str, Any]:
    vocabulary, columns = head.weight.shape
    packed = isinstance(head.weight, Quantized)
    length = head.words.shape[1]  # words of a row, plain or packed
    one_row = rows == 1 and not packed
    width = triton.next_power_of_2(length) if one_row else _CHUNK
    return {
        "B": rows,
        "V": vocabulary,
        "E": columns,
        "BITS": head.bits,
        "GROUP": head.group,
        "DTYPE": DTYPES[head.dtype],
        "LENGTH": length,
        "ONE_ROW": one_row,
        "WIDTH": width,
        "TILE": min(max(_TILE_WORDS // width, 1), division.tokens) if one_row else 64,
        "SLICE": division.tokens,
        "PROGRAMS": division.programs,
        "DEPENDENT": dependent,
        "num_warps": _WARPS,
        "num_stages": 1,  # loads ahead are written out
        "launch_pdl": dependent,
    }


@triton.jit
def head_kernel(
    x,
    norm,
    words,
    scales,
    logits,
    eps,
    positions,
    temperature,
    penalty,
    seeds,
    streams,
    seen,
    ranks,
    values,
    arrived,
    tokens,
    steps,
    ring,
    B: tl.constexpr,
    V: tl.constexpr,
    E: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    DTYPE: tl.constexpr,
    LENGTH: tl.constexpr,
    ONE_ROW: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    SLICE: tl.constexpr,
    PROGRAMS: tl.constexpr,
    DEPENDENT: tl.constexpr,
    ROWS: tl.constexpr,
    PROGRAM_WIDTH: tl.constexpr,
    RING: tl.constexpr,
    KIND: tl.constexpr,
):
    """Logits, and what is made of them for a KIND of selection; None for logits alone."""
    let_next_start(DEPENDENT)
    program = tl.program_id(0)
    first = program * SLICE
    if ONE_ROW:
        slice_by_sums(x, norm, words, logits, eps, first, V, E, BITS, DTYPE, WIDTH, TILE, SLICE, DEPENDENT)
    else:
        slice_by_dots(
            x,
            norm,
            words,
            scales,
            logits,
            eps,
            first,
            B,
            V,
            E,
            BITS,
            GROUP,
            DTYPE,
            LENGTH,
            TILE,
            WIDTH,
            SLICE,
            DEPENDENT,
        )
    if KIND is not None:
        tl.debug_barrier()  # the logits, which few threads wrote, are read by all
        summarise(
            logits,
            first,
            program,
            positions,
            temperature,
            penalty,
            seeds,
            streams,
            seen,
            ranks,
            values,
            B,
            ROWS,
            V,
            SLICE,
            PROGRAMS,
            KIND == 1,
        )
        # With filters, who is kept must be known first: `kernels.gpu.filters` ends the step.
        if KIND < 2:  # noqa: SIM102 - one is known to the compiler, the other to the device
            if last_of(arrived, PROGRAMS):
                settle(
                    positions,
                    tokens,
                    steps,
                    ring,
                    seen,
                    ranks,
                    values,
                    B,
                    ROWS,
                    V,
                    PROGRAMS,
                    PROGRAM_WIDTH,
                    RING,
                )
