"""The LM head: W_head·rmsnorm(x) for up to 16 rows, and the choice of the next token where logits are made.

A program takes tiles that follow one another. Where tokens are selected, it then reads its logits back, each
by one thread whatever way the sums were made, and hands in what `kernels.gpu.select` makes of them; the last
program ends the step, or with top-k, top-p and min-p `kernels.gpu.filters` does. So logits go to memory in
any case: 0.1 % of what is read. To take them in between tiles would hide it behind loads, but weights under
way and draws together need more registers than a thread has where two programs share a multiprocessor.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.arrivals import last_of
from kernels.gpu.dependent import let_next_start, wait_for_previous
from kernels.gpu.filters import select_filtered
from kernels.gpu.gemv import accumulate, load_tile, low_rows, sum_up
from kernels.gpu.head_scratch import GpuHead, HeadScratch
from kernels.gpu.select import hand_in, nothing, settle, taken_in
from kernels.gpu.selection import Kind, Selection
from kernels.gpu.step import StepState
from kernels.gpu.stream import Stream, divisors, load_squares, words_of
from kernels.gpu.tiles import Tile

_AT_ONCE = 2048  # logits that a program of 8 warps takes in at a time: 8 a thread


def head_logits(
    stream: Stream, head: GpuHead, out: Tensor, *, tile: Tile | None = None, dependent: bool
) -> None:
    """out = W_head·rmsnorm(x). out (B, V) fp32, written. `stream` has to be scaled for the head's norm."""
    _check(stream, head, out)
    tile = head.matrix.tile(len(out)) if tile is None else tile
    head_kernel[(tile.programs,)](
        *_inputs(stream, head, out),
        *(None for _ in range(12)),  # what a selection takes
        **_options(stream, head, tile, dependent),
        WIDTH=1,
        RING=1,
        KIND=None,
    )


