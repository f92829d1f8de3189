"""The head as its kernel reads it, and what a step's selection needs in between."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.api import HeadWeights
from kernels.gpu.filters import FilterScratch
from kernels.gpu.select import Partials
from kernels.gpu.selection import Kind, Selection
from kernels.gpu.tiles import Chip, Tile
from kernels.gpu.weights import GpuMatrix


@dataclass(frozen=True, slots=True)
class GpuHead:
    """`norm` (E,) of any float dtype, `matrix` (V, E), `norm_eps`."""

    norm: Tensor
    matrix: GpuMatrix
    norm_eps: float

    @classmethod
    def of(cls, weights: HeadWeights, norm_eps: float, chip: Chip) -> "GpuHead":
        """Raises `ValueError` for a matrix that the kernels do not take."""
        return cls(weights.norm, GpuMatrix.of(weights.weight, chip), norm_eps)


@dataclass(frozen=True, slots=True)
class HeadScratch:
    """For B rows: `logits` (B, V) fp32, `partials`, `filters` where the kind of selection has any.

    After a step `logits` are the model's own, before penalty and temperature.
    """

    logits: Tensor
    partials: Partials
    filters: FilterScratch | None

    @classmethod
    def make(cls, head: GpuHead, selection: Selection, tile: Tile | None = None) -> "HeadScratch":
        rows, vocabulary, device = len(selection), head.matrix.shape[0], head.norm.device
        tile = head.matrix.tile(rows) if tile is None else tile
        return cls(
            torch.empty(rows, vocabulary, dtype=torch.float32, device=device),
            Partials.make(rows, tile.programs, device),
            FilterScratch.make(rows, vocabulary, device) if selection.kind is Kind.FILTERED else None,
        )
