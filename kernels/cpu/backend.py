"""The `cpu` backend: numba where few tokens are new and memory is the limit, torch where many are.

Fits tensors to the compiled stages and chooses between them and the library; computes nothing itself.
Between the stages of one layer queries and attended values stay fp32; the residual is in the model's dtype.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.api import AttentionShape, BackendUnavailable, HeadWeights, LayerCache, LayerWeights, Layout
from kernels.cpu.attention import attention, splits
from kernels.cpu.attention_input import attention_input
from kernels.cpu.attention_output import attention_output
from kernels.cpu.crew import Crew, cores, new_claim, worthwhile_crew
from kernels.cpu.gemv import matrix, spread, stored
from kernels.cpu.head import head_logits
from kernels.cpu.mlp import mlp
from kernels.cpu.target import LANES
from kernels.quantize import Matrix, Quantized
from kernels.reference import TorchBackend, TorchHead, TorchLayer

DTYPES = (torch.bfloat16, torch.float32)
MANY_TOKENS = 16  # with more new tokens than these, torch's matrix product is the faster
ALONE_BYTES = 256 * 1024  # a stage that reads less is done before a helper wakes


@dataclass(frozen=True, slots=True)
class CpuLayer:
    """A layer's matrices as `gemv.matrix`, without copies, and its vectors in fp32, empty where absent."""

    library: TorchLayer
    shape: AttentionShape
    eps: np.float32
    attention_norm: np.ndarray
    qkv: np.ndarray
    qkv_bias: np.ndarray
    q_norm: np.ndarray
    k_norm: np.ndarray
    output: np.ndarray
    output_bias: np.ndarray
    mlp_norm: np.ndarray
    gate_up: np.ndarray
    gate_up_bias: np.ndarray
    down: np.ndarray
    down_bias: np.ndarray


@dataclass(frozen=True, slots=True)
class CpuHead:
    """As `CpuLayer`."""

    library: TorchHead
    eps: np.float32
    norm: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, slots=True)
class _Places:
    """A `Layout` as the compiled stages take it. `first_page` (N,): where the token's row begins."""

    layout: Layout
    positions: np.ndarray
    slots: np.ndarray
    cos: np.ndarray
    sin: np.ndarray
    pages: np.ndarray
    first_page: np.ndarray


