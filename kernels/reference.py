"""The stages in plain torch: the oracle of every other backend's tests, and the portable backend.

Matrix products run in the weights' dtype; norms, rotary angles and softmax in fp32, as transformers
does them, so that a checkpoint gives the same tokens here and there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kernels.api import AttentionShape, HeadWeights, LayerCache, LayerWeights, Layout, RowSpan, stage_by_stage
from kernels.quantize import PANEL, Matrix, Quantized, dequantize

_AT_ONCE = 1 << 24  # weights of a packed matrix widened at a time: 32 MB in bf16


@dataclass(frozen=True, slots=True)
class TorchLayer:
    """What `prepare_layer` returns here: the weights as they are."""

    weights: LayerWeights
    shape: AttentionShape
    norm_eps: float


@dataclass(frozen=True, slots=True)
class TorchHead:
    """What `prepare_head` returns here."""

    weights: HeadWeights
    norm_eps: float


def linear(x: Tensor, weight: Matrix, bias: Tensor | None = None) -> Tensor:
    """W·x + b; a packed matrix is widened to x's dtype in parts.

    x (N, C), weight (M, C), bias (M,) -> (N, M).
    """
    if isinstance(weight, Tensor):
        return functional.linear(x, weight, bias)
    rows = max(_AT_ONCE // (weight.shape[1] * PANEL), 1) * PANEL
    parts = []
    for first in range(0, weight.shape[0], rows):
        some = slice(first, min(first + rows, weight.shape[0]))
        wide = dequantize(_panels(weight, some), x.dtype)
        parts.append(functional.linear(x, wide, None if bias is None else bias[some]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _panels(packed: Quantized, rows: slice) -> Quantized:
    """Some rows of a packed matrix, without a copy; they begin with a panel."""
    some = slice(rows.start // PANEL, -(-rows.stop // PANEL))
    shape = (rows.stop - rows.start, packed.shape[1])
    return Quantized(packed.words[some], packed.scales[some], shape, packed.format)


def rmsnorm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """gain · x / sqrt(mean(x²) + eps), the mean and the quotient in fp32. x (…, E), gain (E,)."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return gain * wide.to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding on halves: dimension i turns with dimension i + D/2.

    x (N, heads, D), cos and sin (N, D/2) -> (N, heads, D). The angles are rounded to x's dtype first, as
    transformers does; keeping them in fp32 would be finer but give other bf16 tokens than its own.
    """
    cos, sin = cos.to(x.dtype).unsqueeze(1), sin.to(x.dtype).unsqueeze(1)
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


class TorchBackend:
    """See `kernels.api.Backend` for what each stage computes."""

    name = "torch"
    captures = False
    batch_invariant_tokens = 0  # torch picks its products by their shape

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare_layer(self, weights: LayerWeights, shape: AttentionShape, norm_eps: float) -> TorchLayer:
        return TorchLayer(weights, shape, norm_eps)

    def prepare_head(self, weights: HeadWeights, norm_eps: float) -> TorchHead:
        return TorchHead(weights, norm_eps)

    def attention_input(self, x: Tensor, layer: TorchLayer, cache: LayerCache, layout: Layout) -> Tensor:
        weights, shape = layer.weights, layer.shape
        normed = rmsnorm(x, weights.attention_norm, layer.norm_eps)
        heads = linear(normed, weights.qkv, weights.qkv_bias).unflatten(-1, (-1, shape.head_dim))
        q, k, v = heads.split((shape.n_heads, shape.n_kv_heads, shape.n_kv_heads), dim=1)
        if weights.q_norm is not None and weights.k_norm is not None:
            q, k = rmsnorm(q, weights.q_norm, layer.norm_eps), rmsnorm(k, weights.k_norm, layer.norm_eps)
        cache.keys[layout.slots] = rotate(k, layout.cos, layout.sin)
        cache.values[layout.slots] = v
        return rotate(q, layout.cos, layout.sin)

    def attention(self, q: Tensor, layer: TorchLayer, cache: LayerCache, layout: Layout) -> Tensor:
        # Row by row, over exactly the row's own positions: what a row attends to, and in which order the
        # sums run, does not depend on its neighbours.
        return torch.cat([_attend(q, row, layer.shape, cache, layout.page_size) for row in layout.rows])

    def attention_output(self, x: Tensor, attended: Tensor, layer: TorchLayer) -> Tensor:
        return x + linear(attended.flatten(1), layer.weights.output, layer.weights.output_bias)

    def mlp(self, x: Tensor, layer: TorchLayer) -> Tensor:
        weights = layer.weights
        normed = rmsnorm(x, weights.mlp_norm, layer.norm_eps)
        gate, up = linear(normed, weights.gate_up, weights.gate_up_bias).chunk(2, dim=-1)
        return x + linear(functional.silu(gate) * up, weights.down, weights.down_bias)

    def layers(
        self, x: Tensor, layers: Sequence[TorchLayer], caches: Sequence[LayerCache], layout: Layout
    ) -> Tensor:
        return stage_by_stage(self, x, layers, caches, layout)

    def head_logits(self, x: Tensor, head: TorchHead) -> Tensor:
        return linear(rmsnorm(x, head.weights.norm, head.norm_eps), head.weights.weight).float()


def _attend(q: Tensor, row: RowSpan, shape: AttentionShape, cache: LayerCache, page_size: int) -> Tensor:
    """One row's queries (T, H, D) over its S cached positions -> (T, H, D)."""
    new = row.stop - row.start
    first = row.length - new  # position of the row's first query
    # With a window, nothing before the first query's window can be seen by any query of this row.
    oldest = 0 if shape.window is None else max(0, first - shape.window + 1)
    k = row_positions(cache.keys, row, oldest, page_size).transpose(0, 1).unsqueeze(0)  # (1, K, S, D)
    v = row_positions(cache.values, row, oldest, page_size).transpose(0, 1).unsqueeze(0)
    queries = q[row.start : row.stop].transpose(0, 1).unsqueeze(0)  # (1, H, T, D)
    causal = new > 1 and first == 0 and shape.window is None
    mask = None
    if new > 1 and not causal:
        mask = _visible(first, row.length, oldest, shape.window, q.device)
    attended = functional.scaled_dot_product_attention(
        queries,
        k,
        v,
        attn_mask=mask,
        is_causal=causal,
        scale=1 / math.sqrt(shape.head_dim),
        enable_gqa=shape.n_heads != shape.n_kv_heads,
    )
    return attended.squeeze(0).transpose(0, 1)


def row_positions(pool: Tensor, row: RowSpan, oldest: int, page_size: int) -> Tensor:
    """The row's cached positions `oldest:length` as (S, K, D); a view where its pages are consecutive."""
    if row.first_slot is not None:
        return pool[row.first_slot + oldest : row.first_slot + row.length]
    first_page = oldest // page_size
    pages = pool.unflatten(0, (-1, page_size)).index_select(0, row.pages[first_page:])
    start = first_page * page_size
    return pages.flatten(0, 1)[oldest - start : row.length - start]


def _visible(first: int, length: int, oldest: int, window: int | None, device: torch.device) -> Tensor:
    """Which of the positions oldest:length each query first:length sees: (T, S) bool."""
    query = torch.arange(first, length, device=device).unsqueeze(1)
    key = torch.arange(oldest, length, device=device).unsqueeze(0)
    seen = key <= query
    return seen if window is None else seen & (key > query - window)