def head_select(
    stream: Stream,
    head: GpuHead,
    selection: Selection,
    state: StepState,
    positions: Tensor,
    scratch: HeadScratch,
    *,
    tile: Tile | None = None,
    dependent: bool,
) -> None:
    """Chooses each row's token and ends the step. `stream` has to be scaled for the head's norm.

    `positions` (B,) int32: where the tokens that the stream comes of stand; the chosen ones stand one
    further. Negative for a row that rests. Mutates `state`, `positions` (plus 1), `selection.seen` and
    `scratch`.
    """
    _check(stream, head, scratch.logits)
    tile = head.matrix.tile(len(selection)) if tile is None else tile
    if scratch.partials.ranks.shape != (len(stream.x), tile.programs):
        raise ValueError(f"a scratch for {list(scratch.partials.ranks.shape)} rows and programs: {tile}")
    if selection.kind is Kind.FILTERED and scratch.filters is None:
        raise ValueError("filters need a scratch made for them")
    head_kernel[(tile.programs,)](
        *_inputs(stream, head, scratch.logits),
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
        **_options(stream, head, tile, dependent),
        WIDTH=triton.next_power_of_2(tile.programs),
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


def _check(stream: Stream, head: GpuHead, out: Tensor) -> None:
    rows, hidden = stream.x.shape
    vocabulary, columns = head.matrix.shape
    if hidden != columns:
        raise ValueError(f"a stream of {hidden} columns; the head takes {columns}")
    if out.shape != (rows, vocabulary) or out.dtype != torch.float32 or not out.is_contiguous():
        raise ValueError(f"logits are {list(out.shape)} {out.dtype}, not [{rows}, {vocabulary}] float32")


def _inputs(stream: Stream, head: GpuHead, out: Tensor) -> tuple[Any, ...]:
    return words_of(stream.scaled), stream.squares, head.norm_eps, head.matrix.words, head.matrix.scales, out


def _options(stream: Stream, head: GpuHead, tile: Tile, dependent: bool) -> dict[str, Any]:
    rows, hidden = stream.x.shape
    places = triton.next_power_of_2(rows)
    return {
        "steps": tile.steps(hidden),
        "batch": rows,
        **head.matrix.constants(tile, rows),
        "B": rows,
        "PLACES": places,
        "AT_ONCE": min(_AT_ONCE // places, 1024),
        "PROGRAMS": tile.programs,
        "DEPENDENT": dependent,
        "num_warps": tile.warps,
        "num_stages": 1,
        "maxnreg": tile.registers,
        "launch_pdl": dependent,
    }


@triton.jit
def head_kernel(
    vectors,
    squares,
    eps,
    words,
    scales,
    logits,
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
    state_steps,
    ring,
    steps,
    batch,
    PAIRS: tl.constexpr,
    M: tl.constexpr,
    C: tl.constexpr,
    HALF: tl.constexpr,
    FORM: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    K: tl.constexpr,
    WARPS: tl.constexpr,
    BATCH: tl.constexpr,
    B: tl.constexpr,
    PLACES: tl.constexpr,
    AT_ONCE: tl.constexpr,
    PROGRAMS: tl.constexpr,
    WIDTH: tl.constexpr,
    RING: tl.constexpr,
    KIND: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Logits, and what is made of them for a KIND of selection; None for logits alone."""
    let_next_start(DEPENDENT)
    program = tl.program_id(0)
    TILES: tl.constexpr = PAIRS // (ROWS // 2)
    begin = program * TILES // PROGRAMS
    end = (program + 1) * TILES // PROGRAMS
    tile, scale = load_tile(words, scales, begin * (ROWS // 2), 0, M, C, HALF, FORM, GROUP, ROWS, K, WARPS)
    wait_for_previous(DEPENDENT)
    n = tl.arange(0, BATCH)[None, :]
    for this in range(begin, end):
        sums, tile, scale = accumulate(
            tile,
            scale,
            words,
            scales,
            vectors,
            this * (ROWS // 2),
            tl.where(this + 1 < end, (this + 1) * (ROWS // 2), PAIRS),
            steps,
            batch,
            PAIRS,
            M,
            C,
            HALF,
            FORM,
            GROUP,
            ROWS,
            K,
            WARPS,
            BATCH,
        )
        held = load_squares(squares, batch, C, BATCH)
        low, high = sum_up(sums, FORM, ROWS, BATCH)
        divisor = divisors(held, eps, C)
        row, _ = low_rows(this * (ROWS // 2), tl.arange(0, ROWS // 2), HALF, ROWS)
        places = logits + n * M + row[:, None]
        tl.store(places, low * divisor, mask=(row < M)[:, None] & (n < batch))
        tl.store(places + HALF, high * divisor, mask=(row + HALF < M)[:, None] & (n < batch))
    if KIND is not None:
        tl.debug_barrier()  # logits that some threads wrote are read by others
        best, chosen, highest, totals = nothing(PLACES)
        stop = tl.minimum(end * ROWS, M)
        for first in range(begin * ROWS, stop, AT_ONCE):
            best, chosen, highest, totals = taken_in(
                best,
                chosen,
                highest,
                totals,
                logits,
                first,
                stop,
                positions,
                temperature,
                penalty,
                seeds,
                streams,
                seen,
                B,
                PLACES,
                M,
                AT_ONCE,
                KIND == 1,
            )
        hand_in(best, chosen, highest, totals, program, ranks, values, B, PLACES, PROGRAMS)
        # With filters, who is kept must be known first: `kernels.gpu.filters` ends the step.
        if KIND < 2:  # noqa: SIM102 - one is known to the compiler, the other to the device
            if last_of(arrived, PROGRAMS):
                settle(
                    positions,
                    tokens,
                    state_steps,
                    ring,
                    seen,
                    ranks,
                    values,
                    B,
                    PLACES,
                    M,
                    PROGRAMS,
                    WIDTH,
                    RING,
                )
