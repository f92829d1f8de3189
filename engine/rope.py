"""Rotary position embedding: the inverse frequencies of each rope type, and the angles of positions.

Types: default (arXiv 2104.09864), linear (position interpolation, 2306.15595), llama3 (Llama 3.1's
smoothed interpolation), yarn (2309.00071). Values follow transformers, which the tests compare with.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, slots=True)
class Rope:
    """One model's rotary embedding. `original_context`: the context before it was extended."""

    type: str = "default"
    theta: float = 10000.0
    factor: float = 1.0
    original_context: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


def inverse_frequencies(rope: Rope, head_dim: int) -> tuple[Tensor, float]:
    """((D/2,) fp32 inverse frequencies, factor that multiplies cos and sin)."""
    base = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if rope.type == "linear":
        return base / rope.factor, 1.0
    if rope.type == "llama3":
        return _llama3(rope, base), 1.0
    if rope.type == "yarn":
        return _yarn(rope, base, head_dim), _yarn_attention_factor(rope)
    return base, 1.0


def _llama3(rope: Rope, base: Tensor) -> Tensor:
    """Long wavelengths are interpolated, short ones kept, those between blended."""
    turns = rope.original_context * base / (2 * math.pi)  # full turns within the original context
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = blend.clamp(0, 1)
    return (1 - blend) * base / rope.factor + blend * base


def _yarn(rope: Rope, base: Tensor, head_dim: int) -> Tensor:
    """As `_llama3`, but the blend is linear in the dimension's index."""

    def index_of(turns: float) -> float:
        scale = math.log(rope.original_context / (turns * 2 * math.pi))
        return head_dim * scale / (2 * math.log(rope.theta))

    low, high = index_of(rope.beta_fast), index_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = max(high - low, 0.001)  # both bounds may fall on one index
    interpolated = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    return base / rope.factor * interpolated + base * (1 - interpolated)


def _yarn_attention_factor(rope: Rope) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor

    def magnitude(weight: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return magnitude(rope.mscale) / magnitude(rope.mscale_all_dim)
    return magnitude(1.0)


def angles(positions: Tensor, frequencies: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """(cos, sin), each (N, D/2) fp32, of positions (N,) and inverse frequencies (D/2,)."""
    turned = positions.float().unsqueeze(1) * frequencies
    return turned.cos() * factor, turned.sin() * factor
