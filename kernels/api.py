"""The contract between the engine and a backend: the stages of one layer, and what they take.

A forward is a list of fused stages. The same stages serve one token and many; each takes a frozen
`Layout` of the batch. A backend is a value that is passed in, never a module global.

Dims: N new tokens over all rows, B rows, H query heads, K key/value heads, D head-dim, E hidden size,
F feed-forward size, V vocabulary, P pages, L slots of a page pool (pages x page size).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kernels.quantize import Matrix

BACKENDS = ("gpu", "cpu", "torch")


class BackendUnavailable(RuntimeError):
    """This backend cannot run here; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Heads of one attention layer. `window`: a query sees that many latest positions, itself included."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer, projections that read the same input fused; its matrices are plain or packed.

    `attention_norm` (E,), `qkv` ((H + 2K)·D, E) rows in the order q, k, v, `qkv_bias` ((H + 2K)·D,),
    `q_norm`, `k_norm` (D,), `output` (E, H·D), `output_bias` (E,), `mlp_norm` (E,),
    `gate_up` (2F, E) rows gate then up, `gate_up_bias` (2F,), `down` (E, F), `down_bias` (E,).
    """

    attention_norm: Tensor
    qkv: Matrix
    output: Matrix
    mlp_norm: Tensor
    gate_up: Matrix
    down: Matrix
    qkv_bias: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    output_bias: Tensor | None = None
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """`norm` (E,), `weight` (V, E)."""

    norm: Tensor
    weight: Matrix


@dataclass(frozen=True, slots=True)
class RowSpan:
    """One row of a batch: its new tokens are `start:stop` of N, it has `length` tokens with them.

    `pages` are its pages in order; where they are consecutive, `first_slot` is the slot of its first
    token and a backend may read the row as one slice; otherwise it is None.
    """

    start: int
    stop: int
    length: int
    pages: Tensor  # (pages of the row,) int64
    first_slot: int | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the new tokens of a batch stand, frozen for one forward.

    `positions` (N,) int64; `slots` (N,) int64, the slot of the page pool that each token's key and value
    go to; `cos`, `sin` (N, D/2) fp32, the rotary angles of the positions, attention factor included.
    """

    rows: tuple[RowSpan, ...]
    positions: Tensor
    slots: Tensor
    cos: Tensor
    sin: Tensor
    page_size: int


@dataclass(frozen=True, slots=True, weakref_slot=True)
class LayerCache:
    """The page pool of one layer: `keys`, `values` (L, K, D) in the activations' dtype, written in place."""

    keys: Tensor
    values: Tensor


class Backend(Protocol):
    """Stages of the forward. `prepare_*` packs, quantises and tunes once; stages take what it returned.

    Stages return new tensors and mutate nothing but the cache, in `attention_input` and
    `layers`.
    """

    name: str
    device: torch.device
    captures: bool  # decode steps can be captured, by `kernels.gpu.decode_step`
    # A forward of up to so many new tokens gives every row bit for bit what it gets alone; 0: no promise.
    batch_invariant_tokens: int

    def prepare_layer(self, weights: LayerWeights, shape: AttentionShape, norm_eps: float) -> Any:
        """What the stages below take as `layer`."""

    def prepare_head(self, weights: HeadWeights, norm_eps: float) -> Any:
        """What `head_logits` takes as `head`."""

    def attention_input(self, x: Tensor, layer: Any, cache: LayerCache, layout: Layout) -> Tensor:
        """q = rope(norm?(W_q·rmsnorm(x) + b_q)); keys and values likewise, written to the cache's slots.

        x (N, E) -> q (N, H, D). Mutates `cache`.
        """

    def attention(self, q: Tensor, layer: Any, cache: LayerCache, layout: Layout) -> Tensor:
        """softmax(q·kᵀ/√D)·v over each row's own positions, causal, within the window.

        q (N, H, D) -> (N, H, D).
        """

    def attention_output(self, x: Tensor, attended: Tensor, layer: Any) -> Tensor:
        """x + W_o·attended + b_o. x (N, E), attended (N, H, D) -> (N, E)."""

    def mlp(self, x: Tensor, layer: Any) -> Tensor:
        """x + W_down·(silu(W_gate·rmsnorm(x)) · W_up·rmsnorm(x)). x (N, E) -> (N, E)."""

    def layers(
        self, x: Tensor, layers: Sequence[Any], caches: Sequence[LayerCache], layout: Layout
    ) -> Tensor:
        """All stages of consecutive layers: `stage_by_stage`, or whatever computes the same faster.

        x (N, E) -> (N, E). Mutates `caches`.
        """

    def head_logits(self, x: Tensor, head: Any) -> Tensor:
        """W_head·rmsnorm(x). x (B, E) -> (B, V) fp32."""


def compilations(backend: Backend, report: Callable[[int], None]) -> AbstractContextManager[None]:
    """In here `report` hears of every function that `backend` compiles: how many are done, 0 at the start.

    What was compiled before, and kept, it does not hear of.
    """
    if backend.name == "cpu":
        from kernels.cpu.compiling import compilations

        return compilations(report)
    return nullcontext()


def stage_by_stage(
    backend: Backend, x: Tensor, layers: Sequence[Any], caches: Sequence[LayerCache], layout: Layout
) -> Tensor:
    """`Backend.layers` as a loop over the stages."""
    for layer, cache in zip(layers, caches, strict=True):
        q = backend.attention_input(x, layer, cache, layout)
        attended = backend.attention(q, layer, cache, layout)
        x = backend.attention_output(x, attended, layer)
        x = backend.mlp(x, layer)
    return x


def load(name: str, device: torch.device) -> Backend:
    """The backend `name` on `device`; only that backend is imported.

    Raises `ValueError` for an unknown name and `BackendUnavailable` where it cannot run.
    """
    if name == "torch":
        from kernels.reference import TorchBackend

        return TorchBackend(device)
    if name == "gpu":
        try:
            from kernels.gpu.backend import GpuBackend
        except ModuleNotFoundError as error:  # Triton is published for Linux only
            raise BackendUnavailable(f"backend gpu: {error.name} is not installed") from error
        return GpuBackend(device)
    if name == "cpu":
        from kernels.cpu.backend import CpuBackend

        return CpuBackend(device)
    raise ValueError(f"unknown backend {name!r}; known: {', '.join(BACKENDS)}")
