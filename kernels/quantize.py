"""Weight-only int8 and int4: how a matrix is packed, defined once for every backend, to the bit.

A weight is scale · number. A matrix (M, C) is cut into panels of 16 rows, and each row into 32-bit words of
consecutive columns and groups of `group` columns that share a scale. M is padded to whole panels, C to
whole groups; padding holds the number 0.

    words  [panel, word, row in panel]   int32, read as unsigned
      int8   column 4·word + i     in bits 8i … 8i+7   (i = 0 … 3), as number + 128, number -127 … 127
      int4   column 8·word + i     in bits 8i … 8i+3   (i = 0 … 3), as number + 8,   number -8 … 7
             column 8·word + 4 + i in bits 8i+4 … 8i+7
    scales [panel, group, row in panel]  bf16; may be negative

So one word of 16 rows is one 64-byte line: lanes of a CPU's vectors are rows and need no sum across them,
bytes are what a byte dot product takes, the scales of a line's rows lie side by side, and a thread of a GPU
reads four rows in 128 bits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PANEL = 16  # rows
GROUPS = (32, 64, 128, 256)  # columns that share a scale
_CHUNK = 1 << 20  # weights worked on at a time, so that what is between stays in the nearer caches


@dataclass(frozen=True, slots=True)
class Format:
    """`bits` 8 or 4 per number, `group` columns per scale. Raises `ValueError` for others."""

    bits: int
    group: int

    def __post_init__(self) -> None:
        if self.bits not in (8, 4):
            raise ValueError(f"weights of {self.bits} bits are not supported; 8 and 4 are")
        if self.group not in GROUPS:
            known = ", ".join(str(size) for size in GROUPS)
            raise ValueError(f"groups of {self.group} columns are not supported; {known} are")

    @property
    def per_word(self) -> int:
        """Columns in one word."""
        return 32 // self.bits

    @property
    def zero(self) -> int:
        """What is stored for the number 0."""
        return 1 << (self.bits - 1)

    @property
    def weight_bytes(self) -> float:
        """Bytes of one weight, its part of a scale included."""
        return self.bits / 8 + 2 / self.group

    def shapes(self, rows: int, columns: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """The shapes of `words` and `scales` of a (rows, columns) matrix."""
        panels, groups = -(-rows // PANEL), -(-columns // self.group)
        return (panels, groups * self.group // self.per_word, PANEL), (panels, groups, PANEL)


@dataclass(frozen=True, slots=True)
class Quantized:
    """A matrix of `shape` (M, C): `words` int32 and `scales` bf16, packed as this module says."""

    words: Tensor
    scales: Tensor
    shape: tuple[int, int]
    format: Format

    def __post_init__(self) -> None:
        words, scales = self.format.shapes(*self.shape)
        if (tuple(self.words.shape), self.words.dtype) != (words, torch.int32):
            raise ValueError(
                f"words are {list(self.words.shape)} {self.words.dtype}, not {list(words)} int32"
            )
        if (tuple(self.scales.shape), self.scales.dtype) != (scales, torch.bfloat16):
            raise ValueError(
                f"scales are {list(self.scales.shape)} {self.scales.dtype}, not {list(scales)} bfloat16"
            )

    def numel(self) -> int:
        """Weights, padding left out."""
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        return self.words.nbytes + self.scales.nbytes


Matrix = Tensor | Quantized


def quantize(weight: Tensor, format: Format) -> Quantized:
    """The nearest packed matrix to `weight` (M, C), any float dtype; on its device.

    int8: the largest magnitude of a group becomes 127. int4: `_scales_int4`. Raises `ValueError` for
    weights that are not finite.
    """
    rows, columns = weight.shape
    words_shape, scales_shape = format.shapes(rows, columns)
    words = torch.empty(words_shape, dtype=torch.int32, device=weight.device)
    scales = torch.empty(scales_shape, dtype=torch.bfloat16, device=weight.device)
    padded = scales_shape[1] * format.group
    panels = max(1, _CHUNK // (PANEL * padded))
    for first in range(0, words_shape[0], panels):
        some = weight[first * PANEL : (first + panels) * PANEL].float()
        if not some.isfinite().all():
            raise ValueError("weights that are not finite cannot be quantised")
        missing = -len(some) % PANEL
        some = torch.nn.functional.pad(some, (0, padded - columns, 0, missing))
        grouped = some.unflatten(1, (-1, format.group))  # (rows, groups, group)
        scale = _scales_int8(grouped) if format.bits == 8 else _scales_int4(grouped)
        numbers = _numbers(grouped, scale.float(), format).flatten(1).to(torch.int32) + format.zero
        words[first : first + panels] = _pack(numbers, format)
        scales[first : first + panels] = scale.unflatten(0, (-1, PANEL)).transpose(1, 2)
    return Quantized(words, scales, (rows, columns), format)


def dequantize(packed: Quantized, dtype: torch.dtype = torch.float32) -> Tensor:
    """(M, C) scale · number, rounded once to `dtype`."""
    rows, columns = packed.shape
    out = torch.empty(rows, columns, dtype=dtype, device=packed.words.device)
    panels = max(1, _CHUNK // (PANEL * columns))
    for first in range(0, len(packed.words), panels):
        some = _unpack(packed.words[first : first + panels].transpose(1, 2), packed.format)
        scales = packed.scales[first : first + panels].transpose(1, 2).float()
        wide = (some.unflatten(-1, (-1, packed.format.group)) * scales.unsqueeze(-1)).flatten(2).flatten(0, 1)
        part = out[first * PANEL : (first + panels) * PANEL]
        part.copy_(wide[: len(part), :columns])
    return out


def take_rows(packed: Quantized, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """The rows (N,) int64 of a packed matrix as (N, C): an embedding's lookup."""
    panel, within = rows // PANEL, rows % PANEL
    numbers = _unpack(packed.words[panel, :, within], packed.format)
    scales = packed.scales[panel, :, within].float()
    wide = (numbers.unflatten(-1, (-1, packed.format.group)) * scales.unsqueeze(-1)).flatten(1)
    return wide[:, : packed.shape[1]].to(dtype)


