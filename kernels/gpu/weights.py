"""A model's weights as the decode kernels take them. Nothing is repacked: words of matrices are views."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.api import AttentionShape
from kernels.gpu.tiles import MOST_ROWS, Chip, Tile, form_of, tile_for, tiles_of
from kernels.quantize import Matrix, Quantized
from kernels.reference import TorchLayer

_ALIGNMENT = 16  # bytes of a load


@dataclass(frozen=True, slots=True)
class GpuMatrix:
    """A matrix of `shape` (M, C): `words` int32, each two 16-bit numbers or packed ones, or fp32.

    `scales` bf16 and `group` as in `kernels.quantize`; of a plain matrix the words again, and 0. `half`: how
    far the rows of a pair lie apart (`kernels.gpu.gemv`), None where they do not pair. `tiles`: how it is
    cut, by number of vectors from 1 to 16.
    """

    words: Tensor
    scales: Tensor
    shape: tuple[int, int]
    form: str
    group: int
    half: int | None
    tiles: tuple[Tile, ...]

    @classmethod
    def of(cls, weight: Matrix, chip: Chip, half: int | None = None, *, norms: bool = False) -> "GpuMatrix":
        """Raises `ValueError` for another dtype, and for columns or halves that cannot be read in words."""
        form, (rows, columns) = form_of(weight), weight.shape
        if columns % 2:
            raise ValueError(
                f"a matrix of {columns} columns: numbers are read in pairs, columns must be even"
            )
        counts = range(1, MOST_ROWS + 1)
        tiles = tuple(tile_for(rows, columns, form, n, chip, half=half, norms=norms) for n in counts)
        if isinstance(weight, Quantized):
            return cls(weight.words, weight.scales, (rows, columns), form, weight.format.group, half, tiles)
        aligned = weight.contiguous() if weight.data_ptr() % _ALIGNMENT == 0 else weight.clone()
        words = aligned if form == "fp32" else aligned.view(torch.int32)
        return cls(words, words, (rows, columns), form, 0, half, tiles)

    def tile(self, batch: int) -> Tile:
        """For so many vectors."""
        return self.tiles[batch - 1]

    @property
    def operand(self) -> torch.dtype:
        """What vectors are kept in. fp16 would not hold what no norm has divided yet."""
        return torch.bfloat16 if self.form in ("bf16", "int8", "int4") else torch.float32

    def constants(self, tile: Tile, batch: int) -> dict[str, Any]:
        """What the kernels of `kernels.gpu.gemv` are compiled for."""
        half = tile.rows // 2 if self.half is None else self.half
        pairs = tiles_of(self.shape[0], tile.rows, self.half) * (tile.rows // 2)
        return {
            "PAIRS": pairs,
            "M": self.shape[0],
            "C": self.shape[1],
            "HALF": half,
            "FORM": self.form,
            "GROUP": self.group,
            "ROWS": tile.rows,
            "K": tile.chunks,
            "WARPS": tile.warps,
            "BATCH": 1 << (batch - 1).bit_length(),
        }


@dataclass(frozen=True, slots=True)
class GpuLayer:
    """What `prepare_layer` returns: the library's layer, and its matrices as the decode kernels take them."""

    library: TorchLayer
    qkv: GpuMatrix
    output: GpuMatrix
    gate_up: GpuMatrix
    down: GpuMatrix

    @classmethod
    def of(cls, library: TorchLayer, chip: Chip) -> "GpuLayer":
        """Raises `ValueError` for matrices that the kernels do not take."""
        weights, shape = library.weights, library.shape
        if shape.head_dim % 2:
            raise ValueError(f"a head of {shape.head_dim} dimensions cannot be turned in pairs")
        return cls(
            library,
            GpuMatrix.of(weights.qkv, chip, shape.head_dim // 2, norms=weights.q_norm is not None),
            GpuMatrix.of(weights.output, chip),
            GpuMatrix.of(weights.gate_up, chip, weights.gate_up.shape[0] // 2),
            GpuMatrix.of(weights.down, chip),
        )

    @property
    def shape(self) -> AttentionShape:
        return self.library.shape

    @property
    def hidden_size(self) -> int:
        return self.output.shape[0]
