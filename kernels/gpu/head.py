"""The LM head: W_head·rmsnorm(x) for up to 16 rows, and the choice of the next token where the logits are made.

A program takes a slice of the vocabulary. Where tokens are selected, it sums its slice up for each row
(`kernels.gpu.select`), and the last program ends the step; with top-k, top-p or min-p `kernels.gpu.filters`
does. Logits go to memory in any case, 0.1 % of what is read: a slice's summary then has one logit a thread,
whatever way the sums were made.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.arrivals import last_of
from kernels.gpu.dependent import let_next_start
from kernels.gpu.filters import FilterScratch, select_filtered
from kernels.gpu.select import Kind, Partials, Selection, settle, summarise
from kernels.gpu.slices import slice_by_dots, slice_by_sums
from kernels.gpu.step import StepState
from kernels.quantize import Matrix, Quantized

_MOST_ROWS = 16
_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
_WARPS = 8
_TILE_WORDS = (
    8192  # 32 KB ahead a program: two on each of 132 multiprocessors are 1.6 times what 4.8 TB/s take
)
_CHUNK = 64  # words of a row that one round of dot products takes


@dataclass(frozen=True, slots=True)
class GpuHead:
    """`norm` (E,) of any float dtype, `weight` (V, E) of floats, contiguous, or packed, `norm_eps`.

    Raises `ValueError` for a weight that is read in pairs and has an odd number of columns.
    """

    norm: Tensor
    weight: Matrix
    norm_eps: float

    def __post_init__(self) -> None:
        if isinstance(self.weight, Quantized):
            return
        if not self.weight.is_contiguous() or self.weight.dtype not in _DTYPES:
            raise ValueError(f"a head's weight is contiguous fp32, bf16 or fp16, not {self.weight.dtype}")
        if self.weight.dtype.itemsize == 2 and self.weight.shape[1] % 2:
            raise ValueError(f"16-bit weights are read in pairs: {self.weight.shape[1]} columns are odd")

    @property
    def words(self) -> Tensor:
        """The weight as int32."""
        packed = isinstance(self.weight, Quantized)
        return self.weight.words if packed else self.weight.view(torch.int32)  # type: ignore[union-attr]

    @property
    def bits(self) -> int:
        """Of one number in a word."""
        return self.weight.format.bits if isinstance(self.weight, Quantized) else 8 * self.weight.itemsize


@dataclass(frozen=True, slots=True)
class Division:
    """How the vocabulary is divided among programs: `tokens` each, a power of two, `programs` of them."""

    tokens: int
    programs: int

    @classmethod
    def of(cls, head: GpuHead, rows: int) -> "Division":
        """As many programs as their last one can look through at once: 8192 entries, 32 registers a thread.

        And at least 64 tokens each, 256 KB in bf16 at E = 2048, beside which norm and summary are small.
        """
        vocabulary, columns = head.weight.shape
        tokens = min(max(64, triton.next_power_of_2((1 << 17) // columns)), 1024)
        while triton.next_power_of_2(triton.cdiv(vocabulary, tokens)) * triton.next_power_of_2(rows) > 8192:
            tokens *= 2
        return cls(tokens, triton.cdiv(vocabulary, tokens))


@dataclass(frozen=True, slots=True)
class HeadScratch:
    """What a step's selection needs in between, for B rows: `logits` (B, V) fp32, `partials`, `filters`.

    After a step `logits` are the model's own, before penalty and temperature.
    """

    logits: Tensor
    partials: Partials
    filters: FilterScratch | None

    @classmethod
    def make(cls, head: GpuHead, selection: Selection) -> "HeadScratch":
        rows, vocabulary, device = len(selection), head.weight.shape[0], head.norm.device
        return cls(
            torch.empty(rows, vocabulary, dtype=torch.float32, device=device),
            Partials.make(rows, Division.of(head, rows).programs, device),
            FilterScratch.make(rows, vocabulary, device) if selection.kind is Kind.FILTERED else None,
        )


def head_logits(x: Tensor, head: GpuHead, out: Tensor, *, dependent: bool) -> None:
    """out = W_head·rmsnorm(x). x (B, E) of any float dtype, B <= 16, contiguous; out (B, V) fp32, written."""
    _check(x, head, out)
    division = Division.of(head, len(x))
    logits_kernel[(division.programs,)](
        *_inputs(x, head, out),
        **_sizes(head, len(x), division, dependent),
        num_warps=_WARPS,
        num_stages=1,
        launch_pdl=dependent,
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

    `positions` (B,) int32: where the tokens that x comes of stand; the chosen ones stand one further. Negative
    for a row that rests. Mutates `state`, `positions` (plus 1), `selection.seen` and `scratch`.
    """
    _check(x, head, scratch.logits)
    rows = len(x)
    if selection.kind is Kind.FILTERED and scratch.filters is None:
        raise ValueError("filters need a scratch made for them")
    division = Division.of(head, rows)
    select_kernel[(division.programs,)](
        *_inputs(x, head, scratch.logits),
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
        **_sizes(head, rows, division, dependent),
        ROWS=triton.next_power_of_2(rows),
        PROGRAMS=division.programs,
        PROGRAM_WIDTH=triton.next_power_of_2(division.programs),
        RING=len(state.ring),
        KIND=int(selection.kind),
        num_warps=_WARPS,
        num_stages=1,
        launch_pdl=dependent,
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


def _sizes(head: GpuHead, rows: int, division: Division, dependent: bool) -> dict[str, Any]:
    vocabulary, columns = head.weight.shape
    packed = isinstance(head.weight, Quantized)
    length = head.words.shape[1]  # words of a row, in either layout
    one_row = rows == 1 and not packed
    width = triton.next_power_of_2(length) if one_row else _CHUNK
    return {
        "B": rows,
        "V": vocabulary,
        "E": columns,
        "BITS": head.bits,
        "GROUP": head.weight.format.group if isinstance(head.weight, Quantized) else 0,
        "DTYPE": _DTYPES[head.norm.dtype if isinstance(head.weight, Quantized) else head.weight.dtype],
        "LENGTH": length,
        "ONE_ROW": one_row,
        "WIDTH": width,
        "TILE": min(max(_TILE_WORDS // width, 1), division.tokens) if one_row else 64,
        "SLICE": division.tokens,
        "DEPENDENT": dependent,
    }


@triton.jit
def _slice(
    x,
    norm,
    words,
    scales,
    logits,
    eps,
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
    DEPENDENT: tl.constexpr,
):
    first = tl.program_id(0) * SLICE
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


@triton.jit
def logits_kernel(
    x,
    norm,
    words,
    scales,
    logits,
    eps,
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
    DEPENDENT: tl.constexpr,
):
    """Logits alone."""
    let_next_start(DEPENDENT)
    _slice(
        x,
        norm,
        words,
        scales,
        logits,
        eps,
        B,
        V,
        E,
        BITS,
        GROUP,
        DTYPE,
        LENGTH,
        ONE_ROW,
        WIDTH,
        TILE,
        SLICE,
        DEPENDENT,
    )


@triton.jit
def select_kernel(
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
    values,
    tokens,
    arrived,
    state_tokens,
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
    DEPENDENT: tl.constexpr,
    ROWS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    PROGRAM_WIDTH: tl.constexpr,
    RING: tl.constexpr,
    KIND: tl.constexpr,
):
    """Logits and what `kernels.gpu.select` says of them; of KIND 2 the filters end the step."""
    let_next_start(DEPENDENT)
    _slice(
        x,
        norm,
        words,
        scales,
        logits,
        eps,
        B,
        V,
        E,
        BITS,
        GROUP,
        DTYPE,
        LENGTH,
        ONE_ROW,
        WIDTH,
        TILE,
        SLICE,
        DEPENDENT,
    )
    tl.debug_barrier()  # the logits, which few threads wrote, are read by all
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
    if KIND < 2:
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