def _scales_int8(grouped: Tensor) -> Tensor:
    """(…, group) -> (…) bf16."""
    return _safe(grouped.abs().amax(-1) / 127)


# Of the plain scale that maps the largest magnitude to -8.
_STRETCHES = (0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1)


def _scales_int4(grouped: Tensor) -> Tensor:
    """The scale of least squared error among a few: clipping the largest weight often pays."""
    largest = grouped.gather(-1, grouped.abs().argmax(-1, keepdim=True)).squeeze(-1)
    plain = largest / -8
    best = _safe(plain)
    least = torch.full_like(plain, torch.inf)
    format = Format(4, grouped.shape[-1])
    for stretch in _STRETCHES:
        scale = _safe(plain * stretch)
        wide = scale.float()
        error = (_numbers(grouped, wide, format) * wide.unsqueeze(-1) - grouped).square().sum(-1)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


def _safe(scale: Tensor) -> Tensor:
    """bf16, and 1 where a group is all zero or too small for a scale whose inverse is finite."""
    return torch.where(scale.abs() < 2.0**-120, torch.ones_like(scale), scale).to(torch.bfloat16)


def _numbers(grouped: Tensor, scale: Tensor, format: Format) -> Tensor:
    """The whole numbers nearest to grouped / scale, fp32. grouped (…, group), scale (…) fp32."""
    lowest = -127 if format.bits == 8 else -8
    return (grouped / scale.unsqueeze(-1)).round_().clamp_(lowest, 127 if format.bits == 8 else 7)


def _shifts(format: Format, device: torch.device) -> Tensor:
    """Where the columns of a word begin: (per_word,) int32."""
    if format.bits == 8:
        return torch.arange(0, 32, 8, dtype=torch.int32, device=device)
    low = torch.arange(0, 32, 8, dtype=torch.int32, device=device)
    return torch.cat((low, low + 4))


def _pack(stored: Tensor, format: Format) -> Tensor:
    """(rows, padded columns) int32, as stored -> (panels, words, PANEL) int32."""
    by_word = stored.unflatten(1, (-1, format.per_word))
    shifted = by_word << _shifts(format, stored.device)
    # disjoint bits: the sum is their union, and int32 wraps as it should
    words = shifted.sum(-1, dtype=torch.int32)
    return words.unflatten(0, (-1, PANEL)).transpose(1, 2)


def _unpack(words: Tensor, format: Format) -> Tensor:
    """(…, words) int32 -> (…, padded columns) numbers in fp32."""
    mask = (1 << format.bits) - 1
    stored = (words.unsqueeze(-1) >> _shifts(format, words.device)) & mask
    return (stored - format.zero).flatten(-2).float()
