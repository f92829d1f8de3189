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
# Weights worked on at a time: what is between stays in a CPU's caches, and a GPU has enough to do at once.
_CHUNK, _CHUNK_OF_DEVICE = 1 << 19, 1 << 24


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
    weights that are not a float matrix, or not finite.
    """
    if weight.dim() != 2 or not weight.is_floating_point():
        raise ValueError(f"a matrix of floats is quantised, not {list(weight.shape)} {weight.dtype}")
    rows, columns = weight.shape
    words_shape, scales_shape = format.shapes(rows, columns)
    words = torch.empty(words_shape, dtype=torch.int32, device=weight.device)
    scales = torch.empty(scales_shape, dtype=torch.bfloat16, device=weight.device)
    padded = scales_shape[1] * format.group
    panels = max(1, _chunk(weight.device) // (PANEL * padded))
    for first in range(0, words_shape[0], panels):
        some = weight[first * PANEL : (first + panels) * PANEL].float()
        missing = -len(some) % PANEL
        if missing or padded > columns:
            some = torch.nn.functional.pad(some, (0, padded - columns, 0, missing))
        grouped = some.unflatten(1, (-1, format.group))  # (rows, groups, group)
        scale = _scales_int8(grouped) if format.bits == 8 else _scales_int4(grouped)
        numbers = _nearest(grouped, scale.float().reciprocal().unsqueeze(-1), format)
        packed = _pack(numbers.flatten(1).to(torch.int8), format)
        words[first : first + panels] = packed.unflatten(0, (-1, PANEL)).transpose(1, 2)
        scales[first : first + panels] = scale.unflatten(0, (-1, PANEL)).transpose(1, 2)
    if not scales.isfinite().all():  # both ways to a scale carry an infinity or a NaN of its group along
        raise ValueError("weights that are not finite cannot be quantised")
    return Quantized(words, scales, (rows, columns), format)


def dequantize(packed: Quantized, dtype: torch.dtype = torch.float32) -> Tensor:
    """(M, C) scale · number, rounded once to `dtype`."""
    rows, columns = packed.shape
    out = torch.empty(rows, columns, dtype=dtype, device=packed.words.device)
    panels = max(1, _chunk(out.device) // (PANEL * columns))
    for first in range(0, len(packed.words), panels):
        words = packed.words[first : first + panels].transpose(1, 2).flatten(0, 1)
        scales = packed.scales[first : first + panels].transpose(1, 2).flatten(0, 1)
        part = out[first * PANEL : (first + panels) * PANEL]
        part.copy_(_scaled(words, scales, packed.format)[: len(part), :columns])
    return out


def _chunk(device: torch.device) -> int:
    return _CHUNK if device.type == "cpu" else _CHUNK_OF_DEVICE


def take_rows(packed: Quantized, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """The rows (N,) int64 of a packed matrix as (N, C): an embedding's lookup."""
    panel, within = rows // PANEL, rows % PANEL
    wide = _scaled(packed.words[panel, :, within], packed.scales[panel, :, within], packed.format)
    return wide[:, : packed.shape[1]].to(dtype)


def _scales_int8(grouped: Tensor) -> Tensor:
    """(…, group) -> (…) bf16."""
    return _safe(torch.maximum(grouped.amax(-1), -grouped.amin(-1)) / 127)


# Multiples of the scale that makes the largest magnitude -8. Of 0.55, 0.575 … 1.125 the six whose error is
# least on trained, normal and t-distributed weights; 36 of them are 0.2 % better (docs/LOG.md, 2026-11-22).
_STRETCHES = (0.825, 0.875, 0.925, 0.975, 1.025, 1.125)


def _scales_int4(grouped: Tensor) -> Tensor:
    """(…, group) -> (…) bf16: of least squared error over a few ways to round the group.

    For numbers n the best scale of weights w is w·n / n·n, and its squared error w·w - (w·n)² / n·n. After
    llama.cpp's make_qx_quants (ggml-quants.c), without its weighting of errors.
    """
    highest, lowest = grouped.amax(-1), grouped.amin(-1)
    plain = _safe(torch.where(highest > -lowest, highest, lowest) / -8).float()
    in_plain = grouped * plain.reciprocal().unsqueeze(-1)  # -8 to 8: no sum below can overflow
    best = gain = torch.zeros_like(plain)
    format = Format(4, grouped.shape[-1])
    for stretch in _STRETCHES:
        numbers = _nearest(in_plain, 1 / stretch, format)
        along = (numbers * in_plain).sum(-1)
        own = numbers.square_().sum(-1).clamp_min_(1)  # whole numbers: 0 only where all are
        this = along.square() / own
        best = torch.where(this > gain, along / own, best)
        gain = torch.maximum(this, gain)
    return _safe(best * plain)


def _safe(scale: Tensor) -> Tensor:
    """bf16, and 1 where a group is all zero or too small for a scale whose inverse is finite."""
    return torch.where(scale.abs() < 2.0**-120, 1.0, scale).to(torch.bfloat16)


def _nearest(values: Tensor, inverse: Tensor | float, format: Format) -> Tensor:
    """The numbers nearest to values · inverse, in fp32."""
    lowest, highest = (-127, 127) if format.bits == 8 else (-8, 7)
    return (values * inverse).round_().clamp_(lowest, highest)


# In every byte of a word: the lower half, and what turns -128 … 127 into 0 … 255.
_LOW, _FLIP = 0x0F0F0F0F, -0x7F7F7F80


def _pack(numbers: Tensor, format: Format) -> Tensor:
    """(rows, padded columns) int8 -> (rows, words) int32.

    Four bytes are viewed as a word, the first as its lowest: what this runs on is little-endian.
    """
    if format.bits == 8:
        return numbers.view(torch.int32) ^ _FLIP
    low, high = (numbers + 8).view(torch.int32).unflatten(1, (-1, 2)).unbind(-1)
    return low | (high << 4)


def _unpack(words: Tensor, format: Format) -> Tensor:
    """(rows, words) int32 -> (rows, padded columns) int8."""
    if format.bits == 8:
        return (words ^ _FLIP).view(torch.int8)
    halves = torch.stack((words & _LOW, (words >> 4) & _LOW), dim=-1)
    return halves.flatten(1).view(torch.int8) - 8


def _scaled(words: Tensor, scales: Tensor, format: Format) -> Tensor:
    """scale · number. words (rows, words) int32, scales (rows, groups) -> (rows, padded columns) fp32."""
    numbers = _unpack(words.contiguous(), format).float().unflatten(1, (-1, format.group))
    return (numbers * scales.float().unsqueeze(-1)).flatten(1)
