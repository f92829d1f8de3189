"""A model of a config's shapes on torch's meta device: dtypes, strides and alignment, and no memory.

What a launch is compiled for depends on nothing else, so that the launches of an 8B are known at once.
"""

import torch
from torch import Tensor

from engine import tensors
from engine.cache import new_pool
from engine.config import ModelConfig
from engine.model import PAGE_SIZE
from engine.schemes import Scheme
from engine.tensors import Projection
from kernels.api import HeadWeights, LayerWeights
from kernels.gpu.backend import GpuBackend
from kernels.gpu.decode_step import Parts
from kernels.gpu.tiles import Chip
from kernels.quantize import Matrix, Quantized

META = torch.device("meta")


def meta_parts(
    config: ModelConfig, dtype: torch.dtype, scheme: Scheme | None, chip: Chip, *, pages: int
) -> Parts:
    """The model as a decode step takes it, for a device like `chip`, with a pool of `pages`."""
    backend = GpuBackend(META, chip=chip)
    embedding = _matrix(tensors.embedding(config), dtype, scheme)
    head = embedding if config.tied_head else _matrix(tensors.head(config), dtype, scheme)
    layers = [
        backend.prepare_layer(
            _layer(config, index, dtype, scheme), config.attention_shape(index), config.norm_eps
        )
        for index in range(config.n_layers)
    ]
    norm = _empty(tensors.head_norm(config)[1], dtype=dtype)
    slots = (pages * PAGE_SIZE, config.n_kv_heads, config.head_dim)
    angles = _empty(config.max_context, config.head_dim // 2, dtype=torch.float32)
    return Parts(
        backend,
        embedding,
        layers,
        backend.prepare_head(HeadWeights(norm, head), config.norm_eps),
        new_pool(config.n_layers, slots, dtype, META),
        angles,
        angles,
        PAGE_SIZE,
    )


def _layer(config: ModelConfig, index: int, dtype: torch.dtype, scheme: Scheme | None) -> LayerWeights:
    projections = tensors.layer_matrices(config, index)
    fields: dict[str, Matrix] = {name: _matrix(one, dtype, scheme) for name, one in projections.items()}
    for name, one in projections.items():
        if one.biased:
            fields[f"{name}_bias"] = _empty(one.shape[0], dtype=dtype)
    for name, (_, size) in tensors.layer_norms(config, index).items():
        fields[name] = _empty(size, dtype=dtype)
    return LayerWeights(**fields)  # type: ignore[arg-type]


def _matrix(projection: Projection, dtype: torch.dtype, scheme: Scheme | None) -> Matrix:
    if scheme is None:
        return _empty(*projection.shape, dtype=dtype)
    format = projection.format(scheme)
    words, scales = format.shapes(*projection.shape)
    return Quantized(
        _empty(*words, dtype=torch.int32), _empty(*scales, dtype=torch.bfloat16), projection.shape, format
    )


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=META)
