"""Bytes and floating-point operations of one forward, stage by stage: pure arithmetic, the roofline's x-axis.

Counted: every weight read once, every cached key and value read once per row, new keys and values written
once; two operations per multiply-add. Left out: activations (they stay in caches at these sizes), norms,
rotary angles and softmax, below one per cent of either count for the models this engine runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dims:
    """The sizes that set a decoder's cost.

    Bytes of one element: `weight_bytes` in the matrices of the layers, `head_bytes` in the head's, each with
    its part of a scale where they are packed, `cache_bytes` of a key or value.
    """

    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    weight_bytes: float
    head_bytes: float
    cache_bytes: float
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes moved and floating-point operations done."""

    bytes: float = 0.0
    flops: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes + other.bytes, self.flops + other.flops)

    def times(self, factor: float) -> "Cost":
        return Cost(self.bytes * factor, self.flops * factor)


@dataclass(frozen=True, slots=True)
class RowWork:
    """One row in a forward: `new` tokens are computed, after which it holds `length` tokens."""

    new: int
    length: int


def _matrix(rows: int, columns: int, tokens: int, element_bytes: float) -> Cost:
    return Cost(rows * columns * element_bytes, 2.0 * rows * columns * tokens)


def attention_input(dims: Dims, rows: Sequence[RowWork]) -> Cost:
    """RMSNorm, QKV and the write of the new keys and values."""
    tokens = sum(row.new for row in rows)
    width = (dims.n_heads + 2 * dims.n_kv_heads) * dims.head_dim
    written = Cost(2 * tokens * dims.n_kv_heads * dims.head_dim * dims.cache_bytes)
    return _matrix(width, dims.hidden_size, tokens, dims.weight_bytes) + written


def attention(dims: Dims, rows: Sequence[RowWork]) -> Cost:
    """Scores and weighted sum; a query at position p reads p + 1 positions, or the window."""
    total = Cost()
    for row in rows:
        first = row.length - row.new
        read = row.length if dims.window is None else min(row.length, dims.window + row.new - 1)
        if dims.window is None:
            pairs = row.new * first + row.new * (row.new + 1) / 2
        else:
            pairs = float(sum(min(p + 1, dims.window) for p in range(first, row.length)))
        total += Cost(
            2 * read * dims.n_kv_heads * dims.head_dim * dims.cache_bytes,
            4.0 * pairs * dims.n_heads * dims.head_dim,
        )
    return total


def attention_output(dims: Dims, rows: Sequence[RowWork]) -> Cost:
    """The output projection."""
    tokens = sum(row.new for row in rows)
    return _matrix(dims.hidden_size, dims.n_heads * dims.head_dim, tokens, dims.weight_bytes)


def mlp(dims: Dims, rows: Sequence[RowWork]) -> Cost:
    """Gate, up and down."""
    tokens = sum(row.new for row in rows)
    return _matrix(3 * dims.intermediate_size, dims.hidden_size, tokens, dims.weight_bytes)


def head_logits(dims: Dims, rows: Sequence[RowWork]) -> Cost:
    """The LM head, for the last token of each row only."""
    return _matrix(dims.vocab_size, dims.hidden_size, len(rows), dims.head_bytes)


def forward(dims: Dims, rows: Sequence[RowWork]) -> Cost:
    """All layers and the head. Decode of one row: `forward(dims, [RowWork(1, length)])`."""
    layer = (
        attention_input(dims, rows) + attention(dims, rows) + attention_output(dims, rows) + mlp(dims, rows)
    )
    return layer.times(dims.n_layers) + head_logits(dims, rows)
