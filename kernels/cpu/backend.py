"""The `cpu` backend: numba where few tokens are new and memory is the limit, torch where many are.

Hands tensors to the compiled stages and chooses between them and the library; computes nothing itself.
Between the stages of one layer queries and attended values stay fp32; the residual is in the model's dtype.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kernels.api import (
    AttentionShape,
    BackendUnavailable,
    HeadWeights,
    LayerCache,
    LayerWeights,
    Layout,
    stage_by_stage,
)
from kernels.cpu.attention import attention
from kernels.cpu.attention_input import attention_input
from kernels.cpu.attention_output import attention_output
from kernels.cpu.crew import Crew, cores, new_claim, worthwhile_crew
from kernels.cpu.forward import PHASES, forward
from kernels.cpu.gemv import stored
from kernels.cpu.head import head_logits
from kernels.cpu.mlp import mlp
from kernels.cpu.places import Places, Pools, pool
from kernels.cpu.target import LANES
from kernels.cpu.unpack import unpack
from kernels.cpu.weights import CpuHead, CpuLayer, Stack, bytes_of, rows_of
from kernels.quantize import Quantized
from kernels.reference import TorchBackend, TorchLayer

MANY_TOKENS = 16  # with more new tokens than these, torch's matrix product is the faster
ALONE_BYTES = 256 * 1024  # what reads less is done before a helper wakes


class CpuBackend:
    """See `kernels.api.Backend`. bf16, fp32 and packed weights; `threads`: None to measure how many pay."""

    name = "cpu"
    captures = False
    batch_invariant_tokens = (
        MANY_TOKENS  # as `gemv` and `attention` sum; torch's product depends on its shape
    )

    def __init__(self, device: torch.device, *, threads: int | None = None) -> None:
        if device.type != "cpu":
            raise BackendUnavailable(f"backend cpu: runs on a CPU, not on {device}")
        self.device = device
        self._library = TorchBackend(device)
        self._measure = threads is None
        self._crew = Crew(threads or cores())
        self._places: Places | None = None
        self._pools: Pools | None = None
        self._stack: Stack | None = None
        self._scratch = torch.empty(0)

    @property
    def threads(self) -> int:
        """How many threads read weights; torch's share of the work is best given as many."""
        return self._crew.threads

    def prepare_layer(self, weights: LayerWeights, shape: AttentionShape, norm_eps: float) -> CpuLayer:
        return CpuLayer.of(self._library.prepare_layer(weights, shape, norm_eps))

    def prepare_head(self, weights: HeadWeights, norm_eps: float) -> CpuHead:
        head = CpuHead.of(self._library.prepare_head(weights, norm_eps))
        if self._measure:
            x = torch.ones(1, len(head.norm), dtype=weights.norm.dtype)
            self._crew = worthwhile_crew(lambda crew: self._head_logits(x, head, crew))
            self._measure = False
        return head

    def layers(
        self, x: Tensor, layers: Sequence[CpuLayer], caches: Sequence[LayerCache], layout: Layout
    ) -> Tensor:
        stack = self._stacked(layers) if len(x) <= MANY_TOKENS else None
        if stack is None:
            return stage_by_stage(self, x, layers, caches, layout)
        first, places, pools = layers[0], self._placed(layout), self._pooled(caches)
        x = x.clone(memory_format=torch.contiguous_format)
        q = np.empty((len(x), first.shape.n_heads, first.shape.head_dim), np.float32)
        self._crew.run(
            forward,
            new_claim(PHASES * len(layers)),
            stored(x),
            first.arrays,
            stack.addresses,
            first.eps,
            places.cos,
            places.sin,
            places.slots,
            *pool(caches[0]),
            pools.addresses,
            places.pages,
            places.first_page,
            layout.page_size,
            places.positions,
            stack.windows,
            q,
            _partial(places.in_splits(stack.windows), first.shape, caches[0]),
            np.empty_like(q),
            np.empty((len(x), rows_of(first.arrays.gate_up) // 2), np.float32),
            alone=bytes_of(first.arrays.gate_up) < ALONE_BYTES,
        )
        return x

    def attention_input(self, x: Tensor, layer: CpuLayer, cache: LayerCache, layout: Layout) -> Tensor:
        if len(x) > MANY_TOKENS:
            return self._library.attention_input(x, self._in_full(layer, x.dtype, "qkv"), cache, layout)
        places, shape, arrays = self._placed(layout), layer.shape, layer.arrays
        q = torch.empty(len(x), shape.n_heads, shape.head_dim)
        self._crew.run(
            attention_input,
            new_claim(),
            stored(x.contiguous()),
            arrays.attention_norm,
            layer.eps,
            arrays.qkv,
            arrays.qkv_bias,
            arrays.q_norm,
            arrays.k_norm,
            places.cos,
            places.sin,
            places.slots,
            q.numpy(),
            stored(cache.keys),
            stored(cache.values),
            alone=bytes_of(arrays.qkv) < ALONE_BYTES,
        )
        return q

    def attention(self, q: Tensor, layer: CpuLayer, cache: LayerCache, layout: Layout) -> Tensor:
        if len(q) > MANY_TOKENS:
            return self._library.attention(q, layer.library, cache, layout)
        places, window = self._placed(layout), layer.shape.window or 0
        attended = torch.empty_like(q)
        chunks = places.in_splits(np.array([window]))
        self._crew.run(
            attention,
            new_claim(2),
            q.contiguous().numpy(),
            *pool(cache)[2:],
            layer.shape.n_kv_heads,
            places.pages,
            places.first_page,
            layout.page_size,
            places.positions,
            window,
            _partial(chunks, layer.shape, cache),
            attended.numpy(),
            alone=chunks <= 2,  # 40 µs, as long as a helper takes to wake
        )
        return attended

    def attention_output(self, x: Tensor, attended: Tensor, layer: CpuLayer) -> Tensor:
        if len(x) > MANY_TOKENS:
            full = self._in_full(layer, x.dtype, "output")
            return self._library.attention_output(x, attended, full)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        self._crew.run(
            attention_output,
            new_claim(),
            stored(x.contiguous()),
            attended.flatten(1).numpy(),
            layer.arrays.output,
            layer.arrays.output_bias,
            stored(out),
            alone=bytes_of(layer.arrays.output) < ALONE_BYTES,
        )
        return out

    def mlp(self, x: Tensor, layer: CpuLayer) -> Tensor:
        if len(x) > MANY_TOKENS:
            return self._library.mlp(x, self._in_full(layer, x.dtype, "gate_up", "down"))
        arrays = layer.arrays
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        self._crew.run(
            mlp,
            new_claim(2),
            stored(x.contiguous()),
            arrays.mlp_norm,
            layer.eps,
            arrays.gate_up,
            arrays.gate_up_bias,
            arrays.down,
            arrays.down_bias,
            np.empty((len(x), rows_of(arrays.gate_up) // 2), np.float32),
            stored(out),
            alone=bytes_of(arrays.gate_up) < ALONE_BYTES,
        )
        return out

    def head_logits(self, x: Tensor, head: CpuHead) -> Tensor:
        # A packed head is never widened: it alone would take a quarter of a model of 1B once more.
        if len(x) > MANY_TOKENS and isinstance(head.weight, np.ndarray):
            return self._library.head_logits(x, head.library)
        return self._head_logits(x, head, self._crew)

    def _head_logits(self, x: Tensor, head: CpuHead, crew: Crew) -> Tensor:
        logits = torch.empty(len(x), rows_of(head.weight))
        alone = bytes_of(head.weight) < ALONE_BYTES
        arguments = (stored(x.contiguous()), head.norm, head.eps, head.weight, logits.numpy())
        crew.run(head_logits, new_claim(), *arguments, alone=alone)
        return logits

    def _in_full(self, layer: CpuLayer, dtype: torch.dtype, *names: str) -> TorchLayer:
        """The library's layer with the matrices `names` not packed, until the next call."""
        weights = layer.library.weights
        wanted = {name: w for name in names if isinstance(w := getattr(weights, name), Quantized)}
        if not wanted:
            return layer.library
        # one buffer for all layers: fresh memory would cost more than writing to it
        size = sum(w.numel() for w in wanted.values())
        if self._scratch.numel() < size or self._scratch.dtype is not dtype:
            self._scratch = torch.empty(size, dtype=dtype)
        parts = self._scratch[:size].split([w.numel() for w in wanted.values()])
        full = {name: part.view(w.shape) for part, (name, w) in zip(parts, wanted.items(), strict=True)}
        for name, out in full.items():
            self._crew.run(unpack, new_claim(), getattr(layer.arrays, name), stored(out))
        return dataclasses.replace(layer.library, weights=dataclasses.replace(weights, **full))

    # What is made of a layout, a cache or a list of layers is kept until another one comes.

    def _placed(self, layout: Layout) -> Places:
        if self._places is None or self._places.layout is not layout:
            self._places = Places.of(layout)
        return self._places

    def _pooled(self, caches: Sequence[LayerCache]) -> Pools:
        if self._pools is None or not self._pools.is_of(caches):
            self._pools = Pools.of(caches)
        return self._pools

    def _stacked(self, layers: Sequence[CpuLayer]) -> Stack | None:
        if self._stack is None or not self._stack.is_of(layers):
            self._stack = Stack.of(layers)
        return self._stack


def _partial(chunks: int, shape: AttentionShape, cache: LayerCache) -> np.ndarray:
    """`attention`'s room for so many splits."""
    halves = 2 if cache.keys.dtype is torch.bfloat16 else 1
    padded = -(-shape.head_dim // halves // LANES) * LANES
    return np.empty((chunks, shape.n_heads, halves, padded + LANES), np.float32)
