"""A model's weights as the compiled stages take them; nothing here is copied but vectors and odd matrices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.api import AttentionShape, BackendUnavailable
from kernels.cpu.forward import Layer, Matrix, addresses
from kernels.cpu.gemv import matrix
from kernels.cpu.packed import packed
from kernels.quantize import Matrix as Weight
from kernels.quantize import Quantized
from kernels.reference import TorchHead, TorchLayer

DTYPES = (torch.bfloat16, torch.float32)


@dataclass(frozen=True, slots=True)
class CpuLayer:
    """What the library takes, and what the compiled stages take of the same memory."""

    library: TorchLayer
    shape: AttentionShape
    eps: np.float32
    arrays: Layer

    @classmethod
    def of(cls, library: TorchLayer) -> "CpuLayer":
        """Raises `BackendUnavailable` for weights, or activations, in another dtype than bf16 and fp32."""
        weights = library.weights
        _require(weights.attention_norm.dtype)
        arrays = Layer(
            attention_norm=_vector(weights.attention_norm),
            qkv=_matrix(weights.qkv),
            qkv_bias=_vector(weights.qkv_bias),
            q_norm=_vector(weights.q_norm),
            k_norm=_vector(weights.k_norm),
            output=_matrix(weights.output),
            output_bias=_vector(weights.output_bias),
            mlp_norm=_vector(weights.mlp_norm),
            gate_up=_matrix(weights.gate_up),
            gate_up_bias=_vector(weights.gate_up_bias),
            down=_matrix(weights.down),
            down_bias=_vector(weights.down_bias),
        )
        return cls(library, library.shape, np.float32(library.norm_eps), arrays)


@dataclass(frozen=True, slots=True)
class CpuHead:
    """As `CpuLayer`."""

    library: TorchHead
    eps: np.float32
    norm: np.ndarray
    weight: Matrix

    @classmethod
    def of(cls, library: TorchHead) -> "CpuHead":
        weights = library.weights
        _require(weights.norm.dtype)
        return cls(library, np.float32(library.norm_eps), _vector(weights.norm), _matrix(weights.weight))


@dataclass(frozen=True, slots=True)
class Stack:
    """Consecutive layers as `forward` takes them: one of them, and where the arrays of each begin."""

    layers: tuple[CpuLayer, ...]
    addresses: np.ndarray
    windows: np.ndarray

    @classmethod
    def of(cls, layers: Sequence[CpuLayer]) -> "Stack | None":
        """None where layers differ in more than their window."""
        kinds = {(_kind(layer.arrays), _without_window(layer.shape), layer.eps) for layer in layers}
        if len(kinds) != 1:
            return None
        table = np.array([addresses(layer.arrays) for layer in layers], np.int64)
        windows = np.array([layer.shape.window or 0 for layer in layers], np.int64)
        return cls(tuple(layers), table, windows)

    def is_of(self, layers: Sequence[CpuLayer]) -> bool:
        """Whether it was made of these very layers."""
        return len(layers) == len(self.layers) and all(
            layer is held for layer, held in zip(layers, self.layers, strict=True)
        )


def rows_of(matrix: Matrix) -> int:
    """M of a matrix (M, C)."""
    return len(matrix) if isinstance(matrix, np.ndarray) else matrix.rows


def bytes_of(matrix: Matrix) -> int:
    """What reading it moves."""
    return matrix.nbytes if isinstance(matrix, np.ndarray) else matrix.words.nbytes + matrix.scales.nbytes


def _kind(layer: Layer) -> tuple[Any, ...]:
    return tuple(
        (part.shape, part.dtype.str) if isinstance(part, np.ndarray) else (type(part).__name__, part.rows)
        for field in layer
        for part in ((field,) if isinstance(field, np.ndarray) else (field, field.words, field.scales))
    )


def _without_window(shape: AttentionShape) -> tuple[int, int, int]:
    return shape.n_heads, shape.n_kv_heads, shape.head_dim


def _matrix(weight: Weight) -> Matrix:
    if isinstance(weight, Quantized):
        return packed(weight)
    _require(weight.dtype)
    return matrix(weight)


def _require(dtype: torch.dtype) -> None:
    """Norms have the dtype of the activations, also where the matrices are packed."""
    if dtype not in DTYPES:
        kind = str(dtype).removeprefix("torch.")
        raise BackendUnavailable(f"backend cpu: weights in {kind}; it takes bf16 and fp32")


def _vector(weight: Tensor | None) -> np.ndarray:
    return np.empty(0, np.float32) if weight is None else weight.detach().float().contiguous().numpy()