class CpuBackend:
    """See `kernels.api.Backend`. bf16 and fp32; `threads`: None to measure how many are worth it."""

    name = "cpu"

    def __init__(self, device: torch.device, *, threads: int | None = None) -> None:
        if device.type != "cpu":
            raise BackendUnavailable(f"backend cpu: runs on a CPU, not on {device}")
        self.device = device
        self._library = TorchBackend(device)
        self._measure = threads is None
        self._crew = Crew(threads or cores())
        self._places: _Places | None = None

    @property
    def threads(self) -> int:
        """How many threads read weights; torch's share of the work is best given as many."""
        return self._crew.threads

    def prepare_layer(self, weights: LayerWeights, shape: AttentionShape, norm_eps: float) -> CpuLayer:
        return CpuLayer(
            library=self._library.prepare_layer(weights, shape, norm_eps),
            shape=shape,
            eps=np.float32(norm_eps),
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

    def prepare_head(self, weights: HeadWeights, norm_eps: float) -> CpuHead:
        library = self._library.prepare_head(weights, norm_eps)
        head = CpuHead(library, np.float32(norm_eps), _vector(weights.norm), _matrix(weights.weight))
        if self._measure:
            x = torch.ones(1, len(head.norm), dtype=weights.norm.dtype)
            self._crew = worthwhile_crew(lambda crew: self._head_logits(x, head, crew))
            self._measure = False
        return head

    def attention_input(self, x: Tensor, layer: CpuLayer, cache: LayerCache, layout: Layout) -> Tensor:
        if len(x) > MANY_TOKENS:
            return self._library.attention_input(x, layer.library, cache, layout)
        places, shape = self._placed(layout), layer.shape
        q = torch.empty(len(x), shape.n_heads, shape.head_dim)
        self._crew.run(
            attention_input,
            new_claim(),
            stored(x.contiguous()),
            layer.attention_norm,
            layer.eps,
            layer.qkv,
            layer.qkv_bias,
            layer.q_norm,
            layer.k_norm,
            places.cos,
            places.sin,
            places.slots,
            q.numpy(),
            stored(cache.keys),
            stored(cache.values),
            alone=layer.qkv.nbytes < ALONE_BYTES,
        )
        return q

    def attention(self, q: Tensor, layer: CpuLayer, cache: LayerCache, layout: Layout) -> Tensor:
        if len(q) > MANY_TOKENS:
            return self._library.attention(q, layer.library, cache, layout)
        places, window = self._placed(layout), layer.shape.window or 0
        attended = torch.empty_like(q)
        chunks = sum(splits(int(position), window) for position in places.positions)
        halves = 2 if cache.keys.dtype is torch.bfloat16 else 1
        padded = -(-q.shape[2] // halves // LANES) * LANES
        self._crew.run(
            attention,
            new_claim(2),
            q.contiguous().numpy(),
            matrix(cache.keys.flatten(0, 1)),
            matrix(cache.values.flatten(0, 1)),
            layer.shape.n_kv_heads,
            places.pages,
            places.first_page,
            layout.page_size,
            places.positions,
            window,
            np.empty((chunks, q.shape[1], halves, padded + LANES), np.float32),
            attended.numpy(),
            alone=chunks <= 2,  # 40 µs, as long as a helper takes to wake
        )
        return attended

    def attention_output(self, x: Tensor, attended: Tensor, layer: CpuLayer) -> Tensor:
        if len(x) > MANY_TOKENS:
            return self._library.attention_output(x, attended, layer.library)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        self._crew.run(
            attention_output,
            new_claim(),
            stored(x.contiguous()),
            attended.flatten(1).numpy(),
            layer.output,
            layer.output_bias,
            stored(out),
            alone=layer.output.nbytes < ALONE_BYTES,
        )
        return out

    def mlp(self, x: Tensor, layer: CpuLayer) -> Tensor:
        if len(x) > MANY_TOKENS:
            return self._library.mlp(x, layer.library)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        self._crew.run(
            mlp,
            new_claim(2),
            stored(x.contiguous()),
            layer.mlp_norm,
            layer.eps,
            layer.gate_up,
            layer.gate_up_bias,
            layer.down,
            layer.down_bias,
            spread(layer.down, len(x)),
            stored(out),
            alone=layer.gate_up.nbytes < ALONE_BYTES,
        )
        return out

    def head_logits(self, x: Tensor, head: CpuHead) -> Tensor:
        if len(x) > MANY_TOKENS:
            return self._library.head_logits(x, head.library)
        return self._head_logits(x, head, self._crew)

    def _head_logits(self, x: Tensor, head: CpuHead, crew: Crew) -> Tensor:
        logits = torch.empty(len(x), len(head.weight))
        alone = head.weight.nbytes < ALONE_BYTES
        arguments = (stored(x.contiguous()), head.norm, head.eps, head.weight, logits.numpy())
        crew.run(head_logits, new_claim(), *arguments, alone=alone)
        return logits

    def _placed(self, layout: Layout) -> _Places:
        """The layout's arrays, made once per forward."""
        places = self._places
        if places is None or places.layout is not layout:
            counts = [row.stop - row.start for row in layout.rows]
            starts = np.cumsum([0, *(len(row.pages) for row in layout.rows[:-1])])
            places = _Places(
                layout,
                positions=layout.positions.numpy(),
                slots=layout.slots.numpy(),
                cos=layout.cos.contiguous().numpy(),
                sin=layout.sin.contiguous().numpy(),
                pages=np.concatenate([row.pages.numpy() for row in layout.rows]),
                first_page=np.repeat(starts, counts),
            )
            self._places = places
        return places


def _matrix(weight: Matrix) -> Any:
    if isinstance(weight, Quantized):
        raise BackendUnavailable("backend cpu: packed weights are not in this version")
    if weight.dtype not in DTYPES:
        kind = str(weight.dtype).removeprefix("torch.")
        raise BackendUnavailable(f"backend cpu: weights in {kind}; it takes bf16 and fp32")
    return matrix(weight)


def _vector(weight: Tensor | None) -> np.ndarray:
    return np.empty(0, np.float32) if weight is None else weight.detach().float().contiguous().numpy()
