"""The head as its kernel reads it, how the vocabulary is divided, what a selection needs in between."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.filters import FilterScratch
from kernels.gpu.select import Partials
from kernels.gpu.selection import Kind, Selection
from kernels.quantize import Matrix, Quantized

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


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
        if not self.weight.is_contiguous() or self.weight.dtype not in DTYPES:
            raise ValueError(f"a head's weight is contiguous fp32, bf16 or fp16, not {self.weight.dtype}")
        if self.weight.dtype.itemsize == 2 and self.weight.shape[1] % 2:
            raise ValueError(f"16-bit weights are read in pairs: {self.weight.shape[1]} columns are odd")

    @property
    def words(self) -> Tensor:
        """The weight as int32: (V, words of a row), or panels as `kernels.quantize` packs them."""
        return self.weight.words if isinstance(self.weight, Quantized) else self.weight.view(torch.int32)

    @property
    def bits(self) -> int:
        """Of one number in a word."""
        return self.weight.format.bits if isinstance(self.weight, Quantized) else 8 * self.weight.itemsize

    @property
    def group(self) -> int:
        """Columns that share a scale; 0 where none do."""
        return self.weight.format.group if isinstance(self.weight, Quantized) else 0

    @property
    def dtype(self) -> torch.dtype:
        """Of the products: the weight's, or the norm's where it is packed."""
        return self.norm.dtype if isinstance(self.weight, Quantized) else self.weight.dtype


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
